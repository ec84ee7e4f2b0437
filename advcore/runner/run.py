"""run(config) -> RunRecord, written as it becomes known; and the pieces of it that the other commands use."""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import bound
from advcore.cost import CostLedger
from advcore.data.base import Data, thinned
from advcore.data.source import Resident, chunked, first_images
from advcore.device import full_float32, peak_memory
from advcore.device import name as device_name
from advcore.errors import AdvcoreError, CheckpointError, ConfigError, UnsafeFileError, must, require
from advcore.evaluation.evaluate import Evaluation, evaluate
from advcore.evaluation.suites import SUITES
from advcore.files import inside, leftovers, load_weights, save_tensors
from advcore.gradients import GRADIENTS
from advcore.models.base import Normalize
from advcore.objectives.base import attacked
from advcore.reporting.record import ELSEWHERE, RunRecord, is_among
from advcore.rng import Stream
from advcore.rows import Rows
from advcore.runner import build, checkpoints
from advcore.runner.config import from_dict, resolved
from advcore.runner.schema import RunConfig
from advcore.selection.schedule import Schedule
from advcore.selection.scores import Scores
from advcore.speed import Speed
from advcore.tracking import metrics, tracker_name
from advcore.tracking.telling import Tracking
from advcore.training.loop import Listener, State, Trained
from advcore.training.trainer import Trainer
from advcore.types import Coreset
from advcore.version import __version__

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Prepared:
    """A run that is checked and ready: everything that can fail for a wrong setting has been built."""

    config: RunConfig
    data: Data
    model: nn.Module
    trainer: Trainer
    plan: build.Plan
    scores: Rows | None = None
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reporter(Listener):
    """A listener that is also told the plan, and of the final evaluation."""

    on_plan: Callable[[build.Plan], None] = lambda plan: None
    on_final: Callable[[str], None] = lambda which: None


def prepare(config: RunConfig, *, scores: bool = True) -> Prepared:
    """Read and check the data, build model and trainer, write the plan; runs nothing. `scores`: also read the file of
    scores that the solver names; what does not select needs none.

    The trainer comes first: it needs no data, so a wrong setting is found before anything is read.
    """
    trainer = build.trainer(config)
    where = build.device(config)
    for tracker in config.tracking if distributed.first() else ():
        tracker.load()
    loaded = build.data(config, trainer, where)
    wanted = config.selection and config.selection.cost
    if wanted is not None:
        config = build.budgeted(config, trainer, loaded)
        trainer = build.trainer(config)
    net = build.model(config, loaded, where)
    own = with_networks(config, loaded, where)
    config, trainer = (config, trainer) if own is config else (own, build.trainer(own))
    for path, attack in build.attacks(config).items():
        build.under(path, lambda attack=attack: bound(attack, net, lambda network: network))
    trainer.check(net, loaded.train)
    given, inputs = build.scores(trainer, loaded) if scores else (None, {})
    inputs |= networks(config)
    inputs |= {"selection.cost": wanted} if wanted is not None else {}
    return Prepared(config, loaded, net, trainer, build.plan(config, trainer, loaded, net, wanted), given, inputs)


def with_networks(config: RunConfig, loaded: Data, where: torch.device) -> RunConfig:
    """The config with each attack that names a run's folder measuring its distance in that run's `best` model."""

    def ready(attack: Any) -> Any:
        if getattr(attack, "network", None) is None:
            return attack
        folder = Path(attack.network)
        net = build.model(from_dict(RunRecord.load(folder / "record.json").config), loaded, where)
        load_state(net, checkpoint(folder, "best"))
        return attack.by(net)

    if not _networks(config):
        return config
    return replace(
        config,
        attack=ready(config.attack),
        selection=config.selection and replace(config.selection, attack=ready(config.selection.attack)),
        evaluation=replace(config.evaluation, attacks=[ready(attack) for attack in config.evaluation.attacks]),
    )


def _networks(config: RunConfig) -> dict[str, Path]:
    """Folders of other runs in whose models attacks measure distances, by the path of their setting."""
    found = {path: getattr(attack, "network", None) for path, attack in build.attacks(config).items()}
    return {f"{path}.network": Path(folder) for path, folder in found.items() if folder}


def networks(config: RunConfig) -> dict[str, str]:
    """The sha256 of each file that such a model is read from: training depends on it. Evaluations may use another."""
    found = {path: folder for path, folder in _networks(config).items() if not path.startswith("evaluation.")}
    return {path: hashlib.sha256(checkpoint(folder, "best").read_bytes()).hexdigest() for path, folder in found.items()}


