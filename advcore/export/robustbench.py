"""Writes the files that submit a model to RobustBench: the leaderboard entry, and the text of the issue.

Nothing is claimed that was not measured as the leaderboard measures: by the standard version of AutoAttack, in the ball
of the leaderboard, on all images of the test set itself, of a model whose forward pass does not change.

Reference: RobustBench 1.1, commit 78fcc9e (March 2025): README.md, "Adding a new model"; the issue template "New
Model(s)"; robustbench/eval.py.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from advcore.config.load import from_dict, resolve
from advcore.errors import ConfigError, check, must, refuse_as_setting, require
from advcore.files import load_tensors, read_sealed, write_bytes
from advcore.pixels import format_pixels
from advcore.reporting.card import find_norm, is_measured
from advcore.reporting.record import JsonObject, RunRecord
from advcore.reporting.tables import name_contents
from advcore.run.weights import find_checkpoint
from advcore.types import Flag

EVALUATION = "advcore-evaluation-1"
FOLDER = "robustbench"
# The leaderboards, and the radius of each.
_RADII = {
    ("cifar10", "Linf"): 8 / 255,
    ("cifar10", "L2"): 0.5,
    ("cifar100", "Linf"): 8 / 255,
    ("imagenet", "Linf"): 4 / 255,
}
# How many images the test sets have that torchvision knows by their hash. Which of ImageNet count, RobustBench lists.
_IMAGES = {"cifar10": 10_000, "cifar100": 10_000}
# The flags of models that RobustBench does not take: random, or optimised while they predict.
_BARRED = ("randomised", "dynamic", "batch-dependent")


@dataclass(frozen=True)
class Board:
    """A leaderboard: of a data set, by RobustBench's name, in the balls of a norm, "Linf" or "L2"."""

    dataset: str
    norm: str

    @property
    def eps(self) -> float:
        """The radius of the ball."""
        return _RADII[self.dataset, self.norm]

    def find_entry(self, results: JsonObject) -> JsonObject | None:
        """Return what AutoAttack's standard version left right in this ball; None if it did not run there."""
        for entry in results.get("attacks", ()):
            is_standard = entry["name"] == "autoattack" and entry["version"] == "standard"
            if is_standard and entry["norm"] == self.norm.lower() and math.isclose(entry["eps"], self.eps):
                return entry
        return None

    def list_faults(self, config: JsonObject, results: JsonObject) -> Iterator[str]:
        """Give the reasons why `results`, of an evaluation with these settings, cannot be claimed."""
        attack = f"AutoAttack standard, {self.norm} {format_pixels(self.eps)}"
        entry = self.find_entry(results) or {"n": 0}
        data = config["data"]["name"]
        if self.dataset not in _IMAGES:
            yield f"RobustBench alone reads the images of {self.dataset} that count: `benchmark(load(), ...)`"
            return
        if entry["n"] != _IMAGES[self.dataset]:
            counts = f"{entry['n']:,} of {_IMAGES[self.dataset]:,} images"
            yield f"not evaluated on the full test set: {counts} by {attack}"
        if data != self.dataset:
            yield f"evaluated on copies of {self.dataset} (data.name: {data}), not on the files that torchvision reads"
        if not config.get("evaluation", {}).get("checks", True):
            yield "evaluated without the checks that detect a random forward pass (evaluation.checks: false)"
        yield from (f"flagged {flag}" for flag in results.get("flags", ()) if Flag.read(flag).kind in _BARRED)

    def list_overrides(self, data: JsonObject) -> list[str]:
        """Return the settings with which `advcore evaluate` measures what can be claimed; none where it cannot.

        data : the settings of the run's data.
        """
        if self.dataset not in _IMAGES:
            return []
        files = ["data.test_size=null"]
        if data["name"] != self.dataset:
            files = [f"data={{name: {self.dataset}, path: data}}"]
        attack = f"{{name: autoattack, norm: {self.norm.lower()}, eps: {format_pixels(self.eps)}}}"
        return [*files, f"evaluation.attacks=[{attack}]", "evaluation.examples=null", "evaluation.checks=true"]


