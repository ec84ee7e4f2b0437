"""Run files with something wrong: valid ones, changed at random as values and as text."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from advcore.config.schema import TABLES
from advcore.config.yaml_reader import parse


class Raw(str):
    """A value that is written as it stands."""


VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.5, 1.5, 8, 255, 1e-30, 1e30, -1e30, 10**30, 10**300, -(10**300), "", "x",
    "8/255", "0.1", "é", "\n", "\t", "\x1b[31m", "../..", "/etc/passwd", "~/x", "~nobody/x", "a" * 5000, [], [1], [[]],
    {}, {"a": 1}, {"name": "x"}, {"name": None}, {"name": 3}, {"name": []}, [None], [{}], "os.system", "None",
    "null", "true", Raw("1/0"), Raw("1/3"), Raw("8/255"), Raw("1e999"), Raw("-1e999"), Raw(".inf"), Raw(".nan"),
    Raw("NaN"), Raw("1e-3"), Raw("010"), Raw("0x10"), Raw("1_000"), Raw("1:30"), Raw("2024-01-01"), Raw("no"), Raw("~"),
    Raw("9" * 350), Raw("9" * 5000), Raw("1" + "0" * 390 + "/3"), Raw("!!python/object/apply:os.system [ls]"),
    Raw("!!binary aGk="), Raw("!!set {a}"), Raw("!!int 3"), Raw("!!float 1"), Raw("!!str 3"), Raw("!!null x"),
    Raw("!own 3"), Raw("!number x"), Raw("*a"), Raw("&a 3"), Raw("&a [*a]"), Raw("{<<: *a}"), Raw("{<<: 3}"), Raw("@"),
    Raw("`"), Raw("%"), Raw("["), Raw("}"), Raw("'"), Raw('"'), Raw('"\\0"'), Raw('"\\ud800"'), Raw("? a"), Raw("- a"),
    Raw("[" * 300 + "]" * 300), Raw("|"), Raw(">\n x"),
)  # fmt: skip
NAMES = [name for table in TABLES.values() for name in table]
KEYS = (
    "",
    "x",
    "name",
    "eps",
    "steps",
    "<<",
    "0",
    "a.b",
    "é",
    "\n",
    "\x1b",
    "k" * 2000,
    "null",
    "selection",
    "__class__",
)


def written(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {written(own)}" for key, own in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return str(value) if isinstance(value, Raw) else json.dumps(value)


def _holders(value: Any) -> list[tuple[Any, Any]]:
    """Every (mapping or list, key or place) in a tree."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [pair for key in keys for pair in ((value, key), *_holders(value[key]))]


def _put(draw: random.Random, run: dict, others: list[dict]) -> None:
    holder, key = draw.choice(_holders(run))
    holder[key] = copy.deepcopy(draw.choice(VALUES))


def _scale(draw: random.Random, run: dict, others: list[dict]) -> None:
    numbers = [(h, k) for h, k in _holders(run) if isinstance(h[k], (int, float)) and not isinstance(h[k], bool)]
    if numbers:
        holder, key = draw.choice(numbers)
        holder[key] = holder[key] * draw.choice((-1, 0, 0.5, 1000, 10**9, 10**12, 1e-9, 1e300)) + draw.choice((0, 0, 1))


def _drop(draw: random.Random, run: dict, others: list[dict]) -> None:
    holder, key = draw.choice(_holders(run))
    del holder[key]


def _rename(draw: random.Random, run: dict, others: list[dict]) -> None:
    mappings = [(h, k) for h, k in _holders(run) if isinstance(h, dict)]
    holder, key = draw.choice(mappings)
    letters = list(str(key))
    if letters and draw.random() < 0.6:
        letters.insert(draw.randrange(len(letters)), draw.choice("abcxyz_-."))
        holder["".join(letters)] = holder.pop(key)
    else:
        holder[draw.choice(KEYS)] = holder.pop(key)


def _add(draw: random.Random, run: dict, others: list[dict]) -> None:
    mappings = [run, *(h[k] for h, k in _holders(run) if isinstance(h[k], dict))]
    draw.choice(mappings)[draw.choice(KEYS)] = copy.deepcopy(draw.choice(VALUES))


def _nest(draw: random.Random, run: dict, others: list[dict]) -> None:
    holder, key = draw.choice(_holders(run))
    for _ in range(draw.choice((1, 1, 2, 40, 60))):
        holder[key] = [holder[key]] if draw.random() < 0.5 else {"a": holder[key]}


def _swap(draw: random.Random, run: dict, others: list[dict]) -> None:
    (a, i), (b, j) = draw.choice(_holders(run)), draw.choice(_holders(run))
    a[i], b[j] = json.loads(json.dumps(b[j])), json.loads(json.dumps(a[i]))


