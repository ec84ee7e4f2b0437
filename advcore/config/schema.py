"""The settings of a run file as frozen dataclasses, and the tables of classes that a `name` chooses from."""

import re
from collections.abc import Mapping
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator, Discriminator, GetCoreSchemaHandler, Tag
from pydantic_core import CoreSchema

from advcore.adversary import describe_mismatch
from advcore.attacks import ATTACKS
from advcore.data import DATASETS
from advcore.errors import LARGEST_SEED, SettingProblem, check, check_at_least, check_positive, must, require, unless
from advcore.evaluation.evaluate import EVALUATED
from advcore.evaluation.suites import find_unfit_problem
from advcore.minibatch import RULES
from advcore.models import MODELS
from advcore.objectives import OBJECTIVES
from advcore.regularizers import REGULARIZERS
from advcore.selection.coreset import SelectionSettings
from advcore.selection.schedule import MOST_EPOCHS, Schedule, When
from advcore.settings import setting, settings
from advcore.solvers import SOLVERS
from advcore.tracking import TRACKERS, find_tracker_name
from advcore.training import ATTACK_STEPS, LR_SCHEDULES, OPTIMIZERS
from advcore.training.lr import OneCycle
from advcore.training.trainer import LoopSettings

TABLES: dict[str, Mapping[str, type]] = {
    "data": DATASETS,
    "models": MODELS,
    "objectives": OBJECTIVES,
    "attacks": ATTACKS,
    "solvers": SOLVERS,
    "minibatch": RULES,
    "optimizers": OPTIMIZERS,
    "lr_schedules": LR_SCHEDULES,
    "attack_steps": ATTACK_STEPS,
    "regularizers": REGULARIZERS,
    "trackers": TRACKERS,
    "evaluators": {name: cls for name, cls in EVALUATED.items() if name not in ATTACKS},
}

# Methods whose name is followed by what they build: timm:NAME.
WITH_ARCHITECTURE = ("timm", "torchvision", "plugin")


def _read_name(value: object) -> str | None:
    """Return the name that chooses the class of some settings, up to a colon (`WITH_ARCHITECTURE`)."""
    match value:
        case {"name": str(name)}:
            return name.partition(":")[0]
    return None


def find_rest_setting(cls: type) -> str:
    """Return which setting of a class holds what follows a colon in its name."""
    return getattr(cls, "after_colon", "architecture")


def _remove_name(cls: type, value: dict) -> dict[str, object]:
    """Return settings of a class without the name that chose it; what follows a colon in it is a setting."""
    rest = {key: entry for key, entry in value.items() if key != "name"}
    after_colon = value["name"].partition(":")[2]
    return rest | {find_rest_setting(cls): after_colon} if after_colon else rest


class ByName:
    """Marks settings whose `name` chooses their class from a table, as the table is when a run file is read."""

    def __init__(self, table: Mapping[str, type]) -> None:
        self.table = table

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = tuple(
            Annotated[cls, BeforeValidator(partial(_remove_name, cls)), Tag(name)] for name, cls in self.table.items()
        )
        return handler.generate_schema(Annotated[Union[choices], Discriminator(_read_name)])  # noqa: UP007


def _choose_by_name(table: Mapping[str, type]) -> Any:
    return Annotated[Any, ByName(table)]


if TYPE_CHECKING:  # a type checker knows the choices by what all entries of a table have in common
    from advcore.attacks.base import Attack as AttackChoice
    from advcore.data.base import DataSettings as DataChoice
    from advcore.evaluation.autoattack import AutoAttack
    from advcore.models.base import ModelSettings as ModelChoice
    from advcore.objectives.base import Objective as ObjectiveChoice
    from advcore.regularizers.base import Regularizer as RegularizerChoice
    from advcore.solvers.base import Solver as SolverChoice
    from advcore.tracking import Tracker as TrackerChoice
    from advcore.training.attack_steps import StepSchedule as AttackStepsChoice
    from advcore.training.lr import LRSchedule as LrScheduleChoice
    from advcore.training.minibatch import Rule as RuleChoice
    from advcore.training.optimizers import OptimizerSettings as OptimizerChoice

    EvaluatedChoice = AttackChoice | AutoAttack
else:
    DataChoice = _choose_by_name(DATASETS)
    ModelChoice = _choose_by_name(MODELS)
    ObjectiveChoice = _choose_by_name(OBJECTIVES)
    AttackChoice = _choose_by_name(ATTACKS)
    EvaluatedChoice = _choose_by_name(EVALUATED)
    SolverChoice = _choose_by_name(SOLVERS)
    RuleChoice = _choose_by_name(RULES)
    OptimizerChoice = _choose_by_name(OPTIMIZERS)
    LrScheduleChoice = _choose_by_name(LR_SCHEDULES)
    AttackStepsChoice = _choose_by_name(ATTACK_STEPS)
    RegularizerChoice = _choose_by_name(REGULARIZERS)
    TrackerChoice = _choose_by_name(TRACKERS)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of runs and suites, which are also names of files


