"""Pages and tables of the suites, from their committed records: benchmarks/*.md, docs/evidence.md, README.md."""

import functools
from collections.abc import Iterable

import cifar10_gpu_page
import converged_page
import evidence_page
import headroom_page
import main_page
import minibatch_page
import readme_page
import recipes_page
import savings_page
import selection_page
from figures import BENCHMARKS, DOCS, RECORDS, between, cost_notes, describe_means, list_flags, table

from advcore.files import read_json
from advcore.reporting import verdicts
from advcore.reporting.record import RunRecord
from advcore.reporting.statistics import Comparison
from advcore.reporting.tables import to_markdown
from advcore.reporting.verdicts import describe_varied
from advcore.suite.layout import BASELINES_FILE, make_slug
from advcore.suite.suite import Suite, load

README = BENCHMARKS.parent / "README.md"
EVIDENCE = DOCS / "evidence.md"
SAVINGS_GUIDE = DOCS / "savings.md"
PAGES = ("digits", "mnist", "reattack")
"""Suites that have their own page."""
ABOUT = {
    "digits": """This page compares methods with *full*, which is [full training](../docs/glossary.md#full-training) for
30 epochs. *GradMatch* and *CRAIG* train on chosen coresets, *random* on random subsets, and *random static* on one
random subset for the whole run. *Shortened* trains on all data for fewer epochs
([shortened](../docs/glossary.md#shortened)). The other names are explained with the
[solvers](../docs/solvers.md), the [minibatch rules](../docs/minibatch.md) and [cheaper training](../docs/savings.md).
""",
    "mnist": """This page compares four ways to save cost. Costs are relative to [full
training](../docs/glossary.md#full-training). *Shortened* trains on all data for fewer epochs
([shortened](../docs/glossary.md#shortened)).
""",
    "reattack": """*Random*, *low p_y* and *oldest* attack only half of each batch again
([how](../docs/minibatch.md#attacking-a-share-again)); *all* attacks all examples. *Low p_y* chooses the
examples with the lowest probability of the true class, and *oldest* those whose perturbation is the oldest. *As many
updates* means as many updates of the weights as with these
rules. In a *growing ball*, the radius grows during training. Costs are relative to full training.
""",
}
"""What a suite's page says first."""
STUDY = ("minibatch-mnist", "minibatch-cifar10")
MAIN = ("main-cifar10", "main-mnist")
STRONG = ("main-strong", "main-mnist-strong")
"""Their fronts under AutoAttack."""
REATTACK = ("reattack-mnist", "reattack-cifar10", "reattack-mnist-60000")
FREE_ROWS = ("free-rows",)
POOLS = ("pools", "pools-redundant")
SELECTION = {"reattack": REATTACK, "free rows": FREE_ROWS, "pools": POOLS}
"""Studies of where selection is worth its cost, and their suites."""
ANCHORS, CURVES = ("anchor-cifar10", "anchor-mnist"), ("curves-cifar10-4000", "curves-mnist-4000")
CONVERGED_PICTURE = "converged.png"


@functools.cache
def suite_of(name: str, size: str | None = None) -> Suite:
    """The suite benchmarks/suites/NAME.yaml, in one of its sizes."""
    return load(BENCHMARKS / "suites" / f"{name}.yaml", size)


@functools.cache
def methods_of(name: str, size: str | None = None) -> list[str]:
    """The suite's methods, then the baselines that were planned when it was first run."""
    suite = suite_of(name, size)
    planned = suite.records / (size or "") / BASELINES_FILE
    added = read_json(planned)["methods"] if planned.exists() else {}
    return [*suite.methods, *added]


@functools.cache
def groups(suite: str, size: str | None = None) -> dict[str, list[RunRecord]]:
    """Records by method, in the suite's order; methods without one are left out."""
    of, methods = suite_of(suite, size), methods_of(suite, size)
    folder = of.records / (size or "")
    paths = {method: [folder / f"{make_slug(method, seed)}.json" for seed in of.seeds] for method in methods}
    found = {method: [RunRecord.load(path) for path in own if path.exists()] for method, own in paths.items()}
    return {method: records for method, records in found.items() if records}


def titled(suites: Iterable[str]) -> dict[str, dict[str, list[RunRecord]]]:
    """The records of each suite, by its title."""
    return {suite_of(name).title: groups(name) for name in suites}


def text(suite: str) -> str:
    """The suite's page: its tables for the last and the best checkpoint, and how they were made."""
    found = groups(suite)
    any_one = next(iter(found.values()))[0]
    n, device = any_one.final["last"]["clean"]["n"], any_one.environment["device"]
    lines = [f"# {suite_of(suite).title}", ""]
    reference = suite_of(suite).reference or ""
    lines += [ABOUT[suite], f"{describe_means(found, str(n), device)} {describe_varied(found)}"]
    lines += ["", cost_notes(found, reference)]
    for which in ("last", "best"):
        lines += ["", f"Checkpoint `{which}`:", "", table(found, which, reference)]
        lines += [f"\nFlags: {told}." for told in ["; ".join(list_flags(found, which))] if told]
    rows, note = verdicts.tabulate(found, reference)
    lines += ["", "Differences, checkpoint `last`:", "", to_markdown(verdicts.HEADER, rows), "", note] if rows else []
    return "\n".join([*lines, ""])


