"""Operations of single passes, against sums over layer shapes that are written out by hand."""

import copy
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advcore.cost import CostLedger
from advcore.models.small import small_cnn
from advcore.runtime.flops import PassCost, find_cost, measure_cost, measure_double

X = torch.rand(3, 1, 8, 8)
WIDTH = 4


def list_layers(width: int) -> list[int]:
    """Operations of each layer of the small CNN on 8 x 8 images: 2 x weights x places at which they are applied."""
    return [
        2 * (9 * 1 * width) * 64,
        2 * (9 * width * 2 * width) * 16,
        2 * (9 * 2 * width * 4 * width) * 4,
        2 * (16 * width * 8 * width),
        2 * (8 * width * 10),
    ]


LAYERS = list_layers(WIDTH)
FORWARD = sum(LAYERS)


def network() -> nn.Module:
    return small_cnn(10, 1, WIDTH)


def measure(model: nn.Module, trained=(), *, to_images=False, x=X):
    return measure_cost(model, x, list(trained), to_images=to_images)


def test_a_backward_pass_costs_as_much_as_the_gradients_that_it_computes():
    """A layer's gradient with respect to its input, and to its weights, takes as much as its forward pass."""
    model = network()
    everything = list(model.parameters())
    head = [*model[-1].parameters()]
    assert measure(model).forward == FORWARD
    assert measure(model).backward == 0
    assert measure(model, to_images=True).backward == FORWARD
    assert measure(model, everything).backward == 2 * FORWARD - LAYERS[0]  # none leads to the images
    assert measure(model, everything, to_images=True).backward == 2 * FORWARD
    assert measure(model, head).backward == LAYERS[-1]


def test_the_pass_is_found_by_what_requires_gradients():
    model = network()
    asked = X.clone().requires_grad_(True)
    assert find_cost(model, asked).backward == 2 * FORWARD
    assert find_cost(model, X).backward == 2 * FORWARD - LAYERS[0]
    for parameter in model[:-1].parameters():
        parameter.requires_grad_(False)
    assert find_cost(model, X).backward == LAYERS[-1]
    with torch.no_grad():
        assert find_cost(model, asked).backward == 0
    model.requires_grad_(False)
    assert find_cost(model, asked).backward == FORWARD


class Grouped(nn.Module):
    """A depthwise convolution, whose weight's gradient torch's own formula counts once for each group."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.up(self.depthwise(x)).mean((2, 3)))


def test_grouped_and_transposed_convolutions():
    layers = [2 * 6 * 9 * 64, 2 * (6 * 2 * 4) * 64, 2 * 4 * 5]
    model = Grouped()
    cost = measure(model, model.parameters(), to_images=True, x=torch.rand(2, 6, 8, 8))
    assert cost.forward == sum(layers)
    assert cost.backward == 2 * sum(layers)


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        tokens = x.flatten(2)  # (B, 1, 64), as 8 tokens of 8 numbers
        tokens = tokens.view(len(x), 1, 8, 8)
        return self.head(F.scaled_dot_product_attention(tokens, tokens, tokens).mean((1, 2)))


def test_attention_counts_as_its_two_matrix_products():
    cost = measure(Attentive(), to_images=True)
    products = 2 * (2 * 8 * 8 * 8)
    head = 2 * 8 * 5
    assert cost.forward == products + head
    assert cost.backward == 2 * products + head  # both factors of each product lead to the images


class Encoder(nn.Module):
    """In eval mode, and without gradients, torch runs its layer as one kernel, which the counter does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.layer(x.squeeze(1)).mean(1))


