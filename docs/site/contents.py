"""What the site holds, in order: the pages of the repository, and the modules whose docstrings make the API pages."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
NAV = {
    "Use": {
        "docs/index": "First hour",
        "docs/install": "Installing",
        "docs/hardening": "Hardening a trained model",
        "docs/choosing": "Choosing a selector",
        "docs/pools": "Extra images: pools",
        "docs/settings": "Every setting",
        "docs/integration": "Other trainers and formats",
        "docs/report": "Reports",
    },
    "Gallery": {
        "docs/gallery/index": "Gallery",
        "docs/gallery/attacked_images": "Attacked images",
        "docs/gallery/craig": "What CRAIG keeps",
        "docs/gallery/gradmatch_weights": "The weights of GradMatch",
        "docs/gallery/easiest_and_hardest": "Easiest and hardest images",
        "docs/gallery/catastrophic_overfitting": "Catastrophic overfitting",
        "docs/gallery/headroom": "Headroom over training",
        "docs/gallery/report_page": "A report page",
        "docs/gallery/pareto": "A Pareto picture",
    },
    "Method": {
        "docs/method": "What is computed",
        "docs/solvers": "Solvers",
        "docs/minibatch": "Minibatch rules and scores",
        "docs/savings": "Cheaper attacks",
        "docs/evaluation": "Attacks and evaluation",
    },
    "Scale": {
        "docs/speed": "Speed",
        "docs/distributed": "Several GPUs",
        "docs/reliability": "Stopping, and going on",
        "docs/cases": "Reliability, case by case",
    },
    "Evidence": {
        "docs/evidence": "Evidence",
        "docs/bench": "Benchmark suites",
        "docs/reproducing": "Reproducing",
        "docs/extending": "Extending",
        "docs/architecture": "Architecture",
    },
}
"""Pages and their short titles by caption, below README, the first. Those of benchmarks/ follow by themselves."""
NOTEBOOKS = {"docs/notebooks/first_coreset": "Notebook: your first coreset"}
"""Notebooks, which stand with the gallery."""
API = {
    "adversary": "Attacking a batch",
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
    "tracking": "Trackers",
    "register": "Own methods in run files",
    "types": "Values that stages pass to each other",
    "rows": "Rows",
    "cost": "Cost ledger",
    "rng": "Random numbers",
    "distributed": "Several processes",
    "runtime": "Devices, precision, signals",
    "errors": "Errors",
    "testing": "Contracts for your own methods",
}
"""Packages and modules of advcore that have a page, with its title."""
INNER = {
    "runtime": {"cpu_defaults", "cuda_graphs", "heap", "out_of_memory", "threads"},
    "reporting": {
        *("card", "charts", "compare", "frame", "front", "learning_parts", "lenient", "outcome_parts", "page", "parts"),
        *("run_page", "runs_page", "scales", "selection_parts", "settings_parts", "svg"),
    },
    "solvers": {"active", "batched", "leap", "products"},
    "selection": {"measure", "solve"},
    "testing": {"examples"},
    "training": {
        *("average", "batches", "budget", "epoch", "judge", "loop", "minibatch", "plan", "progress", "pruning"),
        *("snapshot", "steppers", "trainable"),
    },
    "register": {"networks", "plugins"},
    "evaluation": {"part_record", "stretch"},
}
"""Modules of these packages that are nobody's business outside."""
BESIDE = {"training": {"progress": ("Trained", "Listener")}}
"""Names of inner modules that a library call meets all the same."""


def benchmark_pages() -> dict[str, str]:
    """The pages of benchmarks/ and their headings, by name."""
    found = sorted((ROOT / "benchmarks").glob("*.md"))
    return {f"benchmarks/{path.stem}": path.read_text().split("\n")[0].lstrip("# ") for path in found}


def pages() -> list[str]:
    """Every page of the repository that the site has, README apart, without `.md`."""
    return [page for listed in NAV.values() for page in listed] + list(benchmark_pages())


def modules(package: str) -> list[str]:
    """Dotted names of the modules on a package's page; a module's own where it is none."""
    folder = ROOT / "advcore" / package
    if not folder.is_dir():
        return [f"advcore.{package}"]
    found = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")} - INNER.get(package, set())
    return [f"advcore.{package}.{name}" for name in sorted(found, key=lambda name: (name != "base", name))]
