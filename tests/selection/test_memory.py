"""What a selection will hold, told beforehand; what goes to a file, and what is refused."""

import math
import re
import tempfile
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import Dataset

from advcore import AdversarialCoreset
from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.objectives import Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.rows import KINDS, FactoredRows
from advcore.rows.on_disk import FactorStore
from advcore.selection.coreset import TARGETS
from advcore.selection.memory import Estimate, estimate, settle
from advcore.selection.partition import PARTITIONS
from advcore.solvers import Craig, EasyCore, GradMatch, Random

CPU = torch.device("cpu")
ATTACK = LinfPGD(eps=0.1, steps=2)
COUNTS, C, D = [40, 30, 20, 6], 4, 24  # of the fixtures `source` and `model`
BOTH = pytest.mark.parametrize("solver", [GradMatch(), Craig()], ids=lambda s: type(s).__name__)


def selector(solver=None, objective=None, **settings) -> AdversarialCoreset:
    settings = {"attack": ATTACK, "block_size": 16, "budget": 0.25, **settings}
    return AdversarialCoreset(objective=objective or Trades(), solver=solver or GradMatch(), **settings)


def told(chooser, counts=COUNTS, **more) -> Estimate:
    return estimate(chooser, counts=list(counts), classes=C, features=D, **more)


def between(chooser) -> float:
    """A limit in GB that a selection exceeds, but not with its rows in a file."""
    found = told(chooser)
    return (found.peak + replace(found, spilled=True).peak) / 2e9


# ---- estimate ----


@pytest.mark.parametrize(("objective", "passes"), [(Standard(), 1), (Pgd(), 1), (Trades(), 2)])
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("size", [2, 4, 8])
def test_rows_are_the_factors_of_every_pass(model, source, objective, passes, partition, size):
    chooser = selector(objective=objective, partition=partition)
    assert told(chooser, itemsize=size).rows == 96 * (C + D) * passes * size


@pytest.mark.parametrize("kind", KINDS)
def test_the_told_rows_are_what_a_measurement_holds(model, source, kind):
    chooser = selector(Recorder(GradMatch()), partition="whole", rows=kind)
    chooser.select(model, source, seed=0)
    assert chooser.solver.sizes == [told(chooser).rows]


def test_a_problem_is_the_largest_class_or_no_copy_at_all():
    widths = {name: told(selector(partition=name)) for name in PARTITIONS}
    for name in ("per_class", "per_class_per_gradient"):
        assert widths[name].problem == 40 * (C + D) * 2 * 4
        assert widths[name].matrix == 8 * 40 * 40
    assert widths["whole"].problem == widths["per_batch"].problem == 0
    assert widths["whole"].matrix == 8 * 96 * 96
    assert widths["per_batch"].matrix == 8 * 6 * 6  # blocks of 16
    assert told(selector(partition="per_batch"), counts=[40, 30, 20, 7]).matrix == 8 * 7 * 7


@pytest.mark.parametrize("free, held", [(GradMatch(matrix="free"), GradMatch()), (Craig(matrix="free"), Craig())])
def test_a_solver_says_whether_it_holds_a_matrix(free, held):
    assert told(selector(free)).matrix == 0 < told(selector(held)).matrix
    large = {"counts": [40_000] * 4}
    assert told(selector(held), **large).matrix == 0  # more than 4 GB is not held
    assert told(selector(replace(held, matrix="held")), **large).matrix == 4 * 40_000**2


@pytest.mark.parametrize(
    "chooser",
    [selector(Random()), selector(EasyCore()), selector(budget=1.0), selector(Craig(), budget=1.0)],
    ids=lambda s: f"{type(s.solver).__name__} {s.budget}",
)
def test_nothing_is_told_where_no_row_is_measured(chooser):
    assert told(chooser) is None


@pytest.mark.parametrize("partition", PARTITIONS)
def test_more_picks_never_take_less(partition):
    peaks = [told(selector(budget=share, partition=partition), counts=[4000] * 4).peak for share in (0.1, 0.5, 0.9)]
    assert peaks == sorted(peaks)
    if partition == "whole":
        assert peaks[0] < peaks[1] < peaks[2]


@BOTH
def test_the_height_is_the_sum_of_what_is_held_at_the_same_time(solver):
    found = told(selector(solver))
    assert found.peak == found.rows + found.problem + found.matrix + found.solver + found.working
    assert replace(found, spilled=True).peak == found.peak - found.rows


# ---- settle ----

FOUND = Estimate(rows=3 * 10**9, problem=10**9, matrix=10**9, solver=0, working=0)


@pytest.mark.parametrize(("limit", "spilled"), [(5.0, False), (5.000001, False), (4.999999, True), (2.0, True)])
def test_the_limit_itself_is_still_allowed(limit, spilled):
    found, events = settle(FOUND, limit, CPU)
    assert found == replace(FOUND, spilled=spilled) and [event.kind for event in events] == ["memory"] * spilled
    assert all(part in event.text for event in events for part in (f"{limit:g} GB", "3 GB", "5 GB"))


