"""Weighted adversarial training: the training step and the training loop."""

from advcore.training.attack_steps import ByBudget, Linear, Steady
from advcore.training.lr import Constant, Cosine, Cyclic, MultiStep, OneCycle
from advcore.training.optimizers import SGD, Adam, AdamW
from advcore.training.timm import TimmOptimizer, TimmSchedule

OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "timm": TimmOptimizer}
# What the field calls these and those below, to their names here (`errors.suggest_nearest`).
OPTIMIZER_ALIASES = {
    "momentum": "sgd",
    "nesterov": "sgd with nesterov: true",
    "lamb": "timm:lamb",
    "lion": "timm:lion",
    "muon": "timm:muon",
    "rmsprop": "timm:rmsprop",
}
LR_SCHEDULES = {
    "constant": Constant,
    "multi_step": MultiStep,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "cyclic": Cyclic,
    "timm": TimmSchedule,
}
LR_SCHEDULE_ALIASES = {
    "none": "constant",
    "fixed": "constant",
    "constantlr": "constant",
    "step": "multi_step",
    "steplr": "multi_step",
    "multisteplr": "multi_step",
    "piecewise": "multi_step",
    "cos": "cosine",
    "cosineannealing": "cosine",
    "cosineannealinglr": "cosine",
    "onecyclelr": "one_cycle",
    "superconvergence": "one_cycle",
    "cycliclr": "cyclic",
    "triangular": "cyclic",
}
ATTACK_STEPS = {"constant": Steady, "linear": Linear, "by_budget": ByBudget}
ATTACK_STEP_ALIASES = {"fixed": "constant", "ramp": "linear", "increasing": "linear", "budget": "by_budget"}
