"""Same or different: two photographs of faces, compared by an exported model. Copy this one file.

    python verify.py ARTIFACT one.jpg other.jpg                        faces found, aligned and compared
    python verify.py ARTIFACT one.jpg other.jpg --landmarks=list.txt   aligned by five landmarks of your own
    python -m tvconv_jax.verify ARTIFACT one.jpg other.jpg             the same, where tvconv_jax is installed

It needs Python 3.9, NumPy, Pillow and a runtime. An ARTIFACT was written by ``python -m tvconv_jax.export``: a
``.onnx`` (onnxruntime), a ``.safetensors`` with ``native.py`` and ``native.cpp`` beside it (native: a C++ compiler
instead of a runtime), or the folder of these files. The package ``mtcnn-runtime`` finds the faces, if it is installed.

``native.py`` and ``native.cpp`` are code. They run only if an exporter wrote them, byte for byte; ``--run-code`` says
that you trust anything else.

Exit codes: 0 same, 1 different, 2 a mistake (nothing was compared), 3 the model has no threshold (the score is
printed), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 9):  # noqa: UP036, the device's Python is older than the package's
    print("error: this needs Python 3.9 or later, and is run by " + sys.version.split()[0], file=sys.stderr)
    sys.exit(2)  # 1 means "different"

import argparse
import hashlib
import importlib
import importlib.util
import io
import json
import math
import mmap
import os
import shlex
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

try:
    import numpy as np
    from PIL import Image
except ImportError as error:
    if __name__ != "__main__":
        raise
    print(f"error: {error}: pip install numpy pillow", file=sys.stderr)
    sys.exit(2)

# Left eye, right eye (as seen in the image), nose tip, left and right corner of the mouth: x, y in pixels of a
# 112x112 image. Source: deepinsight/insightface, python-package/insightface/utils/face_align.py, arcface_dst.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE_SIZE = 112
MAX_DISTANCE, MIN_SPREAD = 1e6, 1e-3  # pixels: landmarks far outside of an image, and all at one place
MIN_FACE = 4.0  # pixels between the outer landmarks; shares of an image lie closer
# Pixels of the template. Alignment would move an aligned face by less than MAX_SHIFT: at most 4.3 on 200 faces of LFW
# that were aligned by other landmarks. Five landmarks in a wrong order miss the template by 13 or more.
MAX_SHIFT, MAX_RESIDUAL = 5.0, 12.0
# As tvconv_jax.data.decoder has them, which reads the images of a training.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
MAX_PIXELS = 178_956_970
HEADERS = 1 << 16  # bytes of a file in which its EXIF data begins
ORIENTATION = 0x0112  # of EXIF
TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
DETECTED_SIDE = 800  # pixels; larger photographs are scaled down before faces are searched
THRESHOLDS = [0.6, 0.7, 0.7]  # of the detector's three networks. Source: Zhang et al. 2016, the authors' code
SURE = 0.9  # score; less certain faces count only if there is none above
# Of the largest face's size: smaller ones are background; from EQUAL on it is unclear who is meant.
SMALL, EQUAL = 0.5, 0.8
# Degrees, share of the box in the image, and of the image in the box: beyond them landmarks are often wrong.
MAX_ANGLE, MIN_INSIDE, MAX_FILLED = 25, 0.85, 0.6
ELSEWHERE = 0.25  # of a face's size: landmarks that are given lie at another place
PI_HINT = "on a Raspberry Pi 4 onnxruntime==1.20.1, because 1.21.0 dies of an illegal instruction there"
INSTALL = "pip install mtcnn-runtime"
SAME, DIFFERENT, MISTAKE, NO_THRESHOLD = range(4)  # exit codes
# SHA-256 of the code that exporters wrote beside artifacts, as in benchmark.py.
KNOWN_CODE = {
    "native.py": (
        "bc1d3705e3aba5cc104695f0a5df054ca5a3b71ea63a926542f27effd49f539b",
        "6706bccad2deea6167174a0de75bb8fc10f0b191a7960cc4866681ad8a1fdbfe",
        "3054c27ad75d3bba87c6aba5c655ceee3d9befb052a44bbe00d26e4cba70dd72",
        "2978d782f2596655600de2dacdc3cf5c1800c2073be81fa34d7781df349188b2",
        "8634433d92d278323da269cfbdacb71087380918cb187456ff4a49f36b7d18bb",
        "b5b4ce59742d3462a5354d76d43cfa7111e332efe859a55555e560bd4816962a",
        "bee6dfd55fbd80abbc5f41f4715bfd0e21004318e906d847f24f965305b70a0f",
    ),
    "native.cpp": (
        "0ac4d3b47e57c700879e463f0bb26168bdecd27b74d52073850b6d91c61033bc",
        "cc5cec6794363196eaa9e21144ee39fa7fdabd151164e5ab9ad553eabdb469d6",
        "f8d9d9d008d9fb37c03cd303c88b9fbf8c29e26d593377bb2252401f93fd5eff",
    ),
}
# Paths of these files in a checkout, below export/.
PACKAGED = {"native.py": "native/native.py", "native.cpp": "native/native.cpp"}


class Mistake(Exception):
    """One line for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the similarity transform (rotation, scale, translation; no mirroring) that fits points to a target.

    Both are ``[n, 2]``, the result is ``float64 [2, 3]``: ``target ~ m[:, :2] @ point + m[:, 2]``, least squares. A
    ``ValueError`` is raised if all points are the same.

    Source: the closed form for the plane, with points as complex numbers. ``scale * e^(i angle)`` is the regression
    coefficient of the centered target on the centered points. It equals Umeyama (1991) without mirroring.
    """
    z, w = (array[:, 0] + 1j * array[:, 1] for array in (np.asarray(points, float), np.asarray(target, float)))
    centered = z - z.mean()
    spread = np.vdot(centered, centered).real
    if not spread > 0:
        raise ValueError("all points are the same")
    a = np.vdot(centered, w - w.mean()) / spread
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align_face(image: np.ndarray, points: np.ndarray, size: int = TEMPLATE_SIZE) -> np.ndarray:
    """Return an aligned face ``uint8 [size, size, 3]``, bicubic, black outside of the image ``uint8 [h, w, 3]``.

    The points ``[5, 2]``, x and y in pixels, are in the order of :data:`TEMPLATE`, which is scaled to ``size``.
    """
    # Landmarks count from the middle of the first pixel, Pillow from its corner.
    points, target = np.asarray(points, float) + 0.5, TEMPLATE * size / TEMPLATE_SIZE + 0.5
    opened, scale = Image.fromarray(image), np.hypot(*similarity(points, target)[:, 0])
    factor = max(1, int(1 / scale))  # a warp samples single pixels, so a large image is averaged down before
    if factor > 1:
        opened = opened.reduce(factor)
    matrix = similarity(points / factor, target)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    return np.asarray(opened.transform((size, size), Image.Transform.AFFINE, inverse.ravel(), Image.Resampling.BICUBIC))


def _transformed(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def shift(points: np.ndarray, size: int) -> float:
    """Return how far alignment would move a face of a square image, in pixels of the template, on average."""
    moved = _transformed(similarity(np.asarray(points) * TEMPLATE_SIZE / size, TEMPLATE), TEMPLATE)
    return float(np.linalg.norm(moved - TEMPLATE, axis=1).mean())


def residual(points: np.ndarray) -> float:
    """Return the mean distance of aligned landmarks from the template, in its pixels."""
    return float(np.linalg.norm(_transformed(similarity(points, TEMPLATE), points) - TEMPLATE, axis=1).mean())


def read_image(path: Path) -> np.ndarray:
    """Read a photograph as viewers show it, rotated by its EXIF data: ``uint8 [h, w, 3]``, RGB."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Mistake(f"{path} cannot be read ({error.strerror}); name a photograph.") from None
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as file:
            warnings.simplefilter("ignore")  # of its size, which is limited here
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return _upright(_rgb(file, path), _orientation(file, data))
    except Mistake:
        raise
    except Image.UnidentifiedImageError:
        raise Mistake(
            f"{path} is not an image that is read here: JPEG, PNG, BMP, WebP, TIFF, GIF or PPM; convert it (HEIC too)."
        ) from None
    except Image.DecompressionBombError:
        raise Mistake(
            f"{path} has more than {MAX_PIXELS:,} pixels, the most that are decoded; make it smaller."
        ) from None
    except Exception:  # Pillow's plugins raise whatever their parsing meets
        raise Mistake(f"{path} is truncated or its data is damaged; copy it again.") from None


