"""Reports: their figures by hand, nothing from outside becomes markup, no picture of a person, seen in a browser."""

import html
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import check_pages
from folders import encoded
from ml_collections import ConfigDict

from tvconv_jax.data.formats.pairs import Pairs
from tvconv_jax.metrics.roc import accepted_at, roc
from tvconv_jax.metrics.verification import true_accept_rate
from tvconv_jax.report import __main__ as command
from tvconv_jax.report.face import worst
from tvconv_jax.report.html import Html, map_strip, table, tag
from tvconv_jax.report.plots import Labels, Point, Series, line_chart, scatter, thinned, tick_text
from tvconv_jax.report.run import cost_figures, rerun, write_report
from tvconv_jax.report.sweep import Cells, Entry, write_sweep_report
from tvconv_jax.tasks import report_data
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.configs.base import complete
from tvconv_jax.tasks.report_data import ReportData

EVIL = "<script>alert('\"&')</script>"


class Faces:
    """Images whose names contain markup; ``shown`` counts how often one was read."""

    def __init__(self, count):
        self.count, self.shown = count, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.shown += 1
        image = encoded(np.full((24, 24, 3), 3 * index, np.uint8), "JPEG")
        return {"image": image, "label": 0, "name": self.name(index)}

    def name(self, index):
        return f"{EVIL}/{index}.jpg"


