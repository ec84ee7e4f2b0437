"""Run a suite of experiments: python benchmarks/suite.py NAME [I/N] [SECONDS]. Runs whose record is there are skipped,
and a run that was stopped goes on, so a suite goes on; I/N runs every N-th of them, from the I-th (from 0), beside
other processes; after SECONDS the run at hand is stopped, saved, and the suite ends.

A run is kept in runs/suites until its record is, in benchmarks/records/NAME/METHOD-sSEED.json; then
benchmarks/tables.py writes the tables.
"""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import tables

HERE = Path(__file__).parent

# Each method: an experiment file and what changes in it. "shortened" is full training cut to the coreset runs' cost;
# "fewer steps" keeps all epochs and has the most attack steps whose cost fits it.
DIGITS = {
    "full": ("trades_full", []),
    "GradMatch": ("trades_gradmatch", []),
    "CRAIG": ("trades_craig", []),
    "random": ("trades_random", []),
    "shortened": ("trades_full", ["training.epochs=17", "cost.reference_epochs=30"]),
    "fewer steps (PGD-4)": ("trades_full", ["attack.steps=4", "attack.step_size=null"]),
    "GradMatch, PGD-2, remembered": ("trades_remembered", []),
    "random, PGD-2, remembered": ("trades_remembered", ["selection.solver={name: random}"]),
    "random, PGD-2": ("trades_remembered", ["selection.solver={name: random}", "attack.start=uniform"]),
    "PGD-1, 20 epochs": (
        "trades_full",
        ["attack.steps=1", "attack.step_size=0.125", "training.epochs=20", "cost.reference_epochs=30"],
    ),
}
MNIST = {
    "GradMatch": ("mnist/linf_gradmatch", []),
    "random": ("mnist/linf_random", []),
    "shortened": ("mnist/linf_full", ["training.epochs=7", "cost.reference_epochs=20"]),
    # PGD-2 on all 20 epochs costs the same, but collapsed when tried: such large single steps overfit
    "fewer steps (PGD-3)": (
        "mnist/linf_full",
        ["attack.steps=3", "attack.step_size=0.15", "training.epochs=15", "cost.reference_epochs=20"],
    ),
}


def _study(experiment: str, base: list[str], few: list[str], few_name: str) -> dict[str, tuple[str, list[str]]]:
    """Savings inside the minibatch, 10 epochs of PGD-7 training, each beside a baseline of its own cost. `few`: the
    weaker attack whose cost fits that of the rules."""
    half = (
        "selection={{solver: {{name: {solver}}}, partition: per_class, budget: {budget}, warm_start: 0.6, period: 20}}"
    )
    coreset, drawn = half.format(solver="gradmatch", budget=0.5), half.format(solver="random", budget=0.58)
    longer = ["training.epochs=11", "cost.reference_epochs=10"]
    methods = {
        "full": [],
        "shortened": ["training.epochs=4", "cost.reference_epochs=10"],
        "shortened to 6": ["training.epochs=6", "cost.reference_epochs=10"],
        few_name: few,
        "random": ["minibatch={name: random, rho: 0.3}"],
        "margin": ["minibatch={name: margin}"],
        "gradient matching": ["minibatch={name: gradient_matching}"],
        "loss-ranked": ["minibatch={name: loss_ranked}"],
        "random mix": ["minibatch={name: random_mix}", "training.epochs=20", "cost.reference_epochs=10"],
        "coreset": [coreset],
        "random coreset": [drawn, *longer],
        "coreset x margin": [coreset, "minibatch={name: margin}"],
        "random coreset x random": [drawn, *longer, "minibatch={name: random, rho: 0.39}"],
    }
    return {method: (experiment, [*base, *changes]) for method, changes in methods.items()}


