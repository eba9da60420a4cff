"""Classes, masks, or same and different: your own images in an exported model. Copy this one file.

    python predict.py ARTIFACT images --top=3            the class of each image, and the next ones
    python predict.py ARTIFACT images --out=masks        a mask of each image, in the colors of its classes
    python predict.py ARTIFACT one.png other.png ...     the others are the same as the first one, or different
    python -m tvconv_jax.predict ARTIFACT IMAGE ...      the same, where tvconv_jax is installed

It needs Python 3.9, NumPy, Pillow and a runtime. An ARTIFACT was written by ``python -m tvconv_jax.export``: a
``.onnx`` (onnxruntime), a ``.safetensors`` with ``native.py`` and ``native.cpp`` beside it (native: a C++ compiler
instead of a runtime), or the folder of these files. An IMAGE is a file, or a folder whose images are all taken, at any
depth, sorted. Images are read and resized as in training; EXIF orientation is not applied.

``native.py`` and ``native.cpp`` are code. They run only if an exporter wrote them, byte for byte; ``--run-code`` says
that you trust anything else.

Exit codes: 0 done (of images that are compared: all are the same), 1 some are different, 2 a mistake (images that can
be read are predicted all the same), 3 the model has no threshold (scores are printed), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 9):  # noqa: UP036, the device's Python is older than the package's
    print("error: this needs Python 3.9 or later, and is run by " + sys.version.split()[0], file=sys.stderr)
    sys.exit(2)  # 1 means "different"

import argparse
import colorsys
import contextlib
import csv
import hashlib
import importlib
import importlib.util
import io
import json
import os
import re
import shlex
import time
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

# As tvconv_jax.data.decoder and tvconv_jax.data.listing have them, which read the images of a training.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
MAX_PIXELS = 178_956_970
JUNK_NAMES = set(
    "@eadir|@recycle|@tmp|@sharebin|#recycle|#snapshot|__macosx|icon\r|network trash folder|temporary items|"
    "$recycle.bin|system volume information|thumbs.db|ehthumbs.db|desktop.ini|lost+found|__pycache__".split("|")  # noqa: SIM905
)
ORIENTATION = 0x0112  # of EXIF
FAULTS = {
    Image.UnidentifiedImageError: "is not an image that is read here: JPEG, PNG, BMP, WebP, TIFF, GIF or PPM; convert "
    "it (HEIC too)",
    Image.DecompressionBombError: f"has more than {MAX_PIXELS:,} pixels, the most that are decoded; make it smaller",
}
FUNDUS, FUNDUS_VALUES = ["cup", "disc"], [255, 0, 128]  # in its masks: outside, cup, and disc round the cup
PI_HINT = "on a Raspberry Pi 4 onnxruntime==1.20.1, because 1.21.0 dies of an illegal instruction there"
DONE, DIFFERENT, MISTAKE, NO_THRESHOLD = range(4)  # exit codes
# Said once, after all images.
FAILED = "could not be read"
ROTATED = "would be rotated by EXIF data, which is not applied, as in training"
STRETCHED = "had another shape than {}x{} (height x width), and were stretched to it, as in training"
FACES = "were compared as they are; photographs whose faces are not aligned need python -m tvconv_jax.verify"

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


def one_line(text: str) -> str:
    """Return a text with the line ends in names of files and classes escaped."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


