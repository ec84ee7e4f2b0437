"""Attacked images, by threat model

An attack searches a ball around each image for the point at which the network's loss is highest. The threat model
defines the ball. *linf* bounds the change of each pixel, and *l2* bounds the Euclidean length of all changes. *l1*
bounds the sum of the absolute changes, so that only a few pixels change much. A *spatial* attack moves pixels, and a
*recoloring* attack replaces each gray level by another. These two attacks add no perturbation. A *perceptual* attack
bounds the distance between the network's activations.

The six attacks are applied to the same network, which was trained without attacks. Below each digit is the network's
prediction, in red if it is wrong. The picture below the prediction shows the change (blue: darker, red: brighter).
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

import advcore
from advcore.attacks import L1PGD, L2PGD, PPGD, LinfPGD, ReColorAdv, StAdv
from advcore.models.small import small_cnn
from advcore.selection.schedule import Schedule
from advcore.training import SGD

digits = load_digits()
images, labels = torch.from_numpy(digits.images).float()[:, None] / 16, torch.from_numpy(digits.target)
torch.manual_seed(0)
model = small_cnn(num_classes=10, channels=1, width=8)
trainer = advcore.Trainer(objective="standard", schedule=Schedule(epochs=6), optimizer=SGD(lr=0.1), batch_size=64)
trainer.fit(model, TensorDataset(images[:1437], labels[:1437]), seed=0)
model.eval()

attacks = {
    "linf, eps 0.15": LinfPGD(eps=0.15, steps=10),
    "l2, eps 1": L2PGD(eps=1.0, steps=10),
    "l1, eps 5": L1PGD(eps=5.0, steps=10),
    "spatial, eps 0.2": StAdv(eps=0.2, steps=10),
    "recolouring, eps 0.3": ReColorAdv(eps=0.3, steps=10),
    "perceptual, eps 0.5": PPGD(eps=0.5, steps=10),
}
x, y = images[1437:1557], labels[1437:1557]
clean = float((model(x).argmax(1) == y).float().mean())
print(f"{'no attack':20} {clean:6.1%} right")

figure, axes = plt.subplots(6, 7, figsize=(8.6, 8.0), subplot_kw={"xticks": [], "yticks": [], "frame_on": False})
for column, (name, attack) in enumerate({"no attack": None, **attacks}.items()):
    x_adv = x if attack is None else advcore.attack(model, x, y, attack)
    seen = model(x_adv).argmax(1)
    if attack is not None:
        right = float((seen == y).float().mean())
        print(f"{name:20} {right:6.1%} right")
        assert right < clean, "every attack finds images that the network no longer recognises"
    axes[0, column].set_title(name.replace(", ", "\n"))
    for row in range(3):
        above, below = axes[2 * row, column], axes[2 * row + 1, column]
        above.imshow(x_adv[row, 0], vmin=0, vmax=1)
        wrong = bool(seen[row] != y[row])
        above.set_xlabel(f"{int(seen[row])}", color="#d64545" if wrong else "#7f858d", fontweight="bold")
        if attack is not None:
            below.imshow((x_adv - x)[row, 0], vmin=-0.5, vmax=0.5, cmap="RdBu_r")
figure.savefig("attacked_images-transparent.png")
