"""Lists as people write them: text of any kind, pairs, names; what is written is read back."""

import numpy as np
import pytest
from folders import encoded, lay, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from tvconv_jax.data.faces import load_faces
from tvconv_jax.data.formats.bin_file import write_bin
from tvconv_jax.data.formats.name_list import read_names
from tvconv_jax.data.formats.pairs import check_folds, read_pairs, read_rows
from tvconv_jax.data.formats.record_faces import write_faces
from tvconv_jax.data.listing import is_junk
from tvconv_jax.data.records import RecordBuilder, prepare
from tvconv_jax.data.sets import open_faces
from tvconv_jax.data.subset import read_include_list
from tvconv_jax.data.tools.alignment import read_landmarks
from tvconv_jax.data.tools.conversion import convert
from tvconv_jax.data.tools.held_out import open_held_out
from tvconv_jax.data.tools.inspection import inspect
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.face import FaceJob
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_lines


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_one_reader_for_every_encoding_and_line_end(tmp_path, encoding, end):
    path, lines = tmp_path / "list.txt", ["José\u2028 1", "", " b\x85\x0b", "c"]
    for tail in ("", end):
        path.write_bytes((end.join(lines) + tail).encode(encoding))
        assert read_lines(path) == lines
    path.write_bytes((end.join(["a/1.jpg a/2.jpg 1", "", "b/1.jpg c/2.jpg -1", "", ""])).encode(encoding))
    (tmp_path / "x_pair.txt").write_bytes(path.read_bytes())
    assert [row[1:] for row in read_rows(tmp_path / "x_pair.txt")] == [
        ("a/1.jpg", "a/2.jpg", True),
        ("b/1.jpg", "c/2.jpg", False),
    ]
    assert open_held_out(path)[0].identities == ["a/1.jpg a/2.jpg 1", "b/1.jpg c/2.jpg -1"]
    path.write_bytes(end.join(["a.jpg 1 2 3 4 5 6 7 8 9 0", ""]).encode(encoding))
    assert read_landmarks(path)[0].file == "a.jpg"
    path.write_bytes(end.join(["a/1.jpg", "", "b/x\u2028y.jpg"]).encode(encoding))
    assert read_include_list(path) == ["a/1.jpg", "b/x\u2028y.jpg"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("José".encode("latin-1"), "list.txt cannot be read .'utf-8' codec can't decode byte 0xe9"),
        (
            "a b 1".encode("utf-16-le"),
            "list.txt cannot be read .it holds zero bytes, as no text does.; give a text file in UTF-8",
        ),
        (b"\xff\xfea", "list.txt cannot be read"),
        (None, "list.txt cannot be read .No such file or directory"),
    ],
)
def test_what_is_no_text_is_one_line(tmp_path, content, words):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_lines(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"")
    assert read_lines(tmp_path / "list.txt") == []


def pair_list(root, lines, name="x_pair.txt"):
    (root / name).write_text("".join(line + "\n" for line in lines))
    return root / name


def test_pairs_with_blanks_absolute_paths_and_backslashes(tmp_path):
    lay(tmp_path, {name: b"" for name in ("x/a 1.jpg", "x/b/2.JPG", "x/1", "elsewhere/c.PNG")})
    away = tmp_path / "elsewhere" / "c.PNG"
    lines = [
        "a 1.jpg\tb/2.JPG\t1",
        f"{away} b\\2.JPG -1",
        f"{tmp_path}/x/b/2.JPG\t1\t1",
        "1 1 -1",
        "a 1.jpg\t 1\t1 ",
    ] * 2
    pairs, names = read_pairs(pair_list(tmp_path, lines))
    assert names == sorted(["a 1.jpg", "b/2.JPG", str(away), "1", f"{tmp_path}/x/b/2.JPG"])
    assert pairs.same.tolist() == [True, False, True, False, True] * 2
    with pytest.raises(
        UserError, match=r"x_pair.txt:1: 'a 1.jpg b/2.JPG 1' must be .* separated by tabs if names hold"
    ):
        read_rows(pair_list(tmp_path, ["a 1.jpg b/2.JPG 1"]))


