"""A run's model and coresets as files that others read: safetensors, JSON, a page, a loader without advcore."""

import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advcore.borrow import borrow
from advcore.data.base import thinned
from advcore.device import full_float32
from advcore.errors import CheckpointError, ConfigError, before_work, must, naming
from advcore.files import inside, load_tensors, read_json, write_bytes, write_sealed
from advcore.models.base import Normalize
from advcore.reporting.card import card, measured
from advcore.reporting.record import RunRecord
from advcore.rng import Stream, preserved
from advcore.runner import standalone
from advcore.runner.config import from_dict
from advcore.runner.places import as_setting, check_path, try_in
from advcore.runner.schema import RunConfig
from advcore.runner.weights import checkpoint, load_state
from advcore.types import Coreset
from advcore.version import __version__

SCHEMA = "advcore-export-1"
FORMATS = ("all", "model", "coresets")
_NOISE = 4  # images


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, how many coresets, and what is to be told of it."""

    folder: Path
    coresets: int
    notes: tuple[str, ...] = ()


def export(
    run: Path,
    out: Path | None = None,
    *,
    checkpoint: str = "best",
    kind: str = "all",
    parquet: bool = False,
    samples: int = 0,
    overwrite: bool = False,
) -> Exported:
    """Write a run's checkpoint and coresets to `out`, which exists whole or not at all.

    Parameters
    ----------
    run : the run's folder; the run may be unfinished, and the card says so.
    out : new; None: `exports/RUN-CHECKPOINT`. One of an earlier export goes, with `overwrite`.
    checkpoint : "last" or "best".
    kind : of FORMATS.
    parquet : coresets as parquet, too.
    samples : test images that go along, so that their accuracy can be computed anew; 0: none leaves the machine.

    Raises ConfigError, CheckpointError, and OSError, with `out`, for what cannot be written. Cost: a forward pass or
    two; the data is read for samples, and where the record does not know its shape.
    """
    with before_work():
        record = RunRecord.load(run / "record.json")
        out = out or Path("exports") / f"{run.resolve().name}-{checkpoint}"
        _check_free(out, overwrite)
        coresets = _coresets(run) if kind != "model" else []
    if kind == "coresets" and not coresets:
        raise ConfigError(must("RUN", "one with coresets for --format coresets", str(run), "it selected none"))
    with naming(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            if coresets:
                _write_coresets(made / "coresets", coresets, parquet)
            if kind != "coresets":
                _write_model(made, run, record, checkpoint, samples, len(coresets))
            made.chmod(0o755)
            _put(made, out)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    return Exported(out, len(coresets), _notes(record, kind, coresets))


def _notes(record: RunRecord, kind: str, coresets: list) -> tuple[str, ...]:
    unfinished = "the run is not finished: the card tells no accuracy on the test set"
    none = "the run has no coresets: it selected none"
    return tuple(
        note
        for note, said in (
            (unfinished, not record.finished and kind != "coresets"),
            (none, kind == "all" and not coresets),
        )
        if said
    )


def _check_free(out: Path, overwrite: bool) -> None:
    """Raise ConfigError unless `out` can be made, or is an earlier export that may go."""
    check_path(out)
    with as_setting("--out", out):
        try_in(out.parent, out.name)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (overwrite and out.is_dir() and _is_export(out)):
        way_out = "it is no export, and is left as it is" if overwrite else "pass --overwrite, or another --out"
        raise ConfigError(must("--out", "a new or empty folder", str(out), way_out))


def _is_export(folder: Path) -> bool:
    for file in (folder / "config.json", folder / "coresets" / "index.json"):
        try:
            value = read_json(file)
        except CheckpointError:
            continue
        if isinstance(value, dict) and value.get("schema") == SCHEMA:
            return True
    return False


def _put(made: Path, out: Path) -> None:
    """`made` in the place of `out`."""
    if not out.exists():
        made.rename(out)
        return
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    out.rename(old / "old")
    try:
        made.rename(out)
    except OSError:
        (old / "old").rename(out)
        old.rmdir()
        raise
    shutil.rmtree(old)


def _coresets(run: Path) -> list[tuple[str, Coreset]]:
    """Name and content of each coreset of the run, checked against its hash."""
    folder = run / "coresets"
    names = {file.stem for file in folder.glob("[!.]*") if file.suffix in (".npz", ".json")}
    return [(name, Coreset.load(inside(folder / f"{name}.npz", run))) for name in sorted(names)]


def _write_coresets(folder: Path, coresets: list[tuple[str, Coreset]], parquet: bool) -> None:
    """Each as npz with a JSON, and an index of them all."""
    for name, coreset in coresets:
        coreset.save(folder / name)
        if parquet:
            write_bytes(folder / f"{name}.parquet", _parquet(coreset))
    facts = [
        {"file": f"{name}.npz", "epoch": one.epoch, "solver": one.solver, "examples": len(one), "seed": one.seed}
        for name, one in coresets
    ]
    data = {"num_examples": coresets[0][1].num_examples, "fingerprint": coresets[0][1].fingerprint}
    write_sealed(folder / "index.json", {"advcore": __version__, "data": data, "coresets": facts}, SCHEMA)


def _parquet(coreset: Coreset) -> bytes:
    """A row an example: index, weight, and block where there are blocks; the data's fingerprint in the metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"index": coreset.indices.numpy(), "weight": coreset.weights.numpy()}
    columns |= {} if coreset.blocks is None else {"block": coreset.blocks.numpy()}
    facts = {name: str(getattr(coreset, name)) for name in ("fingerprint", "num_examples", "epoch", "solver", "seed")}
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns).replace_schema_metadata(facts), buffer)
    return buffer.getvalue()


