"""Every setting of every registered class, at every place of a run file, given what it cannot be; faulty data files."""

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from places import HUGE, Place, choices, numeric, places, wrong_types
from torch import nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from advcore import AdversarialCoreset, Coreset
from advcore.config.load import from_dict, load, resolve
from advcore.config.schema import TABLES
from advcore.config.yaml_reader import parse
from advcore.data import DATASETS
from advcore.data.checks import check_fits
from advcore.data.source import Resident, as_source
from advcore.errors import CheckpointError, ConfigError, DataError, UserError
from advcore.files import save_tensors
from advcore.models.head import find_head
from advcore.objectives import OBJECTIVES
from advcore.run.weights import load_state
from advcore.solvers import SOLVERS

PLACES = places()
each_place = pytest.mark.parametrize("place", PLACES, ids=str)


def told(run: dict) -> tuple[str, ...]:
    """The lines with which a run file is refused; each is one line, in our own words."""
    with pytest.raises(ConfigError) as caught:
        from_dict(run)
    lines = caught.value.lines
    assert lines and all("\n" not in line and "pydantic" not in line and "Error" not in line for line in lines)
    return lines


def about(place: Place, name: str, value: object, lines: tuple[str, ...]) -> None:
    """Every line names the setting, or a part of it, and what it must be; one of them shows the value."""
    for line in lines:
        words, must, _ = line.partition(" must be ")
        names = [word.split(".")[0] for word in words.removeprefix(place.dotted("")).replace(",", "").split()]
        assert words.startswith(place.dotted("")) and name in names and must, line
        got = line.partition("got ")[2]
        shown = {repr(value), repr(float(value))} if isinstance(value, int) and abs(value) < 1e300 else {repr(value)}
        shown |= {"inf", repr(value)[:250]} if isinstance(value, int) else set()
        assert isinstance(value, (dict, list)) or any(one in got for one in shown), line


@pytest.mark.case("G2")
def test_every_registered_class_is_tried_somewhere():
    tried = {place.cls for place in PLACES}
    assert {cls for table in TABLES.values() for cls in table.values()} <= tried and len(PLACES) >= 79


@pytest.mark.case("G1")
@each_place
def test_an_unknown_key_names_its_path_and_the_nearest_key(place):
    for name in [f.name for f in dataclasses.fields(place.cls)] or ["anything"]:
        misspelt = f"{name}x"
        (line,) = told(place.given(**{misspelt: 1}))
        assert line.startswith(f"{place.dotted(misspelt)} is not a setting of {place.path or 'the run file'}; ")
        assert name == "anything" or f"did you mean {name!r}?" in line
    (line,) = told(place.given(**{"zzzz\n\x1b[31m": 1}))
    assert "\\n\\x1b" in line


@pytest.mark.case("G2")
@each_place
def test_every_setting_refuses_every_wrong_type(place):
    for name, kind in place.settings().items():
        for value in wrong_types(kind):
            about(place, name, value, told(place.given(**{name: value})))


@pytest.mark.case("G2")
@pytest.mark.parametrize("place", [place for place in PLACES if place.path], ids=str)
def test_every_setting_refuses_every_wrong_type_in_a_library_call_too(place):
    valid = {f.name: getattr(_built(place), f.name) for f in dataclasses.fields(place.cls)}
    for name, kind in place.settings().items():
        if not choices(kind) and not dataclasses.is_dataclass(next(iter(getattr(kind, "__args__", [kind])))):
            for value in wrong_types(kind):
                with pytest.raises(ConfigError) as caught:
                    place.cls(**(valid | {name: value}))
                assert any(name in line.split(" must be ")[0] for line in caught.value.lines)


def _built(place: Place) -> object:
    """What stands at a place of its valid run."""
    here = from_dict(place.run)
    for key in place.path.split("."):
        here = here[int(key)] if isinstance(here, list) else getattr(here, key)
    return here