def test_a_list_of_absolute_paths_elsewhere_is_trained_with(tmp_path):
    for i in range(4):
        content = encoded(np.full((24, 24, 3), i, np.uint8))
        lay(tmp_path, {f"root/p{i % 2}/{i}.png": content, f"elsewhere/{i}.png": content})
    lines = [f"{tmp_path}/elsewhere/{i % 4}.png {tmp_path}/root/p1/3.png {(-1) ** i}" for i in range(20)]
    pair_list(tmp_path / "root", lines)
    config = {
        "source": "folder",
        "root": str(tmp_path / "root"),
        "image_size": 24,
        "max_corrupt": 0.0,
        "include_list": "",
    }
    load_faces(ConfigDict(config))
    (tmp_path / "root" / "x_pair.txt").rename(tmp_path / "root" / "y_pair.txt")  # the same files, another set
    source, _ = load_faces(ConfigDict(config)).verification["y"]
    names = [source.name(i) for i in range(len(source))]
    assert names == [*(f"{tmp_path}/elsewhere/{i}.png" for i in range(4)), "p1/3.png"]


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".png", ".PNG"])
@pytest.mark.parametrize("head", [["10\t1"], ["1"], []])
@pytest.mark.parametrize("person", ["Ada", "Colin P", "1", "2 3"])
def test_lfw_lists_with_any_suffix_head_and_name(tmp_path, suffix, head, person):
    files = {f"lfw/{name}/{name}_{i:04d}{suffix}": b"" for name in (person, "7") for i in (1, 2)}
    lay(tmp_path, files)
    path = pair_list(tmp_path, [*head, *[f"{person}\t1\t2", f"{person}\t1\t7\t2"] * 10], "pairs.txt")
    pairs, names = read_pairs(path)
    assert pairs.same.tolist() == [True, False] * 10 and len(names) == 3
    assert {f"lfw/{name}" for name in names} < set(files)


def test_lfw_lists_with_what_is_no_pair(tmp_path):
    for line in ("Colin Powell 1 2", "a 1", "a 1 2 3 4", "a \u00b2 1", "10 300 5 x"):
        with pytest.raises(UserError, match="pairs.txt:2: .* must be 'name 1 2' or"):
            read_rows(pair_list(tmp_path, ["10 300", line], "pairs.txt"))


def test_a_fold_holds_both_kinds(tmp_path):
    folds = np.repeat(np.arange(10), 2)
    check_folds(np.arange(20) % 2 == 0, folds, "x")
    for same, words in (
        (
            np.arange(20) < 10,
            "x: fold 1 of 10 holds only pairs of one identity, but every fold needs both kinds; inter",
        ),
        (np.arange(20) < 0, "x holds pairs of two identities only; both kinds are needed: complete or remove it."),
        (np.arange(20) % 2 * (np.arange(20) < 18) == 1, "x: fold 10 of 10 holds only pairs of two identities"),
    ):
        with pytest.raises(UserError, match=words):
            check_folds(same, folds, "x")


def image(seed):
    return encoded(np.random.default_rng(seed).integers(0, 255, (24, 24, 3), np.uint8))


