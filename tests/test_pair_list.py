"""Lists of pairs that are made of a folder of identities: balanced, apart where they can be, read by a training run."""

import functools
import shutil

import numpy as np
import pytest
from folders import encoded
from ml_collections import ConfigDict

from tvconv_jax.data.__main__ import main
from tvconv_jax.data.faces import load_faces
from tvconv_jax.data.formats.pairs import check_folds, read_pairs
from tvconv_jax.data.tools.pair_sampling import draw_folds
from tvconv_jax.utils.errors import UserError


def image(seed):
    return encoded(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8))


def lay(folder, sizes):
    """A folder of identities; identity i has sizes[i] images."""
    for i, size in enumerate(sizes):
        (folder / f"id {i}").mkdir(parents=True)
        for j in range(size):
            (folder / f"id {i}" / f"{j}.png").write_bytes(image(1000 * i + j))
    return folder


def run(capsys, *arguments):
    main(["pairs", *map(str, arguments)])
    return capsys.readouterr().out


@pytest.fixture
def failure(refusal):
    return functools.partial(refusal, main, "pairs")


def config(root, **fields):
    given = {"source": "folder", "root": str(root), "verify_root": "", "image_size": 16, "max_corrupt": 0.0}
    return ConfigDict(given | {"include_list": ""} | fields)


def identity(path):
    return path.split("/")[-2]


def test_folds_are_balanced_distinct_and_share_no_identity(tmp_path, capsys):
    lay(tmp_path / "faces" / "train", [5, 4, 3, 3, 2, 2, 2, 2, 2, 2, *[1] * 12])
    printed = run(capsys, tmp_path / "faces" / "train")
    assert "10 of 2 pairs; they share no identity" in printed and "all 22; training sees them too" in printed
    pairs, names = read_pairs(tmp_path / "faces" / "own_pair.txt")
    check_folds(pairs.same, pairs.folds, "own")
    assert len(pairs.same) == 20 and pairs.same.sum() == 10
    assert len({frozenset(pair) for pair in zip(pairs.left, pairs.right, strict=True)}) == 20
    seen = [set() for _ in range(10)]
    for left, right, same, fold in zip(*pairs, strict=True):
        assert (identity(names[left]) == identity(names[right])) == same and left != right
        seen[fold] |= {identity(names[left]), identity(names[right])}
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_held_out_identities_are_trained_on_by_nobody_who_gives_the_flag_that_is_printed(tmp_path, capsys):
    base = tmp_path / "faces"
    lay(base / "train", [5] * 12)
    printed = run(capsys, base, "--hold-out=3")
    assert "60 pairs of 15 images, 30 of one identity and 30 of two" in printed
    assert "share identities (to keep them apart takes 20 identities, 10 of them with two images)" in printed
    (flag,) = [word for word in printed.split() if "include_list" in word]
    assert flag == f"--config.data.include_list={base}/own_train.txt"
    data = load_faces(config(base, include_list=flag.split("=")[1]))
    source, pairs = data.verification["own"]
    trained = {identity(data.train.name(i)) for i in range(len(data.train))}
    held = {identity(source.name(i)) for i in range(len(source))}
    assert (len(trained), len(held), len(trained | held)) == (9, 3, 12) and data.num_classes == 9
    main(["inspect", str(base), "--size=16"])
    assert "in the test set own" not in capsys.readouterr().out  # no overlap, with that flag
    (base / "own_train.txt").unlink()
    main(["inspect", str(base), "--size=16"])
    assert "identities that are also in the test set own, 3" in capsys.readouterr().out


def test_a_list_moves_with_its_folder(tmp_path, capsys):
    lay(tmp_path / "a" / "train", [4, 4])
    run(capsys, tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    _, names = read_pairs(tmp_path / "b" / "own_pair.txt")
    assert names and all(name.startswith(str(tmp_path / "b" / "train")) for name in names)


def test_identities_without_a_train_folder_and_a_list_elsewhere(tmp_path, capsys, monkeypatch):
    lay(tmp_path / "faces", [5, 5, 5, 5])
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path)
    run(capsys, "faces")
    assert run(capsys, "faces") and len(load_faces(config("faces")).verification["own"][1].same) == 80
    printed = run(capsys, "faces", "--out=lists/mine_pair.txt", "--hold-out=0.5")
    flags = "--config.data.root=faces --config.data.verify_root=lists --config.data.include_list=lists/mine_train.txt"
    start = "python -m tvconv_jax.main --config=configs/face_mb01.py:data=casia"
    assert f"  to train    {start} {flags} --workdir=runs/own\n" in printed
    data = load_faces(config("faces", source="casia", verify_root="lists", include_list="lists/mine_train.txt"))
    assert set(data.verification) == {"mine"} and data.num_classes == 2


def test_the_seed_decides(tmp_path, capsys):
    lay(tmp_path / "train", [4] * 6)
    texts = []
    for seed in (0, 0, 1):
        run(capsys, tmp_path, f"--seed={seed}", "--hold-out=3")
        texts.append([(tmp_path / f"own_{end}.txt").read_text() for end in ("pair", "train")])
        for end in ("pair", "train"):
            (tmp_path / f"own_{end}.txt").unlink()
    assert texts[0] == texts[1] and texts[0][0] != texts[2][0] and texts[0][1] != texts[2][1]


