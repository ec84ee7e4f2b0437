"""Named sets of attacks for `advcore evaluate --suite`."""

from collections.abc import Callable, Sequence

from advcore.attacks import LPA, PPGD, JPEGLinf, ReColorAdv, StAdv
from advcore.attacks.base import Attack
from advcore.attacks.geometry import LP
from advcore.errors import ConfigError, SettingProblem, must
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.evaluate import attack_name

Attacks = Sequence[Attack | AutoAttack]


def find_unfit_problem(path: str, attack: Attack | AutoAttack) -> SettingProblem | None:
    """Return why an attack, whose setting is at `path`, cannot evaluate a model; None if it can."""
    if getattr(attack, "training_only", False):
        way_out = "this one is for training only (fast_lpa: set project: true)"
        return must(f"{path}.name", "an attack that stays in its ball", attack_name(attack), way_out)
    if not getattr(attack, "remembers", False):
        return None
    if hasattr(attack, "start"):
        return must(f"{path}.start", "uniform, gaussian or clean in an evaluation", attack.start)
    way_out = "this one is for training only"
    return must(f"{path}.name", "an attack without memory of earlier epochs", attack_name(attack), way_out)


def build_autoattack(attacks: Attacks) -> Attacks:
    """Return AutoAttack's standard version in each lp ball of the run file's attacks.

    For fewer than four classes it runs the attacks that exist for that number, and is flagged. Raises ConfigError if no
    attack has an lp ball.
    """
    balls = dict.fromkeys((attack.norm, attack.eps) for attack in attacks if attack.norm in LP)
    if not balls:
        way_out = "add one to evaluation.attacks"
        raise ConfigError(must("--suite", "seen or unseen without an lp attack in the file", "autoattack", way_out))
    return [AutoAttack(norm=norm, eps=eps) for norm, eps in balls]


def build_attacks_unseen(attacks: Attacks) -> Attacks:
    """Return the attacks that PAT evaluates CIFAR-10 with, and JPEG, whatever the run file's attacks are.

    AutoAttack linf 8/255 and l2 1, StAdv, ReColorAdv, JPEG, PPGD and LPA. Reference: Laidlaw et al. 2021, section 6.
    Differs: PPGD and LPA are bounded in the attacked model's own features.
    """
    return [
        AutoAttack(norm="linf", eps=8 / 255),
        AutoAttack(norm="l2", eps=1.0),
        StAdv(eps=0.05, steps=100),
        ReColorAdv(eps=0.06, steps=100),
        JPEGLinf(eps=0.125, steps=200),
        PPGD(eps=0.5),
        LPA(eps=0.5),
    ]


# the attacks of the run file as they are, or others
SUITES: dict[str, Callable[[Attacks], Attacks]] = {
    "seen": list,
    "unseen": build_attacks_unseen,
    "autoattack": build_autoattack,
}
# Names used elsewhere, to their names here (`errors.suggest_nearest`).
ALIASES = {"aa": "autoattack", "pat": "unseen"}
