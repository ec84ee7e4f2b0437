"""The run file's settings as frozen dataclasses, and which class each `name` means."""

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Discriminator, Tag

from advcore.adversary import mismatch
from advcore.attacks import ATTACKS
from advcore.data import DATASETS
from advcore.errors import LARGEST_SEED, at_least, must, positive, require
from advcore.evaluation.evaluate import EVALUATED, attack_name
from advcore.minibatch import RULES
from advcore.models import MODELS
from advcore.objectives import OBJECTIVES
from advcore.selection.coreset import SelectionSettings
from advcore.selection.schedule import MOST_EPOCHS, Schedule
from advcore.solvers import SOLVERS
from advcore.tracking import TRACKERS, tracker_name
from advcore.training import ATTACK_STEPS, LR_SCHEDULES, OPTIMIZERS
from advcore.training.lr import OneCycle
from advcore.training.trainer import LoopSettings
from advcore.types import settings

TABLES: dict[str, dict[str, type]] = {
    "data": DATASETS,
    "models": MODELS,
    "objectives": OBJECTIVES,
    "attacks": ATTACKS,
    "solvers": SOLVERS,
    "minibatch": RULES,
    "optimizers": OPTIMIZERS,
    "lr_schedules": LR_SCHEDULES,
    "attack_steps": ATTACK_STEPS,
    "trackers": TRACKERS,
    "evaluators": {name: cls for name, cls in EVALUATED.items() if name not in ATTACKS},
}


def _name_of(value: Any) -> str | None:
    name = value.get("name") if isinstance(value, Mapping) else None
    return name.partition(":")[0] if isinstance(name, str) else None


def _unnamed(value: Any) -> Any:
    """The settings without the name that chose their class; `timm:NAME` leaves its architecture."""
    if not isinstance(value, Mapping):
        return value
    rest = {key: entry for key, entry in value.items() if key != "name"}
    architecture = value["name"].partition(":")[2]
    return rest | {"architecture": architecture} if architecture else rest


def _named(table: dict[str, type]) -> Any:
    """The type "one of these classes, told apart by `name`"."""
    choices = tuple(Annotated[cls, BeforeValidator(_unnamed), Tag(name)] for name, cls in table.items())
    return Annotated[Union[choices], Discriminator(_name_of)]  # noqa: UP007


DataChoice = _named(DATASETS)
ModelChoice = _named(MODELS)
ObjectiveChoice = _named(OBJECTIVES)
AttackChoice = _named(ATTACKS)
EvaluatedChoice = _named(EVALUATED)
SolverChoice = _named(SOLVERS)
RuleChoice = _named(RULES)
OptimizerChoice = _named(OPTIMIZERS)
LrScheduleChoice = _named(LR_SCHEDULES)
AttackStepsChoice = _named(ATTACK_STEPS)
TrackerChoice = _named(TRACKERS)
_FIT = "this one is for training only (fast_lpa: set project: true)"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@settings
class SelectionConfig(SelectionSettings):
    """When to select, how much, by what.

    Parameters
    ----------
    solver : chooses the coreset.
    warm_start : kappa: the first selection comes after budget x int(kappa x training.epochs) epochs on all data,
        rounded.
    period : coreset epochs from one selection to the next; null selects once.
    schedule : compressed, or acs for the published code's epochs.
    attack : of the selection; null for the training attack.
    cost : instead of a budget: the relative cost that the run is to have; the largest budget that it pays for is taken.
    probe_epochs : for solvers that take scores over epochs (easycore, by_score, ccs): epochs of ordinary training of
        a copy that are scored first; at least 1 where there is no warm start.
    """

    solver: SolverChoice
    warm_start: float = 0.6
    period: int | None = 20
    schedule: str = "compressed"
    attack: AttackChoice | None = None
    cost: float | None = None
    probe_epochs: int = 0

    def _more_problems(self) -> list[str | None]:
        return [
            *Schedule.problems(self),
            None if self.cost is None else positive("cost", self.cost, "it is relative to full training"),
            must("cost", "null beside a budget", self.cost)
            if self.cost is not None and self.budget != SelectionSettings.budget
            else None,
            at_least("probe_epochs", self.probe_epochs, 0),
        ]


