"""The frontal classifier learns what anybody sees; purify keeps what it calls frontal, and goes on when killed."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import touch
from ml_collections import ConfigDict
from test_inspection import drawn, jpeg
from test_main import Watched, leaves

from tvconv_jax.data.__main__ import main
from tvconv_jax.data.subset import read_include_list
from tvconv_jax.data.tools import poses
from tvconv_jax.tasks import frontal, purify
from tvconv_jax.tasks.configs import frontal_config
from tvconv_jax.tasks.frontal import random_crops
from tvconv_jax.tasks.run import restore
from tvconv_jax.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("barely_optimized")


def profile(seed):
    """Half of the picture is dark, as where the hair is seen from the side."""
    picture = drawn(seed)
    picture[:, :56] //= 4
    return picture


@pytest.fixture(scope="module")
def cfp(tmp_path_factory):
    """Twenty people with three frontal and two profile pictures each."""
    root = tmp_path_factory.mktemp("cfp")
    for pose, draw, count in (("frontal", drawn, 3), ("profile", profile, 2)):
        (root / pose).mkdir()
        for person in range(20):
            for i in range(count):
                picture = draw(100 * person + i)
                (root / pose / f"{person:03d}_{i:02d}.jpg").write_bytes(jpeg(picture))
    return root


@pytest.fixture(scope="module")
def classifier(cfp, tmp_path_factory):
    config = frontal_config("smoke,epochs=6")
    config.data.root = str(cfp)
    read, workdir = {"task"}, tmp_path_factory.mktemp("runs") / "frontal"
    with jax.numpy_dtype_promotion("standard"):  # optax compares a step number with a float
        frontal.train(Watched(config, read), workdir)
        frontal.evaluate(config, workdir)
    assert set(leaves(config)) <= read, set(leaves(config)) - read
    return workdir


def test_it_learns(classifier):
    results = json.loads((classifier / "results.json").read_text())
    assert results["test"]["all"] == 1.0
    assert "80 images of 16 identities; tested on 20 of 4 others" in results["data"]


def test_the_report_shows_no_picture(classifier):
    report = (classifier / "report.html").read_text()
    assert "the accuracy is 100.00 %" in report and "data:image/" not in report


@pytest.mark.parametrize(
    "layout", ["{pose}/{person}_{i}.jpg", "{pose}/{person}/{i}.jpg", "Data/Images/{person}/{pose}/{i}.jpg"]
)
def test_every_layout_is_split_by_people(tmp_path, layout):
    for person in range(10):
        for pose in poses.POSES:
            for i in range(2):
                touch(tmp_path / layout.format(pose=pose, person=f"p{person:02d}", i=i), b"")
    data = poses.load_poses(tmp_path, test_share=0.3)
    assert data.identities == (7, 3) and len(data.train) == 28 and len(data.test) == 12
    parts = []
    for part in (data.train, data.test):
        names = [part.name(i) for i in range(len(part))]
        assert [part.label(i) for i in range(len(part))] == ["frontal" in name for name in names]
        parts.append({name[name.index("/p0") :][:4] for name in names})
    assert not parts[0] & parts[1]


def test_too_little_to_learn_from_is_one_line(tmp_path, cfp):
    (tmp_path / "frontal").mkdir()
    (tmp_path / "frontal" / "a_1.jpg").touch()
    with pytest.raises(UserError, match="holds no profile faces; put them into .*profile/"):
        poses.load_poses(tmp_path, test_share=0.2)
    for share in (0.0, 1.0):
        with pytest.raises(UserError, match="data.test_share .* of 20 identities leaves none"):
            poses.load_poses(cfp, test_share=share)


@pytest.mark.parametrize("name", ["1.jpg", "part_1.jpg"])
def test_one_identity_is_too_few_and_its_name_is_in_the_message(tmp_path, name):
    for pose in poses.POSES:
        (tmp_path / pose).mkdir()
        (tmp_path / pose / name).touch()
    named = r"of 1 identities \((part|without a name)\) leaves none .*; change it, name files IDENTITY_NUMBER.jpg, .*"
    with pytest.raises(
        UserError, match=named + "for a classifier of other images take --config=configs/classification.py"
    ):
        poses.load_poses(tmp_path, test_share=0.2)


def test_links_to_folders_are_followed_but_not_in_a_circle(tmp_path, cfp):
    (tmp_path / "frontal").symlink_to(cfp / "frontal")
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "more").symlink_to(cfp / "profile")
    (tmp_path / "profile" / "up").symlink_to(tmp_path)
    with pytest.raises(
        UserError, match=r"no profile faces of the identities to (train|test) on \(data.test_share 0.2\); identities"
    ):
        poses.load_poses(tmp_path, test_share=0.2)  # for `more` stands where a person would
    (tmp_path / "profile" / "more").unlink()
    (tmp_path / "profile" / "up").unlink()
    (tmp_path / "profile").rmdir()
    (tmp_path / "profile").symlink_to(cfp / "profile")
    data = poses.load_poses(tmp_path, test_share=0.2)
    assert data.identities == (16, 4) and len(data.train) == 80 and len(data.test) == 20


def test_random_crops_by_hand():
    ramp = jnp.broadcast_to(jnp.arange(16.0)[:, None, None], (16, 16, 1))
    images = jnp.stack([ramp] * 32)
    np.testing.assert_allclose(random_crops(jax.random.key(0), images, 1.0), images, atol=1e-5)
    crops = np.asarray(random_crops(jax.random.key(0), images, 0.5))
    steps = np.diff(crops[:, 4:12, 8, 0], axis=1)  # a row of a crop is as many rows of the picture as its share
    assert np.ptp(steps, axis=1).max() < 1e-4 and 0.5 <= steps.min() < 0.6 and 0.9 < steps.max() <= 1.0
    assert crops.min() >= 0 and crops.max() <= 15


@pytest.fixture
def faces(tmp_path):
    """Six people with four frontal pictures each; the last of them and all of the sixth's are profiles."""
    for person in range(6):
        (tmp_path / "faces" / f"p{person}").mkdir(parents=True)
        for i in range(4):
            draw = profile if i == 3 or person == 5 else drawn
            (tmp_path / "faces" / f"p{person}" / f"{i}.jpg").write_bytes(jpeg(draw(7000 + 10 * person + i)))
    return tmp_path / "faces"


