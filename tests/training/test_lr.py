"""Each schedule against torch's own scheduler as the slow twin."""

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from advcore.errors import ConfigError
from advcore.training import LR_SCHEDULES
from advcore.training.lr import Constant, Cosine, Cyclic, MultiStep, OneCycle, bind_factor

STEPS = 40


def by_torch(make) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def ours(schedule) -> list[float]:
    return [schedule.factor(i / STEPS, i) for i in range(STEPS)]


def test_multi_step():
    assert ours(MultiStep(milestones=[10, 30])) == pytest.approx(by_torch(lambda o: torchs.MultiStepLR(o, [10, 30])))


def test_a_milestone_that_stands_twice_counts_twice():
    assert ours(MultiStep(milestones=[4, 4])) == pytest.approx(by_torch(lambda o: torchs.MultiStepLR(o, [4, 4])))


def test_cosine():
    assert ours(Cosine()) == pytest.approx(by_torch(lambda o: torchs.CosineAnnealingLR(o, STEPS)))


def test_cosine_after_a_warm_up():
    def make(optimizer):
        up = torchs.LinearLR(optimizer, 1e-9, 1, total_iters=10)
        return torchs.SequentialLR(optimizer, [up, torchs.CosineAnnealingLR(optimizer, 30)], milestones=[10])

    assert ours(Cosine(warm_up=0.25)) == pytest.approx(by_torch(make), abs=1e-6)
    with pytest.raises(ConfigError, match="warm_up must be a number in"):
        Cosine(warm_up=1.0)


def test_one_cycle():
    slow = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torchs.OneCycleLR(
        slow, 1.0, total_steps=STEPS + 1, pct_start=(12 + 1) / (STEPS + 1), cycle_momentum=False
    )
    rates = []
    for _ in range(STEPS):
        rates.append(slow.param_groups[0]["lr"])
        slow.step()
        scheduler.step()
    assert ours(OneCycle(peak=0.3)) == pytest.approx(rates, abs=1e-6)


def test_cyclic_is_linear_up_and_down():
    assert ours(Cyclic()) == pytest.approx([min(i / 20, 2 - i / 20) for i in range(STEPS)])


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_factors_stay_in_0_1(name):
    if name == "timm":
        pytest.importorskip("timm", reason="needs the package timm: install the extra hf")
    needed = {"multi_step": {"milestones": [3]}, "timm": {"algorithm": "cosine", "epochs": STEPS}}
    factor = bind_factor(LR_SCHEDULES[name](**needed.get(name, {})), 1.0)
    assert all(0 <= factor(i / STEPS, i) <= 1 for i in range(STEPS))


def test_constant_is_constant_and_milestones_must_ascend():
    assert set(ours(Constant())) == {1.0}
    for milestones in ([3, 2], [2, 3, 2], [0]):
        with pytest.raises(ConfigError) as error:
            MultiStep(milestones=milestones)
        assert "milestones" in str(error.value) and str(milestones) in str(error.value)


def test_the_rate_grows_over_the_ramps_epochs_and_milestones_still_count():
    ramped, plain = MultiStep(milestones=[8], ramp=5), MultiStep(milestones=[8])
    assert [ramped.factor(0, i) for i in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert ramped.factor(0, 9) == plain.factor(0, 9) == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="ramp must be"):
        MultiStep(milestones=[8], ramp=-1)
