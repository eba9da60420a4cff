"""The segmentation job on the drawn set: it learns, says how it was measured, selects as told; Table 2 over folds."""

import csv
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict
from PIL import Image
from test_main import ROOT, Watched, leaves

from tvconv_jax.data.normalization import normalize
from tvconv_jax.experiments import table2
from tvconv_jax.tasks import segmentation
from tvconv_jax.tasks.configs import odoc_config
from tvconv_jax.tasks.evaluation import Predicted, measure, outlined, summary
from tvconv_jax.tasks.run import restore
from tvconv_jax.tasks.trained import load
from tvconv_jax.utils.errors import Interrupted, TrainingError, UserError

# What the trained model's disc has to be better than the same mask for every picture: 0.1 to 0.15, up to rounding.
MARGIN = 0.05


def small(arguments="test_domain=1"):
    config = odoc_config(f"smoke,epochs=20,image_size=48,{arguments}")
    config.train.eval_every, config.train.log_every, config.train.checkpoint_every = 20.0, 30, 100
    config.eval.visualize = "Domain1/002.png"
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config, read = small(), {"task"}
    workdir = tmp_path_factory.mktemp("runs") / "tvconv" / "domain1" / "seed0"
    with jax.numpy_dtype_promotion("standard"):  # optax compares a step number with a float
        segmentation.train(Watched(config, read), workdir)
    assert set(leaves(config)) <= read, set(leaves(config)) - read
    return workdir


def test_it_beats_the_same_mask_for_every_picture(trained):
    results = json.loads((trained / "results.json").read_text())
    assert results["disc"]["dice"] > results["constant_mask_dice"]["disc"] + MARGIN, results
    # A cup is a few pixels wide at 48x48, 60 steps are few: how good it is, is up to rounding; at first there is none.
    assert results["cup"]["dice"] > 0.2, results
    assert results["selection"] == "the last step" and results["backbone"] == "from scratch"
    assert results["pictures"] == 4 and results["step"] == 60
    assert results["cup"]["empty"] <= 1  # whether one of four small cups stays below the threshold is up to rounding
    assert "medpy" in results["definitions"]["hd95"] and results["definitions"]["empty"] == "100"
    assert results["complexity"]["macs"] > 1e8


def test_the_report_shows_the_drawn_pictures(trained):
    report = (trained / "report.html").read_text()
    assert "Dice of the cup" in report and report.count("data:image/jpeg") == 1 and "affinity maps" in report


def test_scores_of_every_picture_and_outlines_are_left(trained):
    results = json.loads((trained / "results.json").read_text())
    with (trained / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"Domain1/{i:03d}.png" for i in range(4)]
    assert np.isclose(np.mean([float(row["cup_dice"]) for row in rows]), results["cup"]["dice"], atol=1e-5)
    with Image.open(trained / "pictures.png") as picture:
        assert picture.size[0] > 4 * 224
        # Three rows: the one asked for, the worst, and as many others as are left: none of four.
        assert picture.size[1] > 2 * 224


def test_exports_are_compared_on_the_dice_of_every_image(trained):
    """The scores by which ``--rank=auto`` judges, of the trained model itself."""
    run = load(trained)
    apply = jax.jit(lambda images: run.model.apply(run.variables, normalize(images), train=False))
    found = run.comparison.scores(apply)
    with (trained / "scores.csv").open() as file:
        expected = [(float(row["cup_dice"]) + float(row["disc_dice"])) / 2 for row in csv.DictReader(file)]
    np.testing.assert_allclose(found, expected, atol=0.01)  # a pixel at the threshold is up to rounding
    assert (run.comparison.items, run.comparison.measure) == ("images", "Dice")
    np.testing.assert_array_equal(run.comparison.weights, 1 / 4)


def test_eval_mode_measures_the_last_checkpoint_again(trained, capsys):
    segmentation.evaluate(small(), trained)
    results = json.loads((trained / "results.json").read_text())
    printed = capsys.readouterr().out
    assert "Domain 1, checkpoint of step 60 (4 images; HD95 pooled, an empty mask counts 100)" in printed
    assert f"{results['disc']['dice'] * 100:.2f}" in printed and f"{results['cup']['hd95']:.2f}" in printed


