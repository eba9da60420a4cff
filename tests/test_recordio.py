"""RecordIO: files of ours come back bit for bit, files of others are read right, damage is named."""

import pickle
import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvconv_jax.data.formats.record_faces import RecordFaces, pack, unpack, write_faces
from tvconv_jax.data.formats.recordio import MAGIC, RecordFile, RecordWriter, framed, read_index, write_index
from tvconv_jax.utils.errors import UserError

# Bytes in which the magic is frequent, at aligned places and others.
payloads = st.lists(st.sampled_from([MAGIC, MAGIC[:2], b"\0", b"image"]), max_size=12).map(b"".join)


def write(path, records):
    with RecordWriter(path) as writer:
        for key, payload in enumerate(records):
            writer.write(key, payload)
    return path


def face(label, image=b"jpeg", name=""):
    return {"image": image, "label": label, "name": name}


@settings(deadline=None, max_examples=60)
@given(st.lists(payloads, min_size=1, max_size=5))
def test_records_come_back_bit_for_bit(tmp_path_factory, records):
    path = write(tmp_path_factory.mktemp("rec") / "a.rec", records)
    file = RecordFile(path)
    keys, offsets = read_index(path.with_suffix(".idx"))
    np.testing.assert_array_equal(keys, np.arange(len(records)))
    np.testing.assert_array_equal(file.scan(), offsets)
    assert [file.read(offset) for offset in offsets] == records
    heads = [record[:9].ljust(9, b"\0") for record in records]
    assert [head.tobytes() for head in file.heads(offsets, 9)] == heads


def test_a_record_with_the_magic_inside_is_cut_as_the_format_says():
    inside = b"abcd" + MAGIC + b"efg"
    first, last = struct.pack("<I", 1 << 29 | 4), struct.pack("<I", 3 << 29 | 3)
    assert framed(inside) == MAGIC + first + b"abcd" + MAGIC + last + b"efg\0"
    unaligned = b"ab" + MAGIC
    assert framed(unaligned) == MAGIC + struct.pack("<I", 6) + unaligned + b"\0\0"


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damage_is_an_error_or_harmless_never_a_crash(tmp_path_factory, data):
    """A file with bytes overwritten or cut off: every read ends, with bytes of the file or one clear error."""
    raw = bytearray(b"".join(map(framed, data.draw(st.lists(payloads, min_size=1, max_size=4)))))
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(1, len(raw)))]
    path = tmp_path_factory.mktemp("rec") / "a.rec"
    path.write_bytes(raw)
    file, offset = RecordFile(path), data.draw(st.integers(-4, len(raw) + 4))
    try:
        payload = file.read(offset)
        assert len(payload) < len(raw)
    except UserError as error:
        assert str(error).startswith(f"{path}: no record can be read at byte ")
    try:
        assert sum(len(file.read(start)) for start in file.scan()) < len(raw)
    except UserError as error:
        assert "no record can be read at byte" in str(error)


def test_damage_is_named_with_file_and_offset(tmp_path):
    path = write(tmp_path / "a.rec", [b"first", b"second"])
    offset = int(read_index(tmp_path / "a.idx")[1][1])
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(UserError, match=rf"a.rec: no record can be read at byte {offset}: .* truncated"):
        RecordFile(path).read(offset)
    path.write_bytes(whole[:offset] + b"xxxx" + whole[offset + 4 :])
    with pytest.raises(UserError, match=f"at byte {offset}: there is 78787878, not the magic 0a23d7ce"):
        RecordFile(path).scan()
    path.write_bytes(MAGIC + struct.pack("<I", 3 << 29))
    with pytest.raises(UserError, match="its part flag is 3"):
        RecordFile(path).read(0)
    (tmp_path / "empty.rec").touch()
    with pytest.raises(UserError, match="empty.rec is empty"):
        RecordFile(tmp_path / "empty.rec")
    with pytest.raises(UserError, match="cannot be read"):
        RecordFile(tmp_path / "none.rec")


def test_a_writer_that_fails_leaves_nothing_and_none_writes_over(tmp_path):
    with pytest.raises(KeyboardInterrupt), RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(0, b"x")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    write(tmp_path / "a.rec", [b"x"])
    with pytest.raises(UserError, match="exists and is not written over"):
        RecordWriter(tmp_path / "a.rec")


@pytest.mark.parametrize("text", ["0\t0\n1", "a\t0", "0\t1.5", "0\t99999999999999999999"])
def test_an_index_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "a.idx").write_text(text)
    with pytest.raises(UserError, match="a.idx is not an index"):
        read_index(tmp_path / "a.idx")


def test_labels_are_one_or_several():
    assert unpack(pack(3.0, 7, b"image"))[1:] == (b"image", False)
    assert unpack(pack(3.0, 7, b"image")).labels.tolist() == [3]
    content = unpack(pack((1, 2.5), 7, b"image"))
    assert content.labels.tolist() == [1, 2.5] and content.image == b"image" and content.vector
    with pytest.raises(ValueError, match="fewer than the 32 of its header and 2 labels"):
        unpack(pack((1, 2), 0)[:-4])


