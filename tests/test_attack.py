"""advcore.attack: one call in a loop of one's own, with nothing of the model disturbed."""

import pytest
import torch
from seeds import seeded
from torch import nn

import advcore
from advcore.adversary import perturb
from advcore.attacks import LPA, LinfPGD
from advcore.errors import ConfigError, DataError
from advcore.objectives import Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.testing.attacks import assert_bounded

LABELS = torch.arange(6) % 3
ATTACK = LinfPGD(eps=0.1, steps=3)


def images():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network():
    with seeded():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


@pytest.mark.parametrize("objective", [None, Pgd(), Trades(beta=2.0)], ids=["default", "pgd", "trades"])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_perturb_on_a_borrowed_model_and_the_model_comes_back(objective, training):
    model, x = network().train(), images()
    nn.functional.cross_entropy(model(x), LABELS).backward()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    x_adv = advcore.attack(model, x, LABELS, ATTACK, objective=objective, seed=3, training=training)
    assert_bounded(ATTACK, x, x_adv)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items()) and model.training
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, model.parameters(), strict=True))
    stream = Stream(seed=3, purpose="attack").at(torch.arange(6))
    model.train(training)
    assert torch.equal(x_adv, perturb(model, objective or Pgd(), ATTACK, x, LABELS, generator=stream))


def test_seeds_of_every_kind_decide():
    model, x = network(), images()

    def run(seed):
        return advcore.attack(model, x, LABELS, ATTACK, seed=seed)

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    generator = torch.Generator().manual_seed(5)
    first, second = run(generator), run(generator)
    assert not torch.equal(first, second) and torch.equal(first, run(torch.Generator().manual_seed(5)))
    assert torch.equal(run(Stream(seed=1, purpose="attack").at(torch.arange(6))), run(1))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_mode_of_autograd_does_not_matter(mode):
    model, x = network(), images()
    with mode():
        x_adv = advcore.attack(model, x, LABELS, ATTACK)
        of_copies = advcore.attack(model, x.clone(), LABELS.clone(), ATTACK)
    assert torch.equal(x_adv, advcore.attack(model, x, LABELS, ATTACK)) and not x_adv.requires_grad
    assert torch.equal(x_adv, of_copies)


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_images_are_attacked_in_the_dtype_of_the_model(dtype, model_dtype):
    model, x = network().to(model_dtype), images().to(dtype)
    x_adv = advcore.attack(model, x, LABELS, ATTACK)
    assert x_adv.dtype == model_dtype
    assert torch.equal(x_adv, advcore.attack(model, x.to(model_dtype), LABELS, ATTACK))


def test_what_no_attack_needs_is_left_as_it_is():
    x = images()
    assert torch.equal(advcore.attack(network(), x, LABELS, ATTACK, objective=Standard()), x)


def test_a_perceptual_attack_is_bound_to_the_model():
    x_adv = advcore.attack(network(), images(), LABELS, LPA(eps=0.3, steps=2))
    assert x_adv.shape == (6, 1, 8, 8) and not torch.equal(x_adv, images())


def test_what_cannot_be_meant_is_one_line():
    model, x = network(), images()
    for call, kind, line in (
        (lambda: advcore.attack(model, 2 * x - 1, LABELS, ATTACK), DataError, r"in \[0, 1\].*add_normalization"),
        (lambda: advcore.attack(model, x, LABELS, nn.CrossEntropyLoss()), ConfigError, "attack must be an attack"),
        (lambda: advcore.attack(model, x, LABELS, ATTACK, seed=None), ConfigError, "seed must be"),
        (lambda: advcore.attack(model, x, LABELS, ATTACK, seed=0.5), ConfigError, "seed must be"),
        (lambda: advcore.attack(model, x, LABELS[:3], ATTACK), (ConfigError, DataError), "y must be|labels"),
        (lambda: advcore.attack(model, x, LABELS.float(), ATTACK), (ConfigError, DataError), "y must be|labels"),
        (lambda: advcore.attack(model, x[:, 0], LABELS, ATTACK), ConfigError, r"x must be images \(B, C, H, W\), got"),
        (
            lambda: advcore.attack(network().half(), x, LABELS, ATTACK),
            DataError,
            "^model must be .* in torch.float32, got",
        ),
        (lambda: advcore.attack(nn.Linear, x, LABELS, ATTACK), ConfigError, "model must be"),
    ):
        with pytest.raises(kind, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)
