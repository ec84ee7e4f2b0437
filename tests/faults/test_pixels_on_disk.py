"""Pixels as files hold them: every kind arrives as a viewer shows it, or is refused by the name of its file."""

import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from advcore.data import DATASETS
from advcore.data.images import FORMATS, decode_image, list_endings
from advcore.errors import DataError

GREY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], 2)
CPU = torch.device("cpu")


def encode(image, form="PNG", **options) -> bytes:
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decode(content: bytes, **options) -> Image.Image:
    return decode_image(io.BytesIO(content), 0, "name", **options)


def write_tiff(values: np.ndarray, bits: int, photometric=1, sample_format=1, packed=None) -> bytes:
    """A TIFF file of one grey image, written by hand: PIL writes no 12 bits, no signs, and no inverted ones."""
    height, width = values.shape
    pixels = packed or values.tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(pixels), 339: sample_format}
    pixels += bytes(len(pixels) % 2)
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(tags.items()))
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def write_png(rows: list[bytes], width: int, bits: int, kind: int, transparent: list[int]) -> bytes:
    """A PNG file with a transparent colour, of so many bits a channel; `kind` 0 is grey, 2 is RGB."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    key = struct.pack(f">{len(transparent)}H", *transparent)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in [(b"IHDR", header), (b"tRNS", key), (b"IDAT", content), (b"IEND", b"")]
    )


def pack_12_bits(values: np.ndarray) -> bytes:
    """Two pixels in three bytes; each row begins with a byte of its own."""
    rows = ["".join(f"{value:012b}" for value in row) for row in values]
    return b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows)


def add_alpha(pixels: np.ndarray, alpha: list) -> np.ndarray:
    return np.concatenate([np.atleast_3d(pixels), np.array(alpha, np.uint8).reshape(2, 3, 1)], 2)


def put_on_white(pixels: np.ndarray, alpha: list) -> np.ndarray:
    share = np.array(alpha).reshape(2, 3, 1) / 255
    return np.rint(np.atleast_3d(pixels) * share + 255 * (1 - share)).astype(np.uint8)


ALPHA = [[0, 255, 0], [255, 128, 0]]
WIDE = GREY.astype(np.uint16) * 257
NARROW = np.rint(GREY / 255 * 4095).astype(np.uint16)
PALETTE = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), "P")
PALETTE.putpalette([10, 20, 30, 40, 50, 60, 255, 0, 0])
PALETTE_COLOURS = np.array([[10, 20, 30], [40, 50, 60], [255, 0, 0]], np.uint8)[np.array([[0, 1, 2], [2, 1, 0]])]
CLEAR_PALETTE = PALETTE_COLOURS.copy()
CLEAR_PALETTE[:, 1] = 255
BITS = np.array([[0, 255, 0], [255, 255, 0]], np.uint8)
FLOATS = (GREY / 255).astype(np.float32)
CMYK = np.concatenate([255 - COLOUR, np.zeros((2, 3, 1), np.uint8)], 2)
KEYED = np.array([[0, 255, 170, 255]] * 2, np.uint8)  # two bits a pixel: 0, 1, 2, 3, of which 1 is transparent

SHOWN = {
    "grey 16 bits": (encode(WIDE), GREY),
    "grey 16 bits, between two of 8": (encode(np.array([[300, 380]], np.uint16)), np.array([[1, 1]], np.uint8)),
    "tiff 16 bits": (encode(WIDE, "TIFF"), GREY),
    "tiff 16 bits, compressed": (encode(WIDE, "TIFF", compression="tiff_lzw"), GREY),
    "tiff 16 bits, big-endian": (encode(Image.frombytes("I;16B", (3, 2), WIDE.astype(">u2").tobytes()), "TIFF"), GREY),
    "tiff 16 bits, white is zero": (write_tiff(65535 - WIDE, 16, photometric=0), GREY),
    "tiff 8 bits, white is zero": (write_tiff(255 - GREY, 8, photometric=0), GREY),
    "tiff 12 bits": (write_tiff(NARROW, 12, packed=pack_12_bits(NARROW)), GREY),
    "tiff floats": (encode(FLOATS, "TIFF"), GREY),
    "tiff floats, white is zero": (write_tiff(1 - FLOATS, 32, photometric=0, sample_format=3), GREY),
    "pgm 16 bits": (encode(WIDE, "PPM"), GREY),
    "pgm of 1023": (b"P5 3 2 1023\n" + np.rint(GREY / 255 * 1023).astype(">u2").tobytes(), GREY),
    "portable floats": (encode(FLOATS, "PPM"), GREY),
    "colour 16 bits": (b"P6 3 2 65535\n" + (COLOUR.astype(">u2") * 257).tobytes(), COLOUR),
    "one bit": (encode(Image.fromarray(BITS).convert("1")), BITS),
    "one bit tiff": (encode(Image.fromarray(BITS).convert("1"), "TIFF"), BITS),
    "one bit, one clear": (write_png([bytes([0b01000000])] * 2, 3, 1, 0, [0]), np.full((2, 3), 255, np.uint8)),
    "grey": (encode(GREY), GREY),
    "colour": (encode(COLOUR), COLOUR),
    "colour bmp": (encode(COLOUR, "BMP"), COLOUR),
    "colour webp": (encode(COLOUR, "WEBP", lossless=True), COLOUR),
    "palette": (encode(PALETTE), PALETTE_COLOURS),
    "palette, one clear": (encode(PALETTE, transparency=1), CLEAR_PALETTE),
    "palette, clear in part": (encode(PALETTE, transparency=bytes([255, 0, 255])), CLEAR_PALETTE),
    "gif": (encode(PALETTE, "GIF"), PALETTE_COLOURS),
    "gif, one clear": (encode(PALETTE, "GIF", transparency=1), CLEAR_PALETTE),
    "colour and alpha": (encode(add_alpha(COLOUR, ALPHA)), put_on_white(COLOUR, ALPHA)),
    "colour and alpha webp": (
        encode(add_alpha(COLOUR, ALPHA), "WEBP", lossless=True, exact=True),
        put_on_white(COLOUR, ALPHA),
    ),
    "colour and alpha tiff": (encode(add_alpha(COLOUR, ALPHA), "TIFF"), put_on_white(COLOUR, ALPHA)),
    "grey and alpha": (encode(add_alpha(GREY, ALPHA)), put_on_white(GREY, ALPHA)),
    "grey, one clear": (encode(GREY, transparency=102), np.where(GREY == 102, 255, GREY)),
    "grey 16 bits, one clear": (encode(WIDE, transparency=102 * 257), np.where(GREY == 102, 255, GREY)),
    "grey 2 bits, one clear": (write_png([bytes([0b00011011])] * 2, 4, 2, 0, [1]), KEYED),
    "colour, one clear": (encode(COLOUR, transparency=tuple(COLOUR[0, 0].tolist())), None),
    "cmyk": (encode(Image.fromarray(CMYK, "CMYK"), "TIFF"), COLOUR),
}


@pytest.mark.parametrize("content, expected", SHOWN.values(), ids=SHOWN)
def test_pixels_arrive_as_a_viewer_shows_them(content, expected):
    if expected is None:
        expected = COLOUR.copy()
        expected[0, 0] = 255
    expected = np.broadcast_to(np.atleast_3d(expected), (*expected.shape[:2], 3))
    assert np.array_equal(np.asarray(decode(content)), expected)
    grey = decode(content, grey=True)  # as parquet reads it
    if grey.mode == "L":
        grey = grey.convert("RGB")
    assert np.array_equal(np.asarray(grey), expected)


LAB = [[136, 137, 179], [208, 128, 67], [195, 128, 168]]


@pytest.mark.parametrize("mode, form", [("YCbCr", "TIFF"), ("YCbCr", "JPEG"), ("CMYK", "JPEG"), ("LAB", "TIFF")])
def test_other_colour_spaces_arrive_as_nearly_the_colours_that_were_meant(mode, form):
    colours = np.array([[250, 3, 11], [128, 128, 128], [20, 200, 90]], np.uint8)
    stored = {
        "LAB": Image.merge("LAB", [Image.fromarray(np.array([band], np.uint8)) for band in LAB]),
        "CMYK": Image.fromarray(np.append(255 - colours, np.zeros((3, 1), np.uint8), 1)[None], "CMYK"),
        "YCbCr": Image.fromarray(colours[None]).convert("YCbCr"),
    }
    image = stored[mode].resize((48, 16), Image.Resampling.NEAREST)  # blocks, so that JPEG loses little
    shown = np.asarray(decode(encode(image, form, quality=98)))[8, 8::16]
    assert np.abs(shown.astype(int) - colours).max() <= 8


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}
"""What makes stored pixels upright, by EXIF's orientation."""


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_turned_as_their_exif_says_and_once(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = GREY if form != "WEBP" else np.stack([GREY] * 3, 2)
    options = {"lossless": True} if form == "WEBP" else {}
    image = decode(encode(stored, form, exif=exif, **options))
    assert np.array_equal(np.asarray(image)[..., 0], TURNS[orientation](GREY))


def test_wide_transparent_and_lossy_images_are_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    for content in (encode(WIDE, exif=exif), encode(add_alpha(GREY, [[255] * 3] * 2), exif=exif)):
        assert np.array_equal(np.asarray(decode(content))[..., 0], np.rot90(GREY, -1))
    photo = np.zeros((16, 32, 3), np.uint8)
    photo[:, 16:] = 255
    for form in ("JPEG", "AVIF") if ".avif" in list_endings() else ("JPEG",):
        turned = np.asarray(decode(encode(photo, form, exif=exif)))
        assert turned.shape == (32, 16, 3) and turned[:8].max() < 40 and turned[-8:].min() > 215


def test_exif_that_cannot_be_read_turns_nothing():
    content = encode(COLOUR, "JPEG", exif=b"Exif\0\0MM\0\x2b rubbish", quality=100, subsampling=0)
    assert decode(content).size == (3, 2)


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.fromarray(np.full((4, 4, 3), level, np.uint8)) for level in (40, 200)]
    for form, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        content = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert np.unique(np.asarray(decode(content))).tolist() == [40]