def test_faces_with_identities_come_back(tmp_path):
    faces = [face(4, b"a"), face(4, b"b"), face(2, b"c" + MAGIC * 3)]
    write_faces(tmp_path / "train.rec", faces, size=(112, 112))
    assert (tmp_path / "property").read_text() == "5,112,112\n"
    read = RecordFaces(tmp_path / "train.rec")
    assert [face["image"] for face in read] == [face["image"] for face in faces]
    assert [read.labels[face["label"]] for face in read] == [4, 4, 2] and read.labels.tolist() == [2, 4]
    assert read.ranges.tolist() == [[1, 3], [3, 4]] and read.keys.tolist() == [1, 2, 3]
    again = pickle.loads(pickle.dumps(read))  # as a worker process gets it
    assert again[2] == read[2] and again[2]["name"] == "train.rec:3"
    with pytest.raises(UserError, match="identity 1 comes back at image 3; sort"):
        write_faces(tmp_path / "b.rec", [face(1), face(2), face(1)])


def test_faces_without_an_index_or_identities(tmp_path):
    path = write(tmp_path / "a.rec", [pack(1.0, 5, b"five"), pack((2, 9), 3, b"three")])
    read = RecordFaces(path)
    assert [face["label"] for face in read] == [0, 1] and read.labels.tolist() == [1, 2] and read.ranges is None
    (tmp_path / "a.idx").unlink()
    read = RecordFaces(path)  # keys are the ids in the records
    assert read.keys.tolist() == [3, 5] and [face["image"] for face in read] == [b"three", b"five"]
    path.write_bytes(framed(pack(1.0, 0, b"x")) + framed(pack(2.0, 0, b"y")))
    assert [face["image"] for face in RecordFaces(path)] == [b"x", b"y"]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([pack((3, 4), 0), pack(0.0, 1, b"x"), pack((1, 2), 2)], "record 0 at byte 0 is damaged: it says"),
        ([pack((2, 9), 0), pack(0.0, 1, b"x"), pack((1, 2), 2)], "those keys do not exist"),
        (
            [pack((2, 3), 0), pack(0.0, 1, b"x"), pack((1, 7), 2)],
            r"its range of images \[1.0, 7.0\] is not within",
        ),
        ([pack((float("nan"), 3), 0), pack(0.0, 1, b"x")], "record 0 at byte 0 is damaged"),
        ([pack(0.5, 0, b"x")], "record 0 at byte 0 is damaged: its label 0.5 is not a whole number"),
        ([pack(float("inf"), 0, b"x")], "record 0 at byte 0 is damaged"),
        ([b"short"], "it has 5 bytes, fewer than the header's 24"),
    ],
)
def test_a_header_that_lies_is_named(tmp_path, records, words):
    with pytest.raises(UserError, match=words):
        RecordFaces(write(tmp_path / "a.rec", records))


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (b"0\t0\n1\t4000\n", "names 2 records, at offsets up to 4000, but .*a.rec has 108 bytes"),
        (b"", "names no record"),
        (b"0\tzero\n", "is not an index"),
        ("0\t0\n1\t36\n2\t72\n".encode("utf-16"), "is not an index"),
        (b"0\t0\n0\t36\n2\t72\n", "names key 0 twice"),
        (b"0\t4\n1\t36\n2\t72\n", "no record can be read at byte 4"),
    ],
)
def test_an_index_that_does_not_fit_is_set_aside(tmp_path, index, words):
    path = write(tmp_path / "a.rec", [pack(float(key), key, b"x%d" % key) for key in range(3)])
    (tmp_path / "a.idx").write_bytes(index)
    faces = RecordFaces(path)
    assert [face["image"] for face in faces] == [b"x0", b"x1", b"x2"] and faces.keys.tolist() == [0, 1, 2]
    assert re.search(f"a.idx is not used, and the 3 images are found without it: .*{words}", faces.note)
    path.write_bytes(path.read_bytes()[:-8])  # where walking over finds a fault, that one is told
    with pytest.raises(UserError):
        RecordFaces(path)


def test_an_index_of_a_part_says_so_and_a_folder_is_none(tmp_path):
    path = write(tmp_path / "a.rec", [pack(0.0, 0, b"x"), pack(1.0, 1, MAGIC * 3), pack(2.0, 2, b"y")])
    assert RecordFaces(path).note == ""
    keys, offsets = read_index(tmp_path / "a.idx")
    for kept in ([0, 1], [0, 2], [1, 2]):
        write_index(tmp_path / "a.idx", keys[kept], offsets[kept])
        assert "a.idx names 2 records, and a.rec holds more: these are left out" in RecordFaces(path).note
    (tmp_path / "a.idx").unlink()
    (tmp_path / "a.idx").mkdir()
    assert len(RecordFaces(path)) == 3 and "a.idx is not a file" in RecordFaces(path).note
