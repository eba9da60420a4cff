"""Fundus data: the DoFE layout and what can be wrong with it, the drawn set, batches of equal shares."""

import numpy as np
import pytest
from folders import encoded, touch
from PIL import Image

from tvconv_jax.data import fundus
from tvconv_jax.data.decoder import ImageError
from tvconv_jax.data.fundus import DOMAINS, PHASES, decode_pair, load_embedded, load_folder, to_maps
from tvconv_jax.data.fundus_batches import apply_crop, draw_crop, eval_batches, steps_per_epoch, train_batches
from tvconv_jax.data.fundus_masks import facts, read_mask
from tvconv_jax.data.synthetic.fundus import BACKGROUND, CUP, RIM, draw_fundus
from tvconv_jax.utils.errors import UserError

# Images to train and to test on, by domain.
COUNTS = {1: (3, 2), 2: (5, 2), 3: (2, 1), 4: (2, 3)}


@pytest.fixture
def dofe(tmp_path):
    """A folder in the DoFE layout; images of domain d are gray, 10 d + their number."""
    root = tmp_path / "fundus"
    for domain, counts in COUNTS.items():
        for phase, count in zip(PHASES, counts, strict=True):
            for i in range(count):
                mask = np.full((20, 20), BACKGROUND, np.uint8)
                mask[4:16, 4:16], mask[8:12, 8:12] = RIM, CUP
                gray = np.full((20, 20, 3), 10 * domain + i, np.uint8)
                for kind, array in (("image", gray), ("mask", mask)):
                    touch(root / f"Domain{domain}" / phase / "ROIs" / kind / f"g{i:04d}.png", encoded(array))
    return root


def test_records_hold_the_files_bytes_and_are_made_again_when_one_changes(dofe, tmp_path):
    data = load_folder(str(dofe), tmp_path / "cache")
    assert {d: (len(data.train[d]), len(data.test[d])) for d in DOMAINS} == COUNTS
    record = data.train[2][3]
    path = dofe / "Domain2/train/ROIs/image/g0003.png"
    assert record["image"] == path.read_bytes() and record["name"] == "Domain2/train/ROIs/image/g0003.png"
    assert record["mask"] == (dofe / "Domain2/train/ROIs/mask/g0003.png").read_bytes()
    Image.fromarray(np.full((20, 20, 3), 99, np.uint8)).save(path)
    assert load_folder(str(dofe), tmp_path / "cache").train[2][3]["image"] == path.read_bytes()


def break_mask(root):
    Image.fromarray(np.full((20, 20), 77, np.uint8)).save(root / "Domain1/train/ROIs/mask/g0001.png")


def shrink_mask(root):
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(root / "Domain1/train/ROIs/mask/g0001.png")


def truncate(root):
    path = root / "Domain3/test/ROIs/image/g0000.png"
    path.write_bytes(path.read_bytes()[:50])


def empty(root):
    for path in root.glob("Domain3/test/ROIs/*/*.png"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: (r / "Domain1/train/ROIs/mask/g0001.png").unlink(), "image/g0001.png has no mask of the same name"),
        (lambda r: (r / "Domain2/test/ROIs/image/g0000.png").unlink(), "mask/g0000.png has no image of the same name"),
        (break_mask, "mask/g0001.png holds the values 77; a mask holds 0 (cup), 128 (rim) and 255 (outside) only."),
        (shrink_mask, "its mask differ in size (20x20 and 20x10); they must agree."),
        (truncate, "Domain3/test/ROIs/image/g0000.png cannot be read"),
        (empty, "Domain3/test/ROIs/image holds no *.png; every domain needs images"),
    ],
)
def test_a_fault_is_one_line_that_names_the_file_and_nothing_is_kept(dofe, tmp_path, spoil, words):
    spoil(dofe)
    with pytest.raises(UserError) as error:
        load_folder(str(dofe), tmp_path / "cache")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_no_root_says_what_to_give(tmp_path):
    with pytest.raises(UserError, match="data.root is empty; name the folder of Domain1 to Domain4"):
        load_folder("", tmp_path)


