"""What becomes of picture files: read right, whatever their name, or refused by name."""

import struct
import zlib

import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile
from PIL import Image

from deqbilevel.pictures import DataError, read_grey

RAMP = np.tile(np.arange(20, dtype=np.uint8) * 12, (14, 1))
RAMP[3:6, 2:9] = 200
RGB = np.stack([RAMP, 255 - RAMP, RAMP // 2], -1)
ALPHA = np.tile(np.linspace(0, 255, 14).astype(np.uint8)[:, None], (1, 20))
RGBA = np.concatenate([RGB, ALPHA[..., None]], -1)
BITS = RAMP > 100
TWELVE = RAMP.astype(np.uint16) * 16 + (RAMP >> 4)

LIGHT = np.array([0.2125, 0.7154, 0.0721])


def grey(unit):
    """Of values in [0, 1], with three channels for colours."""
    return 2 * (unit @ LIGHT if unit.ndim == 3 else np.asarray(unit, float)) - 1


def on_white(unit):
    alpha = ALPHA / 255
    alpha = alpha if unit.ndim == 2 else alpha[..., None]
    return grey(unit * alpha + 1 - alpha)


GREY, COLOUR = grey(RAMP / 255), grey(RGB / 255)
GREY_ON_WHITE, COLOUR_ON_WHITE = on_white(RAMP / 255), on_white(RGB / 255)
PALETTE = Image.fromarray(RGB).quantize(256)
COLOURS = grey(np.asarray(PALETTE.convert("RGB")) / 255)


def sixteen(pixels):
    return pixels.astype(np.uint16) * 257


def tiff(pixels, **settings):
    return lambda path: tifffile.imwrite(path, pixels, **settings)


def save(pixels, mode=None, **settings):
    """By Pillow, in a mode."""

    def write(path):
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(path, **settings)

    return write


def text(*parts):
    return lambda path: path.write_bytes(b"".join(parts))


def png(pixels, colour=0, depth=16, size=(20, 14), **chunks):
    """Of big-endian samples, with further chunks."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    def write(path):
        rows = np.asarray(pixels).reshape(len(pixels), np.size(pixels) // max(len(pixels), 1))
        stored = rows.astype(">u2") if depth == 16 else packed(rows, depth)
        data = b"".join(b"\0" + row.tobytes() for row in stored)
        header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
        more = [chunk(kind.encode(), value) for kind, value in chunks.items()]
        parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(data))]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))

    return write


def packed(rows, depth):
    bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)


def frames(**settings):
    image = Image.fromarray(RGB)
    more = {"save_all": True, "append_images": [image.rotate(180)]}
    return lambda path: image.save(path, **more, **settings)


SMALL = RAMP >> 4
TRANSPARENT_AT_3 = grey(np.where(SMALL == 3, 1, SMALL / 15))
FLOATS = (RAMP / 255).astype(np.float32)
PREMULTIPLIED = np.concatenate(
    [np.round(RGB / 255 * ALPHA[..., None] * 257), sixteen(ALPHA)[..., None]], -1
).astype(np.uint16)
REDUCED = {"photometric": "rgb", "subfiletype": 1}


def with_thumbnail(path):
    with tifffile.TiffWriter(path) as file:
        file.write(RGB[::2, ::2].copy(), **REDUCED)
        file.write(RGB, photometric="rgb")


READ = {
    "grey.png": (save(RAMP), GREY),
    "grey.bmp": (save(RAMP), GREY),
    "grey.PGM": (save(RAMP, format="PPM"), GREY),
    "grey16.png": (save(sixteen(RAMP)), GREY),
    "grey16.tif": (tiff(sixteen(RAMP)), GREY),
    "grey16-big-endian.tif": (tiff(sixteen(RAMP), byteorder=">"), GREY),
    "grey16-lzw.tif": (save(sixteen(RAMP), compression="tiff_lzw"), GREY),
    "grey16.pgm": (text(b"P5 20 14 65535\n", sixteen(RAMP).astype(">u2").tobytes()), GREY),
    "rgb.png": (save(RGB), COLOUR),
    "rgb.webp": (save(RGB, lossless=True), COLOUR),
    "rgb.tif": (tiff(RGB, photometric="rgb", compression="zlib"), COLOUR),
    "rgb16.tif": (tiff(sixteen(RGB), photometric="rgb"), COLOUR),
    "rgb-lzw.tif": (save(RGB, compression="tiff_lzw"), COLOUR),
    "rgb-planes.tif": (
        tiff(np.moveaxis(RGB, -1, 0).copy(), photometric="rgb", planarconfig="separate"),
        COLOUR,
    ),
    "rgb-tiles.tif": (tiff(RGB, photometric="rgb", tile=(16, 16), compression="zlib"), COLOUR),
    "rgb-thumbnail.tif": (with_thumbnail, COLOUR),
    "bits.png": (save(BITS), grey(BITS)),
    "bits.tif": (save(BITS, compression="group4"), grey(BITS)),
    "bits-reversed.tif": (save(BITS, tiffinfo={262: 0}), grey(BITS)),
    "bits2.png": (png(RAMP >> 6, depth=2), grey((RAMP >> 6) / 3)),
    "bits4.png": (png(SMALL, depth=4), grey(SMALL / 15)),
    "white-is-zero.tif": (tiff(255 - RAMP, photometric="miniswhite"), GREY),
    "white-is-zero16.tif": (tiff(65535 - sixteen(RAMP), photometric="miniswhite"), GREY),
    "white-is-zero-float.tif": (tiff(1 - FLOATS, photometric="miniswhite"), GREY),
    "float.tif": (tiff(FLOATS), GREY),
    "float64.tif": (tiff(RAMP / 255), GREY),
    "palette.png": (save(PALETTE), COLOURS),
    "palette.bmp": (save(PALETTE), COLOURS),
    "palette.tif": (save(PALETTE), COLOURS),
    "palette-lzw.tif": (save(PALETTE, compression="tiff_lzw"), COLOURS),
    "gif.png": (save(PALETTE, format="GIF"), COLOURS),
    "tiff.png": (save(RGB, format="TIFF"), COLOUR),
    "png.tiff": (save(RGB, format="PNG"), COLOUR),
    "rgba.png": (save(RGBA), COLOUR_ON_WHITE),
    "rgba.tif": (tiff(RGBA, photometric="rgb", extrasamples=["unassalpha"]), COLOUR_ON_WHITE),
    "rgba-lzw.tif": (save(RGBA, compression="tiff_lzw"), COLOUR_ON_WHITE),
    "premultiplied.tif": (
        tiff(PREMULTIPLIED, photometric="rgb", extrasamples=["assocalpha"]),
        COLOUR_ON_WHITE,
    ),
    "no-alpha.tif": (tiff(RGBA, photometric="rgb", extrasamples=["unspecified"]), COLOUR),
    "grey-alpha.png": (save(np.stack([RAMP, ALPHA], -1)), GREY_ON_WHITE),
    "grey-alpha.tif": (
        tiff(
            np.stack([255 - RAMP, ALPHA], -1),
            photometric="miniswhite",
            extrasamples=["unassalpha"],
            planarconfig="contig",
        ),
        GREY_ON_WHITE,
    ),
    "one-transparent.png": (png(SMALL, depth=4, tRNS=b"\0\3"), TRANSPARENT_AT_3),
    "transparent-palette.png": (
        png(SMALL, 3, 4, PLTE=bytes(range(0, 192, 4)), tRNS=b"\xff\xff\xff\0"),
        grey(np.where((SMALL == 3)[..., None], 1, (SMALL[..., None] * 12 + [0, 4, 8]) / 255)),
    ),
    "twelve-of-sixteen.png": (png(TWELVE, sBIT=b"\x0c"), grey(TWELVE / 4095)),
    "twelve-in-all.png": (png(TWELVE * 16 + (TWELVE >> 8), sBIT=b"\x0c"), grey(TWELVE / 4095)),
    "fourteen.png": (png(TWELVE * 4 + 1, sBIT=b"\x0e"), grey((TWELVE * 4 + 1) / 16383)),
    "fourteen-in-all.png": (png(TWELVE * 4, sBIT=b"\x0e"), grey(TWELVE * 4 / 65535)),
    "four-of-eight.png": (png(SMALL, depth=8, sBIT=b"\4"), grey(SMALL / 15)),
    "four-in-eight.png": (png(SMALL * 17, depth=8, sBIT=b"\4"), grey(SMALL / 15)),
    "dark.pgm": (text(b"P5 20 14 4095\n", RAMP.astype(">u2").tobytes()), grey(RAMP / 4095)),
    "transparent.png": (
        png(RAMP, depth=8, tRNS=b"\0\xc8"),
        grey(np.where(RAMP == 200, 1, RAMP / 255)),
    ),
    "twelve.pgm": (
        text(b"P5 20 14 4095\n", TWELVE.astype(">u2").tobytes()),
        grey(TWELVE / 4095),
    ),
    "black.png": (save(np.zeros((4, 5), np.uint16)), -np.ones((4, 5))),
    "float.ppm": (text(b"Pf 20 14 -1.0\n", FLOATS[::-1].tobytes()), GREY),
    "first-of-a-camera.jpg": (frames(format="MPO", quality=100, subsampling=0), COLOUR),
    "jpeg.png": (save(RGB, format="JPEG", quality=100, subsampling=0), COLOUR),
    "jpeg.tif": (save(RAMP, compression="jpeg", quality=100), GREY),
}


@pytest.mark.parametrize("name", READ)
def test_read_right(tmp_path, name):
    write, expected = READ[name]
    write(tmp_path / name)
    read = read_grey(tmp_path / name)
    assert read.shape == expected.shape and read.dtype == np.float32
    lossy = any(part in name for part in ("jp", "rgba-lzw", "twelve-in-all"))
    np.testing.assert_allclose(read, expected, atol=0.04 if lossy else 2e-4)


TURNED = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.swapaxes(0, 1),
    6: np.rot90(RGB, -1),
    7: np.rot90(RGB, 2).swapaxes(0, 1),
    8: np.rot90(RGB),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = grey(TURNED[orientation] / 255)
    for name, settings in {
        "a.png": {"exif": exif},
        "a.jpg": {"exif": exif, "quality": 100, "subsampling": 0},
        "a.webp": {"exif": exif, "lossless": True},
        "a.tif": {"tiffinfo": {0x0112: orientation}},
        "b.tif": {"tiffinfo": {0x0112: orientation}, "compression": "tiff_lzw"},
    }.items():
        Image.fromarray(RGB).save(tmp_path / name, **settings)
        np.testing.assert_allclose(read_grey(tmp_path / name), expected, atol=0.04)


def torn(write):
    def half(path):
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return half


def retagged(write, more=b"", **tags):
    """With other tags, and bytes at the end."""

    def changed(path):
        write(path)
        with tifffile.TiffFile(path, mode="r+") as file:
            end = file.filehandle.size
            for name, value in tags.items():
                file.pages[0].aspage().tags[name].overwrite(end if value is None else value)
            file.filehandle.seek(0, 2)
            file.filehandle.write(more)

    return changed


def endless(path):
    """The next page of the only one is itself."""
    tifffile.imwrite(path, RAMP)
    data = bytearray(path.read_bytes())
    (page,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, page)
    struct.pack_into("<I", data, page + 2 + 12 * tags, page)
    path.write_bytes(data)


BOMB = zlib.compress(bytes(2**26))
"""64 MiB where the tags say 280 bytes."""


CANNOT = "cannot be read as an image"
IMAGE = Image.fromarray(RGB)
REFUSED = {
    "text.png": (text(b"hello"), CANNOT),
    "text.tif": (text(b"hello"), CANNOT),
    "empty.jpg": (text(b""), CANNOT),
    "empty.tif": (text(b""), CANNOT),
    "postscript.png": (save(IMAGE, format="EPS"), CANNOT),
    "torn.png": (torn(save(RGB)), CANNOT),
    "torn.jpg": (torn(save(RGB)), CANNOT),
    "torn.webp": (torn(save(RGB)), CANNOT),
    "torn.pgm": (torn(save(RAMP)), CANNOT),
    "torn.tif": (torn(tiff(RGB, photometric="rgb")), "truncated"),
    "torn-lzw.tif": (torn(save(RGB, compression="tiff_lzw")), "no whole picture in it: truncated"),
    "no-page.tif": (text(b"II*\0"), CANNOT),
    "only-thumbnail.tif": (tiff(RGB, **REDUCED), "no whole picture in it"),
    "ink.jpg": (save(RGB, "CMYK"), "CMYK"),
    "ink.png": (save(RGB, "CMYK", format="JPEG"), "CMYK"),
    "ink.tif": (save(RGB, "CMYK"), "CMYK"),
    "lab.tif": (save(RGB, "LAB"), "CIELAB"),
    "ycbcr.tif": (save(RGB, "YCbCr"), "YCBCR"),
    "mosaic.tif": (tiff(RAMP, photometric="cfa"), "CFA"),
    "pages.tif": (frames(), "several frames or pages"),
    "pages-lzw.tif": (frames(compression="tiff_lzw"), "several frames or pages"),
    "stack.tif": (tiff(np.zeros((6, 9, 9), np.uint8)), "several frames or pages"),
    "volume.tif": (
        tiff(np.zeros((6, 9, 9), np.uint8), volumetric=True),
        r"array of shape \(6, 9, 9\)",
    ),
    "endless.tif": (endless, "several frames or pages"),
    "imagej.tif": (tiff(np.zeros((6, 9, 9), np.uint8), imagej=True), "frames or pages"),
    "animated.gif.png": (frames(format="GIF"), "several frames or pages"),
    "animated.png": (frames(), "several frames or pages"),
    "animated.webp": (frames(), "several frames or pages"),
    "channels.tif": (
        tiff(RGBA, photometric="minisblack", planarconfig="contig", extrasamples=(0, 0, 0)),
        "4 samples a pixel in MINISBLACK",
    ),
    "wide.tif": (tiff(np.full((9, 9), 2.0)), "float64 values from 2.0 to 2.0"),
    "nan.tif": (tiff(np.full((9, 9), np.nan)), "float64 values from nan"),
    "nan.ppm": (text(b"Pf 1 1 -1.0\n", b"\xff" * 4), "float32 values from nan"),
    "signed.tif": (tiff(np.zeros((9, 9), np.int16)), "int16 values"),
    "long.tif": (tiff(RAMP.astype(np.uint32)), "uint32 values"),
    "twelve.png": (png(TWELVE), "no value above [0-9]+ of 65535, .*sBIT"),
    "twelve.tif": (tiff(TWELVE), "no value above [0-9]+ of 65535"),
    "twelve-colours.png": (
        png(RGB.astype(int) * 16, 2, sBIT=b"\x0c" * 3),
        "no value above 4095 of 65535",
    ),
    "transparent16.png": (png(sixteen(RAMP), tRNS=b"\0\0"), "transparent; save it with alpha"),
    "transparent-colour16.png": (
        png(sixteen(RGB), 2, tRNS=b"\0" * 6),
        "transparent; save it with alpha",
    ),
    "no-pixels.png": (png(RAMP[:0], size=(0, 0)), CANNOT),
    "vast.png": (png(RAMP[:0], size=(10**5, 10**5)), "10000000000 pixels"),
    "vast.tif": (
        retagged(tiff(RAMP), ImageWidth=10**6, ImageLength=10**6),
        "1000000x1000000 pixels",
    ),
    "bomb.tif": (
        retagged(
            tiff(RAMP, compression="zlib"), BOMB, StripByteCounts=len(BOMB), StripOffsets=None
        ),
        "a part unpacks to more than its pixels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path, name):
    write, says = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(DataError, match=says) as caught:
        read_grey(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_a_colour_becomes_its_light(tmp_path):
    for light, colour in zip(LIGHT, np.eye(3), strict=True):
        imageio.imwrite(tmp_path / "a.png", np.full((4, 5, 3), 255 * colour, np.uint8))
        np.testing.assert_allclose(read_grey(tmp_path / "a.png"), 2 * light - 1, atol=1e-6)
