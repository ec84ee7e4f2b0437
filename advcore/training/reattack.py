"""Training steps that attack part of each batch again, and train on the remembered perturbations of the rest.

Without a correction, the loss of a step is mean(w l(x~)): x~ is x_adv where the example was attacked at this step, and
where its last attack ended (projected again) where it was not. That mean lies below the one at fresh x_adv by what the
old perturbations have lost. With `correction: inverse_probability`, the expectation over the draw is the loss with all
attacked: with r_i the loss at the remembered image, f_i that at the fresh one, q_i the probability of being picked,

    mean_i r_i + (1 / B) sum over the picked of (f_i - r_i) / q_i        (a difference estimator)

has the mean of f_i for its expectation. It passes the picked forward and backward once more, at their remembered image.
No weights of the images trained on anyway can do so: E[picked] a f + (1 - q) b r = f for all losses needs b = 0, which
is `rest: dropped`.
Reference: Särndal, Swensson, Wretman 1992, section 6.3 (difference estimator).
"""

import dataclasses
from typing import NamedTuple, cast

import torch
from torch import Tensor

from advcore.attacks.memory import Perturbations
from advcore.minibatch.base import AttackSubset, Picked, Seen
from advcore.models.head import Head
from advcore.objectives.base import compute_cross_entropy
from advcore.regularizers.base import HasStart
from advcore.shares import divide
from advcore.training.progress import Entry, Snapshot
from advcore.training.row_catcher import catch_rows
from advcore.training.step import Batch, Forward, Learner
from advcore.training.steppers import AttackSubsetStepper
from advcore.training.visits import VisitHistory


class _Chosen(NamedTuple):
    """Positions in a batch, rising: of examples that are attacked; of those of which a perturbation is remembered."""

    attacked: Tensor
    known: Tensor
    picked: Picked | None  # of the known


class _Points(NamedTuple):
    """The adversarial images of a step (M, C, H, W): one for each example, then a second one for some.

    positions : (M,) whose image each is, and factors (M,) of their losses; None for one of each, in order.
    """

    images: Tensor
    positions: Tensor | None = None
    factors: Tensor | None = None


