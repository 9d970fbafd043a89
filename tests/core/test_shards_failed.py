"""What a writer that fails leaves behind: no lock, no open file, nothing in the way of the next."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audiomdb.errors import (
    OptionsChangedError,
    OutputBusyError,
    OutputExistsError,
    OutputWriteError,
    SampleError,
)
from audiomdb.shards import DatasetWriter, verify_dataset
from audiomdb.shards.files import write_atomically
from tests.core.conversions import rejections


def write(folder: Path, **options: Any) -> None:
    with DatasetWriter(folder, on_error="skip", **options) as writer:
        writer.write("bad", {"value": object()})
        for number in range(3):
            writer.write(f"k{number}", {"n": number})


def test_a_folder_that_was_refused_can_be_written_to_while_its_error_is_kept(
    tmp_path: Path,
) -> None:
    # A notebook keeps the last error, and with it what the constructor had made by then.
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputExistsError) as kept:
        DatasetWriter(tmp_path)
    (tmp_path / "thesis.txt").unlink()
    write(tmp_path)
    with pytest.raises(OptionsChangedError) as other:
        DatasetWriter(tmp_path, map_size=1)
    write(tmp_path)
    assert kept.traceback
    assert other.traceback
    assert verify_dataset(tmp_path) == []


def test_an_empty_folder_of_the_users_is_not_removed(tmp_path: Path) -> None:
    with pytest.raises(SampleError), DatasetWriter(tmp_path) as writer:
        writer.write("bad", {"value": object()})
    assert list(tmp_path.iterdir()) == []


def test_the_only_shard_can_be_deleted_to_have_it_made_again(tmp_path: Path) -> None:
    write(tmp_path)
    shutil.rmtree(tmp_path / "shard_00000")
    write(tmp_path)
    assert verify_dataset(tmp_path) == []
    assert [rejection["key"] for rejection in rejections(tmp_path)] == ["bad"]


def test_a_list_of_rejections_goes_once_nothing_is_rejected_any_more(tmp_path: Path) -> None:
    write(tmp_path)
    shutil.rmtree(tmp_path / "shard_00000")
    with DatasetWriter(tmp_path) as writer:
        writer.write("good", {"value": 1})
    assert not (tmp_path / "rejected.jsonl").exists()
    assert verify_dataset(tmp_path) == []


def test_closing_a_forked_copy_of_a_writer_leaves_the_folder_locked(tmp_path: Path) -> None:
    code = """
import os, sys
from audiomdb.errors import OutputBusyError
from audiomdb.shards import DatasetWriter

writer = DatasetWriter(sys.argv[1])
child = os.fork()
if child == 0:
    writer.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
try:
    DatasetWriter(sys.argv[1])
except OutputBusyError:
    print("locked")
writer.close()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "locked\n"


def test_a_file_that_cannot_be_written_leaves_no_temporary_one(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "index.bin").write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "index.bin", chunks())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"index.bin": b"old"}


def open_files() -> int:
    gc.collect()  # what earlier tests have left behind
    return len(list(Path("/dev/fd").iterdir()))


def test_a_folder_that_is_busy_costs_no_file_descriptor(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write("a", {"n": 1})
        before = open_files()
        for _ in range(5):
            with pytest.raises(OutputBusyError):
                DatasetWriter(tmp_path / "d")
        assert open_files() == before


def test_a_file_system_without_locks_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    write(tmp_path / "d")
    assert verify_dataset(tmp_path / "d") == []


def test_a_disk_that_fails_to_sync_costs_no_file_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    before = open_files()
    for _ in range(5):
        with pytest.raises(OutputWriteError, match="Input/output error"):
            write(tmp_path / "d")
    assert open_files() == before
