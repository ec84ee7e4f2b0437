"""Gradient rows against autograd of the head's own weight and bias, one example at a time."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from seeds import seeded
from torch import nn
from torch.utils.data import TensorDataset

from advcore.adversary import perturb
from advcore.attacks import ATTACKS
from advcore.attacks.pgd import PGD as BALL
from advcore.cost import CostLedger
from advcore.data.source import Resident, Streamed
from advcore.errors import ConfigError, DataError, NonFiniteError
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.last_layer import last_layer_rows, residuals
from advcore.models import MODELS
from advcore.objectives import OBJECTIVES
from advcore.objectives.base import is_attacked
from advcore.rng import Stream
from advcore.types import Event

N, SHAPE, CLASSES = 35, (2, 6, 6), 4  # chunks of 8, 16 and 32 all leave a shorter last one
STREAM = Stream(seed=3, purpose="selection")
PGD = {"eps": 0.1, "steps": 2}


@dataclass(frozen=True)
class Given:
    """An attack whose answers are written down beforehand, by example."""

    answers: torch.Tensor
    climbs: str = "own"
    training_only: bool = False
    log: list = field(default_factory=list)

    def __call__(self, loss_fn, x, *, generator):
        self.log.append(generator.indices.tolist())
        return self.answers[generator.indices]

    def passes(self):
        return 0, 0


IMAGES = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MOVED = (IMAGES + 0.1 * torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def images():
    return IMAGES.clone()


def moved():
    return MOVED.clone()


LABELS = torch.arange(N) * 7 % CLASSES


def network(bias=True):
    """A float64 CNN whose BatchNorm has seen data, so that train and eval mode differ."""
    with seeded():
        body = [
            nn.Conv2d(2, 5, 3, 2, 1),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(45, 6),
        ]
        model = nn.Sequential(*body, nn.Tanh(), nn.Linear(6, CLASSES, bias=bias)).double()
        for piece in images().split(10):
            model(3 * piece - 1)
    return model.eval()


def measure(model=None, source=None, *, name="trades", attack=None, **settings):
    return last_layer_rows(
        model or network(),
        source or Resident(images(), LABELS),
        MeasurementSettings(
            objective=OBJECTIVES[name](), attack=attack, stream=STREAM, **{"ledger": CostLedger(), **settings}
        ),
    )


def slow_rows(model, name, x_adv):
    """(N, C (D + 1)): the head's gradient of one example after another, weights and bias side by side."""
    return slow_rows_of(list(model[-1].parameters()), model, name, images(), x_adv)


def slow_rows_of(parameters, model, name, x, x_adv):
    """The gradient of one example after another with respect to a head's weight and bias, side by side."""
    rows, objective = [], OBJECTIVES[name]()
    for i in range(N):
        given = {"clean": x[i : i + 1], "adversarial": x_adv[i : i + 1]}
        loss = objective.loss(LABELS[i : i + 1], **{key: model(given[key]) for key in objective.passes})
        gradients = torch.autograd.grad(loss[0], parameters)
        rows.append(torch.cat([gradients[0], *(g[:, None] for g in gradients[1:])], 1).flatten())
    return torch.stack(rows)


@functools.cache
def slow_rows_at_the_moved(name):
    return slow_rows(network(), name, moved())


@functools.cache
def attacked_alone(name, attack):
    """Each example attacked by itself, and its rows by autograd there."""
    model, one, points = network(), ATTACKS[attack](**PGD), []
    for i in range(N):
        index = torch.tensor([i])
        generator = STREAM.at(index)
        points.append(perturb(model, OBJECTIVES[name](), one, images()[index], LABELS[index], generator=generator))
    return slow_rows(model, name, torch.cat(points))


@pytest.mark.case("F6")
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("chunk_size", [8, 16, 32, 128])
def test_rows_equal_autograd_one_example_at_a_time(name, chunk_size):
    measured = measure(name=name, attack=Given(moved()), chunk_size=chunk_size)
    slow = slow_rows_at_the_moved(name)
    assert (measured.rows.dense() - slow).abs().max() < 1e-6 and slow.abs().max() > 0.1
    assert torch.equal(measured.labels, LABELS)


def in_the_middle():
    """A head that is not the last thing registered, behind a wrapper."""
    model = nn.Module()
    model.head, model.body = network()[-1], network()[:-1]
    model.forward = lambda x: model.head(model.body(x))
    return nn.Sequential(nn.Identity(), model)


HEADS = {"with bias": network, "without bias": lambda: network(bias=False), "in the middle": in_the_middle}


