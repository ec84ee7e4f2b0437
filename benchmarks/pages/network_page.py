"""What several processes send each other, and what that means: the figures of docs/distributed.md.

All of it is arithmetic, except the solve, which was measured: benchmarks/records/solvers.
"""

from dataclasses import dataclass

from figures import DOCS, RECORDS, between

from advcore.adversary import plan_attack
from advcore.attacks import LinfPGD
from advcore.files import read_json
from advcore.objectives import Trades

PAGE = DOCS / "distributed.md"
SOLVED = RECORDS / "solvers" / "imagenet-shape.json"
LINK, BATCH = 12.5e9, 256  # bytes a second of 100 Gbit/s; examples of a training step
PROCESSES = (2, 8, 64, 512)


@dataclass(frozen=True)
class Shape:
    """n examples, head of d features and c classes, p parameters; passes : forward passes of the objective; k : share
    of the data in the coreset."""

    name: str
    n: int
    c: int
    d: int
    p: int
    passes: int = 2
    k: float = 0.5

    def rows(self, count: int) -> float:
        """Bytes of float32 residuals and features, and of labels, that the first of `count` processes gets."""
        return (self.passes * (self.c + self.d) * 4 + 8) * self.n * (count - 1) / count

    def dealt(self, count: int) -> float:
        """Bytes that it hands out again, for each class to be solved by one process."""
        return self.passes * (self.c + self.d) * 4 * self.n * (count - 1) / count

    def coreset(self, count: int) -> float:
        """Bytes that each of the others gets: the answers of all (indices, float64 weights), then the coreset."""
        return self.k * self.n * (16 + 12)

    def step(self, count: int) -> float:
        """Bytes that each process sends in a training step: float32 gradients, in a ring."""
        return 2 * 4 * self.p * (count - 1) / count


SHAPES = (
    Shape("CIFAR-10, ResNet-18", 50_000, 10, 512, 11_173_962),
    Shape("ImageNet-1k, ResNet-50", 1_281_167, 1000, 2048, 25_557_032),
)


def size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def table() -> str:
    head = ["data, model (TRADES)", "processes"]
    head += [f"a selection: {part}" for part in ("to the first process", "from the first", "to each of the others")]
    head.append("a training step: sent by each process")
    lines = [head, ["---"] * len(head)]
    for shape in SHAPES:
        for count in PROCESSES:
            sent = [shape.rows(count), shape.dealt(count), shape.coreset(count), shape.step(count)]
            lines.append([shape.name, str(count), *map(size, sent)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def notes() -> str:
    """What the table means for ImageNet-1k."""
    shape, objective = SHAPES[-1], Trades()
    moved = shape.rows(10**9) + shape.dealt(10**9)  # as the number of processes grows
    each = plan_attack(objective, LinfPGD(eps=8 / 255, steps=10, start="gaussian")).units
    (record,) = (one for one in read_json(SOLVED)["results"]["passes"] if one["solver"] == "GradMatch")
    solve, classes = record["generating"] + record["solving"], shape.c
    shared = ", ".join(f"{solve / count:.1f} s on {count}" for count in PROCESSES[1:])
    lines = [
        "The traffic of the rows does not grow with W: the first process receives almost all rows once per selection "
        "and sends them out once (not for `whole` and `per_batch`, which it solves alone). For ImageNet-1k "
        f"that is {size(moved)}, {moved / LINK:.0f} s over a link of {LINK / 1e9:g} GB/s (100 Gbit/s).",
        f"The attack becomes faster with W: TRADES with PGD-10 takes {each} passes per example before the rows. At r "
        f"passes per second and process it takes {each} N / (r W) seconds, so the link takes as long as the "
        f"attack at W = {each * shape.n * LINK / moved / 1e6:.1f} million / r for ImageNet-1k. Measure r with your "
        "model (`seconds` by phase in the record).",
        "The solve becomes faster with W up to the number of classes. On [two CPU cores](../benchmarks/solvers.md) "
        f"{classes:,} classes of ImageNet's size took {solve:.0f} s with GradMatch in total: if it divides evenly, "
        f"{shared} such machines.",
        "With a selection every T epochs, this is spread over T epochs of steps, whose gradients are the larger part: "
        f"at batch size {BATCH}, an epoch of ImageNet-1k on half of the data is {-(-shape.n // 2 // BATCH):,} steps.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def page(text: str) -> str:
    return between(text, "network", f"{table()}\n\n{notes()}")


def write() -> None:
    """Renew the figures of the page."""
    PAGE.write_text(page(PAGE.read_text()))
