"""Classes, masks and answers for one's own images, from tiny models whose outputs are known; and what is refused."""

import csv
import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax.image
import numpy as np
import onnx
import pytest
from copied import commands, run_copied
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from test_edge import metadata, write_onnx

from tvconv_jax import predict as command
from tvconv_jax.data import decoder, listing
from tvconv_jax.edge import predict, verify
from tvconv_jax.export import artifacts
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, make_run

call, refusal = commands(predict)

SIZE = HEIGHT, WIDTH = 4, 6
CLASSES = ["dark", "red", "green"]
# Logits from the mean colors of an image: red and green win over dark where they are above the middle.
KERNEL, BIAS = np.array([[0, 3, 0], [0, 0, 5], [0, 0, 0]], np.float32), np.array([0.0, 0.1, 0.2], np.float32)


def about(task, /, **fields):
    """The metadata of an artifact as the export writes it."""
    shape = [None, 3] + [HEIGHT, WIDTH] * (task == "segmentation")
    own = {"task": task, "classes": CLASSES} if task != "verification" else {"task": task}
    found = {"input": {"name": "images", "shape": [None, 3, HEIGHT, WIDTH]}, "config": {"task": task}}
    name = "embeddings" if task == "verification" else "logits"
    return json.loads(metadata()) | own | found | {"output": {"name": name, "shape": shape}} | fields


def write_artifact(folder, task, *formats, **fields):
    """An export of a graph with one layer, at a size that is not square."""
    graph = Graph(SIZE)
    options = {"strides": 1, "padding": 0, "dilation": 1, "groups": 1, "activation": "identity"}
    x = graph.add("conv", 0, arrays={"kernel": KERNEL[None, None], "bias": BIAS}, **options)
    if task == "segmentation":
        graph.add("resize", x, grid=SIZE)
    else:
        same = {"kernel": np.eye(3, dtype=np.float32), "bias": np.zeros(3, np.float32)}
        graph.add("linear", graph.add("mean", x, keep_grid=False), arrays=same)
    images = np.random.default_rng(0).uniform(-1, 1, (2, *SIZE, 3)).astype(np.float32)
    expected = np.asarray(make_run(graph)(arrays_of(graph), images))
    expected = expected.transpose(0, 3, 1, 2) if expected.ndim == 4 else expected
    options = {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2)), "expected": expected}
    artifacts.write(folder, graph, about(task, **fields), formats=formats or ("onnx",), precision="float32", **options)
    return folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """An artifact of each task."""
    base = tmp_path_factory.mktemp("exports")
    fields = {"classification": {"temperature": 2.0}, "verification": {"thresholds": {"cosine": 0.9}}}
    tasks = ("classification", "segmentation", "verification")
    return {task: write_artifact(base / task, task, **fields.get(task, {})) for task in tasks}


def filled(path, color, size=(WIDTH, HEIGHT), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


def test_classes_and_calibrated_probabilities(exports, tmp_path, capsys):
    red, dark = filled(tmp_path / "a.png", (255, 0, 0)), filled(tmp_path / "b.png", (0, 0, 0))
    code, out, err = call(capsys, exports["classification"], red, dark, "--json", f"--csv={tmp_path / 'table.csv'}")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err, [row["class"] for row in rows]) == (0, "", ["red", "dark"])
    logits = np.array([1, -1, -1]) @ KERNEL + BIAS
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum()  # the temperature is 2
    assert [rows[0][f"probability.{name}"] for name in CLASSES] == pytest.approx(expected.tolist(), abs=1e-6)  # float32
    assert rows[0]["probability"] == rows[0]["probability.red"]
    with (tmp_path / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["file"], row["class"]) for row in table] == [(str(red), "red"), (str(dark), "dark")]
    code, out, _ = call(capsys, exports["classification"] / "model.onnx", red, "--top=2")
    assert (code, out) == (0, f"{red}: red {expected[1]:.1%}, dark {expected[0]:.1%}\n")


