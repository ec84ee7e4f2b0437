"""Climb a per-example loss inside a threat model; never see a label or an objective."""

from advcore.attacks.jpeg import JPEGLinf
from advcore.attacks.nfgsm import NFGSM
from advcore.attacks.perceptual import LPA, PPGD, FastLPA
from advcore.attacks.pgd import L1PGD, L2PGD, LinfPGD
from advcore.attacks.recolor import ReColorAdv
from advcore.attacks.stadv import StAdv

ATTACKS = {
    "linf_pgd": LinfPGD,
    "l2_pgd": L2PGD,
    "l1_pgd": L1PGD,
    "n_fgsm": NFGSM,
    "fast_lpa": FastLPA,
    "lpa": LPA,
    "ppgd": PPGD,
    "stadv": StAdv,
    "recoloradv": ReColorAdv,
    "jpeg_linf": JPEGLinf,
}
