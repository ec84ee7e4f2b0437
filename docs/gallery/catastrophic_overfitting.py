"""Catastrophic overfitting, caught

Training with a single attack step is cheap, but robustness can break down from one epoch to the next. The network
learns to withstand only this step, and an attack of several steps succeeds. A run with few steps is therefore evaluated
after every epoch by a new ten-step attack on held-out images. If the robust accuracy falls by more than 20 points, and
by more than its confidence intervals, the run's [record](../glossary.md#record) gets an *event*. The weights before the
fall are kept.

The red ring marks the event. More than two fifths of the robust accuracy are lost in that epoch. The difference between
the accuracies under one step and under ten steps grows by more than half: the network withstands the step of its
training better than a stronger attack. The training loss, in the lower plot, rises by less than a fifth, and would not
have revealed the collapse. In this run, robustness recovers later. [Cheaper
attacks](../savings.md#steps-as-a-function-of-the-epoch) explains how runs with few steps are monitored.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import advcore
from advcore.attacks import LinfPGD
from advcore.selection.schedule import Schedule
from advcore.training import SGD, Constant
from advcore.training.progress import Listener

digits = load_digits()
images, labels = torch.from_numpy(digits.images).float()[:, None] / 16, torch.from_numpy(digits.target)
train, held_out = TensorDataset(images[:1437], labels[:1437]), TensorDataset(images[1437:], labels[1437:])
torch.manual_seed(0)
convolutions = [nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()]
model = nn.Sequential(*convolutions, nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10))
attack = LinfPGD(eps=0.2, steps=1, step_size=0.2, start="clean")
trainer = advcore.Trainer(
    objective="pgd",
    attack=attack,
    schedule=Schedule(epochs=18),
    optimizer=SGD(lr=0.1),
    lr_schedule=Constant(),
    batch_size=64,
)
states, one_step = {}, []


def measure_one_step(model: nn.Module) -> None:
    """Measure accuracy on the held-out images under the attack of training."""
    one_step.append(100 * advcore.evaluate(model, held_out, attack).attacks[0]["accuracy"])


def keep_state(name: str, state: dict, entry: dict) -> None:
    """Keep the states that a run hands out: "last", "best" and "before_collapse"."""
    states[name] = entry


listener = Listener(on_state=keep_state, on_model=measure_one_step)
trained = trainer.fit(model, train, held_out, seed=0, listener=listener)
(event,) = [event for event in trained.events if event["kind"] == "collapse"]
print(f"epoch {event['epoch']}: {event['event']}")
epoch, before = event["epoch"], states["before_collapse"]
assert before["epoch"] == epoch - 1
losses = [entry["loss"] for entry in trained.epochs]
print(f"training loss {losses[epoch - 1]:.3f} before, {losses[epoch]:.3f} in that epoch")
assert trained.epochs[epoch]["robust"] < 0.6 * before["robust"] and losses[epoch] < 1.2 * losses[epoch - 1]
assert trained.epochs[-1]["robust"] > trained.epochs[epoch]["robust"]

robust = [100 * entry["robust"] for entry in trained.epochs]
gaps = [single - ten for single, ten in zip(one_step, robust, strict=True)]
assert gaps[epoch] > 1.5 * gaps[epoch - 1]

figure, (upper, lower) = plt.subplots(2, sharex=True, figsize=(8.6, 4.6), height_ratios=[2, 1])
upper.plot(one_step, marker="o", markersize=4, color="C2", label="one step, as in training")
upper.plot(robust, marker="o", markersize=4, color="C0", label="ten steps")
upper.plot(epoch, robust[epoch], "o", markersize=15, fillstyle="none", color="#d64545")
upper.annotate("collapse", (epoch, robust[epoch]), (-14, -4), textcoords="offset points", color="#d64545", ha="right")
upper.set(ylabel="robust on held-out images, %", ylim=(0, 100))
upper.legend(loc="upper left")
lower.plot(losses, marker="o", markersize=4, color="C1")
lower.set(xlabel="epoch", ylabel="training loss", ylim=(0, None), xticks=range(0, 18, 2))
for axis in (upper, lower):
    axis.grid(True)
figure.savefig("catastrophic_overfitting-transparent.png")