def test_folders_are_listed_sorted_without_junk_in_batches(exports, tmp_path, capsys):
    base = tmp_path / "images"
    names = ["a/2.png", "a/10.jpg", "b/1.PNG", "c.bmp"]
    for name in (*names, ".hidden.png", "@eaDir/thumb.png", "a/~$x.png"):
        filled(base / name, (0, 255, 0), format="PNG" if name.endswith("PNG") else None)
    (base / "notes.txt").write_text("not an image")
    (base / "a" / "above").symlink_to(base)
    (base / "linked").symlink_to(tmp_path / "elsewhere")
    filled(tmp_path / "elsewhere" / "d.png", (0, 255, 0))
    code, out, err = call(capsys, exports["classification"], base, "--batch=2")
    assert code == 0 and [line.split(": ")[0] for line in out.splitlines()] == [
        str(base / name) for name in (*sorted(names), "linked/d.png")
    ]
    assert err == f"note: left out 1 files that are not images ({base / 'notes.txt'})\n"
    assert predict.JUNK_NAMES == listing.JUNK_NAMES
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refusal(capsys, exports["classification"], tmp_path / "empty")


def test_links_that_go_in_a_circle_add_no_images(exports, tmp_path, capsys):
    filled(tmp_path / "a" / "x.png", (255, 0, 0))
    filled(tmp_path / "b" / "y.png", (0, 0, 0))
    for name, target in (("a/to_b", "b"), ("b/to_a", "a"), ("a/up", "..")):
        (tmp_path / name).symlink_to(tmp_path / target)
    code, out, err = call(capsys, exports["classification"], tmp_path / "a")
    names = [line.split(":")[0].removeprefix(f"{tmp_path}/") for line in out.splitlines()]
    assert (code, err, names) == (0, "", ["a/to_b/y.png", "a/x.png"])


def test_a_name_with_a_line_end_is_one_line(exports, tmp_path, capsys):
    path = filled(tmp_path / "new\nline.png", (255, 0, 0))
    code, out, _ = call(capsys, exports["classification"], path)
    assert code == 0 and len(out.splitlines()) == 1 and r"new\nline.png: red" in out


def test_a_table_is_not_written_over_a_mask(exports, tmp_path, capsys):
    path, to = filled(tmp_path / "x.png", (255, 0, 0)), tmp_path / "masks"
    err = refusal(capsys, exports["segmentation"], path, f"--out={to}", f"--csv={to / 'x.png'}")
    assert "x.png is the mask of" in err and not to.exists()


def test_an_image_that_cannot_be_read_is_one_line_and_the_others_are_predicted(exports, tmp_path, capsys):
    good, bad = filled(tmp_path / "a.png", (255, 0, 0)), filled(tmp_path / "b.jpg", 0, (99, 99))
    bad.write_bytes(bad.read_bytes()[:-99])
    Image.new("F", (3, 3)).save(tmp_path / "f.tif")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "links" / "pipe.png")  # not opened: nothing would come
    assert "gone.png cannot be read (No such file" in refusal(capsys, exports["classification"], tmp_path / "links")
    cases = {
        bad: "truncated or its data is damaged",
        tmp_path / "none.png": "No such file",
        tmp_path / "f.tif": "mode F",
    }
    (tmp_path / "x.heic").write_bytes(b"ftypheic" * 9)
    for path, words in (cases | {tmp_path / "x.heic": "not an image that is read here"}).items():
        code, out, err = call(capsys, exports["classification"], path, good)
        error, note = err.splitlines()  # the note is of several images
        assert code == 2 and out.startswith(f"{good}: red ") and out.count("\n") == 1
        assert words in error and error.startswith(f"error: {path} ")
        assert note == f"note: 1 of 2 images could not be read ({path})"
        assert words in refusal(capsys, exports["classification"], path)  # alone it is one line


