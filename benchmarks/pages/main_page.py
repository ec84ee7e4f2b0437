"""The page of the main tables: methods in blocks of equal cost, each with the baselines of its block."""

import figures
from figures import Groups, Tested, answers, ask, ask_all, cost_notes, front, list_flags, speed_reference, verdict

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

From the committed records of the suites `main-cifar10`, `main-mnist`, `main-repeat`, `main-strong` and
`main-mnist-strong` (`advcore bench benchmarks/suites/NAME.yaml`). Terms are explained in the
[glossary](../docs/glossary.md).

A small CNN is trained on 4,000 images (10 % for validation). The reference, full training, is 20 epochs of PGD-7.
Robust accuracies are for PGD-50 on 4,000 test images, and for checkpoint `last` unless stated otherwise: mean ± sample
deviation over seeds. Methods in bold are on the Pareto front. The methods of a block have about the same cost. Each
block includes the obvious baselines: random subsets, fewer epochs (shortened), fewer attack steps (PGD-3, PGD-2) and
single steps (FAT, N-FGSM), each for as many epochs as the cost of the block allows.

In short, on CIFAR-10:

- Judged by the means, a cheap attack on all data, for as many epochs as the cost allows, is ahead of everything else.
  Remembering its perturbations adds half a point at no cost, and a third of a point on six other seeds.
- With remembered single steps, half the cost of full training is enough to end above full training with each seed
  under PGD-50. AutoAttack on 200 images cannot distinguish the two.
- Coresets trained with the full attack are within half a point of random subsets of the same cost, and behind cheaper
  attacks. EasyCore's coresets, and the margin rule on a coreset, are behind both.
- **None of these differences is beyond chance once it is corrected for the number of comparisons on this page**: three
  seeds are few.
- Combined with remembered single steps, GradMatch's coreset was ahead of random subsets and of fast adversarial
  training on three seeds. This was repeated on six others, which had not been looked at before. There the coreset is
  ahead of a random subset of the same cost at checkpoint `last`, not beyond chance, and behind it at checkpoint `best`,
  beyond chance. It cannot be distinguished from remembered steps on all data. What three seeds show for one method
  among twenty has to be tested again.

In short, on MNIST:

- The ball is large, and the size of single steps matters. Steps of 1.25 eps, as published, fail: FAT and N-FGSM are
  near 0 %, flagged as masked. Shorter steps, and a ball that grows over ten epochs, were tried with seed 0 and did not
  fail. The table has steps of 0.25 (pixels are in [0, 1]), which still collapse in two of nine runs.
- With remembered perturbations, such steps are ahead of everything else at 50 % and 30 % of the cost, and more than six
  points ahead of full training with each seed. At 15 %, one run of three collapses, and so does one with two remembered
  steps. AutoAttack removes most of that lead: on its 200 images, full training and remembered steps cannot be
  distinguished.
- Coresets trained with the full attack are behind random subsets by their means, and more than 20 points behind PGD-3
  on all data. Only one difference here is beyond chance: EasyCore's coresets are behind random subsets.
- Collapsed runs are counted separately: they are in no mean and in no comparison.

EasyCore is run here with *early scores*: input-gradient norms averaged over the run's own 2 to 5 epochs of adversarial
training before the first selection. With these scores it selects class by class, and again every fourth epoch. The
paper averages its scores over a whole standard training, computes them once, and ranks all examples together. The
suites `papers/easycore-standard` and `papers/easycore-trades` do that, and have not been run yet.

Only the questions below are tested, each over all of its pairs of methods at once. Comparing each method with each
baseline of its block would add some 170 comparisons, for which three seeds are too few.
"""


AUTOATTACK = """The table has the methods on the Pareto front and those nearest to it. PGD-50 above is measured on other
images, and on more of them, so compare accuracies within this table only."""


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
    head, rows = compare_methods(ordered, which, against=speed_reference(found))
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
    lines = [f"## {title}", "", f"Device {first.environment['device']}. {describe_varied(found)} {cost_notes(found)}"]
    lines += ["", table(found), ""]
    flags = "; ".join(list_flags(found, "last"))
    lines += [f"Flags ([what they mean](../docs/evaluation.md)): {flags}.\n"] if flags else []
    lines += [answers(title, found, QUESTIONS, tested), "Checkpoint `best`:", "", table(found, "best"), ""]
    return "\n".join(lines)


def again(found: Groups, tested: Tested) -> str:
    """The section of the runs with other seeds, which no choice was based on."""
    lines = ["## 15 % of the cost: a repeat with six other seeds", ""]
    lines += ["These runs test what the table above suggests; none of them is in that table.", describe_varied(found)]
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
