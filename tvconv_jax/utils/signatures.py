"""Names for what a file is by its first bytes, so that an error can call a mistaken file what it is."""

import codecs
from pathlib import Path

UTF_16, PICKLE, TEXT = "a text file in UTF-16", "a pickle of Python", "a text file"
POINTER = "a Git LFS pointer (fetch the file itself with `git lfs pull`)"
PAGE = "an HTML page (a download that did not succeed, as a rule)"
LFS = b"version https://git-lfs.github.com/spec/"
# First bytes, longest first where one begins another, and the noun phrase that an error uses for the file.
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (LFS, POINTER),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"RIFF", "a RIFF file (WebP, WAV or AVI)"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE file (FlashPix, or an old office document)"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (b"8BPS", "a Photoshop document"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript program"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript program"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"\x7fELF", "a program (ELF)"),
    (b"\0\5\x16\7", "an AppleDouble file that macOS left beside another one"),
    (b"\0\5\x16\0", "an AppleSingle file"),
    (b"\x0a\x23\xd7\xce", "a RecordIO file (.rec)"),
    (b"{\\rtf", "a rich text document"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"PK\x07\x08", "a part of a split ZIP archive"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x04\x22\x4d\x18", "an LZ4 archive"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 file"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"\xca\xfe\xba\xbe", "a program (Java or macOS)"),
    (b"\xcf\xfa\xed\xfe", "a program (macOS)"),
    (b"MZ\x90\0", "a program (Windows)"),
    (b"#!", "a script"),
    (b"riegeli\0", "an array record file of TFDS"),
)
LATER = ((4, b"TFL3", "a TensorFlow Lite model"), (257, b"ustar", "a tar archive"))  # by the place of the bytes
# ISO media files by the brand that follows `ftyp`; iPhones make HEIC, and renaming one to .jpg does not convert it.
MEDIA = dict.fromkeys((b"heic", b"heix", b"mif1", b"msf1", b"hevc"), "a HEIC image (convert it to JPEG or PNG)") | {
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
}
ZIP = b"PK\x03\x04"
TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that opens a torch.save file of before 1.6


def describe(data: bytes) -> str | None:
    """Name what a file is by its first 512 bytes, as in ``"an HTML page"``; ``None`` if they are of no known kind."""
    if not data:
        return "an empty file"
    for start, name in SIGNATURES:
        if data.startswith(start):
            return name
    if data.startswith(ZIP):
        return _describe_zip(data)
    if data[4:8] == b"ftyp":
        return MEDIA.get(data[8:12], "a video")
    if TORCH_MAGIC in data[:32]:
        return "a file that torch.save wrote (before PyTorch 1.6)"
    for at, mark, name in LATER:
        if data[at : at + len(mark)] == mark:
            return name
    if data[:1] == b"\x80" and data[1:2] <= b"\5":
        return PICKLE
    if data[8:10] == b'{"' and int.from_bytes(data[:8], "little") < 2**40:
        return "a safetensors file"
    return _describe_text(data) or ("a file of zeros" if not any(data[:512]) else None)


def describe_instead_of_text(data: bytes) -> str | None:
    """Name what a file is that should be lines of text, as :func:`describe`; ``None`` too if it can be a list.

    A name in a list may begin as another format does: ``BM`` is a bitmap only where no text follows.
    """
    what = describe(data)
    if what is None or not data or what == UTF_16:
        return None
    return what if not _is_text(data) or what in (POINTER, PAGE) else None


def describe_file(path: str | Path) -> str | None:
    """Name what a file is, as :func:`describe`; ``None`` too if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return describe(file.read(512))
    except OSError:
        return None


def _describe_text(data: bytes) -> str | None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return UTF_16
    text = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return PAGE
    if text.startswith((b"<?xml", b"<svg")):
        return "an XML document"
    if text.startswith((b"<error", b'{"error', b'{"message')):
        return "an error message of a server"
    if text.startswith((b"{", b"[")) and _is_text(data):
        return "a JSON file"
    return TEXT if _is_text(data) else None


def _is_text(data: bytes) -> bool:
    """Whether it reads as ASCII or UTF-8, but for a letter that is cut off at the end."""
    head = data[:512]
    if any(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _describe_zip(data: bytes) -> str:
    head = data[:512]
    if b"data.pkl" in head or b"/byteorder" in head or b".data/serialization_id" in head:
        return "a file that torch.save wrote"
    if b".npy" in head[:128]:
        return "a NumPy archive (.npz)"
    if b"[Content_Types].xml" in head or b"mimetype" in head[:64]:
        return "an office document"
    return "a ZIP archive"
