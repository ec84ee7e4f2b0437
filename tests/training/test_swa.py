"""Stochastic weight averaging: against means and statistics worked by hand, its passes, and what it leaves alone."""

import copy
from functools import partial

import pytest
import torch
from kernels import by_plain_kernels
from torch import nn

from advcore import AdversarialCoreset, Trainer
from advcore.attacks import LinfPGD
from advcore.data.augment import crop_flip, keep_images
from advcore.errors import ConfigError
from advcore.objectives import Pgd, Standard
from advcore.rng import Stream
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD
from advcore.training.average import SWA, build_average, update_average
from advcore.training.batches import split_into_batches
from advcore.training.loop import Listener
from advcore.training.plan import count_planned_units

ATTACK = LinfPGD(eps=0.1, steps=1)
SELECTOR = AdversarialCoreset(objective=Pgd(), attack=ATTACK, solver=GradMatch(), budget=0.5)
ON_CORESETS = {"schedule": Schedule(epochs=4, budget=0.5, warm_start=0.5, period=1), "selector": SELECTOR}


def build_trainer(**settings):
    settings = {"objective": Pgd(), "schedule": Schedule(epochs=4), "swa": SWA(start=0.5), **settings}
    return Trainer(attack=ATTACK, optimizer=SGD(lr=0.05), batch_size=40, **settings)


def fit(trainer, model, source, augment=keep_images):
    """The results, the network's own state after each epoch, and what was offered to be saved."""
    raw, saved = [], []
    listener = Listener(
        on_model=lambda network: raw.append(copy.deepcopy(network)),
        on_state=lambda name, state, entry: saved.append(state),
    )
    return trainer.fit(model, source, seed=3, augment=augment, listener=listener), raw, saved


@by_plain_kernels
@pytest.mark.parametrize(("augment", "changes"), [(crop_flip, {}), (keep_images, ON_CORESETS)], ids=["all", "coresets"])
def test_it_is_the_mean_of_the_epochs_with_statistics_of_the_last_ones_images(model, source, augment, changes):
    trained, raw, saved = fit(build_trainer(**changes), model, source, augment)
    length = len(raw)
    first = length // 2
    assert all(torch.equal(saved[0][name], value) for name, value in raw[0].state_dict().items())
    for epoch in range(first, length):
        mean = copy.deepcopy(raw[epoch]).train()
        with torch.no_grad():
            for name, value in mean.named_parameters():
                value.copy_(
                    sum(network.get_parameter(name) for network in raw[first : epoch + 1]) / (epoch + 1 - first)
                )
        coreset = trained.coresets[epoch - length] if trained.coresets else None
        stream = partial(Stream, seed=3, epoch=epoch)
        count, means, variances = 0, 0, 0
        for indices in split_into_batches(coreset, source, 40, stream(purpose="order")):
            _, x, _ = next(source.batches([indices]))
            with torch.no_grad():
                features = mean[0](augment(x, stream(purpose="augment").at(indices)))
            count += len(x)
            means = means + len(x) * features.mean((0, 2, 3))
            variances = variances + len(x) * features.var((0, 2, 3))
        for name, value in mean.named_parameters():
            assert torch.allclose(saved[epoch][name], value, atol=1e-6), name
        assert torch.allclose(saved[epoch]["1.running_mean"], means / count, atol=1e-6)
        assert torch.allclose(saved[epoch]["1.running_var"], variances / count, atol=1e-6)
    assert all(torch.equal(trained.last[name], value) for name, value in saved[-1].items())


@pytest.mark.parametrize(
    ("changes", "more"), [(ON_CORESETS, 2 * 48), ({"objective": Standard(), "swa": SWA(start=0)}, 4 * 96)]
)
def test_the_ledger_is_the_plan_and_a_pass_more_for_each_image_of_an_averaged_epoch(model, source, changes, more):
    averaged, plain = build_trainer(**changes), build_trainer(**changes | {"swa": None})
    assert averaged.fit(model, source).ledger.sum_units() == count_planned_units(averaged, 96)
    assert count_planned_units(averaged, 96) == count_planned_units(plain, 96) + more


def test_layers_that_rest_keep_their_statistics_and_take_no_pass(model, source):
    before = copy.deepcopy(model.state_dict())
    head_alone = build_trainer(trainable="head")
    trained, _, _ = fit(head_alone, model, source)
    assert all(torch.equal(trained.last[f"1.{name}"], before[f"1.{name}"]) for name in ("running_mean", "running_var"))
    assert trained.ledger.sum_units() == count_planned_units(build_trainer(swa=None), 96)


def test_the_training_itself_stays_as_it_was(model, source):
    """Dropout draws the same numbers, and the network that trains ends in the same bits."""
    net = nn.Sequential(*model[:-1], nn.Dropout(0.2), model[-1])
    _, averaged, _ = fit(build_trainer(), copy.deepcopy(net), source)
    _, plain, _ = fit(build_trainer(swa=None), net, source)
    states = [network.state_dict() for network in (averaged[-1], plain[-1])]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_infinity_stays_and_of_whole_numbers_the_last_is_kept():
    model = nn.Linear(2, 1)
    model.register_buffer("count", torch.tensor([1, 2]))
    average = build_average(model, None, SWA())
    for value in (1.0, 2.0, 6.0):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[value, -torch.inf]]))
        model.count += 1
        update_average(average, model, [0])
    assert average.module.weight.tolist() == [[3.0, -torch.inf]] and average.module.count.tolist() == [4, 5]


@pytest.mark.parametrize("start", [-0.1, 1.0, float("nan")])
def test_a_start_outside_the_run_is_one_line(start):
    with pytest.raises(ConfigError, match=r"^start must be a number in \[0, 1\), got"):
        SWA(start=start)


def test_two_averages_are_one_line():
    with pytest.raises(ConfigError, match=r"^swa must be null with ema, got .*; choose one average$"):
        build_trainer(ema=0.9)
