"""What an evaluation returns."""

from dataclasses import dataclass, field

from torch import Tensor

from advcore.errors import format_count
from advcore.evaluation.intervals import Accuracy
from advcore.evaluation.shared import SharedImages
from advcore.types import Facts


@dataclass(frozen=True)
class Evaluation:
    """The accuracies of a model, and the flags that question them.

    clean : accuracy without attack.
    attacks : one entry per attack: how the number was obtained, then accuracy, n and interval.
    worst : accuracy where an example counts only if it is right under every attack, over the examples that all attacks
        saw; None without attacks.
    shared : the accuracies on the examples that all attacks saw, where some did not see all of them; else None.
    flags : what makes the numbers untrustworthy, one line each: the `str` of a `Flag` (advcore.types).
    verdicts : (n,) bool, whether each example is right: "clean", and under each attack by its position ("0", "1", ...);
        of AutoAttack also after each of its parts ("0.apgd-ce"). What an attack did not see is as at the clean image.
    examples : (n, C, H, W) for each attack by its position, if they were asked for: where the attack found an example
        misclassified, else where it ended.
    """

    clean: Accuracy
    attacks: tuple[Facts, ...]
    worst: Accuracy | None = None
    shared: SharedImages | None = None
    flags: tuple[str, ...] = ()
    verdicts: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    examples: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        shares = {"clean": self.clean.accuracy} | {facts["name"]: facts["accuracy"] for facts in self.attacks}
        if len(self.attacks) > 1 and self.worst:
            shares["worst"] = self.worst.accuracy
        texts = [f"{name} {share:.1%}" for name, share in shares.items()]
        return f"Evaluation({', '.join(texts)}, n={self.clean.n}, {format_count(len(self.flags), 'flag')})"

    def as_dict(self) -> Facts:
        """Return the evaluation as a record holds it, without verdicts and examples."""
        results: Facts = {"clean": self.clean.as_dict(), "attacks": list(self.attacks)}
        if self.worst:
            results["worst"] = self.worst.as_dict()
        if self.shared:
            results["shared"] = self.shared.as_dict()
        return results | {"flags": list(self.flags)}
