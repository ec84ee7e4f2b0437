"""Every setting of every registered class, at every place of a run file, given what it cannot be; faulty data files."""

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from places import HUGE, Place, numeric, places, wrong_types
from torch import nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from advcore import AdversarialCoreset, Coreset
from advcore.data import DATASETS
from advcore.data.source import Resident, as_source
from advcore.errors import CheckpointError, ConfigError, DataError, UserError
from advcore.files import save_tensors
from advcore.models.base import find_head
from advcore.objectives import OBJECTIVES
from advcore.runner.config import from_dict, load, parse, resolved
from advcore.runner.run import load_state
from advcore.runner.schema import TABLES
from advcore.solvers import SOLVERS

PLACES = places()
each_place = pytest.mark.parametrize("place", PLACES, ids=str)


def told(run: dict) -> tuple[str, ...]:
    """The lines with which a run file is refused; each is one line, in our own words."""
    with pytest.raises(ConfigError) as caught:
        from_dict(run)
    lines = caught.value.problems
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


@pytest.mark.case("G2", "G4")
@each_place
def test_every_number_has_a_range_and_says_so(place):
    """What is out of range is refused by name; no number is too large to be read. A seed may be any whole number."""
    for name, kind in place.settings().items():
        if numeric(kind) is None:
            continue
        refused = []
        for value in (*HUGE, 10**10, -1, 0):
            try:
                config = from_dict(place.given(**{name: value}))
                assert from_dict(resolved(config)) == config
            except ConfigError as error:
                about(place, name, value, error.problems)
                refused.append(value)
        assert name.endswith("seed") or {HUGE[0], HUGE[1], HUGE[3]} <= set(refused), f"{place}: {name}"
        assert numeric(kind) is float or name.endswith("seed") or 10**10 in refused, f"{place}: {name}"


@pytest.mark.case("G2")
@each_place
def test_every_word_that_is_chosen_from_a_list_says_which_there_are(place):
    free = {"name", "path", "head", "network", "scores", "device"}  # any text, or checked against the machine or model
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
