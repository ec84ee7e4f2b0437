"""One training step on images of 32 x 32, as published, ours, or its passes alone: for gpu.py and cpu.py."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advcore.attacks import LinfPGD
from advcore.attacks.base import Attack
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.models import MODELS
from advcore.objectives import Pgd, Trades
from advcore.objectives.base import Objective
from advcore.rng import Stream
from advcore.runtime.precision import Speed, run_model
from advcore.training import SGD
from advcore.training.gate import Gate
from advcore.training.step import Learner, step

EPS, STEP_SIZE, STEPS, LR = 8 / 255, 2 / 255, 10, 1e-3
BETA = 6.0  # of TRADES
ATTACK = LinfPGD(eps=EPS, step_size=STEP_SIZE, steps=STEPS)
TRADES_ATTACK = LinfPGD(eps=EPS, step_size=STEP_SIZE, steps=STEPS, start="gaussian")

Step = Callable[[], object]
Forward = Callable[[nn.Module, Tensor], Tensor]


def seeded_network(name: str, **settings) -> nn.Module:
    """Build the network `name` of advcore.models for 10 classes, with the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name](**settings).build(10, (3, 32, 32))


def pictures(n: int, device: torch.device) -> Resident:
    """Make n random images with random labels, the same every time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Resident(images, torch.randint(0, 10, (n,), generator=generator), device)


def batch_of(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make one batch of n pictures: images (n, 3, 32, 32) in [0, 1], and labels."""
    _, x, y = next(pictures(n, device).batches([torch.arange(n)]))
    return x, y


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser of the published codes, with torch's defaults for the rest."""
    return torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor]) -> float:
    """Do the update of the published codes: train mode, one loss, one step, and the loss is read."""
    model.train()
    optimizer.zero_grad()
    loss = loss_of()
    loss.backward()
    optimizer.step()
    return loss.item()


def published(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    """A PGD step as published codes do it: channels first, a mean loss, read after each step. Kinder than some: the
    attack asks for the images' gradients alone. Run it in full float32 on a GPU."""
    optimizer = sgd(model)

    def once() -> float:
        model.eval()
        x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
        for _ in range(STEPS):
            x_adv.requires_grad_(True)
            loss = F.cross_entropy(model(x_adv), y)
            gradient = torch.autograd.grad(loss, x_adv)[0]
            x_adv = x_adv.detach() + STEP_SIZE * gradient.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
        return learn(model, optimizer, lambda: F.cross_entropy(model(x_adv), y))

    return once


def published_trades(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    """A TRADES step as published (Zhang et al. 2019): each attack step also runs a pass on the clean images."""
    optimizer = sgd(model)

    def divergence(x_adv: Tensor) -> Tensor:
        return F.kl_div(F.log_softmax(model(x_adv), 1), F.softmax(model(x), 1), reduction="sum")

    def loss_at(x_adv: Tensor) -> Tensor:
        logits = model(x)
        robust = F.kl_div(F.log_softmax(model(x_adv), 1), F.softmax(logits, 1), reduction="sum") / len(x)
        return F.cross_entropy(logits, y) + BETA * robust

    def once() -> float:
        model.eval()
        x_adv = x + 0.001 * torch.randn_like(x)
        for _ in range(STEPS):
            x_adv.requires_grad_(True)
            gradient = torch.autograd.grad(divergence(x_adv), x_adv)[0]
            x_adv = x_adv.detach() + STEP_SIZE * gradient.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
        return learn(model, optimizer, lambda: loss_at(x_adv))

    return once


def ours(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    speed: Speed,
    *,
    objective: Objective | None = None,
    attack: Attack = ATTACK,
) -> Step:
    """Our step; call it inside `speed.activate()`, on a model that `speed.lay_out`. `objective` is PGD's by default."""
    learner = Learner(
        model=model,
        objective=objective or Pgd(),
        attack=attack,
        optimizer=SGD(lr=LR).build(model, fused=speed.fused),
        ledger=CostLedger(),
        gate=Gate(x.device) if speed.deferred else None,
    )
    weights = torch.ones(len(y), device=x.device)
    generator = Stream(seed=0, purpose="attack").at(torch.arange(len(y), device=x.device))
    return lambda: step(learner, x, y, weights, generator=generator)


def ours_trades(model: nn.Module, x: Tensor, y: Tensor, speed: Speed) -> Step:
    """Our step of TRADES; see `ours`."""
    return ours(model, x, y, speed, objective=Trades(beta=BETA), attack=TRADES_ATTACK)


def passes_alone(model: nn.Module, x: Tensor, y: Tensor, forward: Forward = run_model) -> Step:
    """The floor of a PGD step: as many forward and backward passes, and nothing between them."""

    def once() -> None:
        model.zero_grad(set_to_none=True)
        model.eval().requires_grad_(False)
        for _ in range(STEPS):
            z = x.detach().requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(forward(model, z), y, reduction="sum"), z)
        model.train().requires_grad_(True)
        F.cross_entropy(forward(model, x), y).backward()

    return once