REFUSED = {
    "floats above 1": (encode(GREY.astype(np.float32), "TIFF"), "must be in [0, 1], got 0 to 255"),
    "floats below 0": (encode(FLOATS - 0.5, "TIFF"), "must be in [0, 1], got -0.5 to 0.5"),
    "a float that is no number": (encode(np.array([[0, np.nan]], np.float32), "TIFF"), "got nan to nan"),
    "32 bits": (write_tiff(GREY.astype("<u4"), 32), "the range of its 32-bit whole numbers is not known"),
    "32 bits with a sign": (encode(GREY.astype(np.int32), "TIFF"), "got signed whole numbers"),
    "16 bits with a sign": (write_tiff(GREY.astype("<i2") - 9, 16, sample_format=2), "got signed whole numbers"),
    "8 bits with a sign": (write_tiff(GREY.astype("i1"), 8, sample_format=2), "got signed whole numbers"),
    "pages": (encode(COLOUR, "TIFF", save_all=True, append_images=[Image.fromarray(COLOUR)]), "got 2 pages"),
    "a clear colour of 16 bits": (write_png([bytes(12)] * 2, 2, 16, 2, [0, 0, 0]), "must have 8 bits, got 16"),
    "14 bits": (write_tiff(NARROW, 14), "cannot identify image file"),
    "nothing": (b"", "cannot identify image file"),
}


