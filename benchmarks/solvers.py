"""Time, memory and answers of the solvers: python benchmarks/solvers.py [PART ...] [--threads N] [--quick].

Each part writes benchmarks/records/solvers/PART.json. The page, benchmarks/solvers.md, and its plot are made from
these records and from nothing else; --page makes only them. What a figure stands for is said where it is measured.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import gc
import importlib.metadata
import importlib.util
import math
import multiprocessing
import os
import platform
import statistics
import time
import unittest.mock
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import torch
from solver_rows import TITLES, cifar_images, imagenet_class, real, synthetic
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor, nn

from advcore.apportion import largest_remainder
from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.files import read_json, write_json
from advcore.models import ResNet18
from advcore.objectives import Pgd, Trades
from advcore.pairs import distance_matrix, gram_matrix, matrix_dtype, natural_unit
from advcore.reporting.tables import Row, markdown
from advcore.rng import Stream, preserved
from advcore.rows import FactoredRows
from advcore.solvers import Craig, GradMatch, Random, gradmatch
from advcore.solvers.location import locate, locate_with_submodlib
from advcore.solvers.pursuit import GramProducts, pursue

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "records" / "solvers"
SOLVERS = {"GradMatch": GradMatch, "CRAIG": Craig}
ONE_ROUND = GradMatch(ridge=0.0, tolerance=0.0, fill="none")  # what scikit-learn's pursuit can be set beside
LONG = 20  # seconds of a first run after which a peer is not run again
DENSE_LIMIT = 3e9  # bytes of rows written out
NNLS_UP_TO = 500  # picks
SUBMODLIB = "submodlib LazyGreedy"
SUBMODLIB_SCALE = 40  # power of two of its largest similarity: it takes gains below 1 for none and would stop
PEERS = ("scikit-learn", "scipy", "submodlib-py", "apricot-select", "threadpoolctl", "matplotlib")
Facts = dict[str, Any]


# Measuring


def set_threads(threads: int) -> None:
    """Of every library that computes here."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    if importlib.util.find_spec("apricot"):
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def environment(threads: int) -> Facts:
    """What the numbers were made with."""
    from advcore.runner.run import environment as of_run

    pools = [(one["internal_api"], one["version"] or "", one["num_threads"]) for one in threadpool_info()]
    versions = {}
    for name in PEERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    facts = {"device": _processor(), "cores": os.cpu_count(), "threads": threads, "thread_pools": sorted(pools)}
    return of_run(torch.device("cpu")) | facts | {name: versions.get(name) for name in PEERS}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def resident(field: str) -> int | None:
    """Bytes of this process's "VmRSS" or, at its peak, "VmHWM"; None where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None


def measured(call: Callable[[], Any]) -> tuple[Any, Facts]:
    """The answer, seconds, `peak` of the resident set, and how far `above` the set before the call that is, in bytes;
    None where the system does not tell."""
    gc.collect()
    anew = _forget_peak()
    before = resident("VmRSS")
    start = time.perf_counter()
    answer = call()
    seconds, peak = time.perf_counter() - start, resident("VmHWM")
    return answer, {"seconds": seconds, "peak": peak, "above": peak - before if anew and peak else None}


def _forget_peak() -> bool:
    """Let this process's peak start anew; False where that cannot be had."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def spawned(function: Callable, *args) -> Any:
    """What `function` returns in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


@contextlib.contextmanager
def inside(module: Any, name: str) -> Iterator[list[float]]:
    """Seconds of each call of `module.name` meanwhile."""
    original, seconds = getattr(module, name), []

    def timed(*args, **kwargs):
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - start)

    with unittest.mock.patch.object(module, name, timed):
        yield seconds


def stream(n: int) -> Stream:
    """A solver's draws over n rows."""
    return Stream(seed=0, purpose="solver").at(torch.arange(n))


# Peers


class Peer(NamedTuple):
    """`run(prepare())` is timed, `prepare` and `judge(answer)` are not; `base` is the peer it is set beside."""

    name: str
    run: Callable[[Any], Any]
    judge: Callable[[Any], Facts]
    prepare: Callable[[], Any] = lambda: None
    base: str = "ours"


def alternate(peers: list[Peer], repeats: int) -> list[Facts]:
    """Medians over turns; in a turn each peer runs once, one that took over 20 s only in the first."""
    seconds: dict[str, list[float]] = {peer.name: [] for peer in peers}
    judged = {}
    for turn in range(repeats):
        for peer in peers:
            if turn and seconds[peer.name][0] > LONG:
                continue
            prepared = peer.prepare()
            start = time.perf_counter()
            answer = peer.run(prepared)
            seconds[peer.name].append(time.perf_counter() - start)
            if not turn:
                judged[peer.name] = peer.judge(answer)
    median = {name: statistics.median(own) for name, own in seconds.items()}
    timed = {p.name: {"seconds": median[p.name], "runs": seconds[p.name], "beside": p.base} for p in peers}
    return [
        {"peer": p.name, **timed[p.name], "ratio": median[p.name] / median[p.base], **judged[p.name]} for p in peers
    ]


