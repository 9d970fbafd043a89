"""`upload` and `pull` between folders."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from audiomdb.cli.origins import FolderOrigin
from audiomdb.cli.pulling import Target, pull
from audiomdb.shards import DatasetWriter, verify_dataset
from tests.commands import files, output
from tests.packages import install


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Five samples in three shards, and one that was rejected."""
    with DatasetWriter(tmp_path / "speech", samples_per_shard=2, on_error="skip") as writer:
        for number in range(5):
            audio = np.full(4000, number, np.float32)
            writer.write(f"clip-{number}", {"audio": audio, "sample_rate": 16_000})
        writer.write("not-audio", {"audio": b"no audio at all"})
    return tmp_path / "speech"


def test_a_dataset_goes_to_a_folder_and_comes_back(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "disk" / "speech"
    printed = output(capsys, "upload", speech, there.as_uri())
    assert printed.startswith(f"{there.as_uri()}: 9 files, ")
    assert "9 files had been there" in output(capsys, "upload", speech, there, "--workers", "1")
    facts = json.loads(output(capsys, "pull", there.as_uri(), tmp_path / "copy", "--json"))
    assert (facts["samples"], facts["shards"], facts["fetched_shards"]) == (5, 3, 3)
    assert files(tmp_path / "copy") == files(speech) == files(there)


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose retriever reads `mnt://` URLs in place."""
    module = """
from pathlib import Path
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.shards import DatasetReader

class MountRetriever(BaseRetriever):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    @classmethod
    def from_url(cls, url):
        return cls(url.removeprefix("mnt://"))

    def make_reader(self):
        return DatasetReader.open(self.folder)
"""
    entry_points = "[audiomdb.retrievers]\nmnt = {module}:MountRetriever\n"
    monkeypatch.delitem(sys.modules, "mounts", raising=False)
    monkeypatch.syspath_prepend(install(tmp_path / "mounts", "mounts", module, entry_points))


@pytest.mark.usefixtures("mounts")
def test_a_dataset_that_a_package_reads_in_place_is_pulled_and_verified(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads(output(capsys, "pull", f"mnt://{speech}", tmp_path / "copy", "--json"))
    assert (facts["samples"], facts["shards"], facts["fetched_shards"]) == (5, 3, 3)
    assert files(tmp_path / "copy") == files(speech)
    assert "whole: 5 samples" in output(capsys, "verify", f"mnt://{speech}")
    shard = speech / "shard_00001" / "data.mdb"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert "shard_00001/data.mdb: " in output(capsys, "verify", f"mnt://{speech}", code=1)


def test_the_work_is_reported_as_json(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads(output(capsys, "upload", speech, tmp_path / "there", "--json"))
    assert facts.pop("elapsed_s") >= 0
    total = sum(map(len, files(speech).values()))
    assert facts == {
        "target": str(tmp_path / "there"),
        "name": "speech",
        "files": 9,
        "bytes": total,
        "sent_files": 9,
        "sent_bytes": total,
        "deleted_files": 0,
    }


def test_pull_checks_and_keeps_earlier_files(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    output(capsys, "pull", speech, copy)
    damaged = copy / "shard_00001" / "data.mdb"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (copy / "index.bin").unlink()
    (copy / "shard_00000" / "lock.mdb").unlink()
    assert output(capsys, "pull", speech, copy).endswith("s; 2 shards had been there\n")
    assert files(copy) == files(speech)


def test_pull_copies_an_empty_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DatasetWriter(tmp_path / "empty").finish()
    output(capsys, "pull", tmp_path / "empty", tmp_path / "copy")
    assert files(tmp_path / "copy") == files(tmp_path / "empty")
    assert "whole: 0 samples" in output(capsys, "verify", tmp_path / "copy")


def test_a_damaged_original_is_named_and_makes_no_dataset(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = speech / "shard_00002" / "data.mdb"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"x")
    message = output(capsys, "pull", speech, tmp_path / "copy", code=1)
    assert f"{shard} has sha256 " in message
    assert "was damaged since its conversion" in message
    assert not (tmp_path / "copy" / "metadata.json").exists()
    shard.unlink()
    assert f"{shard} is missing" in output(capsys, "pull", speech, tmp_path / "copy", code=1)
    shard.write_bytes(whole)
    output(capsys, "pull", speech, tmp_path / "copy")
    assert files(tmp_path / "copy") == files(speech)


def test_a_source_replaced_during_a_pull_gives_the_copy_no_metadata(
    speech: Path, tmp_path: Path
) -> None:
    metadata = (speech / "metadata.json").read_bytes()
    origin, target = FolderOrigin(speech), Target(tmp_path / "copy")
    arrived = 0

    def replace_at_the_end(n: int) -> None:
        nonlocal arrived
        arrived += n
        if arrived == origin.metadata.bytes:
            (speech / "metadata.json").write_bytes(b"that of another dataset")

    pull(origin, target, workers=1, on_bytes=replace_at_the_end)
    target.close()
    assert arrived == origin.received_bytes == origin.metadata.bytes
    assert (tmp_path / "copy" / "metadata.json").read_bytes() == metadata
    assert verify_dataset(tmp_path / "copy") == []


@pytest.mark.parametrize("name", ["speech", "link", "link/../speech", "file"])
def test_a_dataset_is_not_pulled_onto_itself_by_whatever_name(
    name: str,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(speech)
    shard = speech / "shard_00001" / "data.mdb"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")  # what is whole would not be brought
    before = files(speech)
    source = speech.as_uri() if name == "file" else str(speech)
    target = "speech" if name == "file" else name
    message = output(capsys, "pull", source, target, code=2)
    assert message == f"audiomdb: {source} and {target} are one folder; pull into another one\n"
    assert output(capsys, "pull", target, speech, code=2).endswith("pull into another one\n")
    assert files(speech) == before
    assert not (speech / ".pull").exists()


def test_pull_does_not_delete_a_damaged_shard_shared_with_its_source(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output(capsys, "pull", speech, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "shard_00001")
    (tmp_path / "copy" / "shard_00001").symlink_to(speech / "shard_00001")
    shard = speech / "shard_00001" / "data.mdb"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    before = files(speech)
    assert f"{shard} has sha256 " in output(capsys, "pull", speech, tmp_path / "copy", code=1)
    assert files(speech) == before


def test_a_pull_that_never_began_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no dataset at" in output(capsys, "pull", tmp_path / "no", tmp_path / "copy", code=1)
    assert not (tmp_path / "copy").exists()
    (tmp_path / "mine").mkdir()
    output(capsys, "pull", tmp_path / "no", tmp_path / "mine", code=1)
    assert list((tmp_path / "mine").iterdir()) == []
    assert "is a URL" in output(capsys, "pull", tmp_path, "s3://bucket", code=2)
