"""A network of one's own, and as a plug-in its name in run files, own_net. Run by itself, this file trains it."""

from pathlib import Path

import torch
from torch import nn

import advcore.register


class Net(nn.Module):
    """Two convolutions and a linear head."""

    def __init__(self, num_classes: int, channels: int, width: int = 32) -> None:
        super().__init__()
        self.classify = nn.Linear(16 * width, num_classes)
        body = (nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())
        self.body = nn.Sequential(*body, nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.body(x))


advcore.register.model("own_net")(Net)


def train_ordinarily() -> None:
    """Train it as its owner did, with a loop of theirs, on the training part of digits; write build/own_net.pt."""
    from advcore.data import DATASETS

    train = DATASETS["digits"]().load(torch.device("cpu")).train
    ((_, x, y),) = train.batches([torch.arange(len(train))])
    torch.manual_seed(0)
    net = Net(10, 1)
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(30):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net((x[batch] - 0.5) / 0.25), y[batch]).backward()
            optimizer.step()
    Path("build").mkdir(exist_ok=True)
    torch.save(net.state_dict(), "build/own_net.pt")


if __name__ == "__main__":
    train_ordinarily()
