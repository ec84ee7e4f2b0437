"""Decode image files into 8 bits per channel as a viewer shows them, in the formats that hold nothing but pixels."""

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from advcore.errors import DataError, describe_exception

if TYPE_CHECKING:
    from PIL import Image

# PIL goes by a file's first bytes, whatever its name, and would hand PostScript to an interpreter.
FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "AVIF")
_GREY = ("1", "L", "LA", "F", "I", "I;16", "I;16B", "I;16L", "I;16N")
_WIDE = _GREY[3:]
_TRANSPARENT = ("LA", "PA", "RGBA", "RGBa")
# EXIF's orientations, and what turns each upright.
_TURNS: dict[object, str] = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_ORIENTATION = 0x0112
# tags of TIFF
_BITS = 258
_PHOTOMETRIC = 262
_SAMPLE_FORMAT = 339
_WHITE_IS_ZERO = 0
_SIGNED = 2


@cache
def list_formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that the installed PIL can open."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def list_endings() -> tuple[str, ...]:
    """Return the endings of files in these formats, such as ".png", in lower case."""
    from PIL import Image

    return tuple(ending for ending, name in Image.registered_extensions().items() if name in FORMATS)


def decode_image(file: BinaryIO | str, position: int, name: str, *, grey: bool = False) -> "Image.Image":
    """Decode an image into RGB, or into one channel where it has no more and `grey` allows that.

    Grey of 16 bits (12 in some TIFF files) is scaled by that range, not by the image's own; float pixels must be in
    [0, 1]. The image is turned upright as its EXIF says, and what is transparent shows white. Of an animation the first
    frame is taken.

    Raises DataError, which names the image at `position` in the file or files of this `name`; also for pixels whose
    range is not known for sure (signed and 32-bit whole numbers, floats outside [0, 1]), and for a TIFF file of several
    pages.
    """
    with _open_image(file, position, name) as image:
        return _convert(image, grey)


def is_grey(file: BinaryIO | str, position: int, name: str) -> bool:
    """Return whether an image has one channel, from its header. Raises DataError, as `decode_image` does."""
    with _open_image(file, position, name) as image:
        return image.mode in _GREY


@contextlib.contextmanager
def _open_image(file: BinaryIO | str, position: int, name: str) -> Iterator["Image.Image"]:
    """Open an image, and raise DataError, which names it, for whatever is raised inside."""
    from PIL import Image

    try:
        with Image.open(file, formats=list_formats()) as image:
            yield image
    except Exception as error:  # PIL raises a family of errors for damaged files
        reason = describe_exception(error)
        if isinstance(error, DataError):
            reason = str(error)
        raise DataError(f"image {position} ({name}) cannot be decoded: {reason}") from error


def _convert(image: "Image.Image", grey: bool) -> "Image.Image":
    """Return the image upright, in 8 bits and without transparency."""
    from PIL import Image

    _check_tiff(image)
    _scale_transparency(image)
    image.load()
    mode = "RGB"
    if grey and image.mode in _GREY:
        mode = "L"
    turn = _TURNS.get(_read_orientation(image))
    pixels = image
    if image.mode in _WIDE:
        pixels = _scale(image)
    elif image.mode in _TRANSPARENT or "transparency" in image.info:
        pixels = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    if turn:
        pixels = pixels.transpose(Image.Transpose[turn])
    return pixels.convert(mode)


def _check_tiff(image: "Image.Image") -> None:
    """Raise DataError for a TIFF file of several pages, or of signed numbers, which PIL may read as unsigned ones."""
    if image.format != "TIFF":
        return
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise DataError(f"it must be one image, got {pages} pages; save the intended one as a separate file")
    if _SIGNED in _read_tag(image, _SAMPLE_FORMAT):
        raise DataError("its pixels must be unsigned, got signed whole numbers; save it with 8 or 16 unsigned bits")


def _read_tag(image: "Image.Image", tag: int) -> tuple[int, ...]:
    """Return the values of a TIFF file's tag, which are none where it is missing, and for another format."""
    value = getattr(image, "tag_v2", {}).get(tag, ())
    if isinstance(value, tuple):
        return value
    return (value,)


def _scale_transparency(image: "Image.Image") -> None:
    """Bring a PNG file's transparent colour to the range of the pixels that PIL gives.

    PIL leaves it in the file's own bits: with 2 or 4 bits per pixel it would be another grey.
    """
    colour = image.info.get("transparency")
    if image.format != "PNG" or colour is None:
        return
    bits = getattr(image, "tile", [])[0][3]
    if bits == "RGB;16B":
        raise DataError("its transparent colour must have 8 bits, got 16; save it with an alpha channel")
    image.info["transparency"] = {"L;2": 85, "L;4": 17}.get(bits, 1) * colour


def _read_orientation(image: "Image.Image") -> object:
    """Return EXIF's orientation, 1 to 8; None without one, or where EXIF cannot be read, which says nothing then."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # PIL raises a family of errors for damaged EXIF, although the pixels are sound
        return None


def _scale(image: "Image.Image") -> "Image.Image":
    """Scale grey of more than 8 bits to 8, by the range of its kind; the transparent grey, if any, becomes white."""
    from PIL import Image

    values = np.asarray(image)
    levels = values * (255 / _find_largest(image, values))
    if _WHITE_IS_ZERO in _read_tag(image, _PHOTOMETRIC):  # PIL inverts 8 bits, but not more
        levels = 255 - levels
    levels[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(np.rint(levels).astype(np.uint8))


def _find_largest(image: "Image.Image", values: np.ndarray) -> int:
    """Return the value that means white. Raises DataError where that is not known for sure."""
    if image.mode == "F":
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):
            raise DataError(f"its float pixels must be in [0, 1], got {low:g} to {high:g}; rescale them")
        return 1
    if image.format != "TIFF":
        return 2**16 - 1
    if image.mode == "I":
        raise DataError("the range of its 32-bit whole numbers is not known; save it with 8 or 16 bits")
    return 2 ** _read_tag(image, _BITS)[0] - 1
