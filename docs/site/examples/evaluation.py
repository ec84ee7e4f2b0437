from advcore import evaluate
from advcore.attacks import LinfPGD

attacks = [LinfPGD(eps=8 / 255, step_size=2 / 255, steps=50)]
result = evaluate(model, test, attacks, checks=True)
print(result.clean, result.worst, result.flags)
