"""The page of the main tables: methods in blocks of equal cost, each beside the baselines of its block."""

import figures
from figures import Groups, Tested, answers, ask, cost_notes, front, speed_reference, verdict

from advcore.reporting.statistics import compare_all
from advcore.reporting.tables import compare_methods, list_flags, to_markdown
from advcore.reporting.verdicts import describe_varied, explain_test

BLOCKS = {"": "full training", "0.5": "a half", "0.3": "three tenths", "0.15": "three twentieths"}
"""What follows the @ of a method's name, and what its block is called."""
SINGLE = ("FAT", "N-FGSM", "one step, remembered")
"""Of all data for all epochs, in the block of three tenths: they cost a quarter."""

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
    "GradMatch's coreset, beside random subsets of its cost": [
        *((f"GradMatch @ {b}", f"random @ {b}") for b in (0.5, 0.3, 0.15)),
        ("GradMatch, one step, remembered @ 0.15", "random, one step, remembered @ 0.15"),
        ("GradMatch, PGD-2, remembered @ 0.15", "random, PGD-2, remembered @ 0.15"),
    ],
    "CRAIG's coreset, beside random subsets of its cost": [(f"CRAIG @ {b}", f"random @ {b}") for b in (0.5, 0.3, 0.15)],
    "EasyCore's with early scores, beside random subsets of its cost": [
        (f"EasyCore, early scores @ {b}", f"random @ {b}") for b in (0.5, 0.3, 0.15)
    ],
    "A random subset, beside all data for fewer epochs": [
        (f"random @ {b}", f"shortened @ {b}") for b in (0.5, 0.3, 0.15)
    ],
}
"""What is asked, and the pairs of methods that answer: with the part, and without."""
COMPOSED = "GradMatch, one step, remembered @ 0.15"
AGAIN = {
    "GradMatch's coreset with remembered steps, beside a random subset of its cost": [
        (COMPOSED, "random, one step, remembered @ 0.15")
    ],
    "The same, beside all data with fast adversarial training": [(COMPOSED, "FAT, 12 epochs @ 0.15")],
    "The same, beside all data with remembered steps": [(COMPOSED, "one step, remembered, 12 epochs @ 0.15")],
    "Remembering, on all data": [("one step, remembered, 12 epochs @ 0.15", "FAT, 12 epochs @ 0.15")],
}
"""The same, of the runs with other seeds, at both checkpoints."""
OTHERS, AT_BEST = "six other seeds", "six other seeds, checkpoint best"

