"""Inspect finds what was planted, and nothing in a clean set; aligning undoes a known rotation."""

import numpy as np
import pytest
from folders import encoded
from PIL import ExifTags, Image

from tvconv_jax.data.__main__ import main
from tvconv_jax.data.decoder import pixels
from tvconv_jax.data.formats.bin_file import write_bin
from tvconv_jax.data.tools.alignment import TEMPLATE, align, align_face, read_landmarks, similarity
from tvconv_jax.data.tools.image_stats import measure
from tvconv_jax.utils.errors import UserError

SKIN, DARK = (205, 150, 125), (40, 25, 25)


def drawn(seed, points=TEMPLATE, side=112):
    """Skin everywhere, dark eyes and mouth at their places, and noise that makes every picture another."""
    rows, columns = np.mgrid[:side, :side]
    radius = 0.2 * np.linalg.norm(points[1] - points[0])
    dark = np.min([np.hypot(columns - x, rows - y) for x, y in (*points[:2], points[3:].mean(0))], axis=0) < radius
    picture = np.where(dark[..., None], DARK, SKIN)
    noise = np.random.default_rng(seed).integers(-9, 9, (side, side, 3))
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def jpeg(array):
    return encoded(array, "JPEG", quality=95)


@pytest.fixture
def faces(tmp_path):
    """Six people with five pictures each."""
    root = tmp_path / "faces"
    for person in range(6):
        (root / "train" / f"Person_{person}").mkdir(parents=True)
        for i in range(5):
            picture = root / "train" / f"Person_{person}" / f"{i}.jpg"
            picture.write_bytes(jpeg(drawn(10 * person + i)))
    return root


def inspect(capsys, *arguments):
    main(["inspect", *map(str, arguments)])
    return capsys.readouterr().out


def warnings(report):
    return [line for line in report.splitlines() if line.startswith("  !")]


def test_a_clean_set(faces, capsys):
    report = inspect(capsys, faces)
    assert "6 with 5 to 5 images, median 5; 0 with fewer than two" in report
    assert "30, of which 0 cannot be read" in report and "112x112: 30" in report and "30, gray 0" in report
    assert "template in 100.0%" in report and not warnings(report)


def test_planted_faults_are_found(faces, capsys, tmp_path):
    def file(person, i):
        return faces / "train" / f"Person_{person}" / f"{i}.jpg"

    whole = file(0, 0).read_bytes()
    for i, spoilt in enumerate((whole[:900], whole[:-500], whole[:1500] + b"\xff\xd9" + whole[1502:])):
        file(i, i).write_bytes(spoilt)
    file(3, 0).write_bytes(file(4, 0).read_bytes())
    for person, i in ((0, 4), (1, 4), (2, 4), (3, 4), (4, 4)):
        file(person, i).write_bytes(jpeg(pixels(file(person, i).read_bytes())[..., ::-1]))
    (tmp_path / "people.txt").write_text("somebody\nperson 5\n")
    sheet = tmp_path / "sheet.png"
    report = inspect(capsys, faces, "--tests", tmp_path / "people.txt", "--sheet", sheet)
    bad, twice, swapped, shared = warnings(report)
    assert "cannot be read, 3:" in bad and all(str(file(i, i)) in bad for i in range(3))
    assert "several identities, 1:" in twice and f"{file(3, 0)} = {file(4, 0)}" in twice
    assert "swapped" in swapped and ", 5: " in swapped and all(str(file(i, 4)) in swapped for i in range(5))
    assert shared == "  ! identities that are also in the test set people, 1: Person_5"
    with Image.open(sheet) as picture:  # three findings, two rows of the sample
        assert picture.size == (1092, 4 + 5 * 68 + 4 * 18)


def test_sets_that_are_not_what_they_should_be(faces, capsys):
    for path in faces.glob("train/*/*.jpg"):
        seed = int(path.stem) + 10 * int(path.parent.name[-1]) % 50  # the sixth person's are the first's once more
        low = drawn(seed, TEMPLATE + (0, 10))  # the eyes are where the cheeks should be
        path.write_bytes(jpeg(low[:96, :96, ::-1]))
    report = "\n".join(warnings(inspect(capsys, faces, "--kind=faces")))
    assert "most faces are bluer than skin" in report and "the eyes of 100% are not where" in report
    assert "images that are not 112x112; --size=96 if they are meant to be 96x96, 30: " in report
    assert ", ..." in report and "several identities, 5: " in report
    assert ", ..." not in inspect(capsys, faces, "--kind=faces", "--every-name")


