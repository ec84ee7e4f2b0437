"""The table of recipes: studies, and the methods on each one's front."""

import dataclasses
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from advcore.files import parse_json
from advcore.types import Facts

TABLE = "recipes.json"


@dataclass(frozen=True)
class Beside:
    """A recipe compared with another method of its study, checkpoint last.

    method : the other one. cost, robust : its relative cost, and its robust accuracy in percent.
    difference, half_width : of the recipe less the other, in points, with half the 95 % interval of this one alone.
    p, corrected : of the difference being 0, and after Holm's correction over the study's comparisons; half_width and
    both are None where nothing can be tested.
    verdict : "beats", "below" or "level" (`reporting.statistics`).
    """

    method: str
    cost: float
    robust: float
    difference: float
    half_width: float | None
    p: float | None
    corrected: float | None
    verdict: str


@dataclass(frozen=True)
class Recipe:
    """A method that no cheaper one of its study reaches, by the means over seeds.

    settings : what differs from full training: attack, selection, minibatch, and the settings of training but epochs.
    epochs : over those of full training. cost : relative to full training, in the study's unit.
    robust, deviation : mean and sample deviation over `seeds` runs, in percent.
    """

    method: str
    settings: Facts
    epochs: float
    cost: float
    robust: float
    deviation: float
    seeds: int
    beside: tuple[Beside, ...]


@dataclass(frozen=True)
class Study:
    """A suite with full training and cheaper methods, and the conditions under which it ran.

    suite, title : its name and what it trains. objective, norm, eps : of full training; eps in pixel units.
    contents, shape, classes, examples : of its training data; shape is (C, H, W).
    network : a name. unit : of costs, "passes" or "compute". epochs, steps : of full training.
    evaluation : the attack of robust accuracies, and on how many images. varied : the seeds and data splits.
    robust : of full training, in percent.
    """

    suite: str
    title: str
    objective: str
    norm: str
    eps: float
    contents: str
    shape: tuple[int, int, int]
    classes: int
    examples: int
    network: str
    unit: str
    epochs: int
    steps: int
    evaluation: str
    varied: str
    robust: float
    recipes: tuple[Recipe, ...]


def load_studies() -> tuple[Study, ...]:
    """Return the committed studies, in the order of their names."""
    content = resources.files(__package__).joinpath(TABLE).read_bytes()
    table = parse_json(content, Path(TABLE))
    assert isinstance(table, list), "the table is a part of the package"
    return tuple(map(read_study, table))


def read_study(facts: Facts) -> Study:
    """Return a study from plain values."""
    return Study(**facts | {"shape": tuple(facts["shape"]), "recipes": tuple(map(_read_recipe, facts["recipes"]))})


def _read_recipe(facts: Facts) -> Recipe:
    return Recipe(**facts | {"beside": tuple(Beside(**entry) for entry in facts["beside"])})


def to_plain(study: Study) -> Facts:
    """Return a study as plain values, which `read_study` reads."""
    return dataclasses.asdict(study)
