"""Rows that are caught in training: what they are, what they cost, how they age, and which runs cannot catch them."""

import copy
import dataclasses
import json
from functools import partial
from typing import ClassVar

import pytest
import torch
from kernels import by_plain_kernels
from torch import nn
from torch.utils.data import TensorDataset

from advcore.adversary import perturb
from advcore.attacks import LinfPGD
from advcore.attacks.memory import Memory
from advcore.cost import CostLedger
from advcore.data.augment import crop_flip
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.last_layer import last_layer_rows
from advcore.minibatch import RULES
from advcore.objectives import Pgd, Standard, Trades
from advcore.objectives.base import compute_losses
from advcore.rng import Stream
from advcore.rows import BlockRows, DenseRows, FactoredRows
from advcore.runtime.precision import Speed
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.rows_from import Refresh
from advcore.selection.schedule import Schedule
from advcore.settings import settings
from advcore.solvers import ByScore, Craig, EasyCore, GradMatch, Moderate, Random
from advcore.solvers.base import weigh_equally
from advcore.training import SGD
from advcore.training.mixing import CutMix
from advcore.training.plan import plan_parts, plan_work
from advcore.training.prices import find_prices
from advcore.training.progress import Listener
from advcore.training.row_catcher import RowCatcher
from advcore.training.trainer import Trainer
from advcore.training.weight_attack import AWP

N, SIZE = 96, 32
ATTACK = LinfPGD(eps=0.1, steps=2)
REMEMBERED = ATTACK.with_settings(start="remembered")
REATTACK = partial(RULES["random"], rest="remembered", rho=0.5)
NO_STEP = SGD(lr=1e-30)  # which moves no weight by as much as a bit

each_objective = pytest.mark.parametrize("objective", [Standard(), Pgd(), Trades()], ids=lambda o: type(o).__name__)


def trainer(solver=None, objective=None, *, selection=None, when=None, attack=ATTACK, **more) -> Trainer:
    objective = objective or Pgd()
    chosen = {"chunk_size": SIZE, "block_size": SIZE, "rows_from": "training", **(selection or {})}
    selector = AdversarialCoreset(objective=objective, solver=solver or GradMatch(), attack=attack, **chosen)
    schedule = Schedule(**{"epochs": 6, "budget": 0.5, "warm_start": 0.5, "period": 2, **(when or {})})
    more = {"optimizer": SGD(lr=0.05), "batch_size": SIZE, "probe_examples": 16, **more}
    return Trainer(objective=objective, attack=attack, schedule=schedule, selector=selector, **more)


@pytest.fixture
def plain(model) -> nn.Module:
    """Without BatchNorm: train mode is eval mode."""
    return nn.Sequential(*(layer for layer in model if not isinstance(layer, nn.BatchNorm2d)))


class Ordered(Resident):
    """An epoch has its batches in the order of the data."""

    def draw_batches(self, size, stream):
        return torch.arange(len(self)).split(size)


@pytest.fixture
def caught(monkeypatch):
    """The rows of each time they are built."""
    seen = []
    build = RowCatcher.build_rows

    def build_rows(self):
        rows = build(self)
        kept = {name: column.clone() for name, column in self.store.columns.items()}
        seen.append((copy.deepcopy(rows), kept, self.store.epochs.clone()))
        return rows

    monkeypatch.setattr(RowCatcher, "build_rows", build_rows)
    return seen


def measure(kind, model, source, objective, *, epoch=0) -> object:
    """The rows of a selection that draws what the training attack of an epoch draws."""
    settings = MeasurementSettings(
        objective=objective,
        attack=ATTACK,
        stream=Stream(seed=3, purpose="attack", epoch=epoch),
        ledger=CostLedger(),
        chunk_size=SIZE,
    )
    return GRADIENTS[kind].measure(model, source, settings).rows


# ---- what they are ----


