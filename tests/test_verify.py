"""Same or different: photographs that are found, aligned and compared, and every kind that is refused in one line."""

import inspect
import io
import json
import shlex
import shutil
import struct
import subprocess
import sys

import numpy as np
import photographs
import pytest
from copied import commands, run_copied
from PIL import Image
from test_edge import WEIGHTS, embed, metadata, write_onnx

from tvconv_jax import verify as command
from tvconv_jax.data import decoder
from tvconv_jax.edge import benchmark, verify
from tvconv_jax.export.__main__ import _parser as export_parser

call, refusal = commands(verify)

NATIVE_PY = """
import json, struct
import numpy as np

def load(path, threads):
    data = open(path, "rb").read()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    weights = np.frombuffer(data[start:], np.float32).reshape(4, 3)
    return lambda images: np.maximum(images, 0).mean((2, 3)) @ weights.T
"""


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Photographs by identity, with their landmarks in ``landmarks.txt``."""
    folder = tmp_path_factory.mktemp("album")
    return photographs.write(folder, 2, 2, 3, lists=True)


@pytest.fixture
def artifact(tmp_path):
    return write_onnx(tmp_path / "export", thresholds={"cosine": 0.5})


def hide(monkeypatch, name, error=None):
    """Make importing a package fail, as if it were not installed."""

    class Finder:
        def find_spec(self, full, path=None, target=None):
            if full.split(".")[0] == name:
                raise error or ModuleNotFoundError(f"No module named {name!r}", name=name)

    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])


def saved(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def side_by_side(path, *images):
    return saved(path, np.concatenate(images, axis=1))


def test_two_photographs_are_found_aligned_and_compared(album, artifact, capsys):
    one, other = album[0][0], album[1][0]
    code, out, _ = call(capsys, artifact, one, other, "--json")
    result = json.loads(out)
    faces = [verify.align_face(verify.read_image(path), verify.Detector().find(verify.read_image(path))[0].points)
             for path in (one, other)]  # fmt: skip
    images = np.stack([verify.resize(face, 6) for face in faces]).transpose(0, 3, 1, 2) / 127.5 - 1
    left, right = embed(images.astype(np.float32))
    score = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    assert result["score"] == pytest.approx(score, abs=1e-6)  # a float32 model
    assert result["answer"] == ("same" if score > 0.5 else "different") and code == int(score <= 0.5)
    assert (result["threshold"], result["threshold_from"]) == (0.5, "the model")
    assert [item["alignment"] for item in result["photographs"]] == ["detector", "detector"]


def test_the_detector_finds_the_true_landmarks(album):
    detector = verify.Detector()
    for path in [path for paths in album for path in paths]:
        (face,) = detector.find(verify.read_image(path))
        true = verify.landmarks_of(path, [path.parents[1] / "landmarks.txt"])
        eyes = np.linalg.norm(true[0] - true[1])
        assert np.linalg.norm(face.points - true, axis=1).mean() < 0.2 * eyes
        assert verify.residual(true) < verify.MAX_RESIDUAL


def test_landmarks_of_a_huge_photograph_are_of_its_own_pixels(album):
    image = verify.read_image(album[0][0])
    (face,) = verify.Detector().find(image)
    huge = np.asarray(Image.fromarray(image).resize((image.shape[1] * 6, image.shape[0] * 6)))
    (found,) = verify.Detector().find(huge)
    assert np.abs(found.points / 6 - face.points).max() < 0.15 * face.size


@pytest.mark.parametrize("scale", [1, 2])
def test_landmarks_count_from_the_middle_of_the_first_pixel(monkeypatch, scale):
    """As lists of landmarks do. The network counts from its corner: on 241 images of LFW, x was 0.6 pixels too large in
    the mean of an image and its mirror image."""
    detector, size = verify.Detector(), verify.DETECTED_SIDE
    pad = size // 8
    corners = np.array([30.0, 40, 70, 80, 0.99]) + [pad, pad, pad, pad, 0]
    points = np.r_[np.array([40.0, 60, 50, 42, 58]) + pad, np.array([50.0, 50, 60, 70, 70]) + pad]
    monkeypatch.setattr(detector._net, "detect", lambda *_, **__: (corners[None], points[None]))
    (face,) = detector.find(np.zeros((scale * size, scale * size, 3), np.uint8))
    assert np.allclose(face.points[0], [40 * scale - 0.5, 50 * scale - 0.5])
    assert np.allclose(face.box, [30 * scale - 0.5, 40 * scale - 0.5, 70 * scale - 0.5, 80 * scale - 0.5])


@pytest.mark.parametrize("threshold, answer, code", [("0.999999", "different", 1), ("-1", "same", 0)])
def test_the_exit_code_is_the_answer(album, artifact, capsys, threshold, answer, code):
    arguments = artifact, album[0][0], album[1][0], f"--threshold={threshold}"
    found, out, err = call(capsys, *arguments)
    assert (found, err) == (code, "")
    first, second, last = out.splitlines()
    assert first == f"{album[0][0]}: 1 face, aligned" and last.startswith(f"{answer}: score ")
    assert f"the threshold {float(threshold):.3f} of --threshold (mobilenetv2 x0.5 tvconv, onnxruntime)" in last


def test_a_model_without_a_threshold_gives_the_score_and_a_code_of_its_own(album, tmp_path, capsys):
    artifact = write_onnx(tmp_path, thresholds=None)
    code, out, _ = call(capsys, artifact, album[0][0], album[0][1])
    assert code == 3 and "score " in out and "has no threshold" in out and "tvconv_jax.data pairs" in out
    assert "same:" not in out and "different:" not in out
    code, out, _ = call(capsys, artifact, album[0][0], album[0][1], "--json")
    assert code == 3 and json.loads(out)["answer"] is None
    assert call(capsys, artifact, album[0][0], album[0][1], "--threshold=-1")[0] == 0


def test_a_model_of_drawn_faces_says_so(album, tmp_path, capsys):
    artifact = write_onnx(tmp_path, thresholds={"cosine": 0.5}, config={"data": {"source": "embedded"}})
    assert "note: " in (out := call(capsys, artifact, *album[0])[1]) and "has seen drawn faces only" in out


def test_a_photograph_without_a_face(album, artifact, tmp_path, capsys):
    for i, image in enumerate((np.full((200, 200, 3), 90), np.random.default_rng(0).integers(0, 255, (90, 120, 3)))):
        path = saved(tmp_path / f"{i}.png", image.astype(np.uint8))
        assert f"no face was found in {path}" in refusal(capsys, artifact, album[0][0], path)
    dot = saved(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8))
    assert "no face was found" in refusal(capsys, artifact, dot, dot)


def test_of_two_faces_of_equal_size_none_is_guessed(album, artifact, tmp_path, capsys):
    one, other = (verify.read_image(album[i][0]) for i in (0, 1))
    alike = verify.align_face(one, verify.landmarks_of(album[0][0], [album[0][0].parents[1] / "landmarks.txt"]), 224)
    both = side_by_side(tmp_path / "both.png", alike, np.zeros_like(alike), alike)
    line = refusal(capsys, artifact, both, album[0][0])
    assert "faces of nearly equal size: 1 (" in line and " and 2 (" in line and "--face=left" in line
    for which in ("left", "right", "2"):
        code, out, _ = call(capsys, artifact, both, album[0][0], f"--face={which}", "--face=1")
        assert code in (0, 1) and f"2 faces, --face={which} was taken" in out
    assert "--face=3: " in refusal(capsys, artifact, both, album[0][0], "--face=3")
    assert "shows 1 face; give --face twice" in refusal(capsys, artifact, album[0][0], both, "--face=2")
    for wrong in ("0", "middle", "-1"):
        assert "must be left, right" in refusal(capsys, artifact, both, both, f"--face={wrong}")
    small = np.asarray(Image.fromarray(alike).resize((90, 90)))
    ground = np.full((224, 130, 3), 128, np.uint8)
    ground[60:150, 20:110] = small
    larger = side_by_side(tmp_path / "larger.png", alike, ground)
    code, out, _ = call(capsys, artifact, larger, album[0][0])
    assert code in (0, 1) and f"{larger}: 2 faces, the largest was taken" in out


@pytest.mark.parametrize("orientation, turn", [(3, 180), (6, 90), (8, 270)])
def test_a_photograph_turned_by_exif(album, artifact, tmp_path, capsys, orientation, turn):
    upright = Image.open(album[0][0])
    exif = Image.Exif()
    exif[verify.ORIENTATION] = orientation
    path = tmp_path / "turned.png"
    upright.rotate(turn, expand=True).save(path, exif=exif)
    assert np.array_equal(verify.read_image(path), np.asarray(upright))
    code, out, _ = call(capsys, artifact, path, album[0][0])
    assert code == 0 and "score 1.000" in out


def test_images_are_read_as_training_reads_them(tmp_path):
    """Every mode of the package's decoder; verify.py has a reader of its own, because it is copied alone."""
    random = np.random.default_rng(0)
    color = random.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    alpha = np.dstack([color, color[..., :1]])
    gray = random.integers(0, 2**16, (9, 7), dtype=np.uint16)
    palette = Image.fromarray(color).quantize(8)
    images = {
        **{"rgb.png": Image.fromarray(color), "rgba.png": Image.fromarray(alpha), "p.gif": palette, "p.png": palette},
        **{"l.png": Image.fromarray(color[..., 0]), "bit.png": Image.fromarray(color[..., 0] > 99)},
        **{"16.png": Image.fromarray(gray), "16.tif": Image.fromarray(gray), "la.png": Image.fromarray(alpha[..., :2])},
        **{"a.jpg": Image.fromarray(color), "cmyk.jpg": Image.fromarray(color).convert("CMYK")},
        **{"a.webp": Image.fromarray(color), "a.bmp": Image.fromarray(color), "a.ppm": Image.fromarray(color)},
    }
    assert (verify.FORMATS, verify.MODES, verify.MAX_PIXELS) == (decoder.FORMATS, decoder.MODES, decoder.MAX_PIXELS)
    for name, image in images.items():
        for orientation in (None, 5, 6):
            exif = Image.Exif()
            if orientation and name.endswith(("jpg", "png", "webp")):
                exif[verify.ORIENTATION] = orientation
            path = tmp_path / name
            image.save(path, exif=exif)
            assert np.array_equal(verify.read_image(path), decoder.as_seen(path.read_bytes())), (name, orientation)


