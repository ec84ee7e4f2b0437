"""Write the page of a run or of several: gather what the records do not hold, such as weights and images."""

import os
from dataclasses import replace
from pathlib import Path
from typing import cast
from urllib.parse import quote

import torch
from torch import Tensor

from advcore.adversary import bind_attack, perturb
from advcore.attacks.base import Attack
from advcore.config.load import RunConfig, from_dict
from advcore.data.base import Data
from advcore.data.contract import read_batches
from advcore.data.pool import Pooled
from advcore.errors import (
    AdvcoreError,
    CheckpointError,
    ConfigError,
    check,
    describe_exception,
    must,
    refuse_as_setting,
    require,
)
from advcore.export.thumbnails import colour_change, encode_png
from advcore.files import check_inside, has_pair, read_json, write_bytes
from advcore.objectives.base import is_attacked
from advcore.pixels import format_pixels
from advcore.register.plugins import check_plugins
from advcore.reporting import parts, run_page, runs_page, selection_parts
from advcore.reporting.compare import BrokenRun, Run
from advcore.reporting.page import render
from advcore.reporting.record import RunRecord
from advcore.rng import Stream
from advcore.run import build, checkpoints, places
from advcore.run.prepare import Prepared, prepare
from advcore.run.weights import find_checkpoint, load_state
from advcore.runtime.borrow import borrow
from advcore.runtime.precision import run_model
from advcore.selection.result import Coreset
from advcore.suite.layout import BASELINES_FILE

MOST_IMAGES = 64  # of each kind, on a page
Galleries = tuple[list[tuple[str, list[parts.Example]]], list[parts.Note]]  # titles with images, and notes about them


def report(path: Path, out: Path | None = None, images: int = 8) -> Path:
    """Write the page of a run's folder, of a record, or of a folder of these; return the file that was written.

    out : that file; by default report.html in the folder, or a file next to the record. images : how many images of the
    highest and of the lowest weights are shown.

    Raises ConfigError where `path` is none of these, CheckpointError for a run's record that cannot be read.
    """
    with refuse_as_setting():
        if path.is_file():
            file, usual_target = path, path.with_suffix(".html")
        else:
            file, usual_target = path / "record.json", path / checkpoints.REPORT
        target = out or usual_target
        content = RunRecord.load(file) if file.is_file() else list_runs(path, target.parent)
        places.check_writable(target, file=True)
    if isinstance(content, RunRecord):
        page = run_page.build_run_page(content, gather_beside(file.parent, content, images))
    else:
        page = runs_page.build_runs_page(path.resolve().name, content)
    write_bytes(target, render(page).encode(errors="backslashreplace"))  # half a character, in a file's name or in JSON
    return target


def list_runs(path: Path, page: Path) -> list[Run | BrokenRun]:
    """Return every record in a folder: the JSON files in it, and those of the runs below it.

    page : the folder of the page that will link to them. Raises ConfigError for a folder without a readable record.
    """
    require(check(path.is_dir(), "RUN|DIR", "a run's folder, or a folder of runs or records", str(path)))
    names = dict.fromkeys([*sorted(path.glob("*.json")), *sorted(path.rglob("record.json"))])
    runs = [_load_run(file, path, page) for file in names if file.name != BASELINES_FILE]
    if not any(isinstance(run, Run) for run in runs):
        what = "a run's folder (with record.json), or a folder of runs or of records (*.json)"
        problem = "; ".join(["it holds no record", *(run.problem for run in runs[:1] if isinstance(run, BrokenRun))])
        raise ConfigError(must("RUN|DIR", what, str(path), problem))
    return runs


def _load_run(file: Path, top: Path, page: Path) -> Run | BrokenRun:
    """Return the run of a record's file, named by its path below `top`, with a link to its report if there is one."""
    if file.name == "record.json":
        where, report = file.parent, file.parent / checkpoints.REPORT
    else:
        where, report = file.with_suffix(""), file.with_suffix(".html")
    name = str(where.relative_to(top))
    link = _make_link(report, page) if report.is_file() else ""
    try:
        return Run(name, RunRecord.load(file), link)
    except AdvcoreError as error:
        return BrokenRun(name, str(error))