MINIBATCH_MNIST = _study(
    "mnist/linf_full",
    [
        "data.train_size=4000",
        "data.test_size=2000",
        "training.epochs=10",
        "training.batch_size=64",
        "evaluation.attacks=[{name: linf_pgd, eps: 0.3, steps: 20}]",
    ],
    ["attack.steps=3", "attack.step_size=0.15", "training.epochs=8", "cost.reference_epochs=10"],
    "fewer steps (PGD-3)",
)
MINIBATCH_CIFAR10 = _study(
    "cifar10/linf_gradmatch_small",
    [
        "selection=null",
        "data.train_size=4000",
        "data.test_size=2000",
        "training.epochs=10",
        "training.batch_size=64",
        "evaluation.attacks=[{name: linf_pgd, eps: 8/255, steps: 20}]",
    ],
    ["attack.steps=2", "attack.step_size=null"],
    "fewer steps (PGD-2)",
)
_FACTORS = {
    "rho 0.1": ("rho: 0.1", "rho: 0.15"),
    "rho 0.5": ("rho: 0.5", "rho: 0.55"),
    "rho 0.75": ("rho: 0.75", "rho: 0.8"),
    "warm-up 0": ("warm_up: 0", None),
    "warm-up 1": ("warm_up: 1", None),
    "warm-up 5": ("warm_up: 5", None),
    "lambda 0": ("clean: 0", "rho: 0.3, clean: 0"),
    "lambda 1": ("clean: 1", "rho: 0.3, clean: 1"),
}
"""What changes in margin, and in random at its cost; random has no warm-up."""
_experiment, _base = MINIBATCH_CIFAR10["full"]
MINIBATCH_FACTORS = {
    f"{name}, {factor}": (_experiment, [*_base, f"minibatch={{name: {name}, {change}}}"])
    for factor, both in _FACTORS.items()
    for name, change in zip(("margin", "random"), both, strict=True)
    if change
} | {
    f"{name}, corrected": (
        _experiment,
        [*_base, f"minibatch={{name: {name.replace(' ', '_')}, correction: inverse_probability}}"],
    )
    for name in ("margin", "gradient matching")
}
"""One factor at a time, from margin with rho 0.25, warm-up 2, lambda 0.2; and weights that make the picked unbiased."""
_STRONG = {"MNIST": (MINIBATCH_MNIST, 0.3), "CIFAR-10 (JPEG copies)": (MINIBATCH_CIFAR10, "8/255")}
MINIBATCH_STRONG = {
    f"{data}, {name}": (
        methods[name][0],
        [*methods[name][1], f"evaluation.attacks=[{{name: autoattack, eps: {eps}}}]", "evaluation.examples=200"],
    )
    for data, (methods, eps) in _STRONG.items()
    for name in ("full", "random", "margin")
}
"""The same runs, seed 0, before AutoAttack."""
_SAVINGS = [
    *("selection=null", "data.train_size=4000", "data.test_size=4000", "training.epochs=10", "training.batch_size=64"),
    "evaluation.attacks=[{name: linf_pgd, eps: 8/255, steps: 20}]",
]
_FEW = {5: "3/255", 3: "4/255", 2: "5/255"}


def _pgd(steps: int) -> list[str]:
    """PGD of fewer steps than 7, which are longer."""
    return [f"attack.steps={steps}", f"attack.step_size={_FEW[steps]}"]


def _subset(solver: str, amount: str, more: str = "", warm: float = 0.6) -> str:
    """A selection after the share `warm` of the epochs, and every 4 from there; `amount`: budget or cost."""
    return f"selection={{solver: {{name: {solver}}}, {amount}, warm_start: {warm}, period: 4{more}}}"


SAVINGS = {
    "full (PGD-7)": [],
    "shortened": ["training.epochs=5", "cost.reference_epochs=10"],
    **{f"PGD-{steps}": _pgd(steps) for steps in _FEW},
    "FAT": ["attack.steps=1", "attack.step_size=10/255"],
    "N-FGSM": ["attack={name: n_fgsm, eps: 8/255}"],
    **{
        f"{name} {budget}": [_subset(solver, f"budget: {budget}")]
        for name, solver in {"random": "random", "CRAIG": "craig", "GradMatch": "gradmatch"}.items()
        for budget in (0.1, 0.3, 0.5)
    },
}
"""Each saving alone. PGD-1 from a random start is FAT."""


_ONE_STEP = SAVINGS["FAT"]
_BY_FGSM = ", attack: {name: linf_pgd, eps: 8/255, steps: 1, step_size: 10/255}"
_REMEMBERED = ["attack.start=remembered"]


def _lasting(epochs: int) -> list[str]:
    """More, or fewer, epochs than full training, whose cost stays the measure."""
    return [f"training.epochs={epochs}", "cost.reference_epochs=10"]


