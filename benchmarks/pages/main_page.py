"""The page of the main tables: methods in blocks of equal cost, each with the baselines of its block."""

import figures
from figures import Groups, Tested, answers, ask, ask_all, cost_notes, describe_unit, front, list_flags, verdict

from advcore.reporting.statistics import compare_all
from advcore.reporting.tables import compare_methods, to_markdown
from advcore.reporting.verdicts import describe_varied, explain_test

BLOCKS = {"": "100 %", "0.5": "50 %", "0.3": "30 %", "0.15": "15 %"}
"""The text after the @ in a method's name, and the cost of its block, relative to full training."""
SINGLE = ("FAT", "N-FGSM", "one step, remembered")
"""Methods on all data for all epochs: they cost a quarter, and are listed in the block of 30 %."""

MEMORY = "Remembering perturbations from epoch to epoch"
QUESTIONS = {
    MEMORY: [
        ("one step, remembered", "FAT"),
        *(
            (f"one step, remembered, {n} epochs @ {b}", f"FAT, {n} epochs @ {b}")
            for n, b in ((40, 0.5), (24, 0.3), (12, 0.15))
        ),
        *(
            (f"one short step, remembered, {n} epochs @ {b}", f"FAT, short steps, {n} epochs @ {b}")
            for n, b in ((40, 0.5), (24, 0.3), (12, 0.15))
        ),
        ("PGD-3, remembered @ 0.5", "PGD-3 @ 0.5"),
        ("PGD-2, remembered, 16 epochs @ 0.3", "PGD-2, 16 epochs @ 0.3"),
        ("PGD-2, remembered, 8 epochs @ 0.15", "PGD-2, 8 epochs @ 0.15"),
    ],
    "GradMatch's coreset, compared with random subsets of the same cost": [
        *((f"GradMatch @ {b}", f"random @ {b}") for b in (0.5, 0.3, 0.15)),
        ("GradMatch, one step, remembered @ 0.15", "random, one step, remembered @ 0.15"),
        ("GradMatch, PGD-2, remembered @ 0.15", "random, PGD-2, remembered @ 0.15"),
    ],
    "CRAIG's coreset, compared with random subsets of the same cost": [
        (f"CRAIG @ {b}", f"random @ {b}") for b in (0.5, 0.3, 0.15)
    ],
    "EasyCore's coreset with early scores, compared with random subsets of the same cost": [
        (f"EasyCore, early scores @ {b}", f"random @ {b}") for b in (0.5, 0.3, 0.15)
    ],
    "A random subset, compared with all data for fewer epochs": [
        (f"random @ {b}", f"shortened @ {b}") for b in (0.5, 0.3, 0.15)
    ],
}
"""Questions, and the pairs of methods that answer them: with the part, and without it."""
COMPOSED = "GradMatch, one step, remembered @ 0.15"
AGAIN = {
    "GradMatch's coreset with remembered steps, compared with a random subset of the same cost": [
        (COMPOSED, "random, one step, remembered @ 0.15")
    ],
    "The same coreset, compared with fast adversarial training on all data": [(COMPOSED, "FAT, 12 epochs @ 0.15")],
    "The same coreset, compared with remembered steps on all data": [
        (COMPOSED, "one step, remembered, 12 epochs @ 0.15")
    ],
    "Remembering perturbations, on all data": [("one step, remembered, 12 epochs @ 0.15", "FAT, 12 epochs @ 0.15")],
}
"""The questions to the runs with other seeds, at both checkpoints."""
OTHERS, AT_BEST = "six other seeds", "six other seeds, checkpoint best"

