"""Folders, lists and records as they come in the field, with oddities that must be read, counted or named."""

import os
import struct

import numpy as np
import pytest
from folders import encoded, touch
from PIL import Image

from tvconv_jax.data import listing
from tvconv_jax.data.decoder import ImageError, pixels
from tvconv_jax.data.formats.folder import training_files
from tvconv_jax.data.formats.name_list import read_names
from tvconv_jax.data.formats.pairs import pair_lists, read_pairs, read_rows
from tvconv_jax.data.formats.record_faces import RecordFaces, pack
from tvconv_jax.data.formats.recordio import MAGIC, framed
from tvconv_jax.data.formats.tfds_faces import is_tfds, locate
from tvconv_jax.data.fundus import PHASES, load_folder
from tvconv_jax.data.listing import LeftOut
from tvconv_jax.data.sets import kind_of, open_faces, packed_in
from tvconv_jax.data.subset import read_include_list
from tvconv_jax.data.tools.alignment import read_landmarks
from tvconv_jax.data.tools.conversion import convert
from tvconv_jax.data.tools.held_out import open_beside, open_held_out
from tvconv_jax.data.tools.inspection import inspect
from tvconv_jax.data.tools.poses import load_poses
from tvconv_jax.utils.errors import UserError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n"


def test_a_link_to_an_identity_beside_it_is_not_another_identity(face_folder, tmp_path):
    (face_folder / "zoe").symlink_to("ann")
    (face_folder / "dan").symlink_to(touch(tmp_path / "far" / "0.jpg").parent)
    (face_folder / "eve").symlink_to(tmp_path / "far")
    left_out = LeftOut()
    found = training_files(face_folder, left_out)
    assert len(found) == 7 and {path.parent.name for path in found} == {"ann", "bob", "cyd", "dan"}
    assert left_out.paths == {listing.TWICE: [face_folder / "eve", face_folder / "zoe"]}


def test_poses_are_named_in_any_case_and_a_linked_identity_is_one(tmp_path):
    for person in range(8):
        for pose in ("Frontal", "PROFILE"):
            touch(tmp_path / f"{person}" / pose / "1.jpg")
    (tmp_path / "alias").symlink_to("3")
    found = load_poses(tmp_path, test_share=0.25)
    assert found.identities == (6, 2) and "links to a folder that stands beside them (alias)" in found.notes[0]


@pytest.mark.parametrize("name", ["train.rec", "lfw.bin", "x_pair.txt", "TRAIN.REC"])
@pytest.mark.parametrize("kind", ["dangling links", "folders", "pipes, sockets or devices"])
def test_what_is_called_as_data_and_is_not_a_file_is_never_passed_over(face_folder, name, kind):
    path = face_folder.parent / name
    {"dangling links": lambda p: p.symlink_to("/nowhere"), "folders": os.mkdir}.get(kind, os.mkfifo)(path)
    with pytest.raises(UserError, match=f"{name} must be a file, but is among the {kind}; mend, rename or remove it"):
        (packed_in if name.lower().endswith(".rec") else open_beside)(face_folder.parent)


def test_names_of_data_count_in_any_case(face_folder, tmp_path):
    assert convert(face_folder, tmp_path / "Train.REC").startswith("6 ")
    assert packed_in(tmp_path) == tmp_path / "Train.REC" and len(open_faces(tmp_path / "Train.REC").labels) == 6
    for name in ("a_pair.TXT", "Pairs.txt"):
        touch(tmp_path / name)
    assert [path.name for path in pair_lists(tmp_path)] == ["a_pair.TXT", "Pairs.txt"]
    assert kind_of("a.BIN") == "bin"
    with pytest.raises(UserError, match="A.BIN is not a verification .bin"):
        open_held_out(touch(tmp_path / "A.BIN", b"x"))


def test_a_packed_set_of_another_name_gets_a_hint_to_rename_it(face_folder, tmp_path):
    convert(face_folder, tmp_path / "set" / "faces.rec")
    with pytest.raises(UserError, match="faces.rec: call it train.rec, and train on it with data=casia"):
        training_files(tmp_path / "set", LeftOut())


def test_what_is_not_a_set_is_called_what_it_is(tmp_path):
    path = touch(tmp_path / "a.zip", b"PK\3\4" + bytes(60))
    for open_it in (inspect, open_faces):
        with pytest.raises(UserError, match="a.zip is a ZIP archive, not a set of faces; give a folder of identities"):
            open_it(str(path))
        with pytest.raises(UserError, match="nowhere does not exist; give a folder"):
            open_it(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(LFS, "a Git LFS pointer"), (b"<!DOCTYPE html><p>", "an HTML page"), (b"\x1f\x8b\x08", "a gzip archive")],
)
def test_a_list_that_is_another_file_is_called_so(tmp_path, content, words):
    for read in (read_rows, read_landmarks, read_include_list):
        with pytest.raises(UserError, match=f"x_pair.txt is {words}.*, not lines of text; [gn]"):
            read(touch(tmp_path / "x_pair.txt", content))


