"""Radii and step lengths are shown as they are written: 8/255."""

import math

import pytest

from advcore.attacks import LinfPGD
from advcore.errors import ConfigError, format_value
from advcore.evaluation.comparisons import flag_order
from advcore.pixels import format_exactly, format_pixels


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8 / 255, "8/255"),
        (2 / 255, "2/255"),
        (0.5 / 255, "0.5/255"),
        (0.25 / 255, "0.25/255"),
        (12.75 / 255, "0.05"),
        (25.5 / 255, "0.1"),
        (51 / 255, "0.2"),
        (1.0, "1"),
        (0, "0"),
        (0.0, "0"),
        (0.3, "0.3"),
        (0.5, "0.5"),
        (128 / 255, "128/255"),
        (1200 / 255, "1200/255"),
        (2.5 * (8 / 255) / 10, "2/255"),
        (2.5 * (8 / 255) / 50, "0.001569"),
        (1.25 * (8 / 255), "10/255"),
        (0.0314, "0.0314"),
        (0.031372, "0.03137"),
        (0.1 + 0.2, "0.3"),
        (float("inf"), "inf"),
        (1e300, "1e+300"),
        (1e-300, "1e-300"),
        (-8 / 255, "-8/255"),
    ],
)
def test_a_radius_is_written_as_a_fraction_of_255_or_a_short_decimal(value, text):
    assert format_pixels(value) == text


def test_no_number_is_shown_that_is_not_the_value():
    """Of every quarter of a grey level, and of its neighbours, within what four digits round away."""
    for quarters in range(1, 4 * 300):
        value = quarters / 4 / 255
        for number in (value, math.nextafter(value, 1), value + 1e-9, value * 1.001):
            above, _, below = format_pixels(number).partition("/")
            assert float(above) / float(below or 1) == pytest.approx(number, rel=1e-12 if below else 6e-4)


def test_what_is_copied_from_a_page_is_read_back_bit_for_bit():
    assert format_exactly(8 / 255) == "8/255" and format_exactly(0.1) == "0.1"
    assert format_exactly(math.nextafter(8 / 255, 1)) is None and format_exactly(0.123456) is None


def test_an_error_repeats_a_radius_as_it_was_written():
    with pytest.raises(ConfigError, match=r"got 300/255; pixels are in \[0, 1\], and eps counts in the same units$"):
        LinfPGD(eps=300 / 255)
    with pytest.raises(ConfigError, match=r"got 8; .*: write 8/255$"):
        LinfPGD(eps=8)
    assert format_value([{"name": "linf_pgd", "eps": 8 / 255}]) == "[{'name': 'linf_pgd', 'eps': 8/255}]"
    assert [format_value(value) for value in (0.1, 0.125, 1e-5, True, None, "8/255")] == [
        "0.1", "0.125", "1e-05", "True", "None", "'8/255'",
    ]  # fmt: skip


def test_a_value_that_holds_itself_is_shown():
    value = []
    value.append(value)
    assert format_value(value) == "[[...]]"


def test_a_flag_names_radii_as_they_were_written():
    small, large = (
        {"name": "linf_pgd", "norm": "linf", "eps": eps, "steps": 10, "restarts": 1, "interval": interval}
        for eps, interval in ((4 / 255, [0.1, 0.2]), (8 / 255, [0.3, 0.4]))
    )
    assert [*map(str, flag_order([small, large]))] == [
        "masked: linf_pgd leaves more images correct at eps 8/255 than at 4/255"
    ]
