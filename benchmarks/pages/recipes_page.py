"""The pages of fine-tuning and of the parts of recipes: tables, and what the tests of their questions say."""

import statistics
from collections import Counter

from figures import Groups, Pairs, Tested, answers, ask, cost_notes, table

from advcore.reporting.statistics import compare_all
from advcore.reporting.tables import iterate_flags, to_markdown
from advcore.reporting.verdicts import describe_varied, explain_test
from advcore.types import Flag

SECTION = "last"
FINETUNE: dict[str, Pairs] = {
    "Trained weights, beside random ones, for the same epochs of adversarial training": [
        ("fine-tuned, 2 epochs", "random weights, 2 epochs"),
        ("fine-tuned, 5 epochs", "random weights, 5 epochs"),
    ],
    "The head alone in the first epoch, beside all weights": [
        ("fine-tuned, head first, 2 epochs", "fine-tuned, 2 epochs"),
        ("fine-tuned, head first, 5 epochs", "fine-tuned, 5 epochs"),
    ],
    "Trained weights, beside random ones and adversarial training for what the pretraining cost, too": [
        ("fine-tuned, 5 epochs", "random weights, 13 epochs"),
    ],
}
"""What is asked, and the pairs of methods that answer: with the part, and without."""
RECIPES: dict[str, Pairs] = {
    "AWP, beside as much compute in more epochs": [("AWP", "one step, remembered, 29 epochs")],
    "Label smoothing": [("label smoothing", "one step, remembered")],
    "SWA": [("SWA", "one step, remembered")],
    "AdamW with warm-up and cosine, beside SGD and one cycle": [("AdamW, cosine with warm-up", "one step, remembered")],
    "CutMix, beside FAT": [("FAT, CutMix", "FAT")],
}

FINETUNE_HEAD = """# Does it pay to harden a network that is trained already?

From the committed records of the suites `finetune` and `finetune-search` (`advcore bench benchmarks/suites/NAME.yaml`).
CIFAR-10 (JPEG copies), all 50,000 images (10 % for validation), a small CNN that reaches {clean} % on clean images
when it is trained ordinarily for 15 epochs: far below what larger networks reach, adversarially trained or not.
Adversarial training takes one step of 10/255 from remembered perturbations. Costs are relative to 10 epochs of PGD-10;
what the pretraining cost stands in its own column. Learning rates: for each start the best on held-out images with one
seed, below.

In short: it pays if the weights are there already. For the same epochs of adversarial training, trained weights end two
points more robust than random ones, and seven to eleven points more accurate on clean images. They save no compute that
has still to be spent: random weights that are trained adversarially for what both parts cost together end six tenths of
a point more robust, which may be chance, and two points less accurate on clean images. A first epoch on the head alone
costs nearly three points where there are only two epochs, and changes nothing sure where there are five.
"""
RECIPES_HEAD = """# The parts of today's recipes, one at a time

From the committed records of the suite `recipes` (`advcore bench benchmarks/suites/recipes.yaml`). CIFAR-10 (JPEG
copies), 10,000 images (10 % for validation), a small CNN, 20 epochs of one step. The published gains of these parts are
of large networks that train for 100 epochs and more and overfit robustly. This one is far from that, and nothing was
tuned for any part. Costs are relative to one step, remembered.

In short: at this size nothing helps beyond chance, and what guards against overfitting hurts a network that underfits:
CutMix ends two and a half points less robust than FAT without it, AWP more than a point below as much compute in more
epochs.
"""


def test(found: Groups, questions: dict[str, Pairs]) -> Tested:
    """The comparisons of a page, tested together."""
    return compare_all(ask(SECTION, found, questions))


def body(found: Groups, questions: dict[str, Pairs], reference: str) -> str:
    """The tables of both checkpoints, and the answers; `reference`: what speed-ups are relative to."""
    tested = test(found, questions)
    n = next(iter(found.values()))[0].final["last"]["clean"]["n"]
    lines = [f"Mean ± sample deviation over seeds, {n:,} test images. {cost_notes(found, reference)}", ""]
    for which in ("last", "best"):
        lines += [f"Checkpoint `{which}`:", "", table(found, which, reference), ""]
        lines += flag_lines(found, which)
    lines += ["## What differs, and whether by chance", "", answers(SECTION, found, questions, tested)]
    return "\n".join([*lines, f"{explain_test(tested.values())} {describe_varied(found)}", ""])


def flag_lines(found: Groups, which: str) -> list[str]:
    """A line for each kind of flag: how many runs of which methods have it."""
    runs: dict[str, Counter[str]] = {}
    for name, line in iterate_flags(found, which):
        runs.setdefault(Flag.read(line).kind, Counter())[name] += 1
    return [
        f"Runs flagged `{kind}` ([what that means](../docs/evaluation.md)): "
        f"{', '.join(f'{name} ({number})' for name, number in counts.items())}.\n"
        for kind, counts in runs.items()
    ]


def search_table(found: Groups) -> str:
    """The learning rates that were tried, with the robust accuracy on held-out images after the last epoch."""
    rows = []
    for name, (record, *_) in found.items():
        attacked = record.epochs[-1].get("robust")
        if attacked is not None:
            start, rate = name.rsplit(", lr ", 1)
            rows.append((start, rate, f"{100 * attacked:.1f}"))
    return to_markdown(("start", "learning rate", "robust on held-out images, %"), rows)


def finetune_text(found: Groups, search: Groups) -> str:
    """benchmarks/finetune.md."""
    ordinary = found["ordinary training, 15 epochs"]
    clean = statistics.fmean(100 * record.final["last"]["clean"]["accuracy"] for record in ordinary)
    rates = ["## Learning rates", "", "5 epochs, seed 0:", "", search_table(search), ""]
    tables = body(found, FINETUNE, "random weights, 13 epochs")
    return "\n".join([FINETUNE_HEAD.format(clean=f"{clean:.1f}"), tables, *rates])


def recipes_text(found: Groups) -> str:
    """benchmarks/recipes.md."""
    return f"{RECIPES_HEAD}\n{body(found, RECIPES, 'one step, remembered')}"
