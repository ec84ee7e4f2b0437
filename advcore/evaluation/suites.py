"""Named sets of attacks for `advcore evaluate --suite`."""

from collections.abc import Callable, Sequence
from typing import Any

from advcore.attacks import LPA, PPGD, JPEGLinf, ReColorAdv, StAdv
from advcore.attacks.geometry import LP
from advcore.errors import ConfigError, must
from advcore.evaluation.autoattack import AutoAttack


def seen(attacks: Sequence[Any]) -> list[Any]:
    """The run file's own attacks."""
    return list(attacks)


def autoattack(attacks: Sequence[Any]) -> list[Any]:
    """AutoAttack, standard version, in each lp ball that the run file's attacks have.

    For fewer than four classes it runs what exists for so many, and is flagged.
    """
    balls = dict.fromkeys((attack.norm, attack.eps) for attack in attacks if attack.norm in LP)
    if not balls:
        raise ConfigError(
            must(
                "--suite",
                "seen or unseen without an lp attack in the file",
                "autoattack",
                "add one to evaluation.attacks",
            )
        )
    return [AutoAttack(norm=norm, eps=eps) for norm, eps in balls]


def unseen(attacks: Sequence[Any]) -> list[Any]:
    """What PAT evaluates CIFAR-10 with, and JPEG: AutoAttack linf 8/255 and l2 1, StAdv, ReColorAdv, JPEG, PPGD, LPA.

    Reference: Laidlaw et al. 2021, section 6. Differs: PPGD and LPA are bounded in the attacked model's own features.
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


SUITES: dict[str, Callable[[Sequence[Any]], list[Any]]] = {"seen": seen, "unseen": unseen, "autoattack": autoattack}
ALIASES = {"aa": "autoattack", "pat": "unseen"}
"""What the field calls them, to their names here (`errors.nearest`)."""