def _rgb(file: Any, path: Path) -> np.ndarray:
    if file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PPM"):  # 16 bits of gray; 65535 is white
        gray = ((np.asarray(file).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)
    if file.mode not in MODES:
        raise Mistake(f"{path} has pixels of the mode {file.mode}, in which white is not defined; save it with 8 bits.")
    file.load()
    file.info.pop("transparency", None)  # dropped, as the alpha channel is
    return np.asarray(file.convert("RGB"))


def _orientation(file: Any, data: bytes) -> int:
    if file.format == "TIFF" or b"exif" not in data[:HEADERS].lower():  # Pillow itself rotates a TIFF
        return 1
    try:
        value = file.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return image
    return np.asarray(Image.fromarray(image).transpose(getattr(Image.Transpose, TURNS[orientation - 2])))


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize ``uint8 [h, w, 3]`` to a square as training does: bilinear, antialiased."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def parse_landmarks(line: str) -> tuple[str, np.ndarray]:
    """Parse ``file x1 y1 ... x5 y5``, separated by tabs, commas or blanks.

    Returns:
        The file with forward slashes, and ``float64 [5, 2]``.

    Raises:
        ValueError: If the line has another form, or holds no five points of a face.
    """
    for mark in ("\t", ",", None):
        file, *numbers = line.strip().split(mark)
        if len(numbers) == 10:
            break
    points = np.array(numbers, float).reshape(5, 2)
    if not np.abs(points).max() <= MAX_DISTANCE or np.ptp(points, axis=0).max() < MIN_SPREAD:
        raise ValueError("no five points of a face")
    return file if "/" in file else file.replace("\\", "/"), points


def read_landmarks(path: Path) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Read a list of landmarks: the parts of each path, and its points; see :func:`parse_landmarks`."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{path} cannot be read ({error}); name a list of landmarks.") from None
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            if line.strip():
                file, points = parse_landmarks(line)
                found.append((Path(file).parts, points))
        except ValueError:
            raise Mistake(f"{path}:{number}: {line[:80]!r} must be 'file x1 y1 ... x5 y5'; correct it.") from None
    return found


