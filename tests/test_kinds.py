"""Inspect tells faces, other images and masks apart, says so, and reports on each what it can have."""

import numpy as np
import pytest
from folders import encoded
from PIL import Image, ImageDraw

from tvconv_jax.data.__main__ import main
from tvconv_jax.data.mask_classes import label_counts
from tvconv_jax.data.synthetic import faces as drawing
from tvconv_jax.data.synthetic.face_rendering import render
from tvconv_jax.data.tools.alignment import align
from tvconv_jax.data.tools.kinds import guess


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def inspect(capsys, *arguments):
    main(["inspect", *map(str, arguments)])
    return capsys.readouterr().out


def warnings(report):
    return [line for line in report.splitlines() if line.startswith("  !")]


def drawn_faces(count, size):
    random = np.random.default_rng(0)
    return render(drawing.draw_identities(random, count), drawing.draw_photos(random, count), size)


def part(seed, defect):
    """A photograph of a plate with four bolts; a defect is a dark spot."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (112, 112), (90, 95, 100))
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 10, 102, 102), fill=(150, 150, 155))
    for x in (28, 84):
        for y in (28, 84):
            draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=(60, 60, 60))
    if defect:
        x, y = random.integers(20, 90, 2).tolist()
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=(30, 30, 30))
    return np.clip(np.asarray(image) + random.normal(0, 6, (112, 112, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def parts(tmp_path):
    for i in range(40):
        save(tmp_path / "parts" / ("defect" if i % 4 == 0 else "ok") / f"{i}.jpg", part(i, i % 4 == 0), quality=95)
    return tmp_path / "parts"


@pytest.fixture
def teeth(tmp_path):
    """Twelve photographs of six teeth, with masks of 0 and the teeth's numbers."""
    base, random = tmp_path / "dental", np.random.default_rng(0)
    for i in range(12):
        image, mask = Image.new("RGB", (128, 96), (120, 40, 45)), Image.new("L", (128, 96))
        for tooth in range(3):
            box = (8 + tooth * 38, 25 + int(random.integers(-3, 3)), 40 + tooth * 38, 70)
            ImageDraw.Draw(image).rounded_rectangle(box, 5, fill=(230, 225, 205))
            ImageDraw.Draw(mask).rounded_rectangle(box, 5, fill=tooth + 1)
        noisy = np.clip(np.asarray(image) + random.normal(0, 5, (96, 128, 3)), 0, 255).astype(np.uint8)
        save(base / "images" / f"{i:02d}.jpg", noisy)
        save(base / "masks" / f"{i:02d}.png", np.asarray(mask))
    return base


def test_parts_have_no_eyes(parts, capsys):
    report = inspect(capsys, parts)
    assert report.startswith(f"{parts}: images\n  looks like images: eyes where the template of faces has them in 0%")
    assert "--kind=faces" in report and "align" not in report and "identities" not in report
    assert "  classes     2: defect: 10, ok: 30\n  images      40, of which 0 cannot be read\n" in report
    assert "112x112: 40" in report and "40, gray 0; modes RGB: 40" in report or "modes RGB: 40" in report
    assert "brightness  median 1" in report and report.endswith("nothing was found that is wrong\n")


def test_what_is_wrong_with_images_is_found(parts, capsys, tmp_path):
    (parts / "ok" / "1.jpg").write_bytes(b"no image")
    (parts / "ok" / "2.jpg").write_bytes((parts / "defect" / "0.jpg").read_bytes())
    save(parts / "ok" / "3.jpg", np.full((112, 112, 3), 7, np.uint8))
    save(parts / "ok" / "5.jpg", np.asarray(Image.fromarray(part(5, 0)).resize((64, 64))))
    report = inspect(capsys, parts, "--size=112", f"--sheet={tmp_path}/sheet.png", "--kind=images")
    broken, equal, blank, size = warnings(report)
    assert "images that cannot be read, 1" in broken and "1.jpg (it is a text file" in broken
    assert "equal images of several classes, 1:" in equal and "ok/2.jpg" in equal
    assert "images of one brightness, with nothing on them, 1:" in blank and "3.jpg" in blank
    assert "images that are not 112x112, 1:" in size and "5.jpg" in size
    assert "looks like" not in report and (tmp_path / "sheet.png").exists()


