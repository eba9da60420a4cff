"""TFDS folders: nothing that they name is imported, and whatever is wrong with them is one line."""

import io
import json
import shutil
import sys

import pytest
from PIL import Image

from tvconv_jax.data.formats.tfds_faces import TfdsFaces, write_tfds
from tvconv_jax.data.source import Record
from tvconv_jax.utils.errors import UserError

FEATURES = "tensorflow_datasets.core.features"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    records = [Record(image=file.getvalue(), label=i % 2, name=str(i)) for i in range(4)]
    return write_tfds(tmp_path_factory.mktemp("tfds") / "faces", records, ["a", "b"])


@pytest.fixture
def folder(good, tmp_path, monkeypatch):
    """A copy of a whole set, where ``payload.py`` lies as well: whoever imports it makes a file."""
    (tmp_path / "payload.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield shutil.copytree(good, tmp_path / "faces" / "1.0.0")
    assert "payload" not in sys.modules and not (tmp_path / "pwned").exists()


def refusal(folder):
    with pytest.raises(UserError) as error:
        TfdsFaces(folder)[0]
    assert "\n" not in str(error.value) and str(folder) in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


def test_a_whole_set_is_read(folder):
    faces = TfdsFaces(folder)
    assert len(faces) == 4 and faces.identities == ["a", "b"] and faces[3]["name"] == "3"


@pytest.mark.parametrize(
    "features",
    [
        {"type": "payload.X", "content": {}},
        {"pythonClassName": "payload.X", "text": {}},
        {"python_class_name": "payload.X", "text": {}},
        {"type": f"{FEATURES}.features_dict.FeaturesDict", "content": {"a": {"type": "payload.X", "content": {}}}},
        {
            "pythonClassName": f"{FEATURES}.features_dict.FeaturesDict",
            "featuresDict": {"features": {"type": {"pythonClassName": "payload.X", "text": {}}}},
        },
        {
            "pythonClassName": f"{FEATURES}.features_dict.FeaturesDict",
            "jsonFeature": {"json": '{"a": {"type": "payload.X", "content": {}}}'},
        },
        {"pythonClassName": f"{FEATURES}.features_dict.FeaturesDict\npayload.X", "text": {}},
        {"type": ["payload.X"], "content": {}},
    ],
)
def test_a_class_that_is_not_of_tfds_is_refused_before_it_is_imported(folder, features):
    (folder / "features.json").write_text(json.dumps(features))
    assert "Nothing of it was executed" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("dataset_info.json", b"garbage", "ParseError"),
        ("dataset_info.json", b"{}", "Invalid version"),
        ("dataset_info.json", b"\xff\xfe", "UnicodeDecodeError"),
        ("features.json", b"", "is damaged or is not JSON"),
        ("features.json", b"\xff", "is damaged or is not JSON"),
        ("features.json", b"[1]", "ParseError"),
        ("features.json", b"[" * 100_000, "is damaged or is not JSON"),
        ("faces-train.array_record-00000-of-00001", b"x" * 1000, "is a text file, not records of TFDS"),
        ("faces-train.array_record-00000-of-00001", None, "lacks faces-train.array_record-00000-of-00001"),
    ],
)
def test_a_damaged_folder_is_one_line(folder, name, content, words):
    (folder / name).write_bytes(content) if content is not None else (folder / name).unlink()
    assert words in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../x"}, "outside of the folder"),
        ({"fileFormat": "unknown"}, "is not a valid FileFormat"),
        ({"version": "abc"}, "Invalid version"),
    ],
)
def test_what_the_description_says_is_checked(folder, change, words):
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | change))
    assert words in refusal(folder)