HEAD = """# Methods at equal cost

This page is made from the committed [records](../docs/glossary.md#record) of the suites `main-cifar10`, `main-mnist`,
`main-repeat`, `main-strong` and `main-mnist-strong`; `advcore bench benchmarks/suites/NAME.yaml` runs such a suite.
Terms are explained in the [glossary](../docs/glossary.md).

A small CNN is trained on 4,000 images (10 % for validation). The reference, full training, is 20 epochs of PGD-7.
Accuracies are means ± sample standard deviations over seeds. Robust accuracies are for PGD-50 on 4,000 test images, and
for checkpoint `last` unless stated otherwise. Methods in bold are on the Pareto front.

Methods of about the same cost form a block. The column *cost, about* names the block, and *@ 0.5* after a method means
the block of 50 %. Each block includes the obvious baselines: random subsets, fewer epochs
([shortened](../docs/glossary.md#shortened)), fewer attack steps (PGD-3, PGD-2) and single steps (FAT, N-FGSM). Each
baseline trains for as many epochs as the cost of the block allows. *GradMatch x margin* is the margin rule
([rules](../docs/minibatch.md#rules)) on GradMatch's coreset.

In short, on CIFAR-10:

- Judged by the means, a cheap attack on all data, for as many epochs as the cost allows, is ahead of everything else.
  If its perturbations are remembered, it gains half a point at no cost, and a third of a point on six other seeds.
- At half the cost, training with remembered single steps ends above full training with each seed under PGD-50.
  AutoAttack on 200 images cannot distinguish the two.
- Coresets that are trained on with the full attack are within half a point of random subsets of the same cost. Cheaper
  attacks on all data are ahead of both. EasyCore's coresets, and the margin rule on a coreset, are behind all of these.
- **After the correction for the number of comparisons on this page, none of these differences is beyond chance**: three
  seeds are few.
- On three seeds, GradMatch's coreset with remembered single steps was ahead of random subsets and of fast adversarial
  training. This was repeated on six other seeds, which had not been looked at before. There, the coreset is ahead of a
  random subset of the same cost at checkpoint `last`, but not beyond chance. At checkpoint `best` it is behind, beyond
  chance. The coreset cannot be distinguished from remembered steps on all data. What three seeds show for one method
  among twenty has to be tested again.

In short, on MNIST:

- The ball is large, and the size of single steps matters. Steps of 1.25 eps, as published, fail: FAT and N-FGSM are
  near 0 %, [flagged](../docs/glossary.md#flag) as masked. Two changes were tried with seed 0 and did not fail: shorter
  steps, and a ball that grows over ten epochs. The table has *short steps* of 0.25 (pixels are in [0, 1]). These still
  collapse in two of nine runs.
- With remembered perturbations, short steps are ahead of everything else at 50 % and 30 % of the cost. There they are
  more than six points ahead of full training with each seed. At 15 %, one run of three collapses; with two remembered
  steps, also one of three. AutoAttack removes most of this lead: on 200 images, full training and remembered steps
  cannot be distinguished.
- Judged by the means, coresets that are trained on with the full attack are behind random subsets, and more than 20
  points behind PGD-3 on all data. Only one difference on MNIST is beyond chance: EasyCore's coresets are behind random
  subsets.
- Collapsed runs are counted separately. Means and comparisons leave them out.

EasyCore is run here with *early scores*: input-gradient norms, averaged over the 2 to 5 epochs of adversarial training
before the run's first selection. With these scores, EasyCore selects class by class, and again every fourth epoch. The
paper does it differently: it averages the scores over a whole standard training, computes them once, and ranks all
examples together. The suites `papers/easycore-standard` and `papers/easycore-trades` follow the paper. They have not
been run yet.

Only the questions in bold below are tested, each over all of its pairs of methods together. To compare each method with
each baseline of its block, some 170 more comparisons would be needed. Three seeds are too few for that.
"""


AUTOATTACK = """The table has the methods on the Pareto front and those nearest to the front. PGD-50 above is measured
on other images, and on more of them. Compare accuracies only within this table."""


def block(method: str) -> str:
    """The block's key in `BLOCKS`."""
    return "0.3" if method in SINGLE else method.partition(" @ ")[2]


def short(method: str) -> str:
    return method.partition(" @ ")[0]


def blocks(found: Groups) -> dict[str, list[str]]:
    """Methods of each block, in the suite's order."""
    return {key: own for key in BLOCKS if (own := [method for method in found if block(method) == key])}


def table(found: Groups, which: str = "last") -> str:
    """All methods, block by block; for `last`, those on the front in bold."""
    bold = front(found) if which == "last" else []
    names = [name for own in blocks(found).values() for name in own]
    ordered = {name: found[name] for name in names}
    head, rows = compare_methods(ordered, which, against=figures.speed_reference(found))
    rows = [
        (f"**{short(name)}**" if name in bold else short(name), BLOCKS[block(name)], *row[1:])
        for name, row in zip(names, rows, strict=True)
    ]
    return to_markdown((head[0], "cost, about", *head[1:]), rows)


def test(sections: dict[str, Groups], repeated: Groups) -> Tested:
    """All comparisons of the page."""
    return compare_all(
        ask_all(sections, QUESTIONS) | ask(OTHERS, repeated, AGAIN) | ask(AT_BEST, repeated, AGAIN, "best")
    )


def section(title: str, found: Groups, tested: Tested) -> str:
    """One data set."""
    first = next(iter(found.values()))[0]
    device = first.environment["device"]
    about = f"The device was {device}. {describe_varied(found)} {describe_unit(found)} {cost_notes(found)}"
    lines = [f"## {title}", "", about]
    lines += ["", table(found), ""]
    flags = "; ".join(list_flags(found, "last"))
    lines += [f"Flags, each after its method ([what they mean](../docs/evaluation.md)): {flags}.\n"] if flags else []
    lines += [answers(title, found, QUESTIONS, tested), "Checkpoint `best`:", "", table(found, "best"), ""]
    return "\n".join(lines)


def again(found: Groups, tested: Tested) -> str:
    """The section of the runs with other seeds, which no choice was based on."""
    lines = ["## 15 % of the cost: a repeat with six other seeds", ""]
    lines += ["These runs test what the CIFAR-10 table above suggests. That table does not contain them."]
    lines += [describe_varied(found)]
    lines += [cost_notes(found), "", figures.table(found), "", answers(OTHERS, found, AGAIN, tested)]
    lines += ["Checkpoint `best`:", "", figures.table(found, "best"), ""]
    lines += [f"- {question}: {verdict(tested[AT_BEST, question])}." for question in AGAIN]
    return "\n".join([*lines, ""])


def page(sections: dict[str, Groups], repeated: Groups, strong: dict[str, Groups]) -> str:
    """The whole page; `repeated`: some methods with other seeds; `strong`: each data set's front under AutoAttack."""
    tested = test(sections, repeated)
    lines = [HEAD, explain_test(tested.values()), ""]
    lines += [section(title, found, tested) for title, found in sections.items()]
    lines += [again(repeated, tested)] if repeated else []
    for title, found in strong.items():
        n = next(iter(found.values()))[0].final["last"]["attacks"][0]["n"]
        lines += [f"## {title}: {n} images, seed 0", "", AUTOATTACK, cost_notes(found), "", figures.table(found), ""]
    return "\n".join(lines)
