"""No pass in train mode sees one example where BatchNorm cannot: one rule cuts, and what it cannot avoid is refused."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from advcore import AdversarialCoreset, Trainer
from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.data.contract import count_chunks, cut_into_chunks
from advcore.data.source import Resident, Streamed
from advcore.errors import ConfigError
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.minibatch import RULES
from advcore.objectives import Pgd
from advcore.runtime.out_of_memory import Pieces
from advcore.selection.result import Coreset
from advcore.selection.schedule import Schedule
from advcore.shares import measure_next_piece
from advcore.solvers import Craig, GradMatch, Random
from advcore.training import SGD
from advcore.training.steppers import UpdateSubsetStepper

ATTACK = LinfPGD(eps=0.1, steps=1)
REASON = (
    "the model cannot train on one (ValueError: Expected more than 1 value per channel when training, got input size "
    "torch.Size([1, 64]))"
)


class Pointwise(nn.Module):
    """BatchNorm1d over pixels: one image gives it one value per channel. It notes how many images each pass has."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, 4)
        self.sizes = []

    def forward(self, x):
        self.sizes.append((self.training, len(x)))
        return self.head(self.norm(x.flatten(1)))


def take(source, n):
    return Resident(source._images[:n], source.labels()[:n])


def build_trainer(rule=None, *, batch_size=16, attack_mode="eval", budget=1.0, solver=None, **schedule):
    selector = solver and AdversarialCoreset(
        objective=Pgd(), solver=solver, attack=ATTACK, budget=budget, attack_mode=attack_mode, chunk_size=16
    )
    return Trainer(
        objective=Pgd(),
        attack=ATTACK,
        minibatch=rule,
        attack_mode=attack_mode,
        batch_size=batch_size,
        selector=selector,
        schedule=Schedule(**({"epochs": 2, "budget": budget} | schedule)),
        optimizer=SGD(lr=0.05),
    )


# ---- the rule ----


@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_what_is_cut_is_cut_by_one_rule(size):
    for n in range(1, 70):
        lengths = [len(chunk) for chunk in cut_into_chunks(torch.arange(n), size)]
        pieces = Pieces(size, least=max(2, size)).run(n, lambda piece: piece)
        assert [piece.stop - piece.start for piece in pieces] == lengths
        counted = itertools.chain(*([length] * count for length, count in count_chunks(n, size).items()))
        assert sorted(counted) == sorted(lengths)
        assert [piece.start for piece in pieces] == [sum(lengths[:i]) for i in range(len(lengths))]
        assert sum(lengths) == n and max(lengths) <= size + 1
        assert min(lengths) > 1 or n == 1 or size == 1
        assert measure_next_piece(n, size) == lengths[0]


def test_nothing_is_cut_into_one_chunk_of_nothing():
    assert [len(chunk) for chunk in cut_into_chunks(torch.arange(0), 16)] == [0]
    assert count_chunks(0, 16) == {16: 0, 0: 0}


