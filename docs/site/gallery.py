"""Run the scripts of docs/gallery, and write a page for each and an index: python docs/site/gallery.py [NAME ...].

A script's docstring is its title and text. Its page shows what it prints, and the picture that it saves in the current
folder (NAME-transparent.png, or NAME.svg). Without names the notebook is run as well, and saved with its outputs.
"""

import contextlib
import io
import re
import runpy
import sys
from pathlib import Path

from contents import NAV, ROOT

GALLERY = ROOT / "docs" / "gallery"
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_coreset.ipynb"
EXAMPLES = [Path(page).name for page in NAV["Gallery"] if page != "docs/gallery/index"]
COLUMNS = 2
THUMBNAIL = (360, 220)
INDEX = """# Gallery

<!-- written by docs/site/gallery.py -->

Each example is one script of a few seconds that runs on scikit-learn's digits or on committed records, without a GPU or
a network. Its page shows the code, what it prints, and the picture that it draws. The
[notebook](../notebooks/first_coreset.ipynb) goes through a first coreset step by step.

"""


def read_docstring(name: str) -> tuple[str, str, str]:
    """Return title, text and code of an example."""
    match = re.fullmatch(r'"""(.*?)\n\n(.*?)\n?"""\n\n(.*)', (GALLERY / f"{name}.py").read_text(), re.S)
    assert match, f"docs/gallery/{name}.py must begin with a docstring: a title, an empty line, and a text"
    return match[1], match[2].strip(), match[3]


def find_picture(name: str, folder: Path = GALLERY) -> Path:
    """Return the picture of an example: PNG, or SVG where there is none."""
    png = folder / f"{name}-transparent.png"
    return png if png.exists() else folder / f"{name}.svg"


def write_page(name: str, output: str) -> str:
    """Return the page of an example, given what it prints."""
    title, text, code = read_docstring(name)
    picture = find_picture(name).name
    return (
        f"# {title}\n\n<!-- written by docs/site/gallery.py from {name}.py -->\n\n{text}\n\n![{title}]({picture})\n\n"
        f"The script below prints:\n\n```text\n{output.rstrip()}\n```\n\n## The script\n\n"
        f"[{name}.py]({name}.py), from the top to the bottom:\n\n```python\n{code.rstrip()}\n```\n"
    )


def read_output(page: str) -> str:
    """Return what an example printed when its page was written."""
    return re.search(r"```text\n(.*?)\n```", page, re.S)[1]


def write_index() -> str:
    """Return the page of all examples: pictures, titles and first sentences."""
    cells = []
    for name in EXAMPLES:
        title, text, _ = read_docstring(name)
        sentence = " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
        sentence = re.match(r".*?\.(?= |$)", sentence)[0]
        small = GALLERY / f"{name}-small-transparent.png"
        picture = small if small.exists() else find_picture(name)
        cells.append(f"[![{title}]({picture.name})]({name}.md)<br>[{title}]({name}.md)<br>{sentence}")
    lines = [f"|{' |' * COLUMNS}", f"|{' :--- |' * COLUMNS}"]
    for start in range(0, len(cells), COLUMNS):
        lines.append(f"| {' | '.join(cells[start : start + COLUMNS])} |")
    return INDEX + "\n".join(lines) + "\n"


def draw_thumbnail(picture: Path, target: Path) -> None:
    """Write a small version of a PNG picture, in the middle of a transparent area of one size for all."""
    from PIL import Image

    image = Image.open(picture).convert("RGBA")
    image.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    area = Image.new("RGBA", THUMBNAIL)
    area.paste(image, ((area.width - image.width) // 2, (area.height - image.height) // 2))
    area.quantize(128, Image.Quantize.FASTOCTREE).save(target, optimize=True)


def run_example(name: str, folder: Path) -> str:
    """Run an example in a folder, where it leaves its picture, and return what it prints."""
    import matplotlib
    import torch

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    torch.set_num_threads(1)  # the same sums on every machine with these kernels
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed), plt.style.context(GALLERY / "both.mplstyle"):
        runpy.run_path(str(GALLERY / f"{name}.py"))
        plt.close("all")
    return printed.getvalue()


def run_notebook(path: Path = NOTEBOOK):
    """Return the notebook, run from the top to the bottom; a cell that fails raises CellExecutionError."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, record_timing=False, coalesce_streams=True).execute()
    return notebook


def render_notebook(path: Path = NOTEBOOK) -> tuple[str, dict[str, bytes]]:
    """Return a committed notebook as Markdown with its outputs, and its pictures by file name."""
    import base64
    import json

    parts, pictures = [], {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![what the cell above draws]({name})")
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def main(names: list[str]) -> None:
    """Write the pages of these examples, of all by default, and the index."""
    for name in names or EXAMPLES:
        output = run_example(name, GALLERY)
        (GALLERY / f"{name}.md").write_text(write_page(name, output))
        if find_picture(name).suffix == ".png":
            draw_thumbnail(find_picture(name), GALLERY / f"{name}-small-transparent.png")
    (GALLERY / "index.md").write_text(write_index())
    if not names:
        import nbformat

        nbformat.write(run_notebook(), NOTEBOOK)


if __name__ == "__main__":
    main(sys.argv[1:])
