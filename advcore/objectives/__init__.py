"""What is minimised, per example, and what the attack climbs."""

from advcore.objectives.mart import Mart
from advcore.objectives.standard import Pgd, Standard
from advcore.objectives.trades import Trades

OBJECTIVES = {"standard": Standard, "pgd": Pgd, "trades": Trades, "mart": Mart}
