"""Sets of classification: layouts, splits, groups, CSVs, and one line for what is wrong with them."""

import errno
import pickle
import shutil

import numpy as np
import pytest
from folders import touch
from PIL import Image

from tvconv_jax.data import decoded
from tvconv_jax.data.classes import find_classes, load_classes
from tvconv_jax.data.split import held_out
from tvconv_jax.tasks.configs import classification_config
from tvconv_jax.utils.errors import TrainingError, UserError

SHADES = {"bright": 200, "dark": 40, "mid": 120}


def put(path, value=100, size=(16, 16), mode="L", form=None):
    """Write an image of one value, with its corner marked by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size, value, np.uint16 if mode == "I;16" else np.uint8)
    pixels[0, 0] = sum(map(ord, path.name)) % 256
    image = Image.fromarray(pixels)
    image.convert(mode).save(path, form) if mode != "I;16" else image.save(path, form)
    return path


def folders(root, counts, *, parts=("",), suffix="png"):
    """Class folders of so many images, alone or in ``train`` and ``test``."""
    for part in parts:
        for name, count in counts.items():
            for i in range(count):
                put(root / part / name / f"p{i // 2}_{i}.{suffix}", SHADES.get(name, 90))
    return root


def data(root, **changes):
    config = classification_config("data=folder,image_size=16").data
    config.update({"root": str(root), **changes})
    return config


def load(root, cache, **changes):
    return load_classes(data(root, **changes), cache)


COUNTS = {"bright": 10, "dark": 20, "mid": 15}


def test_one_folder_is_split_by_class_the_same_way_every_time(tmp_path):
    root = folders(tmp_path / "set", COUNTS)
    one, again = (load(root, tmp_path / "cache") for _ in range(2))
    assert one.classes == ["bright", "dark", "mid"] and one.groups is None and one.validation is None
    assert np.bincount(one.test.labels).tolist() == [2, 4, 3] and np.bincount(one.train.labels).tolist() == [8, 16, 12]
    assert one.test.names == again.test.names and not set(one.test.names) & set(one.train.names)
    assert one.test.names != load(root, tmp_path / "cache", split_seed=1).test.names
    assert any("9 of 45 images to test on" in note for note in one.notes)
    for source in (one.train, one.test):
        for index in range(len(source)):
            image = source[index]["image"]
            assert image.shape == (16, 16, 3) and image[8, 8].tolist() == [SHADES[source.name(index).split("/")[0]]] * 3


def test_a_split_by_groups_says_how_many_are_tested_on(tmp_path):
    root = folders(tmp_path / "set", COUNTS)
    found = find_classes(data(root, group_pattern="/(p[0-9]+)_"))
    (note,) = found.notes
    tested = {group for group, test in zip(found.groups, found.test, strict=True) if test}
    assert f"of 45 images, {len(tested)} of 10 groups, to test on, drawn by class (" in note


def test_images_and_masks_are_not_taken_for_classes(tmp_path):
    for names in (("image", "mask"), ("Images", "masks")):
        root = folders(tmp_path / names[0], dict.fromkeys(names, 3))
        with pytest.raises(UserError, match="holds images and masks, .*=configs/segmentation.py:data=folder, or"):
            find_classes(data(root))


def test_train_and_test_folders_are_kept(tmp_path):
    root = folders(tmp_path / "set", {"a": 3, "b": 4}, parts=("train", "test"))
    put(root / "val" / "a" / "0.png")
    found = load(root, tmp_path / "cache")
    assert len(found.train) == len(found.test) == 7 and found.train.name(0) == "train/a/p0_0.png"
    assert any("1 folders beside train/ and test/ (val)" in note for note in found.notes)


def test_a_class_may_be_called_train(tmp_path):
    root = folders(tmp_path / "set", {"train": 5, "bus": 5})
    assert load(root, tmp_path / "cache").classes == ["bus", "train"]


def test_train_and_test_in_any_case_are_parts_with_images_beside_their_classes_left_out(tmp_path):
    root = folders(tmp_path / "set", {"bright": 3, "dark": 5}, parts=("Train", "TEST"))
    put(root / "Train" / "beside.png")
    found = load(root, tmp_path / "cache")
    assert (found.classes, len(found.train), len(found.test)) == (["bright", "dark"], 8, 8)
    assert set(name.split("/")[0] for name in found.test.names) == {"TEST"}
    assert any("1 images beside the folders of classes (Train/beside.png)" in note for note in found.notes)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("Training", "Testing"), "holds Testing/ and Training/; rename them to train/ and test/"),
        (("train", "Train", "test"), "holds Train/, test/ and train/|twice but for their case"),
    ],
)
def test_parts_of_other_names_are_no_classes(tmp_path, names, words):
    root = folders(tmp_path / "set", {"a": 2, "b": 2}, parts=names)
    with pytest.raises(UserError, match=words):
        find_classes(data(root))


def test_a_file_has_one_class_and_one_side(tmp_path):
    root = folders(tmp_path / "set", {"a": 3, "b": 3}, parts=("train", "test"))
    (root / "train" / "a" / "again.png").symlink_to("p0_0.png")  # to train on it more often
    assert len(load(root, tmp_path / "cache").train) == 7
    for link, target in (("link", "train/a"), ("link.png", "train/b/p0_0.png")):
        link = root / "test" / "a" / link
        link.symlink_to(root / target)
        with pytest.raises(UserError, match="test/a/link.* and .*train/.* are one file, by a link"):
            find_classes(data(root))
        link.unlink()
    path = listing(root.parent, "path,class\nset/train/a/p0_0.png,a\nset/train/../train/a/p0_0.png,b\n")
    with pytest.raises(UserError, match="are one file"):
        find_classes(data(path))


def test_a_link_back_to_the_root_adds_no_images_to_a_class(tmp_path):
    root = folders(tmp_path / "set", {"a": 3, "b": 3})
    (root / "a" / "back").symlink_to(root)
    found = load(root, tmp_path / "cache")
    assert len(found.train) + len(found.test) == 6
    assert any("links back to a folder above (a/back)" in note for note in found.notes)


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    root = folders(tmp_path / "set", {"10": 2, "9": 2, "-": 2, "100": 2})
    assert find_classes(data(root)).classes == ["9", "10", "100", "-"]


def test_a_validation_part_is_taken_from_the_training_images(tmp_path):
    root = folders(tmp_path / "set", COUNTS)
    whole, part = (load(root, tmp_path / "cache", validation_share=share) for share in (0.0, 0.25))
    assert part.test.names == whole.test.names
    assert sorted(part.train.names + part.validation.names) == sorted(whole.train.names)
    assert np.bincount(part.validation.labels).tolist() == [2, 4, 3]


def test_groups_stay_on_one_side(tmp_path):
    root = folders(tmp_path / "set", {"a": 30, "b": 30})
    found = load(root, tmp_path / "cache", group_pattern=r"/(p\d+)_", validation_share=0.2)
    sides = [{name.split("/")[1].split("_")[0] for name in part.names} for part in found[:3]]
    assert not sides[0] & sides[1] and not sides[1] & sides[2] and not sides[0] & sides[2]
    assert set(found.groups) == sides[2] and len(found.groups) == len(found.test)
    assert found.test.labels.tolist().count(0) == 6
    assert load(root, tmp_path / "cache", group_pattern=r"p\d+").groups == found.groups  # the whole match


def test_a_split_by_groups_of_any_size_keeps_to_the_share():
    random = np.random.default_rng(0)
    groups = random.integers(40, size=2000) ** 2 // 40
    labels = random.integers(3, size=2000)
    held = held_out(labels, [str(group) for group in groups], 0.3, 0)
    assert not set(groups[held]) & set(groups[~held])
    assert all(abs(np.mean(held[labels == label]) - 0.3) < 0.03 for label in range(3))
    assert held_out(np.array([0, 0, 1, 1]), None, 0.01, 0).sum() == 2  # at least one of each class
    assert (~held_out(np.array([0, 0, 1, 1]), None, 0.99, 0)).sum() == 2


@pytest.mark.parametrize(
    ("mode", "form", "value", "rgb"),
    [
        ("L", "png", 77, 77),
        ("RGB", "bmp", 77, 77),
        ("I;16", "png", 77 * 257, 77),
        ("P", "gif", 77, 77),
        ("L", "tif", 77, 77),
    ],
)
def test_every_mode_of_the_decoder_is_read(tmp_path, mode, form, value, rgb):
    for name in ("a", "b"):
        for i in range(3):
            put(tmp_path / "set" / name / f"{i}.{form}", value, mode=mode)
    found = load(tmp_path / "set", tmp_path / "cache")
    assert found.train[0]["image"][8, 8].tolist() == [rgb] * 3


def test_mixed_sizes_are_resized_once_and_said(tmp_path):
    root = folders(tmp_path / "set", {"a": 6, "b": 6})
    put(root / "a" / "big.png", size=(48, 96))
    config = data(root)
    config.image_size = (24, 40)
    found = load_classes(config, tmp_path / "cache")
    assert found.train[0]["image"].shape == (24, 40, 3)
    assert "13 of 13 images of 2 sizes, mostly 16x16, are resized to 24x40, once" in found.notes


def test_images_are_decoded_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    root, cache = folders(tmp_path / "set", {"a": 4, "b": 4}), tmp_path / "cache"
    load(root, cache)
    monkeypatch.setattr(decoded, "pixels", None)
    found = load(root, cache)
    copy = pickle.loads(pickle.dumps(found.train))
    assert np.array_equal(copy[1]["image"], found.train[1]["image"]) and copy.name(1) == found.train.name(1)
    assert len(pickle.dumps(found.train)) < 4000  # not the pixels
    put(root / "a" / "p0_0.png", 1, size=(20, 20))
    with pytest.raises(TypeError, match="not callable"):
        load(root, cache)
    assert [path.name for path in cache.iterdir() if path.name.endswith(".part")] == []


def test_what_a_killed_run_left_in_the_cache_is_removed_and_a_full_disk_is_one_line(tmp_path, monkeypatch):
    root, cache = folders(tmp_path / "set", COUNTS), tmp_path / "cache"

    def fill(folder, *_):
        touch(folder / f".{'a' * 16}.part.npy")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(decoded, "_write", fill)
        with pytest.raises(TrainingError, match=f"no space left in {cache} .* for decoded images"):
            load(root, cache)
    load(root, cache)
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == ["images.npy", "summary.json"]


def test_a_damaged_cache_is_one_line(tmp_path):
    root, cache = folders(tmp_path / "set", {"a": 4, "b": 4}), tmp_path / "cache"
    load(root, cache)
    (file,) = cache.glob("pixels-*/images.npy")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match="is damaged or cannot be read; remove .*, and it is made again"):
        load(root, cache)


def listing(root, text, name="list.csv"):
    (root / name).write_text(text)
    return root / name


def test_a_csv_names_images_classes_splits_and_groups(tmp_path):
    root = folders(tmp_path / "set", {"x": 4})
    rows = [f"x/p{i // 2}_{i}.png;{'ab'[i % 2]};{'Train' if i < 2 else 'test'};g{i // 2}" for i in range(4)]
    for text in ("\n".join(rows), "\r\n".join(rows).replace("/", "\\")):
        found = load(listing(root, f"path;class;split;group\n{text}\n"), tmp_path / "cache")
        assert found.classes == ["a", "b"] and len(found.train) == len(found.test) == 2 and found.groups == ["g1", "g1"]
    drawn = load(
        listing(root, "Class,Path\n" + "\n".join(f"{'ab'[i % 2]},x/p{i // 2}_{i}.png" for i in range(4))), tmp_path
    )
    assert len(drawn.train) == len(drawn.test) == 2 and drawn.description.startswith("CSV ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lacks column 'path'"),
        ("path,label\nx/p0_0.png,a\n", "lacks column 'class'"),
        ("path,class,weight\n", "has an unknown column 'weight'"),
        ("path,class,class\n", "has twice the column 'class'"),
        ("path,class\n", "names no image"),
        ("path,class\nx/p0_0.png\n", "row 2 has 1 cells for 2 columns"),
        ("path,class\nx/p0_0.png,\n", "row 2 has no class"),
        ("path,class,group\nx/p0_0.png,a,\n", "row 2 has no group"),
        ("path,class,split\nx/p0_0.png,a,val\n", "split 'val' must be train or test"),
        ("path,class,split\nx/p0_0.png,a,train\nx/p0_1.png,b,\n", "to some images, but not to x/p0_1.png"),
        ("path,class\nx/p0_0.png,a\nx/none.png,b\nx/no.png,b\n", "2 of 3 files are missing, such as x/none.png"),
        ("path,class\nx/p0_0.png,a\n./x/p0_0.png,b\n", "names 1 files more than once"),
        ('path,class\n"x/p0_0.png,a\n', "is not a CSV"),
        (f"path,class\n{'x' * 5000}.png,a\n", "1 of 1 files are missing"),
        ("path,class\n~nobody-of-this-name/x.png,a\n", "no home directory is known"),
        ('path,class\n"x/p0\n_0.png",a\n', "files are missing, such as x/p0.n_0.png"),
        (
            "path,class\nx/p0_0.png,a\nx/p0_1.png,a\n",
            r"holds 1 classes \(a\); training needs two or more, in its column",
        ),
        ("path,class\nx/p0_0.png,a\nx/p0_1.png,a\nx/p1_2.png,b\n", "class b has one image"),
        (
            "path,class,split\nx/p0_0.png,a,train\nx/p0_1.png,a,test\nx/p1_2.png,b,test\n",
            "class b is only in test, not in train; add images of it to train, or remove it from test",
        ),
        (
            "path,class,split,group\nx/p0_0.png,a,train,g\nx/p0_1.png,a,test,g\nx/p1_2.png,b,train,h\nx/p1_3.png,b,test,i\n",
            "1 groups have images in train and in test, such as g",
        ),
    ],
)
def test_a_wrong_csv_is_one_line(tmp_path, text, words):
    root = folders(tmp_path / "set", {"x": 4})
    with pytest.raises(UserError, match=words) as error:
        find_classes(data(listing(root, text)))
    assert "\n" not in str(error.value)


def one_image(root):
    put(root / "c" / "0.png")


def only_in_test(root):
    shutil.move(root, root.with_name("test"))
    for part in ("train", "test"):
        (root / part).parent.mkdir(exist_ok=True)
        shutil.copytree(root.with_name("test"), root / part)
    put(root / "test" / "c" / "0.png")


def no_test(root):
    shutil.move(root, root.with_name("all"))
    for part in ("train", "valid"):
        shutil.copytree(root.with_name("all"), root / part)


def no_classes(root):
    shutil.move(root, root.with_name("all"))
    shutil.copytree(root.with_name("all"), root / "dataset")


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (one_image, {}, "class c has one image, and needs two"),
        (only_in_test, {}, "class c is only in test, not in train"),
        (lambda root: (root / "c").mkdir(), {}, "set/c is a class without an image"),
        (lambda root: touch(root / "c" / "0.heic"), {}, "set/c would be lost as a class: .* such as 0.heic; convert"),
        (no_test, {}, r"holds train/ but no test/; rename valid/ to test/, or give --config.data.root=.*train"),
        (no_classes, {}, r"holds 1 classes \(dataset\); training needs two or more"),
        (shutil.rmtree, {}, "set does not exist"),
        (None, {"root": ""}, "data.root is empty"),
        (None, {"root": __file__}, "is neither a folder nor a CSV"),
        (None, {"group_pattern": "("}, r"data.group_pattern '\(' is not a regular expression"),
        (None, {"group_pattern": "zz"}, "'zz' finds no group in 8 of 8 paths, such as a/p0_0.png"),
        (None, {"group_pattern": "a/p0|b/p0"}, "finds no group in 4 of 8 paths"),
        (None, {"group_pattern": "p()"}, "finds no group in 8 of 8 paths"),
        (None, {"group_pattern": "[ab]"}, "class . is only in .*; its images are of too few groups to split"),
        (lambda root: touch(root / "a" / "x.png"), {}, r"1 of 9 images cannot be decoded \(a/x.png: "),
        (lambda root: touch(root / "a" / "x.png"), {"max_corrupt": 0.2}, ""),
        (
            lambda root: [touch(path) for path in root.rglob("*.png")],
            {"max_corrupt": 1.0},
            "none of its 8 images can",
        ),
    ],
)
def test_a_wrong_folder_is_one_line(tmp_path, change, options, words):
    root = folders(tmp_path / "set", {"a": 4, "b": 4})
    if change:
        change(root)
    options = dict(options)
    before = sorted(path for path in tmp_path.rglob("*") if "cache" not in path.parts)
    if words:
        with pytest.raises(UserError, match=words) as error:
            load(options.pop("root", root), tmp_path / "cache", **options)
        assert "\n" not in str(error.value)
    else:
        notes = load(root, tmp_path / "cache", **options).notes
        assert any("skipped 1 of 9 images that cannot be decoded: a/x.png" in note for note in notes)
    assert before == sorted(path for path in tmp_path.rglob("*") if "cache" not in path.parts)


def test_groups_on_both_sides_of_given_folders_are_one_line(tmp_path):
    root = folders(tmp_path / "set", {"a": 3, "b": 4}, parts=("train", "test"))
    with pytest.raises(UserError, match="2 groups have images in train and in test, such as p0; move each to one side"):
        find_classes(data(root, group_pattern=r"p\d"))


def test_junk_is_left_out_and_counted_and_deep_images_belong_to_their_class(tmp_path):
    root = folders(tmp_path / "set", {"a": 4, "b": 4})
    put(root / "a" / "more" / "deep.png")
    put(root / "beside.png")
    touch(root / "a" / "Thumbs.db")
    touch(root / "a" / "notes.txt")
    (root / "b" / "dead.png").symlink_to(root / "nowhere.png")
    found = load(root, tmp_path / "cache")
    assert "a/more/deep.png" in found.train.names + found.test.names
    (note,) = [note for note in found.notes if note.startswith("left out of")]
    for words in (
        "1 images beside the folders of classes",
        "1 hidden or system",
        "1 dangling links",
        "1 files that are not",
    ):
        assert words in note
