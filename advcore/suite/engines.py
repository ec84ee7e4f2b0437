"""Engines that do a suite's runs: threads of this machine, with one process each at a time, or tasks of a Ray cluster.

An engine is called with the runs, the suite's folder, the time to stop (on the clock of `time.monotonic`) and a
Watcher; only local runs report lines. If something stops it early, it raises that once no run is active any more.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from threading import Event
from types import ModuleType

from advcore.config.load import from_dict, resolve
from advcore.errors import check_one_of, require, require_package
from advcore.files import write_bytes
from advcore.register.plugins import list_files, load_plugins
from advcore.runtime import device, signals
from advcore.runtime.threads import build_thread_environment, count_threads_per_process
from advcore.suite.process import Outcome, Watcher, Work, attempt, must_stop, remove_working_files
from advcore.suite.suite import Run

_POLL = 0.1  # seconds
ENGINES = ("local", "ray")


def choose_engine(name: str, jobs: int) -> Callable[..., None]:
    """Return the engine of that name. Raises ConfigError for an unknown name, and where Ray is not installed.

    jobs : runs at the same time; with Ray, the number of shares that a machine's threads are divided into.
    """
    require(check_one_of("--engine", name, ENGINES))
    if name == "local":
        return partial(run_locally, jobs=jobs)
    with require_package("ray", "--engine ray", "cluster"):
        import ray
    return partial(run_on_ray, ray=ray, jobs=jobs)


# ---- this machine ----


def run_locally(
    runs: list[Run],
    folder: Path,
    until: float,
    watcher: Watcher,
    *,
    jobs: int,
    work: Work = attempt,
) -> None:
    """Do `jobs` runs at a time, in their order; each has a share of the threads, and one GPU where there are several.

    Of the watcher, only `on_line` is called from other threads.
    """
    stopping = Event()
    stop = partial(must_stop, stopping, until)
    waiting = list(runs)
    gpus = device.count_gpus() if jobs > 1 else 0
    share = build_thread_environment(jobs)
    environments = [share | (device.restrict_to_gpu(job % gpus) if gpus > 1 else {}) for job in range(jobs)]
    running: dict[Future[Outcome], tuple[Run, dict[str, str]]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while running or waiting and not stop():
                while waiting and environments and not stop():
                    run, environment = waiting.pop(0), environments.pop(0)
                    watcher.on_start(run)
                    on_line = partial(watcher.on_line, run)
                    future = pool.submit(work, run, folder, stop=stop, on_line=on_line, environment=environment)
                    running[future] = run, environment
                for future in wait(running, _POLL, FIRST_COMPLETED).done:
                    run, environment = running.pop(future)
                    environments.append(environment)
                    watcher.on_end(run, future.result())
                signals.check()
        except BaseException:
            stopping.set()
            raise


# ---- a Ray cluster ----


def run_on_ray(
    runs: list[Run],
    folder: Path,
    until: float,
    watcher: Watcher,
    *,
    ray: ModuleType,
    jobs: int,
) -> None:
    """Do each run as a task of the cluster.

    A task gets one GPU where the cluster has any, else a share of a machine's threads, 1 of `jobs`. States and weights
    stay in the suite's folder, as the worker sees that path: a stopped run can continue where the machines share it.
    """
    ray.init(ignore_reinit_error=True)
    share = {"num_gpus": 1} if ray.cluster_resources().get("GPU", 0) else {"num_cpus": count_threads_per_process(jobs)}
    task = ray.remote(max_retries=0, **share)(_run_task)
    running: dict[object, Run] = {}
    deadline = time.time() + until - time.monotonic()  # other machines share the wall clock
    try:
        for run in runs:
            running[
                task.remote(run.method, run.seed, resolve(run.config), str(folder.resolve()), deadline, list_files())
            ] = run
            watcher.on_start(run)
        while running:
            done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL)
            for reference in done:
                run = running.pop(reference)
                watcher.on_end(run, _collect(ray, reference, run, folder))
            signals.check()
    except BaseException:
        for reference in running:
            ray.cancel(reference)
        with contextlib.suppress(Exception):
            ray.wait(list(running), num_returns=len(running), timeout=60)
        raise


def _run_task(
    method: str, seed: int, settings: dict, folder: str, deadline: float, plugins: Sequence[str]
) -> tuple[dict, bytes]:
    """Do a run on a worker, and return the outcome's fields and the record (no bytes where there is none).

    deadline : on the wall clock. A task that begins after it ends at once, as stopped.
    plugins : files, under the same path on the worker.
    """
    load_plugins(plugins)
    seconds = deadline - time.time()
    if seconds <= 0:
        return {"kind": "stopped"}, b""
    run = Run(method, seed, from_dict(settings))
    outcome = attempt(run, Path(folder), stop=partial(must_stop, Event(), time.monotonic() + seconds))
    if outcome.kind != "done":
        return vars(outcome), b""
    remove_working_files(run, Path(folder))
    return vars(outcome), run.locate_files(Path(folder)).begun_record.read_bytes()


def _collect(ray: ModuleType, reference: object, run: Run, folder: Path) -> Outcome:
    """Return a task's outcome, and write the record that came with it, so that no folder has to be shared."""
    try:
        fields, record = ray.get(reference)
    except Exception as error:  # a worker that died, or a task that could not be sent
        return Outcome("failed", f"{type(error).__name__}: {''.join(str(error).splitlines()[:1])}", 3)
    if record:
        write_bytes(run.locate_files(folder).begun_record, record)
    return Outcome(**fields)