@settings
class TrainingConfig(LoopSettings):
    """The loop.

    Parameters
    ----------
    epochs : of the full run that this one stands for.
    optimizer : moves the weights.
    lr_schedule : moves the learning rate.
    attack_steps : the training attack's steps in each epoch; null: always its own.
    """

    epochs: int
    optimizer: OptimizerChoice
    lr_schedule: LrScheduleChoice = OneCycle()
    attack_steps: AttackStepsChoice | None = None

    def _more_problems(self) -> list[str | None]:
        return [at_least("epochs", self.epochs, 1, most=MOST_EPOCHS)]


@settings
class EvaluationConfig:
    """What the final accuracies are measured with.

    Parameters
    ----------
    attacks : each on its own, on the test set, at `last` and at `best`; or autoattack.
    batch_size : examples attacked at once.
    examples : how many test images are evaluated, stratified and by data.split_seed: the same for all seeds; null for
        all.
    checks : look for what makes the numbers untrustworthy; flags go into the record.
    """

    attacks: list[EvaluatedChoice]
    batch_size: int = 256
    examples: int | None = None
    checks: bool = True

    def __post_init__(self):
        require(
            at_least("batch_size", self.batch_size, 1),
            None if self.examples is None else at_least("examples", self.examples, 1),
            *(
                must(f"attacks.{i}.name", "an attack that stays in its ball", attack_name(attack), _FIT)
                for i, attack in enumerate(self.attacks)
                if getattr(attack, "training_only", False)
            ),
            *(
                must(f"attacks.{i}.start", "uniform, gaussian or clean in an evaluation", attack.start)
                for i, attack in enumerate(self.attacks)
                if getattr(attack, "remembers", False)
            ),
        )


@settings
class CostConfig:
    """The run that `relative_cost` compares with.

    Parameters
    ----------
    reference_steps : attack steps, one restart.
    reference_epochs : null for `training.epochs`.
    """

    reference_steps: int = 10
    reference_epochs: int | None = None

    def __post_init__(self):
        epochs = self.reference_epochs
        require(
            at_least("reference_steps", self.reference_steps, 1),
            None if epochs is None else at_least("reference_epochs", epochs, 1),
        )


@settings
class CheckpointConfig:
    """The states from which `--resume` goes on; one is also written where a signal stops the run.

    Parameters
    ----------
    period : epochs between two of them.
    kept : how many stay, so that there is another where the newest is damaged.
    """

    period: int = 1
    kept: int = 2

    def __post_init__(self):
        require(
            at_least("period", self.period, 1),
            at_least("kept", self.kept, 2, "there must be another where the newest is damaged"),
        )


@settings
class RunConfig:
    """A run file.

    Parameters
    ----------
    name : names the run's folder; letters, digits, dot, dash, underscore.
    seed : of every random number.
    data, model, objective, attack, selection, training, evaluation, cost, checkpoint : see their own pages.
    minibatch : which examples of a batch are attacked, or which images are learned from; null: all.
    tracking : trackers that are told of every epoch, beside the metrics in the run's folder; the run stays as it is.
    device : auto (CUDA if there is one), cpu, cuda or cuda:N.
    """

    name: str
    data: DataChoice
    model: ModelChoice
    objective: ObjectiveChoice
    training: TrainingConfig
    evaluation: EvaluationConfig
    seed: int = 0
    attack: AttackChoice | None = None
    selection: SelectionConfig | None = None
    minibatch: RuleChoice | None = None
    cost: CostConfig = CostConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: list[TrackerChoice] = field(default_factory=list)
    device: str = "auto"

    def __post_init__(self):
        way_out = "write at most 100 of them" if len(str(self.name)) > 100 else ""
        require(
            None
            if NAME.fullmatch(self.name)
            else must("name", "letters, digits, '.', '-' and '_'", self.name, way_out),
            None
            if re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)
            else must("device", "auto, cpu, cuda or cuda:N", self.device),
            at_least("seed", self.seed, -LARGEST_SEED, most=LARGEST_SEED),
            mismatch(self.objective, self.attack) if isinstance(self.objective, tuple(OBJECTIVES.values())) else None,
            *(
                must(f"tracking.{i}.name", "a tracker that does not stand before it", tracker_name(one))
                for i, one in enumerate(self.tracking)
                if type(one) in map(type, self.tracking[:i])
            ),
        )
