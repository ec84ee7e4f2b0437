"""advcore report: what it finds beside a record, what it says of what it does not find, and bad input."""

import json
import re
import shutil
import sys

import pytest
import torch
from sealed import rewrite, update

from advcore import cli
from advcore.errors import CheckpointError, ConfigError
from advcore.export.report import choose_by_weight, report
from advcore.export.thumbnails import THUMBNAIL, colour_change, encode_png
from advcore.reporting.record import RunRecord
from advcore.selection.result import Coreset


@pytest.fixture(scope="module")
def made(root, tiny, tmp_path_factory):
    """A tiny finished run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-s0"
    changes = [part for change in (*tiny, "selection.period=1") for part in ("--set", change)]
    line = ["advcore", "run", str(root / "experiments/trades_gradmatch.yaml"), *changes, "--out", str(folder)]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as leaving:
        patch.setattr(sys, "argv", line)
        cli.main()
    assert leaving.value.code == 0
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def test_a_run_becomes_a_page_with_its_weights_and_attacked_images(advcore, run):
    code, out, err = advcore("report", run, "--images", "3")
    assert code == 0 and out == f"report: {run / 'report.html'}\nnext: advcore export {run}\n", err
    page, record = (run / "report.html").read_text(), RunRecord.load(run / "record.json")
    assert len(record.selections) >= 2 and page.count("Weights of the selection at") == 3 * len(record.selections)
    assert page.count('src="data:image/png;base64,') == 2 * 3 * 3  # highest and lowest; as it is, attacked, the change
    assert 'class="note missing"' not in page and str(run) not in page
    last = Coreset.load(run / f"coresets/epoch-{record.selections[-1]['epoch']:03d}.npz")
    assert f"weight {float(last.weights.max()):.4g}<" in page
    assert f"weight {float(last.weights.min()):.4g}<" in page
    assert f"example {int(last.indices[last.weights.argmax()])}<" in page
    again, first = advcore("report", run, "--images", "3")[0], page
    assert again == 0 and (run / "report.html").read_text() == first


def test_the_record_counts_the_data(run):
    record = RunRecord.load(run / "record.json")
    counts = record.data["class_counts"]
    assert sum(counts) == record.data["train"] == 144 and record.data["validation"] == 16 and record.data["test"] == 60
    assert record.data["shape"] == [1, 8, 8] and len(counts) == 10


def _without(name):
    return lambda run: shutil.rmtree(run / name)


def _damaged(run):
    for path in (run / "coresets").glob("*.npz"):
        path.write_bytes(b"junk")


def _elsewhere(run):
    def change(record):
        record["config"]["data"] = {"name": "npz", "path": "not/on/this/machine.npz"}

    rewrite(run / "record.json", change)


def _odd_epoch(run):
    def change(record):
        for one in record["selections"]:
            one["epoch"] = "../../../etc/passwd"

    rewrite(run / "record.json", change)


def _linked_out(run):
    for path in (run / "coresets").glob("*.npz"):
        away = run.parent / path.name
        path.rename(away)
        path.symlink_to(away)


@pytest.mark.parametrize(("damage", "told"), [
    (_without("coresets"), ["its file (coresets/epoch-NNN.npz) is not next to the record", "no coreset whose weights"]),
    (_without("checkpoints"), ["last.safetensors does not exist"]),
    (_damaged, ["is damaged", "no coreset whose weights"]),
    (_elsewhere, ["not/on/this/machine.npz"]),
    (_odd_epoch, ["does not hold what belongs here"]),
    (_linked_out, ["must stay in its folder"]),
])  # fmt: skip
def test_what_is_not_there_is_a_line_and_no_error(advcore, run, damage, told):
    damage(run)
    code, _, err = advcore("report", run)
    page = (run / "report.html").read_text()
    assert code == 0 and "Traceback" not in err and page.count("data:image/png") == 0
    for part in told:
        assert part in page


def test_a_folder_of_runs_and_a_folder_of_records_become_pages(advcore, made, tmp_path):
    shutil.copytree(made, tmp_path / "study/tiny-s0")
    record = RunRecord.load(made / "record.json")
    record.config["seed"], record.finished, record.final = 1, False, {}
    record.save(tmp_path / "study/tiny-s1/record.json")
    (tmp_path / "study/odd.json").write_text("[]")
    assert advcore("report", tmp_path / "study/tiny-s0", "--images", "0")[0] == 0
    code, out, err = advcore("report", tmp_path / "study", "--out", tmp_path / "page.html")
    assert code == 0 and str(tmp_path / "page.html") in out, err
    page = (tmp_path / "page.html").read_text()
    assert '<a href="./study/tiny-s0/report.html">tiny-s0</a>' in page
    assert "1 method, 2 runs, 1 of them finished" in page
    assert "left out of averages: tiny-s1" in page and "odd.json is not a record of this version" in page
    one = shutil.copy(made / "record.json", tmp_path / "study/tiny-s7.json")
    assert advcore("report", one)[0] == 0 and (tmp_path / "study/tiny-s7.html").is_file()


def test_hostile_names_of_folders_and_runs_are_text(made, tmp_path):
    odd = tmp_path / 'javascript:alert(1)#"<b>'
    odd.mkdir()
    shutil.copy(made / "record.json", odd)
    update(odd / "record.json", name="<b>\ud800")
    assert "<b>\\ud800" in report(odd, images=0).read_text().replace("&lt;", "<").replace("&gt;", ">")
    page = report(tmp_path).read_text()
    assert 'href="./javascript%3Aalert%281%29%23%22%3Cb%3E/report.html"' in page and "<b>" not in page


def test_a_record_with_what_is_no_number_is_not_read(made, tmp_path):
    text = (made / "record.json").read_text()
    (tmp_path / "record.json").write_text(re.sub(r'"loss": [0-9.e-]+', '"loss": NaN', text, count=1))
    with pytest.raises(CheckpointError, match="NaN"):
        report(tmp_path)


@pytest.mark.parametrize(("arguments", "told"), [
    (["nowhere"], ["nowhere", "folder of runs"]),
    (["empty"], ["empty", "holds no record"]),
    (["others"], ["others", "holds no record"]),
    (["empty", "--images", "-1"], ["--images", "-1"]),
    (["empty", "--images", "999"], ["--images", "999"]),
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(advcore, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others/x.json").write_text(json.dumps({"a": 1}))
    code, out, err = advcore("report", *arguments)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    for part in told:
        assert part in err
    assert not list(tmp_path.rglob("*.html"))


def test_where_no_page_can_be_written_is_refused(advcore, run, tmp_path):
    (tmp_path / "folder").mkdir()
    code, _, err = advcore("report", run, "--out", tmp_path / "folder")
    assert code == 2 and re.search(r"--out must be a file, got .*folder", err) and len(err.splitlines()) == 1
    (run / "record.json").write_text("{")
    code, _, err = advcore("report", run)
    assert code == 2 and "record.json cannot be read" in err and not (run / "report.html").exists()


def test_a_new_run_in_the_folder_takes_the_old_page_away(advcore, run, root, tiny):
    (run / "report.html").write_text("of the run before")
    changes = [part for change in (*tiny, "training.epochs=1") for part in ("--set", change)]
    code, _, err = advcore("run", root / "experiments/trades_full.yaml", *changes, "--out", run, "--overwrite")
    assert code == 0 and not (run / "report.html").exists(), err
    assert advcore("report", run)[0] == 0
    assert "No images: there is no coreset" in (run / "report.html").read_text()


def coreset(weights) -> Coreset:
    facts = {"num_examples": 50, "fingerprint": "x", "solver": "x", "partition": "whole", "seed": 0, "budget": 0.5}
    return Coreset(indices=torch.arange(len(weights)) + 10, weights=torch.tensor(weights), **facts)


def test_highest_and_lowest_weights_share_no_example():
    (_, high), (_, low) = choose_by_weight(coreset([3.0, 1.0, 2.0, 5.0, 4.0]), 8)
    assert high.tolist() == [3, 4, 0] and low.tolist() == [1, 2]
    (_, high), (_, low) = choose_by_weight(coreset([3.0, 1.0, 2.0, 5.0, 4.0]), 1)
    assert high.tolist() == [3] and low.tolist() == [1]
    ((title, same),) = choose_by_weight(coreset([2.0, 2.0, 2.0]), 2)
    assert "Equal" in title and same.tolist() == [0, 1]


def test_the_perturbation_of_a_grey_image_is_coloured_by_its_sign():
    darker, unchanged, brighter = colour_change(torch.tensor([[[-0.5, 0.0, 0.5]]])).unbind(2)
    assert darker[2] > darker[0] and brighter[0] > brighter[2] and bool((unchanged > 0.9).all())
    half = colour_change(torch.tensor([[[0.25]]]))
    assert torch.allclose(half[:, 0], (unchanged + brighter) / 2)
    change = torch.rand(3, 2, 2) - 0.5
    assert torch.equal(colour_change(change), 0.5 + change)


def test_an_image_keeps_its_pixels_and_a_large_one_becomes_small():
    from PIL import Image

    def opened(uri):
        import base64
        import io

        return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))

    x = torch.arange(12).view(3, 2, 2) / 12
    image = opened(encode_png(x))
    assert image.mode == "RGB" and image.getpixel((1, 0)) == tuple((x[:, 0, 1] * 255).round().int().tolist())
    assert opened(encode_png(torch.rand(1, 200, 100))).size == (THUMBNAIL // 2, THUMBNAIL)
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        encode_png(torch.rand(4, 5, 5))