def _graft(draw: random.Random, run: dict, others: list[dict]) -> None:
    """A section of another run file."""
    other = draw.choice(others)
    key = draw.choice([key for key in other if key != "name"])
    run[key] = json.loads(json.dumps(other[key]))


def _name(draw: random.Random, run: dict, others: list[dict]) -> None:
    named = [(h, k) for h, k in _holders(run) if k == "name" and h is not run]
    if named:
        holder, key = draw.choice(named)
        holder[key] = draw.choice((*NAMES, "timm:resnet18", "timm:", "timm:x", "digits ", "os.system"))


TREES: tuple[Callable[[random.Random, dict, list[dict]], None], ...] = (
    _put, _put, _put, _scale, _scale, _drop, _rename, _add, _nest, _swap, _graft, _graft, _name,
)  # fmt: skip
"""Changes of a run file's values, in place."""

_BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
_MERGES = "m0: &m0 {k: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


def _lines(change: Callable[[random.Random, list[str]], None]) -> Callable[[random.Random, str], bytes]:
    def changed(draw: random.Random, text: str) -> bytes:
        lines = text.split("\n")
        change(draw, lines)
        return "\n".join(lines).encode()

    return changed


def _indented(draw: random.Random, lines: list[str]) -> None:
    i = draw.randrange(len(lines))
    lines[i] = draw.choice((" ", "   ", "\t", " \t", "- ", "? ", "\u2028", "\u00a0")) + lines[i]


_BYTES = (
    b"\xff", b"\0", b"\xc3", b"\xed\xa0\x80", b"\t", b"\r", b"\x1b", b":", b"{", b"'", b"#", b"&", b"*", b"!", b"|",
    b"\x85", b"\xf0\x9f\x98\x80", b"---\n", b"...\n",
)  # fmt: skip
_BEFORE = (_BOMB, _MERGES, "%YAML 1.1\n---\n", "%TAG ! x\n---\n", "\ufeff", "[")
_AFTER = (_BOMB, _MERGES, "\n---\na: 1\n", "\n...\n", "x: *y\n", "<<: {name: y}\n")
_INSTEAD = (b"", b"\n", b"#", b"---", b"null", b"[]", b"3", b"\0" * 99, b"\x7fELF\x02", b"PK\x03\x04", b"\x80\x02}q\0.")


def _some_byte(draw: random.Random, text: str) -> bytes:
    content, i = text.encode(), draw.randrange(len(text.encode()) + 1)
    return content[:i] + draw.choice(_BYTES) + content[i:]


TEXTS: tuple[Callable[[random.Random, str], bytes], ...] = (
    _lines(lambda draw, lines: lines.insert(draw.randrange(len(lines)), draw.choice(lines))),
    _lines(lambda draw, lines: lines.pop(draw.randrange(len(lines)))),
    _lines(lambda draw, lines: draw.shuffle(lines)),
    _lines(_indented),
    _some_byte,
    _some_byte,
    lambda draw, text: text[: draw.randrange(len(text) + 1)].encode(),
    lambda draw, text: text.encode(draw.choice(("utf-16", "utf-32", "utf-8-sig", "utf-16-le", "utf-7"))),
    lambda draw, text: text.replace("\n", draw.choice(("\r\n", "\r", "\x85", "\u2028", "\0", "\v"))).encode(),
    lambda draw, text: text.replace("  ", "\t").encode(),
    lambda draw, text: text.replace(": ", draw.choice((":", ":\t", " : ", "= "))).encode(),
    lambda draw, text: (text + draw.choice(_AFTER)).encode(),
    lambda draw, text: (draw.choice(_BEFORE) + text).encode(),
    lambda draw, text: draw.choice(_INSTEAD),
    lambda draw, text: (text + "\n" + draw.choice(("z: ", "? ", "- ", "[", "{a: ")) * draw.choice((50, 5000))).encode(),
)  # fmt: skip
"""Changes of a run file's text: lines, bytes, encodings, aliases, depth."""


def mutations(texts: list[str], count: int, seed: int) -> Iterator[bytes]:
    """`count` run files, each made of one of the valid `texts`; the same ones for the same seed."""
    draw = random.Random(seed)
    parsed = {text: parse(text, "a valid file") for text in set(texts)}  # some stand in it several times
    trees = [parsed[text] for text in texts]
    for _ in range(count):
        i = draw.randrange(len(texts))
        text = texts[i]
        if draw.random() < 0.65:
            run = json.loads(json.dumps(trees[i]))
            for _ in range(draw.choice((1, 1, 2, 4))):
                draw.choice(TREES)(draw, run, trees) if run else None
            text = "".join(f"{json.dumps(str(key))}: {written(value)}\n" for key, value in run.items())
        if text is texts[i] or draw.random() < 0.1:
            yield draw.choice(TEXTS)(draw, text)
        else:
            yield text.encode()
