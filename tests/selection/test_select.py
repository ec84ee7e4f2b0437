"""AdversarialCoreset.select(): what it returns, what it leaves alone, what it refuses."""

import random

import numpy as np
import pytest
import torch
from kernels import by_plain_kernels
from torch import nn
from torch.utils.data import Subset, TensorDataset

from advcore import AdversarialCoreset, Coreset, Trainer, evaluate
from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Part, Resident
from advcore.errors import AdvcoreError, ConfigError, DataError, NonFiniteError
from advcore.gradients.base import AveragedScores, MeasurementSettings
from advcore.gradients.input_norm import input_norms
from advcore.gradients.last_layer import last_layer_rows
from advcore.objectives import OBJECTIVES, Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.selection.partition import PARTITIONS
from advcore.selection.quality import measure_gradient_error
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig, EasyCore, GradMatch, Random
from advcore.training import SGD
from advcore.training.loop import Listener
from advcore.training.plan import count_planned_units

ATTACK = LinfPGD(eps=0.1, steps=2)


def selector(solver=None, objective=None, **settings) -> AdversarialCoreset:
    settings = {"attack": ATTACK, "block_size": 16, "budget": 0.25, **settings}
    return AdversarialCoreset(objective=objective or Trades(), solver=solver or GradMatch(), **settings)


def measured(model, source, objective, attack, purpose="selection"):
    """The rows that a selection with seed 0 looks at."""
    stream, ledger = Stream(seed=0, purpose=purpose), CostLedger()
    return last_layer_rows(
        model, source, MeasurementSettings(objective=objective, attack=attack, stream=stream, ledger=ledger)
    ).rows


