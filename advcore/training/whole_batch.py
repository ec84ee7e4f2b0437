"""What rules on whole batches require of a run's attack."""

from advcore.attacks import ATTACKS
from advcore.attacks.base import Attack
from advcore.attacks.pgd import PGD
from advcore.errors import SettingProblem, must
from advcore.minibatch.whole_batch import WholeBatch
from advcore.types import find_name


def find_attack_problem(rule: WholeBatch, attack: Attack | None, name: str) -> SettingProblem | None:
    """Return why the rule, known by `name`, cannot work with the attack, as a problem with `attack`; None if it can."""
    if not isinstance(attack, PGD) or attack.norm not in rule.norms:
        norms = " or ".join(f"{norm}_pgd" for norm in rule.norms)
        way_out = "other attacks cannot be cut into such steps"
        return must("attack", f"{norms} with minibatch: {name}", find_name(ATTACKS, attack), way_out)
    if attack.remembers:
        way_out = "the rule says itself where an attack starts"
        return must("attack.start", f"other than remembered with minibatch: {name}", attack.start, way_out)
    return None