@each_objective
@pytest.mark.parametrize("ordered", [True, False])
def test_on_weights_that_rest_caught_rows_are_attacked_rows(plain, source, caught, objective, ordered):
    """Bitwise where chunks are those of the selection; up to rounding where batches are others."""
    kind = Ordered if ordered else Resident
    source = kind(source._images, source.labels())
    trainer(objective=objective, optimizer=NO_STEP).fit(plain, source, seed=3)
    rows, columns, epochs = caught[0]
    assert epochs.unique().tolist() == [1]
    expected = measure("last_layer", plain, source, objective, epoch=1)
    for i, name in enumerate(objective.passes):
        for part, attacked in (("residuals", expected.residuals[i]), ("features", expected.features[i])):
            if ordered:
                assert torch.equal(columns[f"{name} {part}"], attacked)
            else:
                torch.testing.assert_close(columns[f"{name} {part}"], attacked, rtol=1e-5, atol=1e-7)
    assert rows.kind == "full" and len(rows) == N


@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
def test_selections_from_either_are_the_same_where_weights_rest(plain, source, monkeypatch, objective):
    """The selection of the trainer, which gets its rows for free, and one that attacks with the same random numbers."""
    source = Ordered(source._images, source.labels())
    free = trainer(objective=objective, optimizer=NO_STEP)
    coreset = free.fit(plain, source, seed=3).coresets[0]
    attacking = dataclasses.replace(free.get_selector(), rows_from="attack")
    rows = measure("last_layer", plain, source, objective, epoch=1)
    same = attacking.select(plain, source, seed=3, epoch=coreset.epoch, rows=rows)
    assert torch.equal(same.indices, coreset.indices) and torch.equal(same.weights, coreset.weights)
    assert coreset.cost["passes"] == 0 and coreset.quality["gradient_error"] == same.quality["gradient_error"]


@each_objective
def test_a_row_is_the_heads_gradient_of_the_training_loss_of_one_example(model, source, caught, objective):
    """In train mode, with the BatchNorm statistics of its batch: autograd of each example's own loss, one by one."""
    batch = N  # one step an epoch, so that all rows are of the same weights
    made = trainer(objective=objective, batch_size=batch, optimizer=NO_STEP, selection={"block_size": batch})
    models = []
    listener = Listener(on_model=lambda net: models.append(copy.deepcopy(net)))
    made.fit(model, source, seed=3, listener=listener)
    model = models[0]  # as it is attacked in the second epoch
    rows, _, _ = caught[0]
    attack = Stream(seed=3, purpose="attack", epoch=1)
    order = Stream(seed=3, purpose="order", epoch=1)
    (indices,) = source.draw_batches(batch, order)
    _, x, y = next(source.batches([indices]))
    model.eval()
    x_adv = x
    if "adversarial" in objective.passes:
        x_adv = perturb(model, objective, ATTACK, x, y, generator=attack.at(indices))
    model.train()
    images = {"clean": x, "adversarial": x_adv}
    losses = compute_losses(objective, y, **{name: model(images[name]) for name in objective.passes})
    head = model[-1]
    for i in (0, 7, 50, 95):
        weight, bias = torch.autograd.grad(losses[i], [head.weight, head.bias], retain_graph=True)
        expected = torch.cat([weight, bias[:, None]], 1).flatten().double()
        row = rows.take(indices[i : i + 1]).dense()[0]
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("score", ["el2n", "grand", "margin", "forgetting", "instability"])
@pytest.mark.parametrize("points", ["clean", "adversarial"])
def test_scores_are_caught_in_epochs_on_all_data(plain, source, score, points):
    source = Ordered(source._images, source.labels())
    made = trainer(ByScore(score=score, points=points), Trades(), optimizer=NO_STEP, selection={"partition": "whole"})
    trained = made.fit(plain, source, seed=3)
    assert trained.ledger.passes["scoring"] == {"forward": 0, "backward": 0}
    name = score if points == "clean" else f"adversarial_{score}"
    gradient = GRADIENTS[name]
    collected = gradient.collect()
    for epoch in range(2):
        collected.add(measure(name, plain, source, Trades(), epoch=epoch).matrix[:, 0])
    attacking = dataclasses.replace(made.get_selector(), rows_from="attack")
    expected = attacking.select(plain, source, seed=3, epoch=2, rows=collected.rows)
    assert torch.equal(trained.coresets[0].indices, expected.indices)


