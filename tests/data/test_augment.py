"""Batched augmentation: what a loop over single images would do, each image with its own draw."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from advcore.data.augment import (
    AUGMENTATIONS,
    build_augmentation,
    color_jitter,
    crop,
    crop_flip,
    flip,
    randaugment,
)
from advcore.data.named import Digits
from advcore.data.randaugment import list_operations
from advcore.data.rotation import rotate, turn
from advcore.errors import ConfigError
from advcore.rng import Stream

SHAPE = (3, 9, 7)


def stream(indices, **name):
    return Stream(**{"seed": 0, "purpose": "augment", "epoch": 0, **name}).at(indices)


def batch(size, dtype=torch.float32):
    return torch.rand(size, *SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype)


def windows(image, padding):
    """All the crops an image can become, by their offsets."""
    padded = F.pad(image, [padding] * 4)
    _, height, width = image.shape
    return {
        (top, left): padded[:, top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }


def test_a_crop_is_one_of_the_windows_of_its_own_zero_padded_image():
    x = batch(40)
    out = crop(x, stream(torch.arange(40)), padding=4)
    offsets = set()
    for image, cut in zip(x, out, strict=True):
        found = [place for place, window in windows(image, 4).items() if torch.equal(window, cut)]
        assert found
        offsets.update(found)
    assert len(offsets) > 20  # 40 draws of 81 places: each image has its own


@pytest.mark.parametrize("side, padding", [(32, 4), (28, 3), (224, 28)])
def test_the_padding_is_an_eighth_of_the_side(side, padding):
    x, draw = torch.rand(8, 1, side, side), stream(torch.arange(8))
    assert torch.equal(crop(x, draw), crop(x, draw, padding))


def test_crop_reaches_every_offset_evenly():
    image = torch.arange(1.0, 10).view(1, 1, 3, 3)  # padding 1: nine windows, all different
    out = crop(image.expand(900, -1, -1, -1), stream(torch.arange(900)), padding=1)
    counts = [sum(torch.equal(cut, window) for cut in out) for window in windows(image[0], 1).values()]
    assert sum(counts) == 900 and min(counts) > 60 and max(counts) < 145  # 100 each, 4.5 deviations


def test_a_flip_mirrors_whole_images_about_half_of_the_time():
    x = batch(200)
    out = flip(x, stream(torch.arange(200)))
    mirrored = 0
    for image, got in zip(x, out, strict=True):
        turned = torch.equal(got, torch.flip(image, [2]))
        assert turned or torch.equal(got, image)
        mirrored += turned
    assert 70 < mirrored < 130


def test_flipping_twice_with_the_same_draw_gives_the_image_back():
    x, draw = batch(16), stream(torch.arange(16))
    assert not torch.equal(flip(x, draw), x)
    assert torch.equal(flip(flip(x, draw), draw), x)


def test_crop_flip_is_the_flip_of_the_crop():
    x, draw = batch(16), stream(torch.arange(16))
    assert torch.equal(crop_flip(x, draw), flip(crop(x, draw), draw))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in AUGMENTATIONS for dtype in (torch.float32, torch.float64)]
    + [(name, torch.uint8) for name in ("none", "crop", "flip", "crop_flip")],
)
def test_shape_dtype_and_input_are_kept(name, dtype):
    x = batch(6) * 255 if dtype == torch.uint8 else batch(6)
    x = x.to(dtype)
    before = x.clone()
    out = AUGMENTATIONS[name](x, stream(torch.arange(6)))
    assert out.shape == x.shape and out.dtype == dtype and torch.equal(x, before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_an_image_draws_does_not_depend_on_its_batch(name):
    augment, x = AUGMENTATIONS[name], batch(10)
    whole = augment(x, stream(torch.arange(10)))
    order = torch.tensor([8, 3, 5])
    assert torch.equal(augment(x[order], stream(order)), whole[order])
    for i in range(10):
        assert torch.equal(augment(x[i : i + 1], stream(torch.tensor([i])))[0], whole[i])


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_another_epoch_or_seed_draws_anew(name):
    x = batch(32)
    first = AUGMENTATIONS[name](x, stream(torch.arange(32)))
    for other in ({"epoch": 1}, {"seed": 1}):
        assert not torch.equal(AUGMENTATIONS[name](x, stream(torch.arange(32), **other)), first)


def test_no_augmentation_gives_the_images_as_they_are():
    x = batch(4)
    assert torch.equal(AUGMENTATIONS["none"](x, stream(torch.arange(4))), x)


# ---- colours ----


def test_color_jitter_is_torchvisions_image_by_image():
    x, draw = batch(8), stream(torch.arange(8))
    factors = 0.6 + 0.8 * draw.child("color_jitter").uniform((8, 3, 1, 1, 1)).reshape(8, 3)
    for image, got, (brightness, contrast, saturation) in zip(x, color_jitter(x, draw), factors.tolist(), strict=True):
        slow = functional.adjust_brightness(image, brightness)
        slow = functional.adjust_saturation(functional.adjust_contrast(slow, contrast), saturation)
        assert torch.allclose(got, slow, atol=1e-6)
        assert float(got.min()) >= 0 and float(got.max()) <= 1
    assert factors.min() < 0.7 and factors.max() > 1.3 and len(factors.unique()) == 24
    grey = color_jitter(x[:, :1], draw)
    assert grey.shape == (8, 1, 9, 7) and not torch.equal(grey, x[:, :1])


def test_a_strength_after_the_colon_is_the_largest_change():
    x, draw = batch(8), stream(torch.arange(8))
    weak = build_augmentation("color_jitter:0.25", 3)
    assert torch.equal(weak(x, draw), color_jitter(x, draw, strength=0.25))
    assert not torch.equal(weak(x, draw), color_jitter(x, draw))
    joined = build_augmentation("crop+rotation:40", 3)
    assert torch.equal(joined(x, draw), rotate(crop(x, draw), draw, strength=40))


# ---- rotations ----


@pytest.mark.parametrize("shape", [(3, 9, 7), (1, 8, 8), (3, 32, 32)])
def test_a_rotation_is_torchvisions_image_by_image(shape):
    x, draw = torch.rand(12, *shape), stream(torch.arange(12))
    degrees = 60 * draw.child("rotation").uniform((12, 1, 1)).double().flatten() - 30
    for image, got, angle in zip(x, rotate(x, draw, strength=30), degrees.tolist(), strict=True):
        assert torch.equal(got, functional.rotate(image, angle))
    assert degrees.min() < -10 and degrees.max() > 10
    assert torch.equal(rotate(x, draw, strength=0), x)


def test_a_quarter_turn_moves_every_pixel_of_a_square():
    x = torch.rand(2, 3, 6, 6)
    quarter = torch.full((2, 1, 1), math.pi / 2, dtype=torch.float64)
    assert torch.equal(turn(x, quarter), x.rot90(1, (2, 3)))


def reference_operations(magnitude):
    """torchvision's operations by its own table, in its order, each with either sign."""
    policy = v2.RandAugment(magnitude=magnitude)
    for sign in (1, -1):
        for name, (values, signed) in policy._AUGMENTATION_SPACE.items():
            steps = values(31, *SHAPE[1:])
            size = 0.0 if steps is None else float(steps[magnitude]) * (sign if signed else 1)

            def apply(image, name=name, size=size):
                return policy._apply_image_or_video_transform(
                    image, name, size, interpolation=policy.interpolation, fill=policy._fill
                )

            yield apply


