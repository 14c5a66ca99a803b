"""One image file: what its suffix says, upright, on white, and no more than an image."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_cl.data import images
from lora_cl.data.images import FORMATS, MAX_PIXELS, read_image, refusing_bombs
from lora_cl.errors import DataError

RED, WHITE = [255, 0, 0], [255, 255, 255]


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file by hand, its pixels as they are."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


# How each orientation of EXIF 2.3 stores an upright image of two rows and three columns: 1 as it
# is, 2 mirrored, 3 upside down, 4 flipped, 5 to 8 with rows and columns exchanged.
UPRIGHT = np.array([[0, 40, 80], [120, 160, 200]], dtype=np.uint8)
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: UPRIGHT.T[::-1],
    7: UPRIGHT.T[::-1, ::-1],
    8: UPRIGHT.T[:, ::-1],
}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_are_turned_upright(tmp_path: Path, suffix: str):
    path = tmp_path / f"photo{suffix}"
    expected = np.array(Image.fromarray(UPRIGHT).resize((6, 6), Image.Resampling.BILINEAR))
    turned = 0
    for orientation, stored in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
        assert np.array_equal(read_image(path, 6, 1), expected), orientation
        turned += 1
    assert turned == 8


def test_a_damaged_exif_says_nothing(tmp_path: Path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.png", 1, 3).tolist() == [[RED]]


@pytest.mark.parametrize(
    ("mode", "colour", "channels", "expected"),
    [
        ("RGBA", (255, 0, 0, 255), 3, RED),
        ("RGBA", (255, 0, 0, 0), 3, WHITE),
        # 51 / 255 is a fifth: 255 * 0.2 + 255 * 0.8, and 0 * 0.2 + 255 * 0.8.
        ("RGBA", (255, 0, 0, 51), 3, [255, 204, 204]),
        ("LA", (0, 0), 1, 255),
        ("LA", (0, 51), 1, 204),
        ("L", 77, 1, 77),
    ],
)
def test_what_is_transparent_lies_on_white(tmp_path: Path, mode, colour, channels, expected):
    Image.new(mode, (3, 3), colour).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 2, channels)
    assert image.tolist() == [[expected] * 2] * 2


def test_a_transparent_colour_of_a_palette_lies_on_white(tmp_path: Path):
    palette = Image.new("RGB", (4, 4), (255, 0, 0)).convert("P")
    seen = 0
    for alpha, expected in ((255, RED), (0, WHITE)):
        index = palette.getpixel((0, 0))
        palette.save(tmp_path / "a.png", transparency=bytes([255] * index + [alpha]))
        assert read_image(tmp_path / "a.png", 1, 3).tolist() == [[expected]]
        seen += 1
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "b.png", transparency=(9, 9, 9))
    assert read_image(tmp_path / "b.png", 1, 3).tolist() == [[WHITE]]
    assert seen == 2


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_every_format_is_read(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix.upper()}"
    mode = "L" if suffix == ".pgm" else "RGB"
    Image.new(mode, (8, 8), 128 if mode == "L" else (128, 128, 128)).save(path, FORMATS[suffix])
    assert np.abs(read_image(path, 2, 3).astype(int) - 128).max() <= 2  # JPEG and WebP lose some.


def test_a_file_is_opened_as_what_its_suffix_says_and_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An EPS file would be given to Ghostscript, here a script that tells on itself."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
    refused = 0
    for suffix in FORMATS:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(eps)
        with pytest.raises(DataError, match=f"is not a readable {FORMATS[suffix]} image"):
            read_image(path, 4, 3)
        refused += 1
    assert refused == len(FORMATS) == 10
    (tmp_path / "b.eps").write_bytes(eps)
    with pytest.raises(OSError, match=r".*"), Image.open(tmp_path / "b.eps") as image:
        image.load()  # Pillow itself, asked to, does start it.
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png", "JPEG")
    with pytest.raises(DataError, match=r"c\.png: is not a readable PNG image"):
        read_image(tmp_path / "c.png", 4, 3)
    assert not (tmp_path / "ran").exists()


def test_an_image_of_more_pixels_than_a_photo_is_refused(tmp_path: Path, monkeypatch):
    sides = [(13_000, 13_000), (MAX_PIXELS + 1, 1), (60_000, 60_000)]
    for width, height in sides:
        (tmp_path / "a.png").write_bytes(png(width, height, 8, 0, b""))
        with refusing_bombs(), pytest.raises(DataError, match=r"has more than 89,478,485 pixels"):
            read_image(tmp_path / "a.png", 4, 1)
    assert len(sides) == 3
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    Image.new("L", (10, 10), 7).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 1, 1).tolist() == [[7]]
    Image.new("L", (101, 1), 7).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="has more than 100 pixels"):
        read_image(tmp_path / "a.png", 1, 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("grey.png", png(2, 2, 16, 0, bytes(2 * 5))),
        ("colour.png", png(2, 2, 16, 2, bytes(2 * 13))),
        ("grey.pgm", b"P5 2 2 65535\n" + bytes(8)),
        ("colour.ppm", b"P6 2 2 65535\n" + bytes(24)),
        ("floats.pgm", b"Pf 2 2\n-1.0\n" + bytes(16)),
    ],
)
def test_more_than_eight_bits_are_not_cut_off_silently(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: has mode .*; allowed are 8 bits per channel"):
        read_image(tmp_path / name, 2, 3)
