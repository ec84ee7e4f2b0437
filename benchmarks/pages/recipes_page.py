"""The pages of fine-tuning and of the parts of recipes: tables, and the tests of their questions."""

import statistics
from collections import Counter

from figures import Groups, Pairs, Tested, answers, ask, cost_notes, table

from advcore.reporting.statistics import compare_all
from advcore.reporting.tables import iterate_flags, to_markdown
from advcore.reporting.verdicts import describe_varied, explain_test
from advcore.types import Flag

SECTION = "last"
FINETUNE: dict[str, Pairs] = {
    "Trained weights, compared with random ones, for the same epochs of adversarial training": [
        ("fine-tuned, 2 epochs", "random weights, 2 epochs"),
        ("fine-tuned, 5 epochs", "random weights, 5 epochs"),
    ],
    "The head alone in the first epoch, compared with all weights": [
        ("fine-tuned, head first, 2 epochs", "fine-tuned, 2 epochs"),
        ("fine-tuned, head first, 5 epochs", "fine-tuned, 5 epochs"),
    ],
    "Trained weights, compared with random ones whose adversarial training also gets the cost of the pretraining": [
        ("fine-tuned, 5 epochs", "random weights, 13 epochs"),
    ],
}
"""Questions, and the pairs of methods that answer them: with the part, and without it."""
RECIPES: dict[str, Pairs] = {
    "AWP, compared with the same compute in more epochs": [("AWP", "one step, remembered, 29 epochs")],
    "Label smoothing": [("label smoothing", "one step, remembered")],
    "SWA": [("SWA", "one step, remembered")],
    "AdamW with warm-up and a cosine schedule, compared with SGD and one cycle": [
        ("AdamW, cosine with warm-up", "one step, remembered")
    ],
    "CutMix, compared with FAT": [("FAT, CutMix", "FAT")],
}

FINETUNE_HEAD = """# Is it worth hardening a network that is already trained?

From the committed records of the suites `finetune` and `finetune-search` (`advcore bench benchmarks/suites/NAME.yaml`).
The data are all 50,000 CIFAR-10 images (JPEG copies; 10 % for validation). The network is a small CNN that reaches
{clean} % on clean images after 15 epochs of ordinary training: far below larger networks, adversarially trained or not.
Adversarial training takes one step of 10/255 from [remembered
perturbations](../docs/glossary.md#remembered-perturbation). Costs are relative to 10 epochs of PGD-10; the cost of the
pretraining has its own column. Training from random and from trained weights each has the learning rate that was best
on held-out images with one seed (below).

In short: it is worth it if the trained weights exist already. With the same epochs of adversarial training, trained
weights end two points more robust than random ones, and seven to eleven points more accurate on clean images. They
save nothing if the pretraining still has to be paid for. Random weights, trained adversarially for the cost of both
parts, end six tenths of a point more robust, which may be chance, and two points less accurate on clean images.
Training only the head in the first epoch costs nearly three points with two epochs, and makes no clear difference with
five.
"""
RECIPES_HEAD = """# The parts of today's recipes, one at a time

From the committed records of the suite `recipes` (`advcore bench benchmarks/suites/recipes.yaml`). CIFAR-10 (JPEG
copies), 10,000 images (10 % for validation), a small CNN, 20 epochs of one step. The published gains of these parts
are for large networks that train for 100 epochs or more and show robust overfitting. This network is far from that,
and nothing was tuned for any part. Costs are relative to one remembered step. Terms are in the
[glossary](../docs/glossary.md).

In short: at this size nothing helps beyond chance, and protection against overfitting hurts a network that underfits.
CutMix ends two and a half points less robust than FAT without it. AWP ends more than a point below the same compute
spent on more epochs.
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
    lines += ["## Differences, and whether they are beyond chance", "", answers(SECTION, found, questions, tested)]
    return "\n".join([*lines, f"{explain_test(tested.values())} {describe_varied(found)}", ""])


def flag_lines(found: Groups, which: str) -> list[str]:
    """Return one line per kind of flag: how many runs of which methods have it."""
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
    return to_markdown(("start", "learning rate", "robust accuracy on held-out images, %"), rows)


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
