"""Who does a suite's runs: threads of this machine, each with a process at a time, or the tasks of a Ray cluster.

An engine is called with the runs, the suite's folder, when to stop (`time.monotonic()`), and who is told of starts and
ends, and by local ones of lines; it ends early by raising what stopped it, once no run is left alive.
"""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from advcore import device, signals
from advcore.errors import missing_package, one_of, require
from advcore.files import write_bytes
from advcore.runner.attempt import Outcome, Watcher, Work, attempt, event_or_time, limited, tidy
from advcore.runner.config import from_dict, resolved
from advcore.runner.suite import Run
from advcore.threads import share_of_threads

_POLL = 0.1  # seconds
ENGINES = ("local", "ray")


def engine(name: str, jobs: int, work: Work = attempt) -> Callable[..., None]:
    """The engine of that name. Raises ConfigError for another, and where Ray is not installed."""
    require(one_of("--engine", name, ENGINES))
    return partial(local, jobs=jobs, work=work) if name == "local" else partial(on_ray, ray=_ray(), jobs=jobs)


def local(
    runs: list[Run],
    folder: Path,
    until: float,
    watcher: Watcher,
    *,
    jobs: int,
    work: Work = attempt,
) -> None:
    """`jobs` runs at a time, in their order. All of the watcher is called from this thread but `on_line`."""
    told, waiting, slots, running = Event(), list(runs), list(range(jobs)), {}
    stop, gpus = event_or_time(told, until), device.gpus() if jobs > 1 else 0
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while running or waiting and not stop():
                while waiting and slots and not stop():
                    run, slot = waiting.pop(0), slots.pop(0)
                    own = limited(jobs) | (device.only(slot % gpus) if gpus > 1 else {})
                    watcher.on_start(run)
                    how = {"stop": stop, "on_line": partial(watcher.on_line, run), "environment": own}
                    running[pool.submit(work, run, folder, **how)] = run, slot
                for future in wait(running, _POLL, FIRST_COMPLETED).done:
                    run, slot = running.pop(future)
                    slots.append(slot)
                    watcher.on_end(run, future.result())
                signals.check()
        except BaseException:
            told.set()
            raise


def _ray() -> Any:
    try:
        import ray
    except (ImportError, RuntimeError) as error:
        raise missing_package("ray", "--engine ray", "cluster", error) from None
    return ray


def on_ray(
    runs: list[Run],
    folder: Path,
    until: float,
    watcher: Watcher,
    *,
    ray: Any,
    jobs: int,
) -> None:
    """A task a run, each with a GPU where the cluster has one, else with this machine's threads over `jobs`. States
    and weights stay in the suite's folder, as the worker sees that path: a stopped run goes on where machines share
    it."""
    ray.init(ignore_reinit_error=True)
    share = {"num_gpus": 1} if ray.cluster_resources().get("GPU", 0) else {"num_cpus": share_of_threads(jobs)}
    task = ray.remote(max_retries=0, **share)(_task)
    running: dict[Any, Run] = {}
    due = time.time() + until - time.monotonic()  # other machines share the wall clock
    try:
        for run in runs:
            running[task.remote(run.method, run.seed, resolved(run.config), str(folder.resolve()), due)] = run
            watcher.on_start(run)
        while running:
            done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL)
            for one in done:
                run = running.pop(one)
                watcher.on_end(run, _taken(ray, one, run, folder))
            signals.check()
    except BaseException:
        for one in running:
            ray.cancel(one)
        with contextlib.suppress(Exception):
            ray.wait(list(running), num_returns=len(running), timeout=60)
        raise


def _task(method: str, seed: int, settings: dict, folder: str, due: float) -> tuple[dict, bytes]:
    """On a worker: the outcome, and the record where there is one. A task that begins too late is stopped at once."""
    seconds = due - time.time()
    if seconds <= 0:
        return {"kind": "stopped"}, b""
    run, until = Run(method, seed, from_dict(settings)), time.monotonic() + seconds
    found = attempt(run, Path(folder), stop=event_or_time(Event(), until))
    if found.kind != "done":
        return vars(found), b""
    tidy(run, Path(folder))
    return vars(found), (Path(folder) / "runs" / run.slug / "record.json").read_bytes()


def _taken(ray: Any, reference: Any, run: Run, folder: Path) -> Outcome:
    """What a task gave; the record comes along, so that no folder has to be shared."""
    try:
        found, record = ray.get(reference)
    except Exception as error:  # a worker that died, or a task that could not be sent
        return Outcome("failed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", 3)
    if record:
        write_bytes(folder / "runs" / run.slug / "record.json", record)
    return Outcome(**found)