@settings
class SelectionConfig(SelectionSettings):
    """When to select, how many examples, and with which solver.

    Parameters
    ----------
    solver : chooses the coreset.
    warm_start : kappa: the first selection comes after budget x int(kappa x training.epochs) epochs on all data,
        rounded.
    period : coreset epochs from one selection to the next; null selects once.
    schedule : compressed, or acs for the published code's epochs.
    when : selecting starts only where the run's headroom is below this one's; null selects from the first time on.
    attack : the attack of selections; null for the training attack. With rows_from: training, that of the refresh.
    cost : the relative cost of the run, instead of a budget: the run gets the largest budget that it pays for.
    probe_epochs : for solvers that take scores over epochs (easycore, by_score, ccs): epochs of ordinary training of
        a copy that are scored first; at least 1 where there is no warm start.
    """

    solver: SolverChoice
    warm_start: float = setting(default=0.6, unit="share")
    period: int | None = setting(default=20, unit="epochs")
    schedule: str = "compressed"
    when: When | None = None
    attack: AttackChoice | None = None
    cost: float | None = setting(default=None, unit="of full training")
    probe_epochs: int = setting(default=0, unit="epochs")

    def _check_more(self) -> list[SettingProblem | None]:
        return [
            *Schedule.find_problems(self),
            unless(self.cost is None, check_positive("cost", self.cost, "it is relative to full training")),
            check(
                self.cost is None or self.budget == SelectionSettings.budget,
                "cost",
                "null if a budget is given",
                self.cost,
            ),
            check_at_least("probe_epochs", self.probe_epochs, 0),
        ]


@settings
class TrainingConfig(LoopSettings):
    """How the model is trained.

    Parameters
    ----------
    epochs : epochs of the training on all data that this run replaces.
    optimizer : updates the weights.
    lr_schedule : sets the learning rate of each step.
    attack_steps : the training attack's steps in each epoch; null for the attack's own number in all epochs.
    """

    epochs: int = setting(unit="epochs")
    optimizer: OptimizerChoice
    lr_schedule: LrScheduleChoice = OneCycle()
    attack_steps: AttackStepsChoice | None = None
    regularizer: RegularizerChoice | None = None

    def _check_more(self) -> list[SettingProblem | None]:
        return [check_at_least("epochs", self.epochs, 1, most=MOST_EPOCHS)]


@settings
class EvaluationConfig:
    """How the final accuracies are measured.

    Parameters
    ----------
    attacks : attacks of the test set, or autoattack; each is evaluated separately, at `last` and at `best`.
    batch_size : examples attacked at once.
    examples : how many test images are evaluated, chosen stratified by data.split_seed, so the same for all seeds of a
        data split; null for all.
    checks : look for what makes the numbers untrustworthy; flags go into the record.
    """

    attacks: list[EvaluatedChoice]
    batch_size: int = setting(default=256, unit="examples")
    examples: int | None = setting(default=None, unit="images")
    checks: bool = True

    def __post_init__(self) -> None:
        require(
            check_at_least("batch_size", self.batch_size, 1),
            unless(self.examples is None, check_at_least("examples", self.examples, 1)),
            *(find_unfit_problem(f"attacks.{i}", attack) for i, attack in enumerate(self.attacks)),
        )


@settings
class CostConfig:
    """The run that `relative_cost` compares with.

    Parameters
    ----------
    reference_steps : steps of its attack, which has one restart.
    reference_epochs : its epochs; null for `training.epochs`.
    """

    reference_steps: int = setting(default=10, unit="steps")
    reference_epochs: int | None = setting(default=None, unit="epochs")

    def __post_init__(self) -> None:
        require(
            check_at_least("reference_steps", self.reference_steps, 1),
            unless(self.reference_epochs is None, check_at_least("reference_epochs", self.reference_epochs, 1)),
        )


@settings
class CheckpointConfig:
    """The saved states from which `--resume` continues; one is also saved when a signal stops the run.

    Parameters
    ----------
    period : epochs from one saved state to the next.
    kept : how many states are kept, so that there is another where the newest is damaged.
    """

    period: int = setting(default=1, unit="epochs")
    kept: int = setting(default=2, unit="states")

    def __post_init__(self) -> None:
        require(
            check_at_least("period", self.period, 1),
            check_at_least("kept", self.kept, 2, "an older one is needed if the newest is damaged"),
        )


@settings
class RunConfig:
    """A run file.

    Parameters
    ----------
    name : name of the run and of its folder; letters, digits, dot, dash, underscore.
    seed : seed of all random numbers.
    data, model, objective, attack, selection, training, evaluation, cost, checkpoint : see their own pages.
    minibatch : which examples of a batch are attacked, which images are trained on, or which examples an epoch leaves
        out; null for all.
    tracking : trackers that also receive the metrics of every epoch; they do not influence the run.
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

    def __post_init__(self) -> None:
        way_out = "use at most 100 characters" if len(str(self.name)) > 100 else ""
        is_objective = isinstance(self.objective, tuple(OBJECTIVES.values()))
        require(
            check(NAME.fullmatch(self.name), "name", "letters, digits, '.', '-' and '_'", self.name, way_out),
            check(
                re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device), "device", "auto, cpu, cuda or cuda:N", self.device
            ),
            check_at_least("seed", self.seed, -LARGEST_SEED, most=LARGEST_SEED),
            describe_mismatch(self.objective, self.attack) if is_objective else None,
            *(
                must(f"tracking.{i}.name", "a tracker that is not in the list already", find_tracker_name(tracker))
                for i, tracker in enumerate(self.tracking)
                if type(tracker) in map(type, self.tracking[:i])
            ),
        )