def test_distances_to_centres_are_of_caught_features(plain, source, caught):
    source = Ordered(source._images, source.labels())
    made = trainer(Moderate(points="adversarial"), optimizer=NO_STEP)
    made.fit(plain, source, seed=3)
    rows, _, _ = caught[0]
    assert isinstance(rows, DenseRows)
    expected = measure("adversarial_centre_distance", plain, source, Pgd(), epoch=1)
    assert torch.equal(rows.matrix, expected.matrix.to(rows.matrix))


def test_the_attacks_first_step_gives_the_norm_of_the_input_gradient(plain, source, caught):
    """Where it starts at the clean image, that is the score as it is measured."""
    attack = LinfPGD(eps=0.1, steps=2, start="clean")
    made = trainer(EasyCore(), attack=attack, optimizer=NO_STEP, selection={"partition": "whole"})
    trained = made.fit(plain, source, seed=3)
    expected = measure("input_norm", plain, source, Pgd())
    torch.testing.assert_close(caught[0][0].matrix, expected.matrix, rtol=1e-5, atol=1e-9)
    assert trained.ledger.passes["scoring"] == {"forward": 0, "backward": 0}
    assert len(caught) == 2  # after each epoch on all data


def test_the_weights_that_are_moved_for_an_update_are_those_of_its_rows(plain, source, caught):
    """Both forward passes are seen; the one of which the gradient is taken counts."""
    trainer(awp=AWP(gamma=0.05, warm_up=0), optimizer=NO_STEP).fit(copy.deepcopy(plain), source, seed=3)
    moved = caught[-1][1]["adversarial residuals"]
    trainer(optimizer=NO_STEP).fit(plain, source, seed=3)
    assert not torch.equal(moved, caught[-1][1]["adversarial residuals"])


# ---- what they cost ----


