"""Radii and step lengths in pixel units, written as fractions: 8/255."""

import math

_PARTS_OF_A_LEVEL = 4  # quarters of a grey level are still written as fractions
_MOST_LEVELS = 10_000
_ROUNDING = 1e-12  # relative error of a product such as 2.5 eps / steps


def format_pixels(value: float) -> str:
    """Write a radius or step length in [0, 1] pixel units for a reader: "8/255", "0.5/255", "0.1".

    It is a fraction of 255 where the value equals a whole number, a half or a quarter of grey levels up to rounding,
    and is not a short decimal such as 0.2 (51/255); else a decimal of four digits.
    """
    decimal = f"{value:.4g}"
    is_short = math.isclose(float(decimal), value, rel_tol=_ROUNDING)
    if is_short or not 0 < abs(value) < _MOST_LEVELS / 255:
        return decimal
    levels = round(value * 255 * _PARTS_OF_A_LEVEL) / _PARTS_OF_A_LEVEL
    if not math.isclose(value, levels / 255, rel_tol=_ROUNDING):
        return decimal
    return f"{levels:.6g}/255"


def format_exactly(value: float) -> str | None:
    """Write a value as `format_pixels` does if a run file reads exactly this value back; else return None."""
    text = format_pixels(value)
    numerator, _, denominator = text.partition("/")
    return text if float(numerator) / float(denominator or 1) == value else None


def write_value(value: object) -> str:
    """Write a value as `repr` does, but 8/255 as the fraction that a run file holds."""
    if type(value) is list:
        return f"[{', '.join(map(write_value, value))}]"
    if type(value) is dict:
        return f"{{{', '.join(f'{key!r}: {write_value(entry)}' for key, entry in value.items())}}}"
    exact = format_exactly(value) if type(value) is float else None
    return exact if exact and "/" in exact else repr(value)
