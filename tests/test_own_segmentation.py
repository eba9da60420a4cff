"""Segmentation of one's own: folders of images and masks are read, checked, split; a small model learns; bad input."""

import csv
import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from tvconv_jax.data import decoder
from tvconv_jax.data.augment import Magnitudes, transform
from tvconv_jax.data.image_size import scaled
from tvconv_jax.data.mask_classes import IGNORE, MaskClasses, count_classes, count_values, read_classes
from tvconv_jax.data.masks import decode_pair, find_masks, training_images
from tvconv_jax.data.normalization import normalize
from tvconv_jax.data.pipeline import mask_batches
from tvconv_jax.metrics import segmentation as metrics
from tvconv_jax.metrics.label_maps import scores_by_class, summarize
from tvconv_jax.tasks import mask_defaults, segmentation
from tvconv_jax.tasks.configs import segmentation_config
from tvconv_jax.tasks.own_masks import class_weights, labels_at, make_loss
from tvconv_jax.tasks.trained import load
from tvconv_jax.utils.errors import UserError

CLASSES = {"background": 0, "bolt": 128, "nut": 200}
SHAPE = (22, 34)


def shapes(random, height=SHAPE[0], width=SHAPE[1]):
    """A gray image with a bolt and a nut where they belong, give or take a pixel, and its mask."""
    mask = np.zeros((height, width), np.uint8)
    y, x = random.integers(0, 3, 2)
    mask[4 + y : 12 + y, 4 + x : 14 + x] = CLASSES["bolt"]
    mask[12 + y : 18 + y, 20 + x : 28 + x] = CLASSES["nut"]
    image = 60 + 60 * (mask == CLASSES["bolt"]) + 140 * (mask == CLASSES["nut"]) + random.normal(0, 8, mask.shape)
    return np.clip(image, 0, 255).astype(np.uint8), mask


