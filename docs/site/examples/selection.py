import advcore
from advcore.attacks import LinfPGD

attack = LinfPGD(eps=8 / 255, step_size=2 / 255, steps=10)
selector = advcore.AdversarialCoreset(objective="trades", attack=attack, solver="gradmatch", budget=0.3)
coreset = selector.select(model, dataset, seed=0)  # the model is restored afterwards
print(coreset.indices, coreset.weights, coreset.quality["gradient_error"])

coreset.save("coreset.npz")
coreset = advcore.Coreset.load("coreset.npz")
for x, y, w in coreset.loader(dataset, batch_size=64):
    ...  # one training step with the loss (w * losses).mean()
