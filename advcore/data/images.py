"""Decode image files, in the formats that hold nothing but pixels."""

from typing import TYPE_CHECKING, BinaryIO

from advcore.errors import DataError, describe_exception

if TYPE_CHECKING:
    from PIL import Image

# PIL goes by a file's first bytes, whatever its name, and would hand PostScript to an interpreter.
FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP", "GIF")


def decode_image(file: BinaryIO | str, position: int, *, grey: bool = False) -> "Image.Image":
    """Decode an image into RGB, or into one channel where it has no more and `grey` allows that.

    Raises DataError, which names the image at `position`.
    """
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as image:
            if grey and image.mode == "L":
                return image.copy()
            return image.convert("RGB")
    except Exception as error:  # PIL raises a family of errors for damaged files
        path = f" ({file})" if isinstance(file, str) else ""
        raise DataError(f"image {position}{path} cannot be decoded: {describe_exception(error)}") from error