@pytest.mark.parametrize("content, reason", REFUSED.values(), ids=REFUSED)
def test_pixels_that_cannot_be_scaled_for_sure_are_refused_by_file_name(tmp_path, content, reason):
    path = tmp_path / "picture.tif"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        decode_image(str(path), 3, str(path))
    message = str(caught.value)
    assert message.startswith(f"image 3 ({path}) cannot be decoded: ") and reason in message and "\n" not in message


NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_file_that_was_cut_is_refused_whatever_its_format(tmp_path, form, share):
    content = encode(NOISE, form)
    path = tmp_path / "cut"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"image 0 \(.*cut\) cannot be decoded"):
        decode_image(str(path), 0, str(path))


# ---- whole data sets ----


def write_folder(root, **contents):
    """One file per class in each part."""
    for part in ("train", "test"):
        for name, content in contents.items():
            (root / part / name).mkdir(parents=True)
            (root / part / name / "0.tif").write_bytes(content)


def fill(level, dtype=np.uint8, size=(16, 16)):
    return np.full(size, level, dtype)


def test_a_folder_scales_wide_images_and_shows_the_background(tmp_path):
    clear = np.concatenate([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 1), np.uint8)], 2)
    write_folder(
        tmp_path,
        a=encode(fill(32896, np.uint16)),
        b=encode(fill(0.25, np.float32), "TIFF"),
        c=encode(clear),
        d=encode(clear + np.array([9, 9, 9, 0], np.uint8)),
    )
    data = DATASETS["image_folder"](path=str(tmp_path), size=8, validation=0).load(CPU)
    ((_, x, _),) = data.test.batches([torch.arange(4)])
    assert [(255 * image).unique().round().tolist() for image in x] == [[128], [64], [255], [255]]


