"""Climb a per-example loss inside a threat model; never see a label or an objective."""

from advcore.attacks.pgd import L2PGD, LinfPGD

ATTACKS = {"linf_pgd": LinfPGD, "l2_pgd": L2PGD}