def test_selections_look_where_they_say(trained):
    """Held out: the test pictures of the training domains. Reference: the test domain, said in the results."""
    jobs = {select: segmentation.SegmentationJob(small(f"test_domain=1,checkpoint={select}")) for select in
            ("last", "held_out", "reference")}  # fmt: skip
    watched = {select: job.part.watched_domains() for select, job in jobs.items()}
    assert watched == {"last": [2, 3, 4], "held_out": [2, 3, 4], "reference": [1]}
    assert "flatters" in segmentation.SELECTIONS["reference"]
    job = jobs["held_out"]
    best = restore(job, trained, best=job.results_of_best)  # from the run's best checkpoint
    assert int(best.step) == 60
    assert 1 not in job.part.train_sources and job.batch_size == 12


def picture(pred_size, name="x"):
    true, pred = np.zeros((8, 8, 2), bool), np.zeros((8, 8, 2), bool)
    true[2:6, 2:6] = True
    pred[2 : 2 + pred_size, 2:6] = True
    return Predicted(name, np.zeros((8, 8, 3), np.uint8), true, pred)


@pytest.mark.parametrize(("empty", "mean"), [("100", 50.0), ("nan", 0.0), ("diagonal", np.hypot(8, 8) / 2)])
def test_empty_predictions_are_counted_and_weighed_as_named(empty, mean):
    config = ConfigDict({"hd95": "pooled", "empty": empty})
    result = summary([measure(picture(4), config), measure(picture(0), config)])
    assert result["cup"]["empty"] == 1
    assert np.isclose(result["cup"]["hd95"], mean)
    only = summary([measure(picture(0), config)])
    assert (only["cup"]["hd95"] is None) == (empty == "nan")