def leaves(model: nn.Module) -> list:
    """Everything a borrower must give back, bit for bit."""
    state = [t.clone() for t in model.state_dict().values()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [state, grads, [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]]


def same(a, b) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.case("A1")
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("solver", [GradMatch(), Craig(), Random()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("objective", [Standard(), Pgd(), Trades()], ids=lambda o: type(o).__name__)
@by_plain_kernels
def test_every_combination_returns_a_valid_coreset_twice_the_same(model, source, solver, objective, partition):
    chooser = selector(solver, objective, partition=partition)
    one, two = chooser.select(model, source, seed=3), chooser.select(model, source, seed=3)
    assert torch.equal(one.indices, two.indices) and torch.equal(one.weights, two.weights)
    assert 0 < len(one) <= 32 and one.num_examples == 96
    assert sum(one.quality["class_counts"]) == len(one)
    assert (one.quality["gradient_error"] is None) == (solver.reads is None)


@pytest.mark.case("A6", "E2")
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_model_and_the_global_random_state_come_back_bitwise(model, source, mode):
    model.train()
    model[0].eval()
    model[5].weight.requires_grad_(False)
    model(torch.rand(8, 1, 8, 8)).sum().backward()
    before = leaves(model)
    globals_before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    selector(attack_mode=mode).select(model, source, seed=0)
    assert same(leaves(model), before)
    assert torch.equal(torch.get_rng_state(), globals_before[0]) and random.getstate() == globals_before[1]
    assert (np.random.get_state()[1] == globals_before[2][1]).all()


@pytest.mark.case("E2")
def test_the_model_comes_back_also_when_selection_fails(model, source):
    class Broken(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 5:
                raise RuntimeError("broken")
            return self.inner(x)

    broken = Broken(model.train())
    before = leaves(broken)
    with pytest.raises(RuntimeError, match="broken"):
        selector().select(broken, source, seed=0)
    assert same(leaves(broken), before)


@pytest.mark.case("A6")
def test_the_coreset_does_not_depend_on_the_global_random_state_nor_on_the_models_mode(model, source):
    one = selector().select(model.eval(), source, seed=0)
    torch.rand(1)
    assert torch.equal(one.indices, selector().select(model.train(), source, seed=0).indices)
    assert not torch.equal(one.weights, selector().select(model, source, seed=1).weights)


def test_dropout_left_on_by_a_train_mode_attack_is_seeded_too(source):
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 4))
    chooser = selector(attack_mode="train")
    torch.manual_seed(1)
    one = chooser.select(net, source, seed=0)
    torch.manual_seed(2)
    assert torch.equal(one.weights, chooser.select(net, source, seed=0).weights)


def test_the_chunk_size_does_not_matter_beyond_rounding(model, source):
    double = model.double()
    exact = Resident(source._images.double(), source.labels())
    chosen = [selector(chunk_size=size).select(double, exact, seed=0) for size in (16, 64, 256)]
    for other in chosen[1:]:
        assert torch.equal(chosen[0].indices, other.indices)
        torch.testing.assert_close(chosen[0].weights, other.weights)


def test_quality_is_what_it_says(model, source):
    chooser = selector()
    coreset = chooser.select(model, source, seed=0)
    rows = measured(model, source, Trades(), ATTACK).dense()
    total, w = rows.sum(0), coreset.weights.double()
    slow = (w @ rows[coreset.indices] - total).norm() / total.norm()
    assert coreset.quality["gradient_error"] == pytest.approx(float(slow), rel=1e-6)
    trained = w * (96 / w.sum())
    slow = (trained @ rows[coreset.indices] - total).norm() / total.norm()
    assert coreset.quality["gradient_error_trained"] == pytest.approx(float(slow), rel=1e-6)
    assert coreset.quality["weight_sum"] == pytest.approx(float(w.sum()) / 96)
    assert coreset.quality["effective_sample_size"] == pytest.approx(float(w.sum() ** 2 / (len(w) * (w @ w))))
    assert coreset.quality["gradient_error"] < coreset.quality["gradient_error_random"]


@pytest.mark.parametrize("normalise", ["coreset", "none", "batch", "equal"])
def test_the_trained_error_follows_the_trainers_rescaling(model, source, normalise):
    coreset = selector(normalise=normalise).select(model, source, seed=0)
    plain = coreset.quality["gradient_error"]
    assert (coreset.quality["gradient_error_trained"] == pytest.approx(plain)) == (normalise == "none")


def test_gradmatch_at_ridge_0_beats_craig_on_the_same_rows(model, source):
    errors = {
        type(s): selector(s).select(model, source, seed=0).quality["gradient_error"]
        for s in (GradMatch(ridge=0), Craig())
    }
    assert errors[GradMatch] < errors[Craig]


def test_cost_counts_the_attack_and_random_costs_nothing(model, source):
    ledger = CostLedger()
    coreset = selector().select(model, source, seed=0, ledger=ledger)
    assert coreset.cost["passes"] == 96 * (2 * 2 + 2) == ledger.sum_units()
    assert selector(Random()).select(model, source, seed=0).cost["passes"] == 0


@pytest.mark.case("G4")
def test_budget_1_keeps_all_with_weight_1_and_attacks_nothing(model, source):
    ledger = CostLedger()
    coreset = selector(budget=1.0).select(model, source, seed=0, ledger=ledger)
    assert torch.equal(coreset.indices, torch.arange(96)) and bool((coreset.weights == 1).all())
    assert ledger.sum_units() == 0
    without_1 = Part(source, (source.labels() != 1).nonzero()[:, 0])
    counts = selector(budget=1.0).select(model, without_1, seed=0).quality["class_counts"]
    assert counts == without_1.labels().bincount().tolist() and counts[1] == 0


@pytest.mark.case("G4")
def test_a_budget_below_one_example_a_class_names_who_is_left_out(model, source):
    coreset = selector(Craig(), budget=0.02).select(model, source, seed=0)
    assert len(coreset) == 2
    assert any("class 3" in event.text for event in coreset.events)


def test_a_class_that_a_solver_leaves_empty_gets_random_picks_at_the_mean_weight(model, source):
    features = torch.randn(96, 3)
    residuals = torch.randn(96, 4)
    residuals[source.labels() == 2] = 0
    from advcore.rows import FactoredRows

    rows = FactoredRows(residuals=(residuals,), features=(features,))
    coreset = selector(GradMatch(ridge=0.1)).select(model, source, seed=0, rows=rows)
    own = source.labels()[coreset.indices] == 2
    assert int(own.sum()) == 5
    torch.testing.assert_close(coreset.weights[own], coreset.weights[~own].mean().expand(5))
    assert any("class 2" in event.text for event in coreset.events)


@pytest.mark.case("F3")
@pytest.mark.parametrize("settings", [{}, {"epsilon": 0.3}, {"distance": "squared"}, {"matrix": "free"}], ids=str)
@pytest.mark.parametrize("budget", [0.1, 0.5, 0.9])
@by_plain_kernels
def test_craigs_weights_are_whole_numbers_that_sum_to_each_classs_size(model, source, settings, budget):
    coreset = selector(Craig(**settings), partition="per_class", budget=budget).select(model, source, seed=0)
    sums = torch.zeros(4).index_add_(0, source.labels()[coreset.indices], coreset.weights)
    assert torch.equal(sums, torch.bincount(source.labels(), minlength=4).float()) and sums.sum() == 96
    assert torch.equal(coreset.weights, coreset.weights.round()) and coreset.weights.min() >= 1


def test_rows_measured_earlier_serve_several_budgets(model, source):
    kept = measured(model, source, Trades(), ATTACK)
    fresh = selector(budget=0.5).select(model, source, seed=0)
    again = selector(budget=0.5).select(model, source, seed=0, rows=kept)
    assert torch.equal(fresh.indices, again.indices) and again.cost["passes"] == 0
    with pytest.raises(DataError, match="95"):
        selector().select(model, source, seed=0, rows=kept.take(torch.arange(95)))


def test_easycore_takes_scores_and_refuses_to_go_without(model, source):
    with pytest.raises(ConfigError, match="AveragedScores"):
        selector(EasyCore()).select(model, source, seed=0)
    norms = AveragedScores()
    norms.add(input_norms(model, source, MeasurementSettings(ledger=CostLedger())).rows.matrix[:, 0])
    coreset = selector(EasyCore(), partition="whole").select(model, source, seed=0, rows=norms.rows)
    assert set(coreset.indices.tolist()) == set(norms.rows.matrix[:, 0].argsort()[:24].tolist())


def test_a_solver_that_reads_nothing_attacks_no_sample_in_full_whatever_rows_it_is_given(model, source):
    kept = measured(model, source, Trades(), ATTACK)
    chooser = selector(Random(), full_attack=LinfPGD(eps=0.1, steps=5))
    coreset = chooser.select(model, source, seed=0, rows=kept)
    assert coreset.quality["gradient_error"] > 0 and "gradient_error_full" not in coreset.quality


def test_random_is_redrawn_at_every_epoch_unless_told_otherwise(model, source):
    def picks(solver, epoch):
        return selector(solver).select(model, source, seed=0, epoch=epoch).indices.tolist()

    assert picks(Random(), 1) != picks(Random(), 2)
    assert picks(Random(redraw=False), 1) == picks(Random(redraw=False), 2)


def test_overlap_is_the_share_of_the_previous_coreset_that_stays(model, source):
    one = selector().select(model, source, seed=0)
    assert selector().select(model, source, seed=0, previous=one).quality["overlap"] == 1.0


def test_per_batch_keeps_blocks_whole_with_one_weight_each(model, source):
    coreset = selector(partition="per_batch").select(model, source, seed=0)
    for block in coreset.blocks.unique():
        own = coreset.blocks == block
        assert int(own.sum()) == 16 and len(coreset.weights[own].unique()) == 1


@pytest.mark.case("G9")
def test_indices_mean_the_data_that_were_given_through_subset(model, source):
    order = torch.randperm(96, generator=torch.Generator().manual_seed(5)).tolist()
    whole = TensorDataset(source._images, source.labels())
    shuffled = Subset(whole, order)
    coreset = selector(Craig()).select(model, shuffled, seed=0)
    for x, y, _ in coreset.subset(shuffled):
        assert any(
            torch.equal(x, image) and y == label for image, label in zip(source._images, source.labels(), strict=True)
        )
    with pytest.raises(DataError, match="other data"):
        coreset.subset(whole)


def test_save_and_load_give_the_same_coreset(model, source, tmp_path):
    coreset = selector(partition="per_batch").select(model, source, seed=0)
    again = Coreset.load(coreset.save(tmp_path / "c"))
    for name in ("indices", "weights", "blocks"):
        assert torch.equal(getattr(coreset, name), getattr(again, name))
    assert (again.quality, again.fingerprint, again.events) == (coreset.quality, coreset.fingerprint, coreset.events)


@pytest.mark.case("G10")
def test_a_model_without_a_linear_head_is_refused(source):
    net = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())
    with pytest.raises(ConfigError, match="Linear"):
        selector().select(net, source, seed=0)


def test_a_diverged_model_is_a_nonfinite_error(model, source):
    model[5].weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError) as error:
        selector().select(model, source, seed=0)
    assert "NaN" in str(error.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("budget", 1.5),
        ("budget", 0.0),
        ("partition", "per_clas"),
        ("rows", "weights"),
        ("attack_mode", "test"),
        ("blocks", "x"),
        ("chunk_size", 20),
        ("normalise", "mean"),
        ("attack", None),
    ],
)
def test_bad_settings_name_themselves_and_their_value(setting, value):
    with pytest.raises(AdvcoreError) as error:
        selector(**{setting: value})
    assert setting in str(error.value) and repr(value) in str(error.value)


