"""Exports a run's model and coresets as files that need no advcore: safetensors, JSON, a model card and a loader."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from advcore.config.load import from_dict
from advcore.config.schema import RunConfig
from advcore.data.source import Source
from advcore.data.split import subsample
from advcore.errors import ConfigError, must, refuse_as_setting
from advcore.export import loader_template
from advcore.export.folder import SCHEMA, check_free, replace_on_success
from advcore.files import check_inside, load_tensors, write_bytes, write_sealed
from advcore.kinds import accept_arguments
from advcore.models.base import Normalize
from advcore.register.plugins import check_plugins, find_source
from advcore.reporting.card import can_write_metadata, is_measured, write_card
from advcore.reporting.record import RunRecord
from advcore.rng import Stream, preserve_random_state
from advcore.run.weights import find_checkpoint, load_state
from advcore.runtime.borrow import borrow
from advcore.runtime.device import force_float32
from advcore.selection.result import Coreset
from advcore.version import __version__

FORMATS = ("all", "model", "coresets")
_NUM_NOISE = 4  # random images
NamedCoresets = list[tuple[str, Coreset]]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Exported:
    """The result of an export: its folder, and notes for the user."""

    folder: Path
    notes: tuple[str, ...] = ()


@accept_arguments
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
    """Write a run's checkpoint and coresets to the folder `out`, completely or not at all.

    Parameters
    ----------
    run : the run's folder; if the run is unfinished, the card says so.
    out : a new folder; None: `exports/RUN-CHECKPOINT`. With `overwrite`, an earlier export there is replaced.
    checkpoint : "last" or "best".
    kind : one of FORMATS. parquet : whether to write the coresets as parquet, too.
    samples : number of test images to include, so that their accuracy can be recomputed; with 0, no data is exported.

    Raises ConfigError, CheckpointError, and OSError, with `out`, for what cannot be written. Cost: one or two forward
    passes; reads the data for samples, and where the record does not have its shape.
    """
    with refuse_as_setting():
        record = RunRecord.load(run / "record.json")
        check_plugins(record.plugins, same_content=False)
        out = out or Path("exports") / f"{run.resolve().name}-{checkpoint}"
        check_free(out, overwrite)
        coresets = [] if kind == "model" else _load_coresets(run)
    if kind == "coresets" and not coresets:
        raise ConfigError(must("RUN", "one with coresets for --format coresets", str(run), "it selected none"))
    with replace_on_success(out) as folder:
        if coresets:
            _write_coresets(folder / "coresets", coresets, parquet)
        if kind != "coresets":
            _write_model(folder, run, record, which=checkpoint, samples=samples, num_coresets=len(coresets))
    return Exported(out, _list_notes(record, kind, coresets))


def _list_notes(record: RunRecord, kind: str, coresets: NamedCoresets) -> tuple[str, ...]:
    unfinished = "the run is not finished: the card reports no test accuracy"
    no_coresets = "the run has no coresets: none were selected"
    notes = {unfinished: kind != "coresets" and not record.finished, no_coresets: kind == "all" and not coresets}
    no_metadata = 'README.md has no metadata for a model hub: that needs pip install "advcore[hf]"'
    notes[no_metadata] = kind != "coresets" and not can_write_metadata()
    for entry in record.plugins:
        name = Path(entry["path"]).name
        notes[f"{name} is not exported: model.py needs it if it defines the network"] = kind != "coresets"
    return tuple(note for note, applies in notes.items() if applies)


def _load_coresets(run: Path) -> NamedCoresets:
    """Return (name, coreset) for each coreset of the run, checked against its hash."""
    folder = run / "coresets"
    names = {file.stem for file in folder.glob("[!.]*") if file.suffix in (".npz", ".json")}
    return [(name, Coreset.load(check_inside(folder / f"{name}.npz", run))) for name in sorted(names)]


def _write_coresets(folder: Path, coresets: NamedCoresets, parquet: bool) -> None:
    """Write each coreset as npz with a JSON, as parquet where that is asked for, and an index of all of them."""
    index = []
    for name, coreset in coresets:
        coreset.save(folder / name)
        if parquet:
            write_bytes(folder / f"{name}.parquet", _encode_parquet(coreset))
        facts = {"epoch": coreset.epoch, "solver": coreset.solver, "examples": len(coreset), "seed": coreset.seed}
        index.append({"file": f"{name}.npz", **facts})
    _, first = coresets[0]
    data = {"num_examples": first.num_examples, "fingerprint": first.fingerprint}
    write_sealed(folder / "index.json", {"advcore": __version__, "data": data, "coresets": index}, SCHEMA)


def _encode_parquet(coreset: Coreset) -> bytes:
    """Return a parquet file: per example an index, a weight, and a block if it has any; the fingerprint as metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"index": coreset.indices.numpy(), "weight": coreset.weights.numpy()}
    if coreset.blocks is not None:
        columns["block"] = coreset.blocks.numpy()
    facts = {name: str(getattr(coreset, name)) for name in ("fingerprint", "num_examples", "epoch", "solver", "seed")}
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns).replace_schema_metadata(facts), buffer)
    return buffer.getvalue()


