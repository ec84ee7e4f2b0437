"""Images that are no pixels in [0, 1] are refused wherever an attack would clip them; the model normalises."""

import pytest
import torch
from seeds import seeded
from torch import nn

from advcore import AdversarialCoreset, Trainer, evaluate, unit_range
from advcore.adversary import perturb
from advcore.attacks import ATTACKS, LinfPGD
from advcore.data.source import Resident, Source
from advcore.errors import ConfigError, DataError
from advcore.models import add_normalization
from advcore.objectives import OBJECTIVES, Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig, Random
from advcore.training import SGD
from advcore.unit_range import check_attackable, trust_images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = torch.arange(4) % 3
WAY_OUT = (
    "divide 0-255 values by 255, and make normalisation the model's first layer (advcore.models.add_normalization)"
)


def images() -> torch.Tensor:
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, :, 0, 0] = 0
    x[:, :, 0, 1] = 1
    return x


def per_channel(numbers) -> torch.Tensor:
    return torch.tensor(numbers).view(1, 3, 1, 1)


def network() -> nn.Module:
    with seeded():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def stream(n: int = 4) -> Stream:
    return Stream(seed=0, purpose="attack").at(torch.arange(n))


def broken(value: float) -> torch.Tensor:
    x = images()
    x[2, 0, 3, 3] = value
    return x


FLOATS = {
    "ImageNet": ((images() - per_channel(MEAN)) / per_channel(STD), "-2.118 and maximum 2.64 in image 0"),
    "from -1 to 1": (images() * 2 - 1, "-1 and maximum 1 in image 0"),
    "from 0 to 255": (images() * 255, "0 and maximum 255 in image 0"),
    "in float64": (images().double() * 2 - 1, "-1 and maximum 1 in image 0"),
    "in bfloat16": (images().bfloat16() * 2 - 1, "-1 and maximum 1 in image 0"),
    "one pixel too bright": (broken(1.01), "0 and maximum 1.01 in image 2"),
    "NaN": (broken(torch.nan), "nan and maximum nan in image 2"),
    "infinite": (broken(torch.inf), "0 and maximum inf in image 2"),
}
WRONG = {
    name: (x, f"images must be finite and in [0, 1], got minimum {told}; {WAY_OUT}")
    for name, (x, told) in FLOATS.items()
} | {
    str(dtype): (x, f"images to attack must be floats in [0, 1], got {dtype}; divide 0-255 values by 255")
    for dtype, x in ((dtype, (images() * 255).to(dtype)) for dtype in (torch.uint8, torch.int64))
}


def refusal(call) -> str:
    with pytest.raises(DataError) as caught:
        call()
    (line,) = caught.value.lines
    return line


def never(x: torch.Tensor) -> torch.Tensor:
    raise AssertionError("the model was called before the images were looked at")


@pytest.mark.parametrize("x, line", WRONG.values(), ids=WRONG)
def test_perturb_and_an_attack_refuse_them_before_the_first_pass(x, line):
    attack = LinfPGD(eps=8 / 255, steps=2)
    for objective in (Pgd(), Trades(beta=6.0)):
        assert refusal(lambda: perturb(never, objective, attack, x, LABELS, generator=stream())) == line  # noqa: B023
    assert refusal(lambda: attack(never, x, generator=stream())) == line


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_refuses_them_where_it_is_called(name):
    x, line = WRONG["ImageNet"]
    attack = ATTACKS[name](**{"eps": 0.1, **ATTACKS[name].example})
    assert refusal(lambda: attack(never, x, generator=stream())) == line


def test_what_a_source_accepts_an_attack_accepts():
    x = images() * (1 + 5e-5)  # within the tolerance of the data's own check
    for y in (x, x[:0], images().bfloat16(), images().requires_grad_(True)):
        check_attackable(y)
    assert perturb(never, Standard(), None, images() * 255, LABELS, generator=stream()).max() == 255


def test_sources_have_looked_so_that_their_images_are_not_looked_at_again(monkeypatch):
    """To look means to wait for the device, at every attack."""
    source = Resident(images(), LABELS)
    looks = []
    check = unit_range.check_images
    monkeypatch.setattr(unit_range, "check_images", lambda *arguments: looks.append(1) or check(*arguments))
    attack = LinfPGD(eps=8 / 255, steps=1)
    AdversarialCoreset(objective=Pgd(), attack=attack, solver=Random(), budget=0.5).select(network(), source, seed=0)
    evaluate(network(), source, [attack], seed=0)
    Trainer(objective=Pgd(), attack=attack, schedule=Schedule(epochs=1), optimizer=SGD(lr=0.1)).fit(
        network(), source, seed=0
    )
    assert not looks
    attack(lambda z: z.flatten(1).sum(1), images(), generator=stream())
    assert looks == [1]


def test_trust_ends_with_its_block():
    with pytest.raises(KeyError), trust_images(), trust_images():
        check_attackable(images() * 255)
        raise KeyError
    assert "divide 0-255" in refusal(lambda: check_attackable(images() * 255))


