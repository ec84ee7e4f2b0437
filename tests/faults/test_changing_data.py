"""Data that change under a run are refused in a line: their length, their labels, and images where an index counts."""

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.data.contract import cut_into_chunks
from advcore.data.source import Part, Resident, Streamed
from advcore.errors import CheckpointError, ConfigError, DataError
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.objectives import Pgd
from advcore.selection.schedule import Schedule
from advcore.solvers import EasyCore, GradMatch, Random
from advcore.training import SGD
from advcore.training.loop import Listener

ATTACK = LinfPGD(eps=0.1, steps=1)
N = 48
STAY = "an index must always name the same example: draw order, noise and subsets once, before the run"
IMAGES = (
    "must be the same each time it is read, got other pixels the second time ({} of 16 examples checked changed); "
    "select and score on the plain, un-augmented view, and augment in training alone (`augment` of the trainer)"
)


class Items(Dataset):
    """A list of examples, which a test changes."""

    def __init__(self, source, n=N):
        self.items = [source[i] for i in range(n)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Transformed(Items):
    """Gives what `transform` makes of an image."""

    def __init__(self, source, transform):
        super().__init__(source)
        self.transform = transform

    def __getitem__(self, i):
        x, y = self.items[i]
        return self.transform(x), y


class Buffered(Items):
    """Hands out one buffer again and again."""

    buffer = torch.zeros(1, 8, 8)

    def __getitem__(self, i):
        return self.buffer.copy_(self.items[i][0]), self.items[i][1]


class Relabelled(Items):
    """Draws noisy labels at each reading."""

    def __getitem__(self, i):
        return self.items[i][0], int(torch.randint(4, ()))


class Reshuffled(Items):
    """Has another order in each pass."""

    def __init__(self, source):
        super().__init__(source)
        self.order = list(range(N))

    def __getitem__(self, i):
        if i == 0:
            self.order = torch.randperm(N).tolist()
        return self.items[self.order[i]]


def build_trainer(solver=None, *, epochs=4, attack=ATTACK, **settings):
    selector = solver and AdversarialCoreset(objective=Pgd(), solver=solver, attack=ATTACK, budget=0.5)
    schedule = Schedule(epochs=epochs, budget=0.5, warm_start=0.5, period=1) if solver else Schedule(epochs=epochs)
    return Trainer(
        objective=Pgd(),
        attack=attack,
        selector=selector,
        batch_size=16,
        schedule=schedule,
        optimizer=SGD(lr=0.05),
        **settings,
    )


def select(model, data, solver=None):
    selector = AdversarialCoreset(objective=Pgd(), solver=solver or GradMatch(), attack=ATTACK, budget=0.5)
    return selector.select(model, data, seed=0)


def refuse(error, call):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


# ---- length ----


def test_a_data_set_that_changes_its_length_between_epochs_is_refused(model, source):
    for change, size in ((lambda items: items.append(items[0]), N + 1), (lambda items: items.pop(), N - 1)):
        data = Items(source)
        listener = Listener(on_epoch=lambda entry, out, data=data, change=change: change(data.items))
        message = refuse(DataError, lambda d=data, li=listener: build_trainer().fit(model, d, seed=0, listener=li))
        assert message == f"the data set must be as long as when it was first read, {N}, got {size}; {STAY}"


def test_validation_data_are_watched_too(model, source):
    held_out = Items(source, 20)
    listener = Listener(on_epoch=lambda entry, out: held_out.items.append(held_out.items[0]))
    message = refuse(DataError, lambda: build_trainer().fit(model, source, held_out, seed=0, listener=listener))
    assert message == f"the data set must be as long as when it was first read, 20, got 21; {STAY}"


@pytest.mark.parametrize("solver", [GradMatch(), Random()])
def test_a_subset_whose_indices_grow_is_refused(model, source, solver):
    subset = Subset(Items(source), list(range(32)))
    listener = Listener(on_coreset=lambda coreset: subset.indices.append(40))
    message = refuse(DataError, lambda: build_trainer(solver).fit(model, subset, seed=0, listener=listener))
    assert message == f"the data set must be as long as when it was first read, 32, got 33; {STAY}"


# ---- labels ----


@pytest.mark.parametrize("kind", [Reshuffled, Relabelled])
@pytest.mark.parametrize("solver", [None, GradMatch(), Random()])
def test_labels_that_differ_from_pass_to_pass_are_refused(model, source, kind, solver):
    message = refuse(DataError, lambda: build_trainer(solver).fit(model, kind(source), seed=0))
    assert message.startswith("the label of example ") and message.endswith(STAY)
    assert " must be the same each time it is read, " in message


@pytest.mark.parametrize("streamed", [False, True])
def test_the_line_names_the_example_and_both_labels(source, streamed):
    data = Items(source)
    part = Subset(data, torch.arange(N).flip(0).tolist())
    stream = Streamed(part, labels=torch.tensor([item[1] for item in data.items]).flip(0) if streamed else None)
    chunks = cut_into_chunks(torch.arange(N), 16)
    before = [y for _, _, y in stream.batches(chunks)]
    x, y = data.items[7]
    data.items[7] = (x, y + 1)
    message = refuse(DataError, lambda: list(stream.batches(chunks)))
    assert (
        message
        == f"the label of example {N - 8} must be the same each time it is read, {y} at first, got {y + 1}; {STAY}"
    )
    assert torch.equal(torch.cat(before), torch.tensor([item[1] for item in Items(source).items]).flip(0))


def test_the_labels_of_a_fingerprint_are_compared_too(source):
    stream = Streamed(Relabelled(source))
    list(stream.batches([torch.arange(N)]))
    assert refuse(DataError, stream.fingerprint).startswith("the label of example ")


def test_labels_given_in_advance_are_those_that_come_with_the_images(model, source):
    stream = Streamed(Items(source), labels=torch.zeros(N, dtype=torch.long))
    assert refuse(DataError, lambda: build_trainer().fit(model, stream, seed=0)).startswith("the label of example ")


def test_data_on_the_device_keep_the_labels_that_they_were_given(source):
    labels = source.labels().clone()
    data = Resident(source._images, labels)
    labels.fill_(0)
    assert torch.equal(data.labels(), source.labels()) and data.labels().device.type == "cpu"


@pytest.mark.gpu
def test_labels_on_the_gpu_are_returned_on_the_cpu(source):
    assert Resident(source._images, source.labels().cuda(), "cuda").labels().device.type == "cpu"


# ---- images ----

VIEWS = {
    "noise": lambda source: Transformed(source, lambda x: (x + 0.1 * torch.rand(x.shape)).clamp(0, 1)),
    "flip": lambda source: Transformed(source, lambda x: x.flip(-1) if torch.rand(()) < 0.5 else x),
    "crop": lambda source: Transformed(source, lambda x: x.roll(int(torch.randint(1, 8, ())), -1)),
    "changed in place": lambda source: Transformed(source, lambda x: x.mul_(0.9)),
    "in a subset": lambda source: Subset(VIEWS["noise"](source), list(range(40))),
    "in one of two": lambda source: ConcatDataset([Items(source), VIEWS["noise"](source)]),
}
each_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


@each_view
@pytest.mark.parametrize("solver", [GradMatch(), EasyCore(points="adversarial")])
def test_a_view_that_changes_is_refused_where_it_is_selected_on(model, source, view, solver):
    """By the library, and in a run before its first selection, or its first scores."""
    trainer = build_trainer(solver)
    message = refuse(DataError, lambda: trainer.fit(model, view(source), seed=0))
    number = message.partition("of example ")[2].split()[0]
    count = message.partition("second time (")[2].split()[0]
    assert message == f"the image of example {number} {IMAGES.format(count)}"
    if isinstance(solver, GradMatch):
        assert refuse(DataError, lambda: select(model, view(source))).startswith("the image of example ")


@each_view
@pytest.mark.parametrize("name", ["el2n", "adversarial_input_norm", "centre_distance", "last_layer"])
def test_rows_and_scores_of_a_view_that_changes_are_refused(model, source, view, name):
    """As a user collects them in a loop of their own."""
    settings = MeasurementSettings(ledger=CostLedger(), objective=Pgd(), attack=ATTACK)
    stream = Streamed(view(source))
    message = refuse(DataError, lambda: GRADIENTS[name].measure(model, stream, settings))
    assert message.startswith("the image of example ")


@each_view
def test_a_view_that_changes_trains_where_nothing_goes_by_index(model, source, view):
    assert build_trainer(epochs=2).fit(model, view(source), seed=0).epochs
    assert len(select(model, view(source), Random()).indices)


@each_view
def test_a_view_that_changes_cannot_be_remembered(model, source, view):
    trainer = build_trainer(attack=LinfPGD(eps=0.1, steps=1, start="remembered"))
    message = refuse(ConfigError, lambda: trainer.fit(model, view(source), seed=0))
    assert message.startswith("attack.start: remembered needs data that give an index the same image each time, got ")


@pytest.mark.parametrize("kind", [Items, Resident])
def test_images_that_change_between_two_selections_or_epochs_are_refused(model, source, kind):
    """With the same labels: only the pixels tell."""
    images = source._images[:N].clone()
    data = Resident(images, source.labels()[:N])
    if kind is Items:
        data = Items(source)
        data.items = [(images[i], y) for i, (_, y) in enumerate(data.items)]
    moved = Listener(on_coreset=lambda coreset: images[9].fill_(0.5))
    message = refuse(DataError, lambda: build_trainer(GradMatch()).fit(model, data, seed=0, listener=moved))
    assert message == f"the image of example 9 {IMAGES.format(1)}"
    forgotten = Listener(on_epoch=lambda entry, out: images[9].fill_(0.2))
    trainer = build_trainer(attack=LinfPGD(eps=0.1, steps=1, start="remembered"))
    message = refuse(ConfigError, lambda: trainer.fit(model, data, seed=0, listener=forgotten))
    assert "got 1 of 16 that change between reads (example 9)" in message


def test_a_part_is_watched_where_it_lies(source):
    images = source._images[:N].clone()
    data = Resident(images, source.labels()[:N])
    assert Part(data, torch.arange(4)).list_changed() == []
    images[9] = 0.5
    assert Part(data, torch.arange(4)).list_changed() == [9]


def test_one_buffer_for_all_examples_gives_each_its_image(model, source):
    """Slow twin: the same data, each image a tensor of its own."""
    chunks = cut_into_chunks(torch.arange(N), 16)
    for (_, x, y), (_, x_twin, y_twin) in zip(
        Streamed(Buffered(source)).batches(chunks), Streamed(Items(source)).batches(chunks), strict=True
    ):
        assert torch.equal(x, x_twin) and torch.equal(y, y_twin)
    coreset, twin = (select(model, kind(source)) for kind in (Buffered, Items))
    assert torch.equal(coreset.indices, twin.indices) and torch.equal(coreset.weights, twin.weights)


def test_data_that_stay_as_they_are_are_read_twice_at_sixteen_places(source):
    data = Items(source)
    reads = []
    stream = Streamed(Transformed(source, lambda x: reads.append(1) or x))
    reads.clear()
    assert stream.list_changed() == [] and len(reads) == 32
    assert stream.list_changed() == [] and len(reads) == 48
    assert Streamed(data).list_changed() == []


def test_a_part_of_another_source_is_refused_for_training(model, source):
    """Its batches name examples by their place in the whole, which are no places in its weights."""
    message = refuse(ConfigError, lambda: build_trainer().fit(model, Part(source, torch.arange(48, 96)), seed=0))
    assert message == (
        "train must be a data set, or a source that is not a part of another, got 'Part'; pass torch.utils.data.Subset("
        "data set, indices)"
    )
    assert build_trainer(epochs=1).fit(model, Subset(Items(source), list(range(8, 40))), seed=0).epochs


def test_verdicts_in_a_file_are_those_of_the_same_streamed_images(model, source, tmp_path):
    file, images = tmp_path / "verdicts.npz", Streamed(Items(source))
    verdicts = evaluate(model, images, [ATTACK], state=file).verdicts
    again = evaluate(model, Streamed(Items(source)), [ATTACK], state=file).verdicts
    assert all(torch.equal(verdicts[key], again[key]) for key in verdicts)
    with pytest.raises(CheckpointError, match="holds the verdicts of another evaluation"):
        evaluate(model, Streamed(Transformed(source, lambda x: x.flip(-1))), [ATTACK], state=file)
