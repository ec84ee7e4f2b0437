"""Architectures by name, normalisation inside the model, and the linear head that gradients are taken of."""

import pytest
import torch
from examples import build_example
from seeds import seeded
from torch import nn
from torch.nn import functional as F

from advcore.errors import ConfigError
from advcore.models import MODELS
from advcore.models.base import Normalize, measure_channels
from advcore.models.head import find_head, tap_features
from advcore.models.resnets import ACTIVATIONS, PreActNet

RESNETS = ("resnet18", "resnet50")


def settings(name, **changes):
    if name == "timm":
        pytest.importorskip("timm", reason="needs the package timm: install the extra hf")
    return build_example(MODELS[name], **changes)


def on_meta(name, num_classes=10, shape=(3, 32, 32), **changes):
    """The network without its numbers: shapes and counts cost nothing."""
    with torch.device("meta"):
        return settings(name, **changes).build(num_classes, shape)


def real(name, num_classes=10, shape=(3, 32, 32), seed=0, **changes):
    with seeded(seed):
        return settings(name, **changes).build(num_classes, shape).eval()


def images(size, shape=(3, 32, 32)):
    return torch.rand(size, *shape, generator=torch.Generator().manual_seed(0))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_every_model_maps_images_to_one_logit_a_class(name):
    model = on_meta(name, num_classes=7)
    for training in (True, False):
        with torch.no_grad():
            assert model.train(training)(torch.empty(4, 3, 32, 32, device="meta")).shape == (4, 7)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8)])
def test_the_usual_models_take_the_usual_images(name, shape):
    model, x = real(name, shape=shape), images(2, shape)
    with torch.no_grad():
        logits = model(x)
        alone = model(x[:1])
    assert logits.shape == (2, 10) and torch.isfinite(logits).all()
    assert torch.allclose(alone, logits[:1], atol=1e-5)


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("resnet18", 11_173_962),  # the field's CIFAR ResNet-18
        ("preact_resnet18", 11_172_170),  # 11,171,146 and the final BatchNorm's 1,024
        ("wide_resnet28_10", 36_479_194),
        ("wide_resnet34_10", 46_160_474),
    ],
)
def test_parameter_counts_are_those_of_the_field(name, parameters):
    assert count(on_meta(name)) == parameters


def test_the_network_of_selective_at_is_their_layers_written_out():
    model, x = real("mnist_cnn", shape=(1, 28, 28)), images(3, (1, 28, 28))
    conv1, conv2, hidden, head = (layer for layer in model if hasattr(layer, "weight"))
    assert conv1.weight.shape == (32, 1, 3, 3) and conv2.weight.shape == (64, 32, 3, 3)
    assert hidden.weight.shape == (128, 9216) and head.weight.shape == (10, 128)
    pooled = F.max_pool2d(conv2(conv1(x).relu()).relu(), 2)
    with torch.no_grad():
        assert torch.allclose(model(x), head(hidden(pooled.flatten(1)).relu()), atol=1e-6)
    with pytest.raises(ConfigError, match="model.name must be another network for images below 6 x 6 pixels"):
        on_meta("mnist_cnn", shape=(1, 5, 8))


@pytest.mark.parametrize("name", RESNETS)
def test_the_cifar_stem_keeps_the_resolution_and_the_own_stem_quarters_it(name):
    sizes = {}
    for stem in ("cifar", "imagenet"):
        model = on_meta(name, stem=stem)
        model.layer1.register_forward_pre_hook(lambda m, args, stem=stem: sizes.update({stem: args[0].shape[2:]}))
        model(torch.empty(2, 3, 32, 32, device="meta"))
    assert sizes == {"cifar": (32, 32), "imagenet": (8, 8)}


@pytest.mark.parametrize("name", RESNETS)
def test_the_own_stem_is_torchvisions_network(name):
    from torchvision import models

    with torch.device("meta"):
        theirs = getattr(models, name)(num_classes=10)
    ours = on_meta(name, shape=(3, 224, 224), stem="imagenet")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert on_meta(name, shape=(1, 64, 64), stem="imagenet").conv1.weight.shape == (64, 1, 7, 7)


def test_width_sets_the_small_cnn_features():
    assert [on_meta("small_cnn", width=w)[-1].in_features for w in (1, 4, 16)] == [8, 32, 128]


@pytest.mark.parametrize(
    "name, changes, told",
    [
        ("small_cnn", {"width": 0}, ("width", "0")),
        ("resnet18", {"stem": "cifer"}, ("stem", "'cifer'", "did you mean 'cifar'?")),
        ("wide_resnet28_10", {"activation": "swish"}, ("activation", "'swish'", "silu")),
        ("resnet50", {"normalize": "dota"}, ("normalize", "'dota'", "did you mean 'data'?")),
    ],
)
def test_settings_out_of_range_name_key_value_and_way_out(name, changes, told):
    with pytest.raises(ConfigError) as caught:
        MODELS[name](**changes)
    assert all(part in str(caught.value) for part in told)


def test_an_architecture_timm_does_not_know_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="'resnet11t'.*did you mean 'resnet1"):
        settings("timm", architecture="resnet11t").build(10, (3, 32, 32))


# ---- the head ----


class Own(nn.Module):
    """A user's own network: the head is not called fc, and another linear layer comes before it."""

    def __init__(self, after=None, head=None):
        super().__init__()
        self.flatten, self.squash = nn.Flatten(), nn.Linear(48, 6)
        self.verdict = head or nn.Linear(6, 5)
        self.after = after or nn.Identity()

    def forward(self, x):
        return self.after(self.verdict(torch.relu(self.squash(self.flatten(x)))))


