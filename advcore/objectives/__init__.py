"""Losses: what training minimises for each example, and what the attack maximises."""

from advcore.objectives.mart import Mart
from advcore.objectives.standard import Pgd, Standard
from advcore.objectives.trades import Trades

OBJECTIVES = {"standard": Standard, "pgd": Pgd, "trades": Trades, "mart": Mart}
# Names that the field uses, to the names here (`errors.suggest_nearest`).
ALIASES = {
    "at": "pgd",
    "adversarial": "pgd",
    "adversarialtraining": "pgd",
    "madry": "pgd",
    "pgdat": "pgd",
    "fgsm": "pgd",
    "fat": "pgd",
    "fastat": "pgd",
    "pat": "pgd",
    "ce": "standard",
    "crossentropy": "standard",
    "clean": "standard",
    "natural": "standard",
    "erm": "standard",
    "none": "standard",
}
