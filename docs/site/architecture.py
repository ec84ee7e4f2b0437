"""Draw which parts of advcore import which, and list what each part does: python docs/site/architecture.py.

A part is a folder of advcore, or a module beside the folders. Both come from the code: imports from its syntax trees,
what a part does from the first sentence of its docstring. Written are docs/architecture.png and the tables of
docs/architecture.md; tests/test_architecture.py holds the layers.
"""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "advcore"
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "architecture.png"

LAYERS: dict[str, tuple[str, ...]] = {
    "entry": ("__main__",),
    "command line": ("cli",),
    "terminal": ("terminal",),
    "exports, evidence and tests of plug-ins": ("export", "evidence", "testing"),
    "suites": ("suite",),
    "runs": ("run",),
    "plug-ins": ("register",),
    "run files": ("config",),
    "training and reports": ("training", "reporting", "tracking", "integrations"),
    "selection and evaluation": ("selection", "evaluation"),
    "gradients": ("gradients",),
    "sweep": ("sweep",),
    "adversary": ("adversary", "regularizers"),
    "methods": ("data", "models", "attacks", "objectives", "solvers", "minibatch"),
    "base": (
        *("types", "settings", "kinds", "errors", "suggestions", "deprecation", "rng", "cost", "rows", "files"),
        *("runtime", "distributed", "shares", "pixels", "unit_range", "version", "work"),
        *("speed", "signals", "borrow", "heap"),  # to be removed with the next release
    ),
}
"""From the top to the bottom: a part may import from its own layer and from those below."""


def part_of(path: Path) -> str:
    """Return the part to which a file of the package belongs."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def part_imported(module: str) -> str | None:
    """Return the part that a dotted module name belongs to; None outside of advcore, and for advcore itself."""
    names = module.split(".")
    return names[1] if names[0] == "advcore" and len(names) > 1 else None


def modules_imported(path: Path) -> list[str]:
    """List the dotted names that a file imports, `from advcore import x` as advcore.x."""
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "advcore":
            modules += [f"advcore.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
    return modules


def count_imports() -> Counter[tuple[str, str]]:
    """Count the imports from one part into another: {(importing part, imported part): number of import statements}."""
    parts = {part for layer in LAYERS.values() for part in layer}
    counts: Counter[tuple[str, str]] = Counter()
    for path in sorted(PACKAGE.rglob("*.py")):
        for module in modules_imported(path):
            target = part_imported(module)
            if target in parts and target != part_of(path):
                counts[part_of(path), target] += 1
    return counts


def describe(part: str) -> str:
    """Return the first sentence of a part's docstring."""
    path = PACKAGE / part / "__init__.py"
    if not path.exists():
        path = PACKAGE / f"{part}.py"
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    sentence = " ".join(text.split("\n\n")[0].split())
    return sentence.split(". ")[0].rstrip(".")


def table(counts: Counter[tuple[str, str]]) -> str:
    """Return one row per part, from the top layer to the bottom: what it does, and what it imports."""
    lines = ["| layer | part | what it does | imports |", "| --- | --- | --- | --- |"]
    for layer, parts in LAYERS.items():
        for part in sorted(parts):
            name = f"`{part}/`" if (PACKAGE / part).is_dir() else f"`{part}.py`"
            used = sorted(target for source, target in counts if source == part)
            lines.append(f"| {layer} | {name} | {describe(part)} | {', '.join(used)} |")
    return "\n".join(lines)


def page() -> str:
    """Return the page of the architecture."""
    counts = count_imports()
    return f"""# Architecture

<!-- written by docs/site/architecture.py -->

Data flow through the parts in one direction. A data set gives batches (index, x, y). An adversary turns x into
adversarial examples, through which no gradient flows back. Gradients at these examples become rows, and selection
chooses indices and weights from the rows: a `Coreset`. Training attacks the coreset again and minimizes a weighted
loss. An evaluation, a record, tables and pages follow. One step leads back: when the schedule says so, the trainer
passes its current model to `AdversarialCoreset.select()`.

A part imports only from the layers below its own. Parts of the base layer may also import others of that layer.
`tests/test_architecture.py` checks this. There are {len(counts)} pairs in which one part imports the other, and no
cycle.

![parts of advcore in their layers, and how often one imports another](architecture.png)

A line leads from a part to one that it imports; a wider line means more import statements. Lines to the base layer,
which every part uses, are left out.

{table(counts)}

A new method is one file in its folder, one line in the folder's table, and one test: see [extending](extending.md).
"""


def place_parts() -> dict[str, tuple[float, float]]:
    """Return the centre of each part's box; the base layer is one box."""
    places = {}
    rows = [("base",) if layer == "base" else parts for layer, parts in LAYERS.items() if layer != "entry"]
    for height, row in enumerate(reversed(rows)):
        for column, part in enumerate(row):
            places[part] = ((column + 0.5) / len(row), float(height))
    return places


def draw(counts: Counter[tuple[str, str]]) -> None:
    """Draw the parts in their layers, and a line for each import between parts."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    places = place_parts()
    drawn = {pair: count for pair, count in counts.items() if places.keys() >= set(pair)}
    figure, axes = plt.subplots(figsize=(11, 9), dpi=110)
    for (source, target), count in drawn.items():
        (x0, y0), (x1, y1) = places[source], places[target]
        bend = 0.25 if y0 == y1 else 0.0
        style = {"arrowstyle": "-|>", "color": "#3d6fb4", "lw": 0.5 + 0.16 * count, "shrinkA": 14, "shrinkB": 14}
        style |= {"connectionstyle": f"arc3,rad={bend}", "alpha": 0.75, "mutation_scale": 9}
        axes.annotate("", xy=(x1, y1), xytext=(x0, y0), arrowprops=style, zorder=1)
    for part, (x, y) in places.items():
        label = part if part != "base" else "base: " + ", ".join(sorted(LAYERS["base"])[:11]) + ", ..."
        box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "#333333"}
        axes.text(x, y, label, ha="center", va="center", fontsize=10, bbox=box, zorder=2)
    for height, layer in enumerate(reversed(list(LAYERS)[1:])):
        axes.text(-0.02, height, layer, ha="right", va="center", fontsize=9, color="#666666")
    axes.set(xlim=(-0.2, 1.02), ylim=(-0.6, len(LAYERS) - 1.4))
    axes.axis("off")
    figure.savefig(PICTURE, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    PAGE.write_text(page())
    draw(count_imports())
