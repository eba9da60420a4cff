"""The convert command: what goes in comes out, nothing is written over."""

import errno
import io
import json
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from folders import lay, tree

from tvconv_jax.data.__main__ import main
from tvconv_jax.data.formats.bin_file import read_bin
from tvconv_jax.data.formats.record_faces import RecordFaces
from tvconv_jax.data.formats.recordio import RecordWriter
from tvconv_jax.data.formats.tfds_faces import TfdsFaces, locate
from tvconv_jax.utils.errors import UserError

PICTURES = {
    "ann/1.jpg": b"\xff\xd8 one",
    "ann/2.png": b"\x89PNG two",
    "bob/10.jpg": b"\xff\xd8 ten" + b"\n#\xd7\xce" * 3,
}


def convert(*paths):
    main(["convert", *map(str, paths)])


def test_a_lost_index_is_written_anew(tmp_path):
    convert(lay(tmp_path / "faces", PICTURES), tmp_path / "train.rec")
    index = (tmp_path / "train.idx").read_bytes()
    (tmp_path / "train.idx").unlink()
    convert(tmp_path / "train.rec", tmp_path / "train.idx")
    assert (tmp_path / "train.idx").read_bytes() == index


def test_a_list_of_names_is_not_written_over(tmp_path, refusal):
    (tmp_path / "train.lst").write_text("mine")
    assert "train.lst exists" in refusal(main, "convert", lay(tmp_path / "faces", PICTURES), tmp_path / "train.rec")
    assert (tmp_path / "train.lst").read_text() == "mine" and not (tmp_path / "train.rec").exists()


def test_folder_to_record_and_back(tmp_path, capsys):
    convert(lay(tmp_path / "faces", PICTURES), tmp_path / "train.rec")
    assert "3 images of 2 identities" in capsys.readouterr().out
    faces = RecordFaces(tmp_path / "train.rec")
    assert [faces[i]["label"] for i in range(3)] == [0, 0, 1]
    convert(tmp_path / "train.rec", tmp_path / "back")
    assert tree(tmp_path / "back") == PICTURES
    (tmp_path / "back" / "ann" / "2.png").unlink()
    convert(tmp_path / "train.rec", tmp_path / "back")  # as after a run that was killed
    assert tree(tmp_path / "back") == PICTURES
    (tmp_path / "train.lst").unlink()
    convert(tmp_path / "train.rec", tmp_path / "nameless")
    names = ["0000000/00000001.jpg", "0000000/00000002.png", "0000001/00000003.jpg"]
    assert tree(tmp_path / "nameless") == dict(zip(names, PICTURES.values(), strict=True))


def test_pairs_to_bin_and_back(tmp_path):
    images = {f"{i}.jpg": b"\xff\xd8" + bytes([i]) for i in range(11)}
    lay(tmp_path / "set", images)
    pairs = [(f"{i}.jpg", f"{i + 1}.jpg", (-1) ** i) for i in range(10)]
    (tmp_path / "set_pair.txt").write_text("".join(f"{a} {b} {flag}\n" for a, b, flag in pairs))
    convert(tmp_path / "set_pair.txt", tmp_path / "out" / "set.bin")
    read, same = read_bin(tmp_path / "out" / "set.bin")
    assert read == [images[name] for a, b, _ in pairs for name in (a, b)]
    assert same.tolist() == [flag == 1 for *_, flag in pairs]
    convert(tmp_path / "out" / "set.bin", tmp_path / "out" / "again_pair.txt")
    assert len(tree(tmp_path / "out" / "again")) == 11  # pictures of two pairs are one file
    convert(tmp_path / "out" / "again_pair.txt", tmp_path / "twice.bin")
    assert (tmp_path / "twice.bin").read_bytes() == (tmp_path / "out" / "set.bin").read_bytes()


def test_pairs_as_lfw_lists_them_to_bin(tmp_path, refusal):
    images = {
        f"{name}/{name}_{i:04d}.jpg": b"\xff\xd8" + name.encode() + bytes([i]) for name in ("a", "b") for i in (1, 2)
    }
    lay(tmp_path / "lfw", images)
    (tmp_path / "pairs.txt").write_text("10\t1\n" + "a\t1\t2\n" * 5 + "a\t2\tb\t1\n" * 5)
    convert(tmp_path / "pairs.txt", tmp_path / "lfw.bin")
    read, same = read_bin(tmp_path / "lfw.bin")
    assert read[:2] == [images["a/a_0001.jpg"], images["a/a_0002.jpg"]] and read[-1] == images["b/b_0001.jpg"]
    assert same.tolist() == [True] * 5 + [False] * 5
    said = refusal(main, "convert", tmp_path / "lfw.bin", tmp_path / "new" / "pairs.txt")
    assert "would be in LFW's own layout, which is only read; write lfw_pair.txt" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("faces", "train.rec"), "train.rec exists and is not written over"),
        (("train.rec", "other"), "ann/1.jpg exists with other content and is not written over"),
        (("train.rec", "x.bin"), "train.rec (rec) cannot become"),
        (("none", "y.rec"), "none does not exist"),
        (("none.rec", "y"), "none.rec cannot be read"),
    ],
)
def test_mistakes_are_one_line_and_leave_everything(tmp_path, paths, words, refusal):
    convert(lay(tmp_path / "faces", PICTURES), tmp_path / "train.rec")
    lay(tmp_path / "other", {"ann/1.jpg": b"mine"})
    before = tree(tmp_path)
    assert words in refusal(main, "convert", *(tmp_path / path for path in paths))
    assert tree(tmp_path) == before