def test_outlines_lie_on_the_masks_borders():
    pixels = np.asarray(outlined(picture(4)))
    inside, border = pixels[100, 100], pixels[57:60, 110]  # 224 pixels for 8: the masks begin at 56
    assert inside.tolist() == [0, 0, 0] and np.any(border != 0)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("eval.checkpoint", "best", "eval.checkpoint 'best' is unknown; there are: last, held_out, reference."),
        ("eval.hd95", "max", "there are: pooled, directed."),
        ("eval.empty", "0", "there are: 100, nan, diagonal."),
        ("data.test_domain", 5, "data.test_domain 5 is unknown; there are: 1, 2, 3, 4."),
        ("data.sampling", "x", "there are: shuffled, replacement."),
        ("data.source", "x", "there are: embedded, folder."),
        ("model.num_classes", 3, "model.num_classes 3 is unknown; there are: 2."),
        ("model.output_stride", 4, "config.model: output_stride 4 is unknown"),
        ("model.pretrained", "nowhere.pth", "nowhere.pth does not exist"),
        ("data.per_domain", 0, "must be a positive multiple"),
        ("train.grad_accum_steps", 3, "train.grad_accum_steps 3 would give every part one domain alone"),
        ("eval.visualize", "Domain1/9.png", "eval.visualize 'Domain1/9.png' is unknown; there are: Domain1/000.png"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(key, value, words):
    config = small()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as error:
        segmentation.SegmentationJob(config)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def settings(tmp_path):
    """Flags of the command as a user would give them, set back afterwards."""
    before = {name: flags.FLAGS[name].value for name in ("config", "out", "operators", "domains", "seeds")}

    def give(**values):
        for name, value in values.items():
            flags.FLAGS[name].value = value

    give(out=tmp_path / "out")
    yield give
    give(**before)


def test_table_2_skips_what_is_done_goes_on_after_a_failure_and_prints_means(
    trained, settings, tmp_path, monkeypatch, capsys
):
    """One fold was trained above, one fails, the others answer figures whose means are known."""
    done = json.loads((trained / "results.json").read_text())
    shutil.copytree(trained.parent.parent, tmp_path / "out" / "tvconv")
    ran = []

    def train(config, workdir):
        fold = config.model.operator, config.data.test_domain, config.seed
        ran.append(fold)
        if fold == ("depthwise", 2, 0):
            raise TrainingError("the loss of step 3 is nan")
        if fold == ("depthwise", 1, 1):
            raise RuntimeError("RESOURCE_EXHAUSTED:\n  out of memory")
        result = {**done, "cup": {**done["cup"], "dice": 0.5 + 0.1 * config.seed}}
        workdir.mkdir(parents=True)
        (workdir / "config.json").write_text(config.to_json())
        (workdir / "results.json").write_text(json.dumps(result))

    monkeypatch.setattr(segmentation, "train", train)
    settings(config=small(), operators=["depthwise", "tvconv"], domains=["1", "2"], seeds=["0", "1"])
    with pytest.raises(TrainingError, match="2 of 8 runs failed; the same command tries them again"):
        table2.main([])
    assert len(ran) == 7 and ("tvconv", 1, 0) not in ran
    printed = capsys.readouterr().out
    assert "failed: depthwise, domain 2, seed 0: the loss of step 3 is nan" in printed
    assert "failed: depthwise, domain 1, seed 1: RuntimeError: RESOURCE_EXHAUSTED: out of memory\n" in printed
    assert "55.00 ± 5.00" in printed and "(constant mask)" in printed
    assert len(json.loads((tmp_path / "out" / "table2.json").read_text())) == 6
    ran.clear()
    with pytest.raises(TrainingError):
        table2.main([])
    assert ran == [("depthwise", 2, 0), ("depthwise", 1, 1)]
    ran.clear()
    (tmp_path / "out/tvconv/domain1/seed1/results.json").write_text('{"cup": 1}')
    with pytest.raises(UserError, match="results.json holds no results of disc and cup; remove it, and the fold is"):
        table2.main([])
    assert not ran


def test_table_2_asked_to_stop_goes_to_no_other_fold(settings, monkeypatch):
    ran = []

    def train(config, workdir):
        ran.append(workdir)
        raise Interrupted("stopped after step 3", code=75)

    monkeypatch.setattr(segmentation, "train", train)
    settings(config=small(), operators=["depthwise", "tvconv"], domains=["1"], seeds=["0"])
    with pytest.raises(Interrupted):
        table2.main([])
    assert len(ran) == 1


def test_table_2_leaves_out_what_has_no_hd95(capsys):
    """With ``eval.empty=nan`` a run whose predictions are all empty has none."""

    def result(cup):
        about = {"data": "embedded", "backbone": "", "selection": "", "definitions": {"hd95": ""}}
        scores = {"cup": {"dice": 0.5, "hd95": cup}, "disc": {"dice": 0.5, "hd95": 3.0}}
        return about | scores | {"constant_mask_dice": {"cup": 0.4, "disc": 0.4}}

    runs = {("tvconv", 0): None, ("tvconv", 1): None, ("depthwise", 0): None, ("depthwise", 1): 2.0}
    table2.show({table2.Fold(name, 1, seed): result(hd95) for (name, seed), hd95 in runs.items()})
    rows = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    cells = {tuple(row[1:3]): row[3:5] for row in rows if len(row) > 4}
    assert cells["cup hd95", "tvconv"] == ["-", "-"] and cells["cup hd95", "depthwise"] == ["2.00", "2.00"]
    assert cells["disc hd95", "tvconv"] == ["3.00 ± 0.00"] * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--operators=conv"], "--operators: 'conv' is unknown; there are: baseline, tvconv, depthwise,"),
        (["--domains=7"], "--domains: 7 is unknown; there are: 1, 2, 3, 4."),
        (["--seeds=a"], "--seeds=a must be integers"),
        (["--config=configs/face_mb01.py"], "--config is of task 'face'"),
    ],
)
def test_mistakes_of_the_command_are_one_line(arguments, words, tmp_path):
    config = [] if arguments[0].startswith("--config") else ["--config=configs/odoc.py"]
    command = [sys.executable, "-m", "tvconv_jax.experiments.table2", f"--out={tmp_path / 'out'}", *config, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and words in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