@pytest.mark.parametrize("name", ["BMW", "ID3", "GIF89a", "RIFF", "{a}", "[a]", "#!a", "BZh9", "PAR1", "<a>", "%PDF-1"])
def test_a_list_may_begin_as_another_format_does(tmp_path, name):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path = touch(tmp_path / "x_pair.txt", f"{name} b 1\n".encode(encoding))
        assert read_rows(path)[0].left == name


def test_numbers_and_names_of_any_length_in_lists_are_one_line(tmp_path):
    digits, name = "9" * 6000, "x" * 300
    with pytest.raises(UserError, match="must be 'name 1 2'"):
        read_rows(touch(tmp_path / "pairs.txt", f"a\t1\t{digits}\n".encode()))
    assert "is not 'key label" in read_names(touch(tmp_path / "a.lst", f"{digits}\t0\ta/b\n".encode()), [0], [0])[1]
    names, note = read_names(touch(tmp_path / "a.lst", b"0\t0\ta/b\n0\t0\ta/c\n"), [0], [0])
    assert not names and "names a key twice" in note
    path = touch(tmp_path / "x_pair.txt", f"{name} {name} 1\n".encode())
    with pytest.raises(UserError, match="x_pair.txt:1: x+ must be in .*/x, which is not a folder; put it there"):
        read_pairs(path)
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="does not exist; add the file or drop the line"):
        read_pairs(path)
    assert open_held_out(path)[0].missing == [name]
    touch(tmp_path / "a.rec", framed(pack(0.0, 0, b"x")))
    touch(tmp_path / "a.lst", f"0\t0\ta/{name}.jpg\n".encode())
    with pytest.raises(UserError, match="has parts of more than 255 bytes, too long for a file"):
        convert(tmp_path / "a.rec", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_of_windows_in_every_list(tmp_path):
    landmarks = touch(tmp_path / "l.txt", b"ann\\0.jpg 1 2 3 4 5 6 7 8 9 0\n")
    assert read_landmarks(landmarks)[0].file == "ann/0.jpg"
    kept = touch(tmp_path / "k.txt", b"C:\\faces\\ann\\0.jpg\r\n \r\n./bob/0.jpg\n/data/cyd/0.jpg\nann/0.jpg\n")
    assert read_include_list(kept) == ["ann/0.jpg", "bob/0.jpg", "cyd/0.jpg"]


@pytest.mark.parametrize("points", ["1e300 -1e300 " * 4 + "0 0", "1e-300 0 " * 4 + "0 0", "nan 1 " * 5, "3 3 " * 5])
def test_landmarks_that_no_face_can_have_are_refused(tmp_path, points):
    with pytest.raises(UserError, match="l.txt:1: .* must be 'file x1 y1 ... x5 y5', five points"):
        read_landmarks(touch(tmp_path / "l.txt", f"a.jpg {points}\n".encode()))


def face_set(header=(3, 5)):
    """Record 0, two images with labels in a vector, two identities."""
    records = [pack(header, 0), pack((0.0,), 1, b"x"), pack((1.0,), 2, b"y"), pack((1, 2), 3), pack((2, 3), 4)]
    return [framed(record) for record in records]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: ["-5\t0", *lines[1:]], "names key -5; keys are 0 or more"),
        (lambda lines: lines[1:], "holds labels and no image, as records of identities do"),
        (lambda lines: [lines[0], lines[1], "2\t" + lines[1].split("\t")[1], *lines[3:]], "gives two keys one offset"),
        (lambda lines: [LFS.decode()], "is a Git LFS pointer"),
    ],
)
def test_an_index_by_which_records_would_be_taken_for_others_is_set_aside(tmp_path, change, words):
    records = face_set()
    path, starts = touch(tmp_path / "a.rec", b"".join(records)), np.cumsum([0, *map(len, records)])
    (tmp_path / "a.idx").write_text("\n".join(change([f"{key}\t{start}" for key, start in enumerate(starts[:-1])])))
    faces = RecordFaces(path)
    assert [face["image"] for face in faces] == [b"x", b"y"] and words in faces.note


def test_records_behind_those_that_the_first_one_tells_of_are_counted(tmp_path):
    path = touch(tmp_path / "a.rec", b"".join(face_set((2, 2))))
    assert "says that there are 2 records, and 3 more are left out" in RecordFaces(path).note