def test_overlap_with_test_sets_beside(faces, capsys, refusal):
    pictures = [path.read_bytes() for path in sorted(faces.glob("train/Person_1/*.jpg"))]
    write_bin(faces / "mine.bin", pictures[:1] * 40, [True, False] * 10)
    lines = ["Person_2\t1\t2", "somebody\t1\tPerson_3\t2"]
    (faces / "pairs.txt").write_text("\n".join(["10\t300", *lines]))
    (faces / "x_pair.txt").write_text("Person_4/1.jpg Person_0_0001.jpg 1\n")
    report = "\n".join(warnings(inspect(capsys, faces)))
    assert "images that are also in the test set mine, 1: " in report and "Person_1/0.jpg" in report
    assert "identities that are also in the test set lfw, 2: Person_2, Person_3" in report
    assert "identities that are also in the test set x, 2: Person_0, Person_4" in report
    pairs = "pairs       20: 10 of one identity, 10 of two identities, in 10 folds"
    assert f"mine.bin: a test set\n  {pairs}\n  images      40" in inspect(capsys, faces / "mine.bin")
    assert f"lists 4 images, and none is in {faces / 'lfw'}; put them there." in refusal(
        main, "inspect", faces / "pairs.txt"
    )
    (faces / "lfw" / "Person_2").mkdir(parents=True)
    for number in (1, 2):
        (faces / "lfw" / "Person_2" / f"Person_2_{number:04d}.jpg").write_bytes(pictures[number])
    report = inspect(capsys, faces / "pairs.txt")
    assert "pairs       2: 1 of one identity, 1 of two identities, in no equal folds\n  images      2," in report
    assert "  ! lfw: 2 pairs cannot be split into 10 equal folds; give a multiple of 10.\n" in report
    missing = "somebody/somebody_0001.jpg, Person_3/Person_3_0002.jpg"
    assert f"  ! listed images are missing, 2: {missing}\n" in report


@pytest.mark.parametrize("kind", ["rec", "tfds"])
def test_packed_sets(faces, capsys, tmp_path, kind):
    target = {"rec": f"{tmp_path}/out/train.rec", "tfds": f"tfds:{tmp_path}/out"}[kind]
    main(["convert", str(faces), target])
    assert "6 with 5 to 5" in inspect(capsys, target)
    assert "6 with 5 to 5" in inspect(capsys, tmp_path / "out")


def test_nothing_to_inspect_is_one_line(tmp_path, refusal):
    for path in (tmp_path / "none", tmp_path):
        refusal(main, "inspect", path)


def test_pictures_that_viewers_turn_are_found(faces, capsys):
    path = faces / "train" / "Person_3" / "0.jpg"
    with Image.open(path) as picture:
        exif = picture.getexif()
        exif[ExifTags.Base.Orientation] = 6
        picture.save(path, exif=exif)
    (turned,) = warnings(inspect(capsys, faces))
    assert turned.endswith(f"viewers rotate (EXIF), and training does not: save them rotated, 1: {path}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "faces", "--sheet=sheet"], "sheet must end as an image does: .png, .jpg"),
        (["align", "a", "b", "c", "--size=0"], "'0' must be a whole number from 8"),
        (["speed", "faces", "--seconds=0"], "'0' must be greater than 0, and finite"),
    ],
)
def test_numbers_and_names_are_looked_at_first(arguments, words, refusal):
    assert words in refusal(main, *arguments)


def test_gray_is_gray():
    gray = np.asarray(Image.fromarray(drawn(0)).convert("L").convert("RGB"))
    assert measure(jpeg(gray)).gray and not measure(jpeg(gray)).swapped and not measure(jpeg(drawn(0))).gray


def test_similarity_by_hand():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    turned = np.array([[5.0, 7.0], [5.0, 9.0], [3.0, 7.0]])  # a quarter turn, twice as large, moved by 5, 7
    np.testing.assert_allclose(similarity(points, turned), [[0, -2, 5], [2, 0, 7]], atol=1e-12)
    # Of all similarities the result is the nearest: any small change of it is worse.
    random = np.random.default_rng(0)
    points, target = random.normal(size=(2, 5, 2))
    best = similarity(points, target)

    def distance(matrix):
        return np.sum((points @ matrix[:, :2].T + matrix[:, 2] - target) ** 2)

    a, b = best[:, 0]
    for change in random.normal(scale=1e-3, size=(20, 4)):
        c, d = a + change[0], b + change[1]
        assert distance(np.array([[c, -d, best[0, 2] + change[2]], [d, c, best[1, 2] + change[3]]])) > distance(best)
    with pytest.raises(ValueError, match="all points are the same"):
        similarity(np.ones((5, 2)), target)


