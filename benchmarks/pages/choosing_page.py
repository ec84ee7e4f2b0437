"""The figures of docs/choosing.md: memory from the solvers' `memory(n, k)`, the rest from committed records."""

import statistics

from figures import DOCS, RECORDS, between, cost_notes, gap_text, robust, unit_of

from advcore import AdversarialCoreset
from advcore.attacks import LinfPGD
from advcore.cost import format_gigabytes
from advcore.files import read_json
from advcore.objectives import Pgd
from advcore.reporting.costs import Unit
from advcore.reporting.record import RunRecord
from advcore.reporting.spent import SECONDS, format_seconds
from advcore.reporting.tables import NOTHING, format_mean, to_markdown
from advcore.selection.memory import estimate
from advcore.solvers import Craig, GradMatch

PAGE = DOCS / "choosing.md"
SHAPES = (  # name, examples, classes, features of the head
    ("CIFAR-10, ResNet-18", 50_000, 10, 512),
    ("CIFAR-100, WideResNet-34-10", 50_000, 100, 640),
    ("ImageNet-100, ResNet-50", 126_689, 100, 2048),
    ("ImageNet-1k, ResNet-50", 1_281_167, 1000, 2048),
)
BUDGET = 0.3
WAYS = (
    ("per_class, `gradmatch`", "per_class", GradMatch()),
    ("per_class, `craig`", "per_class", Craig()),
    ("per_batch, `gradmatch`", "per_batch", GradMatch()),
    ("whole, `gradmatch`", "whole", GradMatch()),
    ("whole, `craig`", "whole", Craig()),
)
SUITE, SEEDS, BUDGETS = "savings", (0, 1, 2), ("0.1", "0.3", "0.5")
METHODS = {"gradmatch": "`gradmatch`", "craig": "`craig`", "random": "`random`"}


def size(count: float) -> str:
    return (
        f"{1e3 * float(told.split()[0]):.3g} MB"
        if count < 1e9 and (told := format_gigabytes(count))
        else format_gigabytes(count)
    )


def held(n: int, classes: int, features: int, partition: str, solver: object) -> tuple[int, int]:
    """Bytes of all gradient rows, and of what solving adds to them at its peak; PGD, classes of equal size."""
    attack = LinfPGD(eps=8 / 255)
    selector = AdversarialCoreset(objective=Pgd(), attack=attack, solver=solver, partition=partition, budget=BUDGET)
    counts = [n // classes + (label < n % classes) for label in range(classes)]
    found = estimate(selector, counts=counts, classes=classes, features=features)
    return found.rows, found.peak - found.rows


def memory() -> str:
    """Peak memory of a selection, in addition to the rows."""
    lines = []
    for name, *shape in SHAPES:
        found = [held(*shape, partition, solver) for _, partition, solver in WAYS]
        lines.append((name, size(found[0][0]), *(size(more) for _, more in found)))
    return to_markdown(("data, model", "rows", *(name for name, _, _ in WAYS)), lines)


def seconds() -> str:
    """Seconds of the solves that were measured, on two CPU cores."""
    cifar, imagenet = (read_json(RECORDS / f"solvers/{part}-shape.json") for part in ("cifar", "imagenet"))
    lines = []
    for case in cifar["results"]["cases"]:
        blocks = f" of {case['block_size']}" if case.get("block_size") else ""
        shape = f"N = {cifar['settings']['n']:,}, {cifar['settings']['classes']} classes, TRADES"
        what = (f"{case['solver']}, {case['partition']}{blocks}", f"{cifar['settings']['budget']:g}")
        lines.append((shape, *what, f"{case['seconds']:.3g} s"))
    for one in imagenet["results"]["passes"]:
        shape = f"N = {imagenet['settings']['n']:,}, {imagenet['settings']['classes']} classes"
        what = (f"{one['solver']}, per_class", f"{imagenet['settings']['budget']:g}")
        lines.append((shape, *what, f"{one['generating'] + one['solving']:.3g} s"))
    shares = read_json(RECORDS / "solvers/attack-share.json")["results"]["shares"]
    largest = max(one["share"] for one in shares)
    told = (
        "The preceding attack takes far longer: with ResNet-18, PGD-10 and 2,000 images on the same cores, rows and "
        f"solve took at most {100 * largest:.2g} % of the attack's time."
    )
    return f"{to_markdown(('rows', 'solver, partition', 'budget', 'solve'), lines)}\n\n{told}"


def records(method: str, budget: str) -> list[RunRecord]:
    return [record_of(f"{method}-{budget.replace('.', '-')}", seed) for seed in SEEDS]


def record_of(name: str, seed: int) -> RunRecord:
    return RunRecord.load(RECORDS / SUITE / f"{name}-s{seed}.json")


def mean(values: list[float], digits: int) -> str:
    return NOTHING if None in values else f"{statistics.fmean(values):.{digits}f}"


def worth() -> str:
    """How well each solver matches the gradient, and the accuracy of its models."""
    lines = []
    compared = {f"{method} {budget}": records(method, budget) for budget in BUDGETS for method in METHODS}
    unit = unit_of(compared)
    for budget in BUDGETS:
        for method, name in METHODS.items():
            found = records(method, budget)
            chosen = [one for record in found for one in record.selections]
            error, chance = ([one[key] for one in chosen] for key in ("gradient_error", "gradient_error_random"))
            effective = [one["effective_sample_size"] for one in chosen]
            lines.append(
                (
                    f"{name}, budget {budget}",
                    f"{mean(error, 3)} ({mean(chance, 3)})" if method != "random" else NOTHING,
                    mean(effective, 2),
                    format_mean(robust(found)),
                    mean([unit.compare(record) for record in found], 2),
                    format_seconds(found),
                )
            )
    head = ("solver", "gradient error (random subsets)", "effective size", "robust, %", unit.title, SECONDS)
    table = to_markdown(head, lines)
    full = [record_of("full-pgd-7", seed) for seed in SEEDS]
    gains = [f"{_gain(budget)} at budget {budget}" for budget in BUDGETS]
    told = [
        f"Full training reaches {format_mean(robust(full))} % at cost 1.00. "
        f"Accuracies are means ± sample standard deviations over {len(SEEDS)} seeds.",
        f"`gradmatch` costs {_more_cost(unit):.2f} more than `random`, in relative cost. Its robust accuracy minus "
        f"that of `random`, in points with 95 % intervals over seeds: {'; '.join(gains)}.",
        cost_notes(compared),
    ]
    return "\n\n".join([table, *told])


def _gain(budget: str) -> str:
    """GradMatch's robust accuracy minus random's, over the same seeds."""
    return gap_text({method: records(method, budget) for method in ("gradmatch", "random")}, "gradmatch", "random")


def _more_cost(unit: Unit) -> float:
    """The additional relative cost of selections over that of random subsets."""
    return statistics.fmean(
        unit.compare(records("gradmatch", budget)[0]) - unit.compare(records("random", budget)[0]) for budget in BUDGETS
    )


def page(text: str) -> str:
    """The page with its figures renewed."""
    for name, made in (("memory", memory), ("seconds", seconds), ("worth", worth)):
        text = between(text, name, made())
    return text


def write() -> None:
    """Renew the figures of the page."""
    PAGE.write_text(page(PAGE.read_text()))
