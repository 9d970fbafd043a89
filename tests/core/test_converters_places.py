"""Where the files of a folder's tables lie: through links, above, elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiomdb.converters.files import FolderConverter
from audiomdb.errors import UnreadableAudioError
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader
from tests.core.conversions import clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a.wav and sub/b.wav."""
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.wav").write_bytes(clip(1))
    (folder / "sub" / "b.wav").write_bytes(clip(2))
    return folder


def convert(folder: Path) -> dict[str, Sample]:
    FolderConverter(folder, folder.parent / "out").run()
    with DatasetReader.open(folder.parent / "out") as dataset:
        return {sample["__key__"]: sample for sample in dataset}


def test_output_paths_are_resolved_when_the_converter_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    converter = FolderConverter(folder, "out")
    monkeypatch.chdir(folder / "sub")
    report = converter.run()
    assert len(DatasetReader.open(folder.parent / "out")) == report.samples == 2
    assert report.output_dir == folder.parent / "out"


def test_a_path_through_a_link_and_back_resolves_as_the_system_does(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "a.wav").write_bytes(clip(9))
    (folder / "link").symlink_to(elsewhere / "deep")
    (folder / "metadata.csv").write_text("file_name\nlink/../a.wav\n")
    assert convert(folder)["a.wav"]["audio"] == clip(9)


@pytest.mark.parametrize("table", ["metadata.csv", "sub/metadata.csv"])
def test_an_absolute_path_is_taken_as_it_is(folder: Path, table: str) -> None:
    outside = folder.parent / "outside.wav"
    outside.write_bytes(clip(3))
    (folder / table).write_text(f"file_name\n{folder / 'sub' / 'b.wav'}\n{outside}\n")
    found = convert(folder)
    assert found["sub/b.wav"]["audio"] == clip(2)
    assert found[str(outside)]["audio"] == clip(3)


def test_a_table_may_name_files_above_it(folder: Path) -> None:
    (folder / "a.wav").rename(folder / "a.dat")
    (folder / "sub" / "metadata.csv").write_text("file_name\n../a.dat\nb.wav\n")
    assert list(convert(folder)) == ["a.dat", "sub/b.wav"]


def test_a_row_without_a_file_is_an_error_that_names_it(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name\nnone.wav\n")
    with pytest.raises(UnreadableAudioError, match=r"none\.wav"):
        convert(folder)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a.wav\nsub/b.wav\n", None),
        ("./a.wav\nsub/../sub/b.wav\n", None),
        ("a.wav\n", "1 audio file is left out"),
        ("a.wav\n../outside.wav\n", "1 audio file is left out"),
        ("{folder}/a.wav\nsub/b.wav\n", None),
        ("../outside.wav\n", "2 audio files are left out"),
    ],
)
def test_files_that_a_table_leaves_out_are_counted(
    folder: Path, caplog: pytest.LogCaptureFixture, rows: str, said: str | None
) -> None:
    (folder.parent / "outside.wav").write_bytes(clip(3))
    (folder / "metadata.csv").write_text("file_name\n" + rows.replace("{folder}", str(folder)))
    convert(folder)
    assert (said is None) == ("left out" not in caplog.text)
    assert said is None or said in caplog.text


def test_tables_below_a_table_name_files_too(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "metadata.csv").write_text("file_name\na.wav\n")
    (folder / "sub" / "metadata.csv").write_text("file_name\nb.wav\n")
    assert list(convert(folder)) == ["a.wav", "sub/b.wav"]
    assert "left out" not in caplog.text