@functools.cache
def slow_float32_rows(head, name):
    model = HEADS[head]().float()
    layer = next(
        module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == CLASSES
    )
    parameters = [p for p in (layer.weight, layer.bias) if p is not None]
    return slow_rows_of(parameters, model, name, images().float(), moved().float())


@pytest.mark.case("F6")
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("chunk_size", [8, 48])
def test_float32_rows_equal_autograd_one_example_at_a_time_for_every_kind_of_head(name, head, chunk_size):
    x, x_adv = images().float(), moved().float()
    source = Resident(x, LABELS)
    got = measure(HEADS[head]().float(), source, name=name, attack=Given(x_adv), chunk_size=chunk_size).rows.dense()
    for i, own in enumerate(slow_float32_rows(head, name)):
        assert (got[i] - own).abs().max() < 1e-6 * max(1.0, float(own.abs().max()))


@pytest.mark.case("F6")
@pytest.mark.parametrize("name", [name for name, kind in OBJECTIVES.items() if is_attacked(kind())])
@pytest.mark.parametrize("attack", [name for name, kind in ATTACKS.items() if issubclass(kind, BALL)])
@pytest.mark.parametrize("chunk_size", [8, 16, 32, 128])
def test_rows_equal_autograd_at_the_points_a_real_attack_finds(name, attack, chunk_size):
    rows = measure(name=name, attack=ATTACKS[attack](**PGD), chunk_size=chunk_size).rows
    assert (rows.dense() - attacked_alone(name, attack)).abs().max() < 1e-6


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rows_come_from_the_model_in_eval_mode_even_if_it_was_training(name):
    model = network()
    expected = measure(model, name=name, attack=Given(moved())).rows.dense()
    assert torch.equal(measure(model.train(), name=name, attack=Given(moved())).rows.dense(), expected)
    assert model.training


def test_train_mode_rows_are_there_for_those_who_ask():
    model = network()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    rows = measure(model, name="pgd", attack=Given(moved()), attack_mode="train").rows
    assert not torch.allclose(rows.dense(), slow_rows(model, "pgd", moved()), atol=1e-3)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name, passes", [("standard", 1), ("pgd", 1), ("trades", 2)])
def test_one_pair_of_factors_a_forward_pass(name, passes):
    rows = measure(name=name, attack=Given(moved())).rows
    assert [tuple(a.shape) for a in rows.residuals] == [(N, CLASSES)] * passes
    assert [tuple(h.shape) for h in rows.features] == [(N, 6)] * passes


@pytest.mark.case("F6")
@pytest.mark.parametrize("kind, columns", [("weight", slice(0, 6)), ("bias", slice(6, 7))])
def test_a_kind_is_its_part_of_the_full_row(kind, columns):
    full, part = (measure(attack=Given(moved()), kind=k).rows.dense() for k in ("full", kind))
    assert torch.allclose(part, full.view(N, CLASSES, 7)[:, :, columns].flatten(1), atol=1e-12)


@pytest.mark.case("F6")
@pytest.mark.parametrize("kind", ["full", "weight"])
def test_a_head_without_bias_has_rows_of_its_weight_alone(kind):
    model = network(bias=False)
    rows = measure(model, attack=Given(moved()), kind=kind).rows
    slow = slow_rows(model, "trades", moved())
    assert slow.shape == (N, CLASSES * 6) and (rows.dense() - slow).abs().max() < 1e-6


def test_bias_rows_of_a_head_without_bias_are_refused():
    with pytest.raises(ConfigError, match="selection.rows.*'bias'"):
        measure(network(bias=False), attack=Given(moved()), kind="bias")


def test_a_streamed_source_gives_the_rows_of_a_resident_one():
    sources = Resident(images(), LABELS), Streamed(TensorDataset(images(), LABELS))
    held, streamed = (measure(source=source, attack=ATTACKS["linf_pgd"](**PGD)) for source in sources)
    assert torch.equal(held.rows.dense(), streamed.rows.dense()) and torch.equal(held.labels, streamed.labels)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", ["full", "weight", "bias"])
def test_rows_in_a_temporary_file_are_the_rows_in_memory(tmp_path, name, kind):
    held, filed = (
        measure(name=name, attack=Given(moved()), kind=kind, chunk_size=16, folder=f) for f in (None, tmp_path)
    )
    assert torch.equal(held.rows.dense(), filed.rows.dense()) and torch.equal(held.labels, filed.labels)
    assert held.rows.release is None is not filed.rows.release and not list(tmp_path.iterdir())