def test_masks_become_nested_maps():
    maps = to_maps(np.array([CUP, RIM, BACKGROUND], np.uint8))
    assert maps.tolist() == [[True, True], [False, True], [False, False]]  # the disc holds the cup


@pytest.mark.parametrize("sampling", ["shuffled", "replacement"])
def test_every_batch_takes_as_many_of_each_domain(dofe, tmp_path, sampling):
    data = load_folder(str(dofe), tmp_path / "cache")
    sources = {d: data.train[d] for d in (1, 2, 4)}
    names = fundus.names(sources)
    assert steps_per_epoch(sources, 2) == 3  # five images of domain 2, two a step
    options = {"per_domain": 2, "image_size": 20, "seed": 5, "sampling": sampling, "scale_crop": False}
    batches, seen = train_batches(sources, **options), []
    for _ in range(30):
        batch = next(batches)
        assert batch["image"].shape == (6, 20, 20, 3) and batch["mask"].shape == (6, 20, 20)
        domains = [names[i].split("/")[0] for i in batch["index"]]
        assert sorted(domains) == ["Domain1"] * 2 + ["Domain2"] * 2 + ["Domain4"] * 2
        for index, image in zip(batch["index"], batch["image"], strict=True):
            assert image[0, 0, 0] == 10 * int(names[index][6]) + int(names[index][-5])  # the image of that name
        seen += [i for i in batch["index"] if 3 <= i < 8]
    passes = np.array(seen).reshape(-1, 5)  # domain 2, five at a time
    whole = [sorted(row) == [3, 4, 5, 6, 7] for row in passes]
    assert all(whole) if sampling == "shuffled" else not all(whole)
    again = train_batches(sources, **options)
    np.testing.assert_array_equal(next(again)["index"], next(train_batches(sources, **options))["index"])


def test_a_saved_position_goes_on_exactly(dofe, tmp_path):
    data = load_folder(str(dofe), tmp_path / "cache")
    make = lambda: train_batches(data.train, per_domain=2, image_size=20, seed=0)  # noqa: E731
    batches = make()
    for _ in range(4):
        next(batches)
    state, expected = batches.get_state(), [next(batches) for _ in range(3)]
    other = make()
    other.set_state(state)
    for batch in expected:
        for key, value in next(other).items():
            np.testing.assert_array_equal(value, batch[key])


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one_crops_included(dofe, tmp_path, processes):
    data = load_folder(str(dofe), tmp_path / "cache")
    options = {"per_domain": 2, "image_size": 20, "seed": 3}
    whole = train_batches(data.train, **options)
    parts = [train_batches(data.train, **options, rows=rows) for rows in np.array_split(np.arange(8), processes)]
    for _ in range(6):
        expected, got = next(whole), [next(part) for part in parts]
        for name, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([batch[name] for batch in got]), value)
    assert all(part.get_state() == whole.get_state() for part in parts)


def test_scale_crops_keep_size_values_and_match_of_image_and_mask():
    image = np.repeat(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], 40, 0).repeat(3, 2)
    mask = np.where(image[..., 0] < 128, CUP, BACKGROUND).astype(np.uint8)
    random, changed = np.random.default_rng(0), 0
    for _ in range(200):
        crop = draw_crop(40, random)
        x, y = apply_crop(image, mask, crop) if crop else (image, mask)
        assert x.shape == image.shape and y.shape == mask.shape and set(np.unique(y)) <= {CUP, BACKGROUND}
        inside, outside = x[..., 0][y == CUP], x[..., 0][y == BACKGROUND]
        assert inside.size == 0 or inside.max() < 140
        assert outside.size == 0 or outside.min() > 115
        changed += not np.array_equal(x, image)
    assert 70 < changed < 130  # half of them


