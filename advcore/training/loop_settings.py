"""Settings of the training loop that do not depend on what is trained."""

from collections.abc import Iterable

from advcore.attacks.memory import Memory
from advcore.errors import at_least, one_of, positive, require, within
from advcore.selection.coreset import ATTACK_MODES
from advcore.speed import Speed
from advcore.types import NORMALISE, settings


@settings
class LoopSettings:
    """How the loop trains, whatever its objective, attack and schedule.

    Parameters
    ----------
    batch_size : examples per step, over all processes together; at least 2.
    normalise : how a coreset's weights are scaled: "coreset", to mean 1 over the coreset; "none", as solved, w K / N;
        "batch", to mean 1 in each batch, as published; "equal", replaced by 1 each.
    attack_mode : mode of the model while it is attacked: "eval", or "train" as in some published codes.
    eps_ramp : epochs over which the training attack's ball grows to its size, >= 0.
    clip_norm : largest gradient norm, above 0; None does not clip.
    clip_value : largest absolute value of a gradient's entry, above 0, as PAT clips; None does not clip.
    ema : decay of a moving average of the weights, in [0, 1), which is then what is evaluated and saved; None for none.
    probe_examples : validation examples, stratified, at least 1, attacked after each epoch to choose `best`.
    memory : how perturbations are remembered, for an attack with `start: remembered`.
    speed : precision and layout of the model's passes, and the like.
    """

    batch_size: int = 128
    normalise: str = "coreset"
    attack_mode: str = "eval"
    eps_ramp: float = 0
    clip_norm: float | None = None
    clip_value: float | None = None
    ema: float | None = None
    probe_examples: int = 1000
    memory: Memory = Memory()
    speed: Speed = Speed()

    def __post_init__(self):
        require(
            at_least("batch_size", self.batch_size, 2, "BatchNorm cannot learn from one example"),
            one_of("normalise", self.normalise, NORMALISE),
            one_of("attack_mode", self.attack_mode, ATTACK_MODES),
            within("eps_ramp", self.eps_ramp, 0, 10_000),
            None if self.clip_norm is None else positive("clip_norm", self.clip_norm),
            None if self.clip_value is None else positive("clip_value", self.clip_value),
            None if self.ema is None else within("ema", self.ema, 0, 0.999999),
            at_least("probe_examples", self.probe_examples, 1),
            *self._more_problems(),
        )

    def _more_problems(self) -> Iterable[str | None]:
        """Return what may be wrong with a subclass's own settings."""
        return ()
