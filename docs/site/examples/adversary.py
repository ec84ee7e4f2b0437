import advcore
from advcore.attacks import LinfPGD
from advcore.objectives import Trades

attack = LinfPGD(eps=8 / 255, step_size=2 / 255, steps=10)
x_adv = advcore.attack(model, x, y, attack, objective=Trades(beta=6.0), seed=0)  # x in [0, 1], shape (B, C, H, W)