class ReattackStepper(AttackSubsetStepper):
    """Steps on whole batches of which a rule picks what is attacked again (`rest: remembered`).

    Examples of which nothing is remembered are always attacked; the rule picks among the others.

    history : what was recorded of each example's last visit. is_known : whether the epoch's examples had a remembered
    perturbation when this was first asked: True for all, False for none, None for some, where every batch has to wait
    for the device.
    """

    def __init__(self, rule: AttackSubset, size: int, device: torch.device, head: Head | None) -> None:
        super().__init__(rule, size, device, head)
        self.history = VisitHistory(size, device)
        self.is_known: bool | None = None
        self._has_looked = False

    def begin(self, epoch: int, entries: list[Entry]) -> None:
        super().begin(epoch, entries)
        self.history.begin()
        self._has_looked = False

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        chosen = self._choose(learner, batch)
        points = self._perturb(learner, batch, chosen)
        labels = batch.y
        weights = batch.weights
        scale = batch.factor
        if points.positions is not None and points.factors is not None:
            labels = labels[points.positions]
            weights = weights[points.positions] * points.factors
            if learner.normalise != "batch":  # which divides by the weights' sum, and that is the batch's
                scale *= divide(len(labels), len(batch.y))
        outputs: list[Tensor] = []

        def compute_loss(forward: Forward) -> Tensor:
            def pass_forward(images: Tensor) -> Tensor:
                logits = forward(images)
                if images is points.images:
                    outputs.append(logits.detach())
                elif points.positions is not None:
                    logits = logits[points.positions]
                return logits

            loss = scale * learner.loss(watch(pass_forward), batch.x, points.images, labels, weights)
            return self._add_clean_loss(learner, forward, batch, loss)

        with catch_rows(learner.catcher, batch.attack_stream, batch.y) as watch:
            loss = learner.update(compute_loss, batch.x.device, batch.where)
        self._record_visits(batch, chosen, compute_cross_entropy(outputs[0], labels))
        return loss, batch.images

    def _choose(self, learner: Learner, batch: Batch) -> _Chosen:
        """Choose what of the batch is attacked: everything that is not remembered, and what the rule picks of the rest.

        At least one example is, so that all processes share what they remember in each step.
        """
        known = self._find_known(learner.memory, batch)
        size = len(batch.y)
        if not len(known):
            return _Chosen(torch.arange(size, device=known.device), known, None)
        picked = self._pick(learner, batch, known)
        if len(known) == size:
            return _Chosen(picked.positions, known, picked)
        is_attacked = torch.ones(size, dtype=torch.bool, device=known.device)
        is_attacked[known] = False
        is_attacked[known[picked.positions]] = True
        return _Chosen(is_attacked.nonzero()[:, 0], known, picked)

    def _find_known(self, memory: Perturbations | None, batch: Batch) -> Tensor:
        """Return the positions, rising, of the batch's examples of which a perturbation is remembered."""
        assert memory is not None, "`find_rule_problem` refuses an attack without one"
        if not self._has_looked:
            self._look(memory)
        indices = batch.indices.to(memory.slots.device)
        everyone = torch.arange(len(indices), device=indices.device)
        if self.is_known is None:
            slots = memory.slots[indices]
            return everyone[(slots >= 0) & memory.known[slots.clamp_min(0)]]
        return everyone if self.is_known else everyone[:0]

    def _look(self, memory: Perturbations) -> None:
        """Find out whether all, some or none of the epoch's examples are remembered; waits for the device."""
        known = memory.known[memory.slots[memory.slots >= 0]]
        self._has_looked = True
        self.is_known = bool(known.any())
        if self.is_known and not bool(known.all()):
            self.is_known = None

    def _pick(self, learner: Learner, batch: Batch, known: Tensor) -> Picked:
        """Let the rule pick of the `known` positions of the batch; return positions in these."""
        part = dataclasses.replace(
            batch,
            indices=batch.indices.to(known.device)[known],
            x=batch.x[known],
            y=batch.y[known],
            weights=batch.weights[known],
            rule_stream=batch.rule_stream.take(known),
        )
        seen = None
        if self.rule.needs_scores(self.epoch, len(known)):
            seen = self._score_clean_images(learner, part)
        elif self.rule.needs_preferences(self.epoch, len(known)):
            nothing = part.weights[:0]
            seen = Seen(nothing, nothing[:, None], part.weights, last_visit=self.history.read(part.indices))
        return self.rule.pick(seen, part.rule_stream)

    def _perturb(self, learner: Learner, batch: Batch, chosen: _Chosen) -> _Points:
        """Attack what is chosen, and return the adversarial images to train on."""
        size = len(batch.y)
        attacked, known, picked = chosen
        remembered = None
        if len(attacked) < size:
            with learner.ledger.phase("attack", batch.x.device):
                remembered = cast(HasStart, learner.attack).find_start(batch.x, batch.attack_stream)
        stream = batch.attack_stream.take(attacked)
        fresh = learner.perturb(batch.x[attacked], batch.y[attacked], stream)
        if remembered is None or picked is None:
            return _Points(fresh)
        images = remembered.index_copy(0, attacked, fresh)
        if self.rule.correction == "none":
            return _Points(images)
        again = known[picked.positions]
        inverse = picked.weights * divide(len(known), len(again))  # 1 / q
        twice = torch.cat([images.index_copy(0, again, remembered[again]), images[again]])
        positions = torch.cat([torch.arange(size, device=again.device), again])
        factors = torch.cat([torch.ones_like(batch.weights).index_copy(0, again, 1 - inverse), inverse])
        return _Points(twice, positions, factors)

    def _record_visits(self, batch: Batch, chosen: _Chosen, losses: Tensor) -> None:
        """Record the losses (M,) at the images trained on; where an example has two, that of the attacked one."""
        size = len(batch.y)
        attacked, known, picked = chosen
        if len(losses) > size:
            assert picked is not None, "only what is picked has two"
            losses = losses[:size].index_copy(0, known[picked.positions], losses[size:])
        entropy = losses.new_ones((), dtype=torch.float64)
        if picked is not None:
            entropy = picked.entropy
        self._record_picks(Picked(attacked, losses[attacked], entropy), batch)
        nobody = torch.zeros(size, dtype=torch.bool, device=attacked.device)
        self.history.keep(
            batch.indices.to(attacked.device),
            losses,
            is_attacked=nobody.index_fill(0, attacked, True),
            is_first=~nobody.index_fill(0, known, True),
            is_divided=size < batch.images,
        )

    def summarize(self, learner: Learner) -> Entry:
        """Return what `AttackSubsetStepper` does, and what the history sums up (`VisitHistory.summarize`)."""
        return super().summarize(learner) | self.history.summarize()

    def state(self) -> Snapshot:
        return super().state() | {"history": self.history.state()}

    def restore(self, state: Snapshot) -> None:
        super().restore(state)
        self.history.restore(state["history"])
        self._has_looked = False
