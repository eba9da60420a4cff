"""Verification of one's own identities: gray images that are not square, of several formats, up to the artifact."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from tvconv_jax.data.__main__ import main as data_main
from tvconv_jax.data.formats.folder import load
from tvconv_jax.data.image_size import choose_size
from tvconv_jax.data.listing import DECODED_SUFFIXES
from tvconv_jax.edge.verify import Mistake
from tvconv_jax.edge.verify import load as load_faces_model
from tvconv_jax.export.exporting import export
from tvconv_jax.tasks import load_task, small_data
from tvconv_jax.tasks.affinity import statistics
from tvconv_jax.tasks.configs import face_config, verification_config
from tvconv_jax.tasks.face import FaceJob
from tvconv_jax.tasks.limits import check_values
from tvconv_jax.tasks.saved_config import check_workdir, read_config
from tvconv_jax.tasks.workdir import load_model
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import height_width, parse_size

pytestmark = pytest.mark.usefixtures("barely_optimized")

HEIGHT, WIDTH = 20, 28
SUFFIXES = (".bmp", ".tif", ".png", ".pgm")


def draw(root, identities=12, images=4, size=(HEIGHT, WIDTH)):
    """Gray images of identities, each a pattern of its own with noise, in four formats; one of them of 16 bits."""
    random = np.random.default_rng(0)
    for i in range(identities):
        pattern = np.kron(random.integers(40, 200, (4, 4)), np.ones((size[0] // 4, size[1] // 4)))
        for j in range(images):
            values = pattern + random.integers(0, 30, pattern.shape)
            gray = (values * 257).astype(np.uint16) if j == 2 else values.astype(np.uint8)
            path = root / f"id{i:02d}" / f"{j}{SUFFIXES[j % 4]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(gray).save(path)
    return root


def config_of(root, text="smoke", **changes):
    config = verification_config(f"data=folder,{text}" if text else "data=folder")
    config.update_from_flattened_dict({"data.root": str(root), **changes})
    return config


def prepare(config, workdir):
    lines = []
    check_values(config)
    return small_data.prepare(config, workdir, lines.append), lines


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A set with pairs of held-out identities, and a short run on it, told as it is printed."""
    root = draw(tmp_path_factory.mktemp("own") / "eyes")
    data_main(["pairs", str(root), "--hold-out=4"])
    config = config_of(
        root, "smoke,epochs=1,image_size=20x28,batch_size=8", **{"data.include_list": f"{root}/own_train.txt"}
    )
    workdir = root.parent / "run"
    with jax.numpy_dtype_promotion("standard"):  # as in the command; Optax needs it
        load_task("verification").train(config, workdir)
    return root, workdir, config


def test_a_run_on_them_is_measured_and_reported_as_identities(own):
    root, workdir, _ = own
    results = json.loads((workdir / "results.json").read_text())
    assert "8 identities, 32 images" in results["data"] and 0 <= results["mean_accuracy"] <= 1
    assert not any("resized" in note for note in results["notes"])
    text = (workdir / "report.html").read_text()
    assert (
        "Verification of identities" in text
        and "on images of 20x28" in text
        and "ace" not in text.split("<title>")[1][:40]
    )
    model, variables = load_model(workdir)
    images = np.zeros((1, HEIGHT, WIDTH, 3), np.float32)
    assert jax.eval_shape(lambda x: model.apply(variables, x, train=False), images).shape == (1, 512)
    assert read_config(workdir).task == "verification"
    check_workdir(
        config_of(
            root, "smoke,epochs=1,image_size=20x28,batch_size=8", **{"data.include_list": f"{root}/own_train.txt"}
        ),
        workdir,
    )


