from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from audiomdb.errors import OutputWriteError
from audiomdb.shards.dataset_writer import DatasetWriter

MIB = 1024 * 1024


def write(folder, samples):
    with DatasetWriter(folder, num_workers=1) as writer:
        for number in range(samples):
            writer.write(f"key-{number:03d}", {"data": np.full(MIB, number, np.uint8)})


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="the system has no fdatasync")
def test_shard_data_is_written_to_disk_while_the_shard_is_made(tmp_path, monkeypatch):
    sizes = []
    sync = os.fdatasync

    def noted(descriptor):
        sizes.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", noted)
    write(tmp_path / "small", 3)
    assert sizes == []
    write(tmp_path / "out", 20)
    assert len(sizes) >= 4
    assert sizes[0] > 3 * MIB


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="the system has no fdatasync")
def test_a_shard_that_failed_to_sync_is_not_renamed_into_place(tmp_path, monkeypatch):
    failures = [OSError(errno.EIO, os.strerror(errno.EIO))]
    sync = os.fdatasync

    def fail_once(descriptor):
        sync(descriptor)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(os, "fdatasync", fail_once)
    with pytest.raises(OutputWriteError, match=r"Input/output error.*again"):
        write(tmp_path / "out", 20)
    assert not (tmp_path / "out").exists()
    write(tmp_path / "out", 20)
    assert (tmp_path / "out/metadata.json").exists()
