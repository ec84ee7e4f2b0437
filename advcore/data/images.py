"""Image files to pixels, in the formats that only hold pixels."""

from typing import BinaryIO

from advcore.errors import DataError, in_a_line

FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""PIL goes by a file's first bytes, whatever its name, and would hand PostScript to an interpreter."""


def decoded(file: BinaryIO | str, position: int, *, grey: bool = False):
    """A PIL image, RGB, or one channel where it has no more and `grey` allows it. Raises DataError that names the
    image at `position`."""
    from PIL import Image

    where = f"image {position}" + (f" ({file})" if isinstance(file, str) else "")
    try:
        with Image.open(file, formats=FORMATS) as image:
            return image.copy() if grey and image.mode == "L" else image.convert("RGB")
    except Exception as error:  # PIL raises a family of errors for damaged files
        raise DataError(f"{where} cannot be decoded: {in_a_line(error)}") from error