def _bought(solver: str, cost: float, few: list[str], epochs: int) -> list[str]:
    """A coreset as large as the cost allows, selected by one attack step where it is selected by attacking."""
    by = _BY_FGSM if solver == "gradmatch" else ""
    return [*few, *_lasting(epochs), _subset(solver, f"cost: {cost}", by)]


PARTS = {
    "one step, remembered": [*_ONE_STEP, *_REMEMBERED],
    "random, one step": _bought("random", 0.25, _ONE_STEP, 20),
    "random, one step, remembered": [*_bought("random", 0.25, _ONE_STEP, 20), *_REMEMBERED],
    "GradMatch, one step": _bought("gradmatch", 0.25, _ONE_STEP, 20),
    "GradMatch, one step, remembered": [*_bought("gradmatch", 0.25, _ONE_STEP, 20), *_REMEMBERED],
    "margin, one step": [*_ONE_STEP, *_lasting(20), "minibatch={name: margin, clean: 0}"],
    "random minibatch, one step": [*_ONE_STEP, *_lasting(20), "minibatch={name: random, rho: 0.5, clean: 0}"],
    "PGD-2, remembered": [*_pgd(2), *_REMEMBERED],
    "PGD, steps 1 to 3": [*_pgd(2), "training.attack_steps={name: linear, first: 1, last: 3}"],
    "random, PGD-2": _bought("random", 0.25, _pgd(2), 14),
    "random, PGD-2, remembered": [*_bought("random", 0.25, _pgd(2), 14), *_REMEMBERED],
    "GradMatch, PGD-2": _bought("gradmatch", 0.25, _pgd(2), 14),
    "GradMatch, PGD-2, remembered": [*_bought("gradmatch", 0.25, _pgd(2), 14), *_REMEMBERED],
    "GradMatch 0.3, selected by FGSM": [_subset("gradmatch", "budget: 0.3", _BY_FGSM)],
    "one step, shortened": [*_ONE_STEP, *_lasting(5)],
    "random, one step, half": _bought("random", 0.125, _ONE_STEP, 10),
    "random, one step, half, remembered": [*_bought("random", 0.125, _ONE_STEP, 10), *_REMEMBERED],
    "GradMatch, one step, half, remembered": [*_bought("gradmatch", 0.125, _ONE_STEP, 10), *_REMEMBERED],
}
"""Savings put together, at a quarter of full training's cost, or half of that; and what stands beside them."""

_LONG = ["training.epochs=30", "cost.reference_epochs=30"]
LASTING = {
    "full (PGD-7)": _LONG,
    "FAT": [*_ONE_STEP, *_LONG],
    "one step, remembered": [*_ONE_STEP, *_REMEMBERED, *_LONG],
    "GradMatch, one step, remembered": [*_bought("gradmatch", 0.25, _ONE_STEP, 60), *_REMEMBERED, _LONG[1]],
}
"""The best at a quarter of the cost, three times as long."""
_FRONT = {name: (SAVINGS | PARTS)[name] for name in (
    "full (PGD-7)", "FAT", "N-FGSM", "one step, remembered", "GradMatch, PGD-2",
    "random, one step, half, remembered", "GradMatch, one step, half, remembered",
)}  # fmt: skip
BEFORE_AUTOATTACK = {
    name: [*changes, "evaluation.attacks=[{name: autoattack, eps: 8/255}]", "evaluation.examples=200"]
    for name, changes in _FRONT.items()
}
"""The Pareto front, and what is nearest to it, seed 0."""


def _on_cifar10(methods: dict[str, list[str]]) -> dict[str, tuple[str, list[str]]]:
    return {name: ("cifar10/linf_gradmatch_small", [*_SAVINGS, *changes]) for name, changes in methods.items()}


