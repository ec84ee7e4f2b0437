"""What the site holds, in order: the pages of the repository, and the modules whose docstrings make the API pages."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
LANDING = "docs/landing"
"""The site's first page."""
NAV = {
    "Tutorials": {
        "docs/index": "First hour",
        "docs/tutorial": "Your own images",
    },
    "How-to guides": {
        "docs/install": "Install",
        "docs/howto_timm": "Harden a timm model",
        "docs/howto_finetune": "Fine-tune a checkpoint",
        "docs/howto_pool": "Select from a pool",
        "docs/howto_paper": "Reproduce a paper",
        "docs/howto_attack": "Add an attack",
        "docs/howto_cluster": "Run on a cluster",
        "docs/integration": "Use other tools",
        "docs/reproducing": "Reproduce these pages",
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
    "Explanation": {
        "docs/method": "The method",
        "docs/choosing": "Choosing a selector",
        "docs/savings": "Cheaper attacks",
        "docs/evaluation": "Trustworthy evaluation",
        "docs/evidence": "Evidence",
        "docs/architecture": "Architecture",
        "README": "Results at a glance",
    },
    "Reference": {
        "docs/settings": "Every setting",
        "docs/glossary": "Glossary",
        "docs/data": "Image data",
        "docs/hardening": "Trained weights and recipes",
        "docs/pools": "Pools",
        "docs/minibatch": "Minibatch rules and scores",
        "docs/solvers": "Solvers",
        "docs/bench": "Benchmark suites",
        "docs/report": "Reports",
        "docs/speed": "Speed",
        "docs/distributed": "Several GPUs",
        "docs/reliability": "Stop and resume",
        "docs/cases": "Reliability cases",
        "docs/extending": "Extending",
    },
}
"""Pages and their short titles by caption, below the first page; those of benchmarks/ and of the root folder follow."""
NOTEBOOKS = {"docs/notebooks/first_coreset": "Notebook: your first coreset"}
"""Notebooks, listed with the gallery."""
API = {
    "adversary": "Attacking a batch",
    "selection": "Selection",
    "training": "Training",
    "evaluation": "Evaluation",
    "attacks": "Attacks",
    "objectives": "Objectives",
    "solvers": "Solvers",
    "minibatch": "Minibatch rules",
    "gradients": "Gradient rows and scores",
    "models": "Models",
    "data": "Data",
    "reporting": "Records and tables",
    "tracking": "Trackers",
    "register": "Your own methods in run files",
    "types": "Values that stages exchange",
    "rows": "Rows",
    "cost": "Cost ledger",
    "rng": "Random numbers",
    "distributed": "Several processes",
    "runtime": "Devices, precision, signals",
    "errors": "Errors",
    "testing": "Contracts for your own methods",
}
"""Packages and modules of advcore that have a page, with its title."""
FIRST = {
    "adversary": ("advcore.adversary.attack",),
    "selection": ("advcore.selection.coreset.AdversarialCoreset", "advcore.selection.result.Coreset"),
    "training": ("advcore.training.trainer.Trainer", "advcore.training.progress.Trained"),
    "evaluation": ("advcore.evaluation.evaluate.evaluate",),
}
"""What a page of the API shows first, after the example of `docs/site/examples.md`; all else comes below it."""
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
"""Internal modules of these packages."""
BESIDE = {"training": {"progress": ("Trained", "Listener")}}
"""Names of internal modules that a caller of the library meets."""


def found_pages() -> dict[str, dict[str, str]]:
    """The pages that need no entry in NAV, by caption."""
    return {
        "Benchmarks": _headings("benchmarks/"),
        "The papers' tables": _headings("benchmarks/papers/"),
        "Project": _headings(""),
    }


def _headings(folder: str) -> dict[str, str]:
    """The pages of a folder and their headings, by name."""
    paths = [path for path in sorted((ROOT / folder).glob("*.md")) if path.stem != "README"]
    return {f"{folder}{path.stem}": path.read_text().split("\n")[0].lstrip("# ") for path in paths}


def pages() -> list[str]:
    """Every page of the repository that the site has, without `.md`."""
    nav = NAV | found_pages()
    return [LANDING, *(page for listed in nav.values() for page in listed)]


def modules(package: str) -> list[str]:
    """Dotted names of the modules on a package's page; of a module, its own name."""
    folder = ROOT / "advcore" / package
    if not folder.is_dir():
        return [f"advcore.{package}"]
    names = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")} - INNER.get(package, set())
    return [f"advcore.{package}.{name}" for name in sorted(names, key=lambda name: (name != "base", name))]
