"""The site: python docs/site/build.py [FOLDER]. Pages are staged as they stand, API pages are made from docstrings, and
a dead link, a missing picture or anchor, or anything that would be fetched from elsewhere ends the build."""

import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

from contents import API, NAV, NOTEBOOKS, ROOT, benchmark_pages, pages
from docstrings import known_names, page
from gallery import render_notebook

LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
POINTS = re.compile(r"<[a-z]+\b[^>]*?\b(?:src|href)=\"([^\"#?:]+)[#?\"]")
FETCHED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
IMPORTED = re.compile(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//[^)\s]*")


def tocs(nav: dict[str, dict[str, str]]) -> str:
    """What makes the sidebar, hidden on the page itself."""
    parts = []
    for caption, listed in nav.items():
        lines = [f"{title} <{page}>" for page, title in listed.items()]
        parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *lines, "```"]))
    return "\n\n".join(parts)


def stage(folder: Path) -> None:
    """README as the first page, the pages, what they show and link to, and the API pages, into `folder`."""
    api = {"api/advcore": "advcore"} | {f"api/{name}": title for name, title in API.items()}
    nav = NAV | {"Gallery": NAV["Gallery"] | NOTEBOOKS, "Benchmarks": benchmark_pages(), "API": api}
    _put(folder / "index.md", f"{_text(ROOT / 'README.md')}\n\n{tocs(nav)}\n")
    for name in pages():
        _put(folder / f"{name}.md", _text(ROOT / f"{name}.md"))
    for source in (ROOT / "README.md", *(ROOT / f"{name}.md" for name in pages())):
        for target in _files_linked(source):
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


def top(known: dict[str, str]) -> str:
    """The page of the names that `import advcore` gives."""
    import advcore

    names = [name for name in advcore.__all__ if not name.startswith("__")]
    firsts = {name: (getattr(advcore, name).__doc__ or "").strip().splitlines()[0] for name in names}
    listed = "\n".join(f"- {{py:obj}}`{name} <{known[name]}>`: {firsts[name]}" for name in names)
    return f"# advcore\n\n`from advcore import {', '.join(names)}`; all else is imported from its module.\n\n{listed}\n"


def _text(path: Path) -> str:
    """A page's text; README is the site's first page."""
    text = re.sub(r"\]\(\.\./README\.md", "](../index.md", path.read_text())
    return re.sub(r"(\]\(\S+)\.ipynb\)", r"\1.md)", text)  # the site has a page of each notebook


def _files_linked(page: Path) -> list[Path]:
    """Files of the repository, other than pages, that a page links to or shows."""
    found = [(page.parent / target).resolve() for target in LINK.findall(page.read_text()) if "://" not in target]
    return [path for path in found if path.suffix != ".md" and path.is_file() and path.is_relative_to(ROOT)]


def _put(path: Path, content: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_text(content)


def fetched(site: Path) -> list[str]:
    """What pages or styles would load from another host."""
    told = []
    for path in sorted(site.rglob("*")):
        pattern = FETCHED if path.suffix == ".html" else IMPORTED if path.suffix == ".css" else None
        if pattern:
            told += [f"{path.relative_to(site)}: {match[0]}" for match in pattern.finditer(path.read_text())]
    return told


def dangling(site: Path) -> list[str]:
    """What pages point to that is not there, whatever made it: raw HTML is nothing that Sphinx looks at."""
    told = []
    for path in sorted(site.rglob("*.html")):
        targets = set(POINTS.findall(path.read_text()))
        told += [f"{path.relative_to(site)}: {one}" for one in targets if not (path.parent / unquote(one)).exists()]
    return told


def main(out: Path) -> int:
    from sphinx.cmd.build import build_main

    source, site, seen = out / "source", out / "site", out / "seen"
    for folder in (source, site, seen):
        shutil.rmtree(folder, ignore_errors=True)
    stage(source)
    here = str(Path(__file__).parent)
    strict = ["-q", "-W", "--keep-going"]
    failed = build_main([*strict, "-b", "html", "-c", here, "-d", str(seen), str(source), str(site)])
    wrong = [f"loads from elsewhere: {one}" for one in fetched(site)] + [
        f"is not there: {one}" for one in dangling(site)
    ]
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{sum(1 for _ in site.rglob('*.html'))} pages: {site / 'index.html'}")
    return failed or bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"))
