"""Link each page's first use of a term to docs/glossary.md. The source pages stay as they are; the site has the links.

A term is a heading of the third level in the glossary. The comment below it lists the phrases that are linked:
`<!-- linked: effective sample size, effective size -->`; without the comment, the heading itself is.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from contents import ROOT

GLOSSARY = "docs/glossary"
_ENTRY = re.compile(r"^### (.+)\n(?:\n?<!-- linked: ?(.*?) ?-->\n)?", re.M)
_SKIPPED = re.compile(
    r"^[ \t]*(?:```|~~~).*?^[ \t]*(?:```|~~~)$|^(?: {4}|\t).*?$|^#.*?$|^\|(?=[ -:|]*$).*?$|<!--.*?-->|`[^`\n]+`"
    r"|!?\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|<[^>\n]+>",
    re.S | re.M,
)
"""Code (also inside a list), headings, comments, links and tags: nothing in them becomes a link."""


@dataclass(frozen=True)
class Term:
    """A term of the glossary: the anchor of its heading, and the phrases that link to it."""

    name: str
    anchor: str
    phrases: tuple[str, ...]

    def find(self, text: str, start: int = 0) -> re.Match[str] | None:
        """Return the first of the phrases in `text`, as a whole word in any case; "PGD-7" is a use of "PGD"."""
        choices = "|".join(r"\s".join(map(re.escape, phrase.split())) for phrase in self.phrases)
        return re.compile(rf"(?<![\w-])(?:{choices})(?!\w|-(?!\d))", re.I).search(text, start) if self.phrases else None


def terms() -> list[Term]:
    """Return the glossary's terms, in its order; those with an empty list of phrases are linked by hand alone."""
    return list(_read((ROOT / f"{GLOSSARY}.md").read_text()))


def _read(text: str) -> Iterator[Term]:
    for entry in _ENTRY.finditer(text):
        phrases = entry[1] if entry[2] is None else entry[2]
        anchor = re.sub(r"[^\w\- ]", "", entry[1].strip().lower()).replace(" ", "-")
        yield Term(entry[1], anchor, tuple(phrase.strip() for phrase in phrases.split(",") if phrase.strip()))


def link(text: str, page: str, entries: list[Term]) -> str:
    """Return the page's text, with the first use of each term linked to the glossary; links by hand count."""
    if page == GLOSSARY:
        return text
    target = os.path.relpath(f"{GLOSSARY}.md", PurePosixPath(page).parent.as_posix())
    for entry in sorted(entries, key=lambda entry: -max(map(len, entry.phrases), default=0)):
        address = f"{target}#{entry.anchor}"
        match = None if f"]({address})" in text else _first_use(entry, text)
        if match:
            text = f"{text[: match.start()]}[{match[0]}]({address}){text[match.end() :]}"
    return text


def _first_use(entry: Term, text: str) -> re.Match[str] | None:
    """Return the first use outside of what is skipped."""
    skipped = [part.span() for part in _SKIPPED.finditer(text)]
    match = entry.find(text)
    while match:
        inside = [end for start, end in skipped if start < match.end() and match.start() < end]
        if not inside:
            return match
        match = entry.find(text, max(match.end(), *inside))
    return None