@pytest.mark.parametrize("magnitude", [9, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_operations_are_torchvisions(magnitude, channels):
    x = batch(2)[:, :channels]
    for quick, slow in zip(list_operations(magnitude, *SHAPE[1:]), reference_operations(magnitude), strict=True):
        assert torch.allclose(quick(x), slow(x), atol=1e-6)


def test_randaugment_applies_two_operations_to_each_image_in_the_order_drawn():
    x, draw = batch(40), stream(torch.arange(40))
    out = randaugment(x, draw)
    choices = (draw.child("randaugment").uniform((40, 2)) * 28).long().tolist()
    operations = list(reference_operations(9))
    for image, got, (first, second) in zip(x, out, choices, strict=True):
        assert torch.allclose(got, operations[second](operations[first](image)), atol=1e-6)
    assert len({choice for pair in choices for choice in pair}) > 20
    assert float(out.min()) >= 0 and float(out.max()) <= 1


# ---- several, by name ----


def test_names_joined_are_applied_one_after_the_other():
    x, draw = batch(6), stream(torch.arange(6))
    joined = build_augmentation("crop+flip+color_jitter", 3)
    assert torch.equal(joined(x, draw), color_jitter(crop_flip(x, draw), draw))
    assert joined.__name__ == "crop+flip+color_jitter" and build_augmentation("crop", 2) is crop


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ("crop+cutmix", "augment must be one of none, crop, .*, or several joined by \\+, got 'cutmix'"),
        ("", "augment must be one of none"),
        ("crop:2", "augment must be without a strength for crop, got 'crop:2'"),
        ("rotation:200", "augment must be rotation:S with a number S in \\[0, 180\\], got 'rotation:200'"),
        ("crop+color_jitter:nan", "augment must be color_jitter:S with a number S in \\[0, 1\\], got"),
        ("rotation:", "augment must be rotation:S"),
        ("rotation:1+rotation:2", "augment must be names joined by \\+, each once"),
        ("crop+flip+crop", "augment must be names joined by \\+, each once, got 'crop\\+flip\\+crop'"),
    ],
)
def test_names_that_are_not_known_or_come_twice_are_one_line(names, line):
    with pytest.raises(ConfigError, match=line) as caught:
        Digits(augment=names)
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("names", ["color_jitter", "crop+randaugment"])
def test_colours_of_two_channels_are_refused(names):
    with pytest.raises(ConfigError, match="data.augment must be without color_jitter and randaugment .* 2 channels"):
        build_augmentation(names, 2)
