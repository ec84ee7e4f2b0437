"""Convert docstrings in the style of this repository to Markdown that MyST reads: the API pages."""

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from types import ModuleType

from contents import BESIDE, FIRST, modules

Node = ast.ClassDef | ast.FunctionDef
_HEADER = re.compile(r"(?m)^(Parameters|Returns|Raises)\n-+\n")
_ENTRY = re.compile(r"(?m)(?:^|(?<=[.;] ))(\w+(?:, \w+)*) : ")
_LEAD = re.compile(r"(?:^|(?<=[.;)] ))(Cost|Precision|Reference|Differs|Raises|Returns)(?::|(?= )) ?")
_CODE = re.compile(r"(`[^`]+`)")
EXAMPLES = Path(__file__).parent / "examples.md"


@cache
def tree(module: str) -> dict[str, Node]:
    """The classes and functions of a module's source, by name."""
    body = ast.parse(Path(importlib.import_module(module).__file__).read_text()).body
    return {node.name: node for node in body if isinstance(node, Node)}


def public(module: str, names: tuple[str, ...] = ()) -> list[str]:
    """Names of a module that are its own and not private, in the order of the source; of those in `names`, if any."""
    return [name for name in tree(module) if not name.startswith("_") and (not names or name in names)]


def on_page(package: str) -> list[tuple[str, list[str]]]:
    """(module, names) of all that a package's page tells of."""
    found = [(module, public(module)) for module in modules(package)]
    found += [
        (f"advcore.{package}.{module}", public(f"advcore.{package}.{module}", names))
        for module, names in BESIDE.get(package, {}).items()
    ]
    return [(module, names) for module, names in found if names]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One setting of a class, or argument of a function: its type and default as the source has them."""

    name: str
    kind: str
    default: str | None


def fields(cls: type) -> dict[str, Parameter]:
    """The settings of a dataclass, its bases' included, nearest definition first told."""
    found: dict[str, Parameter] = {}
    for base in reversed(cls.__mro__):
        for node in _annotated(base):
            name, default = node.target.id, None if node.value is None else ast.unparse(node.value)
            if name in {field.name for field in dataclasses.fields(cls)}:
                found[name] = Parameter(name, ast.unparse(node.annotation), _plain_default(default))
    return found


def _annotated(cls: type) -> list[ast.AnnAssign]:
    if not cls.__module__.startswith("advcore"):
        return []
    node = tree(cls.__module__).get(cls.__name__)
    return [one for one in node.body if isinstance(one, ast.AnnAssign)] if node else []


def _plain_default(default: str | None) -> str | None:
    """`field(default_factory=dict, ...)` as what it makes, `setting(default=0.1, unit="share")` as 0.1."""
    made = re.match(r"field\(default_factory=(?:lambda: )?(\w+)", default or "")
    if made:
        return f"{made[1]}()"
    if default is None or not default.startswith("setting("):
        return default
    call = ast.parse(default, mode="eval").body
    values = [ast.unparse(word.value) for word in call.keywords if word.arg == "default"]
    return values[0] if values else None


def meanings(doc: str) -> dict[str, str]:
    """What a docstring says of each parameter, in one line: entries of a section, or `name : text` in its prose."""
    found: dict[str, str] = {}
    for paragraph in _paragraphs(doc):
        text = paragraph.lstrip("\0")
        entries = list(_ENTRY.finditer(text))
        if entries and entries[0].start() > 0:  # prose that happens to hold a colon
            continue
        for match, after in zip(entries, [*entries[1:], None], strict=False):
            own = text[match.end() : after.start() if after else None]
            for name in match[1].split(", "):
                found[name] = " ".join(own.split())
    return found


def _paragraphs(doc: str) -> list[str]:
    """Paragraphs; those of a Parameters section begin with NUL and keep their lines, others are one line."""
    found = []
    for block in re.split(r"\n\s*\n", doc.strip()):
        header = _HEADER.match(block)
        found.append("\0" + block[header.end() :] if header else " ".join(line.strip() for line in block.splitlines()))
    return found


