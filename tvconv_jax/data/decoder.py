"""The one place in which image files are opened: encoded bytes in, RGB or mask values out.

Only :mod:`tvconv_jax.edge.predict` and :mod:`tvconv_jax.edge.verify`, which are copied alone, have readers of their
own; tests keep them equal.

libjpeg-turbo through simplejpeg decodes JPEGs, Pillow what that refuses. Both give the same bits; simplejpeg is the
faster and lets other threads run meanwhile (``python -m tvconv_jax.data speed``).

The formats are those of :data:`FORMATS`, recognized by a file's bytes and not by its name. Their decoders run no
program and read no other file. PostScript (Pillow starts Ghostscript for it), FlashPix, WMF and all others are refused.
So is an image of more pixels than :func:`max_pixels`, by its header, before memory is allocated for them.

The table of modes is the same for every task:

====================================  ================================================================================
8 bits gray, RGB, palette, CMYK       RGB, as Pillow's ``convert("RGB")``
1 bit                                 0 and 255
16 bits gray (PNG, TIFF, PGM)         ``round(value / 257)``, so that 65535 is white; both byte orders
16 bits a channel in color            the upper byte of each, as Pillow reads it
alpha, transparent palette colors     dropped, not composed: the colors below it stay
32 bits, float                        refused: nothing in the file defines which value is white
LAB and others                        refused
several frames (GIF, TIFF, PNG, MPO)  the first one; refused in a mask
EXIF orientation                      not applied (training, evaluation); applied by :func:`as_seen` (alignment). Pillow
                                      itself rotates a TIFF
truncated                             refused
damaged in the middle (JPEG)          decoded, with smears; refused if ``strict`` (``inspect``)
====================================  ================================================================================
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tvconv_jax.utils.signatures import describe
from tvconv_jax.utils.sizes import Size, height_width

try:
    import simplejpeg
except ModuleNotFoundError:  # as where only a benchmark runs; Pillow gives the same bits, more slowly
    simplejpeg = None

# What Pillow may open: decoders that work on the file's bytes alone. JPEG covers MPO, of several frames.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # that convert("RGB") accepts
MAX_PIXELS = 178_956_970  # half a gigabyte as RGB; Pillow's own limit by default
READING = "2"  # a part of cache keys: raise it when the accepted images or their decoded values change
HEADERS = 1 << 16  # bytes of a file in which its EXIF data begins
EIGHT_OF_SIXTEEN = ((np.arange(1 << 16) + 128) // 257).astype(np.uint8)  # Pillow would make white of all above 255
TRUNCATED = ("truncated", "premature end", "end of file", "eof", "not enough", "too short", "unexpected end")
KNOWN = tuple(f"a {kind} image" for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF"))  # as `describe` has it


class ImageError(OSError):
    """An error of decoding; its message is the cause in a few words ("it is truncated"), without the file's content."""


def pixels(image: bytes, *, strict: bool = False) -> np.ndarray:
    """Decode an image to ``uint8 [h, w, 3]``, RGB; the module's docstring has the table of formats and modes.

    Args:
        image: The file's bytes.
        strict: Whether a JPEG with damaged data in its middle, which decodes with smears, is refused too.

    Raises:
        ImageError: If it cannot be decoded.
    """
    if image[:2] == b"\xff\xd8" and simplejpeg:
        try:
            height, width, space, *_ = simplejpeg.decode_jpeg_header(image)
            _check_size(width, height)
            if space not in ("CMYK", "YCCK"):
                return simplejpeg.decode_jpeg(image, "RGB")
        except ImageError:
            raise
        except Exception as error:
            if strict:
                with opened(image):  # Pillow's error for a damaged header is the better one
                    raise ImageError(_cause(error, image)) from None
            # Pillow is more lenient, and has the better errors
    with opened(image) as file:
        return _rgb(file)


@contextmanager
def opened(image: bytes) -> Iterator[Image.Image]:
    """Open an image of a known format and an acceptable size with Pillow, not decoded yet.

    Any exception in the block becomes an :class:`ImageError`.
    """
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as file:
            _check_size(*file.size)
            yield file
    except ImageError:
        raise
    # Pillow's plugins raise whatever their parsing meets: struct.error, IndexError, zlib.error, KeyError,
    # MemoryError, a DecompressionBombWarning where warnings are errors, ... No list of them is complete.
    except Exception as error:
        raise ImageError(_cause(error, image)) from None


def read_image(path: Path) -> bytes:
    """Read an image file's bytes, or raise an :class:`ImageError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"it cannot be opened: {error.strerror}") from None


def max_pixels() -> int:
    """Return the pixels of the largest image that is decoded: :data:`MAX_PIXELS`, or Pillow's limit if lower."""
    return min(MAX_PIXELS, 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS))


def size(image: bytes) -> tuple[int, int]:
    """Read height and width from an image's header, or raise an :class:`ImageError`."""
    with opened(image) as file:
        return file.height, file.width


def mode(image: bytes) -> str:
    """Read an image's mode, as Pillow names it, from its header, or raise an :class:`ImageError`."""
    with opened(image) as file:
        return file.mode


def gray(image: bytes) -> np.ndarray:
    """Decode an image whose channels are all equal, such as a mask, to its values as they are stored.

    Returns:
        ``[h, w]``: ``uint16`` where the file holds 16 bits of gray, ``uint8`` otherwise.

    Raises:
        ImageError: If it cannot be decoded, is in color, was saved with loss or holds several frames.
    """
    with opened(image) as file:
        _check_mask(file)
        if _is_16_bit(file):
            return np.asarray(file).astype(np.uint16)
        if file.mode in ("1", "L", "LA"):
            return np.asarray(file.convert("L"))
        rgb = _rgb(file)
    if np.any(rgb != rgb[..., :1]):
        raise ImageError("its channels or the colors of its palette differ; save it without loss in gray, as PNG")
    return rgb[..., 0]


