"""Callers may be under torch.no_grad or torch.inference_mode: the numbers are the same, and their mode is restored."""

import copy

import pytest
import torch

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import NFGSM, LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.evaluation.evaluate import smallest_radius
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.objectives import Pgd
from advcore.rng import Stream
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD

ATTACK = LinfPGD(eps=0.1, steps=2)
STREAM = Stream(seed=0, purpose="mode")


def run_evaluation(model, source):
    found = evaluate(model, source, [ATTACK], keep_examples=True, checks=True)
    return [found.worst.accuracy, found.flags, found.examples["0"]]


def run_selection(model, source):
    coreset = AdversarialCoreset(objective=Pgd(), solver=GradMatch(), attack=ATTACK).select(model, source, seed=0)
    return [coreset.indices, coreset.weights, coreset.quality["gradient_error"]]


def run_training(model, source):
    selector = AdversarialCoreset(objective=Pgd(), solver=GradMatch(), attack=ATTACK, budget=0.5)
    schedule = Schedule(epochs=3, budget=0.5, warm_start=0.4, period=None)
    trainer = Trainer(objective=Pgd(), attack=ATTACK, schedule=schedule, selector=selector, optimizer=SGD(lr=0.05))
    trainer.fit(model, source, seed=0)
    return list(model.state_dict().values())


def run_radius(model, source):
    indices = torch.arange(len(source))
    return [smallest_radius(model, source, ATTACK, indices, stream=STREAM, ledger=CostLedger(), parts=3)]


def run_scores(model, source):
    settings = MeasurementSettings(objective=Pgd(), attack=ATTACK, stream=STREAM, ledger=CostLedger())
    return [GRADIENTS[name].measure(model, source, settings).rows.dense() for name in GRADIENTS]


ENTRIES = {
    "evaluate": run_evaluation,
    "select": run_selection,
    "fit": run_training,
    "smallest_radius": run_radius,
    "rows and scores": run_scores,
}
MODES = {
    "no_grad": torch.no_grad,
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
    "inference_mode": torch.inference_mode,
}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def read_modes() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def are_equal(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return first == second


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@each_mode
@pytest.mark.slow
def test_the_numbers_are_the_same_and_the_mode_is_restored(model, source, entry, mode):
    expected = entry(copy.deepcopy(model), source)  # training changes its model
    with mode():
        before = read_modes()
        result = entry(model, source)
        assert read_modes() == before
    assert all(map(are_equal, expected, result))


@each_mode
def test_data_that_were_made_in_the_mode_serve_too(model, source, mode):
    _, x, _ = next(source.batches([torch.arange(len(source))]))
    labels = source.labels()
    expected = run_evaluation(model, Resident(x, labels))
    with mode():
        result = run_evaluation(model, Resident(x.clone(), labels.clone()))
    assert all(map(are_equal, expected, result))


@each_mode
def test_the_mode_is_restored_after_an_error(model, source, mode):
    with mode():
        before = read_modes()
        with pytest.raises(ConfigError):
            evaluate(model, source, [NFGSM(eps=0.1)])  # which is for training only
        assert read_modes() == before


@each_mode
def test_an_attack_called_by_itself_moves_the_image(model, source, mode):
    _, x, y = next(source.batches([torch.arange(8)]))

    def loss(images):
        return torch.nn.functional.cross_entropy(model(images), y, reduction="none")

    model.eval()
    expected = ATTACK(loss, x, generator=STREAM.at(torch.arange(8)))
    with mode():
        result = ATTACK(loss, x.clone(), generator=STREAM.at(torch.arange(8)))
    assert torch.equal(expected, result)
    assert not torch.equal(result, x)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_a_model_that_was_built_in_inference_mode_is_refused_in_one_line(model, source, entry):
    with torch.inference_mode():
        built_inside = copy.deepcopy(model)
    with pytest.raises(ConfigError, match="built outside of torch.inference_mode") as caught:
        entry(built_inside, source)
    assert "\n" not in str(caught.value)
