"""The pages on where selection is worth its cost: what to attack again, free rows, and pools."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from figures import Groups, Pairs, Tested, answers, ask_all, cost_notes, describe_means, gap_text, several, table
from recipes_page import flag_lines

from advcore.errors import format_count
from advcore.reporting.statistics import Comparison, compare_all
from advcore.reporting.tables import to_markdown
from advcore.reporting.verdicts import describe_varied, explain_test

SHARES = ("0.5", "0.25")
RULES = ("random", "low p_y", "oldest")
GROWING = "all, growing ball"
PARTIAL = [f"{rule} {share}" for share in SHARES for rule in RULES]
AGAINST_ALL = "Attacking a share again, against attacking all"
AGAINST_GROWING = "Attacking a share again, against attacking all in a ball that grows"
BOTH_GROW = "Attacking a share again in a ball that grows, against attacking all in such a ball"
LOW = "The lowest p_y, against random"
OLDEST = "The oldest, against random"
REATTACK: dict[str, Pairs] = {
    AGAINST_ALL: [(name, "all") for name in PARTIAL],
    AGAINST_GROWING: [(name, GROWING) for name in PARTIAL],
    BOTH_GROW: [(f"{rule} 0.5, growing ball", GROWING) for rule in ("random", "low p_y")],
    LOW: [
        *((f"low p_y {share}", f"random {share}") for share in SHARES),
        ("low p_y 0.5, growing ball", "random 0.5, growing ball"),
    ],
    OLDEST: [(f"oldest {share}", f"random {share}") for share in SHARES],
    "A ball that grows over 0.6 of the run, against one of full size": [(GROWING, "all")],
    "A ball that grows as the rule's perturbations do, against one of full size": [
        (f"all, ball growing as random {share}", "all") for share in SHARES
    ],
    "As many updates as with rho 0.5, for 1.25 times the compute": [("all, as many updates as random 0.5", "all")],
    "Rho 0.5 with as many updates as all, for 0.8 times the compute": [("random 0.5, as many updates as all", "all")],
    "PGD-2, against one remembered step": [("PGD-2", "all")],
    "FGSM-PGI, against one remembered step": [("FGSM-PGI", "all")],
}
"""The questions of the studies of re-attacking, and the pairs of methods that answer: with the part, and without."""

AHEAD, LEVEL = "{} is ahead of {}", "{} is not ahead of {} beyond chance"
CONCLUSIONS = {
    (True, True): "the selector is worth its cost",
    (True, False): "a gain of the schedule, not of the selector",
    (False, True): "no gain over the schedule",
    (False, False): "no gain",
}
"""By whether a share attacked again beats the growing ball, and whether a rule beats random."""

BUDGETS = ("0.5", "0.3", "0.1")
FREE_ROWS: dict[str, Pairs] = {
    "GradMatch with free rows, against random": [(f"GradMatch @ {b}", f"random @ {b}") for b in BUDGETS],
    "CRAIG with free rows, against random": [(f"CRAIG @ {b}", f"random @ {b}") for b in BUDGETS],
    "GradMatch with an attack of all, against random": [
        (f"GradMatch, attacked @ {b}", f"random @ {b}") for b in BUDGETS
    ],
    "Free rows, against an attack of all (GradMatch)": [
        (f"GradMatch @ {b}", f"GradMatch, attacked @ {b}") for b in BUDGETS
    ],
    "The refresh (GradMatch)": [(f"GradMatch, refreshed @ {b}", f"GradMatch @ {b}") for b in BUDGETS],
    "A random subset, against all data for fewer epochs": [(f"random @ {b}", f"shortened @ {b}") for b in BUDGETS],
    "GradMatch with free rows, against all data for fewer epochs": [
        (f"GradMatch @ {b}", f"shortened @ {b}") for b in BUDGETS
    ],
}
POOL_SHARES = ("0.25", "0.5")
POOL_SOLVERS = {
    "GradMatch": "GradMatch, target real",
    "CRAIG": "CRAIG, target real",
    "boundary": "Boundary and k-means",
}
POOLS: dict[str, Pairs] = {
    **{
        f"{title}, against random": [(f"{solver} {b}", f"random {b}") for b in POOL_SHARES]
        for solver, title in POOL_SOLVERS.items()
    },
    "A random share, against the whole pool": [(f"random {b}", "whole pool") for b in POOL_SHARES],
    "The whole pool, against no pool": [("whole pool", "no pool")],
}


def test(sections: Mapping[str, Groups], questions: Mapping[str, Pairs]) -> Tested:
    """All comparisons of a page: those of each section's questions."""
    return compare_all(ask_all(sections, questions))


