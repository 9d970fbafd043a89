"""`verify`: exits with 0 for a whole dataset only, and names what is damaged."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from audiomdb.cli import main
from audiomdb.shards import DatasetWriter
from tests.core.caches import CopyRetriever


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six clips in three shards."""
    tone = np.sin(np.arange(4000) / 7).astype(np.float32)
    with DatasetWriter(tmp_path / "tones", samples_per_shard=2) as writer:
        for i in range(6):
            writer.write(f"tone-{i}", {"audio": tone, "sample_rate": 8000, "text": str(i)})
    return tmp_path / "tones"


def test_a_whole_dataset_exits_with_0(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(dataset)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("whole: 6 samples in 3 shards, ")
    assert printed.err == ""


def test_a_flipped_byte_is_named_with_its_shard(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset / "shard_00001" / "data.mdb"
    octets = bytearray(data.read_bytes())
    octets[len(octets) // 2] ^= 1
    data.write_bytes(octets)
    assert main(["verify", str(dataset)]) == 1
    *problems, total = capsys.readouterr().out.splitlines()
    assert problems
    assert all(line.startswith("shard_00001/data.mdb: ") for line in problems)
    assert total.startswith("damaged: ")
    assert " in 1 file;" in total


def test_every_damaged_shard_is_named(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "shard_00000" / "data.mdb").unlink()
    with (dataset / "shard_00002" / "data.mdb").open("r+b") as file:
        file.truncate(5000)
    (dataset / "index.bin").write_bytes(b"")
    assert main(["verify", str(dataset), "--json", "--workers", "1"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["whole"] is False
    assert [problem["file"] for problem in found["problems"]] == [
        "shard_00000/data.mdb",
        "shard_00002/data.mdb",
        "index.bin",
    ]
    assert all(problem["reason"] for problem in found["problems"])


def test_a_whole_dataset_says_so_in_json(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(dataset), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["whole"], found["problems"], found["samples"]) == (True, [], 6)


def test_damaged_metadata_exits_with_1(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "metadata.json").write_text("{", encoding="utf-8")
    assert main(["verify", str(dataset)]) == 1
    assert "metadata.json" in capsys.readouterr().err


def test_a_damaged_index_in_a_cache_is_named_with_its_path(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(CopyRetriever(dataset, cache_dir=tmp_path / "cache")) as retriever:
        assert list(retriever.open().index["text_length"]) == [1] * 6
        cache = Path(retriever.cache_dir)
    index = cache / "index.bin"
    octets = bytearray(index.read_bytes())
    octets[len(octets) // 2] ^= 1
    index.write_bytes(octets)
    assert main(["verify", str(cache), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [problem["file"] for problem in found["problems"]] == ["index.bin"]
    assert found["delete"] == [str(index)]
