"""What belongs to a folder of data: the same for faces, poses and fundus; nothing is left out without a word."""

import os
import socket

import numpy as np
import pytest
from folders import encoded, touch
from ml_collections import ConfigDict

from tvconv_jax.data import listing
from tvconv_jax.data.faces import load_faces
from tvconv_jax.data.formats.folder import training_files
from tvconv_jax.data.formats.record_faces import RecordFaces
from tvconv_jax.data.listing import LeftOut, walk
from tvconv_jax.data.records import ImageSource, RecordBuilder, prepare
from tvconv_jax.data.sets import open_faces
from tvconv_jax.data.subset import select_listed
from tvconv_jax.data.tools import poses
from tvconv_jax.data.tools.alignment import align
from tvconv_jax.data.tools.conversion import convert
from tvconv_jax.data.tools.inspection import inspect
from tvconv_jax.utils.errors import UserError

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        "


JUNK = [
    *(".ipynb_checkpoints/0-checkpoint.jpg", ".thumbnails/0.jpg", ".git/0.jpg", "@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg"),
    *("#recycle/0.jpg", "#snapshot/0.jpg", "__MACOSX/ann/._0.jpg", "$RECYCLE.BIN/0.jpg", "lost+found/0.jpg"),
    *("System Volume Information/0.jpg", "@Recycle/0.jpg", ".Trash-1000/0.jpg", ".DS_Store", "Thumbs.db"),
    *("desktop.ini", "Desktop.ini", "._ann", "._0.jpg", ".hidden.png", "~$0.jpg", "EHTHUMBS.DB"),
]


@pytest.mark.parametrize("name", JUNK)
@pytest.mark.parametrize("where", ["", "ann"])
def test_junk_is_left_out_and_counted(face_folder, name, where):
    before = training_files(face_folder, LeftOut())
    touch(face_folder / where / name, APPLE_DOUBLE)
    left_out = LeftOut()
    assert training_files(face_folder, left_out) == before and len(before) == 6
    first = (face_folder / where / name).relative_to(face_folder).parts[: 2 if where else 1]
    note = f"left out of {face_folder}: 1 hidden or system files or folders ({'/'.join(first)})"
    assert left_out.notes(face_folder) == [note]


def make_pipe(path):
    os.mkfifo(path)  # to open it would wait for ever


def make_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("ann/x.jpg", make_pipe, "pipes, sockets or devices"),
        ("ann/x.jpg", make_socket, "pipes, sockets or devices"),
        ("ann/x.jpg", lambda path: path.symlink_to("/nowhere/a.jpg"), "dangling links"),
        ("ann/x.jpg", lambda path: path.symlink_to(path), "dangling links"),
        ("dan", lambda path: path.symlink_to("/nowhere"), "dangling links"),
        ("ann/up", lambda path: path.symlink_to("..", target_is_directory=True), "links back to a folder above"),
        ("self", lambda path: path.symlink_to("."), "links back to a folder above"),
        ("ann/x.jpg", lambda path: path.mkdir(), "folders without images"),
        ("dan", lambda path: path.mkdir(), "folders without images"),
        ("ann/old/a.JPG", touch, "images one folder too deep"),
        ("ann/x.jpg/a.png", touch, "images one folder too deep"),
        ("ann/a/b/c/d.jpeg", touch, "images one folder too deep"),
        ("z.jpg", touch, "images beside the folders of identities"),
        ("ann/x.webp", touch, "files that are not .jpg, .jpeg, .png"),
        ("ann/labels.csv", touch, "files that are not .jpg, .jpeg, .png"),
        ("docs/readme.txt", touch, "files that are not .jpg, .jpeg, .png"),
    ],
)
def test_what_is_no_image_of_an_identity_is_counted(face_folder, name, make, reason):
    before = training_files(face_folder, LeftOut())
    make(face_folder / name)
    left_out = LeftOut()
    assert training_files(face_folder, left_out) == before
    (note,) = left_out.notes(face_folder)
    assert f"1 {reason} ({name})" in note
    assert open_faces(face_folder).notes == [note] and f"note: {note}" in inspect(str(face_folder))


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("dan/2019/a.jpg", touch, r"images one folder too deep \(1, such as 2019/a.jpg\); move them up into dan/"),
        ("dan/a.jpg", lambda path: path.symlink_to("/annex/a"), r"dangling links \(1, such as a.jpg\); mend the links"),
        ("dan/a.webp", touch, r"files that are not .jpg, .jpeg, .png \(1, such as a.webp\); convert them"),
        ("dan/a.BMP", touch, r"\(1, such as a.BMP\); convert them, or move the folder elsewhere"),
    ],
)
def test_an_identity_is_not_lost_without_a_word(face_folder, name, make, words):
    (face_folder / "dan").mkdir()
    make(face_folder / name)
    with pytest.raises(UserError, match=rf"faces/dan would be lost as an identity: .*{words}"):
        training_files(face_folder, LeftOut())