def section(title: str, found: Groups, questions: Mapping[str, Pairs], tested: Tested, reference: str) -> list[str]:
    """One suite: its table for `last`, the answers, and its table for `best`."""
    first = next(iter(found.values()))[0]
    n, device = first.final["last"]["clean"]["n"], first.environment["device"]
    lines = [f"## {title}", "", describe_means(found, f"{n:,}", device)]
    lines += [f"{describe_varied(found)} {cost_notes(found, reference)}", "", table(found, "last", reference), ""]
    lines += flag_lines(found, "last")
    lines += [answers(title, found, questions, tested), "Checkpoint `best`:", "", table(found, "best", reference), ""]
    return lines


def judge_reattack(title: str, tested: Tested) -> str:
    """The verdict of the study: whether rho < 1 beats rho = 1, and whether a rule beats random."""
    if not any((title, question) in tested for question in (AGAINST_GROWING, LOW)):
        return "there are not enough runs for a verdict yet"
    schedule = _any_beats(tested, title, (AGAINST_GROWING, BOTH_GROW))
    rule = _any_beats(tested, title, (LOW, OLDEST))
    alone = _any_beats(tested, title, (AGAINST_ALL,))
    parts = [
        (AHEAD if alone else LEVEL).format("attacking a share again", "attacking all"),
        (AHEAD if schedule else LEVEL).format("it", "a growing ball"),
        (AHEAD if rule else LEVEL).format("a rule", "random"),
    ]
    return f"{', '.join(parts)}: **{CONCLUSIONS[schedule, rule]}**"


def _any_beats(tested: Tested, title: str, questions: Sequence[str]) -> bool:
    return any(tested[title, name].verdict == "beats" for name in questions if (title, name) in tested)


def list_verdicts(title: str, questions: Mapping[str, Pairs], tested: Tested) -> list[str]:
    """Return one line per question of a section that was answered beyond chance."""
    if not any((title, question) in tested for question in questions):
        return ["- There are not enough runs for a test yet."]
    lines = []
    for question in questions:
        comparison = tested.get((title, question))
        if comparison is not None and comparison.verdict != "level":
            mean = comparison.estimate.mean
            lines.append(f"- {question}: {mean:+.1f} points (corrected p = {comparison.corrected:.3f}).")
    return lines or ["- No tested difference is beyond chance."]


def staleness_table(found: Groups) -> str:
    """How old and how wrong the rows of the selections were, and the gradient errors of their coresets."""
    rows = []
    for name, records in found.items():
        entries = [entry for record in records for entry in record.selections]
        if entries and name.startswith(("GradMatch", "CRAIG")):
            columns = ("row_age", "row_error", "gradient_error", "gradient_error_full", "gradient_error_random")
            rows.append((name, *(_format_mean(entries, column) for column in columns)))
    errors = ("row error", "gradient error", "against fresh rows", "of a random subset")
    return to_markdown(("method", "age of rows, epochs", *errors), rows)


def _format_mean(entries: Sequence[Mapping], key: str) -> str:
    values = [entry[key] for entry in entries if entry.get(key) is not None]
    return f"{statistics.fmean(values):.2f}" if values else "–"


REATTACK_HEAD = """# What to attack again, and whether it is worth it

This page is made from the committed [records](../docs/glossary.md#record) of the suites `reattack-mnist` and
`reattack-cifar10`; `advcore bench benchmarks/suites/NAME.yaml` runs such a suite. In each batch, only a share rho of
the examples takes a new attack step, which starts from the remembered perturbation
([how](../docs/minibatch.md#attacking-a-share-again)). The rules *random*, *low p_y* and *oldest* choose this share at
random, by the lowest probability of the true class (p_y) at the last visit, or by the oldest perturbation. The other
examples are trained on with their remembered perturbations. In a row's name, the number is rho; *all* has rho 1. All
rows have the same [compute](../docs/glossary.md#compute) unless their names say otherwise.

Such a rule has two side effects: more updates for the same compute, and perturbations that are weak early in training.
Two kinds of rows separate these effects from the choice of examples. *As many updates* means the same number of updates
as the named row. *Growing ball* means that the ball's radius grows during training. In *ball growing as random 0.5*,
the radius follows the mean size of the perturbations under *random 0.5*. *full* is [full
training](../docs/glossary.md#full-training), and FGSM-PGI is a [cheap attack](../docs/savings.md).
"""
FREE_ROWS_HEAD = """# Free gradient rows, and whether they are worth it

This page is made from the committed [records](../docs/glossary.md#record) of the suite `free-rows`, which `advcore
bench benchmarks/suites/free-rows.yaml` runs. The coresets are chosen from [gradient rows](../docs/glossary.md#row) that
are stored during training. This needs no extra attack ([how](../docs/savings.md#selecting-without-an-attack)). They are
compared with random subsets of the same [compute](../docs/glossary.md#compute), at budgets of 0.1, 0.3 and 0.5.
*Refreshed* means that after each epoch, 5 % of the examples outside the coreset are attacked and measured again.
*Attacked* means that all examples are attacked at each selection. Both have a smaller budget, so that their total cost
stays the same.
"""
POOLS_HEAD = """# Selecting from a pool, and whether it is worth it

This page is made from the committed [records](../docs/glossary.md#record) of the suites `pools` and `pools-redundant`;
`advcore bench benchmarks/suites/NAME.yaml` runs such a suite. The data are 5,000 labeled CIFAR-10 images and a pool. A
teacher, which was trained on these images alone, labels the pool. The teacher's errors are real: {errors} of the
pool's labels are wrong. Each batch takes 70 % of its examples from the pool, or from the part of the pool that a
selector chose.
"""