class Mistake(Exception):
    """One line for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def read_image(path: Path) -> tuple[np.ndarray, int]:
    """Read an image as training does: ``uint8 [h, w, 3]``, RGB; and its EXIF orientation, which is not applied."""
    try:
        data, orientation = path.read_bytes(), 1
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as file:
            warnings.simplefilter("ignore")  # of its size, which is limited here
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image = _rgb(file, path)
            with contextlib.suppress(Exception):  # damaged EXIF data; Pillow itself rotates a TIFF
                orientation = 1 if file.format == "TIFF" else file.getexif().get(ORIENTATION, 1)
            return image, orientation
    except Mistake:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parsing meets
        fault = FAULTS.get(type(error), "is truncated or its data is damaged; copy it again")
        if isinstance(error, OSError) and error.filename:
            fault = f"cannot be read ({error.strerror}); name an image or a folder of images"
        raise Mistake(f"{path} {fault}.") from None


def _rgb(file: Any, path: Path) -> np.ndarray:
    if file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PPM"):  # 16 bits of gray; 65535 is white
        gray = ((np.asarray(file).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)
    if file.mode not in MODES:
        raise Mistake(f"{path} has pixels of the mode {file.mode}, in which white is not defined; save it with 8 bits.")
    file.load()
    file.info.pop("transparency", None)  # dropped, as the alpha channel is
    return np.asarray(file.convert("RGB"))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize ``uint8 [h, w, 3]`` to height and width as training does: bilinear, antialiased."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_logits(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize ``float32 [h, w]`` as the evaluation of masks does: bilinear between the centers of pixels."""
    for axis, to in enumerate(size):
        length = logits.shape[axis]
        at = np.clip((np.arange(to) + 0.5) * (length / to) - 0.5, 0, length - 1)
        low = at.astype(int)
        share = np.float32(at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        logits = logits.take(low, axis) * (1 - share) + logits.take(np.minimum(low + 1, length - 1), axis) * share
    return logits


def find_images(arguments: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Return images with their paths below the argument, sorted; of folders without hidden and system files."""
    found: list[tuple[Path, Path]] = []
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    for argument in arguments:
        every = sorted(_walk(argument)) if argument.is_dir() else [argument]
        files = [file for file in every if file.suffix.lower() in suffixes or not argument.is_dir()]
        if not files:
            raise Mistake(f"{argument} holds no images; name an image or a folder of images.")
        if others := sorted({*every} - {*files}):
            print(f"note: left out {len(others)} files that are not images ({others[0]})", file=sys.stderr)
        found += [(file, file.relative_to(argument if argument.is_dir() else argument.parent)) for file in files]
    return found


def _walk(base: Path) -> Iterator[Path]:
    def wanted(name: str) -> bool:
        return not name.startswith((".", "~$")) and name.casefold() not in JUNK_NAMES

    def fail(error: OSError) -> None:
        raise Mistake(f"{error.filename} cannot be read ({error.strerror}); correct its permissions.")

    above = {str(base): {base.resolve()}}  # folders on the way to one: links to these, or above them, go in a circle
    for folder, folders, names in os.walk(base, onerror=fail, followlinks=True):
        way, place = above.pop(folder), Path(folder).resolve()
        real = {n: Path(folder, n).resolve() for n in folders if wanted(n)}
        folders[:] = [n for n, path in real.items() if path not in way and not place.is_relative_to(path)]
        above.update((os.path.join(folder, n), {*way, real[n]}) for n in folders)
        paths = [Path(folder, name) for name in names if wanted(name)]
        yield from (path for path in paths if path.is_file() or not path.exists())  # a broken link is said


class Model(NamedTuple):
    """A loaded artifact."""

    path: Path
    call: Callable[[np.ndarray], np.ndarray]  # float32 [n, 3, h, w] to embeddings or logits
    task: str  # classification, segmentation or verification
    size: tuple[int, int]  # height, width
    classes: list[str]
    temperature: float  # of logits of classes
    cosine: float | None  # above it two embeddings are the same
    level: float | None  # above it a pixel is of a class; None: each pixel is of one class
    codes: list[Any]  # values or colors of classes in masks, of pixels in no class before them
    background: int  # place of that class in the codes; -1: none
    faces: bool  # whether images are aligned faces

    def outputs(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return embeddings ``[n, d]``, or logits ``[n, k]`` or ``[n, k, h, w]``, of images of any size."""
        batch = np.stack([resize(image, self.size) for image in images]).transpose(0, 3, 1, 2)
        batch = np.ascontiguousarray((batch.astype(np.float32) / 255 - 0.5) / 0.5)
        found = _explained(lambda: self.call(batch), f"{self.path} fails")
        right = len(found) == len(batch) and found.ndim == (4 if self.task == "segmentation" else 2)
        if not (right and np.all(np.isfinite(found)) and found.shape[1] == (len(self.classes) or found.shape[1])):
            raise Mistake(f"{self.path} gives outputs that are not finite or not of its classes; export it again.")
        return found


def load(path: Path, runtime: str = "auto", *, run_code: bool = False) -> Model:
    """Load an artifact; see the module's docstring. Older ones, of faces and fundus images, lack some fields.

    ``run_code`` trusts whatever code lies beside it.
    """
    file, runtime = find_artifact(path, runtime)
    if runtime == "native":
        text, call = _native(file, run_code)
    else:
        text, call = _explained(lambda: _onnx(file), f"{file} cannot be loaded by onnxruntime")
    try:
        found = json.loads(text or "")
        shape, logits = found["output"]["shape"], found["output"]["name"] == "logits"
        task = {2: "classification", 4: "segmentation"}[len(shape)] if logits else "verification"
        other, model = found.get("task") or task, _parse(file, call, task, found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Mistake(f"{file} holds no metadata of tvconv_jax; python -m tvconv_jax.export writes it.") from None
    if task != other:
        raise Mistake(f"{file} is for {other!r}, which this command does not know; take the predict.py of its export.")
    if logits and not len(set(model.classes)) == shape[1] <= 255:
        raise Mistake(f"{file} does not name the classes of its {shape[1]} outputs; export it again.")
    return model


def _parse(file: Path, call: Callable[[np.ndarray], np.ndarray], task: str, found: dict[str, Any]) -> Model:
    _, channels, *size = found["input"]["shape"]
    config, old = found.get("config") or {}, task == "segmentation" and "classes" not in found
    names, level = list(map(str, FUNDUS if old else found.get("classes") or [])), None
    codes = list(range(len(names)))
    if old or found.get("activation") == "sigmoid":
        level = (config.get("eval") or {}).get("threshold") or 0.5
        codes = FUNDUS_VALUES if names == FUNDUS else [*codes, len(names)]
    codes, cosine = found.get("mask_values") or codes, (found.get("thresholds") or {}).get("cosine")
    background, temperature = found.get("background"), float(found.get("temperature", 1))
    places = [
        i for i, name in enumerate(names) if name == background or not background and name.lower() == "background"
    ]
    place = 0 if level else (*places, -1)[0]
    whole = channels == 3 and len(size) == 2 and len(codes) == len(names) + (level is not None)
    if not (whole and 0 < temperature < float("inf") and -1 <= (cosine or 0) <= 1 and 0 < (level or 0.5) < 1):
        raise ValueError("not images in color, not the values of the classes, or not a temperature or threshold")
    faces = config.get("task") == "face"
    model = Model(file, call, task, tuple(size), names, temperature, cosine, level, codes, place, faces)
    palette(model)
    return model


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


def _onnx(path: Path) -> tuple[str | None, Callable[[np.ndarray], np.ndarray]]:
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise Mistake(f"onnxruntime cannot be imported ({error}): pip install onnxruntime; {PI_HINT}.") from None
    # A runtime would read any path that a model names as the "location" of its weights. As a key in a protobuf message
    # that word follows its length: 8, or 0 as the last byte of a longer form. In JSON neither byte stands before it.
    if re.search(rb"[\x00\x08]location", path.read_bytes()):
        raise Mistake(f"{path} keeps weights in other files, which are not read; save it as one file.")
    options = module.SessionOptions()
    options.log_severity_level = 4
    session = module.InferenceSession(str(path), options, ["CPUExecutionProvider"])
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


def classify(model: Model, _: np.ndarray, logits: np.ndarray, top: int) -> tuple[dict[str, Any], str]:
    """Return the probabilities of the classes, from logits ``[k]``; the line has the ``top`` likeliest."""
    shares = np.exp((logits - logits.max()) / np.float64(model.temperature))
    shares /= shares.sum()
    names = [f"{model.classes[i]} {shares[i]:.1%}" for i in np.argsort(-shares, kind="stable")[:top]]
    found = {"class": model.classes[shares.argmax()], "probability": float(shares.max())}
    found |= {f"probability.{name}": share for name, share in zip(model.classes, shares.tolist())}  # noqa: B905
    return found, ", ".join(names)


def segment(model: Model, image: np.ndarray, logits: np.ndarray, files: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """Return the share of the pixels of each class, from logits ``[k, h, w]``; write mask and overlay, if asked."""
    size = image.shape[:2]
    mask, shares, best = np.zeros(size, np.uint8), [], np.full(size, -np.inf, np.float32)
    if model.level is not None:
        for i, logit in reversed(list(enumerate(logits, 1))):  # where classes overlap the first one is drawn
            above = resize_logits(logit, size) > np.log(model.level / (1 - model.level))
            mask[above] = i
            shares.insert(0, float(above.mean()))
    else:
        for i, logit in enumerate(logits):
            resized = resize_logits(logit, size)
            mask[resized > best] = i
            np.maximum(best, resized, out=best)
        shares = (np.bincount(mask.ravel(), minlength=len(logits)) / mask.size).tolist()
    for draw, file in zip((draw_mask, draw_overlay), files):  # noqa: B905
        write(file, lambda part, draw=draw: draw(model, mask, image).save(part, "PNG"))
    named = dict(zip(model.classes, shares))  # noqa: B905
    found = {**dict(zip(("mask", "overlay"), map(str, files))), **{f"share.{k}": share for k, share in named.items()}}  # noqa: B905
    return found, ", ".join(f"{name} {share:.1%}" for name, share in named.items())


def palette(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return the values ``[n]`` and colors ``uint8 [n, 3]`` of masks, as those of the training have them, if known."""
    if isinstance(model.codes[0] if model.codes else 0, str):  # "#rrggbb"
        return np.arange(len(model.codes)), np.array([list(bytes.fromhex(code[1:])) for code in model.codes], np.uint8)
    colors = [colorsys.hsv_to_rgb(0.618 * i % 1, 1, i != model.background) for i in range(len(model.codes))]
    return np.array(model.codes, np.uint16), np.array(np.multiply(colors, 255), np.uint8)


def draw_mask(model: Model, mask: np.ndarray, _: np.ndarray) -> Any:
    """Return a mask with a palette, or in gray where masks of the training are."""
    codes, colors = palette(model)
    drawn, table = Image.fromarray(codes.astype(np.uint16 if codes.max() > 255 else np.uint8)[mask]), np.zeros((256, 3))
    if drawn.mode == "L" and model.codes != FUNDUS_VALUES:  # these masks are read in gray
        table[codes] = colors
        drawn.putpalette(table.astype(np.uint8).tobytes())
    return drawn


def draw_overlay(model: Model, mask: np.ndarray, image: np.ndarray) -> Any:
    """Return an image, half in the colors of its mask; the background stays."""
    tinted = image // 2 + palette(model)[1][mask] // 2
    return Image.fromarray(np.where((mask == model.background)[..., None], image, tinted))


def compare(model: Model, _: np.ndarray, embedding: np.ndarray, reference: np.ndarray) -> tuple[dict[str, Any], str]:
    """Return the cosine of an embedding with the first image's, the model's threshold, and the answer."""
    length = np.linalg.norm(reference) * np.linalg.norm(embedding)
    if not length > 0:
        raise Mistake(f"{model.path} gives embeddings that are zero; export it again.")
    score, answer = float(reference @ embedding / length), None
    text = f"no answer: score {score:.3f}; the model has no threshold, because its run verified nothing"
    if model.cosine is not None:
        answer, relation = ("same", "above") if score > model.cosine else ("different", "not above")
        text = f"{answer}: score {score:.3f}, {relation} the threshold {model.cosine:.3f} of the model"
    return {"answer": answer, "score": score, "threshold": model.cosine}, text


TASKS = {"classification": classify, "segmentation": segment, "verification": compare}


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Write a file, whole or not at all."""
    part = path.with_name(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(part)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise Mistake(f"{path} cannot be written ({error.strerror or error}); name another file or folder.") from None


def targets(args: argparse.Namespace, model: Model, images: Sequence[tuple[Path, Path]]) -> list[list[Path]]:
    """Return the files to write for each image; refuse those that exist, or would be written twice."""
    kinds = [""] * bool(args.out) + ["_overlay"] * args.overlay
    if kinds and not (args.out and model.task == "segmentation"):
        raise Mistake(f"--out=DIR, and --overlay beside it, are for segmentation; {model.path} is for {model.task}.")
    files = [[args.out / name.with_name(f"{name.stem}{kind}.png") for kind in kinds] for _, name in images]
    owners: dict[Path, Path] = {}
    for (path, _), to in zip(images, files):  # noqa: B905
        for file in to:
            if owners.setdefault(file, path) != path:
                raise Mistake(f"{owners[file]} and {path} would both be {file}; predict them into two folders.")
    if args.csv in owners:
        raise Mistake(f"--csv={args.csv} is the mask of {owners[args.csv]}, too; name another file.")
    for file in [*owners, *([args.csv] if args.csv else [])]:
        if os.path.lexists(file):
            raise Mistake(f"{file} exists and would be overwritten; name another, or move it away.")
    return files


def prepare(model: Model, path: Path, notes: dict[str, list[Path]]) -> np.ndarray:
    """Read an image, ``uint8 [h, w, 3]``, and note what may make its prediction doubtful."""
    image, orientation = read_image(path)
    (height, width), (h, w) = model.size, image.shape[:2]
    if model.faces and (h, w) != model.size:
        raise Mistake(
            f"{path} is {w}x{h}, no aligned face of {width}x{height}; python -m tvconv_jax.verify finds and aligns "
            f"faces in photographs, and with --aligned compares aligned ones of any size."
        )
    if model.faces:
        notes.setdefault(FACES, []).append(path)
    if orientation in range(2, 9):
        notes.setdefault(ROTATED, []).append(path)
    if abs(h * width - w * height) > max(h * width, w * height) / 50:  # not what rounding to pixels makes
        notes.setdefault(STRETCHED.format(height, width), []).append(path)
    return image


def predictions(
    model: Model, paths: Sequence[Path], batch: int, notes: dict[str, list[Path]]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield numbers of images, the images and their outputs; images that cannot be read are one line each."""
    last = time.monotonic()
    for start in range(0, len(paths), batch):
        ready = []
        for number, path in enumerate(paths[start : start + batch], start):
            try:
                ready.append((number, prepare(model, path, notes)))
            except Mistake as error:
                notes.setdefault(FAILED, []).append(path)
                print(f"error: {error}", file=sys.stderr)
        outputs = model.outputs([image for _, image in ready]) if ready else ()
        yield from ((*item, output) for item, output in zip(ready, outputs))  # noqa: B905
        if time.monotonic() - last > 10 and not sys.stdout.isatty():
            last = time.monotonic()
            print(f"{min(start + batch, len(paths))} of {len(paths)} images", file=sys.stderr)


def predict(args: argparse.Namespace) -> int:
    """Predict all images, print and write what is found, and return the exit code."""
    model = load(args.artifact, args.runtime, run_code=args.run_code)
    images, notes, rows = find_images(args.images), {}, []
    files, count = targets(args, model, images), len(images)
    more = files if model.task == "segmentation" else [args.top] * len(images)
    if model.task == "verification":
        if len(images) < 2:
            raise Mistake(f"{model.path} compares images with the first one; name two or more.")
        (first, _), *images = images
        more = [model.outputs([prepare(model, first, notes)])[0]] * len(images)
    for i, image, output in predictions(model, [path for path, _ in images], args.batch, notes):
        found, text = TASKS[model.task](model, image, output, more[i])
        rows.append({"file": str(images[i][0]), **found})
        print(json.dumps(rows[-1]) if args.json else one_line(f"{images[i][0]}: {text}"), flush=True)
    if args.csv:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, rows[0] if rows else ["file"])
        writer.writeheader()
        writer.writerows(rows)
        write(args.csv, lambda part: part.write_bytes(table.getvalue().encode("utf-8", "surrogateescape")))
    for text in notes if count > 1 else {*notes} - {FAILED}:
        print(f"note: {len(notes[text])} of {count} images {text} ({notes[text][0]})", file=sys.stderr)
    answers = {row.get("answer", "") for row in rows}
    code = NO_THRESHOLD if None in answers else DIFFERENT if "different" in answers else DONE
    return MISTAKE if FAILED in notes else code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(MISTAKE, "error: " + message.rstrip(".") + f". See {self.prog} --help.\n")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 10**6):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1")
    return int(text)


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # a shell leaves the ~ in --out=~/masks


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    first, _, text = __doc__.partition("\n")
    called_as = getattr(sys.modules.get("tvconv_jax.utils.cli"), "called_as", None)
    found = _Parser(called_as, description=first, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("artifact", type=_path, metavar="ARTIFACT", help="model.onnx, model.safetensors, or their folder")
    add("images", type=_path, nargs="+", metavar="IMAGE", help="an image, or a folder of images")
    add("--top", type=_count, default=1, metavar="N", help="print the N likeliest classes")
    add("--out", type=_path, metavar="DIR", help="write a mask of each image there (segmentation)")
    add("--overlay", action="store_true", help="write each image in the colors of its mask, too")
    add("--json", action="store_true", help="print a line of JSON for each image")
    add("--csv", type=_path, metavar="FILE", help="write a table, too")
    add("--batch", type=_count, default=8, metavar="N", help="images in memory at once; default: 8")
    add("--runtime", choices=["auto", "onnxruntime", "native"], default="auto")
    add("--run-code", action="store_true", help="run native.py and native.cpp that no exporter wrote")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring. It always exits."""
    args = parser().parse_args(argv)
    code = MISTAKE  # Python's own exit code of a bug would mean "different"
    try:
        code = predict(args)
    except Mistake as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # nobody reads it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:
        traceback.print_exc()
    sys.exit(code)


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    main()
