"""The page of the minibatch study: tables, and which rules beat baselines of the same cost."""

import statistics
from collections.abc import Mapping

from figures import Groups, Tested, ask, cost_notes, describe_gap, list_flags, several, table, verdict

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

From the committed records of the suites `minibatch-mnist`, `minibatch-cifar10`, `minibatch-factors` and
`minibatch-strong` (`advcore bench benchmarks/suites/NAME.yaml`). A small CNN is trained on 4,000 images (10 % for
validation) for 10 epochs of PGD-7: a small study, whose models are far from converged. Costs are relative to `full`.
The baseline of a rule ([the rules](../docs/minibatch.md#rules)) has the same cost: random attacks a larger part of each
batch, a random coreset is larger and trains for one epoch more, and a random mix of clean and attacked images trains
for 20 epochs.

In short, judged by the means over seeds:

- No rule is ahead of random at the same cost here, and attacking all data with fewer steps is ahead of them all. One of
  the comparisons below is beyond chance after the correction for their number: margin is worse than random on MNIST.
- A selection attacks all examples with the full attack, which costs almost one epoch of ten. Random spends this cost
  on updates. What margin and gradient matching spend on scoring, random spends on attacking more examples.
- An example's score under gradient matching in one epoch says little about its score in the next
  ([diagnostics](diagnostics.md)), and unbiased weights do not fix this.
- Loss-ranked training costs more than full training, because the examples that it leaves out have already been
  attacked.
- PGD-20 overrates rules that attack only a part of each batch. Under AutoAttack, at the end of this page, margin falls
  far behind random on MNIST, with the one seed that was evaluated in this way.
"""


FACTORS = """The base is rho 0.25 (random: 0.3, which costs the same), a warm-up of 2 epochs, and lambda 0.2, the weight
of the loss on clean images. `corrected` weights the drawn examples by their inverse probability, so that the expected
loss is that of the whole batch."""


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
        f"Mean ± sample deviation over seeds, {n} test images, checkpoint `last`, device {device}.",
    ]
    lines += ["", cost_notes(found), "", table(found)]
    lines += [f"\nFlags: {told}." for told in ["; ".join(list_flags(found, "last"))] if told]
    lines += ["", f"Are differences beyond chance? {describe_varied(found)}", ""]
    lines += [f"- {question}: {verdict(result)}." for (of, question), result in tested.items() if of == title]
    lines += ["", "Does the choice of what to attack become uniform? The entropy of the draws (1 is uniform):", ""]
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
        tail += [f"{data}. {cost_notes(own)}", "", table(own), ""]
    tested = test(sections)
    told = [f"{section(title, found, tested)}\n" for title, found in sections.items()]
    return "\n".join([HEAD, f"{explain_test(tested.values())}\n", *told, single, *tail])
