"""Small images, labels and networks that the contracts try methods on; all of them seeded."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from advcore.data.source import Resident
from advcore.rng import Stream, preserve_random_state

COUNT = 6
SHAPE = (3, 16, 16)
CLASSES = 4
LABELS = torch.arange(COUNT) % CLASSES


def make_images(dtype: torch.dtype = torch.float32) -> Tensor:
    """Return images (COUNT, *SHAPE) in [0, 1], some of whose pixels lie at the ends of the range."""
    x = torch.rand(COUNT, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (1.4 * x - 0.2).clamp(0, 1).to(dtype)


def make_network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a small convolutional network with BatchNorm and a linear head, in eval mode."""
    with preserve_random_state(Stream(seed=0, purpose="testing")):
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(128, CLASSES),
        )
    return network.to(dtype).eval()


def make_source() -> Resident:
    """Return a data set of 24 images on the CPU."""
    x = torch.rand(24, *SHAPE, generator=torch.Generator().manual_seed(6))
    return Resident((255 * x).to(torch.uint8), torch.arange(24) % CLASSES, device=torch.device("cpu"))


def draw_stream(indices: Sequence[int] | Tensor, *, seed: int = 0) -> Stream:
    """Return random numbers for the examples `indices`."""
    return Stream(seed=seed, purpose="testing").at(torch.as_tensor(indices))


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's parameters and buffers."""
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Assert that parameters and buffers are bit for bit as they were."""
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items()), "the model was changed"
