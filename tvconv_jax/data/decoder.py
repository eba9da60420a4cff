"""Encoded pictures to pixels. libjpeg-turbo through simplejpeg decodes JPEGs, Pillow what that refuses.

Both give the same bits; simplejpeg is the faster and lets other threads run meanwhile
(``python -m tvconv_jax.data speed``).
"""

import io

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps

HEADERS = 1 << 16  # bytes of a file in which its EXIF data begins
# What Pillow and simplejpeg raise for a picture that cannot be decoded.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def pixels(image: bytes, *, strict: bool = False) -> np.ndarray:
    """``uint8 [h, w, 3]``, RGB, from a JPEG or whatever else Pillow opens.

    Args:
        image: The file's bytes.
        strict: Whether a JPEG with damaged data in its middle, which decodes with smears, is refused too.

    Raises:
        One of ``DECODE_ERRORS``: If it is no picture, truncated, or larger than a picture can be.
    """
    if image[:2] == b"\xff\xd8":
        try:
            if simplejpeg.decode_jpeg_header(image)[2] not in ("CMYK", "YCCK"):
                return simplejpeg.decode_jpeg(image, "RGB")
        except ValueError:
            if strict:
                raise
            # Pillow is more lenient, and says better what is wrong
    with Image.open(io.BytesIO(image)) as picture:
        return _rgb(picture)


def check_mode(picture: Image.Image) -> None:
    """Raises a ``ValueError`` if a picture has numbers for pixels of which nobody knows how bright they are."""
    if picture.mode in ("I", "F"):
        raise ValueError(f"its pixels, of the mode {picture.mode}, do not say what is white; save it with 8 or 16 bits")


def _rgb(picture: Image.Image) -> np.ndarray:
    check_mode(picture)
    if not picture.mode.startswith("I;16"):
        return np.asarray(picture.convert("RGB"))
    grey = (np.asarray(picture, np.uint32) + 128) // 257  # Pillow would make white of all above 255
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def as_seen(image: bytes) -> np.ndarray:
    """As :func:`pixels`, but turned as the EXIF data says, as viewers and face detectors show the picture."""
    decoded = Image.fromarray(pixels(image))
    decoded.getexif()[ExifTags.Base.Orientation] = orientation(image)
    return np.asarray(ImageOps.exif_transpose(decoded))


def orientation(image: bytes) -> int:
    """How viewers turn a picture, by its EXIF data: 1 is not at all."""
    if b"exif" not in image[:HEADERS].lower():  # the most, and quickly told
        return 1
    with Image.open(io.BytesIO(image)) as picture:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)


def decode(image: bytes, side: int) -> np.ndarray:
    """``uint8 [side, side, 3]``, RGB; another size is resized (bilinear, antialiased).

    Raises:
        As :func:`pixels`.
    """
    decoded = pixels(image)
    if decoded.shape[:2] == (side, side):
        return decoded
    return np.asarray(Image.fromarray(decoded).resize((side, side), Image.Resampling.BILINEAR))