def test_files_that_are_not_photographs(album, artifact, tmp_path, capsys, monkeypatch):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(album[0][0].read_bytes()[:3000])
    assert "truncated" in refusal(capsys, artifact, cut, cut)
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    assert "is not an image that is read here" in refusal(capsys, artifact, text, text)
    deep = tmp_path / "deep.tif"
    Image.fromarray(np.zeros((9, 9), np.float32)).save(deep)
    assert "mode F" in refusal(capsys, artifact, deep, deep)
    assert "No such file" in refusal(capsys, artifact, tmp_path / "none.jpg", text)
    assert "cannot be read" in refusal(capsys, artifact, tmp_path, text)
    monkeypatch.setattr(verify, "MAX_PIXELS", 100)
    assert "more than 100 pixels" in refusal(capsys, artifact, album[0][0], text)


def test_an_aligned_face_is_used_as_it_is(album, artifact, tmp_path, capsys):
    image = verify.read_image(album[0][0])
    face = verify.align_face(image, verify.Detector().find(image)[0].points)
    path = saved(tmp_path / "aligned.png", face)
    code, out, _ = call(capsys, artifact, path, album[0][0])
    assert code == 0 and "it is aligned already, and used as it is" in out.splitlines()[0]
    wide = saved(tmp_path / "wide.png", np.pad(face, ((0, 0), (40, 0), (0, 0))))
    assert "1 face, aligned" in call(capsys, artifact, wide, path)[1]  # not square, so it is not