@each_objective
@pytest.mark.parametrize("partition", ["whole", "per_batch"])
@pytest.mark.parametrize("solver", [GradMatch(), Craig()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("refresh", [None, Refresh(share=0.3)], ids=["kept", "refreshed"])
@by_plain_kernels
@pytest.mark.slow
def test_the_ledger_equals_the_plan_and_a_selection_costs_nothing(model, source, objective, partition, solver, refresh):
    made = trainer(solver, objective, selection={"partition": partition, "refresh": refresh})
    planned = plan_parts(made, N)
    prices = find_prices(made, model, source)
    trained = made.fit(model, source, source, seed=0)
    assert trained.ledger.sum_units() == planned.total.units
    assert trained.ledger.sum_flops() == prices.price(planned.total)
    assert all(coreset.cost["passes"] == 0 for coreset in trained.coresets)
    measured = [entry["rows"]["refreshed"] for entry in trained.epochs]
    outside = N - made.get_selector().count_chosen(N)
    count = round(0.3 * outside) if refresh else 0
    # 2 epochs on all data, selections at 2 and 4, and one epoch more: what comes after the last is read by nobody
    assert measured == [0, 0, count, count, 0]
    per_example = GRADIENTS["last_layer"].plan(objective, ATTACK)
    assert planned.selection == 2 * count * per_example


@pytest.mark.parametrize(
    ("objective", "points"), [(Pgd(), "adversarial"), (Trades(), "clean"), (Trades(), "adversarial")]
)
@by_plain_kernels
def test_refreshed_features_have_the_type_of_those_from_training(model, source, objective, points):
    made = trainer(Moderate(points=points), objective, selection={"refresh": Refresh(share=0.3)})
    planned = plan_parts(made, N)
    trained = made.fit(model, source, seed=0)
    assert sum(entry["rows"]["refreshed"] for entry in trained.epochs) > 0
    assert trained.ledger.sum_units() == planned.total.units


@by_plain_kernels
def test_validation_examples_are_attacked_where_they_are_the_target(model, source):
    made = trainer(selection={"target": "validation", "partition": "whole"})
    held_out = Resident(source._images[:20], source.labels()[:20])
    trained = made.fit(model, source, held_out, seed=0)
    assert trained.ledger.sum_units() == plan_work(made, N, 20).units
    assert plan_parts(made, N, 20).selection == 2 * 20 * GRADIENTS["last_layer"].plan(Pgd(), ATTACK)


def test_rows_of_examples_that_are_not_attacked_again_are_of_their_remembered_image(plain, source, caught):
    """At rest: in the second epoch each is where the first attack left it, or as many steps further."""
    memory = Memory(precision="float32")
    made = trainer(minibatch=REATTACK(), attack=REMEMBERED, memory=memory, optimizer=NO_STEP)
    trained = made.fit(plain, source, seed=3)
    assert trained.ledger.sum_units() <= plan_work(made, N).units  # a bound: what stays in a coreset is remembered
    _, x, y = next(source.batches([torch.arange(N)]))
    stream = Stream(seed=3, purpose="attack", epoch=0).at(torch.arange(N))
    first = perturb(plain.eval(), Pgd(), ATTACK, x, y, generator=stream)
    further = ATTACK.rise(lambda images: Pgd().loss(y, adversarial=plain(images)), x, first)
    features = caught[0][1]["adversarial features"]
    stayed, moved = ((plain[:-1](images) - features).abs().amax(1) < 1e-5 for images in (first, further))
    assert bool((stayed | moved).all())  # both where the first attack has nowhere further to go
    assert int((stayed & ~moved).sum()) > 20 < int((moved & ~stayed).sum())


@by_plain_kernels
def test_what_is_said_outright_is_the_default(model, source):
    """rows_from: attack is the run of the same settings without it."""
    attacked = trainer(selection={"rows_from": "attack"})
    selector = attacked.get_selector()
    default = dataclasses.replace(
        attacked, selector=AdversarialCoreset(objective=Pgd(), solver=GradMatch(), attack=ATTACK, chunk_size=SIZE,
                                              block_size=SIZE)
    )  # fmt: skip
    assert selector == default.get_selector()
    assert "rows" not in attacked.fit(model, source, seed=0).epochs[0]


@by_plain_kernels
def test_a_solver_that_reads_no_rows_catches_none(model, source):
    trained = trainer(Random(), selection={"refresh": Refresh()}).fit(model, source, seed=0)
    assert "rows" not in trained.epochs[0] and "row_age" not in trained.coresets[0].quality


# ---- how they age ----


@pytest.mark.parametrize("by", ["age", "random"])
@by_plain_kernels
def test_ages_are_those_of_what_was_trained_on_and_refreshed(model, source, caught, by):
    """A slow twin keeps the epoch of each row in a list."""
    refresh = Refresh(share=0.25, by=by)
    trained = trainer(selection={"refresh": refresh}, when={"epochs": 10, "period": 3}).fit(model, source, seed=1)
    taken = [0] * N
    current = None
    for entry in trained.epochs:
        epoch = entry["epoch"]
        current = next((c for c in trained.coresets if c.epoch == epoch), current)
        if current is not None and current.epoch == epoch:
            ages = [epoch - t for t in taken]
            assert current.quality["row_age"] == pytest.approx(sum(ages) / N)
            assert current.quality["row_age_max"] == max(ages)
            assert caught[trained.coresets.index(current)][2].tolist() == taken
        inside = range(N) if entry["action"] == "full" else current.indices.tolist()
        for i in inside:
            taken[i] = epoch
        if entry["rows"]["refreshed"]:
            outside = torch.tensor(sorted(set(range(N)) - set(inside)))
            assert entry["rows"]["refreshed"] == round(0.25 * len(outside)) == 12
            epochs = torch.tensor(taken)[outside]
            stream = Stream(seed=1, purpose="refresh", epoch=epoch).child("choice")
            chosen = refresh.choose(outside, epochs, 12, stream)
            if by == "age":
                left = sorted(set(outside.tolist()) - set(chosen.tolist()))
                assert max(taken[i] for i in chosen) <= min(taken[i] for i in left)
            for i in chosen.tolist():
                taken[i] = epoch + 1
        ages = [epoch + 1 - t for t in taken]
        assert entry["rows"]["age"] == pytest.approx(sum(ages) / N) and entry["rows"]["oldest"] == max(ages)
    assert max(trained.coresets[-1].quality["row_age_max"], 1) > 1


@by_plain_kernels
def test_refreshed_rows_are_those_of_the_model_as_it_is(model, source, monkeypatch):
    written = []
    end = RowCatcher.end_epoch

    def watch(self, selector, coreset):
        before = self.store.epochs.clone()
        entry = end(self, selector, coreset)
        chosen = (self.store.epochs > before).nonzero()[:, 0]
        if len(chosen):
            settings = MeasurementSettings(
                objective=Trades(),
                attack=ATTACK,
                stream=Stream(seed=0, purpose="refresh", epoch=self.epoch),
                ledger=CostLedger(),
                chunk_size=SIZE,
            )
            rows = last_layer_rows(self.run.model, source, settings).rows
            stored = self.store.columns["clean features"][chosen], self.store.columns["adversarial residuals"][chosen]
            written.append((rows.features[0][chosen], rows.residuals[1][chosen], *stored))
        return entry

    monkeypatch.setattr(RowCatcher, "end_epoch", watch)
    trainer(objective=Trades(), selection={"refresh": Refresh(share=0.5)}).fit(model, source, seed=0)
    assert len(written) == 2
    for features, residuals, stored_features, stored_residuals in written:
        torch.testing.assert_close(stored_features, features, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(stored_residuals, residuals, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("speed", [Speed(), Speed(autocast="bfloat16")], ids=["float32", "bfloat16"])
@by_plain_kernels
def test_the_difference_to_attacked_rows_is_measured_on_a_sample(model, source, speed):
    """With BatchNorm, crop and flip rows differ from those of a selection; the record says by how much."""
    made = trainer(speed=speed, selection={"full_examples": 40})
    trained = made.fit(model, source, seed=0, augment=crop_flip)
    for coreset in trained.coresets:
        assert 0 < coreset.quality["row_error"] < 3
        assert coreset.quality["gradient_error_full"] >= 0
    sampled = len(trained.coresets) * 40
    assert sum(trained.ledger.passes["evaluation"].values()) >= sampled * 5
    assert trained.ledger.sum_units() == plan_work(made, N).units


def test_where_nothing_differs_the_sample_says_so(plain, source):
    """All examples in the sample, weights at rest, a clean start: rows are the same whatever attacks them when."""
    attack = LinfPGD(eps=0.1, steps=2, start="clean")
    made = trainer(attack=attack, optimizer=NO_STEP, selection={"full_examples": N})
    quality = made.fit(plain, source, seed=0).coresets[0].quality
    assert quality["row_error"] < 1e-5
    assert quality["gradient_error_full"] == pytest.approx(quality["gradient_error"], abs=1e-5)
    assert quality["gradient_error_full_noise"] == 0


# ---- where they are, and through a checkpoint ----


@pytest.mark.parametrize("place", ["device", "host", "disk"])
@by_plain_kernels
def test_it_does_not_matter_where_rows_are_stored(model, source, place):
    wanted = trainer(objective=Trades(), selection={"refresh": Refresh()})
    elsewhere = trainer(objective=Trades(), selection={"refresh": Refresh(), "rows_place": place})
    one = wanted.fit(copy.deepcopy(model), source, seed=1)
    two = elsewhere.fit(copy.deepcopy(model), source, seed=1)
    assert all(torch.equal(one.last[name], two.last[name]) for name in one.last)
    assert [c.weights.tolist() for c in one.coresets] == [c.weights.tolist() for c in two.coresets]


@pytest.mark.parametrize(
    ("partition", "kind"),
    [("whole", "bias"), ("per_class", "weight"), ("per_batch", "full"), ("per_class_per_gradient", "full")],
)
@by_plain_kernels
def test_every_partition_and_part_of_the_gradient_is_solved_by_any_solver(model, source, partition, kind):
    """A solver from elsewhere is given the rows that it is given by a selection that attacks."""

    @settings
    class First:
        reads: ClassVar[str] = "last_layer"

        def __call__(self, rows, k, *, target=None, generator):
            seen.append(rows)
            return weigh_equally(torch.arange(k), len(rows))

    seen: list = []
    made = trainer(First(), Trades(), selection={"partition": partition, "rows": kind})
    trained = made.fit(model, source, seed=0)
    assert [len(coreset) for coreset in trained.coresets] == [made.get_selector().count_chosen(N)] * 2
    assert seen and all(isinstance(rows, BlockRows if partition == "per_batch" else FactoredRows) for rows in seen)
    members = [getattr(rows, "members", rows) for rows in seen]
    assert {rows.kind for rows in members} == {kind} and {len(rows.residuals) for rows in members} == {2}


@by_plain_kernels
def test_data_that_are_read_as_they_are_needed_are_caught_alike(model, source):
    made = trainer(objective=Trades(), selection={"refresh": Refresh()})
    one = made.fit(copy.deepcopy(model), source, seed=1)
    two = made.fit(copy.deepcopy(model), TensorDataset(source._images, source.labels()), seed=1)
    assert [c.indices.tolist() for c in one.coresets] == [c.indices.tolist() for c in two.coresets]
    assert all(torch.equal(one.last[name], two.last[name]) for name in one.last)


# ---- what is refused ----

REFUSED = {
    "no warm start": ({"when": {"warm_start": 0.0}}, "rows_from must be attack without a warm start"),
    "a warm start of no epoch": ({"when": {"epochs": 4, "warm_start": 0.25, "budget": 0.25}, "selection":
                                  {"budget": 0.25}}, "is 0 epochs on all data"),
    "a rule": ({"minibatch": RULES["margin"]()}, "with this minibatch rule"),
    "a corrected rule": (lambda: {"minibatch": REATTACK(correction="inverse_probability"), "attack": REMEMBERED},
                         "with this minibatch rule"),
    "norms under a rule": (lambda: {"minibatch": REATTACK(), "attack": REMEMBERED, "solver": EasyCore()},
                           "with this minibatch rule"),
    "mixed images": ({"cutmix": CutMix()}, "training.cutmix"),
    "compiled passes": ({"speed": Speed(compiled=True)}, "training.speed.compiled"),
    "no later selection": ({"when": {"period": None}, "selection": {"refresh": Refresh()}}, "no selection comes later"),
    "refreshed scores": ({"solver": ByScore(points="adversarial"), "selection": {"refresh": Refresh()}},
                         "refresh must be null for this solver"),
    "clean images that no step sees": ({"solver": ByScore(points="clean")}, "solver.points must be adversarial"),
    "attacked images that no step sees": ({"solver": ByScore(points="adversarial"), "objective": Standard()},
                                          "clean"),
    "a file": ({"solver": ByScore(scores="scores.npz")}, "reads scores from a file"),
    "a divergence": ({"solver": EasyCore(), "objective": Trades()}, "climbs a divergence"),
    "norms at the end": ({"solver": EasyCore(points="adversarial")}, "reads adversarial_input_norm"),
    "a refresh of attacked rows": (lambda: {"selection": {"rows_from": "attack", "refresh": Refresh()}},
                                   "refresh must be null"),
    "a place of attacked rows": (lambda: {"selection": {"rows_from": "attack", "rows_place": "disk"}}, "rows_place"),
    "another source": (lambda: {"selection": {"rows_from": "memory"}}, "rows_from must be one of attack, training"),
    "a share of 0": (lambda: {"selection": {"refresh": Refresh(share=0.0)}}, "share must be a share in (0, 1]"),
    "another order": (lambda: {"selection": {"refresh": Refresh(by="size")}}, "by must be one of age, random"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_caught_is_refused_before_training(name):
    settings, message = REFUSED[name]
    with pytest.raises(ConfigError) as raised:
        trainer(**(settings() if callable(settings) else settings))
    assert message in str(raised.value)


class Still(LinfPGD):
    """Asks for no gradient."""

    def __call__(self, loss_fn, x, *, generator):
        return x


@by_plain_kernels
def test_an_attack_without_gradients_shows_no_norm(model, source):
    made = trainer(EasyCore(), attack=Still(eps=0.1), selection={"partition": "whole"})
    with pytest.raises(ConfigError, match="selection.rows_from must be attack for an attack that takes no gradient"):
        made.fit(model, source, seed=0)


def test_a_selection_by_itself_has_no_rows_to_read(model, source):
    with pytest.raises(ConfigError, match="rows must be given for rows_from: training"):
        trainer().get_selector().select(model, source, seed=0)


MISTAKES = {
    "selection.warm_start=0": "selection.rows_from must be attack without a warm start, got 'training'",
    "selection.refresh.share=0": "selection.refresh.share must be a share in (0, 1]",
    "selection.period=null": "selection.refresh must be null where no selection comes later",
    "selection.rows_place=tape": "selection.rows_place must be one of auto, device, host, disk",
    "selection.solver={name: by_score, points: adversarial}": "selection.refresh must be null for this solver",
    "minibatch={name: margin}": "selection.rows_from must be attack with this minibatch rule",
}


@pytest.mark.parametrize("change", MISTAKES)
def test_a_mistake_in_a_run_file_is_one_line_before_training(advcore, root, change):
    code, _, err = advcore("check", str(root / "experiments" / "trades_free_rows.yaml"), "--set", change)
    assert code == 2 and len(err.splitlines()) == 1 and MISTAKES[change] in err


def test_an_attack_that_attacks_nothing_is_a_mistake(advcore, root):
    file = str(root / "experiments" / "trades_free_rows.yaml")
    attack = ("--set", "selection.attack={name: linf_pgd, eps: 0.1, steps: 1}")
    code, _, err = advcore("check", file, *attack, "--set", "selection.refresh=null")
    assert code == 2 and "selection.attack must be null for rows_from: training without a refresh" in err
    code, out, _ = advcore("check", file, *attack)
    assert code == 0 and "rows caught in training" in out


def test_a_run_file_keeps_its_ages_in_the_record(advcore, root, tmp_path, tiny):
    overrides = [part for override in tiny for part in ("--set", override)]
    period = ("--set", "selection.period=1")
    file = str(root / "experiments" / "linf_free_rows.yaml")
    code, _, err = advcore("run", file, *overrides, *period, "--out", str(tmp_path / "run"))
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert [selection["passes"] for selection in record["selections"]] == [0, 0]
    assert all(selection["row_error"] > 0 < selection["row_age"] for selection in record["selections"])
    assert [sorted(epoch["rows"]) for epoch in record["epochs"]] == [["age", "oldest", "refreshed"]] * 3
    code, out, _ = advcore("report", str(tmp_path / "run"))
    assert code == 0
    page = next((tmp_path / "run").glob("*.html")).read_text()
    assert "error of rows" in page and "age of rows" in page and "Mean age of the gradient rows" in page
