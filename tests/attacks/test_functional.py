"""Flows, colour changes and JPEG coefficients beside slow twins."""

import io

import numpy as np
import pytest
import torch
from scipy.fft import idctn

from advcore.attacks import JPEGLinf, ReColorAdv, StAdv
from advcore.attacks.jpeg import _CHROMINANCE, _LUMINANCE
from advcore.errors import ConfigError


def images(shape=(2, 3, 16, 16)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def noise(shape, size, seed=1):
    return size * (2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1)


@pytest.mark.case("E1")
@pytest.mark.parametrize("attack", [StAdv(eps=0.2), ReColorAdv(eps=0.1), JPEGLinf(eps=0.2)])
@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 28, 28), (2, 3, 9, 12)])
def test_no_change_is_none_and_any_change_is_in_the_ball(attack, shape):
    x = 0.4 + 0.2 * images(shape)  # nothing is cut off
    zero = torch.zeros(attack.choose_shape(x), dtype=x.dtype)
    assert torch.allclose(attack.apply(x, zero), x, atol=1e-12)
    changed = attack.apply(x, noise(attack.choose_shape(x), attack.eps))
    assert changed.shape == x.shape and not torch.allclose(changed, x)
    assert attack.excess(x, changed).max() <= 1e-6
    assert attack.excess(x, attack.apply(x, noise(attack.choose_shape(x), 3 * attack.eps))).max() > 0


def test_a_flow_reads_each_pixel_where_it_says():
    x, attack = images((1, 1, 5, 7)), StAdv(eps=1.0)
    flow = noise((1, 2, 5, 7), 0.6)
    got = attack.apply(x, flow)[0, 0]
    for i in range(5):
        for j in range(7):
            r, c = min(max(i + float(flow[0, 0, i, j]) * 2.5, 0), 4), min(max(j + float(flow[0, 1, i, j]) * 3.5, 0), 6)
            r0, c0 = min(int(r), 3), min(int(c), 5)
            a, b = r - r0, c - c0
            part = x[0, 0, r0 : r0 + 2, c0 : c0 + 2]
            expected = (1 - a) * ((1 - b) * part[0, 0] + b * part[0, 1]) + a * ((1 - b) * part[1, 0] + b * part[1, 1])
            assert abs(float(got[i, j] - expected)) < 1e-9


def test_a_colour_moves_by_what_the_table_holds_for_it():
    from scipy.interpolate import RegularGridInterpolator

    x, attack = images((1, 3, 6, 6)), ReColorAdv(eps=0.1, resolution=5)
    table = noise(attack.choose_shape(x), 0.1)
    axis = np.linspace(0, 1, 5)
    colours = x[0].permute(1, 2, 0).numpy()
    moved = [RegularGridInterpolator((axis,) * 3, table[0, c].numpy())(colours) for c in range(3)]
    expected = np.clip(colours + np.stack(moved, -1), 0, 1)
    assert np.abs(attack.apply(x, table)[0].permute(1, 2, 0).numpy() - expected).max() < 1e-9
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        attack.choose_shape(images((1, 2, 6, 6)))
    assert attack.problem((2, 6, 6)) and not attack.problem((1, 6, 6))


def test_a_coefficient_decodes_as_scipys_inverse_transform():
    x, attack = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64), JPEGLinf(eps=1.0, quality=50)
    p = noise((1, 1, 8, 8), 1.0)
    block = idctn(p[0, 0].numpy() * np.array(_LUMINANCE), norm="ortho") / 255
    assert np.abs((attack.apply(x, p) - x)[0, 0].numpy() - block).max() < 1e-9


@pytest.mark.parametrize("quality", [10, 50, 80, 95])
def test_the_tables_are_those_of_libjpeg(quality):
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(file, "JPEG", quality=quality)
    tables = image.open(file).quantization
    steps = JPEGLinf(eps=1.0, quality=quality)._build_tables(images())[1][:, 0, 0]
    for ours, theirs in zip(steps[:2], (tables[0], tables[1]), strict=True):
        assert np.abs(ours.flatten().numpy() - np.array(theirs)).max() <= 1  # rounding
    assert len(_CHROMINANCE) == 4


def test_colours_survive_the_way_there_and_back():
    x, attack = 0.2 + 0.6 * images(), JPEGLinf(eps=0.5)
    p = noise(attack.choose_shape(x), 0.5)
    changed = x + 0.01 * (attack.apply(x, p) - x)  # nothing is cut off
    assert attack.excess(x, changed).max() <= 0.01 * 0.5 - 0.5 + 1e-6
