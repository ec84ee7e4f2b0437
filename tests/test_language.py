"""The language of the package: phrases that stopped readers, and what to say instead.

Each entry stands for a kind. Where a pattern meets a sentence that is right, narrow the pattern, not the sentence.
"""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PER = (
    r"\b(once|twice|one|times|bits|bytes|steps?|passes|labels?|lines?|rows?|numbers?|images|columns?|sub-folder) an? "
    r"(image|class|channel|example|epoch|pass|second|pixel|seed|method|selection|run|line|eps)\b"
    r"(?! (has|have|may|can|takes|holds|of|with|leaves|picks|is|that|does)\b)"
)

INSTEAD = {
    PER: "per: one line per epoch",
    r"\banew\b": "again; or the verb with re-: remeasured, redrawn",
    r"\bbeside\b": "next to (a place), compared with (a comparison), with (a setting), besides (in addition to)",
    r"\b(thereof|therein|whereof|hitherto|heretofore)\b": "a plain pronoun",
    r"\b(go(es|ne)? on (with|from)|going on)\b": "continue, continue with, start from",
    r"\b(was|is|were|been) begun\b": "started",
    r"\b(is|are|was|were|be|been) told\b(?! apart)": "receives, is notified, is reported",
    r"\btold apart\b": "distinguished",
    r"\bstands? (before|above|below|behind|there|twice|next|still)\b": "is, appears",
    r"\bby (itself|themselves)\b": "by default, automatically, separately, alone",
    r"\bof (its|their|his) own(?= *([.,;:)]|$|(in|for|at|with|and|that|which|inside)\b))": "its own X, a separate X",
    r"\bso many\b": "the number, as a symbol: at most N",
    r"\b(counts?|moves?|rounds?|stays?|measured|drawn|picks?|run|and) alike\b": "equally, in the same way",
    r"\b(cannot|can|may) serve\b|\bserves (a|an|the|both|PGD)\b": "work with, be used in",
    r"\b(is|are|was|were) learned from\b|\blearn(s|ing)? from (a part|part|a share|the share|the images)\b": "train on",
    r"(?<!there )\b(is|are|was|were) no (?!longer|more|less|larger|smaller|farther|better|worse|cheaper)": "is not a",
    r"\bha(s|ve) not an?\b": "does not have a, is without a",
    r"\bpass(ed|es)? forward\b": "run a forward pass",
    r"\bat (its|the) height\b": "at its peak",
    r"\bmend(s|ed|ing)?\b": "fix, repair",
    r"\b(lent|lend(s|ing)?)\b": "say what is restored",
    r"\b(choosing|selecting|it) (can|cannot) pay\b|\b(choosing|selecting) pays\b": "selection is worth its cost",
    r"\bforetells?\b": "predict",
    r"\b(front|runs?|page|row)s? before AutoAttack\b": "under AutoAttack",
    r"\bof ours\b": "advcore's",
    r"\bfor nobody else\b": "private",
    r"\b(one|a user|you) would (do|pick) instead\b": "name the baselines: random subsets, fewer epochs",
    r"\bwhat (it|they|those) took\b": "its cost, its passes",
    r"\bselects for nothing\b": "costs nothing to select",
    r"\bdefaults of everything else\b": "all other settings at their defaults",
    r"\bcan stand as\b|\bstop then\b|\bgo along\b|\bwho is told\b|\bas it was lent\b": "a full sentence; see style.md",
    r"(?<![\d.,=-])1 (full )?(epochs|runs|images|examples|steps|passes|files)\b": "1 epoch; format_count writes it",
}
"""A phrase as a regular expression, and what to say in its place."""

FILES = (
    *("advcore/**/*.py", "tools/*.py", "benchmarks/pages/*.py", "benchmarks/measure/*.py"),
    *("experiments/**/*.yaml", "benchmarks/suites/**/*.yaml", "benchmarks/published.yaml"),
    *("*.md", "docs/*.md", "benchmarks/*.md", "benchmarks/papers/*.md"),
)


def read_strings(path: Path) -> Iterator[str]:
    """Yield the docstrings, the other texts of several words, and the comments of a module."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.value
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.string


def read_comments(path: Path) -> str:
    """Return the comments of a YAML file, joined: a sentence may go over several lines."""
    return " ".join(re.findall(r"(?m)(?:^|\s)#\s(.*)$", path.read_text(encoding="utf-8")))


def read_texts(path: Path) -> Iterator[str]:
    if path.suffix == ".py":
        yield from read_strings(path)
    elif path.suffix == ".yaml":
        yield read_comments(path)
    else:
        yield re.sub(r"(?s)```.*?```", "", path.read_text(encoding="utf-8"))


def list_phrases(text: str) -> list[str]:
    """Return each forbidden phrase of a text, in its context, with what to say instead."""
    text = " ".join(text.split())
    phrases = []
    for pattern, instead in INSTEAD.items():
        for match in re.finditer(pattern, text, re.IGNORECASE):
            context = text[max(0, match.start() - 30) : match.end() + 30]
            phrases.append(f"...{context}...: say {instead}")
    return phrases


def list_files() -> list[Path]:
    return sorted(path for pattern in FILES for path in ROOT.glob(pattern))


@pytest.fixture(scope="module")
def phrases() -> dict[str, list[str]]:
    """The forbidden phrases of each file, by its path."""
    return {
        str(path.relative_to(ROOT)): [phrase for text in read_texts(path) for phrase in list_phrases(text)]
        for path in list_files()
    }


def test_texts_say_it_plainly(phrases):
    assert {path: lines for path, lines in phrases.items() if lines} == {}


@pytest.mark.parametrize(
    "sentence",
    [
        "a line an epoch",
        "one whole number an image",
        "measured anew",
        "a JSON is written beside it",
        "going on with 16",
        "the same command goes on from there",
        "it is told nothing more",
        "methods must be told apart by letters",
        "that of the settings stands before it",
        "baselines come by themselves",
        "a layer of its own",
        "which images are learned from",
        "what is no tensor",
        "an attack that has not a single start",
        "mend or remove it",
        "1 full epochs",
        "what the scores foretell",
    ],
)
def test_each_kind_is_recognised(sentence):
    assert list_phrases(sentence) != []


@pytest.mark.parametrize(
    "sentence",
    [
        "one line per epoch",
        "there is no coreset",
        "it is no longer used",
        "however few steps an epoch has",
        "1 epoch",
        "11 epochs",
        "its own attack",
        "one pass of an image",
    ],
)
def test_plain_sentences_are_left_alone(sentence):
    assert list_phrases(sentence) == []
