"""The contract of a model that is named in run files."""

import pytest
import torch
from torch import nn

from advcore.models.head import count_classes, find_head
from advcore.testing.examples import COUNT, make_images


class ModelContract:
    """What every model promises; the fixture `model` returns a network for the images that `images` returns."""

    @pytest.fixture
    def model(self) -> nn.Module:
        raise NotImplementedError("give the contract a fixture `model`")

    @pytest.fixture
    def images(self) -> torch.Tensor:
        return make_images()

    def test_it_gives_finite_logits(self, model: nn.Module, images: torch.Tensor) -> None:
        with torch.no_grad():
            logits = model.eval()(images)
        assert logits.shape == (COUNT, count_classes(find_head(model, images)))
        assert torch.isfinite(logits).all()

    def test_an_image_has_the_same_logits_in_any_batch(self, model: nn.Module, images: torch.Tensor) -> None:
        with torch.no_grad():
            logits = model.eval()(images)
            alone = model(images[:1])
        assert torch.allclose(alone, logits[:1], atol=1e-4)

    def test_its_logits_come_from_a_last_linear_layer(self, model: nn.Module, images: torch.Tensor) -> None:
        features: list[torch.Tensor] = []
        head = find_head(model.eval(), images)
        with head.register_forward_pre_hook(lambda module, arguments: features.append(arguments[0])), torch.no_grad():
            logits = model.eval()(images)
            assert torch.allclose(head(features[0]), logits)

    def test_a_gradient_reaches_the_image(self, model: nn.Module, images: torch.Tensor) -> None:
        x = images.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(model.eval()(x).square().sum(), x)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0
