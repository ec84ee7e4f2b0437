"""What one process and several are to do alike: each job gives a tree of tensors and plain values.

Run as a script, by each of several processes: all jobs, one after the other, and a folder for what each found.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from advcore import AdversarialCoreset, Trainer, distributed, evaluate
from advcore.attacks import FGSMMEP, LinfPGD
from advcore.attacks.memory import Memory
from advcore.cost import CostLedger
from advcore.data.source import Pooled, Resident, Source, Streamed
from advcore.errors import AdvcoreError
from advcore.files import load_folder, save_folder
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.extrapolation import extrapolate_scores
from advcore.minibatch import RULES
from advcore.objectives.standard import Pgd
from advcore.objectives.trades import Trades
from advcore.regularizers import GradAlign, PriorGuided
from advcore.rng import Stream
from advcore.rows import DenseRows
from advcore.runtime.signals import Stopped, catch_signals
from advcore.selection.rows_from import Refresh
from advcore.selection.schedule import Schedule
from advcore.solvers import SOLVERS
from advcore.training.average import SWA
from advcore.training.loop import Listener
from advcore.training.optimizers import SGD, Adam
from advcore.training.picks import weigh_part
from advcore.training.step import Batch, Learner, PlainStepper
from advcore.types import Event

ATTACK = LinfPGD(eps=0.1, steps=3)
SELECTIONS = {
    "gradmatch": {"solver": SOLVERS["gradmatch"]()},
    "craig, whole": {"solver": SOLVERS["craig"](), "partition": "whole", "budget": 0.3},
    "blocks": {"solver": SOLVERS["gradmatch"](), "partition": "per_batch", "block_size": 10},
    "validation": {"solver": SOLVERS["gradmatch"](), "target": "validation"},
    "rcs": {"solver": SOLVERS["rcs"](), "target": "validation"},
    "random": {"solver": SOLVERS["random"]()},
    "in full": {"solver": SOLVERS["craig"](), "full_attack": LinfPGD(eps=0.1, steps=6), "full_examples": 20},
}


def images(n: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Resident:
    """n images of 4 classes that can be told apart: the class is where it is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    x = 0.5 * torch.rand(n, 1, 8, 8, generator=generator)
    for i, y in enumerate(labels.tolist()):
        x[i, :, 4 * (y // 2) : 4 * (y // 2) + 4, 4 * (y % 2) : 4 * (y % 2) + 4] += 0.4
    return Resident(x.to(dtype), labels)


def network(*, norm: bool = True, drop: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, 2, 1),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(drop),
            nn.Flatten(),
            nn.Linear(96, 4),
        )


def trainer(**how) -> Trainer:
    known = {"objective": Trades(beta=3.0), "attack": ATTACK, "optimizer": SGD(lr=0.05), "batch_size": 20}
    return Trainer(**({"schedule": Schedule(epochs=3)} | known | how))


def selecting(**how) -> Trainer:
    schedule = Schedule(epochs=6, budget=0.4, warm_start=0.3, period=2)
    chooser = AdversarialCoreset(
        objective=Trades(beta=3.0),
        attack=ATTACK,
        solver=SOLVERS["gradmatch"](),
        budget=0.4,
        chunk_size=16,
        normalise=how.get("normalise", "coreset"),
    )
    return trainer(**({"schedule": schedule, "selector": chooser} | how))


def select() -> dict:
    found = {}
    for name, how in SELECTIONS.items():
        settings = {"objective": Trades(beta=3.0), "attack": ATTACK, "chunk_size": 16, **how}
        ledger, model = CostLedger(), network()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        held_out = images(21, seed=1) if settings.get("target") else None
        chosen = AdversarialCoreset(**settings).select(
            model, images(83), seed=1, epoch=2, validation=held_out, ledger=ledger
        )
        distributed.merge_ledgers(ledger)
        state = chosen.state()
        state["cost"] = state["cost"]["passes"]
        same = all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        found[name] = {"coreset": state, "passes": ledger.passes, "untouched": same}
    return found


def evaluations() -> dict:
    model, found = network(), {}
    attacks = [LinfPGD(eps=0.1, steps=3, restarts=2), LinfPGD(eps=0.05, steps=2)]
    for n in (1, 2, 7, 33):
        ledger = CostLedger()
        seen = evaluate(model, images(n, seed=3), attacks, batch_size=8, ledger=ledger, keep_examples=True)
        distributed.merge_ledgers(ledger)
        told = seen.as_dict()
        found[str(n)] = {"told": told, "verdicts": seen.verdicts, "examples": seen.examples, "passes": ledger.passes}
    return found


class Given:
    """An attack that answers with images it was given, found by their numbers."""

    climbs, remembers, few_steps = "own", False, False

    def __init__(self, answers):
        self.answers = answers

    def __call__(self, loss_fn, x, *, generator):
        return self.answers[generator.indices]


def one_update() -> dict:
    """One step of a float64 model without BatchNorm, from given adversarial images, for every form of the loss."""
    found = {}
    for size in (13, 3):
        for normalise in ("coreset", "batch", "none"):
            source, model = images(40, dtype=torch.float64), network(norm=False).double()
            weights = torch.rand(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
            noise = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
            whole = torch.randperm(40, generator=torch.Generator().manual_seed(4))[:size]
            own = distributed.share_of_batch(whole)
            _, x, y = next(source.batches([own]))
            learner = Learner(
                model=model,
                objective=Trades(beta=3.0),
                attack=Given(noise),
                optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
                ledger=CostLedger(),
                normalise=normalise,
                parallel=distributed.average_gradients_of(model),
            )
            factor = weigh_part(weights[own], weights, whole, normalise)
            batch = Batch(
                indices=own,
                x=x,
                y=y,
                weights=weights[own],
                attack_stream=Stream(seed=0, purpose="attack").at(own),
                rule_stream=Stream(seed=0, purpose="minibatch").at(own),
                where=lambda: "here",
                images=len(whole),
                factor=factor,
            )
            loss, counted = PlainStepper().step(learner, batch)
            mean = distributed.sum_numbers([float(loss)])[0] / distributed.size()
            found[f"{size}, {normalise}"] = {"model": model.state_dict(), "loss": mean, "counted": counted}
    return found


def fitted(settings: Trainer, model: nn.Module | None = None, train: Source | None = None, **how) -> dict:
    """What training leaves, and whether all processes have the same."""
    model = model or network()
    out = settings.fit(model, train or images(83), images(20, seed=1), seed=5, **how)
    distributed.merge_ledgers(out.ledger)
    everyone = distributed.gather_values({"model": model.state_dict(), "last": out.last, "best": out.best})
    entries = [
        {key: value for key, value in entry.items() if key not in ("seconds", "peak_memory")} for entry in out.epochs
    ]
    accuracy = evaluate(model, images(400, seed=7), [LinfPGD(eps=0.1, steps=5)], checks=False).as_dict()
    return {
        "everyone": everyone,
        "epochs": entries,
        "coresets": [one.indices for one in out.coresets],
        "passes": out.ledger.passes,
        "accuracy": accuracy,
    }


RUNS = {
    "trades": trainer,
    "selecting": selecting,
    "ema, adam, dropout": lambda: selecting(ema=0.9, optimizer=Adam(lr=0.003)),
    "remembered, equal average": lambda: selecting(
        swa=SWA(start=0.5),
        objective=Pgd(),
        attack=LinfPGD(eps=0.1, steps=2, start="remembered"),
        memory=Memory(precision="float16"),
    ),
    "rows from training": lambda: selecting(
        schedule=Schedule(epochs=6, budget=0.4, warm_start=0.5, period=2),
        selector=AdversarialCoreset(
            objective=Trades(beta=3.0),
            attack=ATTACK,
            solver=SOLVERS["gradmatch"](),
            budget=0.4,
            chunk_size=16,
            block_size=20,
            rows_from="training",
            refresh=Refresh(share=0.3),
        ),
    ),
    "pool": lambda: trainer(objective=Pgd(), attack=LinfPGD(eps=0.1, steps=2, start="remembered")),
    "chosen from a pool": lambda: trainer(
        schedule=Schedule(epochs=5, budget=0.4, warm_start=0.4, period=2, schedule="pool"),
        selector=AdversarialCoreset(
            objective=Trades(beta=3.0),
            attack=ATTACK,
            solver=SOLVERS["craig"](),
            target="real",
            budget=0.4,
            chunk_size=16,
        ),
    ),
    "momentum, prior guided": lambda: trainer(
        objective=Pgd(), attack=FGSMMEP(eps=0.1), memory=Memory(reset=2), regularizer=PriorGuided(weight=1.0)
    ),
    "grad align": lambda: selecting(
        objective=Pgd(), attack=LinfPGD(eps=0.1, steps=1), regularizer=GradAlign(weight=0.5)
    ),
    "margin": lambda: trainer(minibatch=RULES["margin"](rho=0.5, warm_up=1)),
    "attacked again": lambda: selecting(
        attack=LinfPGD(eps=0.1, steps=2, start="remembered"),
        minibatch=RULES["mixed"](correction="inverse_probability", loss_change=1.0),
    ),
    "gradient matching, batch": lambda: selecting(
        minibatch=RULES["gradient_matching"](rho=0.5, warm_up=0), normalise="batch"
    ),
    "scored": lambda: trainer(
        schedule=Schedule(epochs=6, budget=0.4, warm_start=0.5, period=2),
        selector=AdversarialCoreset(
            objective=Trades(beta=3.0), attack=ATTACK, solver=SOLVERS["easycore"](), budget=0.4, chunk_size=16
        ),
    ),
}


def build(name: str) -> tuple[Trainer, nn.Module, Source]:
    train: Source = images(83)
    if "pool" in name:
        train = Pooled(train, images(50, seed=9), share=0.6)
    return RUNS[name](), network(drop=0.2 if "dropout" in name else 0.0), train


def train() -> dict:
    return {name: fitted(*build(name)) for name in RUNS}


def pruned() -> dict:
    """A rule that leaves out examples by the losses that all processes met; then the same from the state of an epoch.

    Without BatchNorm, so that losses are those of one process.
    """
    states = []
    settings = trainer(
        objective=Pgd(), minibatch=RULES["infobatch"](whole=0.0), schedule=Schedule(epochs=4), clip_norm=1.0
    )
    listener = Listener(on_checkpoint=lambda state: states.append(state()))
    run = fitted(settings, network(norm=False), listener=listener)
    state = distributed.run_on_first(lambda: states[1])
    return {"run": run, "again": fitted(settings, network(norm=False), resume=state)}


def extrapolated() -> dict:
    ledger = CostLedger()
    settings = MeasurementSettings(ledger=ledger, chunk_size=16)
    scores = torch.rand(83, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    measured = extrapolate_scores(network(), images(83), scores, images(50, seed=2), settings, neighbours=4)
    distributed.merge_ledgers(ledger)
    return {"rows": measured.rows.matrix.cpu(), "passes": ledger.passes}


def resumed() -> dict:
    """The same runs, from the state after an epoch."""
    found = {}
    for name in RUNS:
        states = []
        settings, model, train = build(name)
        settings.fit(
            model,
            train,
            images(20, seed=1),
            seed=5,
            listener=Listener(on_checkpoint=lambda state, states=states: states.append(state())),
        )
        state = distributed.run_on_first(lambda own=states[1]: own)
        found[name] = {"run": fitted(*build(name), resume=state), "state": state}
    return found


def of_others(folder: Path) -> dict:
    """Runs that another number of processes began."""
    states = {name: load_folder(folder / name)[0] for name in RUNS if (folder / name).is_dir()}
    return {name: fitted(*build(name), resume=state) for name, state in states.items()}


class Raising(torch.utils.data.Dataset):
    def __len__(self):
        return 83

    def __getitem__(self, i):
        if i == 20:
            raise AdvcoreError("example 20 cannot be read")
        return images(83)[i]


class Changing(torch.utils.data.Dataset):
    """Images 20 and 33 have other pixels, or another label, from the second reading on."""

    def __init__(self, *, labels: bool):
        self.source, self.labels, self.read = images(83), labels, set()

    def __len__(self):
        return 83

    def __getitem__(self, i):
        x, y = self.source[i]
        if i not in self.read or i not in (20, 33):
            self.read.add(i)
            return x, y
        return (x, 3 - y) if self.labels else (1 - x, y)


class Fragile(nn.Module):
    """Gives NaN for a white image, but only in training."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, x):
        logits = self.network(x)
        if self.training:
            logits = logits + torch.where(x.flatten(1).amin(1) == 1, torch.nan, 0.0)[:, None]
        return logits


def with_white_image() -> Resident:
    source = images(83)
    source._images[20] = 1
    return source


def with_label_out_of_range() -> Streamed:
    source = images(83)
    labels = source.labels().clone()
    labels[[20, 37, 60]] = 9
    return Streamed(list(zip(source._images, labels.tolist(), strict=True)))


def rows_with_nan() -> DenseRows:
    return DenseRows(matrix=torch.where(torch.arange(83) % 30 == 20, torch.nan, 1.0)[:, None])


MISTAKES = {
    "loss": lambda: trainer().fit(Fragile(), with_white_image(), seed=0),
    "labels change": lambda: trainer().fit(network(), Changing(labels=True), seed=0),
    "images change": lambda: selecting().selector.select(network(), Changing(labels=False), seed=0),
    "label of a selection": lambda: selecting().selector.select(network(), with_label_out_of_range(), seed=0),
    "label of a run": lambda: trainer().fit(network(), with_label_out_of_range(), seed=0),
    "label of an evaluation": lambda: evaluate(network(), with_label_out_of_range(), [ATTACK], batch_size=8),
    "rows": lambda: selecting().selector.select(network(), images(83), seed=0, rows=rows_with_nan()),
    "no head": lambda: selecting().selector.select(nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), images(83), seed=0),
}


def mistakes() -> dict:
    """What is raised is the same as in one process, problem by problem, and agreed, so that it is told once."""
    found = {}
    for name, call in MISTAKES.items():
        try:
            call()
        except AdvcoreError as error:
            problems = [vars(problem) for problem in getattr(error, "problems", ())]
            found[name] = [type(error).__name__, str(error), problems]
            is_agreed = distributed.is_raised_in_all(error)
        found[name] = {"error": found[name], "agreed": is_agreed}
    return found


def diverged() -> None:
    model = network()
    with torch.no_grad():
        model[-1].weight[0, 0] = torch.inf
    selecting().selector.select(model, images(83), seed=0)


def stopped_and_failed() -> None:
    """A signal reaches the first process while the others fail."""
    with distributed.fail_together():
        raise Stopped(signal.SIGTERM) if distributed.is_first() else AdvcoreError("an image cannot be read")


def failures() -> dict:
    """What one process meets, all tell. "alone" lists what each process finds by itself."""
    found = {"alone": []}
    source = Streamed(Raising(), labels=images(83).labels())
    calls = {
        "select": lambda: selecting().selector.select(network(), source, seed=0),
        "fit": lambda: trainer().fit(network(), source, seed=0),
        "evaluate": lambda: evaluate(network(), source, [ATTACK], batch_size=8),
        "first": lambda: distributed.run_on_first(lambda: 1 / 0),
        "diverged": diverged,
        "stopped and failed": stopped_and_failed,
        "too small": lambda: trainer(batch_size=2).fit(network(), images(83), seed=0),
    }
    for name, call in calls.items():
        try:
            call()
            told = "nothing"
        except (Exception, Stopped) as error:
            told = f"{type(error).__name__}: {error}"
            raised_in_all = distributed.is_raised_in_all(error)
        found[name] = distributed.gather_values(told)
        found["alone"] += [] if raised_in_all else [name]
    return found


def stopped() -> dict:
    """A signal that one process gets stops all, at the same place; what was saved goes on to the same end."""
    states, told = [], None
    settings, model, train = build("selecting")
    last = distributed.rank() == distributed.size() - 1

    def on_progress(phase: str, done: int, total: int) -> None:
        if last and phase == "train" and done == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with catch_signals():
            listener = Listener(on_progress=on_progress, on_checkpoint=lambda state: states.append(state()))
            settings.fit(model, train, images(20, seed=1), seed=5, listener=listener)
    except Stopped as error:
        told = error.number
    place = [states[-1]["place"][name] for name in ("epoch", "step")]
    state = distributed.run_on_first(lambda: states[-1])
    return {"told": distributed.gather_values([told, *place]), "run": fitted(*build("selecting"), resume=state)}


def parts() -> dict:
    own = torch.arange(distributed.rank() + 1)
    return {
        "joint": distributed.concatenate(own, own[:, None].float().expand(-1, 2))[0],
        "summed": distributed.sum_numbers([distributed.rank(), 1]),
        "everywhere": [distributed.is_everywhere(True), distributed.is_everywhere(distributed.is_first())],
        "events": list(
            map(
                str, distributed.gather_events([Event("memory", "in all"), Event("memory", f"in {distributed.rank()}")])
            )
        ),
        "shares": distributed.gather_values([distributed.share_of_batch(torch.arange(n)) for n in range(1, 12)]),
    }


JOBS = (select, evaluations, one_update, train, pruned, extrapolated, resumed, failures, mistakes, stopped, parts)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with distributed.join_group():
        found = {job.__name__: job() for job in JOBS} | {"of_others": of_others(folder)}
        save_folder(folder / str(distributed.rank()), found, {})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # as the command line leaves