def write_parquet(folder, part, contents):
    images = [{"bytes": content, "path": None} for content in contents]
    labels = [i % 2 for i in range(len(images))]
    pq.write_table(pa.table({"image": images, "label": labels}), folder / f"{part}-0.parquet")


def load_parquet(folder, **settings):
    return DATASETS["parquet"](path=str(folder), **{"validation": 0, **settings}).load(CPU)


def test_parquet_reads_wide_grey_as_grey(tmp_path):
    for part in ("train", "test"):
        write_parquet(tmp_path, part, [encode(WIDE), encode(GREY), encode(FLOATS, "TIFF")])
    ((_, x, _),) = load_parquet(tmp_path).train.batches([torch.arange(3)])
    assert x.shape == (3, 1, 2, 3) and torch.equal(x, torch.from_numpy(GREY / np.float32(255)).expand_as(x))


@pytest.mark.parametrize("place", ["in one batch", "in the other part", "among those held out"])
def test_grey_and_colour_in_one_parquet_become_rgb(tmp_path, place):
    grey, colour = [encode(GREY)] * 7, encode(COLOUR)
    train, test = grey, grey
    if place == "in the other part":
        test = [colour, *grey]
    else:
        train = [colour, *grey]
    write_parquet(tmp_path, "train", train)
    write_parquet(tmp_path, "test", test)
    data = load_parquet(tmp_path, validation=0.25 * (place == "among those held out"))
    shades = np.array([GREY.sum() * 3 / 255, COLOUR.sum() / 255])
    for source in filter(None, (data.train, data.validation, data.test)):
        ((_, x, _),) = source.batches([torch.arange(len(source))])
        assert x.shape[1:] == (3, 2, 3) and all(np.isclose(float(image.sum()), shades).any() for image in x)


def test_a_damaged_image_in_parquet_is_refused_with_its_row_and_the_names_of_the_files(tmp_path):
    write_parquet(tmp_path, "train", [encode(GREY)] * 4)
    write_parquet(tmp_path, "test", [encode(GREY), encode(GREY)[:40]])
    with pytest.raises(DataError, match=r"image 1 \(.*/test-0.parquet\) cannot be decoded"):
        load_parquet(tmp_path)


def test_parquet_images_turned_by_exif_have_one_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = encode(np.ascontiguousarray(np.rot90(GREY, -1)))
    for part in ("train", "test"):
        write_parquet(tmp_path, part, [encode(GREY, exif=exif), upright])
    ((_, x, _),) = load_parquet(tmp_path).train.batches([torch.arange(2)])
    assert torch.equal(x[0], x[1])


def test_every_format_that_is_decoded_has_endings_and_no_others():
    assert {".jfif", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".jpeg", ".png"} <= set(list_endings())
    assert not {".eps", ".ps", ".pdf", ".svg", ".psd"} & set(list_endings())
    assert "EPS" not in FORMATS