def target(
    config: RunConfig, out: Path | None, overwrite: bool, resume: bool = False, job: Sequence[str] = ()
) -> tuple[Path, bool]:
    """The folder for a run, and whether to go on there: asked for, or begun by the same `job`, which torchrun started
    again. Nothing is changed yet. Raises ConfigError rather than mix two runs."""
    path = out or Path("runs") / f"{config.name}-s{config.seed}"
    if not distributed.first():
        return path, resume
    _check_path(path)
    for name in checkpoints.FOLDERS:
        if (path / name).exists() and not (path / name).is_dir():
            raise ConfigError(must("--out", f"a folder in which {name} is one", str(path / name), "remove it"))
    for name in ("record.json", *metrics.FILES):
        if (path / name).is_dir():
            raise ConfigError(must("--out", f"a folder in which {name} is a file", str(path / name), "remove it"))
    if resume and overwrite:
        raise ConfigError(must("--resume", "without --overwrite", "both", "one goes on, the other starts again"))
    resume = resume or checkpoints.begun_by(path, job)
    begun = path.is_dir() and any((path / name).exists() for name in checkpoints.OURS)
    if resume and (path.is_dir() or not path.exists()) and (not begun or _begun(path)):
        check_writable(path)
        return path, resume
    taken = path.exists() and (not path.is_dir() or any(entry.name != checkpoints.LOCK for entry in path.iterdir()))
    if taken and not (overwrite and path.is_dir()):
        way_out = f"pass {'' if resume else '--resume or '}--overwrite, or another --out"
        raise ConfigError(must("--out", "a new or empty folder", str(path), way_out))
    check_writable(path)
    return path, resume


def _begun(path: Path) -> bool:
    """Whether there is something to go on with."""
    return (path / "record.json").is_file() or checkpoints.folder(path).is_dir()


def _before(path: Path) -> tuple[RunRecord, list[str]]:
    """The record of a run that was begun, and, where its file is missing or damaged, a line about that: the states know
    all that it takes to go on. Raises AdvcoreError where there are none."""
    try:
        return RunRecord.load(path / "record.json"), []
    except CheckpointError as error:
        _, facts, _ = checkpoints.newest(path) or (None, {}, None)
        if "config" not in facts:
            raise AdvcoreError(f"{error}, and no state tells more; start again with --overwrite") from None
        log.warning("%s; going on from the newest state", error)
        known = {"name": facts["config"]["name"], "config": facts["config"], "inputs": facts["inputs"]}
        return RunRecord(**known, environment={}, plan="", reference={}), [str(error)]


FREE = (*ELSEWHERE, "data.path", "evaluation", "cost")
"""Settings that may change when a run is gone on with: they do not change how it trains."""


