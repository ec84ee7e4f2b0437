"""A run's folder, or a folder of runs, to a page: what the records do not hold is looked for here."""

import base64
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import torch
import torch.nn.functional as F
from torch import Tensor

from advcore.adversary import bound, perturb
from advcore.borrow import borrow
from advcore.data.source import batches_for
from advcore.errors import AdvcoreError, CheckpointError, ConfigError, before_work, in_a_line, must
from advcore.files import has_pair, inside, read_json, write_bytes
from advcore.objectives.base import attacked
from advcore.pixels import format_pixels
from advcore.reporting.compare import Run
from advcore.reporting.page import html
from advcore.reporting.parts import Note, Shown
from advcore.reporting.record import RunRecord
from advcore.reporting.run_page import Beside, run_page
from advcore.reporting.runs_page import runs_page
from advcore.reporting.selection_parts import CHOSEN, spread
from advcore.rng import Stream
from advcore.runner import build
from advcore.runner.checkpoints import REPORT
from advcore.runner.config import RunConfig, from_dict
from advcore.runner.places import check_writable
from advcore.runner.prepare import Prepared, prepare
from advcore.runner.suite_file import BASELINES_FILE
from advcore.runner.weights import checkpoint, load_state
from advcore.types import Coreset

THUMBNAIL = 64
"""Pixels of the longer side of an image on a page; larger ones are made smaller."""


MOST_IMAGES = 64
"""Of each kind, on a page."""


def report(path: Path, out: Path | None = None, images: int = 8) -> Path:
    """Write the page of a run's folder, of a record, or of a folder of these; returns where. `images`: how many of the
    highest and of the lowest weights are shown.

    Raises ConfigError where `path` is none of these, CheckpointError for a run's record that cannot be read.
    """
    with before_work():
        file = path if path.is_file() else path / "record.json"
        target = out or (path.with_suffix(".html") if path.is_file() else path / REPORT)
        one = RunRecord.load(file) if file.is_file() else None
        several = [] if one else found(path, target.parent)
        check_writable(target, file=True)
    page = run_page(one, beside(file.parent, one, images)) if one else runs_page(path.resolve().name, several)
    write_bytes(target, html(page).encode(errors="backslashreplace"))  # half a character, in a file's name or in JSON
    return target


def found(path: Path, page: Path) -> list[Run]:
    """Every record in a folder: its own files, and those of the runs below it. page : the folder of what links them."""
    if not path.is_dir():
        raise ConfigError(must("RUN|DIR", "a run's folder, or a folder of runs or records", str(path)))
    names = dict.fromkeys([*sorted(path.glob("*.json")), *sorted(path.rglob("record.json"))])
    runs = [_run(file, path, page) for file in names if file.name != BASELINES_FILE]
    if not any(run.record for run in runs):
        what = "a run's folder (with record.json), or a folder of runs or of records (*.json)"
        told = f"; {runs[0].problem}" if runs else ""
        raise ConfigError(must("RUN|DIR", what, str(path), f"it holds no record{told}"))
    return runs


def _run(file: Path, top: Path, page: Path) -> Run:
    own = file.name == "record.json"
    where = str((file.parent if own else file.with_suffix("")).relative_to(top))
    report = file.parent / REPORT if own else file.with_suffix(".html")
    link = _link(report, page) if report.is_file() else ""
    try:
        return Run(where, RunRecord.load(file), link)
    except AdvcoreError as error:
        return Run(where, problem=str(error))


def _link(target: Path, page: Path) -> str:
    """From a page in the folder `page`; nothing where there is no way (other drives)."""
    try:
        relative = os.path.relpath(target.resolve(), page.resolve())
    except ValueError:
        return ""
    return "./" + quote(Path(relative).as_posix(), errors="surrogateescape")


def beside(folder: Path, record: RunRecord, images: int) -> Beside:
    """What lies in a run's folder beside its record; a line for what does not."""
    coresets, missing = {}, {}
    for epoch in spread([one.get("epoch") for one in record.selections], CHOSEN):  # no more than are drawn
        try:
            coresets[epoch] = _coreset(folder, epoch)
        except (AdvcoreError, OSError) as error:
            missing[epoch] = str(error)
    weights = {epoch: coreset.weights.tolist() for epoch, coreset in coresets.items()}
    galleries, notes = _galleries(folder, record, coresets, images)
    return Beside(weights=weights, no_weights=missing, galleries=galleries, about_images=notes)


def _coreset(folder: Path, epoch: int) -> Coreset:
    if type(epoch) is not int:
        raise CheckpointError(f"the record names no epoch, but {epoch!r}")
    path = folder / "coresets" / f"epoch-{epoch:03d}.npz"
    if not has_pair(path):
        raise CheckpointError("its file (coresets/epoch-NNN.npz) is not beside the record")
    inside(path.with_suffix(".json"), folder)
    return Coreset.load(inside(path, folder))


Galleries = tuple[list[tuple[str, list[Shown]]], list[Note]]


def _galleries(folder: Path, record: RunRecord, coresets: dict[int, Coreset], images: int) -> Galleries:
    def without(why: str) -> Galleries:
        return [], [Note(f"No images: {why}.", "missing")]

    if not images:
        return without("none were asked for (--images 0)")
    if not coresets:
        return without("there is no coreset whose weights could choose them")
    try:
        return _attacked_images(folder, record, coresets[max(coresets)], images)
    except (AdvcoreError, OSError, ImportError, RuntimeError, LookupError) as error:
        return without((str(error) if isinstance(error, AdvcoreError) else in_a_line(error)).rstrip("."))


