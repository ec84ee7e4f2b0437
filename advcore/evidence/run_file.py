"""The run file of a recommendation: a header that names the evidence, and the settings."""

import textwrap

from advcore.evidence.recommend import Exclusion, Recommendation
from advcore.evidence.studies import Beside, Recipe, Study
from advcore.reporting.settings_parts import format_settings

_WIDTH = 118  # of a line of the header, "# " left out
_UNEQUAL = 0.1  # a run of more, or fewer, epochs than measured is mentioned above this share


def format_run_file(recommendation: Recommendation, file: str) -> str:
    """Return the text of the new run file. file : the user's run file, for the header."""
    header = [f"Written by advcore recommend {file} --cost {recommendation.wanted:g}.", *describe(recommendation)]
    lines = [line for text in header for line in textwrap.wrap(text, _WIDTH, subsequent_indent="  ")]
    comment = "\n".join(f"# {line}" for line in lines)
    return f"{comment}\n{format_settings(recommendation.settings)}\n"


def describe(recommendation: Recommendation) -> list[str]:
    """Return sentences: the recipe, its evidence, what its cost is counted in, and what is extrapolated."""
    study = recommendation.study
    recipe = recommendation.recipe
    epochs, full_epochs = recommendation.epochs
    data = _describe_data(recommendation)
    return [
        f"Recipe: {_trim(recipe.method)} (full training there: {study.epochs} epochs), {data}.",
        f"Here: training.epochs {epochs}, at a planned cost of {recommendation.cost:.3f} of full training's "
        f"{full_epochs} epochs.",
        _describe_evidence(study, recipe),
        *(_describe_beside(entry) for entry in recipe.beside),
        _describe_unit(study),
        _describe_extrapolation(recommendation),
        *map(_describe_exclusion, recommendation.excluded),
        "All other settings are those of the run file.",
    ]


def _trim(method: str) -> str:
    """Return a method's name without the block of its page, which follows an @."""
    return method.partition(" @ ")[0]


def _describe_exclusion(entry: Exclusion) -> str:
    return f"Excluded by the run file's settings: {_trim(entry.method)} ({entry.reason})."


def _describe_data(recommendation: Recommendation) -> str:
    if recommendation.trains_on_all:
        return "on all data: no coreset of that study beats it at its cost"
    return "on a coreset"


def _describe_evidence(study: Study, recipe: Recipe) -> str:
    return (
        f"Evidence: suite {study.suite} ({study.title}; {study.evaluation}, checkpoint last): {recipe.robust:.1f} ± "
        f"{recipe.deviation:.1f} % robust, {recipe.seeds} runs, at {recipe.cost:.2f} of full training, which reached "
        f"{study.robust:.1f} %. {study.varied}"
    )


def _describe_beside(entry: Beside) -> str:
    text = f"Compared with {entry.method} (cost {entry.cost:.2f}, {entry.robust:.1f} %): {entry.difference:+.1f}"
    if entry.half_width is None:
        return f"{text} points, not tested."
    return f"{text} ± {entry.half_width:.1f} points, p = {entry.p}, corrected {entry.corrected}: {entry.verdict}."


def _describe_unit(study: Study) -> str:
    return (
        f"Costs of the evidence are in {study.unit}, relative to {study.epochs} epochs of {study.steps} attack steps. "
        "They are not compared with --cost: every recipe is planned on this run file, in compute where that is counted."
    )


def _describe_extrapolation(recommendation: Recommendation) -> str:
    differences = list(recommendation.differences)
    if abs(recommendation.stretch - 1) > _UNEQUAL:
        differences.append(f"epochs: {recommendation.stretch:.2f} times those measured")
    if not differences:
        return "Nothing is extrapolated: the evidence is of these data, this network and this length."
    return f"Extrapolated: {'; '.join(differences)}."