@pytest.mark.parametrize("kind", ["bin", "pairs"])
def test_a_sorted_set_is_refused_before_training_and_told_by_inspect(tmp_path, kind):
    lay(tmp_path, {f"p{i % 2}/{i}.png": image(i) for i in range(4)})
    images = [image(i) for i in range(40)]
    write_bin(tmp_path / "x.bin", images, [i < 10 for i in range(20)])
    if kind == "pairs":  # the way out goes through a list, so a sorted .bin becomes one
        convert(tmp_path / "x.bin", tmp_path / "x_pair.txt")
        (tmp_path / "x.bin").unlink()
    config = face_config("smoke,data=casia,batch_size=4", model="mobilenetv2", width=0.1)
    config.data.root = str(tmp_path)
    with pytest.raises(UserError, match="verification set x: fold 1 of 10 holds only pairs of one identity"):
        FaceJob(config)
    said = inspect(str(tmp_path / ("x.bin" if kind == "bin" else "x_pair.txt")))
    assert "pairs       20: 10 of one identity, 10 of two identities, in 10 folds" in said
    assert "! x: fold 1 of 10 holds only" in said


KEYS, LABELS = [1, 2, 5], [0, 0, 1]


@pytest.mark.parametrize(
    "lines",
    [
        ["1\t0\ta/1.jpg", "2\t0\ta/2.jpg", "5\t1\tb/1.jpg"],  # ours
        ["5\t1.000000\t/data/faces/b/1.jpg", "1\t0.0\t/data/a/1.jpg", "2\t0\ta/2.jpg", "9\t4\tc/1.jpg"],  # im2rec's
        ["1\t0\t3\t4\ttrain\\a\\1.jpg", "2\t0\t3\t4\tC:\\data\\a\\2.jpg", "5\t1\t3\t4\tb\\1.jpg"],  # of Windows
        ["1\t/data/a/1.jpg\t0", "1\t/data/a/2.jpg\t0", "1\t/data/b/1.jpg\t1"],  # insightface's: no keys
        ["0\ta\\1.jpg\t7\t1\t2", "0\ta\\2.jpg\t7\t1\t2", "0\tb\\1.jpg\t9\t1\t2"],
    ],
)
def test_lists_of_names_in_every_form(tmp_path, lines):
    path = pair_list(tmp_path, lines, "train.lst")
    assert read_names(path, KEYS, LABELS) == (["a/1.jpg", "a/2.jpg", "b/1.jpg"], "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "names no key 1 and 2 more"),
        (b"\n\n", "names no key 1 and 2 more"),
        (b"1\t0\ta/1.jpg\n2\t0\ta/2.jpg\n", "names no key 5."),
        (b"1\t0\ta1.jpg\n", "line 1, 'a1.jpg', has no folder to name an identity"),
        (b"\n1\t0\t../../ann.jpg\n", "line 2, '../../ann.jpg', has no"),
        (b"1\t0\t..\\a.jpg\n", "has no folder"),
        (b"1\t0\t/a.jpg\n", "has no folder"),
        (b"1\t0\tC:\\a.jpg\n", "has no folder"),
        (b"1 0 a/1.jpg\n", "line 1, '1 0 a/1.jpg', is not 'key label identity/file'"),
        ("1\t0\tJosé/1.jpg\n".encode("latin-1"), "cannot be read"),
        (b"\x89PNG\0\0\0", "cannot be read"),
        (b"1\t0\ta/1.jpg\n2\t0\ta/1.jpg\n5\t1\tb/1.jpg\n", "gives the same name to two"),
        (b"1\t0\ta/1.jpg\n2\t0\tb/2.jpg\n5\t1\tb/1.jpg\n", "puts images of one label into several folders"),
        (b"1\tx/a/1.jpg\t0\n1\tx/a/2.jpg\t0\n", "names 2 images, but there are 3"),
        (b"1\tx/a/1.jpg\t0\n1\tx/b/2.jpg\t1\n1\tx/b/3.jpg\t1\n", "puts images of one label into several folders"),
    ],
)
def test_a_list_that_does_not_fit_closes_no_set(tmp_path, content, words):
    faces = [{"image": b"%d" % key, "label": label, "name": ""} for key, label in zip(KEYS, LABELS, strict=True)]
    write_faces(tmp_path / "train.rec", faces)
    (tmp_path / "train.lst").write_bytes(content.replace(b"5\t", b"3\t"))
    opened = open_faces(tmp_path / "train.rec")
    assert [opened.source.name(i) for i in range(3)] == ["train.rec:1", "train.rec:2", "train.rec:3"]
    (note,) = opened.notes
    assert note.startswith(f"{tmp_path / 'train.lst'} is not used: ") and words.replace("5.", "3.") in note
    assert "\n" not in note


