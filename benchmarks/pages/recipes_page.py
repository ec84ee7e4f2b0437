"""The pages of fine-tuning and of the parts of recipes: tables, and the tests of their questions."""

import statistics
from collections import Counter

from figures import Groups, Pairs, Tested, answers, ask, cost_notes, describe_means, table

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

This page is made from the committed [records](../docs/glossary.md#record) of the suites `finetune` and
`finetune-search`; `advcore bench benchmarks/suites/NAME.yaml` runs such a suite. The data are all 50,000 CIFAR-10
images (JPEG copies; 10 % for validation). The network is a small CNN. After 15 epochs of ordinary training it reaches
{clean} % on clean images. Larger networks reach far more, whether they are trained adversarially or not. Adversarial
training takes one step of 10/255 from [remembered perturbations](../docs/glossary.md#remembered-perturbation). Costs
are relative to 10 epochs of PGD-10. The cost of the pretraining has a separate column. Random weights and trained
weights have different learning rates. Each rate was the best on held-out images with one seed (last section).

In short: hardening is worth it if the trained weights exist already. After the same epochs of adversarial training,
trained weights are two points more robust than random ones, and seven to eleven points more accurate on clean images.
If the pretraining still has to be paid for, trained weights save nothing. Random weights that are trained
adversarially for the cost of both parts end six tenths of a point more robust, which may be chance. They are two
points less accurate on clean images. *Head first* trains only the last layer in the first epoch. With two epochs, this
loses nearly three points; with five, it makes no clear difference.
"""
RECIPES_HEAD = """# The parts of today's recipes, one at a time

This page is made from the committed [records](../docs/glossary.md#record) of the suite `recipes`, which `advcore bench
benchmarks/suites/recipes.yaml` runs. A small CNN is trained on 10,000 CIFAR-10 images (JPEG copies; 10 % for
validation) for 20 epochs with one attack step. The published gains of these parts are for large networks that train
for 100 epochs or more and show robust overfitting. The small CNN is far from robust overfitting, and nothing was tuned
for any part. Costs are relative to training with one remembered step. Terms are in the
[glossary](../docs/glossary.md); [the parts](../docs/hardening.md) have their own page.

In short: at this size nothing helps beyond chance, and protection against overfitting hurts a network that underfits.
FAT with CutMix ends two and a half points less robust than FAT without CutMix. AWP ends more than a point below a run
that spends the same compute on more epochs.
"""


def test(found: Groups, questions: dict[str, Pairs]) -> Tested:
    """The comparisons of a page, tested together."""
    return compare_all(ask(SECTION, found, questions))


def body(found: Groups, questions: dict[str, Pairs], reference: str) -> str:
    """The tables of both checkpoints, and the answers; `reference`: what speed-ups are relative to."""
    tested = test(found, questions)
    n = next(iter(found.values()))[0].final["last"]["clean"]["n"]
    device = next(iter(found.values()))[0].environment["device"]
    lines = [f"{describe_means(found, f'{n:,}', device)} {cost_notes(found, reference)}", ""]
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
        f"Runs flagged `{kind}` ([what that means](../docs/evaluation.md)), with their number: "
        f"{'; '.join(f'{name} ({number})' for name, number in counts.items())}.\n"
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
    rates = ["## Learning rates", "", "Runs of 5 epochs with seed 0:", "", search_table(search), ""]
    tables = body(found, FINETUNE, "random weights, 13 epochs")
    return "\n".join([FINETUNE_HEAD.format(clean=f"{clean:.1f}"), tables, *rates])


def recipes_text(found: Groups) -> str:
    """benchmarks/recipes.md."""
    return f"{RECIPES_HEAD}\n{body(found, RECIPES, 'one step, remembered')}"
