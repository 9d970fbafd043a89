"""Folders and files as users name them: `~` leads home, and what is no path is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audiomdb.converters.files import FolderConverter, ManifestConverter
from audiomdb.errors import InvalidURLError
from audiomdb.registry import retriever_for, uploader_for
from audiomdb.shards import DatasetReader, DatasetWriter, verify_dataset
from audiomdb.stream import JoinedColumns, SampleStream, open_dataset
from audiomdb.uploaders.local import LocalUploader
from tests.core.caches import CopyRetriever
from tests.core.conversions import Listed, clip, samples


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home directory, with recordings; the working directory is another one."""
    recordings = tmp_path / "home" / "recordings"
    recordings.mkdir(parents=True)
    (recordings / "a.wav").write_bytes(clip(1))
    (recordings / "list.jsonl").write_text('{"audio_filepath": "a.wav", "text": "one"}\n')
    (recordings / "better.csv").write_text("key,text\na.wav,two\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_tilde_leads_home_wherever_a_folder_is_named(home: Path) -> None:
    FolderConverter("~/recordings", "~/digits", progress=False).run()
    ManifestConverter(
        "~/recordings/list.jsonl", "~/listed", audio_dir="~/recordings", progress=False
    ).run()
    LocalUploader("~/copy", progress=False).upload_dir("~/digits")
    assert verify_dataset("~/copy") == []
    better = JoinedColumns("~/recordings/better.csv")
    assert better.name == str(home / "recordings" / "better.csv")
    for name in ("digits", "listed", "copy"):
        assert (home / name / "metadata.json").exists()
        assert "a.wav" in DatasetReader.open(f"~/{name}")
        assert "a.wav" in retriever_for(Path("~", name)).open()
        assert len(SampleStream(f"~/{name}")) == len(open_dataset(f"~/{name}")) == 1
    retriever = CopyRetriever(home / "digits", cache_dir="~/cache")
    assert Path(retriever.cache_dir).parent == home / "cache"
    assert list(Path.cwd().iterdir()) == []


def test_only_a_tilde_alone_leads_home(home: Path) -> None:
    Listed(samples(1), "~digits", progress=False).run()
    Listed(samples(1), Path.cwd() / "~", progress=False).run()
    assert {path.name for path in Path.cwd().iterdir()} == {"~", "~digits"}
    assert len(DatasetReader.open("~digits")) == 1
    assert {path.name for path in home.iterdir()} == {"recordings"}


TAKERS: dict[str, Callable[[Any, Path], object]] = {
    "open_dataset": lambda given, _: open_dataset(given),
    "SampleStream": lambda given, _: SampleStream(given),
    "retriever_for": lambda given, _: retriever_for(given),
    "uploader_for": lambda given, _: uploader_for(given),
    "DatasetReader": lambda given, _: DatasetReader.open(given),
    "DatasetWriter": lambda given, _: DatasetWriter(given),
    "FolderConverter": lambda given, out: FolderConverter(given, out),
    "ManifestConverter": lambda given, out: ManifestConverter([given], out),
    "output_dir": lambda given, out: FolderConverter(out, given),
    "cache_dir": lambda given, out: CopyRetriever(out, cache_dir=given),
    "verify_dataset": lambda given, _: verify_dataset(given),
}


@pytest.mark.parametrize("name", TAKERS)
def test_what_is_no_path_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidURLError, match="is empty"):
        TAKERS[name]("", tmp_path)
    for wrong in (None, b"digits", ["digits"]):
        if wrong is not None or name != "cache_dir":
            with pytest.raises(TypeError, match=r"^[a-z ]+ is (None|b'|\[).*, expected "):
                TAKERS[name](wrong, tmp_path)


def test_a_manifest_is_a_path_or_several(tmp_path: Path) -> None:
    wrong: Any = None
    with pytest.raises(TypeError, match="the path is None, expected a file"):
        ManifestConverter(wrong, tmp_path)
