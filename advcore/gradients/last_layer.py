"""Last-layer gradients at the attacked points, as factors, in one pass over the plain view of the data.

Perturbations are not stored. A row is exact for the x_adv it was taken at: by Danskin's theorem the gradient of the
inner maximum is the loss gradient at the maximiser.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import perturb, plan_attack
from advcore.attacks.base import Attack
from advcore.data.checks import LabelCheck, check_fits, make_label_check, refuse_changes
from advcore.data.contract import Source, read_first_images
from advcore.errors import ConfigError, NonFiniteError, format_count
from advcore.gradients.base import Gradient, Measurement, MeasurementSettings
from advcore.gradients.catch import Catch, CaughtColumns, Shape, TrainingPass
from advcore.kinds import accept_arguments
from advcore.models.head import Head, Tap, count_classes, find_head, run_layer_by_layer, tap_features
from advcore.objectives.base import Objective, compute_losses
from advcore.rows import FactoredRows, Rows, find_first_not_finite
from advcore.rows.on_disk import FactorStore
from advcore.runtime.borrow import borrow, record_gradients
from advcore.runtime.counted import CountedModel
from advcore.runtime.watch import GradientWatch
from advcore.sweep import Sweep, start_sweep
from advcore.work import Work


def residuals(objective: Objective, y: Tensor, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute d loss / d logits (B, C) of each example, for each forward pass, by autograd of the objective's own loss.

    In float32, or the logits' dtype if wider.
    """
    leaves = {
        name: z.detach().to(torch.promote_types(z.dtype, torch.float32)).requires_grad_(True)
        for name, z in logits.items()
    }
    with torch.enable_grad():
        loss = compute_losses(objective, y, **leaves).sum()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def locate_head(model: nn.Module, source: Source, name: str | None) -> Head:
    """Find the model's linear head (`find_head`), by a forward pass of the first images in eval mode."""
    check_fits(model, source, labels=False)
    with borrow(model, training=False):
        return find_head(model, read_first_images(model, source), name)


@accept_arguments
@record_gradients
def last_layer_rows(model: nn.Module, source: Source, settings: MeasurementSettings) -> Measurement:
    """Attack every example with the current model, and measure its last-layer gradient there, as factors.

    The model ends in a linear head, which is looked for unless `settings.head` names it. Examples are read in order,
    un-augmented. Several processes share the chunks; the first one has all rows, the others none.

    When memory runs out, a chunk is split in halves, down to 16 examples, and an event says so; the rows are the same
    up to float32 rounding. With attack_mode "train" the rows depend on the chunk, and the error passes instead.
    Cost: the attack, one forward pass for each pass of the objective, O(N (C + D)) memory for each.
    Raises ConfigError without a linear head, DataError for bad images or labels, NonFiniteError for NaN logits.
    Reference: Dolatabadi et al. 2022, eqs. 12 and 14. Differs: attack and gradient see the same tensor, un-augmented;
    beta enters once.
    """
    ledger = settings.ledger
    store = FactorStore(settings.objective.passes, len(source), settings.folder)
    labels: list[Tensor] = []
    with distributed.fail_together():
        refuse_changes(source)
        head = locate_head(model, source, settings.head)
        check = make_label_check(source, count_classes(head))
        kind = fit_to_bias(settings.kind, has_bias=head.bias is not None)
    with _start_sweep(model, source, settings) as sweep, tap_features(head) as tap:
        measure = _FactorMeasure(settings, sweep.bind(settings.attack), sweep.forward, tap, check)
        for pieces in sweep.run(torch.arange(len(source)), measure):
            for y, factors in pieces:
                labels.append(y)
                with ledger.phase("rows", source.device):
                    _append(store, factors)
            settings.on_chunk(sum(map(len, labels)), len(source))
    events = distributed.gather_events(sweep.pieces.events)
    with distributed.fail_together(), ledger.phase("rows", source.device):
        if not distributed.is_first():
            return Measurement(rows=None, labels=None, events=events)
        rows = FactoredRows(**store.factors(), kind=kind)
        _refuse_not_finite(rows.squared_norms())
    return Measurement(rows=rows, labels=torch.cat(labels).cpu(), events=events)


def _refuse_not_finite(squared_norms: Tensor) -> None:
    """Raise NonFiniteError for rows with NaN or infinity: of all examples, or of those that the model cannot take."""
    example = find_first_not_finite(squared_norms)
    if example is None:
        return
    count = int((~torch.isfinite(squared_norms)).sum())
    reason = "training has diverged"
    if count < len(squared_norms):
        reason += ", or the model divides by 0 there"
    raise NonFiniteError(
        f"the model's gradient at example {example} is NaN or infinite, as it is at {count:,} of "
        f"{format_count(len(squared_norms), 'example')}; {reason}"
    )


