"""Batches by index: the same from memory and from a DataLoader, and one clear error for each bad example."""

import multiprocessing
import os
import re
import signal
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from advcore.data.checks import check_images, check_labels
from advcore.data.contract import cut_into_chunks, to_float
from advcore.data.source import Resident, Streamed, as_source
from advcore.data.streamed import _CheckedExamples
from advcore.errors import DataError
from advcore.runtime.signals import hold_signals, ignore_signals

N, SHAPE = 12, (3, 5, 4)


class Pairs(Dataset):
    """A user's own data set: a list of items, whatever they are."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Endless:
    """No length."""

    def __getitem__(self, i):
        return torch.zeros(SHAPE), 0


def images(dtype=torch.float32):
    pixels = torch.randint(0, 256, (N, *SHAPE), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return pixels if dtype == torch.uint8 else pixels.to(dtype) / 255


LABELS = torch.arange(N) % 3


def pairs(x=None, y=None):
    """Good examples, some replaced: {index: value}."""
    x, y = x or {}, y or {}
    return Pairs([(x.get(i, images()[i]), y.get(i, int(LABELS[i]))) for i in range(N)])


def read(source, *chunks):
    return list(source.batches([torch.tensor(chunk) for chunk in chunks]))


def refused(make):
    """The one line that `make` is refused with."""
    with pytest.raises(DataError) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(message, index):
    return re.search(rf"(?<![\d.]){index}(?![\d.])", message) is not None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_memory_and_loader_give_the_same_batches_in_the_order_asked(dtype):
    x = images(dtype)
    order = [[7, 2, 2, 11], [0], [5, 4, 3, 1, 9]]
    held, streamed = Resident(x, LABELS), Streamed(TensorDataset(x, LABELS))
    for chunk, ours, theirs in zip(order, read(held, *order), read(streamed, *order), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype
        indices, batch, y = ours
        assert indices.tolist() == chunk and y.tolist() == [i % 3 for i in chunk]
        for row, i in zip(batch, chunk, strict=True):  # one image at a time
            assert torch.equal(row, x[i] / 255 if dtype == torch.uint8 else x[i])


def test_sources_agree_on_size_shape_labels_items_and_fingerprint():
    held, streamed = Resident(images(), LABELS), Streamed(TensorDataset(images(), LABELS))
    assert len(held) == len(streamed) == N and held.shape == streamed.shape == SHAPE
    assert torch.equal(held.labels(), streamed.labels()) and torch.equal(held.labels(), LABELS)
    assert held.fingerprint() == streamed.fingerprint()
    assert torch.equal(held[4][0], streamed[4][0]) and held[4][1] == streamed[4][1] == 1


def test_fingerprint_tells_other_labels_and_another_size():
    one = Resident(images(), LABELS).fingerprint()
    assert Resident(images(), LABELS.flip(0)).fingerprint() != one
    assert Resident(images()[:-1], LABELS[:-1]).fingerprint() != one


@pytest.mark.case("G9")
def test_indices_mean_the_data_set_given_through_subset_and_concat():
    whole = TensorDataset(images(), LABELS)
    picked = Subset(whole, [9, 1, 6, 3])
    both = ConcatDataset([picked, Subset(whole, [0, 11])])
    for dataset, inner in ((picked, [9, 1, 6, 3]), (both, [9, 1, 6, 3, 0, 11])):
        order = list(reversed(range(len(inner))))
        ((indices, x, y),) = read(as_source(dataset, torch.device("cpu")), order)
        assert indices.tolist() == order
        assert torch.equal(x, images()[[inner[i] for i in order]])
        assert y.tolist() == [inner[i] % 3 for i in order]


def test_bytes_become_floats_in_unit_range_and_floats_stay():
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    x = torch.rand(3, dtype=torch.float64)
    assert to_float(x) is x


def test_a_source_is_not_wrapped_again():
    held = Resident(images(), LABELS)
    assert as_source(held, torch.device("cpu")) is held


@pytest.mark.parametrize(
    "y", [2, np.int64(2), np.uint8(2), torch.tensor(2), np.array(2)], ids=lambda y: type(y).__name__
)
def test_any_whole_number_is_a_label(y):
    ((_, _, labels),) = read(Streamed(pairs(y={3: y})), [3])
    assert labels.tolist() == [2] and labels.dtype == torch.int64


def test_one_worker_reads_the_same_batches_and_leaves_the_global_random_state():
    dataset = TensorDataset(images(), LABELS)
    before = torch.get_rng_state()
    alone, helped = Streamed(dataset), Streamed(dataset, workers=1)
    for a, b in zip(read(alone, [3, 1], [7]), read(helped, [3, 1], [7]), strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_in_a_worker_is_the_same_single_line():
    dataset = pairs(y={5: "cat"})
    here, there = (refused(lambda w=w: read(Streamed(dataset, workers=w), [4, 5], [6])) for w in (0, 1))
    assert here == there


BAD_IMAGES = {
    "0-255 floats": (lambda x: x * 255, "divide 0-255 values by 255"),
    "normalised": (lambda x: (x - 0.5) / 0.25, "normalisation"),
    "NaN": (lambda x: x.clone().index_fill_(2, torch.tensor([1]), float("nan")), "nan"),
    "infinity": (lambda x: x.clone().index_fill_(2, torch.tensor([1]), float("inf")), "inf"),
    "a little above 1": (lambda x: x * 0 + 1.001, "1.001"),
}


@pytest.mark.parametrize("spoil, way_out", BAD_IMAGES.values(), ids=BAD_IMAGES)
@pytest.mark.case("G7")
def test_bad_pixels_name_the_first_bad_image_and_the_way_out(spoil, way_out):
    x = images()
    x[[7, 10]] = torch.stack([spoil(x[7]), spoil(x[10])])
    for make in (
        lambda: Resident(x, LABELS),
        lambda: read(Streamed(TensorDataset(x, LABELS)), range(6), range(6, N)),
    ):
        message = refused(make)
        assert names(message, 7) and not names(message, 10) and way_out in message


@pytest.mark.case("G7")
def test_an_image_error_reports_its_range():
    x = images()
    x[4] = 0.5
    x[4, 0, 0, 0], x[4, 0, 0, 1] = -3, 77
    message = refused(lambda: check_images(x, torch.arange(100, 100 + N)))
    assert names(message, 104) and "-3" in message and "77" in message


def test_rounding_just_outside_the_range_is_accepted():
    check_images(torch.tensor([1 + 5e-5, -5e-5]).view(1, 1, 1, 2), torch.tensor([0]))


BAD_ITEMS = {
    "mixed sizes": (pairs(x={5: torch.zeros(3, 6, 6), 8: torch.zeros(3, 7, 7)}), "(3, 6, 6)"),
    "no channels": (pairs(x={5: torch.zeros(5, 4)}), "(5, 4)"),
    "not a tensor": (pairs(x={5: np.zeros(SHAPE, np.float32)}), "ndarray"),
    "one-hot tensor": (pairs(y={5: torch.eye(3)[1].long()}), "tensor([0, 1, 0])"),
    "one-hot array": (pairs(y={5: np.eye(3, dtype=int)[1]}), "array([0, 1, 0])"),
    "text": (pairs(y={5: "cat"}), "'cat'"),
    "float": (pairs(y={5: 1.0}), "1.0"),
    "float tensor": (pairs(y={5: torch.tensor(1.5)}), "1.5"),
    "float array": (pairs(y={5: np.array(1.5)}), "1.5"),
    "bool": (pairs(y={5: True}), "True"),
    "missing": (Pairs([(images()[i], 0) if i != 5 else (images()[i], None) for i in range(N)]), "None"),
    "no pair": (Pairs([(images()[i], 0) if i != 5 else images()[i] for i in range(N)]), "Tensor"),
    "whole-number pixels": (Pairs([(images(torch.uint8)[i].int(), 0) for i in range(N)]), "int32"),
}


@pytest.mark.parametrize("dataset, got", BAD_ITEMS.values(), ids=BAD_ITEMS)
@pytest.mark.case("G5", "G6", "G7")
def test_a_bad_item_is_one_error_that_says_what_it_is_and_where(dataset, got, request):
    message = refused(lambda: read(Streamed(dataset), range(N)))
    assert got in message
    assert names(message, 5) or "int32" in got  # a wrong type of pixels is the whole data set's


@pytest.mark.parametrize("bad", [3, -1, 255])
@pytest.mark.case("G6")
def test_labels_out_of_range_name_value_example_and_classes(bad):
    y = LABELS.clone()
    y[[4, 9]] = bad
    message = refused(lambda: check_labels(y, torch.arange(50, 50 + N), num_classes=3))
    assert names(message, 54) and not names(message, 59) and str(bad) in message and "0..2" in message


@pytest.mark.case("G6")
def test_labels_in_range_pass_though_a_class_is_absent():
    check_labels(torch.tensor([0, 2]), torch.arange(2), num_classes=4)


@pytest.mark.parametrize(
    "make, got",
    [
        (lambda: Streamed(Pairs([])), "empty"),
        (lambda: Resident(torch.zeros(0, *SHAPE), torch.zeros(0).long()), "0 labels"),
        (lambda: Streamed(Endless()), "Endless"),
        (lambda: Resident(images(), LABELS[:-1]), "11 labels"),
        (lambda: Resident(images()[0], LABELS), str(SHAPE)),
        (lambda: Resident(images(), LABELS.float()), "float32"),
        (lambda: Resident(images(), torch.eye(3)[LABELS].long()), "(12, 3)"),
        (lambda: Resident(images(torch.uint8).int(), LABELS), "int32"),
    ],
    ids=[
        "empty",
        "empty tensors",
        "no length",
        "label missing",
        "one image",
        "floats",
        "one-hot",
        "int pixels",
    ],
)
@pytest.mark.case("G5", "G6", "G7")
def test_bad_data_are_refused_at_once(make, got):
    assert got in refused(make)


@pytest.mark.case("G5")
def test_one_example_is_enough():
    ((_, x, y),) = read(Streamed(Pairs([(images()[0], 0)])), [0])
    assert x.shape == (1, *SHAPE) and y.tolist() == [0]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(n=st.integers(1, 70), size=st.integers(2, 20))
def test_chunks_keep_the_order_and_never_end_in_a_lone_example(n, size):
    pieces = cut_into_chunks(torch.arange(n), size)
    assert torch.cat(pieces).tolist() == list(range(n))
    assert all(len(piece) == size for piece in pieces[:-1])
    assert len(pieces) == 1 or 2 <= len(pieces[-1]) <= size + 1


def test_a_worker_that_is_still_dying_is_waited_for():
    """What it sent is lost before it is gone, and the loader says no more than EOFError."""
    worker = multiprocessing.get_context("fork").Process(target=lambda: (time.sleep(0.3), os._exit(3)))
    worker.start()
    worker.id = 0
    checked = _CheckedExamples([(torch.rand(1, 2, 2), 0)] * 4, (1, 2, 2), workers=1)
    checked._being_read[0] = 2
    line = str(checked.explain_loss([worker], torch.arange(4), EOFError()))
    assert line.startswith("example 2 cannot be read: the worker process") and "exit code 3" in line


def test_a_signal_to_the_group_spares_a_worker_that_is_only_starting():
    """It comes when the worker has been forked, and before the worker has come to ignore it."""
    with hold_signals():
        worker = multiprocessing.get_context("fork").Process(target=lambda: (time.sleep(0.2), ignore_signals()))
        worker.start()
    os.kill(worker.pid, signal.SIGTERM)
    worker.join()
    assert worker.exitcode == 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT}
