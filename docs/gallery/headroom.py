"""Headroom over training

*Headroom* says how much an unbiased choice of examples can gain. At headroom h, the best choice gives gradient
estimates with the same second moment from h times as many examples as a uniform choice. If headroom is near 1, all
gradients have about the same length, and choosing gains almost nothing. If headroom is near 0, a few examples
contribute almost the whole gradient. Headroom is recorded in every epoch, from the epoch's own training steps, at no
cost.

The three runs differ only in their attack. Headroom falls during training, because more and more examples are learned
and their gradients vanish. Headroom falls further if the attack is weaker, because under a strong attack, few examples
are ever fully learned. In these runs, the stronger the attack is, the less can be saved by choosing.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from advcore import Trainer
from advcore.attacks import LinfPGD
from advcore.models.small import small_cnn
from advcore.selection.schedule import Schedule
from advcore.training import SGD

digits = load_digits()
images, labels = torch.from_numpy(digits.images).float()[:, None] / 16, torch.from_numpy(digits.target)
data = TensorDataset(images[:1437], labels[:1437])

runs = {
    "no attack": dict(objective="standard"),
    "PGD-3, linf 0.05": dict(objective="pgd", attack=LinfPGD(eps=0.05, steps=3)),
    "PGD-3, linf 0.15": dict(objective="pgd", attack=LinfPGD(eps=0.15, steps=3)),
}
figure, axis = plt.subplots(figsize=(8.6, 3.8))
last = []
for name, settings in runs.items():
    torch.manual_seed(0)
    model = small_cnn(num_classes=10, channels=1, width=8)
    trainer = Trainer(schedule=Schedule(epochs=8), optimizer=SGD(lr=0.1), batch_size=64, **settings)
    trained = trainer.fit(model, data, seed=0)
    headroom = [entry["headroom"] for entry in trained.epochs]
    print(f"{name:18} headroom {headroom[0]:.2f} in the first epoch, {headroom[-1]:.2f} in the last")
    assert headroom[-1] < headroom[0]
    last.append(headroom[-1])
    axis.plot(range(1, len(headroom) + 1), headroom, marker="o", markersize=4, label=name)
assert last == sorted(last), "the stronger the attack, the less there is to save by choosing"
axis.set(xlabel="epoch", ylabel="headroom", ylim=(0, 1))
axis.grid(True)
axis.legend()
figure.savefig("headroom-transparent.png")
