"""Faults put into training examples: counted by hand, and nothing else changes."""

import pytest
import torch

from advcore.data import DATASETS
from advcore.data import injected_faults as faults
from advcore.data.base import Split
from advcore.data.injected_faults import Planted, inject_faults
from advcore.data.source import Streamed
from advcore.errors import ConfigError
from advcore.run.build import compute_fingerprint

CPU = torch.device("cpu")


@pytest.fixture
def split():
    """200 images of 4 classes, 50 each, every image of its own."""
    images = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Split(torch.arange(200) % 4, lambda positions: images[positions])


def planted(split, part=None, **faults):
    part = torch.arange(100, 200) if part is None else part
    return inject_faults(split, part, Planted(**faults), 4, seed=0)


def test_a_long_tail_falls_geometrically_to_its_ratio(split):
    _, part = planted(split, torch.arange(200), long_tail=8)
    assert (split.labels[part]).bincount().tolist() == [50, 25, 12, 6]  # 50 / 2^c, rounded to even
    assert part.tolist() == sorted(set(part.tolist()))


def test_a_share_gives_way_to_near_copies_of_others_of_its_class_each_as_often(split):
    found, part = planted(split, duplicates=0.6)
    before, after = split.images(part), found.images(part)
    copies = (before != after).flatten(1).any(1)
    assert copies.sum() == 60 and torch.equal(found.labels, split.labels)
    distance = (after[copies][:, None] - before[~copies][None]).abs().flatten(2).amax(2)
    nearest, source = distance.min(1)
    assert nearest.max() <= 2 / 255 + 1e-6 and nearest.min() > 0
    assert torch.equal(found.labels[part][copies], found.labels[part][~copies][source])
    assert source.bincount(minlength=40).unique().tolist() in ([1, 2], [1, 2, 3])  # 15 copies of 10 originals a class
    assert torch.equal(found.images(torch.arange(100)), split.images(torch.arange(100)))


def test_copies_of_grey_levels_stay_grey_levels(split):
    grey = (split.images(torch.arange(200)) * 255).round().to(torch.uint8)
    found, part = planted(Split(split.labels, lambda positions: grey[positions]), duplicates=0.5)
    moved = found.images(part)
    assert moved.dtype == torch.uint8
    nearest = (moved[:, None].int() - grey[part][None].int()).abs().flatten(2).amax(2).min(1).values
    assert nearest.max() == 2


def test_labels_become_another_class_in_the_given_share(split):
    found, part = planted(split, noise=0.3)
    changed = found.labels != split.labels
    assert changed.sum() == 30 and changed[part].sum() == 30
    assert found.labels.min() == 0 and found.labels.max() == 3
    shift = ((found.labels - split.labels) % 4)[changed]
    assert set(shift.tolist()) == {1, 2, 3}


def test_streamed_images_get_the_same_faults(split, monkeypatch):
    monkeypatch.setattr("advcore.data.split.RESIDENT_LIMIT", 0)
    held, part = planted(split, duplicates=0.5, noise=0.2)
    streamed, same = planted(Split(split.labels, split.images, may_stream=True), duplicates=0.5, noise=0.2)
    assert torch.equal(part, same) and torch.equal(held.labels, streamed.labels)
    source = streamed.make_source(part, CPU, workers=0)
    assert isinstance(source, Streamed)
    ((_, x, y),) = source.batches([torch.arange(len(part))])
    assert torch.equal(x, held.images(part)) and torch.equal(y, held.labels[part])


def test_digits_keep_validation_and_test_as_they_are():
    plain = DATASETS["digits"]().load(CPU)
    faulty = DATASETS["digits"](planted=Planted(noise=0.5))
    found = faulty.load(CPU)
    for name in ("validation", "test"):
        assert torch.equal(getattr(found, name).labels(), getattr(plain, name).labels())
    wrong = found.train.labels() != plain.train.labels()
    assert wrong.sum() == round(0.5 * len(plain.train))
    again = faulty.load(CPU)
    assert torch.equal(again.train.labels(), found.train.labels())
    assert torch.equal(found.whole[found.part], found.train.labels())


def test_copies_are_the_same_however_many_images_are_made_at_once(split, monkeypatch):
    found, part = planted(split, duplicates=0.5)
    whole = found.images(part)
    monkeypatch.setattr(faults, "_AT_ONCE", 7)
    assert torch.equal(found.images(part), whole)


def test_a_class_of_one_keeps_its_image_and_a_line_says_so(split, caplog):
    with caplog.at_level("WARNING"):
        found, part = inject_faults(split, torch.arange(4), Planted(duplicates=0.5), 4, seed=0)
    assert torch.equal(found.images(part), split.images(part)) and "0 copies instead of 2" in caplog.text


def test_scores_and_coresets_of_other_images_are_of_other_data():
    """A fingerprint is of 256 labels: copies keep them, and a few wrong ones may be others."""
    plain, copied, more, wrong, tailed = (
        compute_fingerprint(DATASETS["digits"](planted=planted).load(CPU))
        for planted in (
            None, Planted(duplicates=0.5), Planted(duplicates=0.6), Planted(noise=0.002), Planted(long_tail=5)
        )
    )  # fmt: skip
    assert len({plain, copied, more, wrong}) == 4 and tailed == plain  # what is left of a tail is where it was


@pytest.mark.parametrize("name, value", [("long_tail", 0.5), ("duplicates", 1.0), ("noise", -0.1)])
def test_bad_values_are_refused_with_their_name(name, value):
    with pytest.raises(ConfigError) as caught:
        Planted(**{name: value})
    assert name in str(caught.value) and str(value) in str(caught.value)
