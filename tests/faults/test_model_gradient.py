"""A model that lets no gradient reach its images: refused in training and selection, flagged in evaluation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import L2PGD, LPA, LinfPGD, StAdv
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.objectives import Pgd, Standard, Trades
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD

ATTACK = LinfPGD(eps=0.1, steps=2)
PGD = Pgd()
ABSENT = "none (as after no_grad, detach, .data, argmax or numpy)"
ZERO = "0 at every image of the first batch (as after rounding, or by underflow)"


class Net(nn.Module):
    """A small network with a function before its trunk, and one before its head."""

    def __init__(self, before=None, between=None):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.fc = nn.Conv2d(1, 4, 3, 2), nn.Linear(36, 4)
        self.before = before or nn.Identity()
        self.between = between or nn.Identity()

    def forward(self, x):
        return self.fc(self.between(self.trunk(self.before(x)).relu().flatten(1)))


class FrozenTrunk(Net):
    def forward(self, x):
        with torch.no_grad():
            h = self.trunk(x).relu().flatten(1)
        return self.fc(h)


class InferenceTrunk(Net):
    def forward(self, x):
        with torch.inference_mode():
            h = self.trunk(x).relu().flatten(1)
        return self.fc(h)


def through_numpy(x):
    return torch.from_numpy(x.detach().cpu().numpy() * 1.0)


def choose_one(h):
    return F.one_hot(h.argmax(1), h.shape[1]).to(h)


FAULTS = {
    "no_grad": (lambda: FrozenTrunk(), ABSENT),
    "inference_mode": (lambda: InferenceTrunk(), ABSENT),
    "detach": (lambda: Net(torch.detach), ABSENT),
    "detached features": (lambda: Net(None, torch.detach), ABSENT),
    "data": (lambda: Net(lambda x: x.data), ABSENT),
    "numpy": (lambda: Net(through_numpy), ABSENT),
    "grey levels": (lambda: Net(lambda x: (255 * x).to(torch.uint8).float() / 255), ABSENT),
    "argmax": (lambda: Net(None, choose_one), ABSENT),
    "rounding": (lambda: Net(lambda x: (8 * x).round() / 8), ZERO),
    "rounded features": (lambda: Net(None, torch.round), ZERO),
    "floor": (lambda: Net(lambda x: (8 * x).floor() / 8), ZERO),
    "sign": (lambda: Net(lambda x: (x - 0.5).sign()), ZERO),
}
each_fault = pytest.mark.parametrize("name", FAULTS)


def make_source(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Resident(torch.rand(12, 1, 8, 8, generator=generator), torch.arange(12) % 4)


def label_by(net):
    """Return a source whose labels the network gets right, so that attacks have something to do."""
    images = make_source()._images
    with torch.no_grad():
        return Resident(images, net.eval()(images).argmax(1))


def fit(net, objective=PGD, attack=ATTACK):
    trainer = Trainer(
        objective=objective, attack=attack, schedule=Schedule(epochs=1), optimizer=SGD(lr=0.05), batch_size=6
    )
    return trainer.fit(net, make_source(), seed=0)


def select(net, objective=PGD, attack=ATTACK):
    selector = AdversarialCoreset(objective=objective, solver=GradMatch(), attack=attack, budget=0.5)
    return selector.select(net, make_source(), seed=0)


@each_fault
@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=["pgd", "trades"])
@pytest.mark.parametrize("run", [fit, select], ids=["fit", "select"])
def test_training_and_selection_refuse_it_in_a_line_and_change_nothing(name, objective, run):
    build, fault = FAULTS[name]
    net = build()
    before = [value.clone() for value in net.state_dict().values()]
    with pytest.raises(ConfigError) as caught:
        run(net, objective)
    assert str(caught.value) == (
        f"model must let the loss's gradient reach its images, got {fault}; "
        "freeze layers by requires_grad_(False), and leave rounding and detach() out of the model"
    )
    assert all(map(torch.equal, before, net.state_dict().values()))


@each_fault
def test_evaluation_flags_it_without_being_asked(name):
    build, fault = FAULTS[name]
    net = build()
    found = evaluate(net, label_by(net), [ATTACK])
    assert found.flags == (f"masked: the gradient that linf_pgd climbs is {fault}",)


@pytest.mark.parametrize(
    "attack", [L2PGD(eps=0.5, steps=2), LPA(eps=0.5, steps=2, rounds=1), StAdv(eps=0.02, steps=2)], ids=lambda a: a.norm
)
def test_every_attack_that_climbs_is_watched(attack):
    for build, fault in (FAULTS["detach"], FAULTS["rounding"]):
        net = build()
        assert any(fault in flag for flag in evaluate(net, label_by(net), [attack]).flags)
        with pytest.raises(ConfigError, match="^model must let the loss's gradient reach its images"):
            fit(net, attack=attack)
    net = Net()
    assert not evaluate(net, label_by(net), [attack]).flags


def test_a_score_at_attacked_images_refuses_it_too():
    settings = MeasurementSettings(objective=Pgd(), attack=ATTACK, ledger=CostLedger())
    for name in ("adversarial_el2n", "adversarial_input_norm"):
        with pytest.raises(ConfigError, match="^model must let the loss's gradient reach its images"):
            GRADIENTS[name].measure(FAULTS["rounding"][0](), make_source(), settings)


@pytest.mark.parametrize("name", ["detach", "rounding", "rounded features"])
def test_a_score_that_is_the_gradient_itself_refuses_it_too(name):
    build, fault = FAULTS[name]
    settings = MeasurementSettings(objective=Standard(), attack=None, ledger=CostLedger())
    with pytest.raises(ConfigError) as caught:
        GRADIENTS["input_norm"].measure(build(), make_source(), settings)
    assert fault in str(caught.value)
    assert not GRADIENTS["input_norm"].measure(zero_head(), make_source(), settings).rows.dense().any()
    assert GRADIENTS["input_norm"].measure(Net(), make_source(), settings).rows.dense().all()


class Noise(LinfPGD):
    """A black box: it asks for no gradient."""

    def __call__(self, loss_fn, x, *, generator):
        return x


def test_the_flag_is_of_the_attack_that_climbs_and_not_of_a_black_box():
    net = FAULTS["rounding"][0]()
    assert not evaluate(net, label_by(net), [Noise(eps=0.1)]).flags
    found = evaluate(net, label_by(net), [Noise(eps=0.1), L2PGD(eps=0.1)])
    assert found.flags == (f"masked: the gradient that l2_pgd climbs is {ZERO}",)


def test_the_flag_is_in_the_file_that_an_evaluation_resumes_from(tmp_path):
    net = FAULTS["rounding"][0]()
    data = label_by(net)
    file = tmp_path / "verdicts.npz"
    first = evaluate(net, data, [ATTACK], state=file)
    assert first.flags and evaluate(net, data, [ATTACK], state=file) == first


def test_an_attack_that_fools_all_at_once_is_not_flagged():
    """Evaluation holds a fooled example's loss at 0: that gradient of 0 is its own."""
    net = Net()
    found = evaluate(net, label_by(net), [LinfPGD(eps=1.0, steps=2)])
    assert found.attacks[0]["accuracy"] == 0 and not found.flags