@pytest.mark.case("G2", "G4")
@each_place
def test_every_number_has_a_range_and_says_so(place):
    """What is out of range is refused by name; no number is too large to be read."""
    for name, kind in place.settings().items():
        if numeric(kind) is None:
            continue
        refused = []
        for value in (*HUGE, 10**10, -1, 0):
            try:
                config = from_dict(place.given(**{name: value}))
                assert from_dict(resolve(config)) == config
            except ConfigError as error:
                about(place, name, value, error.lines)
                refused.append(value)
        assert {HUGE[0], HUGE[1], HUGE[3]} <= set(refused), f"{place}: {name}"
        assert numeric(kind) is float or name.endswith("seed") or 10**10 in refused, f"{place}: {name}"


@pytest.mark.case("G2")
@each_place
def test_every_word_that_is_chosen_from_a_list_says_which_there_are(place):
    free = {"name", "path", "head", "network", "scores", "device"}  # any text, or checked against the machine or model
    free |= {"weights", "teacher", "trainable", "options"}  # a file, names in the model, and what another library takes
    free |= {"project", "entity", "uri", "experiment"}  # a tracker's
    for name, kind in place.settings().items():
        if str in (kind, *getattr(kind, "__args__", ())) and name not in free:
            (line,) = told(place.given(**{name: "nonsense"}))
            assert line.startswith(f"{place.dotted(name)} must be one of ") and "got 'nonsense'" in line


@pytest.mark.case("G3")
@each_place
def test_all_mistakes_of_a_file_come_at_once_a_line_each(place):
    """An unknown key, and all settings wrong by type, beside mistakes of range in the whole file's own settings."""
    apart = {"name", "device", "cost"}  # a cost stands in place of a budget
    wrong = {name: wrong_types(kind)[-1] for name, kind in place.settings().items() if name not in apart}
    run = place.given(**wrong, unknwn=1) | {"name": "../x", "device": "tpu"}
    lines = told(run)
    for start in [place.dotted(name) for name in wrong] + [place.dotted("unknwn"), "name", "device"]:
        assert any(re.match(rf"{re.escape(start)}[ .]", line) for line in lines), (start, lines)


@pytest.mark.case("G3")
def test_a_wrong_type_hides_no_wrong_range_beside_it():
    place = next(place for place in PLACES if place.path == "attack" and "LinfPGD" in str(place))
    lines = told(place.given(steps="many", eps=8, restarts=0, start="unifrom") | {"seed": "x", "device": "gpu"})
    assert sorted(line.split()[0] for line in lines) == [
        "attack.eps", "attack.restarts", "attack.start", "attack.steps", "device", "seed",
    ]  # fmt: skip


@pytest.mark.case("G3")
def test_what_is_spoilt_in_one_place_is_not_blamed_on_another():
    """A section that is wrong is told as that, and not also as missing where it is needed."""
    place = next(place for place in PLACES if place.path == "attack" and "LinfPGD" in str(place))
    (line,) = told(place.given(steps="many"))
    assert line.startswith("attack.steps must be a whole number")
    (line,) = told({**place.run, "objective": {"name": "trades", "beta": "x"}})
    assert line.startswith("objective.beta must be a number")


# ---- run files as text ----

TEXT = """\
name: x
data:
  name: digits
model:
  name: small_cnn
objective:
  name: pgd
attack:
  name: linf_pgd
  eps: 8/255
  steps: 2
training:
  epochs: 1e-0
evaluation:
  attacks: []
"""