def test_its_artifact_has_a_threshold_and_is_not_one_of_faces(own):
    root, workdir, _ = own
    found = export(workdir, root.parent / "out", formats=["onnx"])
    assert "tvconv_jax.verify" not in found.report and "tvconv_jax.predict" in found.report
    import onnxruntime

    session = onnxruntime.InferenceSession(str(root.parent / "out" / "model.onnx"))
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["tvconv_jax"])
    assert metadata["task"] == "verification" and -1 <= metadata["thresholds"]["cosine"] <= 1
    assert metadata["input"]["shape"] == [None, 3, HEIGHT, WIDTH]
    with pytest.raises(Mistake, match="is not a model of faces: .* python -m tvconv_jax.predict .* ONE OTHER"):
        load_faces_model(root.parent / "out")
    assert not (root.parent / "out" / "verify.py").exists()


def test_the_size_is_chosen_from_the_images_and_said(tmp_path):
    root = draw(tmp_path / "eyes", size=(60, 120))
    config, lines = prepare(config_of(root, ""), tmp_path / "run")
    assert config.data.image_size == (32, 64) and "data.image_size" in config.train.auto.split(",")
    assert "data.image_size 32x64 (height x width: the median, 64 at most), data.batch_size 8" in lines[0]
    assert any("has no verification set" in line for line in lines) and not any("face" in line for line in lines)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(config.to_json())
    again = config_of(root, "")
    check_workdir(again, tmp_path / "run")
    assert prepare(again, tmp_path / "run")[0].data.image_size == (32, 64)


@pytest.mark.parametrize(
    ("sizes", "step", "chosen"),
    [
        ([(40, 60)] * 3 + [(400, 600)], 1, (40, 60)),
        ([(480, 640)], 1, (72, 96)),
        ([(10, 200)], 1, (16, 96)),
        ([(90, 90)], 4, (88, 88)),
        ([], 1, (96, 96)),
    ],
)
def test_a_size_is_the_median_within_limits(sizes, step, chosen):
    assert choose_size(sizes, longest=96, step=step) == chosen


@pytest.mark.parametrize(("flag", "size"), [("64", (64, 64)), ("48x64", (48, 64)), ("48X64", (48, 64))])
def test_a_given_size_stays(tmp_path, flag, size):
    config, lines = prepare(config_of(draw(tmp_path / "eyes"), f"image_size={flag}"), tmp_path / "run")
    assert config.data.image_size == size and "image_size" not in lines[0]
    assert height_width(parse_size(flag)) == size


@pytest.mark.parametrize("text", ["image_size=48x", "image_size=a", "image_size=10x20x30"])
def test_another_size_is_refused(text):
    with pytest.raises(UserError, match="must be 64, or height x width as 48x64"):
        verification_config(text)


def test_a_flag_gives_one_or_two_numbers(tmp_path):
    root = draw(tmp_path / "eyes")
    config = config_of(root, "smoke")
    config.data.image_size = (16,)
    check_values(config)
    assert FaceJob(config).data.notes[0].endswith("are resized to 16x16")
    config.data.image_size = (16, 16, 16)
    with pytest.raises(UserError, match="must be one number or two, height and width"):
        check_values(config)


def test_model_width_operator_and_head_are_arguments():
    config = verification_config("model=shufflenetv2,operator=depthwise,embedding_size=64,head_pool=gdc")
    assert (config.model.name, config.model.width, config.model.operator) == ("shufflenetv2", 0.5, "depthwise")
    assert (config.model.embedding_size, config.model.head_pool) == (64, "gdc")
    with pytest.raises(UserError, match="operator=depthwise is not one of mlp_mixer; there are: baseline"):
        verification_config("model=mlp_mixer,operator=depthwise")


def test_nothing_is_mirrored_and_faces_keep_their_keys():
    own, faces = verification_config("data=folder"), face_config("data=folder", model="mobilenetv2", width=0.1)
    assert own.data.flip is False and own.eval.mirror is False and faces.data.flip is True
    keys = [set(flatten_dict(config.to_dict(), sep=".")) for config in (own, faces)]
    assert keys[0] - keys[1] == {"eval.mirror"} and not keys[1] - keys[0]