def test_teeth_are_masks_with_images(teeth, capsys):
    report = inspect(capsys, teeth)
    assert "looks like masks: images of few colors in masks (--kind chooses)" in report
    assert "masks       12, of which 0 cannot be read" in report and "eyes" not in report
    assert "values      4, with their share of the pixels and their masks: 0: " in report and "% in 12, " in report
    assert "sizes       128x96: 12" in report and "images      12, of which 0 have no mask" in report
    assert not warnings(report)
    counts = [label_counts(path.read_bytes()) for path in (teeth / "masks").glob("*.png")]
    share = sum(count["0"] for count in counts) / (12 * 128 * 96)
    assert f"0: {share:.1%} in 12" in report


def test_what_is_wrong_with_masks_is_found(teeth, capsys):
    masks = teeth / "masks"
    (masks / "00.png").unlink()
    save(masks / "other.png", np.asarray(Image.open(masks / "01.png")))
    save(masks / "02.png", np.asarray(Image.open(masks / "02.png"))[:64])
    save(masks / "03.jpg", np.asarray(Image.open(masks / "03.png")) * 80)
    (masks / "03.png").unlink()
    (masks / "04.png").write_bytes(b"no image")
    save(masks / "05.png", np.zeros((96, 128), np.uint8))
    blurred = Image.open(masks / "06.png").point(lambda value: value * 80).resize((40, 40)).resize((128, 96))
    save(masks / "06.png", np.asarray(blurred))
    found = warnings(inspect(capsys, teeth))
    for words in (
        "masks that cannot be read, 1: ",
        "masks saved with loss, which changes values: save them as PNG, 1: ",
        "masks of more than 16 values: if they have fewer classes, resize them without interpolation, 1: ",
        "masks of one value alone, 1: ",
        f"images without a mask, 1: {teeth}/images/00.jpg",
        f"masks without an image, 1: {masks}/other.png",
        f"images of another size than their mask, 2: {teeth}/images/02.jpg (128x96, its mask 128x64)",
    ):
        assert any(words in line for line in found), (words, found)