def test_through_all_formats_and_back(tmp_path, monkeypatch):
    convert(lay(tmp_path / "faces", PICTURES), tmp_path / "a" / "train.rec")
    convert(tmp_path / "a" / "train.rec", f"tfds:{tmp_path}/b/faces")
    convert(tmp_path / "b" / "faces", tmp_path / "c")
    assert tree(tmp_path / "c") == PICTURES
    monkeypatch.setenv("HOME", str(tmp_path))
    convert("tfds:~/b/faces", tmp_path / "d" / "train.rec")
    convert(tmp_path / "faces", "tfds:~/e/others")
    assert (tmp_path / "e" / "others").is_dir()
    assert tree(tmp_path / "d") == tree(tmp_path / "a")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["faces"]  # nothing of TFDS lies around


def test_a_killed_conversion_to_records_goes_on(tmp_path, monkeypatch):
    lay(tmp_path / "faces", PICTURES)
    convert(tmp_path / "faces", tmp_path / "whole.rec")
    write, written = RecordWriter.write, []

    def killed(self, key, payload):
        if len(written) == 3:  # the header and two pictures
            raise KeyboardInterrupt
        written.append(key)
        write(self, key, payload)

    monkeypatch.setattr(RecordWriter, "write", killed)
    with pytest.raises(SystemExit, match="130"):
        convert(tmp_path / "faces", tmp_path / "a.rec")
    part = tmp_path / "a.rec.part"
    part.write_bytes(part.read_bytes()[:-3])  # and the second of them only in part
    monkeypatch.setattr(
        RecordWriter, "write", lambda self, key, payload: (written.append(key), write(self, key, payload))
    )
    convert(tmp_path / "faces", tmp_path / "a.rec")
    assert written == [0, 1, 2, 2, 3, 4, 5]
    for ending in ("rec", "idx", "lst"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_a_disk_that_fills_costs_nothing_that_was_written(tmp_path, monkeypatch, capsys):
    def full(self, key, payload):
        raise OSError(errno.ENOSPC, "No space left on device")

    lay(tmp_path / "faces", PICTURES)
    convert(tmp_path / "faces", tmp_path / "whole.rec")
    (tmp_path / "a.rec.part").write_bytes(whole := (tmp_path / "whole.rec").read_bytes()[:-80])
    with monkeypatch.context() as context, pytest.raises(SystemExit, match="1"):
        context.setattr(RecordWriter, "write", full)
        convert(tmp_path / "faces", tmp_path / "a.rec")
    assert "No space left on device; the same command goes on once that is mended." in capsys.readouterr().err
    assert 0 < len((tmp_path / "a.rec.part").read_bytes()) <= len(whole)
    convert(tmp_path / "faces", tmp_path / "a.rec")
    assert (tmp_path / "a.rec").read_bytes() == (tmp_path / "whole.rec").read_bytes()


def test_a_part_of_other_pictures_is_refused(tmp_path, refusal):
    lay(tmp_path / "faces", PICTURES)
    convert(tmp_path / "faces", tmp_path / "a.rec")
    (tmp_path / "a.rec").rename(tmp_path / "a.rec.part")
    lay(tmp_path / "faces", {"bob/10.jpg": b"changed"})
    before = (tmp_path / "a.rec.part").read_bytes()
    said = refusal(main, "convert", tmp_path / "faces", tmp_path / "a.rec")
    assert "a.rec.part was begun with other images; remove it" in said
    assert (tmp_path / "a.rec.part").read_bytes() == before


class Lfw(tfds.core.GeneratorBasedBuilder):
    """As TFDS lays out LFW: identities are texts, pictures have no names."""

    VERSION = tfds.core.Version("0.1.1")
    SKIP_REGISTERING = True
    name = "lfw"

    def _info(self):
        features = {"label": tfds.features.Text(), "image": tfds.features.Image(shape=(None, None, 3))}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, name in enumerate(["Bob", "Ann", "Bob"]):
            yield i, {"label": name, "image": io.BytesIO(b"\x89P" + bytes([i]))}


@pytest.fixture
def lfw(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    builder = Lfw(data_dir=tmp_path / "sets", file_format="array_record")
    builder.download_and_prepare(download_dir=tmp_path / "nothing")
    return builder.data_path


def as_tfrecord(folder):
    """Writes the records again as TensorFlow would have."""
    for path in folder.glob("*.array_record-*"):
        records = ArrayRecordDataSource([str(path)])
        framed = [struct.pack("<Q4x", len(records[i])) + records[i] + bytes(4) for i in range(len(records))]
        path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(b"".join(framed))
        path.unlink()
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_a_set_that_tfds_made_is_taken(tmp_path, lfw, kind):
    if kind == "tfrecord":
        as_tfrecord(lfw)
    convert("tfds:lfw", tmp_path / "out")
    pictures = tree(tmp_path / "out")
    assert sorted(name.split("/")[0] for name in pictures) == ["Ann", "Bob", "Bob"]
    assert sorted(pictures.values()) == [b"\x89P" + bytes([i]) for i in range(3)]
    assert pictures[next(name for name in pictures if name.startswith("Ann"))] == b"\x89P\x01"
    faces = TfdsFaces(locate("lfw"))
    assert faces.identities == ["Ann", "Bob"] and faces[0]["name"] == "lfw/train:0"
    np.testing.assert_array_equal(sorted(faces[i]["label"] for i in range(3)), [0, 1, 1])


def test_a_truncated_tfrecord_names_the_place(lfw):
    as_tfrecord(lfw)
    file = next(lfw.glob("*.tfrecord*"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"tfrecord.*: the record at byte \d+ does not end within the file"):
        TfdsFaces(locate("lfw"))