def test_a_folder_that_cannot_be_read_is_an_error_unless_it_is_junk(face_folder, monkeypatch):
    scandir = os.scandir

    def denied(path):
        if os.path.basename(path) in ("bob", "lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"bob cannot be read \(Permission denied\), so what is in it would be lost"):
        training_files(face_folder, LeftOut())
    (face_folder / "bob").rename(face_folder / "lost+found")
    assert len(training_files(face_folder, LeftOut())) == 4


def test_links_are_followed_and_no_circle_is_walked(face_folder, tmp_path):
    (face_folder / "dan").symlink_to(touch(tmp_path / "dan" / "0.jpg").parent)
    touch(tmp_path / "dan" / "1.jpg")
    assert len(training_files(face_folder, LeftOut())) == 8
    for a, b in (("x", "y"), ("y", "x")):  # two folders that lead to each other
        (tmp_path / a).mkdir()
        (tmp_path / a / "link").symlink_to(tmp_path / b)
    touch(tmp_path / "y" / "0.jpg")
    left_out = LeftOut()
    assert [path.name for path in walk(tmp_path / "x", left_out)] == ["0.jpg"]
    assert list(left_out.paths) == [listing.LOOP]


def test_names_stand_in_one_line(face_folder):
    touch(face_folder / ".a\nb\u2028")
    left_out = LeftOut()
    training_files(face_folder, left_out)
    assert left_out.notes(face_folder)[0].endswith(r"(.a\nb\u2028)")


def test_a_packed_set_below_is_pointed_at(face_folder, tmp_path):
    convert(face_folder, tmp_path / "root" / "train" / "train.rec")
    for root in (tmp_path / "root", tmp_path / "root" / "train"):
        words = (
            rf"holds 0 identities .*A packed set is in .*train/train.rec: .*--config.data.root={tmp_path}/root/train"
        )
        with pytest.raises(UserError, match=words):
            training_files(root, LeftOut())


def test_apple_doubles_are_neither_packed_nor_aligned(face_folder, tmp_path):
    touch(face_folder / "ann" / "._0.jpg", APPLE_DOUBLE)
    said = convert(face_folder, tmp_path / "a.rec")
    assert said.splitlines()[1].startswith(f"  left out of {face_folder}: 1 hidden")
    assert len(RecordFaces(tmp_path / "a.rec")) == 6
    points = " ".join(map(str, range(10)))
    (tmp_path / "list.txt").write_text(f"ann/0.jpg {points}\nann/._0.jpg {points}\n")
    said = align(face_folder, tmp_path / "list.txt", tmp_path / "aligned")
    assert "1 of" in said and "are hidden or system files or folders: left out" in said


def load(root, **changes):
    config = {
        "source": "casia",
        "root": str(root),
        "image_size": 24,
        "max_corrupt": 1.0,
        "include_list": "",
        "verify_root": "",
    }
    return load_faces(ConfigDict(config | changes))


def test_poses_by_the_same_rule(tmp_path):
    for person in range(4):
        for pose in poses.POSES:
            touch(tmp_path / f"{person}" / pose / "0.jpg")
            touch(tmp_path / f"{person}" / pose / "._0.jpg", APPLE_DOUBLE)
            os.mkfifo(tmp_path / f"{person}" / pose / "1.jpg")
    touch(tmp_path / "0" / "x.jpg")
    touch(tmp_path / "__MACOSX" / "5" / "frontal" / "0.jpg")
    data = poses.load_poses(tmp_path, test_share=0.5)
    assert len(data.train) == len(data.test) == 4
    (note,) = data.notes
    for words in ("9 hidden", "8 pipes", "1 images in no folder frontal or profile (0/x.jpg)"):
        assert words in note


@pytest.fixture
def images(tmp_path):
    for i in range(6):
        touch(tmp_path / "faces" / f"p{i % 2}" / f"{i}.png", encoded(np.full((24, 24 + i, 3), 9 * i, np.uint8)))
    return tmp_path / "faces"


def test_lists_and_bins_that_are_junk_are_no_verification_sets(images):
    for name in ("._lfw.bin", "._x_pair.txt", ".pairs.txt"):
        touch(images / name, APPLE_DOUBLE)
    assert not load(images).verification
    (images / "lfw.bin").symlink_to("/nowhere")
    with pytest.raises(UserError, match="lfw.bin must be a file, but is among the dangling links; mend, rename or"):
        load(images)


def test_identities_without_a_whole_image_are_reported(images):
    touch(images / "dan" / "0.jpg", b"")
    assert "1 identities have no image that can be read: left out (dan)" in load(images).notes
    for path in images.glob("p0/*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="holds 1 identities with images that can be read .4 of 7 cannot"):
        load(images)


def test_one_copy_in_the_cache_serves_every_size_and_share(images, tmp_path, monkeypatch):
    monkeypatch.setenv("TVCONV_JAX_CACHE", str(tmp_path / "cache"))
    (images / "p0" / "bad.png").write_bytes(b"")
    assert any("5 of 7 images" in note and "resized to 24x24" in note for note in load(images).notes)
    assert any("6 of 7 images" in note and "resized to 48x48" in note for note in load(images, image_size=48).notes)
    assert any("skipped 1 of 7" in note for note in load(images, max_corrupt=0.2).notes)
    with pytest.raises(UserError, match="1 of 7 images cannot be read"):
        load(images, max_corrupt=0.0)
    assert len(list((tmp_path / "cache").glob("folder-*"))) == 1
    touch(images / "p0" / "new.txt")  # what is left out is told as it is now, and copies nothing
    assert "1 files that are not" in load(images).notes[0]
    assert len(list((tmp_path / "cache").glob("folder-*"))) == 1


def test_names_are_read_without_the_images(tmp_path, monkeypatch):
    class Pictures(RecordBuilder):
        name = "named_pictures"

    records = [{"image": b"image", "label": i // 2, "name": f"p{i // 2}/{i}.jpg"} for i in range(4)]
    builder = Pictures(splits={"train": records}, data_dir=tmp_path)
    prepare(builder, "pictures")
    source = ImageSource(builder, "train")
    monkeypatch.setattr("tvconv_jax.data.records.columns", None)
    assert [source.name(i) for i in range(4)] == [record["name"] for record in records]
    monkeypatch.undo()
    for file in tmp_path.rglob("names_train.json"):  # as in a cache of an earlier release
        file.unlink()
    assert ImageSource(builder, "train").name(3) == "p1/3.jpg"
    (tmp_path / "kept.txt").write_text("p0/0.jpg\np1/3.jpg\n")
    assert select_listed(source, tmp_path / "kept.txt")[0].name(1) == "p1/3.jpg"
