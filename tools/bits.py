"""Hash what a set of runs produces, to show that a change of the code left every bit as it was.

    python tools/bits.py before.json         runs, and writes {name of the run: {name of the part: sha256}}
    python tools/bits.py after.json before.json         the same, and fails where a hash differs

The runs are the main job, PAT, a run that was stopped and continued, and one of two processes; a minute or two.
Hashed are final weights, coresets, verdicts on test images, and the record without times, memory, environment and seal.
Hashes depend on the processor and on torch's release: compare those of one machine.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from advcore.files import load_tensors

ROOT = Path(__file__).resolve().parents[1]
VARYING = {"seconds", "peak_memory", "environment", "load", "load_warning", "seal", "resumes", "hash_of_code"}
"""Keys of a record that may differ from run to run."""

SMALL = ("data.train_size=320", "data.test_size=100", "model.width=4", "training.epochs=6", "selection.period=2")


def advcore(*arguments: str, processes: int = 1) -> subprocess.Popen:
    """Start a command of advcore with one thread a process."""
    start = [sys.executable, "-m", "advcore"]
    if processes > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        start += ["-m", "advcore"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*start, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def run(folder: Path, experiment: str, *changes: str, processes: int = 1, resume: bool = False) -> subprocess.Popen:
    """Start a run of an experiment into `folder`."""
    options = [part for change in changes for part in ("--set", change)]
    options += ["--resume"] if resume else []
    return advcore("run", f"experiments/{experiment}.yaml", "--out", str(folder), *options, processes=processes)


def run_stopped(folder: Path) -> subprocess.Popen:
    """Run until two states are saved, stop, and start the run's continuation."""
    first = run(folder, "trades_gradmatch", *SMALL)
    while not (folder / "states" / "000002").is_dir():
        if first.poll() is not None:
            raise RuntimeError("the run ended before it could be stopped")
        time.sleep(0.01)
    first.send_signal(signal.SIGTERM)
    first.wait()
    return run(folder, "trades_gradmatch", *SMALL, resume=True)


RUNS = {
    "main job": lambda folder: run(folder, "trades_gradmatch"),
    "PAT": lambda folder: run(folder, "pat_gradmatch", *SMALL),
    "continued": run_stopped,
    "two processes": lambda folder: run(folder, "trades_gradmatch", *SMALL, processes=2),
}


def without_varying(value: object) -> object:
    """Drop from a record what may differ from run to run."""
    if isinstance(value, dict) and "event" in value:
        return {key: entry for key, entry in value.items() if key != "kind"}  # younger than the events' texts
    if isinstance(value, dict):
        return {key: without_varying(entry) for key, entry in value.items() if key not in VARYING}
    if isinstance(value, list):
        return [without_varying(entry) for entry in value]
    return value


def hash_tensors(path: Path) -> str:
    tensors = load_tensors(path)[0]
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def hash_arrays(path: Path) -> str:
    digest = hashlib.sha256()
    with np.load(path, allow_pickle=False) as arrays:
        for name in sorted(arrays.files):
            digest.update(name.encode())
            digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def hash_run(folder: Path) -> dict[str, str]:
    """Hash each part of a finished run."""
    record = json.loads((folder / "record.json").read_text())
    text = json.dumps(without_varying(record), sort_keys=True).replace(str(folder), "RUN")
    hashes = {"record": hashlib.sha256(text.encode()).hexdigest()}
    for path in sorted(folder.glob("checkpoints/*.safetensors")):
        hashes[str(path.relative_to(folder))] = hash_tensors(path)
    for path in sorted([*folder.glob("coresets/*.npz"), *folder.glob("checkpoints/*.npz")]):
        hashes[str(path.relative_to(folder))] = hash_arrays(path)
    return hashes


def main(target: Path, before: Path | None) -> int:
    hashes = {}
    for name, start in RUNS.items():
        folder = Path(tempfile.mkdtemp()) / "run"
        code = start(folder).wait()
        if code:
            raise SystemExit(f"{name}: ended with exit code {code}")
        hashes[name] = hash_run(folder)
        shutil.rmtree(folder.parent)
    target.write_text(json.dumps(hashes, indent=1) + "\n")
    if before is None:
        return 0
    expected = json.loads(before.read_text())
    differing = [
        f"{name}: {part}"
        for name in expected
        for part in expected[name].keys() | hashes[name].keys()
        if expected[name].get(part) != hashes[name].get(part)
    ]
    print("\n".join(differing) or f"all {sum(map(len, hashes.values()))} hashes are equal")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