def study_text(
    head: str,
    sections: Mapping[str, Groups],
    questions: Mapping[str, Pairs],
    reference: str,
    judge: Callable[[str, Tested], str] | None = None,
) -> str:
    """A page of one or several suites: what is beyond chance, then each suite's tables and answers.

    judge : the verdict of a section, from its title and the page's comparisons; None for a page without verdicts.
    """
    if not sections:
        return f"{head}\nThere is no record yet. The [schedule](schedule.md) lists the runs.\n"
    tested = test(sections, questions)
    verdicts = [f"{title}: {judge(title, tested)}.\n" for title in sections] if judge else []
    lines = [head, *verdicts, "In short, for checkpoint `last`:", ""]
    for title, found in sections.items():
        lines += [f"{title} ({describe_seeds(found)}):", "", *list_verdicts(title, questions, tested), ""]
    lines += [explain_test(tested.values()), ""] if tested else []
    for title, found in sections.items():
        lines += section(title, found, questions, tested, reference)
    return "\n".join(lines)


def describe_seeds(found: Groups) -> str:
    """How many runs the methods have, at least and at most."""
    counts = [len(records) for records in found.values()]
    if min(counts) < max(counts):
        return f"{min(counts)} to {max(counts)} seeds so far"
    return format_count(counts[0], "seed")


def reattack_text(sections: Mapping[str, Groups]) -> str:
    """benchmarks/reattack_study.md."""
    return study_text(REATTACK_HEAD, sections, REATTACK, "all", judge_reattack)


def free_rows_text(sections: Mapping[str, Groups]) -> str:
    """benchmarks/free_rows.md."""
    page = study_text(FREE_ROWS_HEAD, sections, FREE_ROWS, "all")
    if not sections:
        return page
    tables = [f"{title}:\n\n{staleness_table(found)}\n" for title, found in sections.items()]
    return "\n".join([page, "## How stale the rows are", "", STALENESS, "", *tables])


STALENESS = """All numbers are means over selections and seeds. Fresh rows are those of a new attack on the current
model, on a sample of examples. *Row error* is the distance between stored and fresh rows, divided by the length of the
fresh rows. *Against fresh rows* is the coreset's gradient error on this sample, computed with fresh rows."""


GRADMATCH = "GradMatch with free rows, against random"
SHORTENED = "GradMatch with free rows, against all data for fewer epochs"
BETTER = {"beats": "better than", "below": "worse than", "level": "not distinguishable from"}


def describe_free_rows(sections: Mapping[str, Groups]) -> str:
    """Say in docs/savings.md what coresets from stored rows are worth, by the page's tests; nothing without records."""
    tested = test(sections, FREE_ROWS)
    sentences = []
    for title, found in sections.items():
        if (title, GRADMATCH) not in tested:
            continue
        random, fewer = (_describe_tested(tested[title, question]) for question in (GRADMATCH, SHORTENED))
        gaps = ", ".join(gap_text(found, *pair) for pair in FREE_ROWS[SHORTENED] if several(found, *pair))
        sentences.append(
            f"In the [study](../benchmarks/free_rows.md) ({title}), GradMatch coresets from stored rows, at budgets of "
            f"{', '.join(BUDGETS)}, are {random[0]} random subsets of the same compute ({random[1]}), and "
            f"{fewer[0]} training on all data for fewer epochs ({fewer[1]}; by budget: {gaps})."
        )
    return "\n".join(sentences)


def _describe_tested(comparison: Comparison) -> tuple[str, str]:
    """Return the verdict in words, and the difference with its corrected p-value."""
    estimate = comparison.estimate
    numbers = f"{estimate.mean:+.1f} ± {estimate.half_width:.1f} points, corrected p = {comparison.corrected:.3f}"
    return BETTER[comparison.verdict], numbers


def pools_text(sections: Mapping[str, Groups], wrong: float) -> str:
    """benchmarks/pools.md. wrong : the share of the pool's labels that the teacher gets wrong."""
    return study_text(POOLS_HEAD.format(errors=f"{wrong:.1%}"), sections, POOLS, "whole pool")