def study_text() -> str:
    """The page of the minibatch study."""
    single = groups("minibatch-factors")
    told = minibatch_page.factors(single, groups("minibatch-cifar10")) if single else ""
    return minibatch_page.page(titled(STUDY), told, groups("minibatch-strong"))


def main_text() -> str:
    """The page of the main tables."""
    return main_page.page(titled(MAIN), groups("main-repeat"), titled(STRONG))


def savings_text() -> str:
    """The page of the savings."""
    found = groups("savings") | groups("savings-parts")
    return savings_page.text(found, groups("savings-long"), groups("savings-strong"))


def evidence_text() -> str:
    """docs/evidence.md."""
    return evidence_page.text(groups("why"), read_json(RECORDS / "staleness.json"))


def finetune_text() -> str:
    """The page of fine-tuning."""
    return recipes_page.finetune_text(groups("finetune"), groups("finetune-search"))


def list_sections(suites: Iterable[str]) -> dict[str, dict[str, list[RunRecord]]]:
    """The records of those of the suites that have any, by their titles."""
    return {title: found for title, found in titled(suites).items() if found}


def selection_texts() -> dict[str, str]:
    """The pages on where selection is worth its cost, by file name."""
    reattack, free_rows, pools = map(list_sections, SELECTION.values())
    wrong = read_json(RECORDS / "pool_teacher.json")["wrong"]["pools"]
    return {
        "reattack_study.md": selection_page.reattack_text(reattack),
        "free_rows.md": selection_page.free_rows_text(free_rows),
        "pools.md": selection_page.pools_text(pools, wrong),
        "headroom.md": headroom_page.text(list_points()),
    }


def converged_text() -> str:
    """The page on training that has converged."""
    return converged_page.text(list_sections(ANCHORS), list_sections(CURVES), CONVERGED_PICTURE)


def savings_guide_text() -> str:
    """docs/savings.md, with its sentence on stored rows renewed."""
    sentence = selection_page.describe_free_rows(list_sections(FREE_ROWS))
    return between(SAVINGS_GUIDE.read_text(), "free rows", sentence)


def list_points() -> list[headroom_page.Point]:
    """Every selector of these studies against the random choice of the same compute."""
    sections = map(list_sections, SELECTION.values())
    return list(headroom_page.list_points({title: found for each in sections for title, found in each.items()}))


def claims() -> dict[tuple[str, str, str], Comparison]:
    """The differences that are significant after correction, by page, section and question."""
    pages = {
        "main": main_page.test(titled(MAIN), groups("main-repeat")),
        "minibatch": minibatch_page.test(titled(STUDY)),
        "savings": savings_page.test(groups("savings") | groups("savings-parts"), groups("savings-long")),
        "evidence": evidence_page.test(groups("why")),
        "finetune": recipes_page.test(groups("finetune"), recipes_page.FINETUNE),
        "recipes": recipes_page.test(groups("recipes"), recipes_page.RECIPES),
    }
    for suite in PAGES:
        pairs = verdicts.list_pairs(groups(suite), suite_of(suite).reference or "")
        pages[suite] = {(pair[0], pair[1]): one for pair, one in verdicts.compare_pairs(groups(suite), pairs).items()}
    return {(page, *key): one for page, all_ in pages.items() for key, one in all_.items() if one.verdict != "level"}


def readme_text() -> str:
    """README with its tables and sentences from the records renewed."""
    main, strong = groups("main-cifar10"), groups("main-strong")
    readme = between(README.read_text(), "half", readme_page.describe_half(main))
    return between(readme, "results", readme_page.table(main, strong))


def write() -> None:
    """Write the pages of all suites that have records, and the tables of README."""
    for suite in PAGES:
        if groups(suite):
            (BENCHMARKS / f"{suite}.md").write_text(text(suite))
    if any(map(groups, STUDY)):
        (BENCHMARKS / "minibatch.md").write_text(study_text())
    if any(map(groups, MAIN)):
        (BENCHMARKS / "main.md").write_text(main_text())
    if groups("savings"):
        (BENCHMARKS / "savings.md").write_text(savings_text())
        savings_page.draw(groups("savings") | groups("savings-parts"), BENCHMARKS / "savings.png")
    if groups("finetune"):
        (BENCHMARKS / "finetune.md").write_text(finetune_text())
    if groups("recipes"):
        (BENCHMARKS / "recipes.md").write_text(recipes_page.recipes_text(groups("recipes")))
    at_size = {suite: groups(suite) for suite in cifar10_gpu_page.PAGES if groups(suite).get("full")}
    if at_size:
        (BENCHMARKS / "cifar10_gpu.md").write_text(cifar10_gpu_page.text(at_size))
    if groups("why"):
        EVIDENCE.write_text(evidence_text())
    for name, page in selection_texts().items():
        (BENCHMARKS / name).write_text(page)
    headroom_page.draw(list_points(), BENCHMARKS / "headroom.png")
    (BENCHMARKS / "converged.md").write_text(converged_text())
    curves = list_sections(CURVES)
    if curves:
        converged_page.draw(curves, BENCHMARKS / CONVERGED_PICTURE)
    SAVINGS_GUIDE.write_text(savings_guide_text())
    README.write_text(readme_text())
    readme_page.draw_all(groups("main-cifar10"))