class MaskPixels(NamedTuple):
    """The pixels of a mask as they are stored; of two arrays ``int32 [h, w]`` one may be missing."""

    values: np.ndarray | None  # in gray, or numbers of the palette; None in color
    colors: np.ndarray | None  # 0xRRGGBB; None for gray of 16 bits
    palette: bool  # whether the values are numbers of a palette


def mask_pixels(image: bytes, *, strict: bool = True) -> MaskPixels:
    """Decode a mask of any number of classes: gray of 8 or 16 bits, a palette, or colors; alpha is dropped.

    Raises:
        ImageError: If it cannot be decoded; if ``strict``, also if it was saved with loss or holds several frames.
    """
    with opened(image) as file:
        if strict:
            _check_mask(file)
        if _is_16_bit(file):
            return MaskPixels(np.asarray(file).astype(np.int32), None, palette=False)
        if file.mode in ("1", "L", "LA"):
            values = np.asarray(file.convert("L")).astype(np.int32)
            return MaskPixels(values, values * 0x010101, palette=False)
        numbers = np.asarray(file).astype(np.int32) if file.mode == "P" else None
        rgb = _rgb(file).astype(np.int32)
    colors = rgb @ np.array((1 << 16, 1 << 8, 1), np.int32)
    if numbers is None and np.all(rgb == rgb[..., :1]):
        return MaskPixels(rgb[..., 0], colors, palette=False)
    return MaskPixels(numbers, colors, palette=numbers is not None)


def _check_mask(file: Image.Image) -> None:
    if file.format in ("JPEG", "MPO"):
        raise ImageError("it is a JPEG image, which does not keep values exactly; save it without loss, as PNG")
    if getattr(file, "is_animated", False):
        raise ImageError("it holds several frames; save one image")


def as_seen(image: bytes) -> np.ndarray:
    """Decode an image as :func:`pixels`, then rotate it by its EXIF data, as viewers and face detectors do."""
    decoded = Image.fromarray(pixels(image))
    decoded.getexif()[ExifTags.Base.Orientation] = orientation(image)
    return np.asarray(ImageOps.exif_transpose(decoded))


def orientation(image: bytes) -> int:
    """Return the EXIF orientation, 1 to 8: 1 is upright, also if that data is damaged."""
    if b"exif" not in image[:HEADERS].lower():  # most images, and quick
        return 1
    try:
        with opened(image) as file:
            value = 1 if file.format == "TIFF" else file.getexif().get(ExifTags.Base.Orientation, 1)
    except ImageError:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def decode(image: bytes, image_size: Size) -> np.ndarray:
    """Decode an image as :func:`pixels`, and resize it to ``[h, w, 3]`` of that size (bilinear, antialiased)."""
    return resize(pixels(image), image_size, Image.Resampling.BILINEAR)


def resize(image: np.ndarray, image_size: Size, resample: Image.Resampling) -> np.ndarray:
    """Resize ``uint8 [h, w]`` or ``[h, w, 3]`` to a size, unless it has it."""
    height, width = height_width(image_size)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


def encode(image: np.ndarray, form: str, **options: Any) -> bytes:
    """Encode ``uint8 [h, w]`` or ``[h, w, 3]`` as a file of a Pillow format, such as ``"PNG"``, with its options."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode ``uint8 [h, w, 3]``, RGB, as a JPEG of quality 96 whose colors have the full resolution."""
    if simplejpeg is None:
        return encode(image, "JPEG", quality=96, subsampling=0)
    return simplejpeg.encode_jpeg(image, 96, "RGB", "444")  # from this quality on the same bytes, in 40 % of the time


def _rgb(file: Image.Image) -> np.ndarray:
    if _is_16_bit(file):
        return np.repeat(EIGHT_OF_SIXTEEN[np.asarray(file).astype(np.uint16)][..., None], 3, axis=-1)
    if file.mode not in MODES:
        error = "do not define which value is white" if file.mode in ("I", "F") else "are not RGB or gray"
        raise ImageError(f"its pixels, of the mode {file.mode}, {error}; save it with 8 or 16 bits")
    file.load()  # sets the transparent color of some formats
    file.info.pop("transparency", None)  # dropped; Pillow would warn of it
    return np.asarray(file.convert("RGB"))


def _is_16_bit(file: Image.Image) -> bool:
    return file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PPM")  # PGM of more than 8 bits


def _check_size(width: int, height: int) -> None:
    if width * height > max_pixels():
        raise ImageError(_cause(Image.DecompressionBombError(), b""))


def _cause(error: Exception, image: bytes) -> str:
    """Return the cause of a decoding error in fixed words: a decoder's own message may quote the file."""
    text = str(error).lower()
    if isinstance(error, UnidentifiedImageError):
        return _foreign(image)
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"it has more than {max_pixels():,} pixels, the most that are decoded; make it smaller"
    if isinstance(error, MemoryError):
        return "there is not enough memory for its pixels"
    if "decompressed data too large" in text or "max_text" in text:
        return "its text or color profile unpacks to far more than an image needs; save it without metadata"
    if isinstance(error, EOFError) or any(word in text for word in TRUNCATED):
        return "it is truncated"
    return "its data is damaged"


def _foreign(image: bytes) -> str:
    """Describe bytes that are not an image of a known format, or a damaged one of these."""
    name = describe(image) or "not an image"
    if name in KNOWN or (image[:4] == b"RIFF" and image[8:12] == b"WEBP"):
        return f"it begins as {name} and is damaged or truncated"
    return f"it is {name}; images are JPEG, PNG, BMP, WebP, TIFF, GIF and PPM"
