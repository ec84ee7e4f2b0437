"""Time, memory and answers of the solvers: python benchmarks/measure/solvers.py [PART ...] [--threads N] [--quick].

Each part writes benchmarks/records/solvers/PART.json, from which `make pages` makes benchmarks/solvers.md and its plot.
The function that measures a figure says what it means.
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
from records import RECORDS
from solver_rows import PEERS, SUBMODLIB, TITLES, Facts, cifar_images, imagenet_class, real, synthetic
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor, nn

from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.files import write_json
from advcore.models import ResNet18
from advcore.objectives import Pgd, Trades
from advcore.rng import Stream, preserve_random_state
from advcore.rows import FactoredRows
from advcore.rows.pairwise import choose_unit, distance_matrix, gram_matrix, matrix_dtype
from advcore.shares import apportion
from advcore.solvers import Craig, GradMatch, Random, gradmatch
from advcore.solvers.location import locate, locate_with_submodlib
from advcore.solvers.products import GramProducts
from advcore.solvers.pursuit import PursuitProblem, pursue

SOLVERS = {"GradMatch": GradMatch, "CRAIG": Craig}
ONE_ROUND = GradMatch(ridge=0.0, tolerance=0.0, fill="none")  # comparable with scikit-learn's pursuit
LONG = 20  # seconds of a first run after which a peer is not run again
DENSE_LIMIT = 3e9  # bytes of rows written out
NNLS_UP_TO = 500  # picks


# Measuring


def set_threads(threads: int) -> None:
    """Set the number of threads of every library that computes here."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    if importlib.util.find_spec("apricot"):
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def environment(threads: int) -> Facts:
    """Describe the environment of the measurement."""
    from advcore.run.environment import describe_environment as of_run

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
    """Reset this process's peak; False where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def spawned(function: Callable, *args) -> Any:
    """Return what `function` returns in a separate process."""
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
    """`run(prepare())` is timed, `prepare` and `judge(answer)` are not; `base` is the peer it is compared with."""

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
    target, unit = rows.total(), choose_unit(rows.squared_norms())
    exact = gram_matrix(rows, unit=unit).numpy()
    correlation, norm = rows.correlate(target).numpy() / unit, float(target.norm()) / math.sqrt(unit)
    problem = PursuitProblem(correlation=correlation, target_norm=norm, k=k)

    def solve(gram: np.ndarray, nonnegative: bool):
        return pursue(GramProducts(gram), problem, nonnegative=nonnegative)

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
        Peer("sklearn, our Gram", lambda g: _sklearn(g, correlation, k, copy=True), judge_sklearn, lambda: exact),
        Peer("sklearn, overwriting", lambda g: _sklearn(g, correlation, k), judge_sklearn, lambda: exact.copy("F")),
        Peer("ours, any sign", lambda g: solve(g, False), judge_pursuit, exact.copy),
        Peer("ours", lambda g: solve(g, True), judge_pursuit, exact.copy),
        Peer(whole, lambda _: ONE_ROUND(rows, k, generator=at), judge_call),
        Peer(f"{whole}, default", lambda _: GradMatch()(rows, k, generator=at), judge_call),
    ]
    left_out = []
    if 8 * len(rows) * target.numel() <= DENSE_LIMIT:
        x, t = rows.dense().numpy(), target.flatten().numpy()
        listed[:0] = [
            Peer("sklearn, own Gram", lambda _: _sklearn(x @ x.T, x @ t, k, copy=True), judge_sklearn, base=whole),
            Peer(
                "sklearn, own Gram, overwriting", lambda _: _sklearn((x @ x.T).T, x @ t, k), judge_sklearn, base=whole
            ),
        ]
    else:
        left_out.append(f"sklearn, own Gram: dense rows would hold more than {DENSE_LIMIT / 1e9:.0f} GB")
    if k <= NNLS_UP_TO:
        listed.append(_nnls(rows, target, solve(exact.copy(), True)))
    else:
        left_out.append(f"scipy nnls on our support: k is above {NNLS_UP_TO}")
    return listed, left_out


def _sklearn(gram: np.ndarray, correlation: np.ndarray, k: int, copy: bool = False) -> tuple[np.ndarray, str]:
    """Weights (n,) and why it stopped. `copy`, its default, keeps the Gram matrix; else it overwrites one in column
    order."""
    from sklearn.linear_model import orthogonal_mp_gram

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = orthogonal_mp_gram(gram, correlation, n_nonzero_coefs=k, copy_Gram=copy)
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
        run = functools.partial(locate_with_submodlib, similarity)
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
    """Picks in order; the package recompiles its loop in each fit, and that is part of the call."""
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
    """One of n, k, C, D at a time; k is n / 4 while n varies. Each point and solver runs in its own process."""
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
    """Memory of whole selections from 50,000 images, each in its own process."""
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
    with preserve_random_state(Stream(seed=0, purpose="model")):
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
    """Return the package's estimate of the memory of such a selection, in bytes; None where it has none."""
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
    shares = apportion(round(0.1 * shape["n"]), sizes)
    _imagenet_class(name, 0, sizes[0], shares[0], shape)  # libraries and threads start
    found, facts = measured(lambda: [_imagenet_class(name, c, sizes[c], shares[c], shape) for c in range(solved)])
    totals = {key: sum(one[key] for one in found) for key in ("generating", "solving", "picked")}
    means = {key: statistics.fmean(one[key] for one in found) for key in ("error", "error_random")}
    held = 2 * sizes[0] * (shape["classes"] + shape["features"])  # one class's rows, float16
    bound = 1.5 * (held + sizes[0] ** 2 * 4 + shares[0] * sizes[0] * 4) + 100e6
    return facts | totals | means | {"bound": bound}


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
    """Seconds of rows and solve compared with those of the attack, whose cost does not depend on training.

    So the network is untrained.
    """
    from advcore.gradients.base import MeasurementSettings
    from advcore.gradients.last_layer import last_layer_rows

    n, blocks, budgets = (32, (8,), (0.5,)) if options.quick else (2000, (20, 128), (0.1, 0.3, 0.5))
    images, labels, kind = cifar_images(n)
    source, attack, ledger = Resident(images, labels), LinfPGD(eps=8 / 255, steps=10), CostLedger()
    with preserve_random_state(Stream(seed=0, purpose="model")):
        net = ResNet18().build(10, source.shape)
    print(f"attack-share: attack of {n} images", flush=True)
    how = {"objective": Pgd(), "attack": attack}
    rows = last_layer_rows(
        net, source, MeasurementSettings(**how, stream=Stream(seed=0, purpose="selection"), ledger=ledger)
    ).rows
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


# The command

PARTS = {
    "peers": peers,
    "growth": growth,
    "cifar-shape": cifar_shape,
    "imagenet-shape": imagenet_shape,
    "attack-share": attack_share,
}


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    set_threads(options.threads)
    for part in options.parts or ["peers", "growth"]:
        start = time.perf_counter()
        settings, results = PARTS[part](options)
        settings = {"quick": options.quick, **settings, "seconds": time.perf_counter() - start}
        facts = {"part": part, "environment": environment(options.threads), "settings": settings, "results": results}
        write_json(options.out / f"{part}.json", facts)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default peers and growth")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, help="turns of a median; 3, or 1 with --quick")
    parser.add_argument("--classes", type=int, help="of imagenet-shape: solve only the first N classes, for a trial")
    parser.add_argument("--quick", action="store_true", help="small sizes, synthetic rows only")
    parser.add_argument("--out", type=Path, default=RECORDS / "solvers", help="folder of the records")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"PART must be of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    main()