def _write_model(made: Path, run: Path, record: RunRecord, which: str, samples: int, coresets: int) -> None:
    from safetensors.torch import save

    config, path = from_dict(record.config), checkpoint(run, which)
    shape, num_classes, test = _shape(record, config, samples)
    state, saved = load_tensors(path)
    net = blank(config, num_classes, shape)
    load_state(net, path)
    with preserved(), borrow(net), torch.no_grad(), full_float32():
        held = {"noise": _noise(net, shape)} | (
            {"samples": _sampled(net, test, samples, config.seed)} if samples else {}
        )
    facts = {"shape": list(shape), "num_classes": num_classes, "samples": len(held.get("samples", {}).get("y", ()))}
    title = f"{record.name}: {record.config['model']['name']}, trained by advcore {__version__}."
    module = standalone.source(config.model, title=title, num_classes=num_classes, shape=shape)
    facts |= {"needs": list(config.model.needs), "coresets": coresets, "standalone": module is not None}
    write_bytes(made / "model.safetensors", save(state, {"format": "pt"}))
    for name, tensors in held.items():
        write_bytes(made / f"check-{name}.safetensors", save(tensors))
    if module is not None:
        write_bytes(made / "model.py", module.encode())
    write_sealed(made / "config.json", _config(record, config, which, saved, facts), SCHEMA)
    write_bytes(made / "README.md", card(record, which, saved["epoch"], facts).encode())


def _shape(record: RunRecord, config: RunConfig, samples: int) -> tuple[tuple[int, int, int], int, Any]:
    """Shape of the images, number of classes, and, for samples, the test set."""
    known = record.data
    if samples == 0 and {"shape", "class_counts"} <= known.keys():
        return tuple(known["shape"]), len(known["class_counts"]), None
    loaded = config.data.load(torch.device("cpu"))
    return tuple(loaded.train.shape), loaded.num_classes, loaded.test


def blank(config: RunConfig, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The run's network in eval mode, for a state dict to fill: nothing is read for its normalisation."""
    with preserved(Stream(seed=config.seed, purpose="init")):
        net = config.model.body(num_classes, shape)
    ones = torch.ones(shape[0])
    return (nn.Sequential(Normalize(0 * ones, ones), net) if config.model.normalize == "data" else net).eval()


def _noise(net: nn.Module, shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """A few random images and their logits: nobody's data."""
    x = Stream(seed=0, purpose="export").at(torch.arange(_NOISE)).uniform((_NOISE, *shape))
    return {"x": x, "logits": net(x).contiguous()}


def _sampled(net: nn.Module, test: Any, count: int, seed: int) -> dict[str, Tensor]:
    """Stratified test images, their labels and logits."""
    indices = thinned(test.labels(), min(count, len(test)), seed, "export")
    parts = [(x, y, net(x)) for _, x, y in test.batches(indices.split(standalone.BATCH))]
    x, y, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return {"x": x, "y": y, "logits": logits}


def _config(record: RunRecord, config: RunConfig, which: str, saved: dict, facts: dict[str, Any]) -> dict[str, Any]:
    """What a program wants to know of the model."""
    shape, num_classes = tuple(facts["shape"]), facts["num_classes"]
    network = {
        "builder": config.model.parts[-1].__name__ if config.model.parts else None,
        "arguments": config.model.arguments(num_classes, shape) if config.model.parts else None,
        "normalize": config.model.normalize == "data",
        "needs": facts["needs"],
    }
    known = measured(record, which, saved["epoch"])
    return {
        "advcore": __version__,
        "name": record.name,
        "architecture": record.config["model"]["name"],
        "network": network,
        "shape": facts["shape"],
        "num_classes": num_classes,
        "input": "float32 images (B, C, H, W) in [0, 1]",
        "output": "logits (B, num_classes)",
        "checkpoint": {"which": which, "epoch": saved["epoch"], "sha256": saved["sha256"]},
        "finished": record.finished,
        "threat_model": without_places(record.config["attack"]),
        "accuracies": record.final[which] if known else None,
        "relative_cost": record.relative_cost,
        "environment": record.environment,
        "run": without_places({key: value for key, value in record.config.items() if key != "tracking"}),
    }


def without_places(value: Any) -> Any:
    """Settings with the last part of each path alone: where files lay on this machine is nobody's business."""
    if isinstance(value, dict):
        return {key: without_places(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_places(entry) for entry in value]
    absolute = isinstance(value, str) and ("/" in value or "\\" in value) and "://" not in value
    return Path(value.replace("\\", "/")).name if absolute else value