def _at_size(experiment: str) -> dict[str, tuple[str, list[str]]]:
    """ResNet-18 on CIFAR-10, 40 epochs, one selection after 60 % of them; PGD-50 with 10 restarts and AutoAttack on
    1,000 images. The most telling first."""
    base = [
        "selection=null",
        "training.epochs=40",
        "training.lr_schedule={name: one_cycle}",
        "training.optimizer.lr=0.1",
        "training.optimizer.weight_decay=5e-4",
        "data.name=parquet",
        "data.path=cifar10",
        "evaluation.attacks=[{name: linf_pgd, eps: 8/255, step_size: 2/255, steps: 50, restarts: 10}, "
        "{name: autoattack, eps: 8/255}]",
        "evaluation.examples=1000",
    ]
    once = "selection={{solver: {{name: {}}}, partition: per_class, budget: {}, warm_start: {}, period: null}}"
    methods = {"full": []}
    for budget in (0.5, 0.3):
        for name, solver in {"GradMatch": "gradmatch", "random": "random", "CRAIG": "craig"}.items():
            methods[f"{name} {budget}"] = [once.format(solver, budget, 0.6)]
        epochs = round(40 * budget)
        methods["shortened" if budget == 0.5 else f"shortened to {epochs}"] = [
            f"training.epochs={epochs}",
            "cost.reference_epochs=40",
        ]
    methods["fewer steps (PGD-4)"] = ["attack.steps=4", "attack.step_size=null"]
    return {name: (experiment, [*base, *changes]) for name, changes in methods.items()}


_BLOCKS = {0.5: (0.503, 0.6), 0.3: (0.302, 0.55), 0.15: (0.152, 0.7)}
"""Of each relative cost: the one asked for, and the warm start. Whole warm epochs make costs jump; from these, what
coreset runs cost lies nearest."""


def _main(experiment: str, base: list[str], eps: str, blocks: dict[float, dict], weak: dict[str, list[str]]) -> dict:
    """Methods in blocks of equal relative cost, 20 epochs of PGD-7 as the reference. `blocks`: for each cost, its
    methods beside those in every block; `weak`: one step without and with memory."""
    base = ["selection=null", "data.train_size=4000", "data.test_size=4000", "training.batch_size=64", *base]
    base += [
        "training.epochs=20",
        "cost.reference_epochs=20",
        "training.speed={autocast: bfloat16, channels_last: true}",
    ]
    base += ["evaluation.batch_size=64"]  # a larger one does not fit this machine's cache
    base.append(f"evaluation.attacks=[{{name: linf_pgd, eps: {eps}, steps: 50}}]")
    methods = {"full": [], **weak}
    for cost, own in blocks.items():
        asked, warm = _BLOCKS[cost]
        for name in ("random", "CRAIG", "GradMatch", "EasyCore"):
            by = f", attack: {{name: linf_pgd, eps: {eps}, steps: 1}}" if name in ("CRAIG", "GradMatch") else ""
            methods[f"{name} @ {cost}"] = [_subset(name.lower(), f"cost: {asked}", by, warm)]
        if cost < 0.45:  # what it costs to attack a quarter of every batch of all data
            methods[f"GradMatch x margin @ {cost}"] = [*methods[f"GradMatch @ {cost}"], "minibatch={name: margin}"]
        methods[f"shortened @ {cost}"] = [f"training.epochs={round(20 * cost)}"]
        methods |= {f"{name} @ {cost}": changes for name, changes in own.items()}
    return {name: (experiment, [*base, *changes]) for name, changes in methods.items()}


def _epochs(count: int) -> list[str]:
    return [f"training.epochs={count}"]


_CIFAR_WEAK = {
    "FAT": _ONE_STEP,
    "N-FGSM": SAVINGS["N-FGSM"],
    "one step, remembered": [*_ONE_STEP, *_REMEMBERED],
}
_BOUGHT = {
    name: _subset(name, f"cost: {_BLOCKS[0.15][0]}", by, 0.6) for name, by in (("gradmatch", _BY_FGSM), ("random", ""))
}
MAIN_CIFAR10 = _main(
    "cifar10/linf_gradmatch_small",
    [],
    "8/255",
    {
        0.5: {
            "PGD-3": _pgd(3),
            "PGD-3, remembered": [*_pgd(3), *_REMEMBERED],
            "FAT, 40 epochs": [*_ONE_STEP, *_epochs(40)],
            "one step, remembered, 40 epochs": [*_CIFAR_WEAK["one step, remembered"], *_epochs(40)],
        },
        0.3: {
            "PGD-2, 16 epochs": [*_pgd(2), *_epochs(16)],
            "PGD-2, remembered, 16 epochs": [*_pgd(2), *_REMEMBERED, *_epochs(16)],
            "FAT, 24 epochs": [*_ONE_STEP, *_epochs(24)],
            "one step, remembered, 24 epochs": [*_CIFAR_WEAK["one step, remembered"], *_epochs(24)],
        },
        0.15: {
            "FAT, 12 epochs": [*_ONE_STEP, *_epochs(12)],
            "one step, remembered, 12 epochs": [*_CIFAR_WEAK["one step, remembered"], *_epochs(12)],
            "GradMatch, one step, remembered": [*_ONE_STEP, *_REMEMBERED, _BOUGHT["gradmatch"]],
            "random, one step, remembered": [*_ONE_STEP, *_REMEMBERED, _BOUGHT["random"]],
        },
    },
    _CIFAR_WEAK,
)
_MNIST_STEPS = {3: "0.15", 2: "0.2", 1: "0.375"}


