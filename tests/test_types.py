"""Coreset: what it refuses, how it weighs, and that what is loaded is what was saved."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from torch.utils.data import ConcatDataset, Dataset, Subset

from advcore.errors import CheckpointError, ConfigError, DataError, UnsafeFileError
from advcore.files import load_arrays, save_arrays
from advcore.selection.result import Coreset
from advcore.types import Event, Flag, Selection, digest_labels


class Plain(Dataset):
    """Examples that name their own index; `shift` is what a view might do to images."""

    def __init__(self, labels, shift=0.0):
        self.labels, self.shift = list(labels), shift

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return torch.full((1, 2, 2), float(i)) + self.shift, self.labels[i]


LABELS = [i % 3 for i in range(10)]


def coreset(indices=(7, 2, 5), weights=(1.0, 4.0, 1.0), labels=LABELS, **changes):
    facts = {
        "indices": torch.tensor(indices, dtype=torch.long),
        "weights": torch.tensor(weights),
        "num_examples": len(labels),
        "fingerprint": digest_labels(labels.__getitem__, len(labels)),
        "solver": "craig",
        "partition": "per_class",
        "seed": 3,
        "budget": 0.3,
        "epoch": 4,
        "quality": {"gradient_error": 0.25, "class_counts": [1, 1, 1], "overlap": None},
        "cost": {"passes": 110, "seconds": {"attack": 0.5}},
        "info": ({"problem": "class 0", "gains": [2.5, 0.125]}, {"problem": "class é"}),
        "events": (Event("solver", "class 2: the solver picked nothing"),),
    }
    return Coreset(**(facts | changes))


def test_a_coreset_is_frozen_and_as_long_as_its_indices():
    made = coreset()
    assert len(made) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.seed = 4


@pytest.mark.parametrize("indices", [(), (1, 1, 2), (0, 10, 1), (-1, 0, 1)])
def test_indices_must_be_unique_and_inside(indices):
    with pytest.raises(DataError, match=rf"0\.\.9, got {len(indices)} "):
        coreset(indices=indices, weights=(1.0,) * len(indices))


def test_a_coreset_from_before_events_had_kinds_is_still_read(tmp_path):
    path = coreset().save(tmp_path / "coreset.npz")
    arrays, facts = load_arrays(path)
    assert facts["events"] == [{"kind": "solver", "text": "class 2: the solver picked nothing"}]
    save_arrays(path, arrays, facts | {"events": ["class 2: the solver picked nothing"]})
    old = Coreset.load(path)
    assert old.events == (Event("", "class 2: the solver picked nothing"),)
    assert Coreset.load(old.save(tmp_path / "again")).events == old.events
    for damaged in ([3], [{"kind": "solver"}], [{"kind": "solver", "text": "", "more": 1}]):
        save_arrays(path, arrays, facts | {"events": damaged})
        with pytest.raises(CheckpointError):
            Coreset.load(path)


def test_an_event_is_shown_as_its_text_and_cannot_be_changed():
    event = Event("memory", "rows go to a file")
    assert str(event) == f"{event}" == "rows go to a file" and event != Event("speed", "rows go to a file")
    assert Event.load({"kind": "memory", "text": "rows go to a file"}) == event
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.kind = "speed"


@given(kind=strategies.from_regex(r"[a-z-]+", fullmatch=True), text=strategies.text(min_size=1))
def test_a_flag_reads_back_from_what_a_record_holds(kind, text):
    flag = Flag(kind, text)
    assert str(flag) == f"{kind}: {text}" and Flag.read(str(flag)) == flag


@pytest.mark.parametrize(("text", "kind"), [("odd", "odd"), ("a:b", "a"), ("", "")])
def test_text_of_another_form_is_a_flag_with_all_of_it_as_text(text, kind):
    assert Flag.read(text) == Flag(kind, text)


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, float("nan"), 1.0), (1.0, float("inf"), 1.0)])
def test_weights_must_be_finite_and_one_each(weights):
    with pytest.raises(DataError, match="3 indices"):
        coreset(weights=weights)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(weights=strategies.lists(strategies.floats(2**-10, 1e4, width=32), min_size=1, max_size=10))
def test_training_weights_in_the_three_modes(weights):
    k, n = len(weights), len(LABELS)
    made = coreset(indices=range(k), weights=weights)
    mean = sum(weights) / k
    by_mode = {mode: made.training_weights(mode) for mode in ("coreset", "none", "batch")}
    assert all(w.dtype == torch.float32 and w.shape == (k,) for w in by_mode.values())
    assert by_mode["coreset"].tolist() == pytest.approx([w / mean for w in weights], rel=1e-5)
    assert float(by_mode["coreset"].double().mean()) == pytest.approx(1, rel=1e-6)
    assert by_mode["none"].tolist() == pytest.approx([w * k / n for w in weights], rel=1e-5)
    assert by_mode["batch"].tolist() == weights
    assert torch.equal(made.training_weights(), by_mode["coreset"])


def test_equal_weights_train_as_exactly_one():
    assert coreset(weights=(10 / 3,) * 3).training_weights().tolist() == [1.0] * 3


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (1.0, -3.0, 1.0)])
def test_weights_that_cannot_be_rescaled_say_the_way_out(weights):
    made = coreset(weights=weights)
    with pytest.raises(DataError, match="normalise: none"):
        made.training_weights()
    assert made.training_weights("none").tolist() == pytest.approx([w * 0.3 for w in weights])


def test_an_unknown_mode_offers_the_nearest():
    with pytest.raises(ConfigError, match="'coresets'.*'coreset'"):
        coreset().training_weights("coresets")


def test_subset_is_the_chosen_examples_with_their_weights_in_order():
    made, data = coreset(), Plain(LABELS)
    chosen = made.subset(data)
    assert len(chosen) == 3
    for position, index in enumerate(made.indices.tolist()):
        x, y, w = chosen[position]
        assert torch.equal(x, data[index][0]) and y == LABELS[index]
        assert w == made.training_weights()[position].item()


@pytest.mark.case("G9")
def test_subset_takes_another_view_of_the_same_data_and_any_nesting():
    made = coreset()
    assert made.subset(Plain(LABELS, shift=0.5))[0][0].unique().tolist() == [7.5]
    nested = ConcatDataset([Subset(Plain(LABELS), range(4)), Subset(Plain(LABELS), range(4, 10))])
    assert [int(x[0, 0, 0]) for x, _, _ in (made.subset(nested)[i] for i in range(3))] == [7, 2, 5]


@pytest.mark.parametrize("labels", [LABELS[:-1], LABELS + [0], [1] + LABELS[1:], LABELS[:-1] + [1]])
@pytest.mark.case("G9")
def test_other_data_is_refused(labels):
    with pytest.raises(DataError, match=rf"other data: 10 examples .* got {len(labels)} "):
        coreset().subset(Plain(labels))


def test_a_digest_reads_at_most_256_labels_and_spans_the_data():
    read = []
    digest_labels(lambda i: read.append(i) or 0, 10_000)
    assert len(read) == 256 == len(set(read)) and read[0] == 0 and read[-1] > 9_900
    assert digest_labels(lambda i: 0, 10_000) != digest_labels(lambda i: 0, 10_001)


def assert_equal(left, right):
    for entry in dataclasses.fields(Coreset):
        a, b = getattr(left, entry.name), getattr(right, entry.name)
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b) and a.dtype == b.dtype, entry.name
        else:
            assert a == b and type(a) is type(b), entry.name


@pytest.mark.parametrize("blocks", [None, torch.tensor([0, 0, 1])])
def test_what_is_loaded_is_what_was_saved(tmp_path, blocks):
    made = coreset(weights=(0.1, 1e-30, 3e30), blocks=blocks)
    path = made.save(tmp_path / "new" / "coreset.npz")
    assert_equal(made, Coreset.load(path))
    assert_equal(made, Coreset.load(Coreset.load(path).save(tmp_path / "again")))


def test_saving_again_replaces(tmp_path):
    coreset().save(tmp_path / "coreset.npz")
    coreset(seed=9, indices=(1,), weights=(2.0,)).save(tmp_path / "coreset.npz")
    assert Coreset.load(tmp_path / "coreset.npz").seed == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coreset.json", "coreset.npz"]


def test_facts_that_json_cannot_hold_leave_the_old_coreset_whole(tmp_path):
    path = coreset().save(tmp_path / "coreset.npz")
    for bad in (float("nan"), torch.zeros(1), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            coreset(weights=(9.0, 9.0, 9.0), quality={"gradient_error": bad}).save(path)
        assert_equal(Coreset.load(path), coreset())


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_one_flipped_bit_anywhere_is_noticed_or_changes_nothing(tmp_path, suffix):
    path = coreset().save(tmp_path / "coreset.npz")
    victim = path.with_suffix(suffix)
    whole = victim.read_bytes()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        victim.write_bytes(damaged)
        try:
            read = Coreset.load(path)
        except CheckpointError as error:
            assert "coreset" in str(error)
        else:
            assert_equal(read, coreset())  # \u00e9 and \u00E9 are the same letter
            assert suffix == ".json"


DAMAGES = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "foreign": lambda content: b"[1]",
    "missing": None,
}


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_missing_cut_zeroed_and_foreign_files_are_checkpoint_errors(tmp_path, suffix, damage):
    path = coreset().save(tmp_path / "coreset.npz")
    victim = path.with_suffix(suffix)
    if damage is None:
        victim.unlink()
    else:
        victim.write_bytes(damage(victim.read_bytes()))
    with pytest.raises(CheckpointError, match="coreset"):
        Coreset.load(path)


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.mkdir, (self.marker,)


def test_hostile_object_arrays_do_not_run(tmp_path):
    path = coreset().save(tmp_path / "coreset.npz")
    arrays, facts = load_arrays(path)
    marker = tmp_path / "it ran"
    for name in ("indices", "weights", "extra"):
        save_arrays(path, arrays | {name: np.array([Hostile(marker)], dtype=object)}, facts)
        with pytest.raises(UnsafeFileError, match="coreset.npz"):
            Coreset.load(path)
    assert not marker.exists()


def test_a_file_of_another_version_is_refused(tmp_path):
    path = coreset().save(tmp_path / "coreset.npz")
    arrays, facts = load_arrays(path)
    changes = [
        (arrays | {"more": arrays["weights"]}, facts),
        ({"indices": arrays["indices"]}, facts),
        (arrays, {name: value for name, value in facts.items() if name != "fingerprint"}),
        (arrays, facts | {"info": None}),
    ]
    for changed_arrays, changed_facts in changes:
        save_arrays(path, changed_arrays, changed_facts)
        with pytest.raises(CheckpointError, match="coreset.npz"):
            Coreset.load(path)


def test_the_facts_are_readable_by_anyone(tmp_path):
    path = coreset().save(tmp_path / "coreset.npz")
    facts = json.loads(path.with_suffix(".json").read_text())
    assert (facts["solver"], facts["seed"], facts["num_examples"]) == ("craig", 3, 10)
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["indices"].tolist() == [7, 2, 5]


@pytest.mark.parametrize(
    ("indices", "weights"),
    [([1, 1], [1.0, 1.0]), ([1, 2], [1.0]), ([1, 2], [1.0, float("nan")]), ([[1]], [[1.0]])],
    ids=["twice", "lengths", "nan", "shape"],
)
def test_a_solvers_answer_checks_itself(indices, weights):
    with pytest.raises(AssertionError):
        Selection(indices=torch.tensor(indices), weights=torch.tensor(weights))


def test_equal_weights_forget_the_solvers():
    made = coreset(weights=(3.0, 0.5, 1.0))
    assert made.training_weights("equal").tolist() == [1.0, 1.0, 1.0]
