"""Finds the study nearest to a run file, and how the two differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from advcore.config.load import resolve
from advcore.config.schema import RunConfig
from advcore.errors import check, must, require
from advcore.evidence.studies import Study
from advcore.objectives import OBJECTIVES
from advcore.pixels import format_pixels
from advcore.reporting.tables import name_contents
from advcore.types import find_name

# Radii that differ by a larger factor are different threat models: single steps that work in one fail in the other.
MOST_RATIO = 1.5


@dataclass(frozen=True)
class Conditions:
    """What evidence must be about to bear on a run: see `Study`. visits : training examples times epochs."""

    objective: str
    norm: str
    eps: float
    contents: str
    shape: tuple[int, int, int]
    classes: int
    examples: int
    network: str
    epochs: int

    @property
    def visits(self) -> int:
        return self.examples * self.epochs


def read_conditions(config: RunConfig) -> Conditions:
    """Return the conditions of a run's full training.

    Raises ConfigError for what no study is about: no attack in a ball, trained weights, a pool; DataError for data that
    are not there. Reads the data's sizes, and two images.
    """
    way_out = "there is no evidence for other runs: advcore check FILE --cost X lists settings of that cost, untested"
    attack = config.attack
    eps = getattr(attack, "eps", None)
    norm = getattr(attack, "norm", None)
    require(
        check(attack is not None and eps is not None and norm is not None, "attack", "one in a ball", attack, way_out),
        check(not getattr(config.model, "weights", None), "model.weights", "null", "weights", way_out),
        check(getattr(config.data, "pool", None) is None, "data.pool", "null", "a pool", way_out),
    )
    assert eps is not None and norm is not None, "just checked"
    data, examples, _ = config.data.sketch()
    plain = resolve(config)
    return Conditions(
        objective=find_name(OBJECTIVES, config.objective),
        norm=norm,
        eps=eps,
        contents=name_contents(plain),
        shape=data.train.shape,
        classes=data.num_classes,
        examples=examples,
        network=plain["model"]["name"],
        epochs=config.cost.reference_epochs or config.training.epochs,
    )


def find_study(conditions: Conditions, studies: Sequence[Study]) -> Study:
    """Return the study nearest to these conditions.

    Objective and norm must be equal, so must the images' shape, and the radius must be within `MOST_RATIO` of a
    study's. Of several, the same data come first, then the nearest radius, then the nearest length of training.
    Raises ConfigError, one line, naming the first condition that no study meets.
    """
    asked = {
        "objective": conditions.objective,
        "attack.norm": conditions.norm,
        "data: images of shape": conditions.shape,
        "attack.eps": conditions.eps,
    }
    left = list(studies)
    for setting, value in asked.items():
        known = [_describe(setting, study) for study in left]
        left = [study for study in left if _is_near(setting, study, conditions)]
        if not left:
            rule = f"one that there is evidence for ({', '.join(dict.fromkeys(known)) or 'none yet'})"
            way_out = "advcore check FILE --cost X lists settings of that cost, untested"
            got = format_pixels(conditions.eps) if setting == "attack.eps" else value
            require(must(setting, rule, got, way_out))
    return min(left, key=lambda study: _rank(study, conditions))


def _describe(setting: str, study: Study) -> str:
    values = {
        "objective": study.objective,
        "attack.norm": study.norm,
        "data: images of shape": "x".join(map(str, study.shape)),
        "attack.eps": format_pixels(study.eps),
    }
    return values[setting]


def _is_near(setting: str, study: Study, conditions: Conditions) -> bool:
    holds = {
        "objective": study.objective == conditions.objective,
        "attack.norm": study.norm == conditions.norm,
        "data: images of shape": study.shape == conditions.shape,
        "attack.eps": 1 / MOST_RATIO <= conditions.eps / study.eps <= MOST_RATIO,
    }
    return holds[setting]


def _rank(study: Study, conditions: Conditions) -> tuple[bool, float, float, str]:
    return (
        study.contents != conditions.contents,
        abs(math.log(conditions.eps / study.eps)),
        abs(math.log(conditions.visits / (study.examples * study.epochs))),
        study.suite,
    )


def list_differences(study: Study, conditions: Conditions) -> list[str]:
    """Return what a recommendation extrapolates over: what the study had, and what the run has."""
    visits = f"{conditions.examples:,} examples for {conditions.epochs} epochs"
    pairs = {
        "data": (study.contents, conditions.contents),
        "classes": (str(study.classes), str(conditions.classes)),
        "network": (study.network, conditions.network),
        "eps": (format_pixels(study.eps), format_pixels(conditions.eps)),
        "full training": (f"{study.examples:,} examples for {study.epochs} epochs", visits),
    }
    return [f"{name}: {measured}, here {here}" for name, (measured, here) in pairs.items() if measured != here]