def _write_model(folder: Path, run: Path, record: RunRecord, *, which: str, samples: int, num_coresets: int) -> None:
    from safetensors.torch import save

    config = from_dict(record.config)
    path = find_checkpoint(run, which)
    shape, num_classes, test = _describe_data(record, config, samples)
    state, saved = load_tensors(path)
    net = build_network(config, num_classes, shape)
    load_state(net, path)
    checks = _compute_checks(net, shape, test, samples=samples, seed=config.seed)
    title = f"{record.name}: {record.config['model']['name']}, trained by advcore {__version__}."
    plugin = find_source(config.model)
    module = loader_template.write_source(
        config.model, title=title, num_classes=num_classes, shape=shape, plugin=plugin
    )
    facts = {
        "shape": list(shape),
        "num_classes": num_classes,
        "samples": len(checks.get("samples", {}).get("y", ())),
        "needs": list(config.model.needs),
        "coresets": num_coresets,
        "standalone": module is not None,
    }
    write_bytes(folder / "model.safetensors", save(state, {"format": "pt"}))
    for name, tensors in checks.items():
        write_bytes(folder / f"check-{name}.safetensors", save(tensors))
    if module is not None:
        write_bytes(folder / "model.py", module.encode())
    write_sealed(folder / "config.json", _describe_model(record, config, which, saved=saved, facts=facts), SCHEMA)
    write_bytes(folder / "README.md", write_card(record, which, saved["epoch"], facts).encode())


def _describe_data(record: RunRecord, config: RunConfig, samples: int) -> tuple[Shape, int, Source | None]:
    """Return the shape of the images, the number of classes, and, if samples are wanted, the test set."""
    known = record.data
    if samples == 0 and {"shape", "class_counts"} <= known.keys():
        return tuple(known["shape"]), len(known["class_counts"]), None
    loaded = config.data.load(torch.device("cpu"))
    return loaded.train.shape, loaded.num_classes, loaded.test


def build_network(config: RunConfig, num_classes: int, shape: Shape) -> nn.Module:
    """Return the run's network in eval mode, with random weights that a state dict is to replace.

    The normalisation is one of 0 and 1, since the state dict brings the statistics of the data.
    """
    with preserve_random_state(Stream(seed=config.seed, purpose="init")):
        net = config.model.build(num_classes, shape)
    if config.model.normalize == "data":
        ones = torch.ones(shape[0])
        net = nn.Sequential(Normalize(0 * ones, ones), net)
    return net.eval()


def _compute_checks(
    net: nn.Module, shape: Shape, test: Source | None, *, samples: int, seed: int
) -> dict[str, dict[str, Tensor]]:
    """Compute the logits that the loader compares with its own.

    They are those of noise, which is not private, and of `samples` stratified test images, or all if there are fewer.
    """
    with preserve_random_state(), borrow(net), torch.no_grad(), force_float32():
        noise = Stream(seed=0, purpose="export").at(torch.arange(_NUM_NOISE)).uniform((_NUM_NOISE, *shape))
        logits = net(noise)
        if not isinstance(logits, Tensor):
            raise ConfigError(must("model.name", "a network that returns logits alone", type(logits).__name__))
        checks = {"noise": {"x": noise, "logits": logits.contiguous()}}
        if samples and test is not None:
            indices = subsample(test.labels(), min(samples, len(test)), seed, "export")
            batches = [(x, y, net(x)) for _, x, y in test.batches(indices.split(loader_template.BATCH))]
            parts = map(torch.cat, zip(*batches, strict=True))
            checks["samples"] = dict(zip(("x", "y", "logits"), parts, strict=True))
    return checks


def _describe_model(
    record: RunRecord, config: RunConfig, which: str, *, saved: Mapping, facts: Mapping
) -> dict[str, object]:
    parts = config.model.parts
    arguments = config.model.list_arguments(facts["num_classes"], tuple(facts["shape"]))
    return {
        "advcore": __version__,
        "name": record.name,
        "architecture": record.config["model"]["name"],
        "network": {
            "builder": parts[-1].__name__ if parts else None,
            "arguments": arguments if facts["standalone"] else None,
            "normalize": config.model.normalize == "data",
            "needs": facts["needs"],
        },
        "shape": facts["shape"],
        "num_classes": facts["num_classes"],
        "input": "float32 images (B, C, H, W) in [0, 1]",
        "output": "logits (B, num_classes)",
        "checkpoint": {"which": which, "epoch": saved["epoch"], "sha256": saved["sha256"]},
        "finished": record.finished,
        "threat_model": strip_folders(record.config["attack"]),
        "accuracies": record.final[which] if is_measured(record, which, saved["epoch"]) else None,
        "relative_cost": record.relative_cost,
        "environment": record.environment,
        "run": strip_folders({key: value for key, value in record.config.items() if key != "tracking"}),
    }


def strip_folders(value: object) -> object:
    """Return settings with only the last part of each path: the folders of this machine are private."""
    if isinstance(value, dict):
        return {key: strip_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [strip_folders(entry) for entry in value]
    if not isinstance(value, str) or "://" in value or value.startswith("hub:") or not {"/", "\\"} & {*value}:
        return value
    return Path(value.replace("\\", "/")).name