def test_errors_are_measured_with_the_weights_as_given(model, source):
    rows = measured(model, source, Standard(), None)
    assert measure_gradient_error(rows, torch.arange(96), torch.ones(96)) == pytest.approx(0, abs=1e-12)
    assert measure_gradient_error(rows, torch.arange(96), torch.zeros(96)) == pytest.approx(1)


@pytest.mark.parametrize("solver", [GradMatch(), Random(redraw=False)], ids=lambda s: type(s).__name__)
def test_a_batchs_own_sum_cancels_the_weights_of_whole_blocks(model, source, solver):
    coreset = selector(solver, partition="per_batch", normalise="batch").select(model, source, seed=0)
    if solver.reads is not None:
        rows = measured(model, source, Trades(), ATTACK)
        uniform = measure_gradient_error(rows, coreset.indices, torch.full((len(coreset),), 96 / len(coreset)))
        assert coreset.quality["gradient_error_trained"] == pytest.approx(uniform, rel=1e-5)
    else:
        later = selector(solver, partition="per_batch").select(model, source, seed=0, epoch=3)
        assert torch.equal(coreset.indices, later.indices)


def test_the_size_asked_for_is_the_size_returned(model, source):
    for partition in PARTITIONS:
        chooser = selector(Random(), partition=partition)
        assert len(chooser.select(model, source, seed=0)) == chooser.count_chosen(96)