def test_purify_keeps_the_frontal_part(classifier, faces, tmp_path, capsys, monkeypatch, refusal):
    out = tmp_path / "out"
    arguments = ["purify", str(faces), f"--classifier={classifier}", f"--out={out}"]
    monkeypatch.setattr(purify, "CHUNK", 10)
    scored, probabilities = [], frontal.FrontalJob.probabilities

    def killed(self, state, source, start, stop):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(start)
        return probabilities(self, state, source, start, stop)

    monkeypatch.setattr(frontal.FrontalJob, "probabilities", killed)
    with pytest.raises(SystemExit, match="130"):
        main(arguments)
    assert "the same command goes on" in capsys.readouterr().err
    scored.clear()
    main(arguments)
    assert scored == [20]
    assert "kept 15 of 24 images (62.5%) and 5 of 6 identities" in capsys.readouterr().out
    expected = [f"p{person}/{i}.jpg" for person in range(5) for i in range(3)]
    assert read_include_list(out / "kept.txt") == expected
    assert (out / "scores.csv").read_text().count("\n") == 25
    counts = json.loads((out / "counts.json").read_text())
    assert counts["pictures_kept"] == 15 and counts["pictures_kept_of_an_identity_median"] == 3
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in ("histogram.png", "sheet.png"))
    least = float(np.load(out / "scores.npy").min()) / 2  # how near to 0 it lies depends on the rounding of a training
    main([*arguments, f"--threshold={least}"])  # nothing is scored anew
    assert scored == [20] and "kept 24 of 24" in capsys.readouterr().out
    monkeypatch.setattr(purify, "restore", lambda *arguments, **best: moved(restore(*arguments, **best)))
    assert "holds the scores of another set or classifier" in refusal(main, *arguments)


def moved(state):
    """Another training's state at the same step."""
    return state.replace(params=jax.tree.map(lambda leaf: leaf + 1e-3, state.params))


def test_purify_never_keeps_a_picture_that_cannot_be_decoded(classifier, faces, tmp_path, capsys):
    (faces / "p0").rename(faces / "p0, once p1")
    for name in ("p0, once p1/1.jpg", "p2/0.jpg"):
        (faces / name).write_bytes((faces / name).read_bytes()[:300])
    arguments = ["purify", str(faces), f"--classifier={classifier}", f"--out={tmp_path / 'out'}", "--threshold=1e-30"]
    for _ in range(2):  # the second time from the scores that are there
        main(arguments)
        said = capsys.readouterr().out
        assert "kept 22 of 24 images" in said and "2 cannot be decoded and are not kept: " in said
        assert len(read_include_list(tmp_path / "out" / "kept.txt")) == 22
    rows = list(csv.reader((tmp_path / "out" / "scores.csv").open()))
    assert {len(row) for row in rows} == {2} and ["p0, once p1/1.jpg", "nan"] in rows
    counts = json.loads((tmp_path / "out" / "counts.json").read_text())
    assert counts["pictures_broken"] == 2 and 0 < counts["mean_probability"] < 1
    assert (np.load(tmp_path / "out" / "scores.npy") == purify.BROKEN).sum() == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--threshold=1"], "threshold 1.0 must lie between 0 and 1"),
        (["--classifier=nowhere"], "nowhere holds no classifier; train configs/frontal.py"),
        (["--out={other}"], "holds the scores of another set or classifier"),
        (["--classifier={faces}/p0"], "holds no classifier"),
    ],
)
def test_mistakes_of_purify_are_one_line(classifier, faces, tmp_path, changes, words, refusal):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "scores.json").write_text("{}")
    changes = [change.format(other=tmp_path / "other", faces=faces) for change in changes]
    assert words in refusal(main, "purify", faces, f"--classifier={classifier}", f"--out={tmp_path / 'out'}", *changes)


def test_a_run_of_another_task_is_no_classifier(tmp_path, faces, refusal):
    (tmp_path / "config.json").write_text(ConfigDict({"task": "face"}).to_json())
    assert "is a run of the task 'face'" in refusal(
        main, "purify", faces, f"--classifier={tmp_path}", f"--out={tmp_path / 'out'}"
    )
