"""What several processes send each other: the table of docs/distributed.md. Arithmetic, nothing is measured.

python benchmarks/network.py
"""

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "distributed.md"
PROCESSES = (2, 8, 64, 512)
START, END = "<!-- network -->", "<!-- /network -->"


@dataclass(frozen=True)
class Shape:
    """n examples, head of d features and c classes, p parameters; passes : forward passes of the objective; k : share
    that is kept."""

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
    head = ["data, model (TRADES)", "processes", "a selection: to the first", "from the first", "to each of the others"]
    head.append("a training step: each sends")
    lines = [head, ["---"] * len(head)]
    for shape in SHAPES:
        for count in PROCESSES:
            sent = [shape.rows(count), shape.dealt(count), shape.coreset(count), shape.step(count)]
            lines.append([shape.name, str(count), *map(size, sent)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(text: str) -> str:
    before, rest = text.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