# ---- what is no fault ----


def zero_head(**parts):
    net = Net(**parts)
    nn.init.zeros_(net.fc.weight)
    return net


@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=["pgd", "trades"])
def test_a_head_of_zeros_trains_and_is_looked_at_again_after_a_step(objective):
    net = zero_head()
    fit(net, objective)
    assert net.fc.weight.any()
    select(zero_head(), objective)
    rounding = zero_head(before=lambda x: (8 * x).round() / 8)
    with pytest.raises(ConfigError, match="^model must let the loss's gradient reach its images, got 0 "):
        fit(rounding, objective)
    assert rounding.fc.weight.any()


def test_a_ball_without_a_radius_has_nothing_to_climb():
    nothing = ATTACK.with_settings(eps=0.0)
    rounding = FAULTS["rounding"][0]()
    for net, objective in ((Net(), Trades()), (rounding, Pgd()), (rounding, Trades())):
        fit(net, objective, nothing)
        select(net, objective, nothing)
    with pytest.raises(ConfigError, match="got none"):
        fit(FAULTS["detach"][0](), Pgd(), nothing)


def test_an_objective_that_is_not_attacked_asks_for_no_gradient():
    fit(FAULTS["no_grad"][0](), Standard(), None)


def test_a_straight_through_gradient_is_one():
    net = Net(lambda x: x + ((8 * x).round() / 8 - x).detach())
    fit(net)
    select(net)
    assert not evaluate(net, label_by(net), [ATTACK]).flags


def test_the_look_costs_no_pass_and_moves_no_bit(monkeypatch):
    """Training and evaluation are the same, and cost the same, where nothing is watched."""

    def run():
        net = Net()
        ledger = CostLedger()
        trained = fit(net)
        found = evaluate(net, label_by(net), [ATTACK], keep_examples=True, ledger=ledger)
        weights = torch.cat([value.flatten() for value in net.state_dict().values()])
        return weights, found.examples["0"], trained.ledger.passes, ledger.passes

    watched = run()
    monkeypatch.setattr("advcore.runtime.watch.GradientWatch.watch", lambda self, forward: forward)
    plain = run()
    assert torch.equal(watched[0], plain[0]) and torch.equal(watched[1], plain[1]) and watched[2:] == plain[2:]


def test_a_model_that_uses_no_parameter_that_is_trained_is_refused():
    """As a wrapper that holds a network in training, and passes images on to its average."""
    net = Net().requires_grad_(False)
    net.unused = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="^model must be a network whose logits depend on a parameter"):
        fit(net)


def test_an_evaluation_of_a_model_that_spoils_its_own_gradient_is_refused():
    def normalise(h):
        h -= h.mean(1, keepdim=True)
        h /= h.norm(dim=1, keepdim=True)
        return h

    with pytest.raises(ConfigError, match="^model must be differentiable"):
        evaluate(Net(None, normalise), make_source(), [ATTACK])


class Checkpointed(Net):
    def forward(self, x):
        h = checkpoint(self.trunk, x, use_reentrant=True).relu().flatten(1)
        return self.fc(h)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("run", [fit, select, lambda net: evaluate(net, make_source(), [ATTACK])])
def test_checkpoints_that_hide_the_gradient_are_refused_with_the_way_out(run):
    with pytest.raises(
        ConfigError, match="^model must be differentiable, got .*; checkpoint with use_reentrant=False$"
    ):
        run(Checkpointed())
