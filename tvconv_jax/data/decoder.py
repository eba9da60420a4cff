"""The one place in which image files are opened: encoded bytes in, RGB or mask values out.

libjpeg-turbo through simplejpeg decodes JPEGs, Pillow what that refuses. Both give the same bits; simplejpeg is the
faster and lets other threads run meanwhile (``python -m tvconv_jax.data speed``).

The formats are those of :data:`FORMATS`, told by a file's bytes and not by its name. Their decoders run no program and
read no other file. PostScript (Pillow starts Ghostscript for it), FlashPix, WMF and all others are refused. So is an
image of more pixels than :func:`max_pixels`, by its header, before memory is taken for them.

How each mode is read, for every task alike:

====================================  ================================================================================
8 bits gray, RGB, palette, CMYK       RGB, as Pillow's ``convert("RGB")``
1 bit                                 0 and 255
16 bits gray (PNG, TIFF, PGM)         ``round(value / 257)``, so that 65535 is white; both byte orders
16 bits a channel in color            the upper byte of each, as Pillow reads it
alpha, transparent palette colors     dropped, not composed: the colors below it stay
32 bits, float                        refused: nothing in the file says which value is white
LAB and others                        refused
several frames (GIF, TIFF, PNG, MPO)  the first one; refused in a mask
EXIF orientation                      not applied (training, evaluation); applied by :func:`as_seen` (alignment). Pillow
                                      itself turns a TIFF
truncated                             refused
damaged in the middle (JPEG)          decoded, with smears; refused if ``strict`` (``inspect``)
====================================  ================================================================================
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tvconv_jax.utils.signatures import describe

# What Pillow may open: decoders that work on the file's bytes alone. JPEG covers MPO, of several frames.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
LOSSY = ("JPEG", "MPO")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # that convert("RGB") knows
MAX_PIXELS = 178_956_970  # half a gigabyte as RGB; Pillow's own limit unless somebody changes that
READING = "2"  # a part of the keys of caches: raise it when other images are accepted, or read otherwise
HEADERS = 1 << 16  # bytes of a file in which its EXIF data begins
EIGHT_OF_SIXTEEN = ((np.arange(1 << 16) + 128) // 257).astype(np.uint8)  # Pillow would make white of all above 255
TRUNCATED = ("truncated", "premature end", "end of file", "eof", "not enough", "too short", "unexpected end")
NAMES = ("JPEG", "PNG", "GIF", "BMP", "TIFF")  # of the formats above, as `describe` says "a PNG image"


class ImageError(OSError):
    """An image that cannot be decoded, for whatever reason.

    Its message is the cause in a few words ("it is truncated") and holds nothing of the file's content.
    """


def pixels(image: bytes, *, strict: bool = False) -> np.ndarray:
    """Decode an image to ``uint8 [h, w, 3]``, RGB; the module's docstring has the table of formats and modes.

    Args:
        image: The file's bytes.
        strict: Whether a JPEG with damaged data in its middle, which decodes with smears, is refused too.

    Raises:
        ImageError: If it cannot be decoded.
    """
    if image[:2] == b"\xff\xd8":
        try:
            height, width, space, *_ = simplejpeg.decode_jpeg_header(image)
            _check_size(width, height)
            if space not in ("CMYK", "YCCK"):
                return simplejpeg.decode_jpeg(image, "RGB")
        except ImageError:
            raise
        except Exception as error:
            if strict:
                with opened(image):  # which says better what is wrong with a header
                    raise ImageError(_cause(error, image)) from None
            # Pillow is more lenient, and says better what is wrong
    with opened(image) as picture:
        return _rgb(picture)


@contextmanager
def opened(image: bytes) -> Iterator[Image.Image]:
    """Open an image with Pillow; whatever goes wrong in the block is an :class:`ImageError`.

    Args:
        image: The file's bytes.

    Yields:
        The image, of a known format and an acceptable size, not decoded yet.
    """
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
            _check_size(*picture.size)
            yield picture
    except ImageError:
        raise
    # Pillow's plugins raise what their parsing happens to meet: struct.error, IndexError, zlib.error, KeyError,
    # MemoryError, a DecompressionBombWarning where warnings are errors, ... No list of them is complete.
    except Exception as error:
        raise ImageError(_cause(error, image)) from None


def read_image(path: Path) -> bytes:
    """Read an image file's bytes.

    Raises:
        ImageError: If the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"it cannot be opened: {error.strerror}") from None


def max_pixels() -> int:
    """Count the pixels of the largest image that is decoded: :data:`MAX_PIXELS`, or Pillow's limit if lower."""
    return min(MAX_PIXELS, 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS))