@pytest.mark.parametrize("content", [LFS, b"\x1f\x8b\x08" + bytes(60)])
def test_records_that_are_another_file_are_called_so_beside_their_index(tmp_path, content):
    touch(tmp_path / "a.idx", b"0\t0\n1\t4000\n")
    with pytest.raises(UserError, match="the file is a (Git LFS pointer|gzip archive)"):
        RecordFaces(touch(tmp_path / "a.rec", content))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.rec")
    with pytest.raises(UserError, match="a.rec is not a file"):
        RecordFaces(tmp_path / "a.rec")
    os.mkfifo(tmp_path / "b.idx")
    assert "b.idx is not a file" in RecordFaces(touch(tmp_path / "b.rec", framed(pack(0.0, 0, b"x")))).note


def test_an_image_cut_into_parts_behind_a_vector_is_an_image(tmp_path):
    # Its first part is as long as a record without an image.
    payload = pack((0.0,), 0, MAGIC + b"tail")
    record = framed(payload)
    assert struct.unpack_from("<I", record, 4)[0] & (2**29 - 1) == len(payload) - 8
    assert RecordFaces(touch(tmp_path / "a.rec", record))[0]["image"] == MAGIC + b"tail"


@pytest.fixture
def dofe(tmp_path):
    """The DoFE layout, one image a part."""
    mask = np.full((20, 20), 255, np.uint8)
    mask[4:16, 4:16], mask[8:12, 8:12] = 128, 0
    for domain in range(1, 5):
        for phase in PHASES:
            for kind, array in (("image", np.dstack([mask] * 3)), ("mask", mask)):
                touch(tmp_path / "fundus" / f"Domain{domain}" / phase / "ROIs" / kind / "a.png", encoded(array))
    return tmp_path / "fundus"


def test_masks_belong_to_images_in_any_case_of_the_suffix(dofe, tmp_path):
    for mask in dofe.glob("*/*/ROIs/mask/a.png"):
        mask.rename(mask.with_suffix(".PNG"))
    assert len(load_folder(str(dofe), tmp_path / "cache").train[1]) == 1
    touch(dofe / "Domain1/test/ROIs/mask/a.png")
    with pytest.raises(UserError, match=r"mask/a.PNG and a.png have the same name; rename or remove one"):
        load_folder(str(dofe), tmp_path / "cache")


@pytest.mark.parametrize(
    ("place", "becomes", "words"),
    [
        ("train/ROIs/mask/a.png", "a.bmp", r"has no mask of the same name .*1 files that are not .png \(a.bmp\)"),
        ("test/ROIs/image/a.png", "a.jpg", r"image holds no \*.png .*1 files that are not .png \(a.jpg\).*; every"),
        ("train/ROIs/mask", "masks", "ROIs/mask is not a folder; data.root, .*, must hold Domain1 to Domain4"),
        ("train", "Train", "train/ROIs/image is not a folder"),
    ],
)
def test_what_is_missing_in_the_layout_is_reported_with_what_is_there(dofe, tmp_path, place, becomes, words):
    path = dofe / "Domain1" / place
    path.rename(path.with_name(becomes))
    with pytest.raises(UserError, match=words):
        load_folder(str(dofe), tmp_path / "cache")


def test_a_version_of_tfds_that_was_not_finished_is_not_a_set(tmp_path):
    for name in ("1.0.0", "2.0.0.incompleteAB12"):
        touch(tmp_path / "faces" / name / "dataset_info.json")
    assert is_tfds(tmp_path / "faces") and locate(str(tmp_path / "faces")).name == "1.0.0"
    touch(tmp_path / "begun" / "1.0.0.incompleteAB12" / "dataset_info.json")
    assert not is_tfds(tmp_path / "begun")
    with pytest.raises(UserError, match="no prepared TFDS set"):
        locate(str(tmp_path / "begun"))


def test_records_of_tfds_that_are_another_file_are_called_so(face_folder, tmp_path):
    convert(face_folder, f"tfds:{tmp_path / 'some_faces'}")
    shard = next((tmp_path / "some_faces").glob("*/*.array_record*"))
    for content, words in ((LFS, "a Git LFS pointer"), (b"<html>", "an HTML page")):
        shard.write_bytes(content)
        with pytest.raises(UserError, match=f"{shard.name} is {words}.*, not records of TFDS; get the set again"):
            open_faces(f"tfds:{tmp_path / 'some_faces'}")


def test_a_file_is_not_a_folder_to_convert_into(face_folder, tmp_path):
    convert(face_folder, tmp_path / "a.rec")
    with pytest.raises(UserError, match="mine is a file and is not written over; name a folder"):
        convert(tmp_path / "a.rec", touch(tmp_path / "mine"))


def test_an_image_that_is_too_large_is_called_so_however_strictly(tmp_path):
    image = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    start = image.find(b"\xff\xc0") + 5
    image[start : start + 4] = b"\xff" * 4
    for strict in (False, True):
        with pytest.raises(ImageError, match="more than 178,956,970 pixels"):
            pixels(bytes(image), strict=strict)
