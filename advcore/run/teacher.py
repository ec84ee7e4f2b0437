"""Labels of a pool by a teacher: predicted once, saved next to the teacher, and read again by the runs that follow."""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advcore import distributed
from advcore.config.load import from_dict
from advcore.config.schema import RunConfig
from advcore.cost import CostLedger
from advcore.data.base import Data, expand_home
from advcore.data.checks import check_labels
from advcore.data.pool import Pooled
from advcore.data.relabelled import relabel
from advcore.data.source import Source, hash_content, hash_sample
from advcore.errors import CheckpointError, must
from advcore.files import has_pair, load_arrays, save_arrays
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.labels import predict_labels
from advcore.reporting.record import RunRecord
from advcore.run import build, weights
from advcore.types import Facts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """weights : the file of its weights. config : the settings that its network is built by. folder : where labels go.

    name : as the settings name it.
    """

    name: str
    weights: Path
    config: RunConfig
    folder: Path


def label_pool(config: RunConfig, data: Data, device: torch.device) -> tuple[Data, Facts]:
    """Return the data with the labels of `data.pool.teacher` in the pool, and what is to be recorded of that.

    That is {"data.pool.teacher": {path, sha256, labels, passes, flops}}: sha256 of the weights, labels the hash of the
    labels, and what predicting them cost, now or when it was done. Without `labels: pseudo` the data stay as they are.
    Labels are saved in a file next to the teacher's weights, under the hash of the pool, and read from it again as long
    as the weights stay the same. Raises CheckpointError for a teacher that is not there, or of another network.
    """
    pool = config.data.pool
    train = data.train
    if pool is None or pool.labels != "pseudo" or not isinstance(train, Pooled):
        return data, {}
    with build.prefix_problems("data.pool.teacher: "):
        teacher = find_teacher(str(pool.teacher), config)
        sha256 = weights.compute_weights_hash(teacher.weights)
        path = teacher.folder / f"pool-labels-{_name_pool(train.pool)}.npz"
        labels, cost = _read_or_predict(path, sha256, teacher, config, data)
        check_labels(labels, torch.arange(len(labels)), data.num_classes)
    digest = hashlib.sha256(labels.numpy().tobytes()).hexdigest()
    labelled = Pooled(train.real, relabel(train.pool, labels), train.share)
    note = f"pool: labels predicted by {teacher.name}"
    facts = {"path": teacher.name, "sha256": sha256, "labels": digest, **cost}
    return replace(data, train=labelled, notes=(*data.notes, note)), {"data.pool.teacher": facts}


def find_teacher(name: str, config: RunConfig) -> Teacher:
    """Return the teacher that a run's folder, or a file of weights, is. Raises CheckpointError.

    config : of the run that uses it, whose network bare weights belong to.
    """
    path = expand_home(name)
    if not path.exists():
        raise CheckpointError(must("it", "the folder of a run, or a file of weights", name, "there is none"))
    file = weights.find_checkpoint(path, "best") if path.is_dir() else path
    folder = file.parent
    if folder.name == "checkpoints" and (folder.parent / "record.json").exists():
        folder = folder.parent
        config = from_dict(RunRecord.load(folder / "record.json").config)
    return Teacher(name, file, config, folder)


def list_costs(inputs: Facts) -> dict[str, dict[str, int]]:
    """Return {name: {passes, flops}} of what labels cost: of the teacher's run, and of its predictions."""
    facts = inputs.get("data.pool.teacher")
    if facts is None:
        return {}
    path = expand_home(facts["path"])
    file = weights.find_checkpoint(path, "best") if path.is_dir() else path
    spent = {name: facts[name] for name in ("passes", "flops") if name in facts}
    return weights.find_pretraining(file) | {f"labels by {facts['path']}": spent}


def _name_pool(pool: Source) -> str:
    """Return a short hash of the pool's images: of all where they are held, else of some, and their number."""
    content = hash_content(pool), hash_sample(pool, torch.arange(len(pool))), len(pool)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _read_or_predict(path: Path, sha256: str, teacher: Teacher, config: RunConfig, data: Data) -> tuple[Tensor, Facts]:
    """Return the labels, and what predicting them cost."""
    if distributed.run_on_first(lambda: _is_of(path, sha256)):
        arrays, facts = load_arrays(path)
        return torch.from_numpy(arrays["labels"]), {name: facts[name] for name in ("passes", "flops") if name in facts}
    labels, cost = _predict(teacher, config, data)
    if distributed.is_first():
        try:
            save_arrays(path, {"labels": labels.numpy().astype(np.int64)}, {"teacher": sha256, **cost})
        except OSError as error:
            log.warning("labels of the pool are not saved, and will be predicted again: %s", error)
    return labels, cost


def _is_of(path: Path, sha256: str) -> bool:
    """Return whether the file holds labels by these weights; one that is damaged does not."""
    if not has_pair(path):
        return False
    try:
        return load_arrays(path)[1].get("teacher") == sha256
    except CheckpointError:
        return False


def _predict(teacher: Teacher, config: RunConfig, data: Data) -> tuple[Tensor, Facts]:
    assert isinstance(data.train, Pooled), "there is a pool"
    pool = data.train.pool
    model = build.build_model(teacher.config, data, pool.device)
    weights.load_state(model, teacher.weights)
    ledger = CostLedger()
    labels = predict_labels(model, pool, MeasurementSettings(ledger=ledger, head=teacher.config.model.head))
    distributed.merge_ledgers(ledger)
    flops = distributed.run_on_first(ledger.sum_flops)
    return labels, {"passes": len(pool)} | ({} if flops is None else {"flops": flops})