def refused(path, content: str | bytes) -> str:
    """The one line with which a run file of this content is refused; it begins with the file's name."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load(path)
    (line,) = caught.value.lines
    assert line.startswith(str(path)) and line.isprintable() and len(line) < 1000
    return line.removeprefix(str(path))


@pytest.mark.case("G3")
def test_every_line_that_stands_twice_is_named(tmp_path):
    lines = TEXT.splitlines()
    for i, line in enumerate(lines):
        if not line.endswith(":"):
            found = refused(tmp_path / "f.yaml", "\n".join([*lines[: i + 1], line, *lines[i + 1 :]]))
            assert f"line {i + 2}, " in found and f"{line.split(':')[0].strip()!r} appears twice" in found


@pytest.mark.case("G3")
def test_every_tab_that_indents_is_named(tmp_path):
    lines = TEXT.splitlines()
    for i, line in enumerate(lines):
        if line.startswith(" "):
            found = refused(tmp_path / "f.yaml", "\n".join([*lines[:i], line.replace("  ", "\t"), *lines[i + 1 :]]))
            assert "tab" in found and f"line {i + 1}, " in found


@pytest.mark.case("G3")
@pytest.mark.parametrize("form", ["8/255", "1e-3", "0.5", ".5", "1E-1", "1", "2/4"])
def test_every_form_of_a_number_is_one_for_every_setting_that_takes_it(form):
    value, tried = parse(f"a: {form}", "f")["a"], 0
    for place in PLACES:
        for name in [name for name, kind in place.settings().items() if numeric(kind) is float]:
            tried += 1
            try:
                from_dict(place.given(**{name: value}))
            except ConfigError as error:  # out of range, then, and not of a wrong type
                assert not any(line.startswith(f"{place.dotted(name)} must be a number,") for line in error.lines)
            lines = told(place.given(**{name: form}))
            assert any(line.startswith(f"{place.dotted(name)} must be a number, got {form!r}") for line in lines)
    assert tried > 50


@pytest.mark.case("G3")
@pytest.mark.parametrize(
    "content, got",
    [("", "nothing"), ("# only this", "nothing"), ("---\n", "nothing"), ("null", "nothing"), ("- name: x", "list"),
     ("just text", "str"), ("8/255", "float"), ("true", "bool"), ("---\na: 1\n---\nb: 2", "another document"),
     ("[]", "list"), ('"name: x"', "str")],
)  # fmt: skip
def test_a_file_whose_root_is_no_mapping_is_refused_by_what_it_is(tmp_path, content, got):
    assert got in refused(tmp_path / "f.yaml", content)


BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "m0: &m0 {k: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 12))
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.case("G3")
@pytest.mark.parametrize(
    "content, told",
    [
        (BOMB, "at most 10,000 values"),
        (MERGES, "at most 10,000 values"),
        (CHAIN, "at most 30 deep, with aliases expanded"),
        ("a: &a [*a]", "inside the value of its own anchor"),
        ("a: &a {b: {<<: *a}}", "inside the value of its own anchor"),
        ("a: " + "[" * 5000, "30 deep"),
        ("- " * 5000, "30 deep"),
        ("{a: " * 5000, "30 deep"),
        ("a: " + "9" * 5000, "at most 400 characters"),
        ("a: 1" + "0" * 500 + "/3", "at most 400 characters"),
        ("a: 1\n" * 200_000, "100,000 bytes"),
        (b"\0", "x0000"),
        ('a: "\\0"', "NUL"),
        ('a: "\\ud800"', "unpaired surrogates"),
        ('"\\ud800": 1', "unpaired surrogates"),
        (b"\xff\xfea\0:\0 \0001\0", "utf-8"),
        (b"a: \xe9\n", "utf-8"),
        ("a: !!binary aGk=", "binary"),
        ("a: !!set {b}", "set"),
        ("a: !!omap [b: 1]", "omap"),
        ("a: !own {b: 1}", "!own"),
        ("!!python/object:builtins.dict {}", "python/object"),
        ("%TAG ! tag:x,2000:\n---\na: !b c", "x,2000"),
        ("a: @b", "@"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_file_that_is_a_trap_is_refused_in_a_line(tmp_path, content, told):
    assert told in refused(tmp_path / "f.yaml", content)


@pytest.mark.case("G3")
def test_aliases_and_merges_of_a_plain_size_are_read():
    found = parse("a: &a {x: 1, y: 2}\nb: {c: &c {<<: *a, x: 3}}\nd: {<<: [*c, *a], z: 4}\ne: [*a, *a]", "f")
    assert found["b"] == {"c": {"x": 3, "y": 2}} and found["d"] == {"x": 3, "y": 2, "z": 4}
    assert found["e"] == [found["a"]] * 2


@pytest.mark.case("G3")
@pytest.mark.parametrize("attack, eps", [("linf_pgd", 8), ("n_fgsm", 8), ("l2_pgd", 8.1), ("l1_pgd", 64.1)])
def test_a_radius_larger_than_all_images_explains_the_units(advcore, root, tiny, attack, eps):
    """Digits are 1 x 8 x 8: no two images are farther apart than 1 in linf, 8 in l2, 64 in l1."""
    sets = [part for one in tiny if not one.startswith("attack.") for part in ("--set", one)]
    change = f"attack={{name: {attack}, eps: {eps}}}"
    code, _, err = advcore("check", root / "experiments/linf_gradmatch.yaml", *sets, "--set", change)
    assert code == 2 and "attack.eps must be" in err and f"got {eps}" in err and "pixels are in [0, 1]" in err


# ---- data in files ----


def good() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        "x_train": draw.random((12, 1, 8, 8), np.float32), "y_train": np.arange(12) % 3,
        "x_test": draw.random((6, 1, 8, 8), np.float32), "y_test": np.arange(6) % 3,
    }  # fmt: skip


def spoilt(array: np.ndarray, i: int, value: float) -> np.ndarray:
    array = array.copy()
    array[i].flat[0] = value
    return array


BAD_ARRAYS = {
    "G5 empty": ({"x_train": np.zeros((0, 1, 8, 8), np.float32), "y_train": np.arange(0)}, ["at least one"]),
    "G5 no test": ({"x_test": np.zeros((0, 1, 8, 8), np.float32), "y_test": np.arange(0)}, ["at least one"]),
    "G5 no rows": ({"x_train": np.zeros((12, 64), np.float32)}, ["(N, C, H, W)", "(12, 64)"]),
    "G5 one number": ({"x_train": np.float32(1)}, ["images"]),
    "G5 fewer labels": ({"y_train": np.arange(11) % 3}, ["(11,)", "12 images"]),
    "G5 labels lack": ({"y_train": None}, ["y_train is missing"]),
    "G6 out of range": ({"y_test": np.arange(6)}, ["0..2", "got 3", "example 3", "renumber"]),
    "G6 negative": ({"y_train": np.arange(12) % 3 - 1}, ["got -1", "example 0"]),
    "G6 above int64": ({"y_train": np.arange(12).astype(np.uint64) + 2**63}, ["got", "example 0"]),
    "G6 huge": ({"y_train": np.arange(12) + 10**12}, ["got 1000000000000 at example 0"]),
    "G6 float": ({"y_train": np.arange(12) / 4}, ["float64"]),
    "G6 bool": ({"y_train": np.arange(12) > 5}, ["bool"]),
    "G6 one-hot": ({"y_train": np.eye(3, dtype=int)[np.arange(12) % 3]}, ["(12, 3)"]),
    "G6 text": ({"y_train": np.array(["cat", "dog"] * 6)}, ["<U3"]),
    "G6 objects": ({"y_train": np.array(["cat", 1] * 6, dtype=object)}, ["pickled"]),
    "G7 NaN": ({"x_train": spoilt(good()["x_train"], 7, np.nan)}, ["nan", "image"]),
    "G7 infinite": ({"x_train": spoilt(good()["x_train"], 7, np.inf)}, ["inf", "image"]),
    "G7 0-255": ({"x_train": good()["x_train"] * 255}, ["image 0", "divide 0-255 values by 255"]),
    "G7 normalised": ({"x_test": good()["x_test"] * 4 - 2}, ["minimum -", "normalisation"]),
    "G7 whole numbers": ({"x_train": np.zeros((12, 1, 8, 8), np.int64)}, ["int64"]),
    "G7 complex": ({"x_train": np.zeros((12, 1, 8, 8), np.complex64)}, ["complex64"]),
    "G7 other channels": ({"x_test": np.zeros((6, 3, 8, 8), np.float32)}, ["(1, 8, 8)", "(3, 8, 8)"]),
    "G7 other size": ({"x_test": np.zeros((6, 1, 9, 9), np.float32)}, ["(1, 8, 8)", "(1, 9, 9)"]),
    "G7 mixed sizes": ({"x_train": np.array([np.zeros((8, 8)), np.zeros((9, 9))], dtype=object)}, ["pickled"]),
}


@pytest.mark.case("G5", "G6", "G7")
@pytest.mark.parametrize("changes, parts", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_faulty_arrays_are_refused_in_a_line_before_the_first_step(tmp_path, changes, parts):
    arrays = {name: array for name, array in (good() | changes).items() if array is not None}
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UserError) as caught:
        DATASETS["npz"](path=str(tmp_path / "d.npz")).load(torch.device("cpu"))
    (line,) = caught.value.lines
    assert all(part in line for part in parts), line


@pytest.mark.case("G5")
def test_one_example_is_refused_as_too_few_to_keep_some_of(advcore, root, tmp_path):
    arrays = good()
    np.savez(tmp_path / "d.npz", **{**arrays, "x_train": arrays["x_train"][:1], "y_train": arrays["y_train"][:1]})
    data = f"data={{name: npz, path: {tmp_path}/d.npz, num_classes: 3}}"
    code, _, err = advcore("check", root / "experiments/linf_gradmatch.yaml", "--set", data)
    assert code == 2 and err.count("\n") == 1 and "at least two examples" in err


@pytest.mark.case("G6")
def test_a_class_without_examples_only_warns(tmp_path, caplog):
    np.savez(tmp_path / "d.npz", **{**good(), "y_train": np.arange(12) % 2})
    data = DATASETS["npz"](path=str(tmp_path / "d.npz"), num_classes=4).load(torch.device("cpu"))
    assert data.num_classes == 4 and "2 of 4 classes have no training example: 2, 3" in caplog.text


def picture(folder, name: str, content: bytes | tuple[int, int] = (16, 16)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        Image.new("RGB", content).save(folder / name)


@pytest.mark.case("G7")
@pytest.mark.parametrize(
    "content",
    [b"", b"junk", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"GIF89a", b"BM" + b"\xff" * 60, b"%!PS-Adobe-3.0 EPSF"],
)
def test_a_picture_that_is_none_is_named_in_a_folder_and_in_a_table(tmp_path, content):
    for part in ("train", "val"):
        for label in ("a", "b"):
            for i in range(3):
                picture(tmp_path / part / label, f"{i}.png")
    picture(tmp_path / "train/b", "1.png", content)
    with pytest.raises(DataError, match=r"image 4 \(.*train/b/1.png\) cannot be decoded"):
        DATASETS["image_folder"](path=str(tmp_path), size=8, validation=0).load(torch.device("cpu"))
    whole = (tmp_path / "train/a/0.png").read_bytes()
    for part in ("train", "test"):
        images = [{"bytes": content if i == 4 and part == "train" else whole, "path": None} for i in range(6)]
        pq.write_table(pa.table({"image": images, "label": [0, 1] * 3}), tmp_path / f"{part}-0.parquet")
    with pytest.raises(DataError, match=r"image 4 \(.*train-0.parquet\) cannot be decoded"):
        DATASETS["parquet"](path=str(tmp_path), validation=0).load(torch.device("cpu"))


@pytest.mark.case("G7")
def test_pictures_of_mixed_sizes_are_refused_where_nothing_cuts_them(tmp_path):
    images = []
    for size in ((16, 16), (16, 16), (16, 17)):
        picture(tmp_path, "one.png", size)
        images.append({"bytes": (tmp_path / "one.png").read_bytes(), "path": None})
    for part in ("train", "test"):
        pq.write_table(pa.table({"image": images, "label": [0, 1, 1]}), tmp_path / f"{part}-0.parquet")
    with pytest.raises(DataError, match=r"\(17, 16\) at 2 and \(16, 16\) at first \(.*train-0.parquet\)"):
        DATASETS["parquet"](path=str(tmp_path), validation=0).load(torch.device("cpu"))


@pytest.mark.case("G7")
@pytest.mark.parametrize("path", ["no/such", "~nobody_of_that_name/x", "a" * 5000, "/dev/null", "."])
@pytest.mark.parametrize("name", DATASETS)
def test_a_path_without_the_data_is_refused_by_name(name, path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if "path" not in DATASETS[name].__dataclass_fields__:
        return  # embedded
    with pytest.raises(UserError) as caught:
        DATASETS[name](path=path).load(torch.device("cpu"))
    (line,) = caught.value.lines
    assert "data.path must be" in line or str(tmp_path) in line or path in line


@pytest.mark.case("G6", "G7")
@pytest.mark.parametrize(
    "x, y, told",
    [
        (torch.rand(12, 3, 8, 8), torch.arange(12) % 4, ["(3, 8, 8)", "raises", "1 channels"]),
        (torch.rand(12, 1, 8, 8), torch.arange(12) % 5, ["0..3", "got 4", "example 4"]),
        (torch.rand(12, 1, 8, 8), torch.arange(12) % 4 - 1, ["got -1", "example 0"]),
        (torch.cat([torch.rand(11, 1, 8, 8), torch.full((1, 1, 8, 8), 2.0)]), torch.arange(12) % 4, ["image 11", "2"]),
        (torch.rand(12, 1, 0, 8), torch.arange(12) % 4, ["pixels", "(1, 0, 8)"]),
    ],
    ids=["channels", "label", "negative label", "last image", "no pixels"],
)
def test_data_that_do_not_fit_a_model_are_found_before_the_first_step(model, x, y, told):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError) as caught:
        check_fits(model, as_source(TensorDataset(x, y), torch.device("cpu")))
    assert all(part in str(caught.value) for part in told) and "\n" not in str(caught.value)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    check_fits(model, as_source(TensorDataset(torch.rand(4, 1, 8, 8), torch.arange(4)), torch.device("cpu")))


# ---- indices, heads, checkpoints ----


@pytest.mark.case("G9")
@pytest.mark.parametrize("nested", ["subset", "concat", "subset of concat"])
def test_indices_of_a_coreset_mean_the_given_data_also_after_saving(model, source, tmp_path, nested):
    whole = TensorDataset(torch.stack([source[i][0] for i in range(96)]), source.labels())
    dataset = {
        "subset": Subset(whole, list(range(95, 15, -1))),
        "concat": ConcatDataset([Subset(whole, range(50, 96)), Subset(whole, range(20))]),
        "subset of concat": Subset(ConcatDataset([whole, whole]), range(90, 180, 2)),
    }[nested]
    selector = AdversarialCoreset(
        attack=TABLES["attacks"]["linf_pgd"](eps=0.1, steps=1),
        objective=OBJECTIVES["pgd"](),
        solver=SOLVERS["gradmatch"](),
        budget=0.2,
    )
    coreset = selector.select(model, dataset, seed=0)
    assert int(coreset.indices.max()) < len(dataset)
    again = Coreset.load(coreset.save(tmp_path / "c"))
    for (x, y, _), i in zip(again.subset(dataset), coreset.indices.tolist(), strict=True):
        assert torch.equal(x, dataset[i][0]) and y == dataset[i][1]
    for other in (whole, Subset(dataset, range(len(dataset) - 1)), Subset(dataset, range(len(dataset))[::-1])):
        with pytest.raises(DataError, match="selected on other data"):
            again.subset(other)
    held = Resident(torch.stack([x for x, _ in dataset]), torch.tensor([int(y) for _, y in dataset]))
    assert as_source(dataset, torch.device("cpu")).fingerprint() == held.fingerprint() == coreset.fingerprint


@pytest.mark.case("G10")
@pytest.mark.parametrize(
    "net, told",
    [
        (nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), "the model has none"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Softmax(1)), "linear layers it has: 1"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 4), nn.Tanh()), "1, 2"),
    ],
)
def test_a_model_without_a_head_is_told_how_to_name_one(net, told):
    with pytest.raises(ConfigError, match="^head must be") as caught:
        find_head(net.eval(), torch.rand(2, 1, 8, 8))
    assert told in str(caught.value)


@pytest.mark.case("G10")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_the_checkpoint_of_another_model_names_five_keys_with_both_shapes(tmp_path, suffix):
    def net(width: int, classes: int) -> nn.Module:
        hidden = [layer for _ in range(6) for layer in (nn.Linear(width, width), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), *hidden, nn.Linear(width, classes))

    path = tmp_path / f"w.{suffix}"
    state = net(8, 10).state_dict()
    save_tensors(path, state, {}) if suffix == "safetensors" else torch.save(state, path)
    own = net(8, 4)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_state(own, path)
    assert "2 keys differ" in str(caught.value) and "14.weight [4, 8] / [10, 8]" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    with pytest.raises(CheckpointError) as caught:
        load_state(net(9, 10), path)
    assert str(caught.value).count(" / ") - 1 == 5
    with pytest.raises(CheckpointError, match="not in the model"):
        load_state(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), path)