def peers(options: argparse.Namespace) -> tuple[Facts, Facts]:
    """All cells; kinds of rows whose images are not there are named in `left_out`."""
    sizes = (200, 400) if options.quick else (1000, 2000, 5000)
    for make in (of_pursuit, of_craig):
        alternate(make(synthetic(64), 8)[0], 1)  # libraries and threads start
    cells, left_out = [], []
    for kind in ["synthetic"] if options.quick else TITLES:
        for n in sizes:
            rows = synthetic(n) if kind == "synthetic" else real(kind, n)
            if rows is None:
                left_out.append(f"{TITLES[kind]}, n = {n}: ADVCORE_DATA does not name a folder with enough of it")
                continue
            cells += [_cell(kind, rows, k, make, options) for k in (n // 10, n // 2) for make in (of_pursuit, of_craig)]
    return {"repeats": options.repeats, "long": LONG, "sizes": sizes}, {"cells": cells, "left_out": left_out}


def _cell(kind: str, rows: FactoredRows, k: int, make: Callable, options: argparse.Namespace) -> Facts:
    print(f"peers: {make.__name__}, {kind}, n = {len(rows)}, k = {k}", flush=True)
    found, left_out = make(rows, k)
    shape = {"rows": kind, "n": len(rows), "k": k, "width": rows.total().numel()}
    solver = {of_pursuit: "GradMatch", of_craig: "CRAIG"}[make]
    return {"solver": solver, **shape, "peers": alternate(found, options.repeats), "left_out": left_out}


def of_pursuit(rows: FactoredRows, k: int) -> tuple[list[Peer], list[str]]:
    """Orthogonal matching pursuit of the sum of all rows, ridge 0, tolerance 0; and why a peer is left out."""
    target, unit = rows.total(), natural_unit(rows)
    exact = gram_matrix(rows, unit=unit).numpy()
    held = gram_matrix(rows, matrix_dtype(rows), unit=unit).numpy()
    correlation, norm = rows.correlate(target).numpy() / unit, float(target.norm()) / math.sqrt(unit)

    def solve(gram: np.ndarray, nonnegative: bool):
        return pursue(GramProducts(gram), correlation, norm, k, nonnegative=nonnegative)

    def judge(picked, weights, stopped: str) -> Facts:
        picked, weights = torch.as_tensor(picked), torch.as_tensor(weights)
        left = rows.combine(picked, weights) - target
        return {"residual": float(left.norm() / target.norm()), "used": len(picked), "stopped": stopped}

    def judge_pursuit(found) -> Facts:
        return judge(found.support, found.weights, found.stopped)

    def judge_call(found) -> Facts:
        return judge(found.indices, found.weights, found.info["stopped"]) | {"rounds": found.info["rounds"]}

    def judge_sklearn(found) -> Facts:
        weights, stopped = found
        return judge(weights.nonzero()[0], weights[weights != 0], stopped)

    whole, at = "ours, whole call", stream(len(rows))
    listed = [
        Peer("sklearn, our Gram", lambda g: _sklearn(g, correlation, k), judge_sklearn, lambda: exact.copy("F")),
        Peer("ours, any sign", lambda g: solve(g, False), judge_pursuit, held.copy),
        Peer("ours", lambda g: solve(g, True), judge_pursuit, held.copy),
        Peer(whole, lambda _: ONE_ROUND(rows, k, generator=at), judge_call),
        Peer(f"{whole}, default", lambda _: GradMatch()(rows, k, generator=at), judge_call),
    ]
    left_out = []
    if 8 * len(rows) * target.numel() <= DENSE_LIMIT:
        x, t = rows.dense().numpy(), target.flatten().numpy()
        own = Peer("sklearn, own Gram", lambda _: _sklearn((x @ x.T).T, x @ t, k), judge_sklearn, base=whole)
        listed.insert(0, own)
    else:
        left_out.append(f"sklearn, own Gram: dense rows would hold more than {DENSE_LIMIT / 1e9:.0f} GB")
    if k <= NNLS_UP_TO:
        listed.append(_nnls(rows, target, solve(held.copy(), True)))
    else:
        left_out.append(f"scipy nnls on our support: k is above {NNLS_UP_TO}")
    return listed, left_out


def _sklearn(gram: np.ndarray, correlation: np.ndarray, k: int) -> tuple[np.ndarray, str]:
    """Weights (n,) and why it stopped. `gram` is in column order and is not copied: that is not solving."""
    from sklearn.linear_model import orthogonal_mp_gram

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = orthogonal_mp_gram(gram, correlation, n_nonzero_coefs=k, copy_Gram=False)
    early = any(issubclass(one.category, RuntimeWarning) for one in caught)
    return weights, "linear dependence" if early else "budget"


def _nnls(rows: FactoredRows, target: Tensor, ours) -> Peer:
    """Non-negative least squares on the rows that ours picked, dense; how far its weights are from ours."""
    goal = target.flatten().numpy()

    def run(dense: np.ndarray) -> np.ndarray | None:
        with contextlib.suppress(RuntimeError):
            return scipy.optimize.nnls(dense, goal)[0]

    def judge(weights: np.ndarray | None) -> Facts:
        if weights is None:
            return {"difference": None, "stopped": "its own limit of iterations"}
        return {"difference": float(np.abs(weights / ours.weights - 1).max()), "used": int((weights > 0).sum())}

    support = torch.tensor(ours.support)
    return Peer("scipy nnls on our support", run, judge, lambda: rows.take(support).dense().numpy().T)


def of_craig(rows: FactoredRows, k: int) -> tuple[list[Peer], list[str]]:
    """Facility location over one float64 matrix of similarities, largest distance - distance."""
    similarity = distance_matrix(rows, torch.float64).numpy()
    np.subtract(similarity.max(), similarity, out=similarity)

    def judge(picks) -> Facts:
        picks = np.asarray(picks)
        return {"objective": float(similarity[picks].max(0).sum()), "used": len(picks)}

    at = stream(len(rows))
    listed = [
        Peer("distances", lambda _: distance_matrix(rows, matrix_dtype(rows)), lambda _: {}),
        Peer("ours", lambda _: locate(similarity, k), lambda found: judge(found.picks)),
        Peer("ours, whole call", lambda _: Craig()(rows, k, generator=at), lambda found: judge(found.indices)),
    ]
    left_out = []
    if _imports("submodlib", left_out):
        larger = similarity * 2.0 ** (SUBMODLIB_SCALE - math.frexp(similarity.max())[1])
        run = functools.partial(locate_with_submodlib, larger)
        listed.insert(0, Peer(SUBMODLIB, lambda _: run(k), lambda found: judge(found.picks)))
    if _imports("apricot", left_out):
        listed.append(Peer("apricot lazy", lambda _: _apricot(similarity, k), judge))
    return listed, left_out


def _imports(package: str, left_out: list[str]) -> bool:
    try:
        importlib.import_module(package)
    except ImportError as error:
        left_out.append(f"{package}: does not import ({type(error).__name__})")
        return False
    return True


def _apricot(similarity: np.ndarray, k: int) -> np.ndarray:
    """Picks in order; the package compiles its loop anew in each fit, and that is part of the call."""
    from apricot import FacilityLocationSelection

    return FacilityLocationSelection(k, metric="precomputed", optimizer="lazy").fit(similarity).ranking


# Growth

GROWTH = {
    "n": (500, 1000, 2000, 4000, 8000),
    "k": (50, 100, 200, 500, 1000, 2000),
    "C": (10, 30, 100, 300, 1000),
    "D": (64, 128, 256, 512, 1024, 2048, 4096),
}
AROUND = {"n": 2000, "k": 500, "C": 10, "D": 512}
QUICK_GROWTH = {"n": (200, 400), "k": (50, 100), "C": (10, 20), "D": (64, 128)}
QUICK_AROUND = {"n": 400, "k": 100, "C": 10, "D": 64}
OVER_K = (100, 200, 500, 1000, 1500, 2000, 2500)


def growth(options: argparse.Namespace) -> tuple[Facts, Facts]:
    """One of n, k, C, D at a time; k is n / 4 while n varies. Each point and solver in a process of its own."""
    axes, around = (QUICK_GROWTH, QUICK_AROUND) if options.quick else (GROWTH, AROUND)
    point = functools.cache(lambda solver, *shape: spawned(_point, solver, shape, options.threads, options.repeats))
    points = []
    for axis, value in [(axis, value) for axis, values in axes.items() for value in values]:
        shape = around | {axis: value} | ({"k": value // 4} if axis == "n" else {})
        print(f"growth: {shape}", flush=True)
        points += [{"axis": axis, "solver": name, **shape, **point(name, *shape.values())} for name in SOLVERS]
    over_k, left_out = _over_k(options)
    settings = {"repeats": options.repeats, "axes": axes, "around": around}
    return settings, {"points": points, "over_k": over_k, "left_out": left_out}


def _point(name: str, shape: tuple[int, int, int, int], threads: int, repeats: int) -> Facts:
    """A default solver's whole call on synthetic rows, in a process that has done nothing but start."""
    set_threads(threads)
    n, k, classes, features = shape
    rows, solver = synthetic(n, classes=classes, features=features), SOLVERS[name]()
    solver(synthetic(64, classes=classes, features=features), 16, generator=stream(64))  # libraries and threads start
    return _whole_call(solver, rows, k, repeats)


def _whole_call(solver, rows: FactoredRows, k: int, repeats: int) -> Facts:
    """Median `seconds`, `solve` (those of all rounds within `pursue`, for GradMatch), and the first call's memory."""
    found, memory, seconds, solving = None, {}, [], []
    while len(seconds) < repeats and not (seconds and seconds[0] > LONG):
        with inside(gradmatch, "pursue") as spent:
            found, facts = measured(lambda: solver(rows, k, generator=stream(len(rows))))
        memory = memory or {"peak": facts["peak"], "above": facts["above"]}
        seconds.append(facts["seconds"])
        solving.append(sum(spent))
    solve = statistics.median(solving) if isinstance(solver, GradMatch) else None
    how = {"used": len(found.indices), "stopped": found.info["stopped"], "rounds": found.info.get("rounds", 1)}
    return {"seconds": statistics.median(seconds), "solve": solve, **memory, **how}


def _over_k(options: argparse.Namespace) -> tuple[list[Facts], list[str]]:
    """GradMatch over k at one n: as it is, and kept to one round that no tolerance ends."""
    kind, n, ks = ("synthetic", 400, (50, 100, 200)) if options.quick else ("cifar10", 5000, OVER_K)
    rows = synthetic(n) if options.quick else real(kind, n)
    if rows is None:
        return [], [f"{TITLES[kind]}: ADVCORE_DATA does not name a folder with enough of it"]
    curves = []
    for name, solver in {"default": GradMatch(), "one round": GradMatch(tolerance=0.0, fill="none")}.items():
        print(f"growth: over k, {name}", flush=True)
        points = [{"k": k, **_whole_call(solver, rows, k, options.repeats)} for k in ks]
        exponents = {key: exponent(points, key) for key in ("seconds", "solve")}
        curves.append({"name": name, "rows": kind, "n": n, "points": points, "exponents": exponents})
    return curves, []


def exponent(points: list[Facts], key: str, low: int = 500, high: int = 2500) -> float | None:
    """Slope of log time over log k between two k; None with less than two points there."""
    own = [point for point in points if low <= point["k"] <= high]
    if len(own) < 2:
        return None
    return float(np.polyfit(np.log([point["k"] for point in own]), np.log([point[key] for point in own]), 1)[0])


# Shapes

CIFAR_CASES = (
    {"solver": "GradMatch", "partition": "per_class"},
    {"solver": "CRAIG", "partition": "per_class"},
    {"solver": "GradMatch", "partition": "per_batch", "block_size": 128},
)


def cifar_shape(options: argparse.Namespace) -> tuple[Facts, Facts]:
    """Memory of whole selections from 50,000 images, each in a process of its own."""
    n = 2000 if options.quick else 50_000
    settings = {"n": n, "classes": 10, "features": 512, "budget": 0.5, "attack": "PGD-1", "objective": "trades"}
    cases = []
    for case in CIFAR_CASES:
        print(f"cifar-shape: {case}", flush=True)
        cases.append(case | spawned(_cifar_case, case, n, options.threads))
    return settings, {"cases": cases}


def _cifar_case(case: Facts, n: int, threads: int) -> Facts:
    from advcore.selection.coreset import AdversarialCoreset

    set_threads(threads)
    how = case | {"solver": SOLVERS[case["solver"]](), "budget": 0.5}
    chooser = AdversarialCoreset(objective=Trades(), attack=LinfPGD(eps=0.1, steps=1), **how)
    with preserved(Stream(seed=0, purpose="model")):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    source = Resident(images, torch.arange(n) % 10)
    chooser.select(model, Resident(images[:512], torch.arange(512) % 10), seed=0)  # libraries and threads start
    coreset, facts = measured(lambda: chooser.select(model, source, seed=0))
    rows = len(Trades.passes) * n * (10 + 512) * 4
    most = math.ceil(n / case["block_size"]) if "block_size" in case else n // 10
    bound = 1.5 * (rows + most**2 * 4 + round(0.5 * most) * most * 4) + 100e6
    return facts | {"picked": len(coreset), "rows": rows, "largest": most, "bound": bound, **_estimated(chooser, n)}


def _estimated(chooser: Any, n: int) -> Facts:
    """What the package says beforehand that such a selection takes, in bytes; None where it cannot say."""
    try:
        from advcore.selection.memory import estimate
    except ImportError:
        return {"estimate": None, "estimate_rows": None}
    told = estimate(chooser, counts=[n // 10] * 10, classes=10, features=512)
    return {"estimate": told.peak, "estimate_rows": told.rows}


IMAGENET = {"n": 1_281_167, "classes": 1000, "features": 2048}
QUICK_IMAGENET = {"n": 640, "classes": 10, "features": 64}


def imagenet_shape(options: argparse.Namespace) -> tuple[Facts, Facts]:
    """A data set of ImageNet's shape, 10 % of it picked, one class in memory at a time."""
    shape = QUICK_IMAGENET if options.quick else IMAGENET
    solved = min(options.classes or shape["classes"], shape["classes"])
    passes = [{"solver": name, **spawned(_imagenet_pass, name, shape, solved, options.threads)} for name in SOLVERS]
    return shape | {"budget": 0.1, "dtype": "float16", "solved_classes": solved}, {"passes": passes}


def _imagenet_pass(name: str, shape: Facts, solved: int, threads: int) -> Facts:
    set_threads(threads)
    each, more = divmod(shape["n"], shape["classes"])
    sizes = [each + (label < more) for label in range(shape["classes"])]
    shares = largest_remainder(round(0.1 * shape["n"]), sizes)
    found, facts = measured(lambda: [_imagenet_class(name, c, sizes[c], shares[c], shape) for c in range(solved)])
    totals = {key: sum(one[key] for one in found) for key in ("generating", "solving", "picked")}
    means = {key: statistics.fmean(one[key] for one in found) for key in ("error", "error_random")}
    return facts | totals | means


def _imagenet_class(name: str, label: int, n: int, k: int, shape: Facts) -> Facts:
    if label % 50 == 0:
        print(f"imagenet-shape: {name}, class {label}", flush=True)
    start = time.perf_counter()
    rows = imagenet_class(label, n, classes=shape["classes"], features=shape["features"])
    made = time.perf_counter()
    found = SOLVERS[name]()(rows, k, generator=stream(n))
    done = time.perf_counter()
    total = rows.total()
    picks = {"error": found, "error_random": Random()(rows, k, generator=stream(n))}
    errors = {
        key: float((rows.combine(s.indices, s.weights) - total).norm() / total.norm()) for key, s in picks.items()
    }
    return {"generating": made - start, "solving": done - made, "picked": len(found.indices), **errors}


def attack_share(options: argparse.Namespace) -> tuple[Facts, Facts]:
    """Seconds of rows and solve beside those of the attack. The network is untrained: what an attack costs does not
    depend on training."""
    from advcore.gradients.last_layer import last_layer_rows

    n, blocks, budgets = (32, (8,), (0.5,)) if options.quick else (2000, (20, 128), (0.1, 0.3, 0.5))
    images, labels, kind = cifar_images(n)
    source, attack, ledger = Resident(images, labels), LinfPGD(eps=8 / 255, steps=10), CostLedger()
    with preserved(Stream(seed=0, purpose="model")):
        net = ResNet18().body(10, source.shape)
    print(f"attack-share: attack of {n} images", flush=True)
    how = {"objective": Pgd(), "attack": attack}
    rows = last_layer_rows(net, source, **how, stream=Stream(seed=0, purpose="selection"), ledger=ledger).rows
    cases = [{"partition": "per_class"}, *({"partition": "per_batch", "block_size": size} for size in blocks)]
    plan = [(case, name, budget) for case in cases for name in SOLVERS for budget in budgets]
    seconds = {phase: ledger.seconds[phase] for phase in ("attack", "rows")}
    results = [_share(net, source, rows, how | case, name, budget, seconds) for case, name, budget in plan]
    network = "ResNet-18, CIFAR stem, untrained"
    settings = {"n": n, "images": kind, "network": network, "attack": "linf 8/255, PGD-10", "dtype": "float32"}
    return settings, seconds | {"shares": results}


def _share(net, source, rows, how: Facts, name: str, budget: float, seconds: Facts) -> Facts:
    from advcore.selection.coreset import AdversarialCoreset

    ledger = CostLedger()
    chooser = AdversarialCoreset(solver=SOLVERS[name](), budget=budget, **how)
    chooser.select(net, source, seed=0, rows=rows, ledger=ledger)
    solve = ledger.seconds["solve"]
    facts = {"solver": name, "partition": chooser.partition, "block_size": how.get("block_size"), "budget": budget}
    return facts | {"solve": solve, "share": (seconds["rows"] + solve) / seconds["attack"]}


# The page


def text(records: dict[str, Facts]) -> str:
    """The page, from the records there are."""
    lines = ["# Solvers", "", "Made by `python benchmarks/solvers.py`; every figure comes from a record."]
    found = [gate for part, make in GATES.items() if part in records for gate in _verdicts(records[part], make)]
    if found:
        lines += ["", markdown(("what", "measured", "limit", "holds"), found)]
    for part, section in SECTIONS.items():
        if part in records:
            lines += ["", f"## {part}", "", _made_with(records[part]["environment"]), "", *section(records[part])]
    return "\n".join(lines)


def _verdicts(record: Facts, make: Callable[[Facts], list["Gate"]]) -> list[Row]:
    """A part's gates, each with yes or no; a small run has neither."""
    own = record["settings"]
    small = own["quick"] or own.get("solved_classes", IMAGENET["classes"]) < IMAGENET["classes"]
    verdict = {True: "yes", False: "no", None: "not measured"}
    return [
        (what, figure, limit, "a small run" if small else verdict[holds]) for what, figure, limit, holds in make(record)
    ]


def _made_with(facts: Facts) -> str:
    versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "numpy", *PEERS[:4]) if facts.get(name))
    commit = f", commit {facts['commit'][:10]}" if facts.get("commit") else ""
    return f"{facts['device']}, threads: {facts['threads']}; {versions}{commit}."


def duration(seconds: float | None) -> str:
    """In ms below a second, in minutes from ten of them on."""
    if seconds is None:
        return "–"
    if seconds >= 600:
        return f"{seconds / 60:.1f} min"
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def megabytes(size: float | None) -> str:
    return "–" if size is None else f"{size / 1e6:.0f} MB"


def _cells(record: Facts, solver: str) -> list[tuple[Facts, dict[str, Facts]]]:
    """Each cell of a solver, with its peers by name."""
    own = [cell for cell in record["results"]["cells"] if cell["solver"] == solver]
    return [(cell, {peer["peer"]: peer for peer in cell["peers"]}) for cell in own]


def _grid(cells: list, show: Callable[[Facts, dict[str, Facts]], str], names: list[str]) -> str:
    """A line a cell, a column a peer."""
    rows = [
        (TITLES[cell["rows"]], str(cell["n"]), str(cell["k"]), *(show(own[p], own) if p in own else "–" for p in names))
        for cell, own in cells
    ]
    return markdown(("rows", "n", "k", *names), rows)


def _peers_section(record: Facts) -> list[str]:
    lines = [f"Medians, turns: {record['settings']['repeats']}; in brackets over ours (own Gram: over our whole call)."]
    for solver, answer in (("GradMatch", _fit), ("CRAIG", _objective)):
        cells = _cells(record, solver)
        names = list(dict.fromkeys(name for _, own in cells for name in own))
        judged = [name for name in names if any(answer(own[name], own) != "–" for _, own in cells if name in own)]
        lines += [
            "",
            f"{solver}, time:",
            "",
            _grid(cells, lambda p, _: f"{duration(p['seconds'])} ({p['ratio']:.2f})", names),
        ]
        lines += ["", f"{solver}, {MEANING[solver]}:", "", _grid(cells, answer, judged)]
        reasons = sorted(
            {p["stopped"] for _, own in cells for p in own.values() if p.get("stopped", "budget") != "budget"}
        )
        lines += ["", f"With fewer rows than k: {'; '.join(reasons)}."] if reasons else []
    missing = [note for cell in record["results"]["cells"] for note in cell["left_out"]]
    missing = list(dict.fromkeys([*record["results"]["left_out"], *missing]))
    return lines + (["", "Left out:", "", *(f"- {note}" for note in missing)] if missing else [])


MEANING = {
    "GradMatch": "relative residual and rows used (nnls: largest relative difference of a weight)",
    "CRAIG": "objective over submodlib's, less 1, and rows used",
}


def _fit(peer: Facts, own: dict[str, Facts]) -> str:
    if peer.get("difference") is not None:
        return f"{peer['difference']:.1e}"
    return f"{peer['residual']:.3g}, {peer['used']}" if "residual" in peer else "–"


def _objective(peer: Facts, own: dict[str, Facts]) -> str:
    base = own.get(SUBMODLIB)
    if base is None or "objective" not in peer:
        return "–"
    return f"{peer['objective'] / base['objective'] - 1:+.1e}, {peer['used']}"


def _growth_section(record: Facts) -> list[str]:
    points, lines = record["results"]["points"], ["![Time and memory over n, k, C and D](solvers.png)"]
    around = ", ".join(f"{name} = {value}" for name, value in record["settings"]["around"].items())
    lines += ["", f"Around {around} (k = n / 4 where n grows), synthetic rows; peak of the resident set above before."]
    rows = []
    for one, other in zip(points[::2], points[1::2], strict=True):
        fit = (duration(one["seconds"]), duration(one["solve"]), megabytes(one["above"]))
        rows.append(
            (f"{one['axis']} = {one[one['axis']]}", *fit, duration(other["seconds"]), megabytes(other["above"]))
        )
    header = ("point", "GradMatch", "of it solve", "peak", "CRAIG", "peak")
    lines += ["", markdown(header, rows)]
    for curve in record["results"]["over_k"]:
        title = f"GradMatch, {curve['name']}, {TITLES[curve['rows']]}, n = {curve['n']}"
        slopes = ", ".join(f"{key} {value:.2f}" for key, value in curve["exponents"].items() if value is not None)
        lines += ["", f"{title}; exponent of k between 500 and 2500: {slopes or 'not measured'}.", ""]
        lines.append(
            markdown(("k", "whole call", "of it solve", "rows used", "rounds"), map(_over_k_row, curve["points"]))
        )
    return lines + [line for note in record["results"]["left_out"] for line in ("", f"Left out: {note}.")]


def _over_k_row(point: Facts) -> Row:
    counts = (str(point["used"]), str(point["rounds"]))
    return (str(point["k"]), duration(point["seconds"]), duration(point["solve"]), *counts)


def _cifar_section(record: Facts) -> list[str]:
    header = ("selection", "time", "rows", "peak above before", "bound", "estimate")
    keys = ("rows", "above", "bound", "estimate")
    cases = record["results"]["cases"]
    rows = [(_case(one), duration(one["seconds"]), *(megabytes(one[key]) for key in keys)) for one in cases]
    return [f"N = {record['settings']['n']}, C = 10, D = 512, TRADES, half of the data.", "", markdown(header, rows)]


def _case(one: Facts) -> str:
    return f"{one['solver']}, {one['partition']}" + (
        f", blocks of {one['block_size']}" if one.get("block_size") else ""
    )


def _imagenet_section(record: Facts) -> list[str]:
    own = record["settings"]
    shape = (
        f"N = {own['n']}, C = {own['classes']}, D = {own['features']}, float16 rows of one class at a time, 10 % picked"
    )
    trial = "" if own["solved_classes"] == own["classes"] else f"; a trial of {own['solved_classes']} classes"
    header = ("solver", "generating", "solving", "peak of the process", "gradient error", "random subset's")
    rows = [
        (one["solver"], duration(one["generating"]), duration(one["solving"]), megabytes(one["peak"]))
        + (f"{one['error']:.3f}", f"{one['error_random']:.3f}")
        for one in record["results"]["passes"]
    ]
    return [f"{shape}{trial}.", "", markdown(header, rows)]


def _share_section(record: Facts) -> list[str]:
    own, results = record["settings"], record["results"]
    what = f"{own['network']}, {own['attack']}, {own['n']} images ({own['images']}), {own['dtype']}"
    spent = f"attack {duration(results['attack'])}, rows {duration(results['rows'])}"
    rows = [
        (_case(one), f"{one['budget']:g}", duration(one["solve"]), f"{100 * one['share']:.2f} %")
        for one in results["shares"]
    ]
    return [f"{what}: {spent}.", "", markdown(("selection", "budget", "solve", "rows + solve, of attack"), rows)]


SECTIONS = {
    "peers": _peers_section,
    "growth": _growth_section,
    "cifar-shape": _cifar_section,
    "imagenet-shape": _imagenet_section,
    "attack-share": _share_section,
}

Gate = tuple[str, str, str, bool | None]
"""What is asked, the figure, its limit, and whether it holds; None where it is not measured in full."""


def _at_most(what: str, figure: float | None, limit: float, form: Callable[[float], str] = "{:.3g}".format) -> Gate:
    if figure is None:
        return what, "–", f"≤ {form(limit)}", None
    return what, form(figure), f"≤ {form(limit)}", bool(figure <= limit)


def _find(record: Facts, solver: str, rows: str, k: int) -> dict[str, Facts]:
    """The peers of the cell with n = 5000; none where it is not there."""
    wanted = (rows, 5000, k)
    return next((own for cell, own in _cells(record, solver) if (cell["rows"], cell["n"], cell["k"]) == wanted), {})


def _ratio(own: dict[str, Facts], one: str, other: str, key: str = "seconds") -> float | None:
    return own[one][key] / own[other][key] if one in own and other in own else None


def _off(ratio: float | None) -> float | None:
    """How far a ratio is from 1."""
    return None if ratio is None else abs(ratio - 1)


def _peers_gates(record: Facts) -> list[Gate]:
    own, where = _find(record, "GradMatch", "synthetic", 500), "GradMatch, synthetic, n = 5000, k = 500"
    dense, gram = "sklearn, own Gram", "sklearn, our Gram"
    gates = [
        _at_most(f"{where}: whole call over sklearn with its own Gram", _ratio(own, "ours, whole call", dense), 1 / 4),
        _at_most(f"{where}: solve over sklearn's on our Gram", _ratio(own, "ours", gram), 1 / 3),
        _at_most(f"{where}: non-negative over any sign", _ratio(own, "ours", "ours, any sign"), 1.3),
        _at_most(f"{where}: residual off sklearn's", _off(_ratio(own, "ours, any sign", gram, "residual")), 1e-3),
    ]
    for kind, limit in {"synthetic": 1 / 5, "mnist": 1 / 3, "cifar10": 1 / 3}.items():
        own, where = _find(record, "CRAIG", kind, 2500), f"CRAIG, {TITLES[kind]}, n = 5000, k = 2500"
        gates.append(_at_most(f"{where}: time over submodlib's", _ratio(own, "ours", SUBMODLIB), limit))
        gates.append(
            _at_most(f"{where}: objective off submodlib's", _off(_ratio(own, "ours", SUBMODLIB, "objective")), 1e-5)
        )
    return gates


def _cifar_gates(record: Facts) -> list[Gate]:
    gates = []
    for one in record["results"]["cases"]:
        gates.append(_at_most(f"{_case(one)}: peak memory above before", one["above"], one["bound"], megabytes))
        known = one["estimate"] is not None and one["above"]
        off = abs(one["estimate"] / one["above"] - 1) if known else None
        gates.append(_at_most(f"{_case(one)}: estimate off what was measured", off, 0.15))
    return gates


def _imagenet_gates(record: Facts) -> list[Gate]:
    gates = []
    for one in record["results"]["passes"]:
        where, seconds = f"ImageNet's shape, {one['solver']}", one["generating"] + one["solving"]
        gates.append(_at_most(f"{where}: generating and solving", seconds, 1200, duration))
        gates.append(_at_most(f"{where}: peak of the process", one["peak"], 24e9, megabytes))
    return gates


def _share_gates(record: Facts) -> list[Gate]:
    most = max(record["results"]["shares"], key=lambda one: one["share"])
    where = f"{_case(most)}, budget {most['budget']:g}, the largest"
    return [_at_most(f"rows + solve over attack: {where}", most["share"], 0.05)]


GATES = {
    "peers": _peers_gates,
    "cifar-shape": _cifar_gates,
    "imagenet-shape": _imagenet_gates,
    "attack-share": _share_gates,
}


def plot(record: Facts, path: Path) -> None:
    """Time above, memory below, over n, k, C and D."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = record["settings"]["axes"]
    figure, panels = pyplot.subplots(2, len(axes), figsize=(9, 4.8), dpi=100, sharex="col", sharey="row")
    drawn = [
        ("GradMatch", "seconds", "above", "-"),
        ("GradMatch", "solve", None, ":"),
        ("CRAIG", "seconds", "above", "-"),
    ]
    for column, axis in enumerate(axes):
        for (solver, seconds, memory, style), color in zip(drawn, ("tab:blue", "tab:blue", "tab:orange"), strict=True):
            own = [p for p in record["results"]["points"] if (p["axis"], p["solver"]) == (axis, solver)]
            label = {"solve": f"{solver}, solve only"}.get(seconds, f"{solver}, whole call")
            for panel, key, scale in ((panels[0, column], seconds, 1), (panels[1, column], memory, 1e6)):
                known = [(p[axis], p[key] / scale) for p in own if key and p[key]]
                panel.loglog(
                    *zip(*known, strict=True), style, color=color, marker="o", ms=3, label=label
                ) if known else None
        panels[1, column].set_xlabel(axis)
        panels[1, column].set_xticks(axes[axis][::2], [str(value) for value in axes[axis][::2]])
        panels[1, column].minorticks_off()
    panels[0, 0].set_ylabel("seconds")
    panels[1, 0].set_ylabel("peak MB above before")
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path)
    pyplot.close(figure)


# The command

PARTS = {
    "peers": peers,
    "growth": growth,
    "cifar-shape": cifar_shape,
    "imagenet-shape": imagenet_shape,
    "attack-share": attack_share,
}


def read(out: Path = RECORDS) -> dict[str, Facts]:
    """The records in a folder, by part."""
    return {part: read_json(out / f"{part}.json") for part in PARTS if (out / f"{part}.json").exists()}


def write_page(out: Path) -> None:
    """Page and plot: beside this file from the committed records, else with the records."""
    records, where = read(out), HERE if out.resolve() == RECORDS else out
    (where / "solvers.md").write_text(f"{text(records)}\n")
    if "growth" in records:
        plot(records["growth"], where / "solvers.png")


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    set_threads(options.threads)
    for part in [] if options.page else options.parts or ["peers", "growth"]:
        start = time.perf_counter()
        settings, results = PARTS[part](options)
        settings = {"quick": options.quick, **settings, "seconds": time.perf_counter() - start}
        facts = {"part": part, "environment": environment(options.threads), "settings": settings, "results": results}
        write_json(options.out / f"{part}.json", facts)
    write_page(options.out)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default peers and growth")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, help="turns of a median; 3, or 1 with --quick")
    parser.add_argument("--classes", type=int, help="of imagenet-shape: solve only so many, for a trial")
    parser.add_argument("--quick", action="store_true", help="small sizes, synthetic rows only")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--out", type=Path, default=RECORDS, help="folder of the records")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"PART must be of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    main()