def test_a_float64_model_takes_float32_and_float16_images(model, source):
    for images in (source._images, source._images.half()):
        assert len(selector().select(model.double(), TensorDataset(images, source.labels()), seed=0)) == 24


def test_a_model_without_parameters_or_that_returns_no_logits_is_refused(source):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 4)

        def forward(self, x):
            return self.fc(x.flatten(1)), x

    for net in (nn.Flatten(), Pair()):
        with pytest.raises(ConfigError):
            selector().select(net, source, seed=0)
    with pytest.raises(ConfigError):
        evaluate(Pair(), source)


def test_negative_labels_are_refused_also_where_nothing_is_attacked(model):
    labels = torch.arange(20) % 4 - 1
    with pytest.raises(DataError, match="-1 at example 0"):
        selector(Random()).select(model, Resident(torch.rand(20, 1, 8, 8), labels), seed=0)


def test_an_attack_that_could_not_move_is_refused():
    with pytest.raises(ConfigError, match="attack.start"):
        selector(attack=LinfPGD(eps=0.1, start="clean"))
    selector(objective=Pgd(), attack=LinfPGD(eps=0.1, start="clean"))


# ---- target: validation ----


@pytest.fixture
def held_out() -> Resident:
    """40 examples of the same 4 classes, in shares of their own."""
    generator = torch.Generator().manual_seed(9)
    labels = torch.tensor([0] * 5 + [1] * 20 + [2] * 5 + [3] * 10)[torch.randperm(40, generator=generator)]
    return Resident(torch.rand(40, 1, 8, 8, generator=generator), labels)