class SelfAttention(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = x.squeeze(1)
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


class Recurrent(Encoder):
    def __init__(self, kind=nn.LSTM) -> None:
        super().__init__()
        self.layer = kind(8, 8, batch_first=True)

    def forward(self, x):
        return self.head(self.layer(x.squeeze(1))[0][:, -1])


HEAD = 2 * 8 * 5
ATTENTION = 8 * 2 * (4 * 8 * 8) + 2 * (2 * 8 * 8 * 8)  # four maps of 8 tokens, and two products between these
FEED_FORWARD = 8 * 2 * (2 * 8 * 16)


@pytest.mark.parametrize(
    ("model", "products"),
    [
        (Encoder(), ATTENTION + FEED_FORWARD),
        (SelfAttention(), ATTENTION),
        (Recurrent(), 8 * 4 * 2 * (2 * 8 * 8)),
        (Recurrent(nn.GRU), 8 * 3 * 2 * (2 * 8 * 8)),
        (Recurrent(nn.RNN), 8 * 2 * (2 * 8 * 8)),
    ],
    ids=["encoder", "attention", "lstm", "gru", "rnn"],
)
@pytest.mark.parametrize("to_images", [False, True])
def test_layers_that_torch_runs_as_one_kernel_are_counted_by_their_products(model, products, to_images):
    flags = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    assert measure(model.eval(), to_images=to_images).forward == products + HEAD
    assert flags == (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
    )


class LowRank(nn.Module):
    """Multiplies its weights by each other before it meets an image."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.rand(64, 3))
        self.right = nn.Parameter(torch.rand(3, 5))

    def forward(self, x):
        return x.flatten(1) @ (self.left @ self.right)


@pytest.mark.parametrize(
    "model",
    [
        LowRank(),
        nn.Sequential(nn.Flatten(), nn.utils.parametrizations.orthogonal(nn.Linear(64, 5), use_trivialization=False)),
        nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 5))),
        nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(64, 5))),
    ],
    ids=["low rank", "orthogonal", "weight norm", "spectral norm"],
)
def test_products_of_weights_are_computed_once_per_batch_and_by_no_image(model):
    assert measure(model, model.parameters(), to_images=True) == PassCost(640, 2 * 640)


class WithHooks(nn.Module):
    """Reads what a layer returns by a hook of its own, and cannot run without."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 7)
        self.head = nn.Linear(7, 5)
        self.features = []
        self.layer.register_forward_hook(lambda module, x, output: self.features.append(output))

    def forward(self, x):
        self.features.clear()
        self.layer(x.flatten(1))
        return self.head(self.features[-1])


def test_a_network_that_needs_its_hooks_has_them():
    assert measure(WithHooks()).forward == 2 * (64 * 7 + 7 * 5)


@pytest.mark.parametrize("error", [ValueError, IndexError, KeyError, ZeroDivisionError])
def test_whatever_a_network_raises_at_images_of_the_measurement_is_a_problem_of_its_cost(error):
    class Refusing(nn.Module):
        def forward(self, x):
            raise error("grey")

    assert "grey" in measure(Refusing()).problem


def test_a_backward_pass_through_a_backward_pass():
    """A linear map's input gradient does not depend on the input, so the only products are those of its weights."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False))
    weight = 2 * 64 * 5
    # d loss / dx = W^T r(Wx): its derivative leads through W^T (to W and to r), and through r to W
    assert measure_double(model, X, list(model.parameters())).backward == 3 * weight


class Jitter(nn.Module):
    """Draws from the generators of Python, NumPy and torch."""

    def forward(self, x):
        return x + 1e-3 * (random.random() + np.random.rand() + torch.rand(()))


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_everything_as_it_was(training):
    model = network().train(training)
    gradient = torch.ones_like(model[0].weight)
    model[0].weight.grad = gradient
    before = copy.deepcopy(model)
    state = torch.get_rng_state()
    others = random.getstate(), np.random.get_state()[1].tolist()
    catches = []
    handle = model[-1].register_forward_hook(lambda *_: catches.append(1))
    model.insert(0, Jitter())
    measure(model, model.parameters())
    del model[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == others
    assert not catches and len(model[-1]._forward_hooks) == 1
    handle.remove()
    assert model.training == training
    assert model[0].weight.grad is gradient and bool((gradient == 1).all())
    assert all(map(torch.equal, model.state_dict().values(), before.state_dict().values()))
    assert all(parameter.requires_grad for parameter in model.parameters())


class Uncountable(nn.Module):
    """Refuses what torch refuses under a counter; runs without one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 5)
        self.is_counted = True

    def forward(self, x):
        if self.is_counted and bool((x == x.flatten()[0]).all()):
            raise RuntimeError("not under a counter")
        return self.head(x.flatten(1))


def test_what_cannot_be_counted_leaves_the_ledger_with_passes_alone():
    ledger = CostLedger()
    with ledger.phase("update"):
        ledger.count_passes(Uncountable())(X)
    assert ledger.sum_units() == 3 and ledger.sum_flops() is None
    assert "not under a counter" in ledger.uncounted
    assert all("flops" not in counts for counts in ledger.summarise().values())


def test_a_ledger_of_a_version_that_counted_passes_alone_has_no_sum_of_operations():
    ledger = CostLedger()
    ledger.restore({phase: {"forward": 2, "backward": 1, "seconds": 0.5} for phase in ledger.passes})
    assert ledger.sum_units() == 15 and ledger.sum_flops() is None
    fresh = CostLedger()
    fresh.restore(fresh.summarise())
    assert fresh.sum_flops() == 0


def test_counting_does_not_import_the_compiler():
    """Which would take each command most of a second."""
    lines = (
        "import sys, torch",
        "from advcore.runtime.flops import measure_cost",
        "model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 3))",
        "cost = measure_cost(model, torch.rand(2, 1, 8, 8), [], to_images=True)",
        "assert cost.backward == 2 * 2 * 9 * 36 + 2 * 72 * 3",
        "assert 'torch._dynamo' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
