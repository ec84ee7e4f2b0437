"""Attacks: each maximises a per-example loss within a threat model, and sees neither labels nor objectives."""

from advcore.attacks.fgsm_mep import FGSMMEP
from advcore.attacks.jpeg import JPEGLinf
from advcore.attacks.nfgsm import NFGSM
from advcore.attacks.perceptual import LPA, FastLPA
from advcore.attacks.pgd import L1PGD, L2PGD, LinfPGD
from advcore.attacks.ppgd import PPGD
from advcore.attacks.recolor import ReColorAdv
from advcore.attacks.stadv import StAdv

ATTACKS = {
    "linf_pgd": LinfPGD,
    "l2_pgd": L2PGD,
    "l1_pgd": L1PGD,
    "n_fgsm": NFGSM,
    "fgsm_mep": FGSMMEP,
    "fast_lpa": FastLPA,
    "lpa": LPA,
    "ppgd": PPGD,
    "stadv": StAdv,
    "recoloradv": ReColorAdv,
    "jpeg_linf": JPEGLinf,
}
# Names that the field uses, to the names here (`errors.suggest_nearest`).
ALIASES = {
    "pgd": "linf_pgd",
    "linf": "linf_pgd",
    "pgdlinf": "linf_pgd",
    "pgdinf": "linf_pgd",
    "madry": "linf_pgd",
    **{f"pgd{n}": f"linf_pgd with steps: {n}" for n in (2, 3, 5, 7, 10, 20, 40, 50, 100)},
    "fgsm": "linf_pgd with steps: 1",
    "rsfgsm": "linf_pgd with steps: 1",
    "ffgsm": "linf_pgd with steps: 1",
    "fastat": "linf_pgd with steps: 1",
    "fast": "linf_pgd with steps: 1",
    "fat": "linf_pgd with steps: 1",
    "fgsmep": "linf_pgd with steps: 1 and start: remembered",
    "atta": "linf_pgd with start: remembered",
    "mep": "fgsm_mep",
    "bim": "linf_pgd with start: clean",
    "ifgsm": "linf_pgd with start: clean",
    "l2": "l2_pgd",
    "pgdl2": "l2_pgd",
    "l1": "l1_pgd",
    "pgdl1": "l1_pgd",
    "slide": "l1_pgd",
    "perceptualpgd": "ppgd",
    "lagrangian": "lpa",
    "pat": "fast_lpa",
    "spatial": "stadv",
    "recolor": "recoloradv",
    "jpeg": "jpeg_linf",
}
