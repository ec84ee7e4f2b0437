"""EasyCore's easiest and hardest images

EasyCore scores each example by the norm of the loss's gradient with respect to its pixels, averaged over epochs of
training (AIGN). It keeps the easiest examples, whose loss hardly depends on any pixel. In this script, a network trains
for eight epochs without attacks, and every example is scored after each epoch.

The easiest images are clear, and all or nearly all of them are sixes. A score does not ensure variety, so EasyCore can
also keep the easiest examples of each class (`partition="per_class"`). The hardest images are ambiguous. The score also
says something about robustness, although the training used no attacks: more images of the easiest tenth withstand an
attack than images of the hardest tenth.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import advcore
from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.input_norm import input_norms
from advcore.models.small import small_cnn
from advcore.selection.schedule import Schedule
from advcore.solvers.scored import take_by_score
from advcore.training import SGD
from advcore.training.progress import Listener

digits = load_digits()
images, labels = torch.from_numpy(digits.images).float()[:, None] / 16, torch.from_numpy(digits.target)
data = Resident(images[:1437], labels[:1437])
scores = []


def score_epoch(model: torch.nn.Module) -> None:
    """Keep the norm of each example's input gradient, as the model is after an epoch."""
    measured = input_norms(model, data, MeasurementSettings(ledger=CostLedger()))
    scores.append(measured.rows.matrix[:, 0])


torch.manual_seed(0)
model = small_cnn(num_classes=10, channels=1, width=8)
trainer = advcore.Trainer(objective="standard", schedule=Schedule(epochs=8), optimizer=SGD(lr=0.1), batch_size=64)
trainer.fit(model, data, seed=0, listener=Listener(on_model=score_epoch))
aign = torch.stack(scores).mean(0)

tenth = len(data) // 10
robust = {}
for which in ("easiest", "hardest"):
    x, y = images[take_by_score(aign, tenth, which)], labels[take_by_score(aign, tenth, which)]
    x_adv = advcore.attack(model, x, y, LinfPGD(eps=0.05, steps=10))
    with torch.no_grad():
        robust[which] = float((model.eval()(x_adv).argmax(1) == y).float().mean())
    print(f"the {which} tenth: {robust[which]:.0%} withstand PGD within linf 0.05")
assert robust["easiest"] > robust["hardest"]
classes = labels[take_by_score(aign, 16, "easiest")].bincount(minlength=10)
print(f"the easiest {int(classes.sum())}: {int(classes[6])} sixes")
assert classes[6] > 12

figure, axes = plt.subplots(4, 8, figsize=(8.6, 5.6), subplot_kw={"xticks": [], "yticks": [], "frame_on": False})
for rows, which in ((axes[:2], "easiest"), (axes[2:], "hardest")):
    for axis, i in zip(rows.flat, take_by_score(aign, 16, which), strict=True):
        axis.imshow(images[i, 0])
        axis.set_xlabel(f"“{int(labels[i])}”: {float(aign[i]):.3g}")
    rows[0, 0].set_title(f"{which}: label and score", loc="left")
figure.savefig("easiest_and_hardest-transparent.png")