def test_without_a_detector_nothing_unaligned_is_compared(album, artifact, tmp_path, capsys, monkeypatch):
    hide(monkeypatch, "mtcnnruntime")
    line = refusal(capsys, artifact, album[0][0], album[1][0])
    for words in (
        "may not be aligned",
        "mtcnnruntime is not installed",
        "pip install mtcnn-runtime",
        "--landmarks=FILE",
    ):
        assert words in line
    assert "is not square (320x280)" in refusal(capsys, artifact, album[0][0], album[1][0], "--aligned")
    square = saved(tmp_path / "square.png", np.zeros((112, 112, 3), np.uint8) + 200)
    assert "--aligned" in refusal(capsys, artifact, square, square)
    code, out, _ = call(capsys, artifact, square, square, "--aligned")
    assert code == 0 and out.count("used as it is, because of --aligned") == 2
    lists = album[0][0].parents[1] / "landmarks.txt"
    code, out, _ = call(capsys, artifact, album[0][0], album[0][1], f"--landmarks={lists}")
    assert code in (0, 1) and out.count("aligned by the given landmarks") == 2


def test_opencv_that_lacks_a_library_of_the_system(album, artifact, capsys, monkeypatch):
    for module in [module for module in sys.modules if module.startswith("mtcnnruntime")]:
        monkeypatch.delitem(sys.modules, module)
    hide(monkeypatch, "cv2", ImportError("libGL.so.1: cannot open shared object file"))
    line = refusal(capsys, artifact, album[0][0], album[1][0])
    assert "libGL.so.1" in line and "sudo apt-get install libgl1" in line and "opencv-python-headless" in line


