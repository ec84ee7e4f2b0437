"""What the site holds, in order: the pages of the repository, and the modules whose docstrings make the API pages."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
NAV = {
    "Use": ["docs/index", "docs/choosing", "docs/settings", "docs/integration", "docs/report"],
    "Method": ["docs/method", "docs/solvers", "docs/minibatch", "docs/savings", "docs/evaluation"],
    "Scale": ["docs/speed", "docs/distributed", "docs/reliability"],
    "Evidence": ["docs/evidence", "docs/bench", "docs/reproducing", "docs/extending"],
}
"""Pages by caption, below README, which is the first. The pages of benchmarks/ follow by themselves."""
API = {
    "attacks": "Attacks",
    "objectives": "Objectives",
    "solvers": "Solvers",
    "minibatch": "Minibatch rules",
    "gradients": "Gradient rows and scores",
    "models": "Models",
    "data": "Data",
    "selection": "Selection",
    "training": "Training",
    "evaluation": "Evaluation",
    "reporting": "Records and tables",
    "types": "Coreset and other values",
    "rows": "Rows",
    "cost": "Cost ledger",
    "rng": "Random numbers",
    "distributed": "Several processes",
    "speed": "Speed",
    "signals": "Signals",
    "errors": "Errors",
}
"""Packages and modules of advcore that have a page, with its title."""
INNER = {
    "solvers": {"active", "batched", "products"},
    "selection": {"solve"},
    "training": {"loop", "minibatch", "plan", "budget"},
}
"""Modules of these packages that are nobody's business outside."""
BESIDE = {"training": {"loop": ("Trained", "Listener")}}
"""Names of inner modules that a library call meets all the same."""


def benchmark_pages() -> list[str]:
    """The pages of benchmarks/, by name."""
    return [f"benchmarks/{path.stem}" for path in sorted((ROOT / "benchmarks").glob("*.md"))]


def pages() -> list[str]:
    """Every page of the repository that the site has, README apart, without `.md`."""
    return [page for listed in NAV.values() for page in listed] + benchmark_pages()


def modules(package: str) -> list[str]:
    """Dotted names of the modules on a package's page; a module's own where it is none."""
    folder = ROOT / "advcore" / package
    if not folder.is_dir():
        return [f"advcore.{package}"]
    found = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")} - INNER.get(package, set())
    return [f"advcore.{package}.{name}" for name in sorted(found, key=lambda name: (name != "base", name))]
