"""Settings of a selection that do not depend on its objective, attack and solver."""

from advcore.errors import (
    SettingProblem,
    check_at_least,
    check_one_of,
    check_positive,
    check_share,
    must,
    require,
    unless,
)
from advcore.rows import KINDS
from advcore.rows.row_store import PLACES
from advcore.selection.partition import ALIASES, PARTITIONS
from advcore.selection.rows_from import ROWS_FROM, Refresh
from advcore.settings import setting, settings

BLOCKS = ("permuted", "stored_order")
TARGETS = ("train", "validation", "real")


@settings
class SelectionSettings:
    """What a selection is, whatever its objective, attack and solver.

    Parameters
    ----------
    partition : "whole", "per_class", "per_batch" or "per_class_per_gradient".
    budget : share of the data to keep, in (0, 1]; K = max(1, round(budget N)). 1.0 keeps all data with weight 1, and
        neither attacks nor solves. With data.pool it is the share of the pool.
    rows : "full", "weight" or "bias": which part of the head's gradient is matched.
    blocks : for per_batch: "permuted" (again at every selection) or "stored_order" (as published).
    chunk_size : examples attacked at once; a multiple of 16. The result does not depend on it beyond float rounding.
    target : whose gradient the coreset is to match: "train", that of the data it is chosen from, or "validation", that
        of the held-out examples, or with a pool "real", that of the real data; those are attacked too. Validation
        needs a solver that fits a target (gradmatch); real does, or craig, which then picks the images of the pool that
        represent the real ones.
    full_examples : where the selection's attack is cheaper than the full one: how many examples, half of them from the
        coreset, are attacked in full as well, for `gradient_error_full`; 0 for none. Counted as evaluation.
    memory_limit : GB that a selection may hold, without the model. Rows that exceed it go to a temporary file; what
        would still exceed it is refused. Null: 80 % of what is free when the selection begins.
    max_minutes : how long a selection may solve, by an estimate that does not depend on the machine's load; more is
        refused before anything is attacked. Null: any time; from 10 minutes on there is a warning.
    rows_from : "attack", all examples are attacked and measured at each selection; or "training", rows are caught in
        the training steps before it, so that a selection takes no passes. Those of examples that are not trained on
        grow old.
    refresh : with "training": examples outside of the coreset that are attacked and measured after each epoch; null
        for none.
    rows_place : with "training": where the rows are, "device", "host", "disk" (temporary files), or "auto", the first
        of these with room.
    """

    partition: str = "per_class"
    budget: float = setting(default=0.5, unit="share")
    rows: str = "full"
    blocks: str = "permuted"
    chunk_size: int = setting(default=256, unit="examples")
    target: str = "train"
    full_examples: int = setting(default=1000, unit="examples")
    memory_limit: float | None = setting(default=None, unit="GB")
    max_minutes: float | None = setting(default=None, unit="minutes")
    rows_from: str = "attack"
    refresh: Refresh | None = None
    rows_place: str = "auto"

    def __post_init__(self) -> None:
        few = isinstance(self.full_examples, int) and 0 < self.full_examples < 4
        require(
            check_one_of("partition", self.partition, PARTITIONS, ALIASES),
            check_share("budget", self.budget, "it is the share of the data to keep"),
            check_one_of("rows", self.rows, KINDS),
            check_one_of("blocks", self.blocks, BLOCKS),
            check_at_least("chunk_size", self.chunk_size, 16)
            or unless(self.chunk_size % 16 == 0, must("chunk_size", "a multiple of 16", self.chunk_size)),
            check_one_of("target", self.target, TARGETS),
            unless(not few, must("full_examples", "0, or at least 4", self.full_examples)),
            unless(few, check_at_least("full_examples", self.full_examples, 0)),
            unless(self.memory_limit is None, check_positive("memory_limit", self.memory_limit)),
            unless(self.max_minutes is None, check_positive("max_minutes", self.max_minutes)),
            check_one_of("rows_from", self.rows_from, ROWS_FROM),
            check_one_of("rows_place", self.rows_place, PLACES),
            *self._check_more(),
        )

    def _check_more(self) -> list[SettingProblem | None]:
        """Return what may be wrong with a subclass's own settings."""
        return []