def test_landmarks_that_do_not_fit(album, artifact, tmp_path, capsys):
    one, other = album[0][:2]
    lines = (one.parents[1] / "landmarks.txt").read_text().splitlines()
    numbers = lines[0].split()[1:]

    def said(*texts):
        lists = []
        for i, text in enumerate(texts):
            (tmp_path / f"{i}.txt").write_text(text)
            lists.append(f"--landmarks={tmp_path / f'{i}.txt'}")
        return refusal(capsys, artifact, one, other, *lists)

    swapped = [*numbers[2:4], *numbers[:2], *numbers[4:6], *numbers[8:], *numbers[6:8]]
    assert "left eye, right eye (as seen" in said(f"{one.name} {' '.join(swapped)}\n")
    assert "lie outside of it (320x280)" in said(" ".join([one.name, *(str(float(n) + 900) for n in numbers)]))
    shares = [str(float(number) / 300) for number in numbers]
    assert "in pixels" in said(" ".join([one.name, *shares]))
    assert ":1: " in said(f"{one.name} 1 2 3")
    assert "two lines" in said(lines[0] + "\n" + lines[0].replace("0.jpg ", "0.jpg 1"))
    assert "given once" in said("", "", "")
    assert "cannot be read" in refusal(capsys, artifact, one, other, f"--landmarks={tmp_path}")
    (tmp_path / "utf16.txt").write_text("\n".join(lines), encoding="utf-16")
    assert np.array_equal(verify.landmarks_of(one, [tmp_path / "utf16.txt"])[0], [float(n) for n in numbers[:2]])


def test_landmarks_of_another_place_are_said(album, artifact, tmp_path, capsys, monkeypatch):
    one, other = album[0][:2]
    lines = [line.split() for line in (one.parents[1] / "landmarks.txt").read_text().splitlines()[:2]]
    half = [[name, *(str(float(number) / 2) for number in numbers)] for name, *numbers in lines]
    for name, wanted, found in (("right", lines, False), ("half", half, True)):
        (tmp_path / name).write_text("\n".join(map(" ".join, wanted)))
        out = call(capsys, artifact, one, other, f"--landmarks={tmp_path / name}")[1]
        assert out.count("doubtful, because the detector finds the face elsewhere") == 2 * found
    hide(monkeypatch, "mtcnnruntime")
    assert "doubtful" not in call(capsys, artifact, one, other, f"--landmarks={tmp_path / 'half'}")[1]


@pytest.mark.parametrize(
    ("angle", "box", "words"),
    [
        (0, (60, 60, 160, 160), ""),
        (0.35, (60, 60, 160, 160), ""),
        (0.6, (60, 60, 160, 160), "rotated by some 34 degrees"),
        (-0.6, (60, 60, 160, 160), "rotated by some 34 degrees"),
        (0, (-30, 60, 70, 160), "is cut off"),
        (0, (10, 10, 210, 210), "fills its image"),
    ],
)
def test_a_face_whose_landmarks_may_be_wrong_is_said(angle, box, words, album, monkeypatch):
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    face = verify.Face((verify.TEMPLATE - 56) @ turn + 110, box, 0.99)
    monkeypatch.setattr(verify, "read_image", lambda path: np.zeros((220, 220, 3), np.uint8))
    monkeypatch.setattr(verify.Detector, "find", lambda self, image: [face])
    text = verify.prepare(album[0][0], [], "", False).text
    assert text.startswith("1 face, aligned") and words in text and ("doubtful" in text) == bool(words)


def test_one_list_for_each_photograph(album, artifact, tmp_path, capsys):
    """Both photographs have the same name and are in no list together."""
    lists, copies = [], []
    lines = (album[0][0].parents[1] / "landmarks.txt").read_text().splitlines()
    for i in (0, 1):
        (tmp_path / str(i)).mkdir()
        copies.append(shutil.copy(album[i][0], tmp_path / str(i) / "me.jpg"))
        (tmp_path / f"{i}.txt").write_text("me.jpg " + lines[2 * i].split(" ", 1)[1])
        lists.append(f"--landmarks={tmp_path / f'{i}.txt'}")
    apart = json.loads(call(capsys, artifact, *copies, *lists, "--json")[1])["score"]
    all_lines = f"--landmarks={album[0][0].parents[1] / 'landmarks.txt'}"
    together = json.loads(call(capsys, artifact, album[0][0], album[1][0], all_lines, "--json")[1])["score"]
    assert apart == together