@pytest.mark.parametrize(
    ("scale", "angle", "side"), [(1.0, 0.3, 112), (3.7, -0.4, 112), (0.8, 0.1, 96), (2.0, 0.0, 96)]
)
def test_aligned_points_lie_on_the_template(scale, angle, side):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE - 56) @ turn.T + 56 * scale + 70
    face = align_face(drawn(0, points, side=int(112 * scale + 140)), points, side)
    assert face.shape == (side, side, 3)
    for x, y in TEMPLATE[:2] * side / 112:  # the middle of a dark eye
        rows, columns = np.mgrid[:side, :side]
        dark = (face.mean(-1) < 90) & (np.hypot(rows - y, columns - x) < 12)
        assert np.hypot(rows[dark].mean() - y, columns[dark].mean() - x) < 0.6


def test_align_command(tmp_path, capsys):
    points = TEMPLATE * 2 + 30
    (tmp_path / "raw" / "ann").mkdir(parents=True)
    (tmp_path / "raw" / "ann" / "1.png").write_bytes(jpeg(drawn(0, points, 300)))
    (tmp_path / "raw" / "ann" / "2.jpg").write_bytes(b"broken")
    numbers = "\t".join(f"{value:.3f}" for value in points.ravel())
    (tmp_path / "list.txt").write_text("".join(f"ann/{name}\t{numbers}\n" for name in ("1.png", "2.jpg", "3.jpg")))
    arguments = ["align", str(tmp_path / "raw"), str(tmp_path / "list.txt"), str(tmp_path / "out"), "--size=96"]
    there = f"0 faces aligned to 96x96; 1 were in {tmp_path / 'out'} already; 1 of "
    for start in ("1 faces aligned to 96x96; 1 of ", there):  # the second time, what is there is left
        main(arguments)
        said = capsys.readouterr().out
        assert said.startswith(start) and "1 cannot be read: ann/2.jpg" in said
    aligned = pixels((tmp_path / "out" / "ann" / "1.jpg").read_bytes())
    assert aligned.shape == (96, 96, 3) and measure(jpeg(aligned)).eyes > 1
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["1.jpg"]


def test_landmarks_are_of_the_picture_as_it_is_seen(tmp_path):
    points = TEMPLATE * 2 + 30
    lying = Image.fromarray(drawn(0, points, 300)).transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[ExifTags.Base.Orientation] = 6  # to be turned by a quarter, as telephones write it
    lying.save(tmp_path / "1.jpg", quality=95, exif=lying.getexif())
    (tmp_path / "list.txt").write_text("1.jpg " + " ".join(f"{value:.3f}" for value in points.ravel()))
    align(tmp_path, tmp_path / "list.txt", tmp_path / "out")
    expected = align_face(drawn(0, points, 300), points)
    assert np.abs(pixels((tmp_path / "out" / "1.jpg").read_bytes()) - expected.astype(int)).mean() < 5  # two JPEGs


def test_no_picture_takes_the_place_of_another(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"a/1.{kind} 1 2 3 4 5 6 7 8 9 0\n" for kind in ("png", "jpg")))
    (tmp_path / "a").mkdir()
    for kind in ("png", "jpg"):
        (tmp_path / "a" / f"1.{kind}").write_bytes(jpeg(drawn(0)))
    with pytest.raises(UserError, match=r"lists a/1.png and a/1.jpg, which would both become a/1.jpg; remove one"):
        align(tmp_path, tmp_path / "list.txt", tmp_path / "out")
    with pytest.raises(UserError, match="is the folder of the images themselves; name another"):
        align(tmp_path, tmp_path / "list.txt", tmp_path / "a" / "..")


@pytest.mark.parametrize(
    "line", ["a.jpg 1 2 3", "a.jpg 1 2 3 4 5 6 7 8 9 x", "a.jpg" + " 1" * 10, "../a.jpg 1 2 3 4 5 6 7 8 9 0"]
)
def test_bad_landmarks_name_the_line(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"b.jpg,1,2,3,4,5,6,7,8,9,0\n{line}\n")
    with pytest.raises(UserError, match="list.txt:2: "):
        read_landmarks(tmp_path / "list.txt")


def test_speed_command(faces, capsys):
    main(["speed", str(faces), "--size=24", "--seconds=0.01"])
    said = capsys.readouterr().out
    assert "Pillow, in a loop" in said and "pipeline, 2 worker processes" in said
