"""One way to open images: formats, modes, limits, and errors that are short and quote nothing."""

import ast
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from folders import encoded, touch
from PIL import Image

import tvconv_jax
from tvconv_jax.data import decoder
from tvconv_jax.data.decoder import ImageError, gray, opened, orientation, pixels, read_image, size
from tvconv_jax.data.formats.bin_file import BinFaces, write_bin
from tvconv_jax.data.formats.record_faces import RecordFaces, write_faces
from tvconv_jax.data.pipeline import eval_batches
from tvconv_jax.data.tools.image_stats import measure
from tvconv_jax.data.tools.inspection import inspect
from tvconv_jax.report.others import _outlines
from tvconv_jax.utils.errors import UserError

SMOOTH = np.add.outer(np.arange(0, 192, 8), np.arange(0, 48, 2))[..., None] + np.array([0, 10, 15])
COLOR = Image.fromarray(SMOOTH.astype(np.uint8))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n%%EndComments\nshowpage\n%%EOF\n"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(kind, data):
    """A PNG with one more chunk behind its header."""
    whole = encoded(COLOR, "PNG")
    return whole[:33] + chunk(kind, data) + whole[33:]


def enlarged(width, height):
    """A JPEG whose header names another size."""
    image = bytearray(encoded(COLOR, "JPEG"))
    at = image.index(b"\xff\xc0") + 5
    image[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(image)


IMAGES = ("Image", "PIL", "image", "plt")  # whose `open` and `imread` decode files


def test_no_other_file_of_the_package_opens_images():
    """``edge/predict.py`` and ``edge/verify.py`` are for devices without the package; tests hold them to the pixels."""
    others = []
    for path in Path(tvconv_jax.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            opens = isinstance(node, ast.Attribute) and node.attr in ("open", "imread") and _root(node) in IMAGES
            imported = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            imported |= {node.module} if isinstance(node, ast.ImportFrom) else set()
            if opens or imported & {"simplejpeg", "cv2", "imageio", "PIL.Image"}:
                others.append(path.name)
    assert set(others) == {"decoder.py", "predict.py", "verify.py"}


def _root(node):
    while isinstance(node, ast.Attribute):
        node = node.value
    return getattr(node, "id", "")


def test_a_jpeg_has_the_bytes_that_pillow_writes(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (33, 20, 3), np.uint8)
    fast = decoder.encode_jpeg(image)
    monkeypatch.setattr(decoder, "simplejpeg", None)
    assert fast == decoder.encode_jpeg(image)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM", "WEBP"])
def test_every_lossless_format_gives_the_same_pixels(kind):
    image = COLOR.quantize(16) if kind == "GIF" else COLOR
    decoded = pixels(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_a_jpeg_of_several_frames_is_its_first():
    first = encoded(COLOR, "JPEG")
    several = encoded(COLOR, "MPO", save_all=True, append_images=[COLOR.rotate(90)])
    np.testing.assert_array_equal(pixels(several), pixels(first))
    with opened(several) as picture:
        assert picture.format == "MPO"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_of_several_frames_is_taken_and_no_mask_has_several(kind):
    frames = [Image.new("RGB", (24, 24), (value, value, value)) for value in (0, 255)]
    several = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert not pixels(several).any()
    with pytest.raises(ImageError, match="it holds several frames"):
        gray(several)


def test_alpha_and_transparent_colors_are_dropped_without_a_warning(recwarn):
    alpha = Image.fromarray(np.zeros((24, 24), np.uint8))
    for mode in ("RGB", "L"):
        image = COLOR.convert(mode)
        expected = np.asarray(image.convert("RGB"))
        image.putalpha(alpha)
        np.testing.assert_array_equal(pixels(encoded(image, "PNG")), expected)
    palette = COLOR.quantize(16)
    transparent = encoded(palette, "PNG", transparency=bytes(16))
    np.testing.assert_array_equal(pixels(transparent), np.asarray(palette.convert("RGB")))
    assert not recwarn.list


def test_sixteen_bits_are_scaled_in_every_format_and_one_bit_is_black_and_white():
    wide = np.arange(24 * 24, dtype=np.uint16).reshape(24, 24) * 113
    for image, kind in ((wide, "PNG"), (wide, "PPM"), (wide.astype("<u2"), "TIFF"), (wide.astype(">u2"), "TIFF")):
        file = encoded(image, kind)
        np.testing.assert_array_equal(pixels(file)[..., 1], np.round(wide / 257))
        np.testing.assert_array_equal(gray(file), wide)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.repeat(wide[..., None], 3, -1))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 24, 16, 2, 0, 0, 0))
    color = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(pixels(color)[..., 2], wide >> 8)  # as Pillow reads it
    assert set(np.unique(pixels(encoded(COLOR.convert("1"), "PNG")))) == {0, 255}


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (EPS, "a PostScript program"),
        (b"\xc5\xd0\xd3\xc6" + bytes(28) + EPS, "a PostScript program"),  # with a preview
        (encoded(COLOR, "PDF"), "a PDF document"),
        (b"\xd7\xcd\xc6\x9a" + bytes(60), "a Windows metafile"),
        (OLE + bytes(600), "an OLE file"),  # FlashPix
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\0\5\x16\7" + bytes(100), "an AppleDouble file"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "a HEIC image"),
        (encoded(COLOR, "JPEG2000"), "a JPEG 2000 image"),
        ("une image à télécharger\n".encode(), "it is a text file"),
        (b"", "an empty file"),
        (bytes(600), "a file of zeros"),
        (encoded(COLOR, "TGA"), "it is not an image"),
        (encoded(COLOR, "JPEG")[:20], "begins as a JPEG image and is damaged or truncated"),
        (encoded(COLOR, "JPEG")[:-100], "it is truncated"),
        (encoded(NOISE, "PNG")[:900], "it is truncated"),
        (encoded(COLOR, "TIFF", compression="tiff_lzw")[:300], "damaged|truncated"),
        (png_with(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 26))), "unpacks to far more than an image needs"),
        (png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26))), "unpacks to far more than an image needs"),
        (encoded(COLOR.convert("F"), "TIFF"), "the mode F, do not define which value is white"),
        (encoded(COLOR.convert("I"), "TIFF"), "the mode I, do not define which value is white"),
        (encoded(Image.new("LAB", (9, 9)), "TIFF"), "the mode LAB, are not RGB or gray"),
    ],
    ids=range(23),
)
def test_what_is_not_an_image_is_called_what_it_is_and_runs_nothing(image, words, tmp_path, monkeypatch):
    tells, log = tmp_path / "gs", tmp_path / "log"
    tells.write_text(f'#!/bin/sh\necho "$*" >> "{log}"\necho 10.0\n')
    tells.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for read in (pixels, gray, decoder.as_seen):
        with pytest.raises(ImageError, match=words) as error:
            read(image)
        said = str(error.value)
        assert said.isascii() and len(said) < 160 and not any(mark in said for mark in ("b'", "<_io", "0x", "\\", "\n"))
    assert not log.exists()