def test_every_image_is_tested_once_in_order(dofe, tmp_path):
    source = load_folder(str(dofe), tmp_path / "cache").test[4]
    batches = list(eval_batches(source, batch_size=2, image_size=20))
    assert [len(batch.records) for batch in batches] == [2, 1]
    assert [batch.images[:, 0, 0, 0].tolist() for batch in batches] == [[40, 41], [42, 0]]


def test_the_drawn_set_is_the_same_every_time_and_differs_between_clinics(tmp_path):
    data = load_embedded("smoke", tmp_path)
    image, mask = decode_pair(data.train[1][0])
    assert image.shape == (64, 64, 3) and mask.shape == (64, 64) and set(np.unique(mask)) == {CUP, RIM, BACKGROUND}
    again, _ = decode_pair(load_embedded("smoke", tmp_path / "other").train[1][0])
    np.testing.assert_array_equal(image, again)
    means = [np.mean([decode_pair(data.train[d][i])[0].mean((0, 1)) for i in range(6)], axis=0) for d in DOMAINS]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(means) for b in means[:i]]
    assert min(distances) > 10  # gray levels


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_rim_is_left_all_round_the_cup(domain):
    for seed in range(5):
        _, mask = draw_fundus(np.random.default_rng(seed), domain, 96)
        cup = np.argwhere(mask == CUP)
        for y, x in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            assert not np.any(mask[cup[:, 0] + y, cup[:, 1] + x] == BACKGROUND)


def true_mask():
    mask = np.full((20, 20), BACKGROUND, np.uint8)
    mask[4:16, 4:16], mask[8:12, 8:12] = RIM, CUP
    return mask


def with_alpha(mask):
    image = Image.fromarray(mask)
    image.putalpha(Image.new("L", image.size, 9))
    return image


def colored_palette(mask):
    image = Image.fromarray(np.searchsorted([CUP, RIM, BACKGROUND], mask).astype(np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 0])
    return image


@pytest.mark.parametrize(
    "written",
    [
        lambda mask: Image.fromarray(mask),
        lambda mask: Image.fromarray(mask.astype(np.uint16) * 257),
        lambda mask: Image.fromarray(mask.astype(np.uint16)),
        lambda mask: Image.fromarray(mask).convert("RGB"),
        with_alpha,
        lambda mask: with_alpha(mask).convert("RGBA"),
        lambda mask: Image.fromarray(mask).quantize(3),
    ],
)
def test_a_mask_is_read_alike_however_it_is_written(written):
    for kind in ("PNG", "TIFF"):
        image = written(true_mask())
        if not (kind == "TIFF" and image.mode == "LA"):
            np.testing.assert_array_equal(read_mask(encoded(image, kind)), true_mask())


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (lambda mask: encoded(Image.fromarray(mask), "JPEG"), "a JPEG image, which does not keep values exactly"),
        (
            lambda mask: encoded(colored_palette(mask)),
            "its channels or the colors of its palette differ; save it without loss in gray",
        ),
        (lambda mask: encoded(Image.fromarray(np.stack([mask, mask, mask * 0], -1))), "its channels or"),
        (lambda mask: encoded(Image.fromarray(mask.astype(np.uint16) * 256)), "holds the values 32768, 65280; a mask"),
        (lambda mask: encoded(Image.fromarray((mask > 0) + (mask > 128) * np.uint8(1))), "holds the values 1, 2; a"),
        (
            lambda mask: encoded(Image.fromarray(mask).resize((33, 33), Image.Resampling.BICUBIC)),
            r"only. Values between come from saving with loss or from resizing with interpolation",
        ),
    ],
)
def test_a_mask_of_other_values_is_refused_with_the_way_out(written, words):
    with pytest.raises(ImageError, match=words):
        facts("m.png", read_mask(written(true_mask())))


def spoilt(change, root, folder, count=None):
    for path in sorted((root / folder / "ROIs" / "mask").glob("*.png"))[:count]:
        Image.fromarray(change(true_mask())).save(path)


