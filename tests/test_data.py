"""Embedded and folder faces, pair lists, batches: what is read is what was written, and mistakes are named."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import grain
import numpy as np
import pytest
from folders import encoded, touch
from ml_collections import ConfigDict
from PIL import Image

from tvconv_jax.data.decoder import decode, pixels
from tvconv_jax.data.faces import load_faces
from tvconv_jax.data.formats.bin_file import write_bin
from tvconv_jax.data.formats.record_faces import write_faces
from tvconv_jax.data.pipeline import eval_batches, index_batches, steps_per_epoch, train_batches
from tvconv_jax.data.records import ImageSource, RecordBuilder, one_writer, prepare
from tvconv_jax.data.subset import write_include_list
from tvconv_jax.data.synthetic.face_rendering import CHUNK, render
from tvconv_jax.data.synthetic.faces import IDENTITY, VERIFICATION, draw_identities, draw_photos
from tvconv_jax.data.tools.conversion import convert
from tvconv_jax.data.tools.inspection import inspect
from tvconv_jax.utils.errors import UserError


def embedded():
    return load_faces(ConfigDict({"source": "embedded", "size": "smoke"}))


def folder(root, **changes):
    config = {"source": "folder", "root": str(root), "image_size": 24, "max_corrupt": 0.3, "include_list": ""} | changes
    return load_faces(ConfigDict(config))


def jpeg(seed, side=24):
    return encoded(np.random.RandomState(seed).randint(0, 255, (side, side, 3)).astype(np.uint8), "JPEG")


@pytest.fixture
def faces(tmp_path):
    """Three identities with three images each, and one verification set of ten pairs."""
    for person in range(3):
        for i in range(3):
            touch(tmp_path / "train" / f"p{person}" / f"{i}.jpg", jpeg(10 * person + i))
    lines = []
    for i in range(10):
        touch(tmp_path / "pairs" / f"q{i}.jpg", jpeg(100 + i))
        lines.append(f"q{i}.jpg q{(i + 1) % 10}.jpg {1 if i % 2 else -1}")
    (tmp_path / "pairs_pair.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "elsewhere").mkdir()  # a folder that is no identity of train/
    return tmp_path


def test_drawing_is_seeded_and_identities_differ_more_than_their_photos():
    def draw(seed):
        random = np.random.default_rng(seed)
        return render(draw_identities(random, 4), draw_photos(random, 4), 24)

    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()
    random = np.random.default_rng(0)
    people, photos = draw_identities(random, 2), draw_photos(random, 2)
    same_photo = {name: values[[0, 0]] for name, values in photos.items()}
    a, b = render(people, same_photo, 24)
    assert np.abs(a.astype(int) - b).mean() > 1  # the same circumstances, another identity
    assert set(people) == set(IDENTITY)


def test_an_image_depends_on_its_row_alone():
    random = np.random.default_rng(0)
    people, photos = draw_identities(random, CHUNK + 2), draw_photos(random, CHUNK + 2)
    rows = [CHUNK + 1, 5]
    some = ({name: column[rows] for name, column in values.items()} for values in (people, photos))
    np.testing.assert_array_equal(render(*some, 24), render(people, photos, 24)[rows])


def test_noise_of_drawn_images_is_normal_and_independent():
    """Bounds: half a level for the mean, else five standard deviations of moments of 27,648 normal numbers."""
    random = np.random.default_rng(0)
    people, photos = draw_identities(random, 2), draw_photos(random, 2)
    photos |= {name: 0 * photos[name] for name in photos if "noise" not in name}  # a face in the middle, no background
    people = {name: column[[0, 0]] for name, column in people.items()}
    photos["noise"] = np.array([0.05, 0.05])
    noise = render(people, photos, 96).astype(float) / 255
    photos["noise"] = np.zeros(2)
    noise = (noise - render(people, photos, 96) / 255).reshape(2, -1) / 0.05
    for x in noise:
        assert abs(x.mean()) < 0.04 and abs(x.std() - 1) < 0.022
        assert abs(np.mean(x**3)) < 0.12 and abs(np.mean(x**4) - 3) < 0.3
        assert abs(np.mean(x[1:] * x[:-1])) < 0.03
    assert abs(np.mean(noise[0] * noise[1])) < 0.03


def test_embedded_set_has_identities_to_train_on_and_four_sets_of_others():
    data = embedded()
    assert data.num_classes == 8 and len(data.train) == 64
    assert [data.train[i]["label"] for i in range(64)] == list(np.repeat(np.arange(8), 8))
    assert "synthetic" in data.description
    assert set(data.verification) == set(VERIFICATION)
    for source, pairs in data.verification.values():
        assert len(source) == 40
        assert pairs.same.sum() == 10 and list(np.bincount(pairs.folds)) == [2] * 10
        labels = np.array([source[i]["label"] for i in range(40)])
        np.testing.assert_array_equal(labels[pairs.left] == labels[pairs.right], pairs.same)


def test_the_embedded_set_has_as_many_identities_and_photographs_as_are_asked_for():
    few = load_faces(ConfigDict({"source": "embedded", "size": "smoke", "identities": 3, "photos": 5}))
    assert few.num_classes == 3 and [few.train[i]["label"] for i in range(15)] == list(np.repeat(np.arange(3), 5))
    usual, more = embedded(), load_faces(ConfigDict({"source": "embedded", "size": "smoke", "photos": 9}))
    assert more.num_classes == 8 and len(more.train) == 72
    for name, (source, pairs) in usual.verification.items():
        images, same = few.verification[name]
        assert images[7]["image"] == source[7]["image"] and np.array_equal(pairs.same, same.same)
    other = load_faces(ConfigDict({"source": "embedded", "size": "smoke", "split_seed": 1}))
    assert other.train[0]["image"] != usual.train[0]["image"]
    assert other.verification["light"][0][0]["image"] != usual.verification["light"][0][0]["image"]
    with pytest.raises(UserError, match=r"data.identities is 1; training needs two or more\."):
        load_faces(ConfigDict({"source": "embedded", "size": "smoke", "identities": 1}))


def test_records_that_another_process_wrote_meanwhile_are_read(tmp_path):
    """As of two runs that start together: both look, one writes, the other waits for it."""

    class Pictures(RecordBuilder):
        name = "pictures"

    waiting = Pictures(splits={}, data_dir=tmp_path)
    record = {"image": jpeg(0), "label": 3, "name": "a.jpg"}
    prepare(Pictures(splits={"train": [record]}, data_dir=tmp_path), "pictures")
    prepare(waiting, "pictures")
    assert ImageSource(waiting, "train")[0] == record


def test_a_folder_is_read_byte_for_byte(faces):
    data = folder(faces)
    assert data.num_classes == 3 and len(data.train) == 9 and data.notes == []
    for i in range(9):
        record = data.train[i]
        assert record["image"] == (faces / record["name"]).read_bytes()
        assert record["name"].startswith(f"train/p{record['label']}/")
    source, pairs = data.verification["pairs"]
    assert source[int(pairs.right[3])]["name"] == "pairs/q4.jpg"
    assert list(pairs.same) == [False, True] * 5 and list(pairs.folds) == list(range(10))


def test_a_folder_without_train_holds_the_identities_itself(faces):
    assert folder(faces / "train").num_classes == 3
    (faces / "train" / "p1" / "photo.webp").touch()
    for person in (faces / "train").iterdir():
        person.rename(faces / person.name)
    (faces / "train").rmdir()
    data = folder(faces)  # "pairs" is a verification set, and not a fourth identity
    assert data.num_classes == 3 and len(data.train) == 9 and set(data.verification) == {"pairs"}
    assert any("1 files that are not .jpg, .jpeg, .png (p1/photo.webp)" in note for note in data.notes)
    assert inspect(str(faces)).splitlines()[0].endswith("folders of identities")


def test_a_changed_file_is_seen(faces):
    before = folder(faces).train[0]["image"]
    (faces / "train" / "p0" / "0.jpg").write_bytes(jpeg(77))
    assert folder(faces).train[0]["image"] != before


def test_truncated_images_are_named_and_skipped_up_to_a_share(faces):
    whole = jpeg(5)
    (faces / "train" / "p1" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    data = folder(faces)
    assert len(data.train) == 8
    assert len(data.notes) == 1 and "skipped 1 of 9" in data.notes[0] and "p1/0.jpg" in data.notes[0]
    assert folder(faces).notes == data.notes  # and again, from the cache
    said = r"1 of 9 images cannot be read \(.*p1/0.jpg: it is truncated\), more than the share 0.01"
    with pytest.raises(UserError, match=said):
        folder(faces, max_corrupt=0.01)


def test_an_image_larger_than_any_is_skipped_too(faces, monkeypatch):
    (faces / "train" / "p1" / "0.jpg").write_bytes(jpeg(5, side=40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 24)
    assert "p1/0.jpg" in folder(faces).notes[0]


def test_a_cache_that_takes_no_files_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="file cannot be written .*; set TVCONV_JAX_CACHE to a folder that can"),
        one_writer(tmp_path / "file" / "records"),
    ):
        raise AssertionError("wrote into a file")


def test_other_sizes_are_resized_and_reported_once(faces):
    (faces / "train" / "p1" / "0.jpg").write_bytes(jpeg(5, side=40))
    (faces / "train" / "p1" / "1.jpg").write_bytes(jpeg(5, side=40))
    data = folder(faces)
    assert len(data.notes) == 1 and "2 of 9 images" in data.notes[0] and "resized to 24x24" in data.notes[0]
    assert decode(data.train[3]["image"], 24).shape == (24, 24, 3)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: "", "data.root is empty; name the folder with --config.data.root=DIR"),
        (lambda root: root / "nowhere", "is not a folder"),
        (lambda root: root / "elsewhere", "holds 0 identities"),
        (lambda root: [(root / "train" / p).rename(root / p) for p in ("p1", "p2")] and root, "holds 1 identities"),
        (lambda root: (root / "pairs" / "q3.jpg").unlink() or root, "q3.jpg does not exist; add the file"),
        (lambda root: append(root, "q1.jpg q2.jpg 0"), "pair.txt:11: flag '0' must be 1 (same identity) or -1"),
        (
            lambda root: append(root, "José.jpg q2.jpg 1", "latin-1"),
            "pairs_pair.txt cannot be read ('utf-8' codec can't",
        ),
        (lambda root: renamed(root, b"Jos\xe9.jpg"), "is not in UTF-8; rename the file."),
        (lambda root: named(root, "step"), "no verification set can be called 'step', the name of the step in metrics"),
        (lambda root: named(root, "all"), "called 'all', which means all splits of a set; give it another name."),
        (lambda root: named(root, "a\nb"), "no verification set can be called 'a\\nb'; give it another name."),
        (lambda root: (root / "_pair.txt").touch() or root, "no verification set can be called ''; give it another"),
        (lambda root: append(root, "q1.jpg q2.jpg"), "must be 'left right flag'"),
        (lambda root: append(root, "q1.jpg q2.jpg 1"), "11 pairs cannot be split into 10 equal folds"),
        (lambda root: (root / "pairs" / "q3.jpg").write_bytes(b"no image") and root, "1 of 10 images cannot be"),
    ],
)
def test_bad_folders_get_one_line(faces, spoil, words):
    with pytest.raises(UserError) as error:
        folder(spoil(faces))
    assert words in str(error.value) and "\n" not in str(error.value)


def append(root, line, encoding="utf-8"):
    path = root / "pairs_pair.txt"
    path.write_text(path.read_text() + line + "\n", encoding=encoding)
    return root


def renamed(root, name):
    os.rename(root / "train" / "p1" / "0.jpg", os.fsencode(root / "train" / "p1") + b"/" + name)
    return root


def named(root, name):
    (root / "pairs_pair.txt").rename(root / f"{name}_pair.txt")
    (root / "pairs").rename(root / name)
    return root


def casia(root, **changes):
    return folder(root, source="casia", **{"verify_root": "", **changes})


def first_batches(data, count=2):
    """The first batches that a run trains on."""
    iterator = train_batches(data.train, batch_size=4, image_size=24, seed=0)
    return [next(iterator) for _ in range(count)]


def test_every_format_gives_the_same_first_batches(faces, tmp_path_factory):
    loose = casia(faces)
    assert len(loose.train) == 9 and loose.notes == ["pairs: 10 pairs, images from folders"]
    root = tmp_path_factory.mktemp("casia")
    write_faces(root / "train.rec", loose.train)
    pictures, pairs = loose.verification["pairs"]
    both = [index for pair in zip(pairs.left, pairs.right, strict=True) for index in pair]
    write_bin(root / "pairs.bin", [pictures[index]["image"] for index in both], pairs.same)
    packed = casia(root)
    assert packed.notes == ["train.rec: 9 images of 3 identities", "pairs: 10 pairs from pairs.bin"]
    assert packed.num_classes == loose.num_classes == 3
    for ours, theirs in zip(first_batches(packed), first_batches(loose), strict=True):
        for key, value in ours.items():
            np.testing.assert_array_equal(value, theirs[key])
    faces_of_bin, pairs_of_bin = packed.verification["pairs"]
    np.testing.assert_array_equal(pairs_of_bin.same, pairs.same)
    np.testing.assert_array_equal(pairs_of_bin.folds, pairs.folds)
    for ours, theirs in zip(pairs_of_bin.right, pairs.right, strict=True):
        assert faces_of_bin[ours]["image"] == pictures[theirs]["image"]


def test_a_tfds_set_trains_and_verifies_on_sets_elsewhere(faces, tmp_path_factory, monkeypatch):
    loose, root = casia(faces), tmp_path_factory.mktemp("tfds")
    convert(faces, f"tfds:{root}/people")
    for name in (f"tfds:{root}/people", root / "people"):
        packed = casia(name, verify_root=str(faces))
        assert packed.num_classes == 3 and packed.notes[0].endswith("9 images of 3 identities")
        assert packed.notes[1:] == ["pairs: 10 pairs, images from folders"]
        for ours, theirs in zip(first_batches(packed), first_batches(loose), strict=True):
            for key, value in ours.items():
                np.testing.assert_array_equal(value, theirs[key])
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    assert len(casia("tfds:people").train) == 9 and not casia("tfds:people").verification
    numbered = [{"image": jpeg(i), "label": 1_000_000 + 7 * (i % 3), "name": f"{i}"} for i in range(9)]
    prepare(RecordBuilder(splits={"train": numbered}, data_dir=root / "numbered"), "numbers")
    found = next((root / "numbered").rglob("dataset_info.json")).parent
    data = casia(f"tfds:{found}")
    assert data.num_classes == 3 and [data.train[i]["label"] for i in range(4)] == [0, 1, 2, 0]
    assert "9 images of 3 identities" in data.notes[0]
    with pytest.raises(UserError, match="no prepared TFDS set 'nobody' in"):
        casia("tfds:nobody")


def test_a_kept_list_trains_on_that_part(faces, tmp_path):
    kept = tmp_path / "kept.txt"
    write_include_list(kept, ["p2/1.jpg", "/elsewhere/p0/0.jpg", "train/p2/0.jpg"])
    data = folder(faces, include_list=str(kept))
    assert [(face["name"], face["label"]) for face in data.train] == [
        ("train/p0/0.jpg", 0),
        ("train/p2/0.jpg", 1),
        ("train/p2/1.jpg", 1),
    ]
    assert data.num_classes == 2 and data.train.name(2) == "train/p2/1.jpg"
    assert data.notes == [f"kept 3 of 9 images, 2 identities, by {kept}"]
    for names, words in (
        (["p0/0.jpg", "x/0.jpg", "x/1.jpg"], "names 'x/0.jpg' and 1 more, which the training set does not have"),
        (["p0/0.jpg"], "keeps 1 identity"),
        ([], "is empty"),
    ):
        write_include_list(kept, names)
        with pytest.raises(UserError, match=words):
            folder(faces, include_list=str(kept))
    with pytest.raises(UserError, match="cannot be read"):
        folder(faces, include_list=str(tmp_path / "none.txt"))


def test_a_kept_list_fits_a_set_in_every_format(faces, tmp_path):
    convert(faces, tmp_path / "packed" / "train.rec")
    convert(faces, f"tfds:{tmp_path}/set")
    write_include_list(tmp_path / "kept.txt", ["p1/0.jpg", "p1/2.jpg", "p2/1.jpg"])
    for root in (faces, tmp_path / "packed", tmp_path / "set"):
        data = casia(root, include_list=str(tmp_path / "kept.txt"))
        assert [data.train[i]["image"] for i in range(3)] == [jpeg(10), jpeg(12), jpeg(21)]
        assert [data.train[i]["label"] for i in range(3)] == [0, 0, 1] and data.num_classes == 2
    (tmp_path / "packed" / "train.lst").unlink()  # images are then called by their keys
    write_include_list(tmp_path / "kept.txt", ["train.rec:4", "train.rec:8"])
    assert len(casia(tmp_path / "packed", include_list=str(tmp_path / "kept.txt")).train) == 2


def test_jpegs_decode_to_the_bits_that_pillow_gives():
    pictures = {mode: Image.open(io.BytesIO(jpeg(1))).convert(mode) for mode in ("RGB", "L", "CMYK")}
    for kind, options in (("RGB", {"progressive": True}), ("RGB", {"quality": 30}), ("L", {}), ("CMYK", {})):
        image = encoded(pictures[kind], "JPEG", **options)
        np.testing.assert_array_equal(pixels(image), np.asarray(Image.open(io.BytesIO(image)).convert("RGB")))
    np.testing.assert_array_equal(pixels(encoded(pictures["RGB"])), np.asarray(pictures["RGB"]))
    with pytest.raises(OSError, match="truncated"):
        pixels(jpeg(1)[:-40])


def test_sixteen_bits_of_gray_become_eight_and_numbers_without_a_white_are_refused(faces):
    gray = np.arange(24 * 24, dtype=np.uint16).reshape(24, 24) * 113  # up to 64,975 of 65,535
    kinds = gray.astype("<u2"), gray.astype(">u2")
    for kind in kinds:
        np.testing.assert_array_equal(pixels(encoded(kind, "TIFF")), np.stack([np.round(gray / 257)] * 3, axis=-1))
    Image.fromarray(gray).save(faces / "train" / "p1" / "0.png")
    Image.fromarray(gray.astype(np.float32)).save(faces / "train" / "p1" / "1.jpg", "TIFF")
    data = folder(faces)
    assert len(data.train) == 9
    assert "p1/1.jpg: its pixels, of the mode F, do not define which value is white" in data.notes[0]
    names = [data.train.name(index) for index in range(9)]
    assert pixels(data.train[names.index("train/p1/0.png")]["image"]).max() == 253


def test_a_bin_goes_before_loose_images_of_the_same_set(faces):
    images = [jpeg(seed) for seed in range(20)]
    write_bin(faces / "pairs.bin", images, [True] * 10)
    data = casia(faces)
    assert data.notes == ["pairs: 10 pairs from pairs.bin"] and data.verification["pairs"][0][3]["image"] == images[3]
    (faces / "pairs.bin").unlink()
    write_bin(faces / "pairs.bin", images[:6], [True] * 3)
    with pytest.raises(UserError, match="pairs.bin: 3 pairs cannot be split into 10 equal folds"):
        casia(faces)


def test_a_bad_image_in_a_record_is_named(tmp_path):
    faces = [{"image": jpeg(i), "label": i % 2, "name": ""} for i in (0, 2, 1, 3)]
    faces[2]["image"] = faces[2]["image"][:300]
    write_faces(tmp_path / "train.rec", faces)
    with pytest.raises(UserError, match=r"image train.rec:3 cannot be decoded \(.*\); repair or remove it\. .*convert"):
        first_batches(casia(tmp_path))
    convert(tmp_path / "train.rec", tmp_path / "loose")  # the way out that it names
    data = casia(tmp_path / "loose", max_corrupt=0.25)
    assert len(data.train) == 3 and data.notes[0].startswith("skipped 1 of 4 images that cannot be read")


def test_lfws_own_pair_list(faces):
    for name in ("Ada", "Bob"):
        for picture in (1, 2):
            touch(faces / "lfw" / name / f"{name}_{picture:04d}.jpg", jpeg(picture))
    lines = ["10\t1"] + ["Ada\t1\t2", "Ada\t1\tBob\t2"] * 10
    (faces / "pairs.txt").write_text("\n".join(lines))
    pictures, pairs = folder(faces).verification["lfw"]
    names = [[pictures.name(index) for index in side[:2]] for side in (pairs.left, pairs.right)]
    assert names[0] == ["lfw/Ada/Ada_0001.jpg"] * 2 and names[1] == ["lfw/Ada/Ada_0002.jpg", "lfw/Bob/Bob_0002.jpg"]
    assert pairs.same.tolist() == [True, False] * 10 and np.bincount(pairs.folds).tolist() == [2] * 10
    (faces / "pairs.txt").write_text("\n".join([*lines[:-1], "Ada one 2"]))
    with pytest.raises(UserError, match="pairs.txt:21: 'Ada one 2' must be 'name 1 2' or"):
        folder(faces)


def test_an_unknown_source_lists_what_exists():
    with pytest.raises(UserError, match="there are: embedded, folder"):
        load_faces(ConfigDict({"source": "web"}))


def batches(source, **changes):
    return train_batches(source, **{"batch_size": 16, "image_size": 24, "seed": 0, **changes})


def test_every_epoch_holds_every_image_once_in_another_order():
    source = embedded().train
    iterator = batches(source)
    epochs = [np.concatenate([next(iterator)["index"] for _ in range(4)]) for _ in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(64))
    assert (epochs[0] != epochs[1]).any()


def test_the_same_seed_gives_the_same_batches_and_half_are_flipped_again_each_epoch():
    source = embedded().train
    first, second, other = batches(source), batches(source), batches(source, seed=1)
    flipped = []
    for _ in range(8):
        a, b, c = next(first), next(second), next(other)
        np.testing.assert_array_equal(a["image"], b["image"])
        assert (a["index"] != c["index"]).any()
        for image, label, index in zip(a["image"], a["label"], a["index"], strict=True):
            plain = decode(source[index]["image"], 24)
            is_flipped = (image != plain).any()
            np.testing.assert_array_equal(image, plain[:, ::-1] if is_flipped else plain)
            assert label == source[index]["label"]
            flipped.append(is_flipped)
    assert 0.3 < np.mean(flipped) < 0.7
    unflipped = next(batches(source, flip=False))
    np.testing.assert_array_equal(unflipped["image"][0], decode(source[unflipped["index"][0]]["image"], 24))


def test_a_saved_position_goes_on_exactly():
    source = embedded().train
    iterator = batches(source)
    for _ in range(6):  # into the second epoch
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(5)]
    fresh = batches(source)
    fresh.set_state(state)
    for batch in expected:
        again = next(fresh)
        for name, value in batch.items():
            np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_batches_of_one_without_overlap_or_loss(processes):
    source = embedded().train
    whole, shares = batches(source, batch_size=12), np.array_split(np.arange(12), processes)
    parts = [batches(source, batch_size=12, rows=rows) for rows in shares]
    seen = []
    for _ in range(10):  # two epochs of five
        expected, got = next(whole), [next(part) for part in parts]
        for name, value in expected.items():  # flips included
            np.testing.assert_array_equal(np.concatenate([batch[name] for batch in got]), value)
        seen += [batch["index"] for batch in got]
    for epoch in np.concatenate(seen).reshape(2, 60):
        assert len(np.unique(epoch)) == 60  # of 64: the remainder of a pass is dropped
    assert all(part.get_state() == whole.get_state() for part in parts)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_an_evaluation_with_a_ragged_end(processes):
    source, shares = embedded().train, np.array_split(np.arange(60), processes)
    whole = list(eval_batches(source, batch_size=60, image_size=24))
    parts = [list(eval_batches(source, batch_size=60, image_size=24, rows=rows)) for rows in shares]
    for i, expected in enumerate(whole):  # 60 images, then 4: most processes have none of these
        np.testing.assert_array_equal(np.concatenate([part[i]["image"] for part in parts]), expected["image"])
        assert all((part[i]["mask"] == expected["mask"]).all() for part in parts)


def test_evaluation_batches_hold_every_image_once_and_mask_the_rest():
    source = embedded().train
    parts = list(eval_batches(source, batch_size=24, image_size=24))
    assert [part["image"].shape for part in parts] == [(24, 24, 24, 3)] * 3
    assert [int(part["mask"].sum()) for part in parts] == [24, 24, 16]
    kept = np.concatenate([part["image"][part["mask"]] for part in parts])
    np.testing.assert_array_equal(kept[63], decode(source[63]["image"], 24))


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(UserError, match="65 is more than the 64 training images; .*--config.data.batch_size=64"):
        steps_per_epoch(embedded().train, 65)


def test_tensorflow_is_never_imported():
    code = (
        "import sys; from ml_collections import ConfigDict; from tvconv_jax.data.faces import load_faces;"
        "data = load_faces(ConfigDict({'source': 'embedded', 'size': 'smoke'})); data.train[0];"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_readmes_image_is_drawn_from_a_seed(tmp_path):
    command = [sys.executable, "-m", "tvconv_jax.data.synthetic.preview", f"--out={tmp_path / 'faces.png'}"]
    subprocess.run(command, check=True)
    drawn, committed = (
        np.asarray(Image.open(folder / "faces.png").convert("RGB"), int)
        for folder in (tmp_path, Path(__file__).parent.parent / "docs")
    )
    assert np.abs(drawn - committed).mean() < 1  # other processors round otherwise


@pytest.mark.parametrize(("count", "batch_size", "seed"), [(64, 24, 0), (61, 20, 2**32 - 1), (300, 7, 5)])
def test_order_and_flips_are_those_of_grain(count, batch_size, seed):
    """So they stay those of earlier versions, which took them from Grain element by element."""
    dataset = grain.MapDataset.range(count).seed(seed).shuffle().batch(batch_size, drop_remainder=True)
    expected = dataset.random_map(lambda rows, random: (rows, random.random(len(rows)) < 0.5)).repeat()
    batches = index_batches(count, batch_size=batch_size, seed=seed)
    for step in range(3 * (count // batch_size) + 1):
        found, (rows, mirrored) = next(batches), expected[step]
        np.testing.assert_array_equal(found["index"], rows)
        np.testing.assert_array_equal(found["mirrored"], mirrored)
    batches.close()