@pytest.mark.parametrize("limit", [1.999999, 1e-6])
def test_what_even_a_file_does_not_help_is_refused(limit):
    with pytest.raises(ConfigError) as error:
        settle(FOUND, limit, CPU)
    (line,) = error.value.lines
    assert all(part in line for part in ("memory_limit", "2 GB", f"{limit:g} GB", "per_class", "matrix: free"))


@pytest.mark.parametrize("size", [1_234_567_890, 2_004_999_999, 999_499_999, 1_999_999_999, 123_456, 7])
def test_the_limit_that_a_refusal_asks_for_is_enough(size):
    found = replace(FOUND, problem=size, matrix=0)
    with pytest.raises(ConfigError) as error:
        settle(found, size / 4e9, CPU)
    asked = float(re.search(r"at least (\S+) GB", str(error.value)).group(1))
    assert settle(found, asked, CPU)[0].spilled
    assert asked * 1e9 == pytest.approx(size, rel=0.02)


def test_without_a_limit_it_is_a_share_of_what_is_free(monkeypatch):
    free = {"is": 5e9}
    monkeypatch.setattr("advcore.selection.memory._find_allowed_bytes", lambda device: free["is"])
    assert settle(FOUND, None, CPU) == (FOUND, ())
    free["is"] = 4e9
    found, (event,) = settle(FOUND, None, CPU)
    assert found.spilled and "4 GB" in event.text and "80 %" in event.text
    free["is"] = 1e9
    with pytest.raises(ConfigError, match="memory_limit.*80 %.* 1 GB"):
        settle(FOUND, None, CPU)
    free["is"] = None  # not known
    assert settle(FOUND, None, CPU) == (FOUND, ())


# ---- select ----


class Recorder:
    """A solver that keeps the size of the rows it was given, and whether they are read from a file."""

    reads, has_target = "last_layer", True

    def __init__(self, inner):
        self.inner, self.sizes, self.from_file = inner, [], []

    def __call__(self, rows, k, *, target=None, generator):
        self.sizes.append(rows.nbytes)
        self.from_file.append(getattr(getattr(rows, "members", rows), "release", None) is not None)
        return self.inner(rows, k, target=target, generator=generator)

    def memory(self, n, k):
        return self.inner.memory(n, k)


