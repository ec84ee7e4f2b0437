"""The gallery and the notebook: pages are those of the scripts, which still run and still show what their pages say."""

import json
import math
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_coreset.ipynb"
NAMES = sorted(path.stem for path in GALLERY.glob("*.py"))
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture
def gallery(script):
    return script("gallery")


def list_pictures() -> list[Path]:
    return [path for path in GALLERY.iterdir() if path.suffix in (".png", ".svg", ".html")]


def assert_same_output(output: str, committed: str) -> None:
    """Compare words exactly, and numbers as far as other kernels may round: a third of them, or a tenth."""
    assert NUMBER.sub("#", output).split() == NUMBER.sub("#", committed).split()
    for number, before in zip(NUMBER.findall(output), NUMBER.findall(committed), strict=True):
        assert math.isclose(float(number), float(before), rel_tol=1 / 3, abs_tol=0.1), (output, committed)


def read_code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def read_text(cell: dict) -> str:
    """What a cell of a notebook prints."""
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def test_every_script_is_an_example_of_the_gallery(gallery):
    assert sorted(gallery.EXAMPLES) == NAMES and len(NAMES) == 8


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_that_of_its_script(gallery, name):
    page = (GALLERY / f"{name}.md").read_text()
    assert page == gallery.write_page(name, gallery.read_output(page)), f"run python docs/site/gallery.py {name}"


def test_the_index_is_fresh(gallery):
    assert (GALLERY / "index.md").read_text() == gallery.write_index(), "run python docs/site/gallery.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_short_and_checks_what_it_says(gallery, name):
    _, _, code = gallery.read_docstring(name)
    assert len([line for line in code.splitlines() if line.strip()]) <= 60
    assert re.search(r"^ *assert ", code, re.M)


def test_pictures_are_small_and_of_a_script():
    names = {name: [f"{name}-transparent.png", f"{name}-small-transparent.png"] for name in NAMES}
    names["report_page"] = ["report_page.svg", "report_page.html"]
    assert sorted(path.name for path in list_pictures()) == sorted(sum(names.values(), []))
    assert all(path.stat().st_size < 100_000 for path in list_pictures())


@pytest.mark.parametrize("path", sorted(GALLERY.glob("*.png")), ids=lambda path: path.stem)
def test_a_picture_can_be_read_on_light_and_on_dark(path):
    """It is transparent, and neither black nor white writing is on it: digits apart, greys are in the middle."""
    from PIL import Image

    image = Image.open(path).convert("RGBA")
    corners = [image.getpixel((x, y))[3] for x in (0, image.width - 1) for y in (0, image.height - 1)]
    assert max(corners) <= 2  # of 255: thumbnails have few colours
    style = (GALLERY / "both.mplstyle").read_text()
    assert style.count("7f858d") >= 7


def test_the_notebook_is_committed_as_it_ran(gallery):
    text = NOTEBOOK.read_text()
    notebook = json.loads(text)
    cells = read_code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} <= {"stream", "display_data"}
    assert not [output for cell in cells for output in cell["outputs"] if output.get("name") == "stderr"]
    assert len(text) < 200_000 and not re.search(r"/tmp/|/home/|/root/|site-packages", text)
    page, pictures = gallery.render_notebook(NOTEBOOK)
    assert len(pictures) == 2 and all(f"({name})" in page for name in pictures)


def test_links_of_the_notebook_lead_somewhere():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#\s]+)\)", text)
    assert len(links) >= 5
    assert [link for link in links if not (NOTEBOOK.parent / link).is_file()] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_script_runs_and_its_page_and_picture_are_what_it_shows(gallery, name, tmp_path):
    from PIL import Image, ImageChops, ImageStat

    output = gallery.run_example(name, tmp_path)
    assert_same_output(output, gallery.read_output((GALLERY / f"{name}.md").read_text()))
    drawn, committed = gallery.find_picture(name, tmp_path), gallery.find_picture(name)
    assert drawn.name == committed.name
    if drawn.suffix == ".png":
        images = [Image.open(path).convert("RGBA") for path in (drawn, committed)]
        assert images[0].size == images[1].size
        assert sum(ImageStat.Stat(ImageChops.difference(*images)).mean) / 4 < 0.1 * 255


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(gallery):
    notebook = gallery.run_notebook(NOTEBOOK)
    committed = read_code_cells(json.loads(NOTEBOOK.read_text()))
    for cell, before in zip(read_code_cells(notebook), committed, strict=True):
        assert_same_output(read_text(cell), read_text(before))


def test_other_words_and_other_numbers_are_another_output():
    assert_same_output("error 0.101 of 20", "error 0.103 of 20")
    for other in ("error 0.101 of 40", "error 0.501 of 20", "no error 0.101 of 20"):
        with pytest.raises(AssertionError):
            assert_same_output(other, "error 0.101 of 20")