@dataclass(frozen=True)
class Submission:
    """A model for a leaderboard.

    record : of its run. results : its accuracies, as a record holds them; none where none were measured.
    faults : why these cannot be claimed, one line each; empty where they can.
    """

    board: Board
    record: RunRecord
    results: JsonObject
    faults: tuple[str, ...]

    def write(self, folder: Path, repo: str | None = None) -> None:
        """Write the entry and the text of the issue below an export's folder.

        repo : where others find the export on the Hugging Face hub, as OWNER/REPO; None if they do not.
        """
        place = folder / FOLDER / "model_info" / self.board.dataset / self.board.norm
        write_bytes(place / f"{self.record.name}.json", (json.dumps(self.describe(), indent=2) + "\n").encode())
        write_bytes(folder / FOLDER / "issue.md", self.write_issue(repo).encode())

    def describe(self) -> JsonObject:
        """Return the entry, with RobustBench's names. What advcore does not know, or cannot claim, is None."""
        entry: JsonObject = {
            "link": None,
            "name": None,
            "authors": None,
            "additional_data": False,
            "number_forward_passes": 1,
            "dataset": self.board.dataset,
            "venue": None,
            "architecture": self.record.config["model"]["name"],
            "eps": format_pixels(self.board.eps),
            "clean_acc": None,
            "reported": None,
            "autoattack_acc": None,
        }
        if self.record.config["data"].get("pool"):
            entry["additional_data"] = True
        if self.record.config["model"].get("weights"):
            entry["additional_data"] = None  # what these were trained on, only their owner knows
        if self.record.plugins:
            entry["number_forward_passes"] = None
        attacked = self.board.find_entry(self.results)
        if attacked and not self.faults:
            entry["clean_acc"] = _format_percent(self.results["clean"])
            entry["autoattack_acc"] = _format_percent(attacked)
        return entry

    def write_issue(self, repo: str | None = None) -> str:
        """Return the text of the issue that submits a model, in the form of RobustBench's template."""
        entry = self.describe()
        claim = {
            "Architecture": entry["architecture"],
            "Threat Model": self.board.norm,
            "eps": entry["eps"],
            "Clean accuracy": entry["clean_acc"] or "not claimed",
            "Robust accuracy": entry["autoattack_acc"] or "not claimed",
            "Additional data": {False: "false", True: "true"}.get(entry["additional_data"]),
            "Evaluation method": "AutoAttack, standard version; log below",
            "Checkpoint and code": repo and f"https://huggingface.co/{repo}",
        }
        if self.faults:
            claim["Evaluation method"] = f"nothing is claimed: {'; '.join(self.faults)}"
        paper = _list_fields(dict.fromkeys(("Paper Title", "Paper URL", "Paper authors"), ""))
        return f"""[New Model] {self.record.name}

# Paper Information

{paper}

# Leaderboard Claim(s)

## Model 1

{_list_fields(claim)}
{self._write_log()}
# Model Zoo:

- [ ] The model is for the Model Zoo
- [ ] Its architecture is one of the Model Zoo or of `timm`; otherwise its code is linked above
- [ ] The model is released under the MIT license, or under the license at this URL:
"""

    def _write_log(self) -> str:
        """Return AutoAttack's log, part by part, and what was flagged; "" where nothing is claimed."""
        entry = self.board.find_entry(self.results)
        if self.faults or entry is None:
            return ""
        lines = [
            f"{entry['package']}, standard version including {', '.join(entry['parts'])}; seed {entry['seed']}",
            f"{entry['norm']}, eps {format_pixels(entry['eps'])}, {entry['n']:,} images",
            f"initial accuracy: {_format_percent(self.results['clean'])}%",
            *(f"robust accuracy after {part.upper()}: {100 * share:.2f}%" for part, share in entry["after"].items()),
            f"robust accuracy: {_format_percent(entry)}%",
            *(f"flag: {flag}" for flag in self.results["flags"]),
        ]
        log = "\n".join(lines)
        return f"\n```\n{log}\n```\n"


def prepare_submission(run: Path, which: str = "best", evaluation: Path | None = None) -> Submission:
    """Return a run's checkpoint, "last" or "best", as a model for the leaderboard of its data and norm.

    evaluation : a file of `advcore evaluate --out`, of the same model; None for the final accuracies in the record.
    Raises ConfigError where RobustBench has no such leaderboard, or for an evaluation of another model;
    CheckpointError for a file that is missing or damaged.
    """
    with refuse_as_setting():
        record = RunRecord.load(run / "record.json")
        _, saved = load_tensors(find_checkpoint(run, which))
        config = record.config
        results: JsonObject = {}
        if evaluation is not None:
            results = _load_evaluation(evaluation, record, saved["sha256"])
            config = results["config"]
        elif is_measured(record, which, saved["epoch"]):
            results = record.final[which]
    board = _find_board(record, config, results)
    return Submission(board, record, results, tuple(board.list_faults(config, results)))


def _load_evaluation(path: Path, record: RunRecord, sha256: str) -> JsonObject:
    results = read_sealed(path, EVALUATION)
    model = resolve(from_dict(record.config))["model"]
    is_same = results.get("sha256") == sha256 and results["config"]["model"] == model
    way_out = "write it by advcore evaluate RUN --checkpoint last or best --out FILE"
    require(check(is_same, "--evaluation", "of the exported checkpoint, as it is exported", str(path), way_out))
    return results


def _find_board(record: RunRecord, config: JsonObject, results: JsonObject) -> Board:
    """Return the leaderboard of a run: by the data of its evaluation, or the name of its files, and by its norm."""
    dataset = config["data"]["name"]
    if dataset not in _IMAGES:
        dataset = name_contents(record.config)
    norms = [find_norm(record.config["attack"] or {})]
    norms += [entry["norm"].capitalize() for entry in results.get("attacks", ()) if entry["name"] == "autoattack"]
    boards = [Board(dataset, norm) for norm in norms if norm and (dataset, norm) in _RADII]
    if not boards:
        known = ", ".join(f"{name} {norm}" for name, norm in _RADII)
        rule = f"for data and attacks of a leaderboard of RobustBench ({known})"
        raise ConfigError(must("--robustbench", rule, f"{dataset} {norms[0] or ''}".rstrip(), "export without it"))
    return next((board for board in boards if board.find_entry(results)), boards[0])


def _list_fields(fields: JsonObject) -> str:
    return "\n".join(f"- **{name}**: {value or ''}".rstrip() for name, value in fields.items())


def _format_percent(entry: JsonObject) -> str:
    return f"{100 * entry['accuracy']:.2f}"
