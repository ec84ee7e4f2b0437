"""Weighted adversarial training: one step, one loop."""

from advcore.training.attack_steps import ByBudget, Linear, Steady
from advcore.training.lr import Constant, Cosine, Cyclic, MultiStep, OneCycle
from advcore.training.optimizers import SGD, Adam

OPTIMIZERS = {"sgd": SGD, "adam": Adam}
LR_SCHEDULES = {
    "constant": Constant,
    "multi_step": MultiStep,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "cyclic": Cyclic,
}
ATTACK_STEPS = {"constant": Steady, "linear": Linear, "by_budget": ByBudget}