def _make_link(target: Path, page: Path) -> str:
    """Return a relative link from a page in the folder `page`; "" where there is none, as to another drive."""
    try:
        relative = os.path.relpath(target.resolve(), page.resolve())
    except ValueError:
        return ""
    return "./" + quote(Path(relative).as_posix(), errors="surrogateescape")


def gather_beside(folder: Path, record: RunRecord, images: int) -> run_page.RunFiles:
    """Return weights and images from a run's folder, and a line about each of them that is missing."""
    coresets: dict[int, Coreset] = {}
    missing: dict[int, str] = {}
    epochs = cast("list[int]", [selection.get("epoch") for selection in record.selections])  # others are refused below
    for epoch in selection_parts.pick_evenly(epochs, selection_parts.MOST_HISTOGRAMS):  # no more than are drawn
        try:
            coresets[epoch] = _load_coreset(folder, epoch)
        except (AdvcoreError, OSError) as error:
            missing[epoch] = str(error)
    weights = {epoch: coreset.weights.tolist() for epoch, coreset in coresets.items()}
    galleries, notes = _make_galleries(folder, record, coresets, images)
    return run_page.RunFiles(weights=weights, no_weights=missing, galleries=galleries, about_images=notes)


def _load_coreset(folder: Path, epoch: object) -> Coreset:
    if type(epoch) is not int:
        raise CheckpointError(f"the record names no epoch, but {epoch!r}")
    path = folder / "coresets" / f"epoch-{epoch:03d}.npz"
    if not has_pair(path):
        raise CheckpointError("its file (coresets/epoch-NNN.npz) is not next to the record")
    check_inside(path.with_suffix(".json"), folder)
    return Coreset.load(check_inside(path, folder))


def _make_galleries(folder: Path, record: RunRecord, coresets: dict[int, Coreset], images: int) -> Galleries:
    if not images:
        return _explain_no_images("none were asked for (--images 0)")
    if not coresets:
        return _explain_no_images("there is no coreset whose weights could choose them")
    try:
        return _fill_galleries(folder, record, coresets[max(coresets)], images)
    except AdvcoreError as error:
        return _explain_no_images(str(error).rstrip("."))
    except (OSError, ImportError, RuntimeError, LookupError) as error:
        return _explain_no_images(describe_exception(error).rstrip("."))


def _explain_no_images(reason: str) -> Galleries:
    return [], [parts.Note(f"No images: {reason}.", "missing")]


def _fill_galleries(folder: Path, record: RunRecord, coreset: Coreset, images: int) -> Galleries:
    """Return the images of the highest and the lowest weights, as they are and attacked.

    They are attacked by the selection's attack, with the last weights of the model.
    """
    weights = find_checkpoint(folder, "last")
    check_plugins(record.plugins, same_content=False)
    prepared = prepare(_adapt_to_machine(from_dict(record.config)), scores=False, initial=False)
    positions = _find_positions(prepared.data, coreset)
    load_state(prepared.model, weights)
    facts = cast("dict[str, int | None]", read_json(weights.with_suffix(".json")))
    galleries = []
    for title, members in choose_by_weight(coreset, images):
        chosen = torch.tensor([positions[int(index)] for index in coreset.indices[members]])
        galleries.append((title, _show_examples(prepared, chosen, coreset.weights[members])))
    return galleries, _describe_images(prepared, coreset, facts.get("epoch"))


def _find_positions(data: Data, coreset: Coreset) -> dict[int, int]:
    """Return the position of each index of the coreset in the training data. Raises DataError for other data."""
    train = data.train
    if isinstance(train, Pooled):
        coreset.check(len(train.pool), train.pool.fingerprint())
        return {index: len(train) + index for index in coreset.indices.tolist()}
    coreset.check(len(data.whole), build.compute_fingerprint(data))
    return {int(index): i for i, index in enumerate(data.part)}


def _adapt_to_machine(config: RunConfig) -> RunConfig:
    """Return the run's settings for any device, without downloads and without trackers."""
    data = config.data
    if getattr(data, "download", False):
        changes: dict = {"download": False}  # a setting of some data sets
        data = replace(data, **changes)
    return replace(config, device="auto", data=data, tracking=[])