def changes(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """ "a.b.c: old -> new" of two resolved configs, setting by setting."""
    found = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new, here = before.get(key), now.get(key), f"{path}.{key}" if path else key
        if isinstance(old, dict) and isinstance(new, dict) and old.get("name") == new.get("name"):
            found += changes(old, new, here)
        elif old != new:
            found.append(f"{here}: {old!r} -> {new!r}")
    return found


def changed_settings(prepared: Prepared, record: RunRecord) -> list[str]:
    """What differs from the settings that the run began with. Raises ConfigError, with all of it, where it trains."""
    changed = changes({"tracking": []} | record.config, resolved(prepared.config))
    wanted = [one.get("selection.cost") for one in (record.inputs, prepared.inputs)]
    changed += [f"selection.cost: {wanted[0]!r} -> {wanted[1]!r}"] if wanted[0] != wanted[1] else []
    longer = "; more epochs go where no selection is left: the new plan is " + prepared.trainer.schedule.describe()
    refused = [
        line + (longer if line.startswith("training.epochs:") else "")
        for line in changed
        if not is_among(line.split(":")[0], FREE)
        and not (line.startswith("training.epochs:") and _longer(prepared, record))
    ]
    if refused:
        raise ConfigError(*(f"--resume goes on with the settings of the run, got {line}" for line in refused))
    return changed


def _longer(prepared: Prepared, record: RunRecord) -> bool:
    """Whether the plan is the run's with more epochs at its end: what is done is in it, and no selection comes."""
    plan, done = prepared.trainer.schedule.plan(), [(one["lr_index"], one["action"]) for one in record.epochs]
    rest = plan[len(done) :]
    more = prepared.config.training.epochs > record.config["training"]["epochs"]
    same = [(epoch.lr_index, epoch.action) for epoch in plan[: len(done)]] == done
    return more and same and all(epoch.action in ("full", "reuse") for epoch in rest)


def resumable(prepared: Prepared, path: Path, record: RunRecord, data: list) -> tuple[dict | None, list[str]]:
    """The state to go on from (None: the beginning), and which newer ones were damaged. `data`: their `fingerprint`.

    Raises ConfigError if files or data are not those that the run began with, AdvcoreError if there must be a state and
    none is whole.
    """
    found = checkpoints.newest(path)
    if found is None and record.epochs:
        where = checkpoints.folder(path)
        raise AdvcoreError(
            f"{len(record.epochs)} epochs are done and {where} holds no state; start again with --overwrite"
        )
    state, facts, damaged = found or (None, {"data": data}, [])
    for what, before, now in (
        ("files", record.inputs, prepared.inputs),
        ("data (examples, hash)", facts.get("data"), data),
    ):
        require(None if before == now else must("--resume", f"given the {what} that the run began with, {before}", now))
    return state, damaged


def fingerprint(prepared: Prepared) -> list:
    """Of the training data: how many examples, and a hash of all labels, and of all images where they are in memory."""
    train = prepared.data.train
    found = hashlib.sha256(train.labels().numpy().tobytes())
    if isinstance(train, Resident):
        for _, x, _ in train.batches(chunked(torch.arange(len(train)), 4096)):
            found.update(x.cpu().numpy().tobytes())
    return [len(train), found.hexdigest()[:16]]


def _check_path(path: Path, option: str = "--out") -> None:
    """Raise ConfigError for what no file system takes as a path, such as a name that is too long."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise ConfigError(must(option, "a path that can be looked at", str(path), said)) from None


def check_writable(path: Path, option: str = "--out", *, file: bool = False) -> None:
    """Raise ConfigError unless `path` can be made: the nearest folder above that exists lets us write."""
    _check_path(path, option)
    if file and path.is_dir():
        raise ConfigError(must(option, "a file", str(path), "it is a folder"))
    above = path
    while not above.exists() and above != above.parent:
        above = above.parent
    if above is not path and not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(must(option, "where files can be written", str(path), f"{above} is not such a folder"))


def _clear(path: Path) -> None:
    """Remove what an earlier run left in the folder, and nothing else."""
    for name in (*checkpoints.OURS, checkpoints.REPORT):
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def run(
    prepared: Prepared,
    path: Path,
    reporter: Reporter | None = None,
    *,
    resume: bool = False,
    job: Sequence[str] = (),
) -> RunRecord:
    """As `_run`, in a folder of its own. Raises ConfigError if another run works there."""
    with contextlib.ExitStack() as held:
        with distributed.together():
            if distributed.first():
                held.enter_context(checkpoints.alone(path))
        return _run(prepared, path, reporter or Reporter(), resume, job)


def _run(prepared: Prepared, path: Path, reporter: Reporter, resume: bool, job: Sequence[str]) -> RunRecord:
    """Train, select, evaluate; `path/record.json` is brought up to date after every epoch.

    Writes `metrics.jsonl` and `metrics.csv`, a row an epoch; `checkpoints/last` and `best` (.safetensors with a JSON
    beside it, and as .npz the final evaluation's verdict on each test image), `coresets/epoch-NNN.npz`, what trackers
    keep in `tracking/`, and `states/`, from which `resume` goes on. A finished run that is resumed stays as it is. Of
    several processes, the first alone reads and writes files of the run.
    """
    config, started = prepared.config, time.perf_counter()
    where = prepared.data.train.device
    record = RunRecord(
        name=config.name,
        config=resolved(config),
        environment=environment(where) | {"speed": asdict(_speed(prepared))},
        plan=prepared.plan.text,
        reference=asdict(prepared.plan.reference),
        data=counted(prepared.data),
        inputs=prepared.inputs,
    )
    facts: dict[str, Any] = {}

    def save() -> None:
        if distributed.first():
            record.seconds = round(time.perf_counter() - started, 2)
            record.save(path / "record.json")
            metrics.write(path, _rows(record))

    def begin() -> dict[str, Any]:
        """Whether all is done, and the state to go on from."""
        nonlocal record, started
        data, state = fingerprint(prepared), None
        if resume and _begun(path):
            before, lost = _before(path)
            changed = changed_settings(prepared, before)
            if before.finished and not changed:
                record = before
                return {"done": True, "state": None}
            state, damaged = resumable(prepared, path, before, data)
            note = {"epoch": state["place"]["epoch"] if state else 0, "changed": changed, "damaged": [*lost, *damaged]}
            kept = ("epochs", "selections", "events", "ledger", "relative_cost", "best_epoch", "final", "finished")
            record = replace(record, resumes=[*before.resumes, note], **{name: getattr(before, name) for name in kept})
            started -= before.seconds
        else:
            _clear(path)
            checkpoints.begin(path, job)
        ours = [old for name in checkpoints.FOLDERS for old in leftovers(path / name)]
        files = [old for name in ("record.json", *metrics.FILES) for old in leftovers(path, name)]
        checkpoints.sweep([*files, *ours])
        facts.update(data=data, config=record.config, inputs=record.inputs)
        save()
        return {"done": False, "state": state}

    begun = distributed.by_first(begin)
    if begun["done"]:
        return record
    state = begun["state"]
    reporter.on_plan(prepared.plan)
    with contextlib.closing(_tracking(record, config, path)) as tracking:
        trained = _fitted(record, prepared, path, reporter, state, facts, tracking, save)
        _conclude(record, prepared, trained, path, reporter)
        tracking.close(metrics.final_numbers(record.final, record.relative_cost))
        tracking.report(record.events, len(record.epochs))
    record.peak_memory = peak_memory(where)
    record.finished = True
    save()
    return record


def _tracking(record: RunRecord, config: RunConfig, path: Path) -> Tracking:
    """The run's trackers, told of what was done before; only the first process has any."""
    trackers = {tracker_name(one): one for one in config.tracking} if distributed.first() else {}
    settings = {key: value for key, value in record.config.items() if key != "tracking"}
    return Tracking(trackers, path, record.name, settings)


def _rows(record: RunRecord) -> list[dict[str, Any]]:
    return metrics.rows(record.epochs, record.selections, record.reference["units"])


def _fitted(
    record: RunRecord,
    prepared: Prepared,
    path: Path,
    reporter: Reporter,
    state: dict | None,
    facts: dict[str, Any],
    tracking: Tracking,
    save: Callable[[], None],
) -> Trained:
    """The training, from `state` on; the first process writes what becomes known."""
    config, loaded = prepared.config, prepared.data

    def on_epoch(entry: dict, so_far: Trained) -> None:
        _count(record, so_far, prepared)
        save()
        tracking.tell(_rows(record))
        tracking.report(so_far.events, entry["epoch"])
        reporter.on_epoch(entry, so_far)

    def on_coreset(coreset: Coreset) -> None:
        in_training_set(coreset, loaded).save(path / "coresets" / f"epoch-{coreset.epoch:03d}")
        reporter.on_coreset(coreset)

    writer = replace(
        reporter,
        on_epoch=on_epoch,
        on_coreset=on_coreset,
        on_state=lambda name, state, entry: save_state(path, name, state, entry),
        on_checkpoint=lambda state: checkpoints.save(path, state, facts, config.checkpoint.kept),
        period=config.checkpoint.period,
    )
    others = Listener(on_checkpoint=lambda state: state(), period=config.checkpoint.period)
    trained = prepared.trainer.fit(
        prepared.model,
        loaded.train,
        loaded.validation,
        seed=config.seed,
        augment=loaded.augment,
        listener=writer if distributed.first() else others,
        scores=prepared.scores,
        resume=state,
    )
    for coreset in trained.coresets if state and distributed.first() else ():  # what a stop left half-written
        in_training_set(coreset, loaded).save(path / "coresets" / f"epoch-{coreset.epoch:03d}")
    tracking.tell(metrics.rows(trained.epochs, record.selections, record.reference["units"]))
    tracking.report(trained.events, len(trained.epochs))
    return trained


def _conclude(record: RunRecord, prepared: Prepared, trained: Trained, path: Path, reporter: Reporter) -> None:
    """Final accuracies of `last` and `best`; the ledger now holds their evaluation too."""
    best = -1 if trained.best_epoch is None else trained.best_epoch  # no validation examples: best is last
    if distributed.first():
        save_state(path, "last", trained.last, trained.epochs[-1])
        save_state(path, "best", trained.best, trained.epochs[best])
    for which, state in (("last", trained.last), ("best", trained.best)):
        if which == "best" and trained.best_epoch in (None, trained.epochs[-1]["epoch"]):
            record.final["best"] = record.final["last"]  # the same state
            break
        reporter.on_final(which)
        prepared.model.load_state_dict(state)
        verdicts = path / "checkpoints" / f"{which}-verdicts.npz"
        record.final[which] = _evaluated(prepared, trained, reporter, which, verdicts).as_dict()
    record.best_epoch = trained.best_epoch
    distributed.merge(trained.ledger)
    _count(record, trained, prepared)


def _evaluated(prepared: Prepared, trained: Trained, reporter: Reporter, which: str, verdicts: Path) -> Evaluation:
    """`final`, which goes on from the verdicts that a stopped one left; those of other settings, or damaged, go."""
    try:
        return final(prepared, trained, reporter, which, state=verdicts)
    except (CheckpointError, UnsafeFileError) as error:
        log.warning("%s; evaluating %s anew", error, which)
    if distributed.first():
        verdicts.unlink()
    return final(prepared, trained, reporter, which, state=verdicts)


def _count(record: RunRecord, trained: Trained, prepared: Prepared) -> None:
    """What was done, what fell back and what it took, so far."""
    record.epochs, record.selections = trained.epochs, [summary(coreset) for coreset in trained.coresets]
    record.events = trained.events
    record.ledger = trained.ledger.summary()
    record.relative_cost = trained.ledger.units() / prepared.plan.reference.units


def examined(prepared: Prepared) -> Tensor | None:
    """Which test examples are evaluated; None for all."""
    size, test = prepared.config.evaluation.examples, prepared.data.test
    return None if size is None else thinned(test.labels(), min(size, len(test)), prepared.config.seed, "evaluation")


def with_suite(config: RunConfig, suite: str) -> RunConfig:
    """The config with a named suite's attacks to evaluate."""
    return replace(config, evaluation=replace(config.evaluation, attacks=SUITES[suite](config.evaluation.attacks)))


def final(prepared: Prepared, trained: Trained | None, reporter: Reporter, which: str, **how: Any) -> Evaluation:
    """Accuracies on the test set as the run file asks for them, in float32; `how` goes to `evaluate`."""
    settings = prepared.config.evaluation
    return full_float32()(evaluate)(
        prepared.model,
        prepared.data.test,
        settings.attacks,
        seed=prepared.config.seed,
        batch_size=settings.batch_size,
        indices=examined(prepared),
        checks=settings.checks,
        ledger=trained.ledger if trained else None,
        on_chunk=lambda done, total: reporter.on_progress(f"evaluate {which}", done, total),
        **how,
    )


def select(prepared: Prepared, reporter: Reporter) -> Coreset:
    """One coreset with the model as it stands; random numbers are those of the run's first selection."""
    plan, speed = prepared.trainer.schedule.plan(), _speed(prepared)
    choose = speed.running()(prepared.trainer.selector.select)
    chosen = choose(
        speed.prepared(prepared.model),
        prepared.data.train,
        seed=prepared.config.seed,
        rows=prepared.scores,
        validation=prepared.data.validation,
        epoch=next((i for i, epoch in enumerate(plan) if epoch.action == "select"), 0),
        on_chunk=lambda done, total: reporter.on_progress("select", done, total),
    )
    return in_training_set(chosen, prepared.data)


def _speed(prepared: Prepared) -> Speed:
    """As the device and the model have it."""
    images = first_images(prepared.model, prepared.data.train)
    return prepared.trainer.speed.suited(prepared.model, images, distributed.size())


def score(config: RunConfig, name: str, reporter: Reporter) -> Scores:
    """Train the run file's model on all data, and score every example by `name`, of GRADIENTS, after each epoch."""
    gradient, kind = GRADIENTS[name], type(config.objective).__name__.lower()
    if gradient.attacked and not attacked(config.objective):
        raise ConfigError(must("--score", "one of clean images for an objective that is not attacked", name, kind))
    with distributed.together():
        prepared = prepare(config, scores=False)
    loaded, selector = prepared.data, prepared.trainer.selector
    whole = Schedule(epochs=config.training.epochs)
    trainer = replace(prepared.trainer, schedule=whole, selector=None, minibatch=None, probe_epochs=0)
    collector, ledger, last = gradient.collect() if gradient.collect else None, CostLedger(), []

    def on_model(model: nn.Module) -> None:
        found = gradient.measure(
            model,
            loaded.train,
            objective=trainer.objective,
            attack=selector.attack if selector else trainer.attack,
            stream=Stream(seed=config.seed, purpose="scoring"),
            ledger=ledger,
            head=config.model.head,
        ).rows.matrix[:, 0]
        last[:] = [found]
        if collector:
            collector.add(found)

    trained = trainer.fit(
        prepared.model,
        loaded.train,
        loaded.validation,
        seed=config.seed,
        augment=loaded.augment,
        listener=replace(reporter, on_model=on_model),
    )
    return Scores(
        indices=loaded.part,
        values=(collector.rows.matrix[:, 0] if collector else last[0]).double().cpu(),
        num_examples=len(loaded.whole),
        fingerprint=build.whole_fingerprint(loaded),
        score=name,
        epochs=len(trained.epochs),
        model=resolved(config)["model"]["name"],
        objective=kind,
        seed=config.seed,
    )


def summary(coreset: Coreset) -> dict:
    """A coreset's facts for the record."""
    return {
        "epoch": coreset.epoch,
        "solver": coreset.solver,
        "partition": coreset.partition,
        "k": len(coreset),
        **coreset.quality,
        **({"seconds": dict.fromkeys(("attack", "rows", "solve"), 0.0), "passes": 0} | coreset.cost),
    }


def counted(loaded: Data) -> dict[str, Any]:
    """How many examples are trained on, held out and tested on, their shape, and how many of each class in training."""
    return {
        "train": len(loaded.train),
        "validation": build.held_out(loaded),
        "test": len(loaded.test),
        "shape": list(loaded.train.shape),
        "class_counts": torch.bincount(loaded.whole[loaded.part], minlength=loaded.num_classes).tolist(),
    }


def in_training_set(coreset: Coreset, loaded: Data) -> Coreset:
    """The same coreset with indices into the whole training set, not into the part left after validation."""
    return replace(
        coreset,
        indices=loaded.part[coreset.indices],
        num_examples=len(loaded.whole),
        population=len(loaded.part),
        fingerprint=build.whole_fingerprint(loaded),
    )


def save_state(path: Path, name: str, state: State, entry: dict) -> None:
    """`checkpoints/NAME.safetensors`, and a JSON with the epoch it is from."""
    save_tensors(path / "checkpoints" / f"{name}.safetensors", state, {"epoch": entry["epoch"], "version": __version__})


def load_state(net: nn.Module, path: Path) -> None:
    """Fill `net` from a checkpoint: one of ours, any safetensors file, or a state dict saved by torch (.pt, .pth).
    Raises CheckpointError with the first keys that do not fit."""
    state = load_weights(path)
    if isinstance(net, nn.Sequential) and isinstance(net[0], Normalize) and state.keys() == net[1].state_dict().keys():
        log.warning("%s has no normalisation; the data's own mean and deviation stand before it", path)
        state = net[0].state_dict(prefix="0.") | {f"1.{name}": value for name, value in state.items()}
    own = net.state_dict()
    wrong = [
        f"{key} {list(own[key].shape) if key in own else 'not in the model'} / "
        f"{list(state[key].shape) if key in state else 'not in the file'}"
        for key in [*own, *(key for key in state if key not in own)]
        if key not in state or key not in own or own[key].shape != state[key].shape
    ]
    if wrong:
        some = "; ".join(wrong[:5])
        raise CheckpointError(
            f"{path} is a checkpoint of another model; {len(wrong)} keys differ (model / file): {some}"
        )
    net.load_state_dict(state)


def checkpoint(path: Path, which: str = "last") -> Path:
    """The file that `--checkpoint` means: a path, or `last` or `best` of the run folder `path`."""
    if which not in ("last", "best"):
        return Path(which)
    found = path / "checkpoints" / f"{which}.safetensors"
    if not found.exists():
        raise CheckpointError(must("--checkpoint", "last, best or a file", which, f"{found} does not exist"))
    inside(found.with_suffix(".json"), path)
    return inside(found, path)


def environment(where: torch.device) -> dict:
    """What the numbers were made with."""
    return {
        "advcore": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(where),
        "threads": torch.get_num_threads(),
        "processes": distributed.size(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _commit() -> str | None:
    """The checkout's commit, read from git's own files; None outside of one."""
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        if git.is_file():  # a worktree's: it names its folder, which names the repository's
            git = git.parent / git.read_text().strip().removeprefix("gitdir: ")
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        shared = git / "commondir"
        git = git / shared.read_text().strip() if shared.exists() else git
        ref = git / head[5:]
        if ref.exists():
            return ref.read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(head[5:])), None)
    except OSError:
        return None