def test_artifacts_that_do_not_compare_faces(album, tmp_path, capsys, monkeypatch):
    one = album[0][0]
    segments = write_onnx(tmp_path / "segments", output="logits", config={"task": "segmentation"})
    assert "is not a model of faces: it is for segmentation" in refusal(capsys, segments, one, one)
    assert "holds no metadata" in refusal(capsys, write_onnx(tmp_path / "bare", text="{}"), one, one)
    for name, line in (("model.pt2", "end in .onnx or .safetensors"), ("none.onnx", "is not there")):
        if name != "none.onnx":
            (tmp_path / name).write_bytes(b"0")
        assert line in refusal(capsys, tmp_path / name, one, one)
    (tmp_path / "model.onnx").write_bytes(b"")
    assert "truncated" in refusal(capsys, tmp_path / "model.onnx", one, one)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    command = refusal(capsys, tmp_path / "run", one, one).partition("export it: python -m tvconv_jax.export ")[2]
    options = export_parser().parse_args(shlex.split(command))
    assert options.workdir == tmp_path / "run" and options.out == tmp_path / "run" / "export"
    artifact = write_onnx(tmp_path / "export", thresholds={"cosine": 0.5})
    assert "--runtime=native does not run" in refusal(capsys, artifact, one, one, "--runtime=native")
    hide(monkeypatch, "onnxruntime")
    line = refusal(capsys, artifact, one, one, "--aligned")
    assert "onnxruntime cannot be imported" in line and "pip install onnxruntime" in line


def write_native(folder):
    write_onnx(folder, thresholds={"cosine": 0.5})
    tensor = {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, WEIGHTS.nbytes]}
    about = {"tvconv_jax": metadata(thresholds={"cosine": 0.25})}
    header = json.dumps({"__metadata__": about, "weights": tensor}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + WEIGHTS.tobytes())
    (folder / "native.py").write_text(NATIVE_PY)
    (folder / "native.cpp").write_text("")
    return folder


def test_code_beside_a_model_is_run_if_an_exporter_wrote_it(album, tmp_path, capsys):
    folder, one, other = write_native(tmp_path / "export"), album[0][0], album[1][0]
    artifact = folder / "model.safetensors"
    assert "native.cpp is code that python -m tvconv_jax.export did not write" in refusal(capsys, artifact, one, other)
    packaged = verify.Path(verify.__file__).parents[1] / "export" / "native" / "native.cpp"
    shutil.copy(packaged, folder)
    assert "native.py is code that" in refusal(capsys, artifact, one, other)
    result = json.loads(call(capsys, artifact, one, other, "--run-code", "--json")[1])
    assert result["threshold"] == 0.25 and result["model"].endswith("native")
    onnx = json.loads(call(capsys, folder, one, other, "--json")[1])  # a folder: ONNX first
    assert onnx["artifact"] == str(folder / "model.onnx") and onnx["score"] == pytest.approx(result["score"], abs=1e-6)
    native = call(capsys, folder, one, other, "--runtime=native", "--run-code", "--json")[1]
    assert json.loads(native)["artifact"] == str(artifact)
    (folder / "native.py").unlink()
    assert "native.py is not there" in refusal(capsys, artifact, one, other)
    artifact.write_bytes(artifact.read_bytes()[:-1])
    assert "truncated" in refusal(capsys, artifact, one, other)


def test_it_knows_the_code_and_checks_onnx_as_the_benchmark():
    for name, digests in verify.KNOWN_CODE.items():
        assert digests == benchmark.KNOWN_CODE[name] and verify.PACKAGED[name] == benchmark.PACKAGED[name]
    assert verify._ONNX == benchmark._ONNX
    for name in ("_fields", "_varint"):
        assert inspect.getsource(getattr(verify, name)) == inspect.getsource(getattr(benchmark, name))


def test_a_copied_file_loads_no_package_of_ours(album, artifact, tmp_path):
    assert "same: score 1.000" in run_copied(verify, tmp_path, artifact, album[0][0], album[0][0])


def test_the_package_has_the_same_command(album, artifact, capsys):
    with pytest.raises(SystemExit) as info:
        command.main([artifact, *map(str, album[0])])
    assert info.value.code in (0, 1) and ": score " in capsys.readouterr().out


def test_a_bug_does_not_look_like_an_answer(album, artifact, capsys, monkeypatch):
    monkeypatch.setattr(verify, "prepare", lambda *_: 1 / 0)
    code, out, err = call(capsys, artifact, album[0][0], album[0][0])
    assert (code, out) == (2, "") and "ZeroDivisionError" in err


def test_the_exit_code_is_the_answer_even_if_nobody_reads_the_output(artifact, tmp_path):
    face = saved(tmp_path / "face.png", np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8))
    command = [sys.executable, verify.__file__, artifact, face, face, "--aligned", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_help_lists_the_exit_codes(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0 and "Exit codes: 0 same, 1 different" in out
    assert io.StringIO(out).readline().startswith("usage")
