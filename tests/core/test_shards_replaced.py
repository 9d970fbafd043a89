"""A reader never mixes the dataset that it opened with another that took its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audiomdb.errors import CorruptShardError
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.uploaders.local import LocalUploader

RATE = 8_000
REPLACED = "was replaced or deleted since it was opened: open it again"


def constant(path: Path, value: float) -> Path:
    """Three clips in three shards, of the same sizes and facts whatever the value."""
    with DatasetWriter(path, name="constant", samples_per_shard=1) as writer:
        for number in range(3):
            writer.write(f"k{number}", {"audio": np.full(800, value, "f4"), "sample_rate": RATE})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    LocalUploader(tmp_path / "folder").upload_dir(constant(tmp_path / "first", 0.25))
    return tmp_path / "folder"


def test_shards_of_a_replacing_dataset_are_not_read(folder: Path, tmp_path: Path) -> None:
    with DatasetReader.open(folder) as reader:
        assert reader[0]["audio"][0] == 0.25
        LocalUploader(folder).upload_dir(constant(tmp_path / "second", 0.5))
        assert reader[0]["audio"][0] == 0.25  # still mapped
        with pytest.raises(CorruptShardError, match=REPLACED):
            reader["k2"]
        with pytest.raises(CorruptShardError, match=REPLACED):
            reader.index  # noqa: B018
    with DatasetReader.open(folder) as reader:
        assert [sample["audio"][0] for sample in reader] == 3 * [0.5]


def test_a_dataset_that_is_being_replaced_is_not_read(folder: Path) -> None:
    with DatasetReader.open(folder) as reader:
        (folder / "metadata.json").unlink()
        with pytest.raises(CorruptShardError, match=REPLACED):
            reader[0]


def test_a_new_file_with_the_same_metadata_is_no_other_dataset(folder: Path) -> None:
    with DatasetReader.open(folder) as reader:
        content = (folder / "metadata.json").read_bytes()
        (folder / "metadata.json").unlink()
        (folder / "metadata.json").write_bytes(content)
        assert [sample["audio"][0] for sample in reader] == 3 * [0.25]
