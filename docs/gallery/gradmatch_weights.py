"""The weights of GradMatch

GradMatch adds examples one by one and refits all weights, so that the weighted sum of gradients is as near as possible
to the sum over all data. In CRAIG, the weight of a selected example is the number of examples that it represents. The
weights of GradMatch and CRAIG therefore have different distributions. GradMatch has the smaller [gradient
error](../glossary.md#gradient-error), because it minimizes this error. The error of CRAIG is still far below the error
of random subsets.

The *effective sample size* measures the cost of unequal weights. At 60 %, the weighted average over the coreset is as
noisy as an average over 60 % as many examples with equal weights. On the right are the images with GradMatch's highest
and lowest weights.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from advcore import AdversarialCoreset, Trainer
from advcore.attacks import LinfPGD
from advcore.models.small import small_cnn
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig, GradMatch
from advcore.training import SGD

digits = load_digits()
images, labels = torch.from_numpy(digits.images).float()[:, None] / 16, torch.from_numpy(digits.target)
data = TensorDataset(images[:1437], labels[:1437])
attack = LinfPGD(eps=0.1, steps=3)
torch.manual_seed(0)
model = small_cnn(num_classes=10, channels=1, width=8)
schedule = Schedule(epochs=3)
Trainer(objective="pgd", attack=attack, schedule=schedule, optimizer=SGD(lr=0.1), batch_size=64).fit(
    model, data, seed=0
)

figure, axes = plt.subplot_mosaic(
    [["histogram"] * 3 + ["high 0", "high 1", "high 2"], ["histogram"] * 3 + ["low 0", "low 1", "low 2"]],
    figsize=(8.6, 3.6),
    width_ratios=[1.5, 1.5, 1.5, 1, 1, 1],
)
errors, coresets = {}, {}
for name, solver in {"GradMatch": GradMatch(ridge=0.02), "CRAIG": Craig()}.items():
    selector = AdversarialCoreset(objective="pgd", attack=attack, solver=solver, budget=0.2)
    coresets[name] = coreset = selector.select(model, data, seed=0)
    errors[name] = coreset.quality["gradient_error"]
    size = coreset.quality["effective_sample_size"]
    print(f"{name:10} gradient error {errors[name]:.4f}, effective sample size {size:.0%} of {len(coreset)}")
    weights = coreset.training_weights().numpy()
    axes["histogram"].hist(weights, bins=40, range=(0, 12), log=True, histtype="stepfilled", alpha=0.6, label=name)
by_chance = coreset.quality["gradient_error_random"]
print(f"random     gradient error {by_chance:.4f}")
assert errors["GradMatch"] < errors["CRAIG"] < by_chance

axes["histogram"].set(xlabel="weight, rescaled to mean 1", ylabel="examples of the coreset")
axes["histogram"].legend()
chosen, order = coresets["GradMatch"], coresets["GradMatch"].weights.argsort(descending=True)
for side, positions in {"high": order[:3], "low": order[-3:]}.items():
    for i, position in enumerate(positions):
        axis = axes[f"{side} {i}"]
        axis.imshow(images[chosen.indices[position], 0])
        axis.set(xticks=[], yticks=[], frame_on=False, xlabel=f"{float(chosen.training_weights()[position]):.2f}")
axes["high 1"].set_title("highest weights")
axes["low 1"].set_title("lowest weights")
figure.savefig("gradmatch_weights-transparent.png")