HEAD = """# Methods at equal cost

From the committed records of the suites `main-cifar10`, `main-mnist`, `main-repeat`, `main-strong` and
`main-mnist-strong` (`advcore bench benchmarks/suites/NAME.yaml`). 4,000 training images (10 % for validation), small
CNN, 20 epochs of PGD-7 as the reference, PGD-50 on 4,000 test images, checkpoint `last` unless it says otherwise;
mean ± sample deviation over seeds; bold: on the front. Blocks are of about equal cost. The baselines, what one would
do instead: random subsets, fewer epochs (shortened), fewer attack steps (PGD-3, PGD-2), one (FAT, N-FGSM), each for
the epochs that its block pays for.

In short, on CIFAR-10: by its means, a cheap attack on all data, for all the epochs that its cost pays for, is ahead of
everything else, and remembering its perturbations adds half a point at no cost, a third of one on six other seeds. At
half the cost of full training it ends above it with each seed (PGD-50; AutoAttack on 200 images cannot tell the two
apart). Coresets trained on with the full attack are within half a point of random subsets of their cost, and behind
cheaper attacks; EasyCore's, and the margin rule on a coreset, are behind both. **None of these differences is beyond
chance once it is corrected for the number of comparisons on this page**: three seeds are few. Composed with remembered
single steps, GradMatch's coreset led random subsets and fast adversarial training on three seeds. On six others, which
were not looked at before, it is ahead of a random subset of its cost at checkpoint `last`, not beyond chance, and
behind it at checkpoint `best`, beyond chance: what three seeds show of one method among twenty is to be tested again.
Remembered steps on all data cannot be told from it.

On MNIST the ball is large, and single steps decide. Of 1.25 eps, as published, they fail (FAT and N-FGSM near 0 %,
flagged as masked). Shorter ones, and a ball that grows over ten epochs, were tried with seed 0 and did not; steps of
0.25 stand in the table, and collapse in two of nine runs all the same. Remembered, such steps are ahead of everything
else at a half and at three tenths of the cost, and of full training by six points and more, with each seed; at three
twentieths one run of three collapses, and so does one with two remembered steps. AutoAttack takes most of that lead: on
its 200 images full training and remembered steps cannot be told apart. Coresets attacked in full are behind random
subsets by their means, and more than 20 points behind PGD-3 on all data; that EasyCore's are behind is the one
difference here that is beyond chance. Runs that collapsed are counted apart: they are in no mean and no comparison.

EasyCore stands here with *early scores*: input-gradient norms averaged over the run's own 2 to 5 warm epochs of
adversarial training, by which it selects class by class, and anew every fourth epoch. The paper's are averaged over the
whole of a standard training, once, and rank all examples together; the suites `papers/easycore-standard` and
`papers/easycore-trades` do that, and have not been run yet.

Only the questions below are tested, over all their pairs at once. How each method stands to each baseline of its block
would be some 170 comparisons more, for which three seeds are too few.
"""


AUTOATTACK = """The front and what is nearest to it. PGD-50 above is on other images, and more of them: an accuracy here
is to be set beside others here only."""


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
    return to_markdown((head[0], "at about the cost of", *head[1:]), rows)


def test(sections: dict[str, Groups], repeated: Groups) -> Tested:
    """All comparisons of the page."""
    asked = {key: differences for name in sections for key, differences in ask(name, sections[name], QUESTIONS).items()}
    return compare_all(asked | ask(OTHERS, repeated, AGAIN) | ask(AT_BEST, repeated, AGAIN, "best"))


def section(title: str, found: Groups, tested: Tested) -> str:
    """One data set."""
    first = next(iter(found.values()))[0]
    lines = [f"## {title}", "", f"Device {first.environment['device']}. {describe_varied(found)} {cost_notes(found)}"]
    lines += ["", table(found), ""]
    lines += [f"Flags: {told}.\n" for told in ["; ".join(list_flags(found, "last"))] if told]
    lines += [answers(title, found, QUESTIONS, tested), "Checkpoint `best`:", "", table(found, "best"), ""]
    return "\n".join(lines)


def again(found: Groups, tested: Tested) -> str:
    """The runs with other seeds: nothing was chosen by them."""
    lines = ["## Three twentieths again, with six other seeds", ""]
    lines += ["What the table above suggests was tested on runs that it does not hold.", describe_varied(found)]
    lines += [cost_notes(found), "", figures.table(found), "", answers(OTHERS, found, AGAIN, tested)]
    lines += ["Checkpoint `best`:", "", figures.table(found, "best"), ""]
    lines += [f"- {question}: {verdict(tested[AT_BEST, question])}." for question in AGAIN]
    return "\n".join([*lines, ""])


def page(sections: dict[str, Groups], repeated: Groups, strong: dict[str, Groups]) -> str:
    """The whole page; `repeated`: some methods with other seeds; `strong`: each data set's front before AutoAttack."""
    tested = test(sections, repeated)
    lines = [HEAD, explain_test(tested.values()), ""]
    lines += [section(title, found, tested) for title, found in sections.items()]
    lines += [again(repeated, tested)] if repeated else []
    for title, found in strong.items():
        n = next(iter(found.values()))[0].final["last"]["attacks"][0]["n"]
        lines += [f"## {title}: {n} images, seed 0", "", AUTOATTACK, cost_notes(found), "", figures.table(found), ""]
    return "\n".join(lines)