def faces_run(workdir, source="folder", **changes):
    """The files of a face run that ended, and the data that it read."""
    config = face_config("data=folder" if source == "folder" else "smoke", model="mobilenetv2", width=0.1)
    config.eval.report_images = changes.get("report_images", False)
    config.data.update({"root": EVIL} if source == "folder" else {})
    random, names = np.random.default_rng(0), (EVIL, "pose")
    same = {name: np.arange(40) % 2 == 0 for name in names}
    cosines = {name: np.clip(random.normal(0.2 + 0.4 * same[name], 0.2), -1, 1) for name in names}
    affinity = {"block_1/conv": random.normal(1, 0.1, (12, 12, 4)), "block_2/conv": random.normal(1, 0.1, (3, 3, 8))}
    found = ReportData(np.array([[0, 0.1], [50, 0.01]]), affinity, cosines, same)
    verification = {n: {"accuracy": 0.8, "std": 0.1, "threshold": 0.4, "tar": 0.25} for n in names}
    results = {
        "step": 60,
        "data": f"folder {EVIL} (3 identities, 9 pictures)",
        "protocol": "standard",
        "mean_accuracy": 0.8125,
        "verification": verification,
        "complexity": {"macs": 5_816_320, "params": 1_336_344, "train_params": 9_904_920},
        "images_per_second": 325.7,
        "device": "1 x cpu (2 cores)",
        "command": f"python -m tvconv_jax.main --workdir='{EVIL}'",
        "versions": {"jax": "0.10.2"},
    }
    workdir.mkdir(parents=True)
    (workdir / "results.json").write_text(json.dumps(results))
    (workdir / "config.json").write_text(config.to_json())
    lines = [{"step": 10 * i, "loss": 20 / i, "accuracy": 0.1, "images_per_second": 300.0} for i in range(1, 7)]
    lines += [{"step": step, "pose": 0.7, EVIL: 0.8, "score": 0.75} for step in (30, 60)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    numbers = np.arange(40, dtype=np.int32)
    pairs = Pairs(2 * numbers, 2 * numbers + 1, same["pose"], numbers // 4)
    sources = {name: (Faces(80), pairs) for name in names}
    return config, found, sources


def written(workdir, config, found, sets):
    write_report(workdir, config, found, sets)
    return (workdir / "report.html").read_text()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """A run on real faces, one on drawn ones, and a sweep with a run that failed."""
    base = tmp_path_factory.mktemp("reports")
    real = written(base / "real", *faces_run(base / "real"))
    drawn = written(base / "tvconv" / "seed0", *faces_run(base / "tvconv" / "seed0", "embedded"))
    results = json.loads((base / "real" / "results.json").read_text())
    better = {**results, "mean_accuracy": 0.8325}
    entries = [
        Entry("tvconv", 0, base / "tvconv" / "seed0", results),
        Entry("tvconv", 1, base / "tvconv" / "seed1", better),
        Entry(f"a {EVIL}", 0, base / "a" / "seed0", None, f"exit code 1: {EVIL}"),
        Entry("other", 0, base / "other" / "seed0", {**better, "complexity": {**better["complexity"], "macs": 8e6}}),
    ]
    rows = {entry.setting: ["3.00", "81.25 ± 1.00"] if entry.results else ["", ""] for entry in entries}
    cells = Cells([f"MACs {EVIL}", "mean accuracy %"], rows)
    write_sweep_report(base, f"Table {EVIL}", f"A note {EVIL}.", entries, cells)
    return {"real": real, "drawn": drawn, "sweep": (base / "report.html").read_text()}


def test_the_curve_of_five_pairs_by_hand():
    """Scores fall: same, same, different, same, different."""
    curve = roc(np.array([0.6, 0.9, 0.4, 0.8, 0.7]), np.array([True, True, False, True, False]))
    np.testing.assert_array_equal(curve.false_accept, [0, 0, 0, 1 / 2, 1 / 2, 1])
    np.testing.assert_array_equal(curve.true_accept, [0, 1 / 3, 2 / 3, 2 / 3, 1, 1])
    assert curve.area == pytest.approx(5 / 6)  # of six comparisons one, 0.6 with 0.7, is wrong
    assert curve.equal_error == pytest.approx(1 / 3)  # a third accepted wrongly, a third refused
    assert accepted_at(curve, [0, 0.4, 0.5, 1]).tolist() == [2 / 3, 2 / 3, 1, 1]


def test_a_run_whose_speed_nobody_knows_shows_none():
    assert [figure.label for figure in cost_figures({"images_per_second": None}, [])] == ["training steps"]


def test_ties_are_half_right_and_one_kind_is_refused():
    curve = roc(np.array([0.5, 0.5, 0.5, 0.5]), np.array([True, False, True, False]))
    assert curve.area == curve.equal_error == 0.5 and len(curve.true_accept) == 2
    with pytest.raises(ValueError, match="both kinds of pairs must be there"):
        roc(np.array([0.5, 0.6]), np.array([True, True]))
    for curve_of in (roc, true_accept_rate):
        with pytest.raises(ValueError, match="same is int64; it must be bool"):
            curve_of(np.array([0.9, 0.1, 0.8]), np.array([1, 0, 1]))


@pytest.mark.parametrize("digits", [1, 2, 8])
def test_the_curve_agrees_with_the_rate_that_results_hold(digits):
    """With few digits there are many ties; 3000 pairs of different people allow three to be accepted."""
    random = np.random.default_rng(digits)
    same = np.repeat([True, False], [500, 3000])
    scores = np.round(random.normal(same * 2.0, 1.0), digits)
    assert accepted_at(roc(scores, same), 1e-3) == true_accept_rate(scores, same)


def test_the_worst_pairs_are_those_furthest_on_the_wrong_side():
    same = np.array([True, False, True, False, True])
    assert worst(np.array([0.9, 0.8, 0.1, 0.2, 0.3]), same, 2) == ([2, 4], [1, 3])


def chart(line, **options):
    """A chart's element, its curves, and its text."""
    svg = re.search("<svg.*</svg>", line_chart([line], Labels("title", "x", "y"), **options), re.DOTALL)[0]
    root = ElementTree.fromstring(svg)
    curves = [path.get("d") for path in root.findall(".//*[@class='series']/*") if path.get("d")]
    return root, curves, [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_charts_scale_and_hold_their_ticks():
    line = Series("", range(100), [0.0] + [10.0] * 99)
    root, curves, texts = chart(line, x=(0, 99))
    assert root.keys() == ["viewBox", "role", "aria-label"] and root.get("aria-label") == "title: y over x"
    assert {"0", "10", "20", "80"} <= set(texts) and len(curves) == 1
    assert chart(line, x=(0, 99))[1] == curves
    _, _, texts = chart(Series("", [0, 1], [np.float32(0.1), 3e-4]), log_y=True)
    assert {"0.0001", "0.001", "0.01", "0.1"} <= set(texts)
    assert [tick_text(v) for v in (0, 0.25, 1e-5, 12345.0, 2e6)] == ["0", "0.25", "1e-5", "12,345", "2e6"]
    long = thinned(Series("", list(range(1000)), [2.0] * 1000))
    assert len(long.x) == 200 and long.x[0] == 2.0 and set(long.y) == {2.0}  # means of five


@pytest.mark.parametrize("y", [[1.0, np.nan, 3.0], [np.inf, 1.0, 2.0], [np.nan] * 3, [1e308, -1e308, 0.0], [0.0] * 3])
def test_charts_take_any_numbers(y):
    for options in ({}, {"log_y": True}, {"stairs": True}):
        assert "nan" not in str(chart(Series("", [0, 1, 2], y), **options)[1:])


def test_lines_differ_in_dashes_and_colors_follow_the_page():
    svg = line_chart([Series(str(i), [0, 1], [i, 1]) for i in range(6)], Labels("t", "x", "y"))
    dashes = re.findall(r'<line style="stroke: ([^;]*); stroke-width: 2; stroke-dasharray: ([^"]*)"', svg)
    assert len(set(dashes)) == len({dash for _, dash in dashes}) == 6 and dashes[0] == ("currentColor", "none")
    assert "var(--s5)" in svg and not re.search("#[0-9a-f]{6}", svg)


def test_whatever_is_no_markup_is_escaped():
    assert tag("p", "<b>", Html("<i></i>"), title='"') == '<p title="&quot;">&lt;b&gt;<i></i></p>'
    labels = Labels(EVIL, EVIL, EVIL, EVIL)
    line, point = Series(EVIL, [0, 1], [0, 1]), Point(EVIL, 1, 1, 0.5)
    for made in (
        table(EVIL, [EVIL], [[EVIL]]),
        line_chart([line, line], labels, x=(0, 1)),
        scatter([point], labels),
    ):
        assert "<script" not in made and "&lt;script&gt;" in made


def test_maps_are_gray_over_all_of_a_layer():
    maps = np.stack([np.full((2, 2), 1.0), np.full((2, 2), 3.0), np.full((2, 2), 2.0)], axis=-1)
    pixels = np.asarray(map_strip(maps, size=4, columns=2))
    assert pixels.shape == (11, 11, 2)  # two by two maps of four pixels, three between them
    assert pixels[0, 0, 0] == 0 and pixels[0, 10, 0] == 255 and pixels[10, 0, 0] == 128
    assert pixels[10, 10, 1] == 0  # no fourth map: nothing is drawn


def test_a_run_on_real_faces_shows_names_and_no_picture(tmp_path):
    config, found, data = faces_run(tmp_path / "run")
    page = written(tmp_path / "run", config, found, data)
    assert all(source.shown == 0 for source, _ in data.values())  # none was even opened
    assert page.count("data:image/") == 2 and "image/jpeg" not in page  # the affinity maps of two layers
    assert f"{html.escape(EVIL)}/0.jpg" in page and "eval.report_images=True" in page
    config.eval.report_images = True
    page = written(tmp_path / "run", config, found, data)
    assert page.count("data:image/jpeg") == 24  # six of each kind in two sets


def test_nothing_from_outside_becomes_markup(reports):
    for page in reports.values():
        assert "<script" not in page and html.escape(EVIL) in page
        assert not re.search(r"(?:src|href)=\"(?!#|data:|tvconv/)", page)  # only to the sweep's own runs
        assert "default-src 'none'" in html.unescape(page)


def test_a_report_says_what_a_reader_asks(reports):
    page = re.sub(r"<[^>]+>", " ", reports["drawn"])
    for words in (
        "mobilenetv2 x0.1 with tvconv was trained from seed 0 for 2 epochs on images of 24x24",
        "The mean verification accuracy is 81.25 %, on 80 image pairs in 2 sets.",
        "80.00 ± 10.00",  # a set's accuracy
        "ROC curves",
        "The same identity, least alike",
        "Learning rate",
        "block_2  12x12"[:7],
        "5,816,320",
        "5.35 MB as float32",  # 1,336,344 times four bytes
        "optimizer.learning_rate",
        "0.10.2",
        "python -m tvconv_jax.report",
    ):
        assert words in page, words
    assert reports["drawn"].count("data:image/jpeg") == 24


def test_a_sweep_compares_its_runs_and_shows_what_failed(reports):
    page = reports["sweep"]
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "setting seeds mean accuracy % MACs" in text  # accuracy first, for a phone
    assert "tvconv 0 , 1 81.25 ± 1.00 3.00" in text and "best mean accuracy: other 83.25 %" in text
    assert '<a href="tvconv/seed0/report.html" aria-label="report of seed 0">0</a>' in page
    assert "0 not ended" in text and f"exit code 1: {html.escape(EVIL)}" in page and "3 of 4 runs ended" in page


def test_evidence_comes_back_as_it_was_kept(tmp_path):
    _, found, _ = faces_run(tmp_path / "run")
    report_data.save(tmp_path / "run", found)
    again = report_data.load(tmp_path / "run")
    for ours, theirs in zip(again, found, strict=True):
        ours, theirs = ({"": x} if isinstance(x, np.ndarray) else x for x in (ours, theirs))
        assert list(ours) == list(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert report_data.load(tmp_path) is None


def test_a_report_is_made_again_where_the_data_is_gone(tmp_path, capsys):
    workdir = tmp_path / "run"
    config, found, data = faces_run(workdir)
    page = written(workdir, config, found, data)
    report_data.save(workdir, found)
    command.main([str(workdir), "--images"])
    again = (workdir / "report.html").read_text()
    assert f"wrote {workdir / 'report.html'}" in capsys.readouterr().out
    assert "The data of this run was not available" in again and "image/jpeg" not in again
    rest = [re.sub('<section id="worst".*?</section>', "", text) for text in (again, page)]
    key = 'report_images</th><td class="words"><code>'
    assert rest[0].replace(f"{key}True", f"{key}False") == rest[1]


def test_a_set_that_has_gone_or_changed_is_named_and_the_others_are_shown(tmp_path):
    config, found, data = faces_run(tmp_path / "run", report_images=True)
    source, pairs = data.pop(EVIL)
    page = written(tmp_path / "run", config, found, data)
    assert "the measured pairs were not available" in page and page.count("data:image/jpeg") == 12
    data[EVIL] = source, pairs._replace(same=~pairs.same)
    assert written(tmp_path / "run", config, found, data) == page


def test_commands_are_those_that_there_are(tmp_path):
    """Table 2 trains many runs: it has no ``--workdir`` and no ``--mode``. A path may hold spaces."""
    for given, own in (("main --workdir=a", True), ("experiments.table2 --out=a", False)):
        text = rerun({"command": f"python -m tvconv_jax.{given}"}, tmp_path / "my run")
        assert (f"{given} --mode=eval" in text) == ("give another" in text) == own
        assert html.escape(f"python -m tvconv_jax.report '{tmp_path}/my run'") in text


def test_an_older_run_asks_for_no_pictures():
    assert complete({"task": "face", "eval": {"batch_size": 2}})["eval"] == {"report_images": False, "batch_size": 2}
    assert "eval" not in complete({"task": "frontal"})


def test_mistakes_are_one_line(tmp_path, refusal):
    def error():
        return refusal(command.main, tmp_path)

    assert "holds no run (config.json); name a workdir" in error()
    (tmp_path / "config.json").write_text(ConfigDict({"task": "face", "eval": {}}).to_json())
    assert "holds no results.json: the run has not ended" in error()
    (tmp_path / "results.json").write_text('{"step": ')
    assert "results.json is damaged; remove it" in error()
    (tmp_path / "results.json").write_text("{}")
    assert "metrics.jsonl is missing; the command" in error()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "report.npz").write_text("none")
    assert "report.npz is damaged; remove it" in error()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_finds_nothing_wrong(reports, dark):
    found = check_pages(list(reports.values()), dark=dark)
    assert [one["images"] for one in found] == [2, 26, 0] and found[0]["drawings"] == 6