def _mnist_pgd(steps: int) -> list[str]:
    return [f"attack.steps={steps}", f"attack.step_size={_MNIST_STEPS[steps]}"]


_MNIST_WEAK = {
    "FAT": _mnist_pgd(1),
    "N-FGSM": ["attack={name: n_fgsm, eps: 0.3}"],
    "one step, remembered": [*_mnist_pgd(1), *_REMEMBERED],
}
MAIN_MNIST = _main(
    "mnist/linf_full",
    [],
    "0.3",
    {
        0.5: {"PGD-3": _mnist_pgd(3), "PGD-3, remembered": [*_mnist_pgd(3), *_REMEMBERED]},
        0.3: {
            "PGD-2, 16 epochs": [*_mnist_pgd(2), *_epochs(16)],
            "PGD-2, remembered, 16 epochs": [*_mnist_pgd(2), *_REMEMBERED, *_epochs(16)],
        },
    },
    _MNIST_WEAK,
)
CIFAR10_TRADES, CIFAR10_LINF = (_at_size(f"cifar10/{kind}_gradmatch") for kind in ("trades", "linf"))
SUITES = {
    "main-cifar10": (MAIN_CIFAR10, (0, 1, 2)),
    "main-mnist": (MAIN_MNIST, (0, 1, 2)),
    "cifar10-gpu-trades": (CIFAR10_TRADES, (0,)),
    "cifar10-gpu-linf": (CIFAR10_LINF, (0,)),
    "digits": (DIGITS, (0, 1, 2)),
    "mnist": (MNIST, (0,)),
    "minibatch-mnist": (MINIBATCH_MNIST, (0, 1, 2)),
    "minibatch-cifar10": (MINIBATCH_CIFAR10, (0, 1, 2)),
    "minibatch-factors": (MINIBATCH_FACTORS, (0, 1)),
    "minibatch-strong": (MINIBATCH_STRONG, (0,)),
    "savings": (_on_cifar10(SAVINGS), (0, 1, 2)),
    "savings-parts": (_on_cifar10(PARTS), (0, 1, 2)),
    "savings-long": (_on_cifar10(LASTING), (0, 1)),
    "savings-strong": (_on_cifar10(BEFORE_AUTOATTACK), (0,)),
}


def main(suite: str, part: str = "0/1", seconds: str = "inf", *changes: str) -> None:
    """`changes` are made in every run, for a trial whose records go nowhere."""
    methods, seeds = SUITES[suite]
    first, every = map(int, part.split("/"))
    runs, until = [(seed, method, *how) for seed in seeds for method, how in methods.items()], time.monotonic()
    until += float(seconds)
    for seed, method, experiment, own in runs[first::every]:
        record = tables.record_path(suite, method, seed)
        record = HERE.parent / "runs" / "trial" / suite / record.name if changes else record
        if not record.exists() and not _run(experiment, [*own, *changes, f"seed={seed}"], record, until):
            print("the time is up; the same command goes on", flush=True)
            return
    if not changes:
        tables.main()


def _run(experiment: str, changes: list[str], record: Path, until: float) -> bool:
    """Whether the run came to its end before the clock said `until`."""
    if time.monotonic() >= until:
        return False
    file = HERE.parent / "experiments" / f"{experiment}.yaml"
    sets = [part for change in changes for part in ("--set", change)]
    folder = HERE.parent / "runs" / "suites" / record.parent.name / record.stem
    command = [sys.executable, "-m", "advcore", "run", str(file), *sets, "--out", str(folder), "--resume"]
    print(" ".join(command), flush=True)
    running, left = subprocess.Popen(command), until - time.monotonic()
    try:
        code = running.wait(None if left == float("inf") else max(left, 0))
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGTERM)
        running.wait()
        return False
    if code:
        raise subprocess.CalledProcessError(code, command)
    record.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "record.json", record)
    shutil.rmtree(folder)
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