def save(folder, name, image, mask, *, convert=lambda mask: Image.fromarray(mask), suffix="png"):
    for kind in ("image", "mask"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "image" / f"{name}.{suffix}")
    convert(mask).save(folder / "mask" / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    """Eight images to train on, four to test on, with ``classes.json``."""
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for index in range(count):
            save(tmp_path / "set" / split, f"part{index}", *shapes(random))
    (tmp_path / "set" / "classes.json").write_text(json.dumps(CLASSES))
    return tmp_path / "set"


def found_in(root, **options):
    return find_masks(str(root), root.parent / "cache", **options)


def colored(mask):
    palette = np.zeros((256, 3), np.uint8)
    palette[128], palette[200] = (255, 0, 0), (0, 0, 255)
    return Image.fromarray(palette[mask])


def numbered(mask):
    """A palette image: numbers 0, 1, 2, in color."""
    image = Image.fromarray(np.searchsorted([0, 128, 200], mask).astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    return image


def gray_palette(mask):
    """The numbers 0, 1, 2 of a palette whose grays are the values."""
    image = numbered(mask)
    image.putpalette([0, 0, 0, 128, 128, 128, 200, 200, 200])
    return image


FORMS = {
    "gray": (lambda mask: Image.fromarray(mask), CLASSES),
    "16 bits": (lambda mask: Image.fromarray(mask.astype(np.uint16) * 100), {k: v * 100 for k, v in CLASSES.items()}),
    "rgb of gray": (lambda mask: Image.fromarray(mask).convert("RGB"), CLASSES),
    "alpha": (lambda mask: Image.fromarray(mask).convert("RGBA"), CLASSES),
    "palette": (numbered, {"background": 0, "bolt": 1, "nut": 2}),
    "gray palette": (gray_palette, CLASSES),
    "palette by color": (numbered, {"background": "#000000", "bolt": "#FF0000", "nut": "#0000ff"}),
    "colors": (colored, {"background": "#000000", "bolt": "#ff0000", "nut": "#0000ff"}),
    "colors and a gray": (colored, {"background": 0, "bolt": "#ff0000", "nut": "#0000ff"}),
    "grays by color": (Image.fromarray, {"background": "#000000", "bolt": "#808080", "nut": "#c8c8c8"}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_masks_of_every_form_give_the_same_labels(form, tmp_path):
    convert, classes = FORMS[form]
    image, mask = shapes(np.random.default_rng(1))
    for split in ("train", "test"):
        save(tmp_path / "set" / split, "a", image, mask, convert=convert)
    (tmp_path / "set" / "classes.json").write_text(json.dumps(classes))
    found = found_in(tmp_path / "set")
    assert found.classes.names == ("background", "bolt", "nut") and found.classes.foreground == [1, 2]
    labels = decode_pair(found.files[0], found.classes)[1]
    np.testing.assert_array_equal(labels, np.searchsorted([0, 128, 200], mask))


@pytest.mark.parametrize("form", ["gray", "16 bits", "palette", "gray palette", "colors"])
def test_without_a_file_the_values_are_counted_and_shown(form, tmp_path):
    convert, _ = FORMS[form]
    image, mask = shapes(np.random.default_rng(1))
    for split in ("train", "test"):
        save(tmp_path / "set" / split, "a", image, mask, convert=convert)
    found = found_in(tmp_path / "set")
    assert found.classes.names == ("class_0", "class_1", "class_2") and found.classes.foreground == [1, 2]
    shares = [np.mean(mask == value) for value in CLASSES.values()]
    np.testing.assert_allclose(sorted(found.shares), sorted(shares))
    assert "class_1" in found.notes[0] and "classes.json gives them names" in found.notes[0]
    assert "(class_0 is the background): class_0 (" in found.notes[0]


def test_a_set_without_a_background_has_all_classes_in_its_means(root):
    (root / "classes.json").write_text(json.dumps({"road": 0, "bolt": 128, "nut": 200}))
    assert found_in(root).classes.foreground == [0, 1, 2]


def test_ignored_pixels_are_no_class(root):
    (root / "classes.json").write_text(json.dumps({"background": 0, "bolt": 128, "ignore": 200}))
    found = found_in(root)
    labels = decode_pair(found.files[0], found.classes)[1]
    assert found.classes.names == ("background", "bolt") and set(np.unique(labels)) == {0, 1, IGNORE}
    assert np.isclose(found.shares.sum(), 1)


def test_images_of_any_kind_are_read_at_the_median_size(root):
    image, mask = shapes(np.random.default_rng(3))
    Image.fromarray(image).convert("RGB").save(root / "train" / "image" / "part0.jpg")
    (root / "train" / "image" / "part0.png").unlink()
    Image.fromarray(np.full((40, 60), 9000, np.uint16)).save(root / "train" / "image" / "part1.png")
    Image.fromarray(np.pad(mask, ((0, 18), (0, 26)))).save(root / "train" / "mask" / "part1.png")
    found = found_in(root)
    assert found.size == SHAPE
    images = training_images(found, (11, 17), root.parent / "cache")
    assert len(images) == 8 and [array.shape for array in images[1]] == [(11, 17, 3), (11, 17)]
    assert scaled((400, 300), mask_defaults.MAX_SIZE) == (128, 96) and scaled((40, 57), 128) == (40, 57)


def test_one_folder_is_split_by_seed_and_by_group(tmp_path):
    random = np.random.default_rng(0)
    for index in range(20):
        save(tmp_path / "set", f"p{index // 4}_{index}", *shapes(random))
    found, again = (found_in(tmp_path / "set", split_seed=seed) for seed in (0, 0))
    np.testing.assert_array_equal(found.test, again.test)
    assert found.test.sum() == 4 and "4 of 20 images to test on" in " ".join(found.notes)
    grouped = found_in(tmp_path / "set", group_pattern="(p[0-9])_")
    tested = {file.group for file in grouped.of(test=True)}
    assert len(tested) == 1 and not tested & {file.group for file in grouped.of(test=False)}


def bad_size(root):
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(root / "train" / "mask" / "part2.png")


def bad_value(root):
    mask = shapes(np.random.default_rng(0))[1]
    mask[0, :9] = range(1, 10)
    Image.fromarray(mask).save(root / "train" / "mask" / "part2.png")


def bad_color(root):
    colored(shapes(np.random.default_rng(0))[1]).save(root / "test" / "mask" / "part2.png")


def bad_jpeg(root):
    (root / "train" / "mask" / "part2.png").unlink()
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(root / "train" / "mask" / "part2.jpg")


def bad_hidden_jpeg(root):
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(root / "train" / "mask" / "part2.png", "JPEG")


def bad_edges(root):
    (root / "classes.json").unlink()
    Image.fromarray(np.arange(22 * 34, dtype=np.uint16).reshape(SHAPE).astype(np.uint8)).save(
        root / "train" / "mask" / "part2.png"
    )


def bad_single(root):
    (root / "classes.json").unlink()
    for path in root.rglob("mask/*.png"):
        Image.fromarray(np.zeros(SHAPE, np.uint8)).save(path)


def bad_only_test(root):
    for path in root.glob("train/mask/*.png"):
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 200, 0, mask).astype(np.uint8)).save(path)


def classes(text):
    return lambda root: (root / "classes.json").write_text(text)


def twice(root):
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(root / "train" / "image" / "part1.bmp")


def broken(root):
    file = root / "test" / "image" / "part1.png"
    file.write_bytes(file.read_bytes()[:60])


def bad_smooth(root):
    (root / "classes.json").unlink()
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, :10] = 3, 17, 40, 55, 90, 130, 150, 190, 220, 250
    Image.fromarray(mask).save(root / "train" / "mask" / "part2.png")


def bad_palettes(root):
    (root / "classes.json").unlink()
    for path in sorted(root.rglob("mask/*.png")):
        mask = Image.fromarray((np.array(Image.open(path)) > 100).astype(np.uint8))
        mask.putpalette([0, 0, 0, *((0, 255, 0) if path.name == "part3.png" else (255, 0, 0))])
        mask.save(path)


def moved(place):
    return lambda root: (root / "classes.json").rename(root / place)


def dangling(root):
    (root / "classes.json").unlink()
    (root / "classes.json").symlink_to("nowhere")


def linked(root):
    shutil.rmtree(root / "test")
    (root / "test").symlink_to("train")


def bad_tests(value):
    def spoil(root):
        (root / "classes.json").write_text(json.dumps({**CLASSES, "ignore": 255}))
        for path in root.glob("test/mask/*.png"):
            Image.fromarray(np.full(SHAPE, value, np.uint8)).save(path)

    return spoil


BAD = {
    "nothing to score": (bad_tests(0), "no test mask has a pixel of a class beside the background, so there"),
    "all ignored": (bad_tests(255), "no test mask has a pixel of a class beside the background"),
    "few smooth edges": (bad_smooth, "different values, unevenly spaced (0, 3, 17, 40, 55, 90, 128, 130, ...)"),
    "other palettes": (bad_palettes, "number 1 is #ff0000 in the palette of one mask and #00ff00 in another's; name"),
    "classes in train": (moved("train/classes.json"), "train/classes.json has another name or place; the classes are"),
    "classes in capitals": (moved("Classes.json"), "Classes.json has another name or place"),
    "classes nowhere": (dangling, "classes.json is a dangling link"),
    "a part twice": (linked, "are one file, by a link or another path"),
    "another size": (bad_size, "part2.png and its mask differ in size (22x34 and 5x5)"),
    "unknown values": (bad_value, "part2.png holds the values 1, 2, 3, 4, 5, ..., which are not in the set's classes"),
    "unknown colors": (bad_color, "part2.png holds the colors #0000ff, #ff0000"),
    "jpeg": (bad_jpeg, "part2.jpg cannot be read (it is a JPEG image, which does not keep values exactly"),
    "a jpeg named png": (bad_hidden_jpeg, "part2.png cannot be read (it is a JPEG image"),
    "smooth edges": (bad_edges, "more than the 64 classes that are counted; so many come from saving with loss"),
    "one class": (bad_single, "its masks hold one value alone (0)"),
    "only in test": (bad_only_test, "class nut (200) is only in test masks, so it cannot be learned"),
    "in no mask": (classes(json.dumps({**CLASSES, "screw": 7})), "class screw (7) is in no mask"),
    "no mask": (lambda root: (root / "train/mask/part3.png").unlink(), "image/part3.png has no mask of the same name"),
    "no image": (lambda root: (root / "test/image/part3.png").unlink(), "mask/part3.png has no image of the same name"),
    "the same name": (twice, "part1.png have the same name; remove one"),
    "a broken image": (broken, "image/part1.png cannot be read (it is truncated"),
    "no folder of masks": (lambda root: (root / "test/mask").rename(root / "test/masks"), "test/mask is not a folder"),
    "no test": (lambda root: (root / "test").rename(root / "val"), "holds train but not test; add it"),
    "not json": (classes("{background: 0}"), "classes.json cannot be read as JSON"),
    "not text": (lambda root: (root / "classes.json").write_bytes(b"\xff\x00"), "classes.json cannot be read as JSON"),
    "nested": (classes("[" * 100_000), "classes.json cannot be read as JSON"),
    "a list": (classes('["background", "bolt"]'), "classes.json is not an object with names"),
    "a name twice": (classes('{"a": 0, "a": 128, "b": 200}'), "has the name a twice"),
    "a value twice": (classes('{"a": 0, "b": 128, "c": 128}'), "has the value 128 twice"),
    "a color twice": (classes('{"a": 0, "b": "#000000", "c": "#ff0000"}'), "has the color #000000 twice"),
    "a wrong color": (classes('{"a": 0, "b": "red"}'), 'b is "red"; it must be a value from 0 to 65535 or a color'),
    "a wrong value": (classes('{"a": 0, "b": 1.5}'), "b is 1.5; it must be"),
    "a truth": (classes('{"a": 0, "b": true}'), "b is true; it must be"),
    "too many": (classes(json.dumps({f"c{i}": i for i in range(300)})), "names 300 classes beside ignore"),
    "one named": (classes('{"a": 0, "ignore": 128}'), "names 1 classes beside ignore"),
    "no name": (classes('{"": 0, "b": 128}'), "classes.json is not an object with names"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_bad_sets_are_one_clear_line(fault, root):
    spoil, words = BAD[fault]
    found_in(root)  # the cache knows the set as it was
    spoil(root)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        found_in(root)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("(", "is not a regular expression"), ("q", "finds no group in 12 of 12"), ("part", "1 groups have images in")],
)
def test_bad_groups_are_one_clear_line(pattern, words, root):
    with pytest.raises(UserError, match=words):
        found_in(root, group_pattern=pattern)


def test_a_set_that_cannot_be_split_is_one_clear_line(tmp_path):
    save(tmp_path / "set", "a", *shapes(np.random.default_rng(0)))
    with pytest.raises(UserError, match="1 images give no split into train and test; add some"):
        found_in(tmp_path / "set")
    with pytest.raises(UserError, match="nowhere does not exist"):
        find_masks(str(tmp_path / "nowhere"), tmp_path / "cache")
    with pytest.raises(UserError, match="holds neither train nor image; the set is laid out as"):
        find_masks(str(tmp_path / "set" / "image"), tmp_path / "cache")
    (tmp_path / "set" / "mask").rename(tmp_path / "set" / "masks")
    with pytest.raises(UserError, match="mask is not a folder; .*; rename masks/ to mask/[.]$"):
        found_in(tmp_path / "set")
    (tmp_path / "set" / "image").rename(tmp_path / "set" / "images")
    with pytest.raises(UserError, match="neither train nor .*; rename images/ to image/ and masks/ to mask/[.]$"):
        found_in(tmp_path / "set")
    with pytest.raises(UserError, match="data.root is empty"):
        find_masks("", tmp_path / "cache")


def test_image_and_mask_are_changed_alike(root):
    found = found_in(root)
    source = training_images(found, SHAPE, root.parent / "cache")
    magnitudes = Magnitudes(rotation=20, scale=0.2, translation=0.2, brightness=0.2)
    options = {"batch_size": 4, "image_size": SHAPE, "seed": 0, "magnitudes": magnitudes}
    batch = next(mask_batches(source, **options))
    assert batch["image"].shape == (4, *SHAPE, 3) and set(np.unique(batch["mask"])) == {0, 1, 2, IGNORE}
    assert np.all(batch["image"][batch["mask"] == IGNORE] == 0)
    image = batch["image"].mean(axis=-1)
    assert image[batch["mask"] == 2].mean() > image[batch["mask"] == 1].mean() + 20  # a nut is brighter than a bolt
    plain = next(mask_batches(source, batch_size=4, image_size=SHAPE, seed=0))
    np.testing.assert_array_equal(plain["mask"][0], source[int(plain["index"][0])][1])


def test_a_mask_is_moved_without_new_values():
    mask = np.zeros((9, 9), np.uint8)
    mask[4, 4:7] = 2
    moved = transform(mask, Magnitudes(rotation=90), np.array([1.0, 0, 0, 0, 0]), outside=IGNORE)
    assert moved[4:7, 4].tolist() == [2, 2, 2] and set(np.unique(moved)) == {0, 2}


def test_the_loss_counts_neither_ignored_pixels_nor_classes_alike_if_balanced():
    logits = np.zeros((1, 2, 2, 2), np.float32)
    logits[0, 0, 0, 1] = 5.0
    batch = {"image": np.zeros((1, 2, 2, 3), np.uint8), "mask": np.array([[[1, 0], [0, IGNORE]]], np.uint8)}

    def loss(weights):
        forward = lambda *_, **__: (logits, {})  # noqa: E731
        return float(make_loss(forward, weights)({}, {}, batch, jax.random.key(0))[0])

    easy, even = np.log1p(np.exp(-5.0)), np.log(2)
    assert np.isclose(loss(class_weights("none", np.array([2, 1]) / 3)), (easy + 2 * even) / 3)
    assert np.isclose(loss(class_weights("balanced", np.array([2, 1]) / 3)), (easy + even) / 2)


def test_labels_have_the_size_of_their_mask():
    logits = np.zeros((4, 6, 2), np.float32)
    logits[:, 3:, 1] = 1.0
    logits[..., 0] = 0.5
    np.testing.assert_array_equal(labels_at(logits, (8, 12)), np.repeat([[0] * 6 + [1] * 6], 8, axis=0))
    assert labels_at(logits, (4, 6)).shape == (4, 6)
    random = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    expected = jax.image.resize(random, (11, 9, 3), "bilinear", antialias=False)
    np.testing.assert_array_equal(labels_at(random, (11, 9)), np.argmax(expected, axis=-1))


def test_scores_by_class_are_those_of_each_mask():
    true = np.zeros((12, 12), np.uint8)
    true[2:6, 2:6], true[8:, 8:] = 1, IGNORE
    pred = np.zeros((12, 12), np.uint8)
    pred[2:6, 3:7], pred[9:, 9:] = 1, 2
    found = scores_by_class(pred, true, 4, ignore=IGNORE)
    masks = pred == 1, true == 1
    assert found[1].tolist() == [12 * 2 / 32, 12 / 20, metrics.hd95(*masks)] and metrics.iou(*masks) == 0.6
    assert np.all(np.isnan(found[2:]))  # 2 is predicted where nothing counts
    lacking = scores_by_class(np.zeros_like(true), true, 2, ignore=IGNORE)
    assert lacking[1].tolist() == [0, 0, np.hypot(12, 12)]


def test_means_leave_out_what_is_missing_and_intervals_draw_groups():
    scores = np.full((4, 3, 3), 0.5)
    scores[:2, 1], scores[2:, 1], scores[:, 2] = 0.2, 0.8, np.nan
    result = summarize(scores, ("background", "a", "b"), [1, 2], groups=["x", "x", "y", "y"], bootstrap=200)
    assert np.isclose(result["mean"]["dice"], 0.5) and result["per_class"]["b"]["dice"] is None
    assert result["per_class"]["b"]["images"] == 0 and result["per_class"]["a"]["images"] == 4
    np.testing.assert_allclose(result["mean"]["intervals"]["dice"], [0.2, 0.8], atol=1e-6)  # a group alone, or both
    assert summarize(scores[:1], ("background", "a", "b"), [1, 2])["mean"]["intervals"]["dice"] is None
    json.dumps(result, allow_nan=False)


def test_values_of_a_mask_are_counted():
    counted = count_values(decoder.mask_pixels(decoder.encode(np.array([[0, 7], [7, 7]], np.uint8), "PNG")))
    assert counted.pixels.values.tolist() == [0, 7] and counted.counts.tolist() == [1, 3]
    classes = MaskClasses(("a", "b"), (0, 7), colored=False)
    assert classes.labels(counted.pixels).tolist() == [0, 1] and classes.background is None


def test_a_class_without_test_pixels_is_said(root):
    for path in root.glob("test/mask/*.png"):
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 200, 0, mask).astype(np.uint8)).save(path)
    assert any("no test mask has pixels of nut" in note for note in found_in(root).notes)