class Twins(nn.Module):
    """Two linear layers that give the same logits, and the answer is their common value."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 3)
        self.second = nn.Linear(12, 3)
        self.second.load_state_dict(self.first.state_dict())

    def forward(self, x):
        self.first(x.flatten(1))
        return self.second(x.flatten(1))


class ConvHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.conv = nn.Linear(4, 4), nn.Conv2d(3, 5, 4)

    def forward(self, x):
        return self.conv(self.hidden(x)).flatten(1)


SMALL = (3, 4, 4)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "preact_resnet18", "timm"])
@pytest.mark.case("G10")
def test_the_head_of_every_family_is_found(name):
    model = real(name, shape=(3, 16, 16), num_classes=7)
    head = find_head(model, images(2, (3, 16, 16)))
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert head is last and head.out_features == 7


@pytest.mark.case("G10")
def test_a_head_called_anything_is_found_behind_a_normalisation_layer():
    model = nn.Sequential(Normalize(torch.full((3,), 0.4), torch.full((3,), 0.2)), Own())
    assert find_head(model, images(2, SMALL)) is model[1].verdict


@pytest.mark.case("G10")
def test_a_named_head_is_taken_and_must_give_the_logits():
    model, x = Twins(), images(2, (3, 2, 2))
    assert find_head(model, x, "second") is model.second
    with pytest.raises(ConfigError, match="got first, which gets no gradient from the logits"):
        find_head(model, x, "first")
    with pytest.raises(ConfigError, match="squash, verdict"):
        find_head(Own(), images(2, SMALL), "squash")


def test_a_wrong_name_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match="squash, verdict.*'fc'"):
        find_head(Own(), images(2, SMALL), "fc")


@pytest.mark.parametrize(
    "model",
    [
        Own(after=nn.LogSoftmax(1)),
        Own(after=nn.Softmax(1)),
        ConvHead(),
        nn.Sequential(nn.Conv2d(3, 5, 4), nn.Flatten()),
    ],
    ids=["log-softmax", "softmax", "convolution", "no linear layer"],
)
def test_a_model_that_does_not_end_in_a_linear_layer_is_refused(model):
    with pytest.raises(ConfigError, match="torch.nn.Linear"):
        find_head(model, images(2, SMALL))
    with pytest.raises(ConfigError, match="the model's output must be logits"):
        find_head(nn.Linear(4, 4), images(2, SMALL))  # over the last axis


def test_a_diverged_model_still_has_its_head():
    model = Own()
    nn.init.constant_(model.squash.bias, float("nan"))
    assert find_head(model, images(2, SMALL)) is model.verdict


def test_looking_for_the_head_leaves_no_hook_also_on_error():
    model = Own()
    find_head(model, images(2, SMALL))
    with pytest.raises(RuntimeError):
        find_head(model, images(2, (3, 5, 5)))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("bias", [True, False])
def test_tapped_features_times_head_weights_are_the_logits(bias):
    model, x = Own(head=nn.Linear(6, 5, bias=bias)), images(4, SMALL)
    head = find_head(model, x)
    with tap_features(head) as tap:
        logits = model(x)
        features = tap.features
        model(x.flip(0))
        assert torch.equal(tap.features, features.flip(0))  # each forward pass anew
    expected = features @ head.weight.T + (head.bias if bias else 0)
    assert torch.allclose(logits, expected, atol=1e-6) and not features.requires_grad
    assert not head._forward_pre_hooks


# ---- normalisation ----


def test_normalize_is_the_plain_formula_with_statistics_that_are_saved_and_not_trained():
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 1.0, 0.4])
    layer, x = Normalize(mean, std), images(3, SMALL)
    for c in range(3):
        assert torch.allclose(layer(x)[:, c], (x[:, c] - mean[c]) / std[c], atol=1e-6)
    assert set(layer.state_dict()) == {"mean", "std"} and count(layer) == 0


@pytest.mark.parametrize("size", [1, 7, 50])
def test_channel_statistics_are_those_of_all_pixels_however_cut(size):
    x = images(50, (3, 6, 5)) * torch.tensor([1, 0.1, 0.01]).view(3, 1, 1) + 0.5
    mean, std = measure_channels((None, piece, None) for piece in x.split(size))
    assert torch.allclose(mean, x.double().mean((0, 2, 3)), atol=1e-12)
    assert torch.allclose(std, x.double().std((0, 2, 3), correction=0), rtol=1e-6)


def test_a_constant_channel_has_deviation_one():
    x = images(8, (2, 4, 4))
    x[:, 1] = 0.7
    mean, std = measure_channels(iter([(None, x, None)]))
    assert std[1] == 1 and mean[1] == pytest.approx(0.7)
    assert torch.isfinite(Normalize(mean, std)(x)).all()


# ---- the blocks that torchvision lacks ----


ACTIVATED = {
    "relu": lambda z: z.clamp_min(0),
    "silu": lambda z: z / (1 + (-z).exp()),
    "gelu": lambda z: z * (1 + torch.erf(z / 2**0.5)) / 2,
    "softplus": lambda z: (1 + z.exp()).log(),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_preactivation_net_equals_its_blocks_written_out(activation):
    activate = ACTIVATED[activation]
    with seeded():
        net = PreActNet(5, 3, stem=4, widths=(4, 8), depth=1, activation=activation).eval()
    x = images(2, (3, 8, 8))
    out = net.stem(x)
    for block, change in zip(net.blocks, (False, True), strict=True):  # the second halves and widens
        inner = activate(block.bn1(out))
        kept = block.shortcut(inner) if change else out
        out = kept + block.conv2(activate(block.bn2(block.conv1(inner))))
        assert (block.shortcut is not None) == change
    assert out.shape == (2, 8, 4, 4)
    assert torch.allclose(net(x), net.fc(activate(net.bn(out)).mean((2, 3))), atol=1e-6)
