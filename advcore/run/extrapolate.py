"""Extrapolate the scores of a run file's training set to its pool."""

from dataclasses import replace
from pathlib import Path

import torch

from advcore import distributed
from advcore.config.schema import RunConfig
from advcore.cost import CostLedger
from advcore.data.pool import Pooled
from advcore.errors import check, require
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.extrapolation import extrapolate_scores
from advcore.run import build, weights
from advcore.run.prepare import prepare
from advcore.selection.scores import Scores
from advcore.training.loop_settings import agree_on_speed


def extrapolate(
    config: RunConfig, scores_path: Path, checkpoint: Path, *, neighbours: int
) -> tuple[Scores, CostLedger]:
    """Return a score of each image of `data.pool`, and what that cost (`extrapolate_scores`).

    scores_path : scores of the run file's training examples, as `advcore score` writes them. checkpoint : weights of
    the model in whose features neighbours are near. Raises ConfigError without a pool, or with more neighbours than
    examples; DataError for scores of other data; CheckpointError for files that cannot be read.
    """
    with distributed.fail_together():
        way_out = "name a pool, whose images are to be scored"
        require(check(config.data.pool, "data.pool", "set with --extrapolate", None, way_out))
        scores = Scores.load(scores_path)
        prepared = prepare(config, scores=False, initial=False)
        weights.load_state(prepared.model, checkpoint)
        data = prepared.data
        assert isinstance(data.train, Pooled), "there is a pool"
        fingerprint = build.compute_fingerprint(data)
        known = scores.rows(str(scores_path), scores.score, data.part, len(data.whole), fingerprint)
        most = len(data.part)
        rule = f"1 to {most}, the number of scored examples"
        require(check(1 <= neighbours <= most, "--neighbours", rule, neighbours))
    pool = data.train.pool
    ledger = CostLedger()
    speed = agree_on_speed(prepared.trainer.speed, prepared.model, pool)
    settings = MeasurementSettings(ledger=ledger, head=config.model.head)
    measured = speed.activate()(extrapolate_scores)(
        speed.lay_out(prepared.model), data.train.real, known.matrix[:, 0], pool, settings, neighbours=neighbours
    )
    distributed.merge_ledgers(ledger)
    rows, _ = measured.get_rows_and_labels()
    return _describe_pool(scores, rows.dense()[:, 0].cpu(), pool.fingerprint(), neighbours, ledger), ledger


def _describe_pool(
    scores: Scores, values: torch.Tensor, fingerprint: str, neighbours: int, ledger: CostLedger
) -> Scores:
    """Return scores of a pool; what was scored, and by what, is stated as in the scores that they come from."""
    return replace(
        scores,
        indices=torch.arange(len(values)),
        values=values,
        num_examples=len(values),
        fingerprint=fingerprint,
        passes=scores.passes + ledger.sum_units(),
        neighbours=neighbours,
        extrapolated_from=scores.sha256,
        sha256="",
    )
