"""Scores of images that were never scored, as the mean of their nearest scored neighbours in feature space."""

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.data.source import Source
from advcore.errors import check, check_at_least, require
from advcore.gradients.base import Measurement, MeasurementSettings
from advcore.gradients.last_layer import locate_head, run_tapped
from advcore.gradients.scores import get_features, score_examples, sweep_scores
from advcore.kinds import accept_arguments
from advcore.models.head import tap_features
from advcore.runtime.borrow import record_gradients
from advcore.runtime.counted import CountedModel

NEIGHBOURS = 12
_AT_ONCE = 4096  # scored examples whose distances are computed together


def average_neighbours(queries: Tensor, features: Tensor, scores: Tensor, neighbours: int) -> Tensor:
    """Return the mean score (B,) float64 of each query's nearest neighbours, by Euclidean distance.

    queries : (B, D). features, scores : (N, D) and (N,), of what is scored. neighbours : how many, at most N. Which of
    several at the same distance count is not defined.
    Cost O(B N D) time, O(B 4096) memory, in float64.
    """
    queries = queries.double()
    nearest = queries.new_full((len(queries), neighbours), torch.inf)
    of_nearest = torch.zeros_like(nearest)
    for piece, piece_scores in zip(features.split(_AT_ONCE), scores.split(_AT_ONCE), strict=True):
        piece = piece.to(queries)
        # Squared distances but for the query's own squared norm, which changes no order.
        distances = piece.square().sum(1) - 2 * queries @ piece.T
        distances = torch.cat([nearest, distances], 1)
        candidates = torch.cat([of_nearest, piece_scores.to(queries).expand(len(queries), -1)], 1)
        nearest, places = distances.topk(neighbours, largest=False)
        of_nearest = candidates.gather(1, places)
    return of_nearest.mean(1)


@accept_arguments
@record_gradients
def extrapolate_scores(
    model: nn.Module,
    scored: Source,
    scores: Tensor,
    pool: Source,
    settings: MeasurementSettings,
    *,
    neighbours: int = NEIGHBOURS,
) -> Measurement:
    """Estimate (P, 1) float64: the score of each image of a pool, from those of a small data set.

    scored, scores : the data set, and the score (N,) of each of its examples. pool : is walked through in chunks, so
    that its features are never held all at once. neighbours : how many of the nearest scored examples count, 1 to N.
    Features are what goes into the model's last layer, in eval mode. Labels are not read.

    Cost: one forward pass for each of the N + P images, in phase "scoring", O(P N D) for distances, and 8 N D bytes.
    Raises ConfigError for scores or neighbours that do not fit.
    Reference: Nieth et al. 2024 (arXiv 2406.13283), and their code, github BjoernNieth/LS-Dataset-pruning-in-AT,
    extrapolate.py: 12 neighbours, Euclidean distance, equal weights. Differs: features are those of a checkpoint of the
    user's, where theirs are of a network for copy detection (SSCD).
    """
    with distributed.fail_together():
        require(
            check(len(scores) == len(scored), "scores", f"one for each of {len(scored)} examples", len(scores)),
            check_at_least("neighbours", neighbours, 1, most=len(scored)),
        )
        head = locate_head(model, pool, settings.head)
    rows, _ = score_examples(get_features, model, scored, settings).get_rows_and_labels()
    features = rows.dense()[:, 0].to(pool.device)
    with tap_features(head) as tap:

        def measure(forward: CountedModel, indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                _, queries = run_tapped(forward, tap, x)
            return average_neighbours(queries, features, scores.to(features.device), neighbours)

        return sweep_scores(measure, model, pool, settings, attacked=False)