def watched(note) -> LinfPGD:
    """An attack that says when it is called."""

    class Watched(LinfPGD):
        def __call__(self, loss_fn, x, *, generator):
            note()
            return super().__call__(loss_fn, x, generator=generator)

    return Watched(eps=0.1, steps=2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def same(one, two) -> bool:
    facts = ("quality", "info", "fingerprint")
    arrays = torch.equal(one.indices, two.indices) and torch.equal(one.weights, two.weights)
    return arrays and all(getattr(one, name) == getattr(two, name) for name in facts)


@pytest.mark.parametrize("partition", PARTITIONS)
@BOTH
def test_rows_in_a_file_give_the_same_coreset_bit_for_bit(model, source, folder, caplog, solver, partition):
    chooser = selector(Recorder(solver), partition=partition)
    plain = chooser.select(model, source, seed=0)
    limit = between(chooser)
    spilled = replace(chooser, memory_limit=limit).select(model, source, seed=0)
    assert same(plain, spilled) and plain.events == ()
    assert len(spilled.events) == len(caplog.records) == 1
    assert f"{limit:g}" in spilled.events[0].text and spilled.events[0].text in caplog.text
    assert caplog.records[0].levelname == "WARNING" and not list(folder.iterdir())
    half = len(chooser.solver.from_file) // 2
    assert not any(chooser.solver.from_file[:half])
    assert all(chooser.solver.from_file[half:]) == (partition in ("whole", "per_batch"))  # a class is taken out


@pytest.mark.parametrize("solver", [GradMatch(matrix="free"), Craig(matrix="free")], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_also_without_a_matrix_and_for_every_kind_of_row(model, source, folder, solver, kind):
    chooser = selector(solver, partition="whole", rows=kind)
    spilled = replace(chooser, memory_limit=between(chooser)).select(model, source, seed=0)
    assert len(spilled.events) == 1 and same(chooser.select(model, source, seed=0), spilled)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_also_with_the_validation_examples_rows_in_a_file(model, source, folder, partition):
    chooser = selector(partition=partition, target="validation")
    held_out = Resident(source._images[:50], source.labels()[:50])
    plain = chooser.select(model, source, seed=0, validation=held_out)
    spilled = replace(chooser, memory_limit=between(chooser)).select(model, source, seed=0, validation=held_out)
    assert len(spilled.events) == 1 and same(plain, spilled) and not list(folder.iterdir())


def test_a_limit_that_is_enough_changes_nothing(model, source, caplog):
    chooser = selector()
    enough = replace(chooser, memory_limit=told(chooser).peak / 1e9 * (1 + 1e-9))
    assert same(chooser.select(model, source, seed=0), enough.select(model, source, seed=0)) and not caplog.records


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_limit_too_small_for_a_file_is_refused_before_anything_is_attacked(model, source, folder, partition, target):
    attacked, ledger = [], CostLedger()
    chooser = selector(partition=partition, target=target, attack=watched(lambda: attacked.append(1)))
    least = replace(told(chooser), spilled=True).peak
    with pytest.raises(ConfigError) as error:
        replace(chooser, memory_limit=least / 1.1e9).select(model, source, seed=0, ledger=ledger, validation=source)
    (line,) = error.value.lines
    assert all(part in line for part in ("memory_limit", f"{least / 1e9:.2g}"[:4], f"{least / 1.1e9:g}", "per_class"))
    assert attacked == [] and ledger.sum_units() == 0 and not list(folder.iterdir())


def test_no_file_is_left_when_a_selection_fails_half_way(model, source, folder):
    class Stops(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.seen = model, 0

        def forward(self, x):
            self.seen += len(x)
            if self.seen > 300:
                raise RuntimeError("stop")
            return self.inner(x)

    chooser = selector(chunk_size=16)
    with pytest.raises(RuntimeError, match="stop"):
        replace(chooser, memory_limit=between(chooser)).select(Stops(), source, seed=0)
    assert not list(folder.iterdir())


class Counted(Dataset):
    """A map-style data set that keeps which examples were read."""

    def __init__(self, source):
        self.images, self.labels, self.read = source._images, source.labels(), []

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        self.read.append(i)
        return self.images[i], int(self.labels[i])


@pytest.mark.parametrize("limited", [False, True])
def test_a_streamed_set_without_known_labels_is_estimated_without_reading_it(model, source, limited):
    data, read = Counted(source), []
    chooser = selector(attack=watched(lambda: read.append(sorted(set(data.read)))), chunk_size=16)
    even = told(chooser, counts=[math.ceil(96 / C)] * C)
    limit = (even.peak + replace(even, spilled=True).peak) / 2e9 if limited else None
    coreset = replace(chooser, memory_limit=limit).select(model, data, seed=0)
    repeated = range(0, 96, 6)  # the examples that are read twice, to see whether they change
    assert read[0] == sorted({*range(16), *repeated}) and read[-1] == list(range(96))
    assert len(coreset.events) == limited
    # one measurement, the labels of the fingerprint, and the first two images for a look at the shapes
    assert all(data.read.count(i) <= 2 + 2 * (i in repeated) for i in range(2, 96))
    assert same(coreset, chooser.select(model, source, seed=0))


# ---- what is told is what is held ----


def test_the_validation_examples_rows_count_too(model, source):
    chooser = selector(partition="whole", target="validation")
    limit = (told(chooser).peak + told(chooser).rows / 2) / 1e9  # the 96 others' rows are as large as the 96's own
    assert replace(chooser, memory_limit=limit).select(model, source, seed=0, validation=source).events


def test_the_rows_of_a_float64_model_count_in_full(model, source):
    chooser = selector(Recorder(GradMatch()), partition="whole")
    exact = Resident(source._images.double(), source.labels())
    chooser.select(model.double(), exact, seed=0)
    assert chooser.solver.sizes == [told(chooser, itemsize=8).rows]
    limit = (told(chooser).peak + told(chooser, itemsize=8).peak) / 2e9
    assert replace(chooser, memory_limit=limit).select(model, exact, seed=0).events


class Largest(TorchFunctionMode):
    """Keeps the size of the largest new tensor."""

    def __init__(self, but: FactoredRows):
        super().__init__()
        self.nbytes, self.known = 0, {part.untyped_storage().data_ptr() for part in (*but.residuals, *but.features)}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in self.known:
                self.nbytes = max(self.nbytes, made.nbytes)
        return out


@pytest.mark.parametrize("solver", [GradMatch(matrix="free"), Craig(matrix="free")], ids=str)
def test_no_solver_copies_the_rows_of_a_file_into_memory(tmp_path, solver):
    n, wide = 1200, 1000
    store = FactorStore(("clean",), n, tmp_path)
    generator = torch.Generator().manual_seed(0)
    store.append("clean", torch.randn(n, 2, generator=generator), torch.randn(n, wide, generator=generator))
    rows = FactoredRows(**store.factors())
    chooser = selector(solver, Standard(), partition="whole", budget=10 / n)
    found = estimate(chooser, counts=[n // 2] * 2, classes=2, features=wide)
    with Largest(rows) as seen:
        solver(rows, 10, generator=Stream(seed=0, purpose="solver").at(torch.arange(n)))
    room = max(found.matrix, found.solver, found.working)
    assert seen.nbytes <= max(room, rows.nbytes // 2)