def described(doc: str, known: dict[str, str], parameters: dict[str, Parameter]) -> str:
    """A docstring as Markdown; `known` public names become links, `parameters` tell types and defaults."""
    out, listed = [], set()
    for paragraph in _paragraphs(doc):
        if paragraph.startswith("\0"):
            entries = meanings(doc_of_section(paragraph))
            listed |= set(entries)
            out.append("\n".join(_items(entries, known, parameters)))
        else:
            out += _prose(paragraph, known)
    rest = [name for name in parameters if name not in listed and name not in meanings(doc)]
    if rest and listed:
        out.append("\n".join(_item(name, "", known, parameters) for name in rest))
    return re.sub(r"(?m)^(- \*\w+:\* .*)\n\n(?=- \*\w+:\*)", r"\1\n", "\n\n".join(out))


def doc_of_section(paragraph: str) -> str:
    return "Parameters\n----------\n" + paragraph.lstrip("\0")


def _items(entries: dict[str, str], known: dict[str, str], parameters: dict[str, Parameter]) -> Iterator[str]:
    """An item a parameter; those that are told elsewhere share one."""
    for text, group in groupby(entries, key=lambda name: entries[name] if entries[name].startswith("see ") else name):
        if text in entries:
            yield _item(text, entries[text], known, parameters)
        else:
            yield f"- {', '.join(f'**{name}**' for name in group)}: {_marked(text, known)}"


def _item(name: str, text: str, known: dict[str, str], parameters: dict[str, Parameter]) -> str:
    own = parameters.get(name)
    kind = f" `{own.kind}{'' if own.default is None else f' = {own.default}'}`" if own else ""
    return f"- **{name}**{kind}{': ' if text else ''}{_marked(text, known)}"


def _prose(paragraph: str, known: dict[str, str]) -> Iterator[str]:
    """A paragraph, cut where a line of its own is due: Cost, Reference and the like."""
    places = [0, *(match.start() for match in _LEAD.finditer(paragraph)), len(paragraph)]
    for start, end in zip(places, places[1:], strict=False):
        piece = paragraph[start:end].strip()
        lead = _LEAD.match(piece)
        if lead:
            yield f"- *{lead[1]}:* {_marked(piece[lead.end() :], known)}"
        elif _ENTRY.match(piece):
            entries = [f"- **{name}**: {_marked(text, known)}" for name, text in meanings(piece).items()]
            yield "\n".join(entries)
        elif piece:
            yield _marked(piece, known)


def _marked(text: str, known: dict[str, str]) -> str:
    """Plain text as Markdown: names in backticks link where they are known, all else means itself."""
    pieces = []
    for piece in _CODE.split(text):
        if piece.startswith("`") and piece.endswith("`") and len(piece) > 1:
            name = piece.strip("`")
            links = name in known and (name[0].isupper() or "." in name)  # a word such as `first` may mean anything
            pieces.append(f"{{py:obj}}`{name} <{known[name]}>`" if links else piece)
        else:
            pieces.append(re.sub(r"([*<>\[\]#|{}\\])", r"\\\1", piece))
    return "".join(pieces)


def signature(node: ast.FunctionDef, *, method: bool = False) -> str:
    """Arguments and result as the source has them, without self."""
    arguments = node.args
    if method and not any(getattr(one, "id", "") == "staticmethod" for one in node.decorator_list):
        arguments = ast.arguments(**{**vars(arguments), "args": arguments.args[1:]})
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(arguments)}){returns}"