@pytest.mark.parametrize(
    "error", [struct.error, IndexError, KeyError, zlib.error, EOFError, MemoryError, OverflowError]
)
def test_whatever_a_decoder_raises_is_one_error(monkeypatch, error):
    def fails(*_, **__):
        raise error(b"\0secret")

    monkeypatch.setattr(Image, "open", fails)
    for read in (pixels, gray, size, lambda image: pixels(b"\xff\xd8" + image, strict=True)):
        with pytest.raises(ImageError) as raised:
            read(b"secret")
        assert "secret" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what it reads past
def test_damaged_files_raise_nothing_else():
    random = np.random.default_rng(0)
    wholes = [encoded(COLOR, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM", "TIFF")]
    for _ in range(700):
        image = bytearray(wholes[random.integers(len(wholes))])
        for _ in range(random.integers(1, 6)):
            image[random.integers(min(len(image), 200))] = random.choice([0, 1, 127, 255])
        for read in (pixels, gray, size):
            try:
                read(bytes(image))
            except ImageError:
                pass
        assert 1 <= orientation(b"exif" + bytes(image)) <= 8


def test_damaged_exif_data_turns_nothing():
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(COLOR, "JPEG", exif=exif)
    assert orientation(whole) == 6 and decoder.as_seen(whole).shape == pixels(whole).shape
    assert orientation(whole.replace(b"MM\0*", b"MM\0\0")) == 1
    exif[0x0112] = 77
    assert orientation(encoded(COLOR, "JPEG", exif=exif)) == 1


def test_too_many_pixels_are_refused_by_the_header_in_every_set(tmp_path):
    huge = enlarged(20_000, 20_000)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    bomb += chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
    for image in (huge, enlarged(65_500, 65_500), bomb):
        for read in (pixels, size if image is bomb else pixels):
            with pytest.raises(ImageError, match="it has more than 178,956,970 pixels"):
                read(image)
    write_faces(tmp_path / "train.rec", [{"image": huge, "label": i // 2, "name": ""} for i in range(4)])
    write_bin(tmp_path / "lfw.bin", [huge] * 20, [True] * 10)
    for source in (RecordFaces(tmp_path / "train.rec"), BinFaces(tmp_path / "lfw.bin")):
        with pytest.raises(UserError, match="cannot be decoded .it has more than 178,956,970 pixels"):
            next(eval_batches(source, batch_size=2, image_size=24))
    assert "lfw.bin:0 (it has more than" in inspect(str(tmp_path / "lfw.bin"))


def test_a_file_that_cannot_be_opened_is_an_unreadable_image(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    for name, words in (("folder.jpg", "it cannot be opened: Is a directory"), ("link.jpg", "No such file")):
        with pytest.raises(ImageError, match=words):
            read_image(tmp_path / name)


def test_inspect_tells_why_an_image_cannot_be_read(tmp_path):
    for index in range(8):
        content = EPS if index == 3 else encoded(COLOR, "JPEG")
        touch(tmp_path / "train" / f"p{index // 2}" / f"{index}.jpg", content)
    assert "p1/3.jpg (it is a PostScript program)" in inspect(str(tmp_path))


@pytest.mark.filterwarnings("error")
def test_one_pixel_is_looked_at_without_a_warning():
    assert measure(encoded(Image.new("RGB", (1, 1), (90, 60, 30)), "PNG")).warmth == 1


def test_a_report_goes_without_outlines_that_cannot_be_read(tmp_path):
    (tmp_path / "pictures.png").write_bytes(EPS)
    assert _outlines(tmp_path, True) == []
    COLOR.save(tmp_path / "pictures.png")
    assert len(_outlines(tmp_path, True)) == 1
