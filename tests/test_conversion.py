"""The convert command: what goes in comes out, nothing is written over."""

import pytest

from tvconv_jax.data.__main__ import main
from tvconv_jax.data.bin_file import read_bin
from tvconv_jax.data.record_faces import RecordFaces

PICTURES = {
    "ann/1.jpg": b"\xff\xd8 one",
    "ann/2.png": b"\x89PNG two",
    "bob/10.jpg": b"\xff\xd8 ten" + b"\n#\xd7\xce" * 3,
}


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def lay(folder, pictures):
    for name, image in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image)
    return folder


def convert(*paths):
    main(["convert", *map(str, paths)])


def test_a_lost_index_is_written_anew(tmp_path):
    convert(lay(tmp_path / "faces", PICTURES), tmp_path / "train.rec")
    index = (tmp_path / "train.idx").read_bytes()
    (tmp_path / "train.idx").unlink()
    convert(tmp_path / "train.rec", tmp_path / "train.idx")
    assert (tmp_path / "train.idx").read_bytes() == index


def test_a_list_of_names_is_not_written_over(tmp_path, capsys):
    (tmp_path / "train.lst").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        convert(lay(tmp_path / "faces", PICTURES), tmp_path / "train.rec")
    assert "train.lst exists" in capsys.readouterr().err
    assert (tmp_path / "train.lst").read_text() == "mine" and not (tmp_path / "train.rec").exists()


def test_folder_to_record_and_back(tmp_path, capsys):
    convert(lay(tmp_path / "faces", PICTURES), tmp_path / "train.rec")
    assert "3 pictures of 2 identities" in capsys.readouterr().out
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


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("faces", "train.rec"), "train.rec exists and is not written over"),
        (("train.rec", "other"), "ann/1.jpg exists with other content and is not written over"),
        (("train.rec", "x.bin"), "train.rec (rec) cannot become"),
        (("none", "y.rec"), "none holds 0 identities"),
        (("none.rec", "y"), "none.rec cannot be read"),
        (("sly.rec", "y"), "must be 'key label identity/file'"),
    ],
)
def test_mistakes_are_one_line_and_leave_everything(tmp_path, capsys, paths, words):
    convert(lay(tmp_path / "faces", PICTURES), tmp_path / "train.rec")
    convert(tmp_path / "faces", tmp_path / "sly.rec")
    (tmp_path / "sly.lst").write_text("1\t0\t../../ann.jpg\n")
    lay(tmp_path / "other", {"ann/1.jpg": b"mine"})
    before = tree(tmp_path)
    with pytest.raises(SystemExit) as exit:
        convert(*(tmp_path / path for path in paths))
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert tree(tmp_path) == before