def page(title: str, package: str, known: dict[str, str]) -> str:
    """The API page of a package or module of advcore: example, what is called most, then all else module by module."""
    listed = on_page(package)
    first = FIRST.get(package, ())
    about = inspect.getdoc(importlib.import_module(f"advcore.{package}")) or ""
    parts = [f"# {title}", f"`advcore.{package}`. {_marked(' '.join(about.split()), known)}"]
    parts += [example(package)] if first else []
    for dotted in first:
        module, _, name = dotted.rpartition(".")
        parts += [f"## {name}", _directive("currentmodule", module)]
        parts.append(_entry(importlib.import_module(module), name, known))
    for module, names in listed:
        loaded = importlib.import_module(module)
        rest = [name for name in names if f"{module}.{name}" not in first]
        if len(listed) > 1 and rest:
            parts += [f"## {module.rpartition('.')[2]}", f"`{module}`: {_marked(_first(loaded), known)}"]
        parts.append(_directive("currentmodule", module))
        parts += [_entry(loaded, name, known) for name in rest]
    return "\n\n".join(parts) + "\n"


def example(package: str) -> str:
    """The example of a package's page; tests run it."""
    return re.search(rf"^## {package}\n\n(```python\n.*?```)", EXAMPLES.read_text(), re.S | re.M)[1]


def _first(module: ModuleType) -> str:
    """The first paragraph of a module's docstring."""
    return " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())


def _entry(module: ModuleType, name: str, known: dict[str, str]) -> str:
    thing, node = getattr(module, name), tree(module.__name__)[name]
    doc = ast.get_docstring(node) or ""
    if isinstance(node, ast.FunctionDef):
        return _directive("function", name + signature(node), described(doc, known, {}))
    own = fields(thing) if dataclasses.is_dataclass(thing) else {}
    body = [described(doc, known, own), *_methods(node, known)]
    return _directive("class", name + _constructor(node, own), "\n\n".join(filter(None, body)), fence=":::::")


def _constructor(node: ast.ClassDef, parameters: dict[str, Parameter]) -> str:
    """The arguments of a constructor; of settings, all by keyword, required ones first, inherited ones last."""
    if parameters:
        body = {line.target.id for line in node.body if isinstance(line, ast.AnnAssign)}
        ordered = sorted(parameters.values(), key=lambda entry: (entry.default is not None, entry.name not in body))
        given = [entry.name if entry.default is None else f"{entry.name}={entry.default}" for entry in ordered]
        return f"({', '.join(['*', *given])})"
    made = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    return signature(made[0], method=True).partition(" -> ")[0] if made else ""


def _methods(node: ast.ClassDef, known: dict[str, str]) -> Iterator[str]:
    """The documented public methods and properties of a class; those that only fulfil a contract say nothing new."""
    for one in node.body:
        if not isinstance(one, ast.FunctionDef) or one.name.startswith("_") or not ast.get_docstring(one):
            continue
        text = described(ast.get_docstring(one), known, {})
        if any(getattr(mark, "id", "") in ("property", "cached_property") for mark in one.decorator_list):
            kind = f"\n:type: {ast.unparse(one.returns)}" if one.returns else ""
            yield _directive("property", f"{one.name}{kind}", text)
        else:
            yield _directive("method", f"{one.name}{signature(one, method=True)}", text)


def _directive(kind: str, head: str, body: str = "", fence: str = ":::") -> str:
    return f"{fence}{{py:{kind}}} {head}\n" + (f"\n{body}\n" if body else "") + fence


def known_names(packages: dict[str, str]) -> dict[str, str]:
    """What docstrings may name, to where it is: public names that are unique, and their methods."""
    found: dict[str, set[str]] = {}
    for package in packages:
        for module, names in on_page(package):
            for name in names:
                found.setdefault(name, set()).add(f"{module}.{name}")
                found.setdefault(f"{module}.{name}".removeprefix("advcore."), set()).add(f"{module}.{name}")
                for one in getattr(tree(module)[name], "body", []):
                    if isinstance(one, ast.FunctionDef) and ast.get_docstring(one) and not one.name.startswith("_"):
                        found.setdefault(f"{name}.{one.name}", set()).add(f"{module}.{name}.{one.name}")
    return {name: places.pop() for name, places in found.items() if len(places) == 1}