def size(image: bytes) -> tuple[int, int]:
    """Read height and width from an image's header.

    Raises:
        ImageError: If it has none.
    """
    with opened(image) as picture:
        return picture.height, picture.width


def gray(image: bytes) -> np.ndarray:
    """Decode an image whose channels are all equal, such as a mask, to its values as they are stored.

    Args:
        image: The file's bytes.

    Returns:
        ``[h, w]``: ``uint16`` where the file holds 16 bits of gray, ``uint8`` otherwise.

    Raises:
        ImageError: If it cannot be decoded, is in color, was saved with loss or holds several frames.
    """
    with opened(image) as picture:
        if picture.format in LOSSY:
            raise ImageError("it is a JPEG image, which does not keep values exactly; save it without loss, as PNG")
        if getattr(picture, "is_animated", False):
            raise ImageError("it holds several frames; save one image")
        if _is_16_bit(picture):
            return np.asarray(picture).astype(np.uint16)
        if picture.mode in ("1", "L", "LA"):
            return np.asarray(picture.convert("L"))
        rgb = _rgb(picture)
    if np.any(rgb != rgb[..., :1]):
        raise ImageError("its channels or the colors of its palette differ; save it without loss in gray, as PNG")
    return rgb[..., 0]


def as_seen(image: bytes) -> np.ndarray:
    """As :func:`pixels`, but turned as the EXIF data says, as viewers and face detectors show the picture."""
    decoded = Image.fromarray(pixels(image))
    decoded.getexif()[ExifTags.Base.Orientation] = orientation(image)
    return np.asarray(ImageOps.exif_transpose(decoded))


def orientation(image: bytes) -> int:
    """How viewers turn a picture, by its EXIF data: 1 is not at all, as where that data is damaged."""
    if b"exif" not in image[:HEADERS].lower():  # the most, and quickly told
        return 1
    try:
        with opened(image) as picture:
            value = 1 if picture.format == "TIFF" else picture.getexif().get(ExifTags.Base.Orientation, 1)
    except ImageError:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def decode(image: bytes, side: int) -> np.ndarray:
    """``uint8 [side, side, 3]``, RGB; another size is resized (bilinear, antialiased).

    Raises:
        As :func:`pixels`.
    """
    decoded = pixels(image)
    if decoded.shape[:2] == (side, side):
        return decoded
    return np.asarray(Image.fromarray(decoded).resize((side, side), Image.Resampling.BILINEAR))


def _rgb(picture: Image.Image) -> np.ndarray:
    if _is_16_bit(picture):
        return np.repeat(EIGHT_OF_SIXTEEN[np.asarray(picture).astype(np.uint16)][..., None], 3, axis=-1)
    if picture.mode not in MODES:
        what = "do not say what is white" if picture.mode in ("I", "F") else "are not RGB or gray"
        raise ImageError(f"its pixels, of the mode {picture.mode}, {what}; save it with 8 or 16 bits")
    picture.load()  # which sets the transparent color of some formats
    picture.info.pop("transparency", None)  # dropped; Pillow would warn of it
    return np.asarray(picture.convert("RGB"))


def _is_16_bit(picture: Image.Image) -> bool:
    """Whether the pixels are 16 bits of gray; Pillow brings PGM files of more than 8 bits to these."""
    return picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM")


def _check_size(width: int, height: int) -> None:
    if width * height > max_pixels():
        raise ImageError(_too_large())


def _too_large() -> str:
    return f"it has more than {max_pixels():,} pixels, the most that are decoded; make it smaller"


def _cause(error: Exception, image: bytes) -> str:
    """Say why an image cannot be decoded, in words of ours: those of the decoders may quote the file."""
    text = str(error).lower()
    if isinstance(error, UnidentifiedImageError):
        return _foreign(image)
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return _too_large()
    if isinstance(error, MemoryError):
        return "there is not enough memory for its pixels"
    if "decompressed data too large" in text or "max_text" in text:
        return "its text or color profile unpacks to far more than an image needs; save it without metadata"
    if isinstance(error, EOFError) or any(word in text for word in TRUNCATED):
        return "it is truncated"
    return "its data is damaged"


def _foreign(image: bytes) -> str:
    """Name bytes that are not an image of a known format, or a damaged one of these."""
    name = describe(image) or "not an image"
    known = any(name == f"a {kind} image" for kind in NAMES) or (image[:4] == b"RIFF" and image[8:12] == b"WEBP")
    kinds = "JPEG, PNG, BMP, WebP, TIFF, GIF and PPM"
    return f"it begins as {name} and is damaged or truncated" if known else f"it is {name}; images are {kinds}"