def test_faces_still_leave_other_formats_out(tmp_path):
    root = draw(tmp_path / "eyes")
    faces = face_config("data=folder", model="mobilenetv2", width=0.1)
    assert small_data.suffixes_of(faces.task) == (".jpg", ".jpeg", ".png")
    assert set(SUFFIXES) < set(small_data.suffixes_of("verification")) == set(DECODED_SUFFIXES)
    config, _ = prepare(config_of(root, ""), tmp_path / "run")
    assert FaceJob(config).data.description.endswith("(12 identities, 48 images)")


def test_affinity_maps_start_from_images_that_are_not_square(tmp_path):
    config, _ = prepare(config_of(draw(tmp_path / "eyes"), "smoke"), tmp_path / "run")
    assert statistics(FaceJob(config).data.train, (12, 17)).shape == (2, 12, 17)


def test_pairs_are_drawn_and_the_config_is_named(tmp_path, capsys):
    root = draw(tmp_path / "eyes")
    data_main(["pairs", str(root), "--hold-out=0.3"])
    report = capsys.readouterr().out
    assert "held out    4 of 12 identities" in report and "--config=configs/verification.py:data=folder" in report
    assert len((root / "own_train.txt").read_text().splitlines()) == 32


def test_inspect_knows_identities(tmp_path, capsys):
    root = draw(tmp_path / "eyes")
    data_main(["pairs", str(root), "--hold-out=4"])
    capsys.readouterr()
    data_main(["inspect", str(root)])
    report = capsys.readouterr().out
    assert "looks like identities: there are sets of pairs" in report and "gray 48" in report
    assert "eyes        are" not in report and "align" not in report and "112x112:" not in report
    assert f"--config=configs/verification.py:data=folder --config.data.root={root}" in report
    (root / "own_pair.txt").unlink()
    data_main(["inspect", str(root), "--kind=identities", "--size=32"])
    assert "images that are not 32x32, 48" in capsys.readouterr().out


def test_identities_that_are_trained_and_verified_on_are_said(tmp_path):
    root = draw(tmp_path / "eyes", identities=3, images=2).rename(tmp_path / "train").parent
    for name, identity in (("val", "id01"), ("new", "id09")):
        shutil.copytree(root / "train" / "id01", root / name / identity)
        line = f"{identity}/0.bmp\t{identity}/1.tif\t{{}}\n"
        (root / f"{name}_pair.txt").write_text((line.format(1) + line.format(-1)) * 5)
    options = {"image_size": (HEIGHT, WIDTH), "max_corrupt": 0.0, "suffixes": SUFFIXES}
    notes = load(root, tmp_path / "cache", **options)[2]["notes"]
    assert [note for note in notes if "trained on" in note] == [
        "note: 1 of the 1 identities of val are trained on too, by the names of their folders (id01): its accuracy "
        "says little about new identities"
    ]


def test_bad_input_is_one_line(tmp_path):
    root = draw(tmp_path / "eyes", identities=3)
    for path in sorted((root / "id00").iterdir())[1:]:
        path.unlink()
    _, lines = prepare(config_of(root, ""), tmp_path / "run")
    assert any("1 of 3 identities have one image each (id00)" in line for line in lines)
    (root / "own").mkdir()
    (root / "own_pair.txt").write_text("a.tif b.tif 1\n")
    with pytest.raises(UserError, match=r"own_pair.txt:1: .*a.tif does not exist; add the file or drop the line"):
        FaceJob(config_of(root, "smoke"))
    shutil.rmtree(root / "own")
    (root / "own_pair.txt").unlink()
    Image.fromarray(np.ones((8, 8), np.float32)).save(root / "id01" / "0.tif")
    with pytest.raises(UserError, match="of the mode F, do not define which value is white; save it with 8 or 16 bits"):
        FaceJob(config_of(root, "smoke"))