class Recorder:
    """GradMatch that keeps the rows and the target it was given."""

    reads, has_target = "last_layer", True

    def __init__(self):
        self.calls = []

    def __call__(self, rows, k, *, target=None, generator):
        self.calls.append((rows.dense(), target))
        return GradMatch()(rows, k, target=target, generator=generator)


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("objective", [Standard(), Trades()], ids=lambda o: type(o).__name__)
@by_plain_kernels
def test_the_solver_is_given_the_validation_examples_mean_times_the_count(
    model, source, held_out, objective, partition
):
    chooser = selector(Recorder(), objective, partition=partition, target="validation")
    coreset = chooser.select(model, source, seed=0, validation=held_out)
    rows = measured(model, held_out, objective, ATTACK, purpose="validation").dense().view(40, 4, 25)
    by_class = partition in ("per_class", "per_class_per_gradient")
    assert len(chooser.solver.calls) == (4 if by_class else 1)
    for c, (own, target) in enumerate(chooser.solver.calls):
        chosen = rows[held_out.labels() == c] if by_class else rows
        chosen = chosen[:, c] if partition == "per_class_per_gradient" else chosen
        slow = len(own) * sum(chosen) / len(chosen)
        torch.testing.assert_close(target.flatten(), slow.flatten(), rtol=1e-9, atol=1e-9)
    whole = measured(model, source, objective, ATTACK).dense()
    mixed = sum(float(w) * whole[i] for i, w in zip(coreset.indices, coreset.weights, strict=True))
    aim = 96 * sum(rows).flatten() / 40
    assert coreset.quality["target_error"] == pytest.approx(float((mixed - aim).norm() / aim.norm()), rel=1e-6)


def test_target_train_gives_no_target_and_does_not_look_at_validation(model, source, held_out):
    chooser = selector(Recorder())
    plain, with_more = chooser.select(model, source, seed=0), chooser.select(model, source, seed=0, validation=held_out)
    assert all(target is None for _, target in chooser.solver.calls)
    assert torch.equal(plain.weights, with_more.weights) and plain.cost["passes"] == with_more.cost["passes"]
    assert plain.quality["target_error"] is None
    assert selector(Random()).select(model, source, seed=0).quality["target_error"] is None


def test_validation_matches_validation_better_than_train_does(model, source, held_out):
    aimed = selector(GradMatch(ridge=0), partition="whole", target="validation")
    near = aimed.select(model, source, seed=0, validation=held_out).quality
    assert near["target_error"] < near["gradient_error"]
    # the same examples as both: the same target, up to the attack's own random start
    same_data = aimed.select(model, source, seed=0, validation=source).quality
    assert same_data["target_error"] == pytest.approx(same_data["gradient_error"], abs=0.2)


def test_the_validation_examples_are_attacked_and_counted(model, source, held_out):
    ledger = CostLedger()
    coreset = selector(target="validation").select(model, source, seed=0, validation=held_out, ledger=ledger)
    assert coreset.cost["passes"] == ledger.sum_units() == (96 + 40) * (2 * 2 + 2)
    assert ledger.passes["attack"]["backward"] == (96 + 40) * 2
    kept = measured(model, source, Trades(), ATTACK)
    again = selector(target="validation").select(model, source, seed=0, validation=held_out, rows=kept)
    assert again.cost["passes"] == 40 * (2 * 2 + 2) and torch.equal(again.weights, coreset.weights)


def test_a_streamed_validation_set_is_as_good_as_a_resident_one(model, source, held_out):
    plain = TensorDataset(held_out._images, held_out.labels())
    one, two = (selector(target="validation").select(model, source, seed=0, validation=v) for v in (held_out, plain))
    assert torch.equal(one.indices, two.indices) and torch.equal(one.weights, two.weights)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_class_without_validation_examples_is_named(model, source, held_out, partition):
    present = held_out.labels() != 3
    some = Resident(held_out._images[present], held_out.labels()[present])
    chooser = selector(partition=partition, target="validation")
    if partition.startswith("per_class"):
        with pytest.raises(DataError, match="class 3.*whole"):
            chooser.select(model, source, seed=0, validation=some)
    else:
        assert chooser.select(model, source, seed=0, validation=some).quality["target_error"] > 0


@pytest.mark.parametrize("solver", [Craig(), Random(), EasyCore()], ids=lambda s: type(s).__name__)
def test_a_solver_that_fits_no_target_refuses_validation(solver):
    with pytest.raises(ConfigError, match="target must be 'train'.*'validation'.*gradmatch"):
        selector(solver, target="validation")


