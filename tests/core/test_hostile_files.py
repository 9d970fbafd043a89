"""Files of a dataset that are links, pipes or devices, or larger than they may be."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from audiomdb.errors import CorruptShardError, MetadataError
from audiomdb.shards import DatasetReader, DatasetWriter, verify_dataset
from audiomdb.shards.metadata import MOST_METADATA_BYTES, parse_metadata
from audiomdb.uploaders.local import LocalUploader
from tests.commands import files, output

SECRET = b'{"type": "service_account", "private_key": "..."}\n'


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "d", on_error="skip") as writer:
        writer.write("good", {"audio": np.zeros(100, np.float32), "sample_rate": 8000})
        writer.write("bad", {"audio": b"no audio"})
    return tmp_path / "d"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_pipes_and_devices_are_not_read(dataset: Path) -> None:
    replace_by_pipe(dataset / "index.bin")
    with pytest.raises(CorruptShardError, match=r"index\.bin is missing or not a file"):
        DatasetReader.open(dataset).index["duration"]
    replace_by_pipe(dataset / "shard_00000" / "data.mdb")
    with pytest.raises(CorruptShardError, match=r"data\.mdb is missing or not a file"):
        DatasetReader.open(dataset)[0]
    assert len(verify_dataset(dataset)) == 2
    replace_by_pipe(dataset / "metadata.json")
    with pytest.raises(MetadataError, match=r"metadata\.json is no file"):
        DatasetReader.open(dataset)
    (dataset / "metadata.json").unlink()
    (dataset / "metadata.json").symlink_to("/dev/zero")
    with pytest.raises(MetadataError, match=r"metadata\.json is no file"):
        DatasetReader.open(dataset)


def test_oversized_metadata_is_not_read(dataset: Path) -> None:
    os.truncate(dataset / "metadata.json", MOST_METADATA_BYTES + 1)
    with pytest.raises(MetadataError, match="it is not the metadata of a dataset"):
        DatasetReader.open(dataset)


@pytest.mark.parametrize("head", [b'"format": "zip"', b'"format": "audiomdb", "format_version": 1'])
def test_malformed_metadata_takes_little_more_memory_than_its_size(head: bytes) -> None:
    raw = b"{" + head + b', "other": [' + b"[]," * 300_000 + b"[]]}"
    tracemalloc.start()
    try:
        with pytest.raises(MetadataError):
            parse_metadata(raw, "metadata.json")
        assert tracemalloc.get_traced_memory()[1] < len(raw)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["rejected.jsonl", "shard_00000/lock.mdb"])
def test_a_file_of_the_user_that_a_dataset_links_to_is_not_published(
    dataset: Path, secret: Path, tmp_path: Path, name: str
) -> None:
    (dataset / name).unlink()
    (dataset / name).symlink_to(secret)
    with pytest.raises(CorruptShardError, match=name):
        LocalUploader(tmp_path / "public").upload_dir(dataset)
    assert not (tmp_path / "public").exists()


@pytest.mark.parametrize("name", ["rejected.jsonl", "shard_00000/lock.mdb"])
def test_a_pipe_is_not_published(dataset: Path, tmp_path: Path, name: str) -> None:
    replace_by_pipe(dataset / name)
    with pytest.raises(CorruptShardError, match=name):
        LocalUploader(tmp_path / "public").upload_dir(dataset)


def test_a_lock_file_that_lmdb_has_used_is_published(dataset: Path, tmp_path: Path) -> None:
    options: Any = {"lib_version": 0} if int(lmdb.__version__.split(".")[0]) >= 3 else {}
    with lmdb.open(str(dataset / "shard_00000"), readonly=True, **options):
        pass
    assert (dataset / "shard_00000" / "lock.mdb").stat().st_size > 0
    LocalUploader(tmp_path / "public").upload_dir(dataset)
    assert files(tmp_path / "public") == files(dataset)


def test_pull_copies_only_the_files_that_metadata_lists(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset / "shard_00000" / "data.mdb"
    size = data.stat().st_size
    os.truncate(data, 1 << 40)
    printed = output(capsys, "pull", dataset, tmp_path / "copy", code=1)
    assert f"data.mdb is no file of {size} bytes, as metadata says" in printed
    replace_by_pipe(data)
    assert "is no file of" in output(capsys, "pull", dataset, tmp_path / "copy", code=1)