def landmarks_of(photograph: Path, lists: Sequence[Path]) -> np.ndarray | None:
    """Return the points of a photograph from lists, or None; the line whose path agrees longest is taken."""
    parts, best, points = photograph.absolute().parts, 0, None
    for path in lists:
        for names, found in read_landmarks(path):
            if parts[-len(names) :] == names and len(names) >= best:
                if len(names) == best and not np.array_equal(points, found):
                    raise Mistake(f"{path} has two lines for {photograph} with different points; remove one.")
                best, points = len(names), found
    return points


class Face(NamedTuple):
    """A face that was found, in pixels of its image.

    Attributes:
        points: ``float64 [5, 2]``, x and y in the order of :data:`TEMPLATE`.
        box: Left, top, right, bottom.
        score: 0 to 1.
    """

    points: np.ndarray
    box: tuple[float, ...]
    score: float

    @property
    def size(self) -> float:
        """Side of the square with the area of the box."""
        left, top, right, bottom = self.box
        return math.sqrt(max(right - left, 0.0) * max(bottom - top, 0.0))


class Detector:
    """MTCNN with five landmarks (Zhang et al. 2016), from the package ``mtcnn-runtime``, which holds its weights.

    Raises:
        Mistake: If the package, or one that it needs, cannot be imported.
    """

    def __init__(self) -> None:
        try:
            module = importlib.import_module("mtcnnruntime.detector")
        except ModuleNotFoundError as error:
            raise Mistake(f"no face detector: {error.name} is not installed ({INSTALL})") from None
        except ImportError as error:  # OpenCV on a system without a desktop
            hint = "sudo apt-get install libgl1 libglib2.0-0, or pip install opencv-python-headless"
            raise Mistake(f"no face detector: mtcnn-runtime cannot be imported ({error}): {hint}") from None
        module.print = lambda *_: None  # it prints "error" for candidates outside of the image
        self._errors = (ValueError, module.cv2.error)
        self._net = module.MTCNN()

    def find(self, image: np.ndarray) -> list[Face]:
        """Return the faces in ``uint8 [h, w, 3]``, the largest first."""
        scale = min(1.0, DETECTED_SIDE / max(image.shape[:2]))
        height, width = (max(1, round(scale * n)) for n in image.shape[:2])
        small = image
        if scale < 1:
            small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        scales = np.array([image.shape[1] / width, image.shape[0] / height])
        faces = []
        for box, points in self._search(small):
            # The detector counts from the corner of the first pixel, landmarks from its middle.
            corners, points = (array * scales - 0.5 for array in (box[:4].reshape(2, 2), points))
            center = corners.mean(axis=0)
            if np.all((center > 0) & (center < image.shape[1::-1])) and np.all(np.isfinite(points)):
                faces.append(Face(points, tuple(corners.ravel().tolist()), float(box[4])))
        sure = [face for face in faces if face.score >= SURE] or faces
        return sorted(sure, key=lambda face: -face.size)

    def _search(self, image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return boxes with scores ``[5]`` and points ``[5, 2]`` of the faces in an image of moderate size."""
        side = max(image.shape[:2])
        # Without padding the landmarks of a face that fills its image are wrong. The padding also moves the windows
        # that are searched, so that a second one finds a face that the first has missed.
        for pad in (side // 8, side // 5):
            padded = np.pad(image[..., ::-1], ((pad, pad), (pad, pad), (0, 0)), mode="edge")
            try:
                boxes, points = self._net.detect(np.ascontiguousarray(padded), thresholds=THRESHOLDS)
            except self._errors:  # its way to say that no candidate is left
                continue
            if len(boxes):
                boxes = np.asarray(boxes, float) - [pad, pad, pad, pad, 0]
                return [(box, xy.reshape(2, 5).T - pad) for box, xy in zip(boxes, np.asarray(points, float))]  # noqa: B905
        return []


def choose(faces: Sequence[Face], which: str, path: Path) -> Face:
    """Return the largest of some faces, or the one that ``--face`` names; refuse to guess between two."""
    near = [face for face in faces if face.size >= SMALL * faces[0].size]
    near.sort(key=lambda face: face.box[0] + face.box[2])
    if which:
        number = {"left": 1, "right": len(near)}.get(which) or int(which)
        if number > len(near) == 1:
            raise Mistake(f"--face={which}: {path} shows 1 face; give --face twice, once for each photograph, here 1.")
        if number > len(near):
            raise Mistake(
                f"--face={which}: {path} shows {len(near)} faces of comparable size; choose 1 to {len(near)}."
            )
        return near[number - 1]
    if len(faces) > 1 and faces[1].size >= EQUAL * faces[0].size:
        places = " and ".join(
            f"{i} ({face.size:.0f} pixels, at x={(face.box[0] + face.box[2]) / 2:.0f})"
            for i, face in enumerate(near, start=1)
            if face.size >= EQUAL * faces[0].size
        )
        raise Mistake(
            f"{path} shows faces of nearly equal size: {places}; choose with --face=left, --face=right or a number, "
            f"counted from the left (repeat it for the other photograph), or crop the photograph."
        )
    return faces[0]


class Prepared(NamedTuple):
    """A face for the model.

    Attributes:
        image: ``uint8 [s, s, 3]``, aligned.
        how: ``"detector"``, ``"landmarks"``, ``"as it is"`` (aligned before) or ``"--aligned"``.
        text: One phrase for the user: how, and how many faces there were.
        faces: Their number, if they were searched.
    """

    image: np.ndarray
    how: str
    text: str
    faces: int | None = None


def prepare(path: Path, lists: Sequence[Path], which: str, aligned: bool) -> Prepared:
    """Read a photograph and align its face, by landmarks if a list has them, else by the detector."""
    image, points = read_image(path), landmarks_of(path, lists)
    if points is not None:
        if fault := misfit(points, image):
            raise Mistake(f"the landmarks of {path} {fault}.")
        text = "aligned by the given landmarks" + _elsewhere(points, image)
        return Prepared(align_face(image, points), "landmarks", text)
    if aligned:
        if image.shape[0] != image.shape[1]:
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise Mistake(f"{path} is not square ({size}), so it is not aligned; leave out --aligned.")
        return Prepared(image, "--aligned", "used as it is, because of --aligned")
    try:
        faces = Detector().find(image)
    except Mistake as error:
        raise Mistake(
            f"{path} may not be aligned: {error}; or give --landmarks=FILE, or --aligned if both are aligned already."
        ) from None
    if not faces:
        raise Mistake(
            f"no face was found in {path}; take an upright one from the front, give --landmarks=FILE, or --aligned if "
            f"it is aligned already."
        )
    face, text = choose(faces, which, path), "1 face"
    if len(faces) > 1:
        text = f"{len(faces)} faces, " + (f"--face={which} was taken" if which else "the largest was taken")
    if image.shape[0] == image.shape[1] and shift(face.points, len(image)) <= MAX_SHIFT:
        return Prepared(image, "as it is", text + "; it is aligned already, and used as it is", len(faces))
    text += ", aligned" + _doubt(face, image)
    return Prepared(align_face(image, face.points), "detector", text, len(faces))


def _doubt(face: Face, image: np.ndarray) -> str:
    """Return a phrase if the landmarks of a face may be wrong."""
    along, across = similarity(face.points, TEMPLATE)[:, 0]
    angle = abs(math.degrees(math.atan2(across, along)))
    if angle > MAX_ANGLE:
        return f"; doubtful, because it is rotated by some {angle:.0f} degrees: rotate the photograph upright"
    corners = np.clip(np.reshape(face.box, (2, 2)), 0, image.shape[1::-1])
    inside, area = np.prod(corners[1] - corners[0]), image.shape[0] * image.shape[1]
    if inside < MIN_INSIDE * face.size**2 or face.size**2 > MAX_FILLED * area:
        return "; doubtful, because it fills its image or is cut off: take a photograph with more around it"
    return ""


def _elsewhere(points: np.ndarray, image: np.ndarray) -> str:
    """Return a phrase if there is a detector, and it finds faces but none at the given landmarks."""
    try:
        faces = Detector().find(image)
    except Mistake:
        return ""
    far = [np.linalg.norm(face.points - points, axis=1).mean() > ELSEWHERE * face.size for face in faces]
    return "; doubtful, because the detector finds the face elsewhere: check them" if far and all(far) else ""


def misfit(points: np.ndarray, image: np.ndarray) -> str:
    """Return why landmarks are of another image, in another order or in no pixels; empty if they fit."""
    height, width = image.shape[:2]
    if not np.all((points.mean(axis=0) > 0) & (points.mean(axis=0) < (width, height))):
        return f"lie outside of it ({width}x{height}); they are of another image"
    if np.ptp(points, axis=0).max() < MIN_FACE:
        return f"lie within {MIN_FACE:.0f} pixels of each other; give them in pixels of a larger face"
    if residual(points) > MAX_RESIDUAL:
        return (
            "do not lie like a face; their order is: left eye, right eye (as seen in the image), nose, left and right "
            "corner of the mouth"
        )
    return ""


class Model(NamedTuple):
    """A loaded artifact."""

    path: Path
    runtime: str
    metadata: dict[str, Any]
    call: Callable[[np.ndarray], np.ndarray]  # images float32 [n, 3, s, s] to embeddings [n, d]

    @property
    def size(self) -> int:
        """Height and width of its images."""
        return self.metadata["input"]["shape"][2]

    @property
    def title(self) -> str:
        """Architecture and runtime."""
        return "{name} x{width} {operator}, ".format(**self.metadata) + self.runtime

    @property
    def notes(self) -> list[str]:
        """Lines on what makes an answer doubtful."""
        config = self.metadata.get("config")
        data = config.get("data") if isinstance(config, dict) else None
        if isinstance(data, dict) and data.get("source") == "embedded":
            return [f"{self.path} has seen drawn faces only; fine-tune it on aligned photographs before you rely on it"]
        return []

    @property
    def threshold(self) -> float | None:
        """Cosine above which two faces are the same, if the exported run has verified."""
        thresholds = self.metadata.get("thresholds")
        value = thresholds.get("cosine") if isinstance(thresholds, dict) else None
        return value if isinstance(value, float) and -1 <= value <= 1 else None

    def embed(self, face: np.ndarray) -> np.ndarray:
        """Return the embedding of an aligned face at unit length."""
        image = resize(face, self.size).astype(np.float32).transpose(2, 0, 1)[None]
        found = _explained(lambda: self.call((image / 255 - 0.5) / 0.5), f"{self.path} fails")[0]
        length = np.linalg.norm(found)
        if not (np.isfinite(length) and length > 0):
            raise Mistake(f"{self.path} gives embeddings that are not finite or zero; export it again.")
        return found / length


def load(path: Path, runtime: str = "auto", *, run_code: bool = False) -> Model:
    """Load an artifact for faces; see the module's docstring. ``run_code`` trusts whatever code comes with it."""
    path, runtime = find_artifact(path, runtime)
    text, call = (_onnx if runtime == "onnxruntime" else _native)(path, run_code)
    try:
        metadata = json.loads(text or "")
        _, channels, height, width = metadata["input"]["shape"]
        _check_faces(path, metadata)
        if (channels, height) != (3, width):
            raise ValueError("not square, or not in color")
        model = Model(path, runtime, metadata, call)
        model.title  # noqa: B018, raises if a part is missing
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Mistake(f"{path} holds no metadata of tvconv_jax; python -m tvconv_jax.export writes it.") from None
    return model


def _check_faces(path: Path, metadata: dict[str, Any]) -> None:
    """Raise a :class:`Mistake` if a model is of another task, or verifies identities that are not faces."""
    config, output = metadata.get("config"), metadata["output"]["name"]
    task = config.get("task") if isinstance(config, dict) else None
    if output != "embeddings":
        raise Mistake(
            f"{path} is not a model of faces: it is for {task or 'another task'}, and gives {output}, not embeddings; "
            f"name an export of a face model, or run this one with python -m tvconv_jax.predict."
        )
    if task not in (None, "face"):
        raise Mistake(
            f"{path} is not a model of faces: it is for {task} of other images, in which no face is searched; compare "
            f"two of them with python -m tvconv_jax.predict {shlex.quote(str(path))} ONE OTHER."
        )


def find_artifact(path: Path, runtime: str) -> tuple[Path, str]:
    """Return the file of an artifact, of a folder too, and the runtime for it."""
    if path.is_dir():
        path = _in_folder(path, runtime)
    able = {".onnx": "onnxruntime", ".safetensors": "native"}.get(path.suffix)
    if not path.is_file():
        raise Mistake(f"{path} is not there; name an artifact that python -m tvconv_jax.export wrote.")
    if able is None:
        raise Mistake(
            f"{path} is not a file that this command runs; artifacts for it end in .onnx or .safetensors (export with "
            f"--formats=onnx or native)."
        )
    if runtime not in ("auto", able):
        raise Mistake(f"--runtime={runtime} does not run {path}, which {able} does; leave it out.")
    return path, able


def _in_folder(folder: Path, runtime: str) -> Path:
    there = [folder / name for name in ("model.onnx", "model.safetensors") if (folder / name).is_file()]
    if runtime == "native" or (runtime == "auto" and not importlib.util.find_spec("onnxruntime")):
        native = [path for path in there if path.suffix == ".safetensors" and path.with_name("native.py").is_file()]
        there = native or (there if runtime == "auto" else [])
    if there and (there[0].suffix == ".onnx" or there[0].with_name("native.py").is_file()):
        return there[0]
    if (folder / "config.json").is_file():
        formats = "native" if runtime == "native" else "onnx"
        options = f"--workdir={folder}", f"--formats={formats}", f"--out={folder / 'export'}"
        command = shlex.join(["python", "-m", "tvconv_jax.export", *options])
        raise Mistake(f"{folder} is the workdir of a run; export it: {command}")
    formats = "native" if runtime == "native" else "onnx or native"
    raise Mistake(f"{folder} holds no artifact for this command; export with --formats={formats}.")


def _onnx(path: Path, run_code: bool) -> tuple[str | None, Callable]:
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise Mistake(f"onnxruntime cannot be imported ({error}): pip install onnxruntime; {PI_HINT}.") from None
    _explained(lambda: check_onnx(path), f"{path} cannot be loaded by onnxruntime")
    options = module.SessionOptions()
    options.log_severity_level = 4
    arguments = str(path), options, ["CPUExecutionProvider"]
    session = _explained(lambda: module.InferenceSession(*arguments), f"{path} cannot be loaded by onnxruntime")
    name = session.get_inputs()[0].name
    metadata = session.get_modelmeta().custom_metadata_map.get("tvconv_jax")
    return metadata, lambda images: session.run(None, {name: images})[0]


def _native(path: Path, run_code: bool) -> tuple[str | None, Callable]:
    metadata = _safetensors_metadata(path)
    _code(path.with_name("native.cpp"), run_code)
    source, file = _code(path.with_name("native.py"), run_code), path.with_name("native.py")
    module = types.ModuleType(f"tvconv_jax_artifact_{len(sys.modules)}")  # the very bytes that were checked
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    exec(compile(source, str(file), "exec"), module.__dict__)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return metadata, _explained(lambda: module.load(path, cores), f"{path} cannot be loaded by native")


def _explained(call: Callable[[], Any], what: str) -> Any:
    """Call a function; any exception of a runtime becomes one line."""
    try:
        return call()
    except Mistake:
        raise
    except Exception as error:
        raise Mistake(f"{what}: {' '.join(str(error).split())[:200] or type(error).__name__}") from None


def _code(file: Path, run_code: bool) -> bytes:
    """Return the bytes of a file of code, if an exporter wrote them or the user trusts them."""
    if not file.is_file():
        raise Mistake(
            f"{file} is not there; copy the whole folder that python -m tvconv_jax.export --formats=native wrote (what "
            f"is for PyTorch alone is not run here)."
        )
    source = file.read_bytes()
    if run_code or hashlib.sha256(source.replace(b"\r\n", b"\n")).hexdigest() in KNOWN_CODE[file.name]:
        return source
    packaged = Path(__file__).parents[1] / "export" / PACKAGED[file.name]
    if packaged.is_file() and packaged.read_bytes() == source:
        return source
    raise Mistake(
        f"{file} is code that python -m tvconv_jax.export did not write, so it is not run; export again, or read it "
        f"and add --run-code if you trust it."
    )


def _safetensors_metadata(path: Path) -> str | None:
    """Return the metadata in the header, if the file is as long as the header says."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(start - 8, size)))
        metadata = header.pop("__metadata__", {})
        if start + max(tensor["data_offsets"][1] for tensor in header.values()) == size:
            return metadata.get("tvconv_jax")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise Mistake(f"{path} is truncated or is not a .safetensors file; copy it again.")


# By kind of ONNX message: the kinds of its fields that are messages. Source: onnx.proto, IR 8 to 12.
_ONNX = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "another file"},
}


def check_onnx(path: Path) -> None:
    """Refuse a model with weights in other files: a runtime would read any path that the model names."""
    try:
        with path.open("rb") as file:  # mapped, so that weights take no memory
            waiting = [("model", memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))]
        while waiting:
            kind, data = waiting.pop()
            if kind == "another file":
                raise Mistake(f"{path} keeps weights in other files, which are not read; save it as one file.")
            waiting += [(_ONNX[kind][field], value) for field, value in _fields(data) if field in _ONNX[kind]]
    except (IndexError, ValueError):
        raise ValueError("it is truncated or is not an .onnx file; copy it again") from None


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield numbers and contents of the fields of a protobuf message that have a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size = {0: 0, 1: 8, 5: 4}.get(tag & 7)
        if tag & 7 in (0, 2):
            value, at = _varint(data, at)
            size = value if tag & 7 == 2 else 0
        if size is None or at + size > len(data):
            raise ValueError("a field of an unknown kind, or one that ends beyond the message")
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number without an end")


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Compare two photographs.

    Returns:
        ``answer`` (``"same"``, ``"different"`` or None), ``score``, ``threshold``, ``threshold_from``, ``artifact``,
        ``model``, ``notes``, and for each of the ``photographs`` its ``file``, ``alignment``, ``faces`` and ``text``.
    """
    model = load(args.artifact, args.runtime, run_code=args.run_code)
    lists, faces = args.landmarks or [], args.face or [""]
    photographs = args.one, args.other
    if len(lists) > 2 or len(faces) > 2:
        raise Mistake("--landmarks and --face are given once for both photographs, or twice: for each of them.")
    found = [
        prepare(path, lists[i : i + 1] if lists[1:] else lists, faces[i % len(faces)], args.aligned)
        for i, path in enumerate(photographs)
    ]
    one, other = (model.embed(item.image) for item in found)
    score, threshold = float(np.dot(one, other)), args.threshold
    answer_of = "--threshold" if threshold is not None else "the model"
    threshold = model.threshold if threshold is None else threshold
    return {
        "answer": None if threshold is None else "same" if score > threshold else "different",
        "score": score,
        "threshold": threshold,
        "threshold_from": None if threshold is None else answer_of,
        "artifact": str(model.path),
        "model": model.title,
        "notes": model.notes,
        "photographs": [
            {"file": str(path), "alignment": item.how, "faces": item.faces, "text": item.text}
            for path, item in zip(photographs, found)  # noqa: B905, Python 3.9 has no strict=
        ],
    }


def print_answer(result: dict[str, Any]) -> None:
    """Print a result of :func:`compare` as lines of text."""
    for photograph in result["photographs"]:
        print("{file}: {text}".format(**photograph))
    for note in result["notes"]:
        print(f"note: {note}")
    if result["answer"] is None:
        print("score {score:.3f} ({model})".format(**result))
        print(
            f"no answer: {result['artifact']} has no threshold, because its run verified nothing. Train with pairs "
            f"(python -m tvconv_jax.data pairs makes them) and export again, or give --threshold."
        )
        return
    relation = "above" if result["answer"] == "same" else "not above"
    line = "{answer}: score {score:.3f}, {relation} the threshold {threshold:.3f} of {threshold_from} ({model})"
    print(line.format(relation=relation, **result))


def _cosine(text: str) -> float:
    value = float(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be a cosine, from -1 to 1")
    return value


def _which(text: str) -> str:
    if text not in ("left", "right") and not (text.isascii() and text.isdecimal() and 0 < int(text) < 1000):
        raise argparse.ArgumentTypeError(f"{text!r} must be left, right, or a number from 1, counted from the left")
    return text


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(MISTAKE, "error: " + message.rstrip(".") + f". See {self.prog} --help.\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    first, _, text = __doc__.partition("\n")
    called_as = getattr(sys.modules.get("tvconv_jax.utils.cli"), "called_as", None)
    found = _Parser(called_as, description=first, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("artifact", type=Path, metavar="ARTIFACT", help="model.onnx, model.safetensors, or their folder")
    add("one", type=Path, metavar="ONE", help="a photograph")
    add("other", type=Path, metavar="OTHER", help="the other one")
    about = "list with lines 'file x1 y1 ... x5 y5'; repeated: one for each photograph"
    add("--landmarks", action="append", type=Path, metavar="FILE", help=about)
    add("--aligned", action="store_true", help="photographs without landmarks are aligned already; search no face")
    about = "of several: left, right, or a number, counted from the left; repeated: one for each photograph"
    add("--face", action="append", type=_which, help=about)
    add("--threshold", type=_cosine, help="cosine above which they are the same; default: the model's own")
    add("--runtime", choices=["auto", "onnxruntime", "native"], default="auto")
    add("--json", action="store_true", help="print the result as JSON")
    add("--run-code", action="store_true", help="run native.py and native.cpp that no exporter wrote")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring. It always exits."""
    args = parser().parse_args(argv)
    try:
        result = compare(args)
    except Mistake as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:  # a bug; Python's own exit code would mean "different"
        traceback.print_exc()
        sys.exit(MISTAKE)
    try:
        if args.json:
            print(json.dumps(result, indent=1))
        else:
            print_answer(result)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads it; Python's own exit code would mean "different"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit({"same": SAME, "different": DIFFERENT}.get(result["answer"], NO_THRESHOLD))


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    main()