def test_what_cannot_be_read_or_is_there_twice_is_left_out_and_said(tmp_path, capsys):
    lay(tmp_path / "train", [5, 5, 5, 5])
    (tmp_path / "train" / "id 0" / "0.png").write_bytes(b"not an image")
    (tmp_path / "train" / "id 1" / "1.png").write_bytes(image(1000))
    (tmp_path / "train" / "id 2" / "1.png").write_bytes(image(1002))
    printed = run(capsys, tmp_path, "--hold-out=2")
    held = {identity(name) for name in read_pairs(tmp_path / "own_pair.txt")[1]} if "own" in printed else set()
    kept = (tmp_path / "own_train.txt").read_text().split("\n")[:-1]
    assert len(held) == 2 and "id 0/0.png" not in kept and "1 images that cannot be read (train/id 0/0.png)" in printed
    (tmp_path / "own_pair.txt").unlink()
    (tmp_path / "own_train.txt").unlink()
    printed = run(capsys, tmp_path)
    assert "2 images equal to another one: used once (train/id 1/1.png, ...)" in printed
    names = {name.split("train/")[1] for name in read_pairs(tmp_path / "own_pair.txt")[1]}
    assert not names & {"id 0/0.png", "id 1/1.png", "id 2/1.png"}


def test_another_list_is_not_written_over(tmp_path, capsys, failure):
    lay(tmp_path / "train", [4] * 6)
    (tmp_path / "own_train.txt").write_text("mine")
    words = "own_train.txt exists with other content and is not written over; give another --out, or move it away."
    assert words in failure(tmp_path, "--hold-out=2")
    assert (tmp_path / "own_train.txt").read_text() == "mine" and not (tmp_path / "own_pair.txt").exists()
    run(capsys, tmp_path)
    assert "own_pair.txt exists with other content" in failure(tmp_path, "--seed=1")


@pytest.mark.parametrize(
    ("sizes", "arguments", "words"),
    [
        ([5], [], "holds 1 identity with images; pairs need two or more folders <identity>/*.jpg."),
        ([1, 1, 1], [], "3 identities give 0 pairs of images of one identity and 3 of two; 10 folds need 10"),
        (
            [3, 2],
            [],
            "give 4 pairs of images of one identity and 6 of two; 10 folds need 10 of each",
        ),
        ([3, 3, 3, 3], ["--hold-out=2"], "2 identities held out give 6 pairs"),
        ([4] * 6, ["--pairs-per-fold=8"], "--pairs-per-fold=8: 6 identities give 36 pairs"),
        ([4] * 6, ["--pairs-per-fold=8"], "of one identity and 240 of two; give 6 at most."),
        ([4] * 6, ["--pairs-per-fold=3"], "--pairs-per-fold=3 must be even"),
        ([4] * 6, ["--hold-out=5"], "--hold-out=5 of 6 identities leaves 1 to train on and 5 for pairs; both need two"),
        ([4] * 6, ["--hold-out=0.1"], "--hold-out=0.1 of 6 identities leaves 5 to train on and 1 for pairs"),
        ([4] * 6, ["--hold-out=1"], "'1' must be a whole number from 2"),
        ([4] * 6, ["--out={}/pairs.txt"], "pairs.txt must end in _pair.txt, by which training finds it"),
        ([4] * 6, ["--out={}/all_pair.txt"], "no verification set can be called 'all'"),
        ([4] * 6, ["--out={}/id 1_pair.txt"], "is a set 'id 1', and an identity has that name; give another name."),
    ],
)
def test_what_cannot_be_had_is_one_line(sizes, arguments, words, tmp_path, failure):
    lay(tmp_path, sizes)
    assert words in failure(tmp_path, *(argument.format(tmp_path) for argument in arguments))
    assert not list(tmp_path.glob("*.txt"))


@pytest.mark.parametrize(("name", "words"), [("train.rec", "convert writes one from a .rec"), ("no", "does not exist")])
def test_what_is_not_a_folder_is_one_line(name, words, tmp_path, failure):
    assert words in failure(tmp_path / name)


def test_many_identities_are_drawn_alike_and_few_pairs_are_all_found():
    few = [[f"{i}/{j}" for j in range(size)] for i, size in enumerate([2] * 10 + [30] + [1] * 9)]
    folds, reason = draw_folds(np.random.default_rng(0), few, 88, "")  # 445 pairs of one identity
    assert len({pair for fold in folds for pair in fold.same}) == 440 and "2 pairs in a fold, or fewer" in reason
    used = [pair[0].split("/")[0] for fold in folds for pair in fold.same]
    assert all(used.count(str(i)) == 1 for i in range(10))  # each has one pair, and all of them are taken
    many = [[f"{i}/{j}" for j in range(6)] for i in range(3000)]
    folds, reason = draw_folds(np.random.default_rng(0), many, None, "")
    assert not reason and {(len(fold.same), len(fold.different)) for fold in folds} == {(300, 300)}
    with pytest.raises(UserError, match="give 88 at most"):
        draw_folds(np.random.default_rng(0), few, 90, "")
