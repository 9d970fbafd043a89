from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from audiomdb.errors import OutputBusyError, UploadError
from audiomdb.shards import DatasetWriter, verify_dataset
from audiomdb.shards.folder_lock import lock_folder
from audiomdb.uploaders.local import LocalUploader
from tests.commands import files


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "dataset", samples_per_shard=2) as writer:
        for number in range(4):
            audio = np.full(400, number, np.float32)
            writer.write(f"clip-{number}", {"audio": audio, "sample_rate": 16_000})
    return tmp_path / "dataset"


def test_a_dataset_is_copied_byte_for_byte(dataset: Path, tmp_path: Path) -> None:
    target = tmp_path / "disk" / "copies" / "dataset"
    LocalUploader(target).upload_dir(dataset)
    assert files(target) == files(dataset)
    assert verify_dataset(target) == []


def test_a_copy_damaged_since_is_repaired_and_the_rest_left_alone(
    dataset: Path, tmp_path: Path
) -> None:
    uploader = LocalUploader(str(tmp_path / "copy"))
    uploader.upload_dir(dataset)
    shard = tmp_path / "copy" / "shard_00001" / "data.mdb"
    shard.write_bytes(bytes(shard.stat().st_size))
    report = uploader.upload_dir(dataset)
    assert report is not None
    assert report.sent_files == 1
    assert files(tmp_path / "copy") == files(dataset)


def test_uploading_a_dataset_onto_itself_changes_nothing(dataset: Path) -> None:
    before = files(dataset)
    report = LocalUploader(dataset).upload_dir(dataset)
    assert report is not None
    assert report.sent_files == 0
    assert files(dataset) == before


def test_a_destination_that_is_a_file_is_named(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UploadError, match=r"taken is a file, expected a folder"):
        LocalUploader(tmp_path / "taken").upload_dir(dataset)


def test_a_copy_that_is_not_there_need_not_be_deleted(dataset: Path, tmp_path: Path) -> None:
    uploader = LocalUploader(tmp_path / "copy")
    uploader.remove("metadata.json")
    uploader.upload_dir(dataset)
    before = files(tmp_path / "copy")
    for name in ("shard_00000/notes.txt", "shard_00007/data.mdb", "metadata.json/x"):
        uploader.remove(name)
    assert files(tmp_path / "copy") == before


def test_only_one_upload_at_a_time_writes_to_a_folder(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    held, _ = lock_folder(tmp_path / "copy")
    with pytest.raises(OutputBusyError, match=r"another process is writing to .*copy"):
        LocalUploader(tmp_path / "copy").upload_dir(dataset)
    assert files(tmp_path / "copy") == {}
    os.close(held)
    LocalUploader(tmp_path / "copy").upload_dir(dataset)
    assert files(tmp_path / "copy") == files(dataset)


def test_a_copy_that_is_not_needed_any_more_is_given_up(dataset: Path, tmp_path: Path) -> None:
    class NotNeeded(Exception):  # noqa: N818
        pass

    class Stopping(LocalUploader):
        def stop_check(self) -> Callable[[], None]:
            def check() -> None:
                raise NotNeeded

            return check

    with pytest.raises(NotNeeded):
        Stopping(tmp_path / "copy").upload_dir(dataset)
    assert set(files(tmp_path / "copy").values()) <= {b""}