def test_a_validation_target_without_validation_examples_is_refused(model, source):
    with pytest.raises(ConfigError, match="validation.*None.*target: train"):
        selector(target="validation").select(model, source, seed=0)
    kept = selector(target="validation", budget=1.0).select(model, source, seed=0)
    assert len(kept) == 96  # all of it needs no target


def trainer(objective, schedule="compressed", period=1, **settings) -> Trainer:
    """Of a few epochs on coresets that match the validation examples."""
    chooser = selector(objective=objective, budget=0.5, target="validation", **settings)
    return Trainer(
        objective=objective,
        attack=ATTACK,
        schedule=Schedule(epochs=4, budget=0.5, warm_start=0.5, period=period, schedule=schedule),
        selector=chooser,
        optimizer=SGD(lr=0.05),
        batch_size=32,
        probe_examples=32,
    )


@pytest.mark.parametrize("schedule", ["compressed", "acs"])
@pytest.mark.parametrize("objective", [Standard(), Pgd(), Trades()], ids=lambda o: type(o).__name__)
@by_plain_kernels
def test_the_ledger_of_a_run_equals_its_plan_with_the_validation_examples(model, source, held_out, objective, schedule):
    made = trainer(objective, schedule)
    trained = made.fit(model, source, held_out, seed=0)
    selections = [one for one in trained.epochs if one["action"] == "select"]
    assert len(selections) == len(trained.coresets) > 0
    assert trained.ledger.sum_units() == count_planned_units(made, 96, 40) > count_planned_units(made, 96)
    assert all(one.quality["target_error"] > 0 for one in trained.coresets)


@by_plain_kernels
def test_the_published_schedule_starts_on_random_subsets_and_then_matches_validation(model, source, held_out):
    made = trainer(Trades(), "acs", period=3)
    trained = made.fit(model, source, held_out, seed=0)
    assert [one["action"] for one in trained.epochs] == ["full", "random", "select"]
    assert trained.ledger.sum_units() == count_planned_units(made, 96, 40)
    assert trained.coresets[0].quality["target_error"] > 0


def test_a_trainer_without_validation_examples_refuses_the_target_before_the_first_epoch(model, source):
    seen = []
    with pytest.raises(ConfigError, match="validation"):
        trainer(Standard()).fit(model, source, seed=0, listener=Listener(on_epoch=lambda *told: seen.append(told)))
    assert seen == []


# ---- saturated models ----


@pytest.mark.case("F9")
@pytest.mark.parametrize("gap", [200.0, 1000.0])
@pytest.mark.parametrize("partition", ["whole", "per_class", "per_batch"])
@pytest.mark.parametrize("solver", [GradMatch(), Craig()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("objective", [kind() for kind in OBJECTIVES.values()], ids=OBJECTIVES)
def test_logit_gaps_and_zero_gradients_stay_finite(source, objective, solver, partition, gap):
    """Certain of class 0, whatever the image: no gradient where that is right, the largest where it is wrong."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        net[1].weight.mul_(0.01)
        net[1].bias.copy_(torch.tensor([gap, 0.0, 0.0, 0.0]))
    coreset = selector(solver, objective, partition=partition).select(net, source, seed=0)
    rows = measured(net, source, objective, ATTACK).dense()
    assert torch.isfinite(rows).all()
    assert not rows[source.labels() == 0].any() and rows[source.labels() != 0].any(1).all()
    assert len(coreset) > 0 and torch.isfinite(coreset.weights).all()
    assert all(np.isfinite(value) for name, value in coreset.quality.items() if "error" in name and value is not None)


@pytest.mark.case("F9")
@pytest.mark.parametrize(
    ("solver", "target"), [(GradMatch(), "train"), (GradMatch(), "validation"), (Craig(), "train")], ids=str
)
def test_no_gradient_at_all_gives_a_finite_coreset_that_says_so(source, solver, target):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.tensor([1000.0, 0.0, 0.0, 0.0]))
    easy = Resident(source._images, torch.zeros(96, dtype=torch.long))
    coreset = selector(solver, target=target).select(net, easy, seed=0, validation=easy)
    assert 0 < len(coreset) <= 24 and torch.isfinite(coreset.weights).all() and coreset.events
    assert all(np.isfinite(value) for name, value in coreset.quality.items() if "error" in name and value is not None)
