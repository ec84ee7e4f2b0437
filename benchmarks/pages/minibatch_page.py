"""The page of the minibatch study: tables, and which rules beat baselines of the same cost."""

import statistics
from collections.abc import Mapping

from figures import Groups, Tested, ask, cost_notes, describe_gap, describe_means, list_flags, several, table, verdict

from advcore.reporting.statistics import compare_all
from advcore.reporting.verdicts import describe_varied, explain_test

BASELINES = {
    "margin": ["random", "shortened", "fewer steps"],
    "gradient matching": ["random", "shortened", "fewer steps"],
    "loss-ranked": ["random mix", "full"],
    "coreset": ["random coreset", "shortened to 6"],
    "coreset x margin": ["random coreset x random", "shortened"],
}
"""Each rule, and its baselines: random at the same cost first."""


HEAD = """# Saving inside the minibatch

This page is made from the committed [records](../docs/glossary.md#record) of the suites `minibatch-mnist`,
`minibatch-cifar10`, `minibatch-factors` and `minibatch-strong`; `advcore bench benchmarks/suites/NAME.yaml` runs such a
suite. A small CNN is trained on 4,000 images (10 % for validation) for 10 epochs of PGD-7. This is a small study, and
its models are far from converged. Costs are relative to `full`, which is [full
training](../docs/glossary.md#full-training).

Each method has a random baseline of the same cost ([the rules](../docs/minibatch.md#rules)). For margin and gradient
matching, it is *random*, which attacks a larger part of each batch. For a coreset, it is a larger random coreset that
trains for one epoch more. For loss-ranked, it is a random mix of clean and attacked images that trains for 20 epochs.
*Shortened* trains on all data for 4 epochs, *shortened to 6* for 6 ([shortened](../docs/glossary.md#shortened)).
*Coreset x margin* uses the margin rule on a coreset.

In short, judged by the means over seeds:

- No rule is ahead of random at the same cost here. An attack with fewer steps on all data is ahead of all rules. After
  the correction for their number, one of the comparisons below is beyond chance: margin is worse than random on MNIST.
- A selection attacks all examples with the full attack, which costs almost one epoch of ten. A random coreset spends
  this cost on updates instead. What margin and gradient matching spend on scoring, the random rule spends on attacking
  more examples.
- Under gradient matching, an example's score in one epoch says little about its score in the next
  ([diagnostics](diagnostics.md)). Weighting the drawn examples by their inverse probability (`corrected`, below) does
  not help.
- Loss-ranked training costs more than full training, because the examples that it leaves out have already been
  attacked.
- PGD-20 overestimates the robustness of rules that attack only a part of each batch. One seed was also evaluated under
  AutoAttack (end of this page). There, margin falls far behind random on MNIST.
"""


FACTORS = """The base has [rho](../docs/glossary.md#rho) 0.25, a warm-up of 2 epochs without scores, and lambda 0.2, the
weight of the loss on clean images. *Random* has rho 0.3, which costs the same, and no warm-up. `corrected` weights the
drawn examples by their inverse probability, so that the expected loss is the loss of the whole batch."""


def list_questions(found: Groups) -> dict[str, list[tuple[str, str]]]:
    """Return a question of one pair for each rule and each of its baselines."""
    pairs = [
        (rule, name) for rule, others in BASELINES.items() for other in others for name in found if _is(name, other)
    ]
    return {f"{rule} compared with {name}": [(rule, name)] for rule, name in pairs if rule in found}


def _is(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other} (")


def test(sections: Mapping[str, Groups]) -> Tested:
    """All comparisons of the page."""
    asked = [ask(title, found, list_questions(found)) for title, found in sections.items()]
    return compare_all({key: differences for part in asked for key, differences in part.items()})


def section(title: str, found: Groups, tested: Tested) -> str:
    """One data set: its table, and one sentence per question."""
    first = next(iter(found.values()))[0]
    n, device = first.final["last"]["clean"]["n"], first.environment["device"]
    lines = [
        f"## {title}",
        "",
        f"{describe_means(found, str(n), device)} The checkpoint is `last`.",
    ]
    lines += ["", cost_notes(found), "", table(found)]
    lines += [f"\nFlags: {told}." for told in ["; ".join(list_flags(found, "last"))] if told]
    lines += ["", f"Are differences beyond chance? {describe_varied(found)}", ""]
    lines += [f"- {question}: {verdict(result)}." for (of, question), result in tested.items() if of == title]
    lines += ["", "Do the rules come to choose uniformly? The entropy of their draws (a uniform choice has 1):", ""]
    for rule in ("margin", "gradient matching"):
        records = found.get(rule, ())
        if records:
            places = (records[0].config["minibatch"]["warm_up"], -1)
            first, last = (statistics.mean(one.epochs[i]["minibatch"]["entropy"] for one in records) for i in places)
            lines.append(f"- {rule}: {first:.2f} in the first epoch with scores, {last:.2f} in the last.")
    return "\n".join(lines)


def factors(found: Groups, base: Groups) -> str:
    """One factor at a time: each rule against random at its cost; the base's random where it has no such setting."""
    shown = {f"{name}, base": base[name] for name in ("margin", "random")} | {
        "gradient matching, base": base["gradient matching"],
        **found,
    }
    lines = ["## One factor at a time, CIFAR-10 (JPEG copies)", ""]
    lines += [FACTORS, ""]
    lines += [cost_notes(shown), "", table(shown), ""]
    for name in shown:
        rule, factor = name.split(", ")
        other = f"random, {factor}" if f"random, {factor}" in shown else "random, base"
        if rule != "random" and several(shown, name, other):
            lines.append(f"- {name}: {describe_gap(shown, name, other)}.")
    return "\n".join([*lines, ""])


def page(sections: Mapping[str, Groups], single: str, strong: Groups) -> str:
    """The whole page; `single`: the section of factors; `strong`: the runs under AutoAttack."""
    tail = ["## AutoAttack, 200 images, seed 0", ""] if strong else []
    for data in dict.fromkeys(name.rsplit(", ", 1)[0] for name in strong):
        own = {name.rsplit(", ", 1)[1]: records for name, records in strong.items() if name.startswith(f"{data}, ")}
        tail += [f"{data}:", "", cost_notes(own), "", table(own), ""]
    tested = test(sections)
    told = [f"{section(title, found, tested)}\n" for title, found in sections.items()]
    return "\n".join([HEAD, f"{explain_test(tested.values())}\n", *told, single, *tail])
