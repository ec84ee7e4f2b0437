"""Where the last layer's rows are measured: they equal autograd's, or the model is refused with the reason."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from advcore import AdversarialCoreset, Trainer
from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.models.head import find_head
from advcore.objectives import Pgd, Standard
from advcore.runtime.borrow import borrow
from advcore.selection.schedule import Schedule
from advcore.solvers import EasyCore, GradMatch
from advcore.training import SGD
from advcore.training.progress import Listener

ATTACK = LinfPGD(eps=0.1, steps=1)
N, CLASSES = 8, 4


class Net(nn.Module):
    """A trunk to six features, and `finish(net, h)`, which makes logits of them; by default fc(h)."""

    def __init__(self, finish=None, head=None):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.fc = nn.Linear(64, 6), head or nn.Linear(6, CLASSES)
        self.finish = finish

    def forward(self, x):
        h = self.trunk(x.flatten(1)).relu()
        return self.fc(h) if self.finish is None else self.finish(self, h)


class Forward(nn.Module):
    """A wrapper that passes images on."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *images):
        return self.inner(*images)


class Pooled(nn.Module):
    """A convolution of 1 x 1 as head, over features that are pooled before or after it."""

    def __init__(self, first, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.fc = nn.Conv2d(1, 6, 3), nn.Conv2d(6, CLASSES, 1, bias=bias)
        self.first = first

    def forward(self, x):
        h = self.trunk(x).relu()
        if self.first:
            return self.fc(h.mean((2, 3), keepdim=True)).flatten(1)
        return self.fc(h).mean((2, 3))


def make_source():
    generator = torch.Generator().manual_seed(0)
    return Resident(torch.rand(N, 1, 8, 8, generator=generator), torch.arange(N) % (CLASSES - 1))


def measure(net, **settings):
    settings = MeasurementSettings(objective=Standard(), ledger=CostLedger(), **settings)
    return GRADIENTS["last_layer"].measure(net, make_source(), settings).rows.dense()


def differentiate(net, head):
    """The rows by autograd of the head's parameters, one example at a time: (N, classes x (features + 1))."""
    net.eval()
    rows = []
    for image, label in zip(make_source()._images, make_source().labels(), strict=True):
        loss = F.cross_entropy(net(image[None]), label[None])
        parts = torch.autograd.grad(loss, [w for w in (head.weight, head.bias) if w is not None])
        rows.append(torch.cat([part.view(CLASSES, -1) for part in parts], 1).flatten())
    return torch.stack(rows)


def assert_exact(net, head, expected=None):
    rows = measure(net).flatten(1)
    expected = differentiate(net, head) if expected is None else expected
    assert rows.shape == expected.shape and torch.allclose(rows.to(expected), expected, atol=1e-6)
    assert expected.abs().max() > 0.01


# ---- accepted: rows equal autograd's ----


def mask_last(net, h):
    z = net.fc(h).clone()
    z[:, -1] = -torch.inf
    return z


def mask_in_place(net, h):
    return net.fc(h).masked_fill_(torch.arange(CLASSES) == CLASSES - 1, -torch.inf)


ACCEPTED = {
    "by keyword": lambda: Net(lambda net, h: net.fc(input=h)),
    "a constant added in place": lambda: Net(lambda net, h: net.fc(h).add_(torch.arange(CLASSES))),
    "masked classes": lambda: Net(mask_last),
    "masked in place": lambda: Net(mask_in_place),
    "no bias": lambda: Net(head=nn.Linear(6, CLASSES, bias=False)),
    "features of shape (B, D, 1, 1)": lambda: Pooled(first=True),
    "convolution without bias": lambda: Pooled(first=True, bias=False),
    "another layer has as many outputs": lambda: Net(
        lambda net, h: net.fc(torch.cat([net.trunk.weight[:4, :4].new_ones(len(h), 6)], 1) * h)
    ),
    "in half precision at the end": lambda: Net(lambda net, h: net.fc(h).double()),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_rows_equal_autograd(name):
    net = ACCEPTED[name]()
    assert_exact(net, net.fc)


def compile_in_place(net):
    net.compile(backend="eager")
    return net


def compile_head(net):
    net.fc = torch.compile(net.fc, backend="eager")
    return net


def split_over_devices(net):
    parallel = nn.DataParallel(net)
    parallel.device_ids = [0, 1]  # as on a machine with two GPUs
    return parallel


WRAPPERS = {
    "forwarding": Forward,
    "forwarding twice": lambda net: Forward(nn.Sequential(nn.Identity(), net)),
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "DataParallel": nn.DataParallel,
    "torch.compile": pytest.param(lambda net: torch.compile(net, backend="eager"), marks=pytest.mark.slow),
    "net.compile()": pytest.param(compile_in_place, marks=pytest.mark.slow),
    "a compiled head": pytest.param(compile_head, marks=pytest.mark.slow),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_around_a_fitting_model_gives_its_rows(wrap):
    net = Net()
    expected = differentiate(net, net.fc)
    wrapped = wrap(net)
    for _ in range(2):  # a graph that was compiled without hooks is there the second time
        assert_exact(wrapped, None, expected)
        wrapped(make_source()._images)


def test_the_head_is_looked_for_on_one_device():
    parallel = split_over_devices(Net())
    assert find_head(parallel.eval(), make_source()._images[:2]) is parallel.module.fc
    assert parallel.device_ids == [0, 1]


@pytest.mark.parametrize(
    "norm", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal, weight_norm]
)
def test_weights_that_are_calculated_have_the_rows_of_the_weights(norm):
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old form of weight norm
        norm(net.fc)
    net.eval()
    twin = Net()
    net(make_source()._images)
    twin.load_state_dict({"fc.weight": net.fc.weight.detach(), "fc.bias": net.fc.bias.detach()}, strict=False)
    twin.trunk.load_state_dict(net.trunk.state_dict())
    assert_exact(net, None, differentiate(twin, twin.fc))


# ---- refused, with the reason ----


def scale_in_place(net, h):
    z = net.fc(h)
    z *= 0.25
    return z


def normalise_in_place(net, h):
    z = net.fc(h)
    z -= z.mean(1, keepdim=True)
    z /= z.std(1, keepdim=True)
    return z


def spoil_features(net, h):
    z = net.fc(h)
    h.mul_(2)
    return z


def cut_off(net, h):
    with torch.no_grad():
        return net.fc(h)


class Cosine(nn.Linear):
    def forward(self, h):
        return F.linear(F.normalize(h), F.normalize(self.weight))


def tie(net, h):
    return net.fc(h + F.linear(F.linear(h, net.fc.weight), net.fc.weight.T))


CHANGED = (
    "fc, whose output is changed or whose weights are used twice; return the output of a last linear layer as it is"
)
SCALED = (
    "0.25 times the output of fc; return the output of a last linear layer as it is, and scale its weights or the loss"
)


def trace(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.trace(net, make_source()._images[:2])


REFUSED = {
    "traced": (lambda: trace(Net()), "a torch.jit script, whose layers cannot be inspected; pass the model before"),
    "a traced part": (lambda: Forward(trace(Net())), "a torch.jit script, whose layers cannot be inspected"),
    "scaled": (lambda: Net(lambda net, h: net.fc(h) * 0.25), SCALED),
    "scaled in place": (lambda: Net(scale_in_place), SCALED),
    "divided in place": (lambda: Net(lambda net, h: net.fc(h).div_(4)), SCALED),
    "clamped in place": (lambda: Net(lambda net, h: net.fc(h).clamp_(-0.3, 0.3)), CHANGED),
    "activated in place": (lambda: Net(lambda net, h: F.relu_(net.fc(h))), CHANGED),
    "tanh in place": (lambda: Net(lambda net, h: net.fc(h).tanh_()), CHANGED),
    "normalised in place": (lambda: Net(normalise_in_place), "fc, at which autograd fails"),
    "log-softmax": (lambda: Net(lambda net, h: net.fc(h).log_softmax(1)), CHANGED),
    "own forward": (lambda: Net(head=Cosine(6, CLASSES, bias=False)), CHANGED),
    "weights used before": (lambda: Net(tie), CHANGED),
    "features changed in place afterwards": (lambda: Net(spoil_features), "fc, at which autograd fails"),
    "no_grad around the head": (lambda: Net(cut_off), "fc, at which autograd fails"),
    "called twice": (
        lambda: Net(lambda net, h: net.fc(net.fc(h[:, :4]).relu()), nn.Linear(4, CLASSES)),
        "fc, which is called 2 times; use a separate layer for the logits",
    ),
    "both views of an image": (
        lambda: Net(lambda net, h: (net.fc(h) + net.fc(h.flip(1))) / 2),
        "fc, which is called 2 times; use a separate layer for the logits",
    ),
    "convolution before pooling": (
        lambda: Pooled(first=False),
        "fc, which gives (2, 4, 6, 6); pool the features before the last layer",
    ),
    "no linear layer": (
        lambda: nn.Sequential(nn.Conv2d(1, CLASSES, 8), nn.Flatten()),
        "none with as many outputs as there are logits; end the model in one; linear layers it has: the model has none",
    ),
    "weights used by a function": (
        lambda: Net(lambda net, h: F.linear(h, net.fc.weight, net.fc.bias)),
        "none with as many outputs as there are logits; end the model in one; linear layers it has: trunk, fc",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_head_is_refused_with_the_reason_and_the_way_out(name):
    build, reason = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        measure(build())
    line = str(caught.value)
    assert line.startswith(f"head must be a last torch.nn.Linear whose output is the logits (B, C), got {reason}")
    assert "linear layers it has" in line and "\n" not in line


class TwoHeads(Net):
    def __init__(self):
        super().__init__(lambda net, h: net.fc(h) + net.second(h))
        self.second = nn.Linear(6, CLASSES)


def test_two_heads_whose_outputs_are_added_are_told():
    with pytest.raises(ConfigError) as caught:
        measure(TwoHeads())
    assert str(caught.value) == (
        "head must be a last torch.nn.Linear whose output is the logits (B, C), got several whose outputs are added: "
        "second, fc; use a single layer on all features"
    )
    with pytest.raises(ConfigError, match="^head must be"):
        measure(TwoHeads(), head="fc")


def test_a_clamp_that_bites_later_images_alone_is_refused_where_it_bites():
    net = Net()
    with torch.no_grad():
        logits = net(make_source()._images)
    edge = logits[:2].abs().amax() * 1.0001  # the head is looked for at two images
    assert logits.abs().amax() > 1.02 * edge
    net.finish = lambda net, h: net.fc(h).clamp(-edge, edge)
    with pytest.raises(ConfigError, match="got one whose output is changed for some images, as by a clamp"):
        measure(net)
    net.finish = lambda net, h: net.fc(h).clamp(-9, 9)
    assert_exact(net, net.fc)


CHANGES = {
    "largest subtracted": lambda net, h: (lambda z: z - z.detach().amax(1, keepdim=True))(net.fc(h)),
    "features added": lambda net, h: net.fc(h) + h[:, :CLASSES],
    "a shift for some images": lambda net, h: net.fc(h) + torch.arange(len(h))[:, None] % 2,
}


@pytest.mark.parametrize("finish", CHANGES.values(), ids=CHANGES)
def test_what_leaves_the_gradient_but_changes_the_logits_is_refused_where_the_head_is_looked_for(finish):
    """Before a warm start, that is."""
    with pytest.raises(ConfigError, match="got one whose output is changed for some images"):
        find_head(Net(finish).eval(), make_source()._images[:2])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_head_is_found_in_any_mode_of_the_caller(mode):
    net = Net()
    with mode():
        assert find_head(net, make_source()._images[:2]) is net.fc
        assert find_head(net, make_source()._images[:2].clone()) is net.fc


def test_the_search_leaves_parameters_hooks_and_modes_as_they_were():
    net = Net()
    net.fc.weight.requires_grad_(False)
    with borrow(net), torch.no_grad():
        find_head(net, make_source()._images[:2])
        assert not any(parameter.requires_grad for parameter in net.parameters())
    assert not net.fc.weight.requires_grad and net.fc.bias.requires_grad and net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


# ---- before the first epoch ----


@pytest.mark.parametrize("solver", [GradMatch(), EasyCore()], ids=["rows", "input norms"])
def test_a_run_looks_for_the_head_before_its_first_epoch(solver):
    selector = AdversarialCoreset(objective=Pgd(), solver=solver, attack=ATTACK, budget=0.5)
    schedule = Schedule(epochs=4, budget=0.5, warm_start=0.5, period=None)
    trainer = Trainer(objective=Pgd(), attack=ATTACK, schedule=schedule, selector=selector, optimizer=SGD(lr=0.05))
    epochs = []
    net = Net(scale_in_place)
    before = copy.deepcopy(net.state_dict())
    listener = Listener(on_epoch=lambda entry, trained: epochs.append(entry))
    if solver == EasyCore():  # reads no head
        trainer.fit(net, make_source(), seed=0, listener=listener)
        assert len(epochs) == 3
        return
    with pytest.raises(ConfigError, match="^head must be .* got 0.25 times the output of fc"):
        trainer.fit(net, make_source(), seed=0, listener=listener)
    assert not epochs and all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