@pytest.mark.parametrize("folder", ["Domain1/train", "Domain4/test"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m * 0, "none of its {} masks holds 128 (rim) or 255 (outside), only 0 (cup)"),
        (lambda m: m | 255, "none of its {} masks holds 0 (cup) or 128 (rim), only 255 (outside)"),
        (
            lambda m: np.where(m < 255, 255, 0).astype(np.uint8),
            "none of its {} masks holds 128 (rim), only 0 (cup) and",
        ),
        (lambda m: m == 255, "none of its {} masks holds 128 (rim), only 0 (cup) and 255"),  # 1 bit
        (lambda m: np.where(m < 255, 128, 255).astype(np.uint8), "masks holds 0 (cup), only 128 (rim) and 255"),
        (lambda m: np.array([255, 128, 0], np.uint8)[np.searchsorted([0, 128, 255], m)], "{0} of its {0} masks are 0"),
        (lambda m: np.array([128, 0, 255], np.uint8)[np.searchsorted([0, 128, 255], m)], "seem to be swapped"),
    ],
)
def test_masks_that_cannot_be_meant_end_in_one_line_of_the_part(dofe, tmp_path, folder, change, words):
    spoilt(change, dofe, folder)
    with pytest.raises(UserError) as error:
        load_folder(str(dofe), tmp_path / "cache")
    said = str(error.value)
    assert f"{dofe}/{folder}: " in said and words.format(3) in said and "\n" not in said
    assert not (tmp_path / "cache").exists()


def test_single_eyes_may_lack_a_cup_or_a_rim_and_no_mask_is_of_one_value(dofe, tmp_path):
    spoilt(lambda m: np.where(m < 255, 128, 255).astype(np.uint8), dofe, "Domain1/train", 1)
    spoilt(lambda m: np.where(m < 255, 0, 255).astype(np.uint8), dofe, "Domain2/train", 1)
    assert len(load_folder(str(dofe), tmp_path / "cache").train[1]) == 3
    spoilt(lambda m: m | 255, dofe, "Domain2/train", 1)
    with pytest.raises(UserError, match=r"1 of its 5 masks hold one value alone \(g0000.png: 255 \(outside\) every"):
        load_folder(str(dofe), tmp_path / "cache")


def test_images_of_sixteen_bits_are_scaled_and_another_reading_makes_the_records_again(dofe, tmp_path, monkeypatch):
    wide = np.full((20, 20), 100 * 257, np.uint16)
    Image.fromarray(wide).save(dofe / "Domain1/train/ROIs/image/g0000.png")
    Image.fromarray(true_mask().astype(np.uint16) * 257).save(dofe / "Domain1/train/ROIs/mask/g0000.png")
    image, mask = decode_pair(load_folder(str(dofe), tmp_path / "cache").train[1][0], 20)
    assert np.all(image == 100)
    np.testing.assert_array_equal(mask, true_mask())
    monkeypatch.setattr(fundus, "READING", "another")
    load_folder(str(dofe), tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("fundus-*"))) == 2


def test_a_damaged_record_is_named():
    record = {"image": b"", "mask": encoded(true_mask()), "name": "Domain1/a.png"}
    with pytest.raises(UserError, match=r"Domain1/a.png or its mask cannot be decoded \(it is an empty file"):
        decode_pair(record)


def test_files_of_other_programs_are_left_out_and_counted(dofe, tmp_path):
    roi = dofe / "Domain1/train/ROIs"
    for kind in ("image", "mask"):
        (roi / kind / "._g0000.png").write_bytes(b"\0\5\x16\7")
        (roi / kind / "g0001.png").rename(roi / kind / "g0001.PNG")
    (roi / "image" / "old").mkdir()
    (roi / "image" / "old" / "g0009.png").write_bytes(b"")
    (roi / "image" / "note.txt").write_text("")
    data = load_folder(str(dofe), tmp_path / "cache")
    assert len(data.train[1]) == COUNTS[1][0]
    for words in ("2 hidden or system files", "1 images one folder too deep", "1 files that are not .png"):
        assert words in data.notes[0]
    assert data.train[1].name(1).endswith("g0001.PNG")
