"""Files that a command finds where the user told it to write are kept, or overwritten with a note."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict
from PIL import Image

from tvconv_jax.data.formats.recordio import RecordWriter
from tvconv_jax.data.synthetic import preview
from tvconv_jax.edge import benchmark
from tvconv_jax.experiments import sweep_file
from tvconv_jax.report import plot_style
from tvconv_jax.tasks import purify, saved_config
from tvconv_jax.utils.errors import UserError


@pytest.fixture
def own(tmp_path):
    """Makes a file of the user's own."""

    def make(name):
        (tmp_path / name).write_text("the user's own")
        return tmp_path / name

    yield make
    assert {path.read_text() for path in tmp_path.iterdir() if path.is_file()} <= {"the user's own"}


@pytest.mark.parametrize("name", saved_config.WRITTEN)
def test_a_workdir_with_files_of_no_run_is_refused(own, name):
    folder = own(name).parent
    with pytest.raises(UserError, match=f"holds {name}, which would be overwritten.*choose another --workdir"):
        saved_config.check_workdir(ConfigDict({}), folder)


@pytest.mark.parametrize("name", purify.WRITTEN)
def test_a_folder_with_files_of_no_purification_is_refused(own, name):
    folder = own(name).parent
    with pytest.raises(UserError, match=f"holds {name}, which would be overwritten.*choose another --out"):
        purify.purify("nowhere", folder, folder)


@pytest.mark.parametrize("name", ["report.html", "notes.txt"])
def test_a_folder_with_files_of_no_sweep_is_refused(own, name):
    settings = [SimpleNamespace(folder="tvconv")]
    with pytest.raises(UserError, match=f"holds {name}, which is not of this sweep"):
        sweep_file.check_folder(own(name).parent, SimpleNamespace(settings=settings))


@pytest.mark.parametrize("name", ["train.rec", "train.idx"])
def test_a_record_file_and_its_index_are_not_written_over(own, name):
    folder = own(name).parent
    with pytest.raises(UserError, match=f"{name} exists and is not written over"):
        RecordWriter(folder / "train.rec")
    assert [path.name for path in folder.iterdir()] == [name]


def _preview(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "draw_sheet", lambda: Image.new("RGB", (2, 2)))
    monkeypatch.setattr("sys.argv", ["preview", f"--out={path}"])
    preview.main()


def _figure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = SimpleNamespace(savefig=lambda file, dpi: None)
    plot_style.save(figure, path.parent, path.stem)


def _json(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark.check_json(path)


@pytest.mark.parametrize("write", [_preview, _figure, _json])
def test_a_file_that_is_written_over_is_said(write, tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.png"
    write(path, monkeypatch)
    assert not capsys.readouterr().err
    path.touch()
    write(path, monkeypatch)
    assert capsys.readouterr().err.startswith(f"note: {path} ")
