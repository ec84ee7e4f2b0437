"""What CRAIG keeps

CRAIG chooses medoids: examples whose gradients, at the attacked images, are closest to the gradients of the other
examples of their class. The weight of a medoid is the number of examples that it represents. A large weight means a
typical example, and a small weight means an unusual gradient. With a budget of 4 %, CRAIG keeps five or six images per
class. The picture shows them in the order of their weights. The number below an image says how many training images it
represents.

The weighted gradient of the coreset is closer to the gradient of all data than the gradient of a random subset is. This
is the purpose of the solver.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from advcore import AdversarialCoreset, Trainer
from advcore.attacks import LinfPGD
from advcore.models.small import small_cnn
from advcore.selection.schedule import Schedule
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

coreset = AdversarialCoreset(objective="pgd", attack=attack, solver="craig", budget=0.04).select(model, data, seed=0)
error, by_chance = coreset.quality["gradient_error"], coreset.quality["gradient_error_random"]
print(coreset)
print(f"gradient error {error:.3f}, of random subsets of the same size {by_chance:.3f}")
assert error < by_chance
assert round(float(coreset.weights.sum())) == len(data), "weights count examples"

kept = {digit: [i for i in range(len(coreset)) if labels[coreset.indices[i]] == digit] for digit in range(10)}
assert all(len(members) in (5, 6) for members in kept.values())
figure, axes = plt.subplots(6, 10, figsize=(8.6, 6.2), subplot_kw={"xticks": [], "yticks": [], "frame_on": False})
for digit, members in kept.items():
    by_weight = sorted(members, key=lambda i: -float(coreset.weights[i]))
    for axis, i in zip(axes[:, digit], by_weight, strict=False):
        axis.imshow(images[coreset.indices[i], 0])
        axis.set_xlabel(f"{float(coreset.weights[i]):.0f}")
    for axis in axes[len(members) :, digit]:
        axis.set_axis_off()
    axes[0, digit].set_title(f"“{digit}”")
figure.savefig("craig-transparent.png")