def choose_by_weight(coreset: Coreset, most: int) -> list[tuple[str, Tensor]]:
    """Return the positions in the coreset of the highest and of the lowest weights, each with a title.

    At most `most` of each, and no example is in both.
    """
    if bool((coreset.weights == coreset.weights[0]).all()):
        return [("Equal weights: the first of the coreset", torch.arange(min(most, len(coreset))))]
    order = torch.argsort(coreset.weights, descending=True, stable=True)
    high = min(most, (len(order) + 1) // 2)
    low = min(most, len(order) - high)
    return [("Highest weights", order[:high]), ("Lowest weights", order.flip(0)[:low])]


def _attack_examples(prepared: Prepared, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (B, C, H, W), their labels (B,), and the attacked images, or the same where nothing is attacked."""
    model = prepared.model
    objective = prepared.config.objective
    indices, x, y = next(read_batches(model, prepared.data.train, [positions]))
    if not is_attacked(objective):
        return x, y, x
    with borrow(model, training=False):
        attack = bind_attack(_choose_attack(prepared), model, lambda network: network)  # its passes are not counted
        stream = Stream(seed=prepared.config.seed, purpose="report").at(indices)
        return x, y, perturb(model, objective, attack, x, y, generator=stream)


def _choose_attack(prepared: Prepared) -> Attack:
    """Return the attack of selections, of a run whose objective is attacked."""
    attack = (prepared.trainer.selector or prepared.trainer).attack
    assert attack is not None, "an objective that is attacked has an attack"
    # one that remembers perturbations starts without any
    return attack.with_memory(None) if getattr(attack, "remembers", False) else attack


def _describe_images(prepared: Prepared, coreset: Coreset, epoch: int | None) -> list[parts.Note]:
    """Return the note about the images; `epoch`, from 0, is the one that the model's weights are from."""
    kind = "Training examples"
    place = "the whole training set"
    if isinstance(prepared.data.train, Pooled):
        kind = "Images of the pool, those"
        place = "the pool"
    text = f"{kind} of the selection at {coreset.epoch}, numbered by their position in {place}"
    if not is_attacked(prepared.config.objective):
        return [parts.Note(f"{text}; this objective is not attacked.")]
    facts = _choose_attack(prepared).describe()
    eps = cast("float", facts["eps"])
    attack = f"{facts['norm']} {format_pixels(eps)}"
    if facts.get("steps") is not None:
        attack += f", steps: {facts['steps']}"
    when = "" if epoch is None else f" after epoch {epoch + 1}"
    return [
        parts.Note(
            f"{text}: clean, attacked ({attack}), and the amplified perturbation. Of grey images, orange pixels "
            "become brighter and blue ones darker; of colour images, grey means unchanged. The attack is that of the "
            f"selection, on the model's last weights{when}, not on those at the time of the selection."
        )
    ]


def _show_examples(prepared: Prepared, positions: Tensor, weights: Tensor) -> list[parts.Example]:
    x, y, x_adv = _attack_examples(prepared, positions)
    with borrow(prepared.model, training=False), torch.no_grad():
        classes = run_model(prepared.model, x).argmax(1).tolist()
        classes_adv = run_model(prepared.model, x_adv).argmax(1).tolist()
    gallery = []
    for i, index in enumerate(prepared.data.part[positions].tolist()):
        images = [(f"clean, predicted {classes[i]}", encode_png(x[i]))]
        if x_adv is not x:
            change = x_adv[i] - x[i]
            factor = 0.5 / max(float(change.abs().max()), 1e-6)
            images += [
                (f"attacked, predicted {classes_adv[i]}", encode_png(x_adv[i])),
                (f"perturbation ×\N{NO-BREAK SPACE}{factor:.3g}", encode_png(colour_change(factor * change))),
            ]
        lines = [f"Class {int(y[i])}, weight {float(weights[i]):.4g}", f"example {index}"]
        gallery.append(parts.Example(images, lines))
    return gallery