def test_values_of_masks_in_every_mode():
    gray = np.array([[0, 1], [1, 255]], np.uint8)
    assert label_counts(encoded(gray)) == {"0": 1, "1": 2, "255": 1}
    assert label_counts(encoded(np.repeat(gray[..., None], 3, -1))) == {"0": 1, "1": 2, "255": 1}
    assert label_counts(encoded(gray.astype(np.uint16) * 257)) == {"0": 1, "257": 2, "65535": 1}
    assert label_counts(encoded(gray > 0)) == {"0": 1, "255": 3}
    color = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    assert label_counts(encoded(color)) == {"#0000ff": 1, "#ff0000": 1}
    palette = Image.fromarray(np.array([[0, 2, 2]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 9, 9, 9, 255, 0, 0])
    assert label_counts(encoded(palette)) == {"0 (#000000)": 1, "2 (#ff0000)": 2}


@pytest.mark.parametrize("size", [48, 112])
def test_the_embedded_faces_are_faces_in_their_place(size, tmp_path, capsys):
    """Their eyes are white, so they are darker than the cheeks in half of them alone."""
    for i, image in enumerate(drawn_faces(80, size)):
        save(tmp_path / f"id{i % 8}" / f"{i}.png", image)
    report = inspect(capsys, tmp_path, f"--size={size}")
    assert "looks like faces: eyes where the 112x112 template has them in" in report
    assert "only: drawn faces?" in report and "align the set" not in report


def photographs(folder, rough):
    """Drawn faces, rotated, on backgrounds; return lines of their landmarks, moved by ``rough`` pixels."""
    random, lines = np.random.default_rng(1), []
    for i, image in enumerate(drawn_faces(36, 112)):
        side, angle = int(random.uniform(70, 110)), random.uniform(-0.4, 0.4)
        canvas = Image.new("RGB", (200, 200), tuple(random.integers(60, 200, 3).tolist()))
        face, shape = Image.fromarray(image).resize((side, side)), Image.new("L", (side, side), 255)
        corner = random.integers(10, 190 - side, 2)
        turned, mask = (picture.rotate(np.degrees(angle)) for picture in (face, shape))
        canvas.paste(turned, tuple(corner.tolist()), mask)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = np.array([[-0.29, -0.16], [0.29, -0.16], [0, 0.18], [-0.23, 0.46], [0.23, 0.46]]) @ turn
        points = (points + 1) / 2 * side + corner + random.normal(0, rough, (5, 2))
        path = save(folder / f"id{i % 6}" / f"{i}.png", np.asarray(canvas))
        lines.append(f"{path.relative_to(folder)} " + " ".join(f"{value:.1f}" for value in points.ravel()))
    return lines


@pytest.mark.parametrize("rough", [0, 3])
def test_what_align_placed_is_not_told_to_be_aligned(rough, tmp_path, capsys):
    lines = photographs(tmp_path / "photographs", rough)
    (tmp_path / "landmarks.txt").write_text("\n".join(lines))
    before = inspect(capsys, tmp_path / "photographs", "--kind=faces")
    assert "align the set first; if it is aligned (drawn faces, rough landmarks), look at a --sheet" in before
    align(tmp_path / "photographs", tmp_path / "landmarks.txt", tmp_path / "faces" / "train")
    after = inspect(capsys, tmp_path / "faces")
    assert "looks like faces: eyes where" in after and "align the set" not in after


def test_photographs_that_are_not_aligned_are_faces_and_told_so(tmp_path, capsys):
    photographs(tmp_path, 0)
    report = inspect(capsys, tmp_path)
    assert "looks like faces: folders of images with skin color in the middle, not aligned" in report
    assert "align the set first" in report


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("Domain1/train/ROIs/image/{}.jpg", "Domain1/train/ROIs/mask/{}.png"),
        ("train/{}.jpg", "train_masks/{}_mask.png"),
        ("{}.jpg", "{}_mask.png"),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
    ],
)
def test_masks_are_found_where_sets_keep_them(image, mask, teeth, tmp_path, capsys):
    base = tmp_path / "set"
    for number in range(4):
        for kind, source in ((image, "images/{:02d}.jpg"), (mask, "masks/{:02d}.png")):
            target = base / kind.format(number)
            target.parent.mkdir(parents=True, exist_ok=True)
            (teeth / source.format(number)).rename(target)
    report = inspect(capsys, base)
    assert "looks like masks" in report and "images      4, of which 0 have no mask" in report and not warnings(report)


def test_a_class_of_images_called_mask_is_not_one_of_masks(parts):
    (parts / "defect").rename(parts / "mask")
    assert guess(parts).kind == "images"


def test_masks_with_a_palette_are_masks_without_images_too(tmp_path, capsys):
    for i in range(4):
        mask = Image.fromarray(np.kron(np.arange(4).reshape(2, 2), np.ones((9, 9 + i))).astype(np.uint8), "P")
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
        mask.save(tmp_path / f"{i}.png")
    report = inspect(capsys, tmp_path)
    assert "looks like masks: all images are gray or have a palette, of few values" in report
    assert "0 (#000000): 25.0% in 4, 1 (#800000): 25.0% in 4, 2 (#008000): 25.0% in 4, 3 (#808000)" in report


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("", [], "holds no images, in folders or beside them; name a folder of images."),
        ("x.bin", ["--kind=masks"], "--kind=masks is of folders, and"),
        ("", ["--kind=images", "--tests", "y.txt"], "--tests is for faces, and"),
        ("", ["--kind=images"], "holds no images, in folders or beside them; name a folder of images."),
        ("", ["--kind=masks"], "holds no images"),
        ("none", ["--kind=masks"], "does not exist"),
        ("", ["--kind=teeth"], "invalid choice: 'teeth'"),
    ],
)
def test_what_does_not_fit_is_one_line(name, arguments, words, tmp_path, refusal):
    assert words in refusal(main, "inspect", tmp_path / name, *arguments)
