"""Batched augmentation: what a loop over single images would do, each image with its own draw."""

import pytest
import torch
import torch.nn.functional as F

from advcore.data.augment import AUGMENTATIONS, crop, crop_flip, flip
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


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
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