def _attacked_images(folder: Path, record: RunRecord, coreset: Coreset, images: int) -> Galleries:
    """Of the highest and the lowest weights, attacked by the selection's attack with the last weights of the model."""
    weights = checkpoint(folder, "last")
    prepared = prepare(_here(from_dict(record.config)), scores=False)
    coreset.check(len(prepared.data.whole), build.whole_fingerprint(prepared.data))
    load_state(prepared.model, weights)
    after = read_json(weights.with_suffix(".json")).get("epoch")
    positions = {int(index): i for i, index in enumerate(prepared.data.part)}
    lists = picks(coreset, images)
    galleries = []
    for title, chosen in lists:
        indices = coreset.indices[chosen]
        there = torch.tensor([positions[int(index)] for index in indices])
        galleries.append((title, _shown(_looked_at(prepared, there), indices, coreset.weights[chosen])))
    return galleries, _about(prepared, coreset, after)


def _here(config: RunConfig) -> RunConfig:
    """The run's settings on whatever device there is; a page fetches no data and tells no tracker."""
    data = replace(config.data, download=False) if getattr(config.data, "download", False) else config.data
    return replace(config, device="auto", data=data, tracking=[])


def picks(coreset: Coreset, most: int) -> list[tuple[str, Tensor]]:
    """Titles, and positions in the coreset: of the highest and of the lowest weights, no example in both."""
    if bool((coreset.weights == coreset.weights[0]).all()):
        return [("Equal weights: the first of the coreset", torch.arange(min(most, len(coreset))))]
    order = torch.argsort(coreset.weights, descending=True, stable=True)
    high = min(most, (len(order) + 1) // 2)
    low = min(most, len(order) - high)
    return [("Highest weights", order[:high]), ("Lowest weights", order.flip(0)[:low])]


@dataclass(frozen=True)
class _Looked:
    """Of B examples: images, attacked images (None where nothing is attacked), labels, and classes predicted."""

    x: Tensor
    x_adv: Tensor | None
    y: Tensor
    seen: Tensor
    seen_adv: Tensor | None


def _looked_at(prepared: Prepared, positions: Tensor) -> _Looked:
    model, objective, attack = prepared.model, prepared.config.objective, _attack(prepared)
    indices, x, y = next(batches_for(model, prepared.data.train, [positions]))
    with borrow(model, training=False):
        with torch.no_grad():
            seen = model(x).argmax(1)
        if not attacked(objective):
            return _Looked(x, None, y, seen, None)
        stream = Stream(seed=prepared.config.seed, purpose="report").at(indices)
        x_adv = perturb(model, objective, bound(attack, model, lambda net: net), x, y, generator=stream)
        with torch.no_grad():
            return _Looked(x, x_adv, y, seen, model(x_adv).argmax(1))


def _attack(prepared: Prepared):
    """The selection's; one that remembers starts anew."""
    config = prepared.config
    attack = (config.selection and config.selection.attack) or config.attack
    return attack.recalling(None) if getattr(attack, "remembers", False) else attack


def _about(prepared: Prepared, coreset: Coreset, after: int | None) -> list[Note]:
    told = f"Training examples of the selection at {coreset.epoch}, numbered as they stand in the whole training set"
    if not attacked(prepared.config.objective):
        return [Note(f"{told}; this objective is not attacked.")]
    how = _attack(prepared).describe()
    steps = "" if how.get("steps") is None else f", steps: {how['steps']}"
    when = "" if after is None else f" after epoch {after + 1}"
    ball = f"{how['norm']} {format_pixels(how['eps'])}"
    return [
        Note(
            f"{told}: as they are, attacked ({ball}{steps}), and the perturbation on grey, "
            f"magnified. The attack is that of selections, on the model's last weights{when}, which are not those of "
            "the time when it was selected."
        )
    ]


def _shown(looked: _Looked, indices: Tensor, weights: Tensor) -> list[Shown]:
    found = []
    for i, (index, weight) in enumerate(zip(indices.tolist(), weights.tolist(), strict=True)):
        y, seen = int(looked.y[i]), int(looked.seen[i])
        images = [(f"example {index}", png(looked.x[i]))]
        lines = [f"weight {weight:.4g}, class {y}", f"example {index}"]
        if looked.x_adv is None:
            lines.append(f"predicted {seen}")
        else:
            by = looked.x_adv[i] - looked.x[i]
            times = 0.5 / max(float(by.abs().max()), 1e-6)
            images += [("attacked", png(looked.x_adv[i])), (f"perturbation, times {times:.3g}", png(0.5 + times * by))]
            lines.append(f"predicted {seen}, attacked {int(looked.seen_adv[i])}; × {times:.3g}")
        found.append(Shown(images, lines))
    return found


def png(x: Tensor) -> str:
    """A data URI of an image (C, H, W) in [0, 1], C 1 or 3; its longer side at most `THUMBNAIL` pixels."""
    from PIL import Image

    if x.shape[0] not in (1, 3):
        raise ConfigError(must("images on a page", "of 1 or 3 channels", tuple(x.shape)))
    x = x.detach().float().cpu().clamp(0, 1)
    longer = max(x.shape[1:])
    if longer > THUMBNAIL:
        size = [max(1, round(side * THUMBNAIL / longer)) for side in x.shape[1:]]
        x = F.interpolate(x[None], size=size, mode="area")[0]
    pixels = (x * 255).round().to(torch.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