def test_a_cache_that_is_complete_is_read_without_writing(root, monkeypatch):
    found = found_in(root)
    cache = root.parent / "cache"
    training_images(found, (16, 16), cache)
    monkeypatch.setattr("tvconv_jax.data.cache.one_writer", None)
    assert len(training_images(found, (16, 16), cache)) == len(found.of(test=False))


def test_many_values_are_classes_if_evenly_spaced(tmp_path):
    one = count_values(decoder.mask_pixels(decoder.encode(np.array([[*range(0, 120, 10), 255]], np.uint8), "PNG")))
    assert len(count_classes([one], tmp_path).names) == 13


def test_classes_are_read_in_their_order(tmp_path):
    (tmp_path / "classes.json").write_text('{"z": "#0a0B0c", "Background": 0, "Ignore": "#ffffff"}')
    found = read_classes(tmp_path / "classes.json")
    assert found == MaskClasses(("z", "Background"), (0x0A0B0C, 0), colored=True, ignore=0xFFFFFF)
    assert found.background == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a quarter of the width on 24 drawn images of 22x34, and its folder."""
    base = tmp_path_factory.mktemp("own")
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 6)):
        for index in range(count):
            save(base / "set" / split, f"{split[:2]}{index // 2}_{index}", *shapes(random))
    (base / "set" / "classes.json").write_text(json.dumps(CLASSES))
    config = segmentation_config("data=folder,smoke,operator=depthwise,image_size=22x34,epochs=16")
    config.data.root, config.data.group_pattern = str(base / "set"), "(t[re][0-9]+)_"
    config.train.eval_every = 16.0
    with jax.numpy_dtype_promotion("standard"):
        segmentation.train(config, base / "run")
    return config, base / "run"


def test_a_run_learns_and_says_what_it_measured(run):
    results = json.loads((run[1] / "results.json").read_text())
    assert results["classes"] == list(CLASSES) and results["background"] == "background" and results["images"] == 6
    assert results["per_class"]["nut"]["dice"] > 0.5, results
    assert set(results["mean"]["intervals"]) == {"dice", "iou", "hd95"} and results["step"] == 48
    assert set(results["constant_mask_dice"]) == {"mean", *CLASSES}
    with (run[1] / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and np.isclose(np.mean([float(row["nut iou"]) for row in rows]),
                                         results["per_class"]["nut"]["iou"], atol=1e-5)  # fmt: skip
    report = (run[1] / "report.html").read_text()
    assert "Segmentation: deeplabv3plus x0.25 with depthwise" in report and "nut" in report
    assert "data:image/jpeg" not in report  # real images are withheld
    with Image.open(run[1] / "pictures.png") as sheet:
        assert sheet.size[0] > 6 * 224
    saved = json.loads((run[1] / "config.json").read_text())
    assert saved["model"]["num_classes"] == 3 and saved["data"]["image_size"] == list(SHAPE)


def test_a_run_is_evaluated_restored_and_compared(run, capsys):
    config, workdir = run
    segmentation.evaluate(config, workdir)
    results = json.loads((workdir / "results.json").read_text())
    printed = capsys.readouterr().out
    assert f"{100 * results['per_class']['bolt']['dice']:.2f}" in printed and "checkpoint of step 48" in printed
    assert "of one mask for all" in printed and f"{100 * results['constant_mask_dice']['bolt']:.2f}" in printed
    trained = load(workdir)
    assert trained.images.shape == (6, *SHAPE, 3) and trained.metadata["activation"] == "softmax"
    assert trained.metadata["mask_values"] == [0, 128, 200]
    assert trained.metadata["classes"] == list(CLASSES) and set(trained.results["dice"]) == set(CLASSES)
    apply = jax.jit(lambda images: trained.model.apply(trained.variables, normalize(images), train=False))
    found = trained.comparison.scores(apply)
    assert np.isclose(found.mean(), results["mean"]["dice"], atol=0.02)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("eval.hd95", "max", "there are: pooled, directed."),
        ("eval.visualize", "x.png", "eval.visualize 'x.png' is unknown; there are: test/image/te0_0.png"),
        ("model.num_classes", 2, "model.num_classes is 2, and the data has 3 classes; leave it at 0."),
        ("data.batch_size", 64, "data.batch_size 64 is more than the 24 training images"),
        ("data.augment.rotation", 200.0, "data.augment.rotation 200 must be 0 to 180."),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(key, value, words, run, tmp_path):
    config = run[0].copy_and_resolve_references()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as error:
        segmentation.SegmentationJob(segmentation.SegmentationJob.prepare(config, tmp_path, train=False))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_settings_follow_from_the_data_unless_they_are_given(root, tmp_path):
    config = segmentation_config("data=folder,batch_size=2")
    config.data.root = str(root)
    lines = []
    chosen = mask_defaults.prepare(config, tmp_path, lines.append)
    assert tuple(chosen.data.image_size) == SHAPE and chosen.model.output_stride == 8 and chosen.data.batch_size == 2
    assert chosen.model.num_classes == 3 and "chosen for 8 training images, of 22x34 in the median" in lines[0]
    assert chosen.optimizer.epochs == 150 and "data.batch_size" not in chosen.train.auto
