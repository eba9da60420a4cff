"""Files that are written whole or not at all, by several at once, and locks that one holds at a time."""

import json
import math
import os
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tvconv_jax.data.formats.recordio import RecordFile, RecordWriter
from tvconv_jax.data.records import one_writer
from tvconv_jax.report.plots import read_metrics
from tvconv_jax.training.logging import MetricsLog, last_loss
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import is_left_over, replacing, user_path, write_bytes, write_json, write_text

SIZE = 200_000


def _write_on(path, letter, until, failed):
    try:
        while time.monotonic() < until:
            write_bytes(path, letter * SIZE, durable=False)
    except Exception as error:
        failed.append(error)


def test_two_writers_of_one_file_never_fail_and_no_reader_sees_half_of_it(tmp_path):
    path, until = tmp_path / "report.html", time.monotonic() + 0.7
    write_bytes(path, b"a" * SIZE)
    failed = []
    writers = [threading.Thread(target=_write_on, args=(path, letter, until, failed)) for letter in (b"b", b"c", b"d")]
    for one in writers:
        one.start()
    while time.monotonic() < until:
        content = path.read_bytes()
        assert len(content) == SIZE and content == content[:1] * SIZE
    for one in writers:
        one.join()
    assert not failed
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


def test_a_new_file_has_the_permissions_of_any_and_links_are_followed(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    (tmp_path / "link").symlink_to("a")
    write_text(tmp_path / "link", "2")
    assert (tmp_path / "a").read_text() == "2" and (tmp_path / "link").is_symlink()
    write_text(tmp_path / ("n" * 255), "3")
    write_text(Path("/dev/null"), "4")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "No space left on device")])
def test_whatever_stops_a_writer_the_old_file_stays_and_nothing_else(tmp_path, error):
    write_text(tmp_path / "a.json", "old")
    with pytest.raises(BaseException), replacing(tmp_path / "a.json") as part:  # noqa: B017, PT011
        part.write_text("ne")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "old"


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        write_text(tmp_path / "no" / "a.json", "1")
    assert raised.value.filename == str(tmp_path / "no" / "a.json")


def test_what_a_killed_writer_left_is_known_by_its_name(tmp_path):
    with replacing(tmp_path / "sweep.json") as part:
        assert is_left_over(part.name)
    assert not any(map(is_left_over, ("sweep.json", "sweep.json.part", ".a.part", ".lock")))


@pytest.mark.parametrize("text", ["gs://bucket/run", "s3://b", "file:///tmp/a", "hdfs://x"])
def test_a_url_is_not_a_path(text):
    with pytest.raises(UserError, match="is a URL .*give a path on this machine"):
        user_path(text)
    assert user_path("a:b//c") == Path("a:b/c")


def test_of_three_that_want_to_write_one_does_whenever_they_come(tmp_path):
    path, inside, most, lock = tmp_path / "cache" / "records", [], [], threading.Lock()
    first_in, first_out = threading.Event(), threading.Event()

    def enter(name, begun=None, leave=None):
        with one_writer(path):
            with lock:
                inside.append(name)
                most.append(len(inside))
            if begun:
                begun.set()
                leave.wait()
            time.sleep(0.05)
            inside.remove(name)

    first = threading.Thread(target=enter, args=("first", first_in, first_out))
    first.start()
    first_in.wait()
    second = threading.Thread(target=enter, args=("second",))  # waits for the file that the first one removes
    second.start()
    while not _waits(path):
        time.sleep(0.005)
    first_out.set()
    first.join()
    others = [threading.Thread(target=enter, args=(str(number),)) for number in range(3)]
    for one in others:
        one.start()
    for one in (second, *others):
        one.join()
    assert most == [1] * 5
    assert not list(path.parent.iterdir())


def _waits(path):
    """Whether a second thread has opened the lock file."""
    opened = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_link(number)]
    return opened.count(str(path.with_name(f".{path.name}.lock"))) == 2


def _is_link(number):
    return os.path.islink(f"/proc/self/fd/{number}")


def test_a_record_file_has_one_writer(tmp_path):
    with RecordWriter(tmp_path / "a.rec", resume=9) as first:
        first.write(0, b"first")
        with pytest.raises(UserError, match="a.rec.part is being written by another process; wait for it"):
            RecordWriter(tmp_path / "a.rec", resume=9)
    assert RecordFile(tmp_path / "a.rec").read(0) == b"first"
    with pytest.raises(UserError, match="exists and is not written over"):
        RecordWriter(tmp_path / "a.rec")


def test_json_has_no_numbers_that_other_programs_cannot_read(tmp_path):
    value = {"a": math.nan, "b": [1.5, math.inf], "c": (np.float64("nan"), {"d": -math.inf}), "e": None, "f": 2}
    write_json(tmp_path / "results.json", value)
    text = (tmp_path / "results.json").read_text()
    read = json.loads(text, parse_constant=pytest.fail)
    assert read == {"a": None, "b": [1.5, None], "c": [None, {"d": None}], "e": None, "f": 2}
    log = MetricsLog(tmp_path, 0)
    log.write(1, loss=math.nan, accuracy=0.5)
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"step": 1, "loss": null, "accuracy": 0.5}']
    assert read_metrics(lines) == [{"step": 1, "accuracy": 0.5}]
    with pytest.raises(ValueError, match="not an object"):
        read_metrics(["[1]"])


def test_the_last_loss_is_the_mean_of_the_last_hundred_steps(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step, loss in ((10, 9.0), (110, 8.0), (120, math.nan), (200, 4.0), (210, 2.0), (210, 2.0)):
        log.write(step, loss=loss)
    log.write(210, score=0.5)
    log.close()
    assert last_loss(tmp_path) == 3.0  # of steps 200 and 210
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "score": 1}\n[1]\n{"step"')
    assert last_loss(tmp_path) is None


def test_lines_of_a_log_that_mean_nothing_are_dropped_when_a_run_goes_on(tmp_path):
    whole = b'{"step": 1, "loss": 2.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(
        whole + b'null\n3\n{"loss": 1.0}\n\xff\n{"step": "1"}\n\0\0\n{"step": 2, "l'
    )
    MetricsLog(tmp_path, 1).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