NASTY = [
    "a\u2028b",
    "a\x85",
    " a",
    "a ",
    "a\tb",
    "a\nb",
    "a\r",
    "a\x0b\x1c",
    "\u00e9",
    "e\u0301",
    "#a",
    "a,b",
    '"',
    "\\",
    "-",
]
NASTY += [".a", "a:", "C:", "'", "*?[a]", "$a", "~", "@eaDir", "..a", "1", "a b", "\ufeffa", "%s", "\udcff"]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(*[st.sampled_from(NASTY)] * 2), min_size=2, max_size=4, unique_by=lambda name: name[0]))
def test_what_convert_writes_it_reads_back(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("names")
    pictures = {f"{person}/{file}.jpg": b"\xff\xd8%d" % i for i, (person, file) in enumerate(names)}
    kept = {name: image for name, image in pictures.items() if not any(map(is_junk, name.split("/")))}
    lay(root / "faces", pictures)
    if len(kept) < 2:
        return
    try:
        convert(root / "faces", root / "a.rec")
    except UserError as error:
        assert any(set(name) & set("\t\n\r\udcff") for name in kept) and "\n" not in str(error)
        assert [path.name for path in root.iterdir()] == ["faces"]
        return
    convert(root / "a.rec", root / "back")
    assert tree(root / "back") == kept


class Set(RecordBuilder):
    """A set of somebody's, whose names are whatever they are."""

    name = "somebody"


@pytest.mark.parametrize(
    ("identities", "names", "words"),
    [
        (["a/b", "a_b"], ["", ""], "two of its identities would get one folder"),
        (["a", "b"], ["a/1.jpg", "b/._1.jpg"], "'b/._1.jpg' would not be read back from the folder"),
        (["a", "b"], ["a/1.webp", "b/1.jpg"], "'a/1.webp' would not be read back"),
        (["a", "@eaDir"], ["", ""], "would not be read back"),
        (["a", "b"], ["all/1.jpg", "all/2.jpg"], ""),  # the folder is not the identity: names are made up
        (["a", "b"], ["x\u2028/1.jpg", "b /2.jpg"], ""),
    ],
)
def test_a_tfds_set_comes_back_or_is_refused(tmp_path, identities, names, words):
    records = [{"image": b"\xff\xd8%d" % i, "label": i, "name": name} for i, name in enumerate(names)]
    builder = Set(splits={"train": records}, identities=identities, data_dir=tmp_path / "set")
    prepare(builder, "a set")
    before = tree(tmp_path)
    if words:
        with pytest.raises(UserError, match=words):
            convert(f"tfds:{builder.data_path}", tmp_path / "out")
        assert tree(tmp_path) == before
        return
    convert(f"tfds:{builder.data_path}", tmp_path / "out")
    opened = open_faces(tmp_path / "out")
    assert len(opened.identities) == 2 and sorted(tree(tmp_path / "out").values()) == [b"\xff\xd80", b"\xff\xd81"]
    convert(f"tfds:{builder.data_path}", tmp_path / "b" / "a.rec")
    convert(tmp_path / "b" / "a.rec", tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_thousands_of_equal_files_are_cut(tmp_path):
    lay(tmp_path, {f"p{i % 2}/{i}.png": image(0) for i in range(60)})
    line = next(line for line in inspect(str(tmp_path)).splitlines() if "several identities" in line)
    assert line.count(" = ") == 4 and line.endswith(" = ... (60 in all)")
    assert inspect(str(tmp_path), every_name=True).count(" = ") == 59
