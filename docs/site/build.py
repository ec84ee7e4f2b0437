"""Build the site: python docs/site/build.py [FOLDER].

Pages are copied, with the first use of each term linked to the glossary. API pages are made from docstrings. A dead
link, a missing picture or anchor, or anything that would be loaded from another host ends the build.
"""

import posixpath
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

from contents import API, FIRST, LANDING, NAV, NOTEBOOKS, ROOT, found_pages, pages
from docstrings import example, known_names, page
from gallery import render_notebook
from glossary import link, terms

LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
SHOWN = re.compile(r"\b(?:src|srcset)=\"([^\"]+)\"")
POINTS = re.compile(r"<[a-z]+\b[^>]*?\b(?:src|srcset|href)=\"([^\"#?:]+)[#?\"]")
FETCHED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
IMPORTED = re.compile(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//[^)\s]*")
TO_API = ("<!-- api -->", ", [API](api/advcore.md)")
"""A place in the landing page, and the link to put there: the API pages exist on the site alone."""
WIDE = "---\nhide-toc: true\n---\n\n"
"""The first page has no contents beside it."""


def tocs(nav: dict[str, dict[str, str]]) -> str:
    """What makes the sidebar, hidden on the page itself."""
    parts = []
    for caption, listed in nav.items():
        lines = [f"{title} <{page}>" for page, title in listed.items()]
        parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *lines, "```"]))
    return "\n\n".join(parts)


def stage(folder: Path) -> None:
    """Write the first page, all other pages, the files that they show or link to, and the API pages into `folder`."""
    api = {"api/advcore": "advcore"} | {f"api/{name}": title for name, title in API.items()}
    nav = NAV | found_pages() | {"Gallery": NAV["Gallery"] | NOTEBOOKS} | {"API": api}
    landing = moved(staged_text(LANDING), LANDING).replace(*TO_API)
    _put(folder / "index.md", f"{WIDE}{landing}\n\n{tocs(nav)}\n")
    for name in pages():
        if name != LANDING:
            _put(folder / f"{name}.md", staged_text(name))
        for target in _files_linked(ROOT / f"{name}.md"):
            _put(folder / target.relative_to(ROOT), target)
    for name in NOTEBOOKS:
        text, pictures = render_notebook(ROOT / f"{name}.ipynb")
        _put(folder / f"{name}.md", text)
        for file, content in pictures.items():
            (folder / name).with_name(file).write_bytes(content)
    known = known_names(API)
    for name, title in API.items():
        _put(folder / f"api/{name}.md", page(title, name, known))
    _put(folder / "api/advcore.md", top(known))


def staged_text(name: str) -> str:
    """Return a page's text as the site has it: terms linked, and links to the landing page to the site's first."""
    text = link((ROOT / f"{name}.md").read_text(), name, terms())
    first = posixpath.relpath("index.md", posixpath.dirname(name) or ".")
    landing = posixpath.relpath(f"{LANDING}.md", posixpath.dirname(name) or ".")
    text = re.sub(r"(\]\(\S+)\.ipynb\)", r"\1.md)", text)  # the site has a page of each notebook
    return text.replace(f"]({landing})", f"]({first})")


def moved(text: str, name: str) -> str:
    """Return a page's text with its links as they are from the site's root."""
    folder = posixpath.dirname(name)

    def replace(match: re.Match[str]) -> str:
        return match[0].replace(match[1], _from_root(match[1], folder), 1)

    return SHOWN.sub(replace, LINK.sub(replace, text))


def _from_root(target: str, folder: str) -> str:
    return target if "://" in target else posixpath.normpath(posixpath.join(folder, target))


def top(known: dict[str, str]) -> str:
    """The page of the names that `import advcore` gives, with an example of each kind of call."""
    import advcore

    names = [name for name in advcore.__all__ if not name.startswith("__")]
    firsts = {name: (getattr(advcore, name).__doc__ or "").strip().splitlines()[0] for name in names}
    listed = "\n".join(f"- {{py:obj}}`{name} <{known[name]}>`: {firsts[name]}" for name in names)
    examples = "\n\n".join(f"## {API[name]}\n\n{example(name)}\n\n[All of it]({name}.md)." for name in FIRST)
    about = f"`from advcore import {', '.join(names)}`. Everything else is imported from its module."
    return f"# advcore\n\n{about}\n\n{listed}\n\n{examples}\n"


def _files_linked(page: Path) -> list[Path]:
    """Files of the repository, other than pages, that a page links to or shows."""
    targets = [(page.parent / target).resolve() for target in LINK.findall(page.read_text()) if "://" not in target]
    return [path for path in targets if path.suffix != ".md" and path.is_file() and path.is_relative_to(ROOT)]


def copy_shown(site: Path) -> None:
    """Copy what the pages show by HTML of their own, such as a picture for each colour scheme; Sphinx does not."""
    for source in (ROOT / f"{name}.md" for name in pages()):
        for target in SHOWN.findall(source.read_text()):
            path = (source.parent / target).resolve()
            _put(site / path.relative_to(ROOT), path)


def _put(path: Path, content: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_text(content)


def fetched(site: Path) -> list[str]:
    """What pages or styles would load from another host."""
    lines = []
    for path in sorted(site.rglob("*")):
        pattern = FETCHED if path.suffix == ".html" else IMPORTED if path.suffix == ".css" else None
        if pattern:
            lines += [f"{path.relative_to(site)}: {match[0]}" for match in pattern.finditer(path.read_text())]
    return lines


def dangling(site: Path) -> list[str]:
    """What pages point to that does not exist; Sphinx does not look at raw HTML."""
    lines = []
    for path in sorted(site.rglob("*.html")):
        targets = set(POINTS.findall(path.read_text()))
        missing = [target for target in targets if not (path.parent / unquote(target)).exists()]
        lines += [f"{path.relative_to(site)}: {target}" for target in missing]
    return lines


def main(out: Path) -> int:
    from sphinx.cmd.build import build_main

    source, site, seen = out / "source", out / "site", out / "seen"
    for folder in (source, site, seen):
        shutil.rmtree(folder, ignore_errors=True)
    stage(source)
    here = str(Path(__file__).parent)
    strict = ["-q", "-W", "--keep-going"]
    failed = build_main([*strict, "-b", "html", "-c", here, "-d", str(seen), str(source), str(site)])
    copy_shown(site)
    wrong = [f"loads from another host: {line}" for line in fetched(site)]
    wrong += [f"does not exist: {line}" for line in dangling(site)]
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{sum(1 for _ in site.rglob('*.html'))} pages: {site / 'index.html'}")
    return failed or bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"))