def test_images_are_read_and_resized_as_training_does(tmp_path):
    random = np.random.default_rng(0)
    color = random.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    alpha, gray = np.dstack([color, color[..., :1]]), random.integers(0, 2**16, (9, 7), dtype=np.uint16)
    images = {
        **{"rgb.png": color, "rgba.png": alpha, "l.png": color[..., 0], "bit.png": color[..., 0] > 99, "16.png": gray},
        **{"16.tif": gray, "la.png": alpha[..., :2], "a.jpg": color, "a.webp": color, "a.bmp": color, "a.ppm": color},
    }
    images = {name: Image.fromarray(array) for name, array in images.items()}
    images |= {"p.png": images["rgb.png"].quantize(8), "cmyk.jpg": images["rgb.png"].convert("CMYK")}
    assert (predict.FORMATS, predict.MODES, predict.MAX_PIXELS) == (
        decoder.FORMATS,
        decoder.MODES,
        decoder.MAX_PIXELS,
    )
    for name, image in images.items():
        image.save(tmp_path / name)
        found, orientation = predict.read_image(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        assert np.array_equal(found, decoder.pixels(data)) and orientation == 1, name
        for size in ((4, 6), (20, 5), (9, 7)):
            assert np.array_equal(predict.resize(found, size), decoder.decode(data, size)), (name, size)


def test_what_makes_a_prediction_doubtful_is_said_once(exports, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [filled(tmp_path / f"{i}.jpg", (255, 0, 0), (40, 60), exif=exif) for i in range(3)]
    assert np.array_equal(predict.read_image(paths[0])[0], decoder.pixels(paths[0].read_bytes()))
    filled(tmp_path / "right.png", 0, (60, 40))
    code, out, err = call(capsys, exports["classification"], tmp_path)
    assert code == 0 and len(out.splitlines()) == 4
    assert err.splitlines() == [
        f"note: 3 of 4 images {predict.ROTATED} ({paths[0]})",
        f"note: 3 of 4 images {predict.STRETCHED.format(4, 6)} ({paths[0]})",
    ]


@pytest.mark.parametrize("size", [(4, 6), (9, 11), (3, 2), (40, 6)])
def test_logits_are_resized_as_the_evaluation_does(size):
    logits = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    expected = jax.image.resize(logits, size, "bilinear", antialias=False)
    assert np.allclose(predict.resize_logits(logits, size), expected, atol=1e-6)  # float32


def halves(path, left, right, size=(12, 8)):
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("fields", "values", "colors"),
    [
        ({}, (1, 2), None),
        ({"mask_values": [0, 128, 7]}, (128, 7), None),
        ({"mask_values": ["#000000", "#ff0000", "#00ff00"]}, (1, 2), ((255, 0, 0), (0, 255, 0))),
        ({"mask_values": [0, 65535, 300]}, (65535, 300), None),
    ],
)
def test_masks_have_the_size_of_their_image_and_the_values_of_the_training(fields, values, colors, tmp_path, capsys):
    artifact = write_artifact(tmp_path / "export", "segmentation", **fields)
    image, out = halves(tmp_path / "a.jpg", (255, 0, 0), (0, 255, 0)), tmp_path / "masks"
    code, text, err = call(capsys, artifact, image, f"--out={out}", "--overlay")
    assert (code, text, err) == (0, f"{image}: dark 0.0%, red 50.0%, green 50.0%\n", "")
    with Image.open(out / "a.png") as file:
        mask, rgb = np.asarray(file), np.asarray(file.convert("RGB"))
    assert mask.shape == (8, 12) and (mask[0, 0], mask[0, -1]) == values
    if colors:
        assert (tuple(rgb[0, 0]), tuple(rgb[0, -1])) == colors
    with Image.open(out / "a_overlay.png") as file:
        overlay = np.asarray(file)
    assert overlay.shape == (8, 12, 3) and not np.array_equal(overlay, predict.read_image(image)[0])
    assert sorted(os.listdir(out)) == ["a.png", "a_overlay.png"]  # no part is left


@pytest.mark.parametrize(
    "fields",
    [
        {"classes": ["dark", "Background", "green"]},
        {"background": "red"},
        {"background": "red", "mask_values": ["#000000", "#0000ff", "#00ff00"]},
    ],
)
def test_the_background_is_not_drawn_over(fields, tmp_path, capsys):
    artifact = write_artifact(tmp_path / "export", "segmentation", **fields)
    image = filled(tmp_path / "a.png", (255, 0, 0))
    call(capsys, artifact, image, f"--out={tmp_path}/out", "--overlay")
    with Image.open(tmp_path / "out" / "a_overlay.png") as file:
        assert np.array_equal(np.asarray(file), predict.read_image(image)[0])


def test_masks_of_folders_keep_their_places_and_nothing_is_overwritten(exports, tmp_path, capsys):
    for name in ("images/x/1.png", "images/y/1.png"):
        filled(tmp_path / name, (255, 0, 0))
    out, artifact = tmp_path / "out", exports["segmentation"]
    code, text, _ = call(capsys, artifact, tmp_path / "images", f"--out={out}", "--json")
    rows = [json.loads(line) for line in text.splitlines()]
    assert code == 0 and [row["mask"] for row in rows] == [str(out / "x/1.png"), str(out / "y/1.png")]
    assert rows[0]["share.red"] == 1
    before = (out / "x/1.png").read_bytes()
    assert "exists and would be overwritten" in refusal(capsys, artifact, tmp_path / "images", f"--out={out}")
    assert (out / "x/1.png").read_bytes() == before
    both = [tmp_path / "images/x/1.png", tmp_path / "images/y/1.png"]
    assert "would both be" in refusal(capsys, artifact, *both, f"--out={tmp_path / 'other'}")
    (tmp_path / "file").write_text("mine")
    assert "cannot be written" in refusal(capsys, artifact, both[0], f"--out={tmp_path / 'file'}")
    taken = f"--csv={tmp_path / 'file'}"
    assert "exists and would be overwritten" in refusal(capsys, artifact, both[0], taken)
    assert (tmp_path / "file").read_text() == "mine"
    for flags in (["--overlay"], [f"--out={out}"]):
        line = refusal(capsys, exports["classification"] if "out" in flags[0] else artifact, both[0], *flags)
        assert "are for segmentation" in line


@pytest.mark.parametrize("fields", [{}, {"task": "segmentation", "classes": ["cup", "disc"], "activation": "sigmoid"}])
def test_fundus_models_have_thresholds_and_masks_as_their_data(fields, tmp_path, capsys):
    """Two sigmoids; artifacts from before ``task`` and ``classes`` too."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "kernel"], ["logits"], kernel_shape=[1, 1])],
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, *SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, *SIZE])],
        [numpy_helper.from_array(np.array([[3, 0, 0], [3, 3, 0]], np.float32).reshape(2, 3, 1, 1), "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    config = {"task": "segmentation", "eval": {"threshold": 0.75}}
    own = {"input": {"shape": [None, 3, *SIZE]}, "output": {"name": "logits", "shape": [None, 2, *SIZE]}}
    text = json.dumps(json.loads(metadata()) | own | {"config": config} | fields)
    helper.set_model_props(model, {"tvconv_jax": text})
    onnx.save(model, tmp_path / "model.onnx")
    # Red is cup and disc (logits 3 and 0 + 3); gray of 0.6 has logits 0.6 and 1.2, and 1.2 alone is above log 3.
    image = halves(tmp_path / "a.png", (255, 128, 0), (153, 153, 0), SIZE[::-1])
    code, out, _ = call(capsys, tmp_path, image, f"--out={tmp_path / 'out'}")
    assert (code, out) == (0, f"{image}: cup 50.0%, disc 100.0%\n")
    mask = decoder.gray((tmp_path / "out" / "a.png").read_bytes())  # as the masks of a training are read
    assert np.array_equal(mask, np.repeat([[0] * 3 + [128] * 3], 4, axis=0))


def test_others_are_compared_with_the_first(exports, tmp_path, capsys):
    red, redder = filled(tmp_path / "a.png", (250, 0, 0)), filled(tmp_path / "b.png", (255, 0, 0))
    green, artifact = filled(tmp_path / "c.png", (0, 255, 0)), exports["verification"]
    code, out, err = call(capsys, artifact, red, redder)
    assert (code, err) == (0, "") and out.startswith(f"{redder}: same: score 1.000, above the threshold 0.900")
    code, out, _ = call(capsys, artifact, red, redder, green, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and [row["answer"] for row in rows] == ["same", "different"]
    one, other = (np.array(color) @ KERNEL + BIAS for color in ([250 / 127.5 - 1, -1, -1], [-1, 1, -1]))
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert rows[1]["score"] == pytest.approx(cosine, abs=1e-6) and rows[1]["threshold"] == 0.9  # float32
    assert "name two or more" in refusal(capsys, artifact, red)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    assert "not an image" in refusal(capsys, artifact, bad, red)
    code, out, _ = call(capsys, artifact, red, bad, green)
    assert code == 2 and out.startswith(f"{green}: different")


def test_without_a_threshold_there_is_no_answer(tmp_path, capsys):
    images = [filled(tmp_path / f"{i}.png", (250, i, 0)) for i in range(2)]
    code, out, _ = call(capsys, write_artifact(tmp_path / "export", "verification", thresholds=None), *images)
    assert code == 3 and out.startswith(f"{images[1]}: no answer: score 1.000; the model has no threshold")


def test_faces_must_be_aligned_and_older_artifacts_of_them_work(tmp_path, capsys):
    artifact = write_onnx(tmp_path / "faces", thresholds={"cosine": 0.5}, config={"task": "face"})
    images = [filled(tmp_path / f"{i}.png", (250, i, 0), (6, 6)) for i in range(2)]
    code, out, err = call(capsys, artifact, *images)
    assert code == 0 and out.startswith(f"{images[1]}: same: score 1.000")
    assert err == f"note: 2 of 2 images {predict.FACES} ({images[0]})\n"
    photograph = filled(tmp_path / "photograph.jpg", 0, (60, 40))
    line = refusal(capsys, artifact, photograph, images[0])
    assert "is 60x40, no aligned face of 6x6; python -m tvconv_jax.verify finds and aligns" in line


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": "landmarks"}, "is for 'landmarks', which this command does not know"),
        ({"classes": ["dark", "red"]}, "does not name the classes of its 3 outputs"),
        ({"classes": ["dark", "red", "red"]}, "does not name the classes of its 3 outputs"),
        ({"classes": None}, "does not name the classes of its 3 outputs"),
        ({"temperature": 0}, "holds no metadata of tvconv_jax"),
        ({"temperature": -1}, "holds no metadata of tvconv_jax"),
        ({"temperature": "hot"}, "holds no metadata of tvconv_jax"),
        ({"input": {"shape": [None, 1, 4, 6]}}, "holds no metadata of tvconv_jax"),
        ({"input": None}, "holds no metadata of tvconv_jax"),
        ({"config": {"eval": []}, "activation": "sigmoid"}, ""),
        ({"mask_values": [1, 2]}, "holds no metadata of tvconv_jax"),
    ],
)
def test_metadata_that_do_not_fit(fields, words, exports, tmp_path, capsys):
    model = onnx.load(exports["classification"] / "model.onnx")
    helper.set_model_props(model, {"tvconv_jax": json.dumps(about("classification", **fields))})
    onnx.save(model, tmp_path / "model.onnx")
    image = filled(tmp_path / "a.png", (255, 0, 0))
    if words:
        assert words in refusal(capsys, tmp_path, image)


def test_files_that_are_no_artifacts(exports, tmp_path, capsys, monkeypatch):
    image = filled(tmp_path / "a.png", (255, 0, 0))
    assert "holds no artifact for this command" in refusal(capsys, tmp_path, image)
    (tmp_path / "config.json").write_text("{}")
    hint = f"is the workdir of a run; export it: python -m tvconv_jax.export --workdir={tmp_path} --formats=onnx --out="
    assert hint in refusal(capsys, tmp_path, image)
    assert "is not there" in refusal(capsys, tmp_path / "none.onnx", image)
    assert "is not a file that this command runs" in refusal(capsys, image, image)
    (tmp_path / "b.onnx").write_bytes(b"<html>")
    assert "cannot be loaded by onnxruntime" in refusal(capsys, tmp_path / "b.onnx", image)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install onnxruntime; on a Raspberry Pi 4" in refusal(capsys, exports["classification"], image)


def test_weights_in_other_files_are_refused_also_with_odd_lengths(exports, tmp_path, capsys):
    image = filled(tmp_path / "a.png", (255, 0, 0))
    model = onnx.load(exports["classification"] / "model.onnx")
    tensor = next(one for one in model.graph.initializer if one.raw_data)
    tensor.data_location = TensorProto.EXTERNAL
    (tmp_path / "secret").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="secret")
    data = model.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(data)
    assert "keeps weights in other files" in refusal(capsys, tmp_path, image)
    with pytest.raises(verify.Mistake, match="keeps weights in other files"):
        verify.check_onnx(tmp_path / "model.onnx")
    assert data.count(b"\x0a\x08location") == 1
    # A longer form of the length 8; the lengths around it no longer fit, but the check comes first.
    (tmp_path / "model.onnx").write_bytes(data.replace(b"\x0a\x08location", b"\x0a\x88\x80\x00location"))
    assert "keeps weights in other files" in refusal(capsys, tmp_path, image)
    named = write_artifact(tmp_path / "location", "classification", classes=["location", "locations", "location of"])
    assert call(capsys, named, image)[0] == 0  # a word in the metadata is not a key


def test_outputs_that_are_not_finite_are_refused(exports, tmp_path, capsys):
    model = onnx.load(exports["classification"] / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.raw_data and numpy_helper.to_array(tensor).dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.nan), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    assert "not finite" in refusal(capsys, tmp_path, filled(tmp_path / "a.png", (255, 0, 0)))


def test_it_shares_functions_with_verify():
    """Both are copied alone, so neither can import the other; what they share is one text."""
    native = ("find_artifact", "_in_folder", "_native", "_code", "_safetensors_metadata")
    for name in ("Mistake", "_rgb", "_explained", "_Parser", *native):
        assert inspect.getsource(getattr(predict, name)) == inspect.getsource(getattr(verify, name)), name
    assert (predict.DIFFERENT, predict.MISTAKE, predict.NO_THRESHOLD) == (1, verify.MISTAKE, verify.NO_THRESHOLD)
    assert (predict.PI_HINT, predict.ORIENTATION) == (verify.PI_HINT, verify.ORIENTATION)
    assert (predict.KNOWN_CODE, predict.PACKAGED) == (verify.KNOWN_CODE, verify.PACKAGED)


def test_the_export_writes_the_program_that_runs_it(exports, tmp_path):
    for folder in exports.values():
        assert (folder / "predict.py").read_bytes() == open(predict.__file__, "rb").read()
        assert not (folder / "verify.py").exists()
    assert artifacts.programs(about("verification", config={"task": "face"}), ["native"]) == [verify]
    assert artifacts.programs(about("classification"), ["torch", "native"]) == [predict]
    assert artifacts.programs(about("classification"), ["torch"]) == []


def test_a_copied_file_loads_no_package_of_ours(exports, tmp_path):
    image = filled(tmp_path / "a.png", (255, 0, 0))
    assert run_copied(predict, tmp_path, exports["classification"], image).startswith(f"{image}: red ")


def test_the_command_imports_no_jax_and_the_package_has_its_names_all_the_same():
    code = (
        "import sys, tvconv_jax.predict, tvconv_jax.edge.predict; assert not {'jax', 'flax'} & {*sys.modules}\n"
        "names = [name for names in tvconv_jax._HOMES.values() for name in names]\n"
        "assert sorted(names) == tvconv_jax.__all__ and {*names} <= {*dir(tvconv_jax)}\n"
        "from tvconv_jax import *\n"
        "assert TVConv is tvconv_jax.nn.layers.TVConv and callable(tvconv_jax.models.create_model)\n"
        "assert not hasattr(tvconv_jax, 'TvConv') and 'jax' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_has_the_same_command(exports, tmp_path, capsys, monkeypatch):
    image = filled(tmp_path / "a.png", (255, 0, 0))
    with pytest.raises(SystemExit, match="0"):
        command.main([str(exports["classification"]), str(image)])
    assert capsys.readouterr().out.startswith(f"{image}: red ")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SystemExit, match="2"):
        command.main([str(exports["classification"]), str(image)])
    line = "error: PIL is not installed; python -m tvconv_jax.predict needs it: pip install 'tvconv_jax[data]'.\n"
    assert capsys.readouterr().err == line


def run_exported(folder, *arguments):
    """What the program in an exported folder prints, without onnxruntime."""
    hidden = folder.parent / "hidden" / "onnxruntime.py"
    hidden.parent.mkdir(exist_ok=True)
    hidden.write_text("raise ImportError('it is not installed')")
    done = subprocess.run(
        [sys.executable, "predict.py", "model.safetensors", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(hidden.parent)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_native_artifacts_of_every_task_answer_as_onnx_in_their_folder_too(exports, tmp_path, capsys):
    red, green = filled(tmp_path / "a.png", (255, 0, 0)), halves(tmp_path / "b.png", (255, 0, 0), (0, 255, 0))
    extra = {"classification": {"temperature": 2.0}, "verification": {"thresholds": {"cosine": 0.9}}}
    for task, onnx_export in exports.items():
        folder = write_artifact(tmp_path / task, task, "native", **extra.get(task, {}))
        assert not (folder / "model.onnx").exists()
        capsys.readouterr()  # progress, while the engine is compiled
        masks = [f"--out={tmp_path / 'onnx'}"] if task == "segmentation" else []
        expected = call(capsys, onnx_export, red, green, *masks)
        masks = [f"--out={tmp_path / 'native'}"] if masks else []
        assert run_exported(folder, red, green, *masks) == expected and expected[0] == (task == "verification")
        if task != "segmentation":
            assert call(capsys, folder, red, green) == expected
    for name in ("a.png", "b.png"):
        assert (tmp_path / "native" / name).read_bytes() == (tmp_path / "onnx" / name).read_bytes()


def test_code_beside_a_model_is_run_if_an_exporter_wrote_it(tmp_path, capsys):
    folder, image = write_artifact(tmp_path / "export", "classification", "native"), filled(tmp_path / "a.png", 0)
    capsys.readouterr()  # progress, while the engine is compiled
    artifact, fake = folder / "model.safetensors", "import numpy\ndef load(path, threads): return lambda x: 1 / 0\n"
    for name in ("native.cpp", "native.py"):
        whole = (folder / name).read_bytes()
        (folder / name).write_text(fake)
        line = refusal(capsys, artifact, image)
        assert f"{name} is code that python -m tvconv_jax.export did not write" in line and "--run-code" in line
        (folder / name).write_bytes(whole)
    (folder / "native.py").write_text(fake)
    assert "fails: division by zero" in refusal(capsys, artifact, image, "--run-code")
    assert "--runtime=onnxruntime does not run" in refusal(capsys, artifact, image, "--runtime=onnxruntime")
    (folder / "native.cpp").unlink()
    assert "native.cpp is not there; copy the whole folder" in refusal(capsys, artifact, image)
    (folder / "native.py").unlink()  # as an export with --formats=torch
    assert "holds no artifact for this command; export with --formats=onnx or native" in refusal(capsys, folder, image)
    artifact.write_bytes(artifact.read_bytes()[:-1])
    assert "truncated" in refusal(capsys, artifact, image)
    (folder / "model.pt2").write_bytes(b"PK")
    assert "export with --formats=onnx or native" in refusal(capsys, folder / "model.pt2", image)


def test_a_bug_does_not_look_like_an_answer(exports, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict, "prepare", lambda *_: 1 / 0)
    code, out, err = call(capsys, exports["classification"], filled(tmp_path / "a.png", 0))
    assert (code, out) == (2, "") and "ZeroDivisionError" in err


def test_help_lists_the_exit_codes_and_numbers_are_checked(exports, tmp_path, capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0 and "Exit codes: 0 done" in out and io.StringIO(out).readline().startswith("usage")
    assert predict.parser().parse_args(["a", "b", "--out=~/masks"]).out == Path.home() / "masks"
    for flag in ("--top=0", "--batch=-1", "--batch=x"):
        assert "must be a whole number from 1" in refusal(capsys, exports["classification"], tmp_path, flag)