def _start_sweep(
    model: nn.Module, source: Source, settings: MeasurementSettings
) -> contextlib.AbstractContextManager[Sweep]:
    training = settings.attack_mode == "train"
    return start_sweep(model, source, settings.ledger, chunk_size=settings.chunk_size, training=training)


def fit_to_bias(kind: str, *, has_bias: bool) -> str:
    """Return the kind of rows for this head: "weight" instead of "full" without a bias, where "bias" is refused."""
    if kind == "bias" and not has_bias:
        raise ConfigError("selection.rows must be 'weight' or 'full' for a head without bias, got 'bias'")
    return kind if has_bias else "weight"


def run_tapped(forward: CountedModel, tap: Tap, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (B, C) of a forward pass, and the features (B, D) that went into the head, which is tapped.

    Raises ConfigError where the head's outputs are not the logits (`Tap.check`).
    """
    with run_layer_by_layer(forward.model):
        logits = forward(x)
    tap.check(logits)
    return logits, tap.features


# Residuals (B, C) and features (B, D) of each forward pass.
Factors = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _FactorMeasure:
    """Measures the labels and the factors of a batch."""

    settings: MeasurementSettings
    attack: Attack | None
    forward: CountedModel
    tap: Tap
    check: LabelCheck
    watch: GradientWatch = field(default_factory=GradientWatch)

    def __call__(self, indices: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Factors]:
        self.check(y, indices)
        with self.settings.ledger.phase("attack", y.device), torch.no_grad():
            outputs = self._run_passes(indices, x, y)
        with self.settings.ledger.phase("rows", y.device):
            by_pass = residuals(self.settings.objective, y, {name: logits for name, (logits, _) in outputs.items()})
        return y, {name: (by_pass[name], features) for name, (_, features) in outputs.items()}

    def _run_passes(self, indices: Tensor, x: Tensor, y: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return logits and features of each forward pass of the objective; the clean one is reused by the attack."""
        objective = self.settings.objective
        outputs = {}
        if "clean" in objective.passes:
            outputs["clean"] = run_tapped(self.forward, self.tap, x)
        if "adversarial" in objective.passes:
            clean = outputs["clean"][0] if outputs else None
            stream = self.settings.stream.at(indices)
            forward = self.watch.watch(self.forward)
            x_adv = perturb(forward, objective, self.attack, x, y, clean=clean, generator=stream)
            self.watch.refuse_training(self.forward.model, self.attack, x, y)
            outputs["adversarial"] = run_tapped(self.forward, self.tap, x_adv)
        return outputs


def _append(store: FactorStore, factors: Factors) -> None:
    for name, (residual, features) in factors.items():
        store.append(name, residual, features)


def plan_rows(objective: Objective, attack: Attack | None) -> Work:
    """Count the attack's passes and one forward pass for each of the objective's; the clean one is shared."""
    work = plan_attack(objective, attack, clean_known="clean" in objective.passes)
    return work + Work(forward=len(objective.passes))


def _take_factors(seen: TrainingPass) -> dict[str, Tensor]:
    """Return residuals and features of each forward pass of a training step, as columns."""
    by_pass = residuals(seen.objective, seen.y, seen.logits)
    return _name_columns({name: (by_pass[name], seen.features[name]) for name in seen.objective.passes})


def _name_columns(factors: Factors) -> dict[str, Tensor]:
    columns: dict[str, Tensor] = {}
    for name, (residual, features) in factors.items():
        columns |= {f"{name} residuals": residual, f"{name} features": features}
    return columns


def _build_rows(caught: CaughtColumns) -> FactoredRows:
    passes = caught.objective.passes
    return FactoredRows(
        residuals=tuple(caught.columns[f"{name} residuals"] for name in passes),
        features=tuple(caught.columns[f"{name} features"] for name in passes),
        kind=caught.kind,
        release=caught.release,
    )


def _read_factors(objective: Objective, rows: Rows) -> dict[str, Tensor]:
    """Return what is stored of rows that were remeasured."""
    assert isinstance(rows, FactoredRows), "last-layer gradients are factors"
    pairs = zip(rows.residuals, rows.features, strict=True)
    return _name_columns(dict(zip(objective.passes, pairs, strict=True)))


def _count_factor_bytes(shape: Shape) -> int:
    return shape.passes * (shape.classes + shape.features) * shape.itemsize


LAST_LAYER = Gradient(
    about="gradient of the loss with respect to the last layer, as factors",
    measure=last_layer_rows,
    plan=plan_rows,
    is_scalar=False,
    reads_head=True,
    catch=Catch(take=_take_factors, build=_build_rows, count_bytes=_count_factor_bytes, read=_read_factors),
)
