"""Aligning photographs without a list of landmarks: faces are found, and what is not plain is listed and counted."""

import shutil

import numpy as np
import photographs
import pytest
from PIL import Image
from test_verify import hide

from tvconv_jax.data.__main__ import main
from tvconv_jax.data.decoder import pixels
from tvconv_jax.data.tools import alignment
from tvconv_jax.data.tools import photographs as aligning
from tvconv_jax.edge import verify
from tvconv_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    photographs.write(folder, 2, 2, 3, lists=True)
    (folder / "landmarks.txt").rename(folder.parent / "landmarks.txt")
    return folder


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_folders_are_kept_and_faces_lie_on_the_template(album, tmp_path, capsys):
    out = tmp_path / "out"
    main(["align", str(album), str(out)])
    assert capsys.readouterr().out == "4 faces aligned to 112x112\n"
    assert files(out) == files(album)
    detector = verify.Detector()
    for name in files(out):
        face = pixels((out / name).read_bytes())
        assert face.shape == (112, 112, 3)
        assert verify.shift(detector.find(face)[0].points, 112) < verify.MAX_SHIFT
        image = verify.read_image(album / name)
        expected = verify.align_face(image, detector.find(image)[0].points)
        assert np.abs(face.astype(int) - expected).mean() < 6  # a JPEG of it


def test_options_stand_anywhere_with_and_without_a_list(album, tmp_path, capsys):
    landmarks, out = str(album.parent / "landmarks.txt"), str(tmp_path / "out")
    for arguments in (["--size=96", album, out], [album, "--size", "96", out]):
        main(["align", *map(str, arguments)])
        assert "96x96" in capsys.readouterr().out
    for arguments in ([album, "--size=96", landmarks, out], [album, landmarks, "--size=96", out]):
        main(["align", *map(str, arguments)])
        assert "0 faces aligned to 96x96; 4 were in" in capsys.readouterr().out


def test_what_is_not_plain_is_listed_and_counted(album, tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(album, source)
    face = pixels((album / "identity00" / "0.jpg").read_bytes())
    small = np.asarray(Image.fromarray(face).resize((160, 140)))
    both = np.concatenate([face, np.pad(small, ((140, 0), (0, 0), (0, 0)), mode="edge")], axis=1)
    Image.fromarray(both).save(source / "identity01" / "both.png")
    (source / "nobody").mkdir()
    Image.fromarray(np.full((99, 99, 3), 70, np.uint8)).save(source / "nobody" / "wall.png")
    (source / "identity00" / "cut.jpg").write_bytes((album / "identity00" / "0.jpg").read_bytes()[:2000])
    (source / "identity00" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    (source / "notes.txt").write_text("the user's own")
    main(["align", str(source), str(out)])
    printed = capsys.readouterr().out
    for words in (
        "5 faces aligned to 112x112",
        "1 without a face (nobody/wall.png)",
        "1 with several faces, of which the largest was taken (identity01/both.png)",
        "2 cannot be read (identity00/cut.jpg, identity00/phone.heic)",
        "no face at all of nobody",
        f"listed in {out / 'alignment.txt'}",
        "1 files that are not images (notes.txt)",
    ):
        assert words in printed
    lines = (out / "alignment.txt").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == [
        *("identity00/cut.jpg", "identity00/phone.heic", "identity01/both.png", "nobody/wall.png")
    ]
    before = {name: (out / name).read_bytes() for name in files(out)}
    (source / "nobody" / "wall.png").write_bytes((album / "identity00" / "0.jpg").read_bytes())
    main(["align", str(source), str(out)])  # what failed is tried again, what is there is kept
    assert "1 faces aligned to 112x112; 5 were in" in capsys.readouterr().out
    assert all((out / name).read_bytes() == data for name, data in before.items() if name != "alignment.txt")
    again = [line.split("\t")[0] for line in (out / "alignment.txt").read_text().splitlines()[1:]]
    assert again == ["identity00/cut.jpg", "identity00/phone.heic", "identity01/both.png"]


def test_bad_folders_are_refused_before_any_work(album, tmp_path, monkeypatch):
    def refused(source, target, match):
        with pytest.raises(UserError, match=match):
            alignment.align(source, None, target)

    refused(tmp_path / "none", tmp_path / "out", "is not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "out", "holds no images")
    refused(album, album, "is the folder of the images themselves")
    source = tmp_path / "source"
    shutil.copytree(album, source)
    shutil.copy(source / "identity00" / "0.jpg", source / "identity00" / "0.png")
    refused(source, tmp_path / "out", "would both become identity00/0.jpg; rename one")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "alignment.txt").write_text("the user's own")
    refused(album, tmp_path / "own", "is where the list of this command goes")
    assert (tmp_path / "own" / "alignment.txt").read_text() == "the user's own"
    walls = tmp_path / "walls"
    walls.mkdir()
    Image.fromarray(np.full((99, 99, 3), 70, np.uint8)).save(walls / "wall.png")
    refused(walls, tmp_path / "out", "no face was found in any of the 1 images")
    hide(monkeypatch, "mtcnnruntime")
    refused(album, tmp_path / "out", r"mtcnnruntime is not installed \(pip install mtcnn-runtime\).*LANDMARKS TARGET")


def test_a_target_within_the_source_is_not_aligned_again(album, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(album, source)
    for text in ("4 faces aligned to 112x112\n", f"0 faces aligned to 112x112; 4 were in {source / 'out'} already\n"):
        main(["align", str(source), str(source / "out")])
        assert capsys.readouterr().out == text


def test_one_implementation_for_both():
    assert alignment.align_face is aligning.align_face is verify.align_face


def test_an_interrupted_command_keeps_its_list(album, tmp_path, monkeypatch, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(album, source)
    find, calls = verify.Detector.find, []

    def twice(self, image):
        calls.append(image)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return find(self, image) * 2

    monkeypatch.setattr(aligning, "cores", lambda: 1)
    monkeypatch.setattr(verify.Detector, "find", twice)
    with pytest.raises(KeyboardInterrupt):
        alignment.align(source, None, out)
    monkeypatch.setattr(verify.Detector, "find", find)
    assert "2 with several faces" in alignment.align(source, None, out)
    assert len((out / "alignment.txt").read_text().splitlines()) == 3


def test_landmarks_that_do_not_fit_are_left_out_and_said(album, tmp_path):
    lines = [line.split() for line in (album.parent / "landmarks.txt").read_text().splitlines()]
    name, *numbers = lines[0]
    lines[0] = [name, *numbers[6:8], *numbers[2:6], *numbers[:2], *numbers[8:]]
    (tmp_path / "list.txt").write_text("\n".join(map(" ".join, lines)))
    report = alignment.align(album, tmp_path / "list.txt", tmp_path / "out")
    assert report.startswith(f"3 faces aligned to 112x112; 1 left out: the landmarks of {name} do not lie like a face")
    assert len(files(tmp_path / "out")) == 3


def test_a_face_that_a_list_has_added_is_listed_no_longer(album, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(album, source)
    Image.fromarray(np.full((99, 99, 3), 70, np.uint8)).save(source / "wall.png")
    assert "1 without a face" in alignment.align(source, None, out)
    (tmp_path / "list.txt").write_text("wall.png 35 40 65 40 50 55 38 70 62 70")
    alignment.align(source, tmp_path / "list.txt", out)
    assert "without a face" not in alignment.align(source, None, out)
    assert "wall.png" not in (out / "alignment.txt").read_text()