def test_a_model_with_mean_and_std_sees_what_normalised_data_showed_it():
    model, x = network(), images()
    whole = add_normalization(model, MEAN, STD)
    assert torch.allclose(whole(x), model(FLOATS["ImageNet"][0]), atol=1e-5)
    assert whole[1] is model
    assert torch.allclose(add_normalization(model, 0.5, 0.5)(x), model(x * 2 - 1), atol=1e-5)
    assert torch.allclose(add_normalization(model, 0.0, 1 / 255)(x), model(x * 255), rtol=1e-4)
    assert torch.equal(add_normalization(model, torch.tensor(MEAN), list(STD))(x), whole(x))


@pytest.mark.parametrize("objective", [name for name in ("pgd", "trades", "mart") if name in OBJECTIVES])
def test_eps_is_in_pixels_then(objective):
    """Twin: the attack by hand on normalised data, each channel with its own eps, step and range."""
    model, x, eps = network(), images(), 8 / 255
    whole = add_normalization(model, MEAN, STD)
    attack = LinfPGD(eps=eps, step_size=eps, steps=1, start="clean")
    if objective == "pgd":
        z = FLOATS["ImageNet"][0].requires_grad_(True)
        gradient = torch.autograd.grad(nn.functional.cross_entropy(model(z), LABELS, reduction="sum"), z)[0]
        moved = (z + gradient.sign() * eps / per_channel(STD)) * per_channel(STD) + per_channel(MEAN)
        x_adv = perturb(whole, Pgd(), attack, x, LABELS, generator=stream())
        assert torch.allclose(x_adv, moved.clamp(0, 1), atol=1e-6)
    else:
        attack = LinfPGD(eps=eps, steps=2)
        x_adv = perturb(whole, OBJECTIVES[objective](), attack, x, LABELS, generator=stream())
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and eps * 0.9 < (x_adv - x).abs().max() <= eps + 1e-7


NUMBERS = {
    "0-255": ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), ["mean", "std"]),
    "std of 0": (MEAN, (0.2, 0.0, 0.2), ["std"]),
    "negative std": (MEAN, (0.2, -0.1, 0.2), ["std"]),
    "NaN": ((torch.nan,) * 3, STD, ["mean"]),
    "two for three": (MEAN, STD[:2], ["std"]),
    "variance in 0-255": (0.5, 64.0, ["std"]),
    "none": ((), (), ["mean"]),
}


@pytest.mark.parametrize("mean, std, names", NUMBERS.values(), ids=NUMBERS)
def test_other_means_and_deviations_are_refused(mean, std, names):
    with pytest.raises(ConfigError) as caught:
        add_normalization(network(), mean, std)
    assert [problem.path for problem in caught.value.problems] == names
    assert all(line.endswith("divide the mean and std of 0-255 images by 255") for line in caught.value.lines)


def test_the_rest_of_the_library_takes_the_whole_model():
    whole = add_normalization(network(), MEAN, STD)
    source = Resident(images(), LABELS)
    selector = AdversarialCoreset(objective=Pgd(), attack=LinfPGD(eps=8 / 255, steps=1), solver=Random(), budget=0.5)
    assert len(selector.select(whole, source, seed=0)) == 2
    for wrong in ("ImageNet", "from 0 to 255"):
        pairs = list(zip(WRONG[wrong][0], LABELS.tolist(), strict=True))
        assert refusal(lambda: selector.select(whole, pairs, seed=0)) == WRONG[wrong][1]  # noqa: B023
        assert refusal(lambda: evaluate(whole, pairs, [LinfPGD(eps=0.1, steps=1)], seed=0)) == WRONG[wrong][1]  # noqa: B023


class OwnSource(Source):
    """A source of somebody else's, which looks at nothing."""

    device = torch.device("cpu")
    shape = (3, 8, 8)

    def __init__(self, x: torch.Tensor):
        self.x = x

    def __len__(self) -> int:
        return 4

    def batches(self, chunks):
        for chunk in chunks:
            yield chunk, self.x[chunk], LABELS[chunk]

    def labels(self) -> torch.Tensor:
        return LABELS


@pytest.mark.parametrize("name", ["ImageNet", "from -1 to 1", "from 0 to 255"])
def test_a_source_that_does_not_look_is_looked_at_once(name):
    x, line = WRONG[name]
    attack = LinfPGD(eps=8 / 255, steps=1)
    selector = AdversarialCoreset(objective=Pgd(), attack=attack, solver=Craig(), budget=0.5)
    trainer = Trainer(objective=Pgd(), attack=attack, schedule=Schedule(epochs=1), optimizer=SGD(lr=0.1))
    assert refusal(lambda: selector.select(network(), OwnSource(x), seed=0)) == line
    assert refusal(lambda: trainer.fit(network(), OwnSource(x), seed=0)) == line
    assert refusal(lambda: evaluate(network(), OwnSource(x), [attack], seed=0)) == line
    assert evaluate(network(), OwnSource(images()), [attack], seed=0)


@pytest.mark.parametrize("values", ["imagenet", ["0.5"], None])
def test_a_mean_that_is_no_numbers_is_refused_in_a_line(values):
    for name, mean, std in (("mean", values, 0.2), ("std", 0.5, values)):
        with pytest.raises(ConfigError, match=f"^{name} must be one number per channel, or one for all, got [^\n]*$"):
            add_normalization(network(), mean, std)


def test_normalisation_is_added_to_a_network_alone():
    with pytest.raises(ConfigError, match="^model must be [^\n]*$"):
        add_normalization(None, MEAN, STD)