@pytest.mark.parametrize("n", [17, 33, 49, 65])
def test_halved_pieces_leave_no_example_alone(n):
    sizes = []

    def work(piece):
        size = piece.stop - piece.start
        if size > 20:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(size)

    Pieces(256).run(n, work)
    assert sizes == [16] * (n // 16 - 1) + [17]


def test_memory_that_does_not_suffice_for_the_smallest_piece_is_no_endless_loop():
    def work(piece):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Pieces(256).run(17, work)


def test_problems_may_be_alone():
    pieces = Pieces(2, least=1, of="problems").run(3, lambda piece: piece.stop - piece.start)
    assert pieces == [2, 1]


@pytest.mark.parametrize(
    "kept, expected", [([4, 4, 4], [4, 4, 4]), ([5], []), ([5, 1], [4]), ([3, 6], [4]), ([9], [4])]
)
def test_a_queue_trains_on_full_batches_and_leaves_no_image_alone(kept, expected):
    stepper = UpdateSubsetStepper(
        RULES["loss_ranked"](queue=True, look="eval"), None, batch_size=4, seed=0, attack=None
    )
    steps = []
    stepper._take_step = lambda learner, images, where: (steps.append(len(images[1])) or torch.zeros(()), 0)
    for count in kept:
        stepper._train_queued(None, (torch.zeros(count, 1), torch.zeros(count), torch.ones(count)), str)
    assert steps == expected
    assert len(stepper.queue[1]) != 1


# ---- sweeps in train mode ----


@pytest.mark.parametrize("n", [2, 17, 33, 34])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_selection_in_train_mode_takes_any_number_of_examples(source, n, streamed):
    data = take(source, n)
    model = Pointwise()
    selector = AdversarialCoreset(
        objective=Pgd(), solver=GradMatch(), attack=ATTACK, partition="whole", chunk_size=16, attack_mode="train"
    )
    coreset = selector.select(model, Streamed(data) if streamed else data, seed=0)
    assert len(coreset) == round(n / 2)
    in_train_mode = {size for training, size in model.sizes if training}
    assert in_train_mode <= {n, 16, 17, 18, 2} and min(in_train_mode) > 1


def test_rows_in_train_mode_are_those_of_its_chunks(source):
    """Slow twin: the rows of 33 examples are those of the first 16 and of the other 17, measured by themselves."""
    model = Pointwise()

    def measure(data):
        settings = MeasurementSettings(
            objective=Pgd(), attack=LinfPGD(eps=0.1, steps=1, start="clean"), ledger=CostLedger(), chunk_size=16,
            attack_mode="train",
        )  # fmt: skip
        return GRADIENTS["last_layer"].measure(model, data, settings).rows.dense()

    parts = [Resident(source._images[a:b], source.labels()[a:b]) for a, b in ((0, 16), (16, 33))]
    assert torch.equal(measure(take(source, 33)), torch.cat(list(map(measure, parts))))


@pytest.mark.parametrize("held_out", [False, True])
def test_a_single_example_in_train_mode_is_refused_in_a_line(source, held_out):
    selector = AdversarialCoreset(
        objective=Pgd(),
        solver=GradMatch(),
        attack=ATTACK,
        partition="whole",
        attack_mode="train",
        target="validation" if held_out else "train",
    )
    data = {"dataset": take(source, 20), "validation": take(source, 1)} if held_out else {"dataset": take(source, 1)}
    with pytest.raises(ConfigError) as caught:
        selector.select(Pointwise(), seed=0, **data)
    assert str(caught.value) == (
        "attack_mode must be eval for data of a single example, got 'train'; ValueError: Expected more than 1 value "
        "per channel when training, got input size torch.Size([1, 64])"
    )


# ---- training ----


@pytest.mark.parametrize("n", [17, 33, 47])
@pytest.mark.parametrize(
    "rule", [None, RULES["random_mix"](p_up=0.5), RULES["loss_ranked"](p_up=0.5, queue=True, look="eval")]
)
def test_training_takes_any_number_of_examples(source, n, rule):
    model = Pointwise()
    build_trainer(rule, attack_mode="train").fit(model, take(source, n), seed=0)
    assert min(size for training, size in model.sizes if training) > 1


@pytest.mark.parametrize(
    "n, how", [(1, {}), (20, {"solver": Random(), "budget": 0.05}), (20, {"solver": GradMatch(), "budget": 0.06})]
)
def test_a_single_example_that_batchnorm_cannot_learn_from_is_refused_before_any_work(source, n, how):
    model = Pointwise()
    with pytest.raises(ConfigError) as caught:
        build_trainer(**how).fit(model, take(source, n), seed=0)
    assert str(caught.value) == (
        f"each training batch must be of at least 2 images, got 1; {REASON}; use more data, or a larger "
        "selection.budget"
    )
    assert all(size <= 2 for _, size in model.sizes) and not model.norm.num_batches_tracked


@pytest.mark.parametrize("n, how", [(1, {}), (20, {"solver": Random(), "budget": 0.05})])
def test_a_single_example_is_learned_from_where_it_can_be(model, source, n, how):
    assert build_trainer(**how).fit(model, take(source, n), seed=0).epochs


@pytest.mark.parametrize("batches", [1, 2])
def test_a_coreset_that_comes_out_as_one_example_is_refused(source, batches):
    """All images are alike, so that a second medoid gains nothing: CRAIG returns one of the ten asked for."""
    alike = Resident(source._images[:1].expand(20, -1, -1, -1).clone(), torch.zeros(20, dtype=torch.long))
    model = Pointwise()
    with pytest.raises(
        ConfigError, match=r"^each training batch must be of at least 2 images, got 1; the model cannot"
    ):
        build_trainer(solver=Craig(), budget=0.5, warm_start=0.0, batch_size=16 // batches).fit(model, alike, seed=0)


def test_a_mix_that_attacks_one_image_in_train_mode_is_refused(source):
    """2 of the 32 images are kept, and one of them is attacked."""
    rule = RULES["random_mix"](p_up=0.07, adversarial=0.5)
    with pytest.raises(ConfigError) as caught:
        build_trainer(rule, attack_mode="train").fit(Pointwise(), take(source, 32), seed=0)
    reason = f"it leaves one image of a batch of 16, and {REASON}"
    assert str(caught.value) == f"minibatch.p_up must be larger, got 0.07; {reason}"
    assert build_trainer(rule).fit(Pointwise(), take(source, 32), seed=0).epochs


@pytest.mark.parametrize("processes", [2, 3])
def test_the_share_of_a_process_is_no_single_example(processes, monkeypatch):
    from advcore.distributed import exchange

    monkeypatch.setattr(exchange, "size", lambda: processes)
    for n in range(2, 40):
        assert min(exchange.share_sizes(n)) > 1


# ---- loops of other people ----


def build_coreset(source, k):
    return Coreset(
        indices=torch.arange(k), weights=torch.ones(k), num_examples=len(source), fingerprint=source.fingerprint(),
        solver="mine", partition="whole", seed=0, budget=0.5,
    )  # fmt: skip


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "k, size, options, expected",
    [
        (33, 16, {}, [16, 17]),
        (17, 16, {"drop_last": False}, [17]),
        (33, 16, {"drop_last": True}, [16, 16]),
        (34, 16, {}, [16, 16, 2]),
        (32, 16, {}, [16, 16]),
        (1, 16, {}, [1]),
        (3, 1, {}, [1, 1, 1]),
        (33, 16, {"generator": torch.Generator()}, [16, 17]),
    ],
)
def test_a_loader_of_a_coreset_leaves_no_example_alone(source, shuffle, k, size, options, expected):
    loader = build_coreset(source, k).loader(source, size, shuffle=shuffle, **options)
    batches = list(loader)
    assert [len(y) for _, y, _ in batches] == expected and len(loader) == len(expected)
    drawn = torch.cat([x for x, _, _ in batches]).flatten(1)
    given = source._images[:k].flatten(1)
    places = [int((given == image).all(1).nonzero()) for image in drawn]
    assert len(set(places)) == sum(expected) and (shuffle or places == sorted(places))


def test_a_seeded_loader_draws_as_torchs_own(source):
    """Slow twin: torch's order, cut by hand."""
    coreset = build_coreset(source, 33)
    ours = coreset.loader(source, 16, generator=torch.Generator().manual_seed(3))
    torchs = DataLoader(coreset.subset(source), 16, shuffle=True, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat([x for x, _, _ in ours]), torch.cat([x for x, _, _ in torchs]))