def test_no_file_is_left_when_the_model_has_diverged_or_the_attack_fails(tmp_path):
    model = network()
    nn.init.constant_(model[-1].weight, float("nan"))
    with pytest.raises(NonFiniteError, match="example 0 is NaN"):
        measure(model, attack=Given(moved()), folder=tmp_path)
    with pytest.raises(Stop):
        measure(attack=Fails(moved()), folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.case("F9")
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("gap", [200.0, 1000.0])
def test_logit_gaps_of_any_size_give_finite_rows_that_are_autograds(name, gap):
    model = network().float()
    with torch.no_grad():
        model[-1].weight.mul_(gap)
        model[-1].bias.copy_(torch.tensor([gap, 0.0, -gap, 0.0]))
    x, x_adv = images().float(), moved().float()
    rows = measure(model, Resident(x, LABELS), name=name, attack=Given(x_adv)).rows
    slow = slow_rows(model.double(), name, x_adv.double())
    assert torch.isfinite(rows.dense()).all() and torch.isfinite(slow).all()
    assert (rows.dense() - slow).abs().max() < 1e-2 * slow.abs().max()
    certain = slow.abs().amax(1) < 1e-12
    assert certain.any() and not certain.all() and rows.dense()[certain].abs().max() < 1e-6


def test_every_example_is_attacked_once_in_chunks_and_told_of():
    attack, told = Given(moved()), []
    measure(attack=attack, chunk_size=16, on_chunk=lambda done, total: told.append((done, total)))
    assert attack.log == [list(range(16)), list(range(16, 32)), list(range(32, 35))]
    assert told == [(16, N), (32, N), (N, N)]


@pytest.mark.parametrize(
    "name, passes",
    [("standard", lambda k: 1), ("pgd", lambda k: 2 * k + 1), ("trades", lambda k: 2 * k + 2)],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_the_ledger_counts_the_closed_form(name, passes, steps):
    """K ascent steps cost K forward and K backward passes; each forward pass of the loss is one more, and the
    clean one of TRADES serves its attack too."""
    ledger = CostLedger()
    measure(name=name, attack=ATTACKS["linf_pgd"](eps=0.1, steps=steps), ledger=ledger, chunk_size=16)
    assert ledger.sum_units() == N * passes(steps)
    assert ledger.sum_units(without=("attack",)) == 0
    assert ledger.passes["attack"]["backward"] == (0 if name == "standard" else N * steps)


# ---- the model and the data ----


def as_it_is(model):
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [module.training for module in model.modules()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    )


def same(before, after):
    grads = all(a is b is None or torch.equal(a, b) for a, b in zip(before[2], after[2], strict=True))
    state = all(torch.equal(value, after[0][key]) for key, value in before[0].items())
    return state and grads and before[1] == after[1] and before[3:] == after[3:]


class Stop(Exception):
    pass


class Fails(Given):
    def __call__(self, loss_fn, x, *, generator):
        raise Stop


@pytest.mark.case("E2")
@pytest.mark.parametrize("attack_mode", ["eval", "train"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_as_it_was(attack_mode, fails):
    model = network().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model(images()).sum().backward()
    before = as_it_is(model)
    if fails:
        with pytest.raises(Stop):
            measure(model, attack=Fails(moved()), attack_mode=attack_mode)
    else:
        measure(model, attack=ATTACKS["linf_pgd"](**PGD), attack_mode=attack_mode)
    assert same(before, as_it_is(model))


def test_a_diverged_model_is_a_non_finite_error():
    model = network()
    nn.init.constant_(model[-1].weight, float("nan"))
    for name in OBJECTIVES:
        with pytest.raises(NonFiniteError, match="example 0 is NaN"):
            measure(model, name=name, attack=ATTACKS["linf_pgd"](**PGD))


class Overflows(nn.Module):
    """NaN for bright images alone."""

    def forward(self, x):
        return x / (x.mean((1, 2, 3), keepdim=True) < 0.99)


def test_the_first_example_without_a_finite_gradient_is_named():
    x = images()
    x[[19, 27]] = 1
    model = nn.Sequential(Overflows(), nn.Flatten(), nn.Linear(72, CLASSES).double())
    with pytest.raises(NonFiniteError, match=r"example 19 "):
        measure(model, Resident(x, LABELS), name="standard", chunk_size=8)


@pytest.mark.parametrize("bad", [CLASSES, -1])
def test_labels_out_of_range_are_named_before_any_loss(bad):
    y = LABELS.clone()
    y[[17, 30]] = bad
    with pytest.raises(DataError) as caught:
        measure(source=Resident(images(), y), attack=Given(moved()), chunk_size=8)
    assert all(part in str(caught.value) for part in (f"0..{CLASSES - 1}", str(bad), "example 17"))


@pytest.mark.case("F6")
@pytest.mark.parametrize("head, told", [("7", None), ("fc", "'fc'"), ("5", "torch.nn.Linear")])
def test_the_head_can_be_named(head, told):
    if told is None:
        slow = slow_rows(network(), "pgd", moved())
        assert (measure(name="pgd", attack=Given(moved()), head=head).rows.dense() - slow).abs().max() < 1e-6
    else:
        with pytest.raises(ConfigError, match=told):
            measure(name="pgd", attack=Given(moved()), head=head)


def test_half_precision_logits_have_float32_residuals():
    z = {"clean": torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(0)).bfloat16()}
    (got,) = residuals(OBJECTIVES["standard"](), LABELS[:5], z).values()
    expected = z["clean"].double().softmax(1) - nn.functional.one_hot(LABELS[:5], CLASSES)
    assert got.dtype == torch.float32 and (got - expected).abs().max() < 1e-6


def test_one_example_is_enough():
    rows = measure(source=Resident(images()[:1], LABELS[:1]), attack=Given(moved())).rows
    assert len(rows) == 1 and torch.isfinite(rows.dense()).all()


def many():
    """70 images: pieces are never of fewer than 16, so that halving twice takes a chunk of 64."""
    return Resident(torch.cat([images(), moved()]), LABELS.repeat(2))


class Small(nn.Module):
    """A network on a device that holds so many examples at once and no more."""

    def __init__(self, most):
        super().__init__()
        self.net, self.most = network(), most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return self.net(x)


@pytest.mark.parametrize("name", ["pgd", "trades"])
@pytest.mark.parametrize("attack", ["linf_pgd", "fast_lpa"])
def test_out_of_memory_goes_on_in_smaller_pieces_with_the_same_rows(name, attack):
    made = ATTACKS[attack](eps=0.1, steps=3)
    whole = measure(name=name, attack=made, chunk_size=64, source=many())
    pieced = measure(Small(20), name=name, attack=made, chunk_size=64, source=many())
    assert not whole.events and len(pieced.events) == 2
    assert pieced.events[0] == Event("memory", "out of memory with 64 examples at once; continuing with 32")
    assert torch.equal(whole.labels, pieced.labels)
    exact = whole.rows.dense()
    assert (pieced.rows.dense() - exact).abs().max() < 1e-6 * exact.abs().max()
    with pytest.raises(torch.OutOfMemoryError):
        measure(Small(8), name=name, attack=made, chunk_size=64, source=many())
    with pytest.raises(torch.OutOfMemoryError):  # BatchNorm is to see a whole chunk
        measure(Small(20), name=name, attack=made, chunk_size=64, source=many(), attack_mode="train")


class Late(Small):
    """Runs out of memory in the middle of an attack on a batch."""

    def __init__(self, most):
        super().__init__(most)
        self.calls = 0

    def forward(self, x):
        self.calls += len(x) > self.most
        return super().forward(x) if self.calls > 2 else self.net(x)


@pytest.mark.case("C6")
def test_passes_that_ran_out_of_memory_do_not_count():
    made, ledgers = ATTACKS["linf_pgd"](**PGD), (CostLedger(), CostLedger())
    whole = measure(network(), name="pgd", attack=made, chunk_size=64, source=many(), ledger=ledgers[0])
    pieced = measure(Late(20), name="pgd", attack=made, chunk_size=64, source=many(), ledger=ledgers[1])
    assert not whole.events and pieced.events and ledgers[0].passes == ledgers[1].passes


@pytest.mark.case("C6")
@pytest.mark.slow
def test_fast_lpa_on_a_resnet_goes_on_in_halves_and_holds_what_the_documentation_says():
    """docs/evaluation.md: about 9 MB an example of the chunk, ResNet-18 at 32 x 32."""
    pytest.importorskip("torchvision")
    with seeded():
        net = MODELS["resnet18"]().build(10, (3, 32, 32)).eval()
    x = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    source = Resident(x, torch.arange(32) % 10)
    settings = {"source": source, "name": "pgd", "attack": ATTACKS["fast_lpa"](eps=0.5, steps=2), "chunk_size": 32}
    measure(net, **{**settings, "source": Resident(x[:4], torch.arange(4))})  # libraries start
    whole, above = peak_above(lambda: measure(net, **settings))
    assert above is None or above < 32 * 12e6 + 100e6
    small = Small(16)
    small.net = net
    pieced = measure(small, **settings)
    assert [*map(str, pieced.events)] == ["out of memory with 32 examples at once; continuing with 16"]
    exact = whole.rows.dense()
    assert (pieced.rows.dense() - exact).abs().max() < 1e-4 * exact.abs().max()


def peak_above(call):
    """The answer, and bytes of the resident set at its peak above before; None where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
    except OSError:
        return call(), None
    return call(), resident("VmHWM") - before


def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
