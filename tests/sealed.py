"""Change what a sealed JSON says and seal it again, as if it had been written so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advcore.files import write_sealed


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Let `change` work on the facts in place."""
    facts = json.loads(path.read_text())
    facts.pop("seal")
    change(facts)
    write_sealed(path, facts, facts["schema"])


def update(path: Path, **values: Any) -> None:
    """Set these facts."""
    rewrite(path, lambda facts: facts.update(values))
