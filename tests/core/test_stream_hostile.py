"""Streams of datasets whose facts about their clips are lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.audio import encode
from audiomdb.errors import AudioError, AudioMDBError, CorruptRecordError, PlanError
from audiomdb.shards import DatasetWriter
from audiomdb.stream import BySeconds, Crop, LoadOptions, Part, SampleStream, StepStream
from tests.core.forgeries import array, forge, reference

WAV = encode(np.zeros(800, np.float32), 8000, "wav")


def clip(path: Path, columns: dict[str, Any] | None = None, **facts: Any) -> Path:
    """A dataset of one clip of 800 frames at 8 kHz, with these facts about it."""
    tree = {"__key__": "k", "audio": reference(0, WAV), **facts}
    return forge(path, {"k": tree}, payloads=WAV, columns=columns)


def read(path: Path, **options: Any) -> list[dict[str, Any]]:
    return list(SampleStream(Part(path, load=LoadOptions(**options)), num_threads=0))


@pytest.mark.parametrize("frames", ["800", [800], {}, -1, array("<i4", [2], bytes(8)), b"", 1.5])
def test_a_non_numeric_frame_count_is_named(tmp_path: Path, frames: Any) -> None:
    with pytest.raises(AudioError, match="its frames is") as caught:
        read(clip(tmp_path / "d", frames=frames))
    assert any("shard_00000: sample 'k'" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    "facts",
    [
        {"sample_rate": 0, "frames": 800},
        {"sample_rate": -8000, "frames": 800},
        {"sample_rate": "8000", "frames": 800},
        {"sample_rate": 8000, "frames": "800"},
        {"sample_rate": 2**64 - 1, "frames": 2**64 - 1},
        {"sample_rate": 8000, "frames": 2**63},
    ],
)
def test_crops_of_clips_with_impossible_facts_raise_audiomdb_errors(
    tmp_path: Path, facts: dict[str, Any]
) -> None:
    with pytest.raises(AudioMDBError):
        read(clip(tmp_path / "d", **facts), crop=Crop(0.01))


@pytest.mark.parametrize("rate", [1, 10**15, 2**64 - 1])
def test_an_impossible_rate_causes_no_hang_and_no_huge_allocation(
    tmp_path: Path, rate: int
) -> None:
    audio = array("<i2", [100], bytes(200))
    tree = {"__key__": "k", "audio": audio, "sample_rate": rate}
    with pytest.raises(AudioError, match="rate") as caught:
        read(forge(tmp_path / "d", {"k": tree}), sample_rate=16_000)
    assert any("sample 'k'" in note for note in caught.value.__notes__)


def test_an_impossible_clip_length_allocates_no_memory(tmp_path: Path) -> None:
    columns = {name: np.array([n]) for name, n in (("frames", 2**40), ("channels", 1))}
    allocated: list[tuple[int, int]] = []

    def allocate(rows: int, frames: int) -> np.ndarray:
        allocated.append((rows, frames))
        return np.empty((rows, min(frames, 10**6)), np.float32)

    stream = StepStream(clip(tmp_path / "d", columns, frames=800), 1)
    (batch,) = stream.read(allocate=allocate)
    assert len(batch.samples[0]["audio"]) == 800
    assert allocated == []


def test_deep_nesting_is_an_error_that_names_the_sample(tmp_path: Path) -> None:
    head = b"\x82\xa7__key__\xa1k\xa4tags" + b"\x91" * 900 + b"\x01"
    with pytest.raises(CorruptRecordError, match=r"shard_00000.* 'k'.*nests too many"):
        read(forge(tmp_path / "d", {"k": head}))


def test_durations_that_are_text_are_refused_by_filters_and_batches(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write("k", {"text": "no audio", "duration": "long"})
    with pytest.raises(PlanError, match=r"column 'duration' is no number.*'long'") as caught:
        list(SampleStream(tmp_path / "d", min_duration=1))
    assert caught.value.__notes__ == ["while selecting from dataset 'd'"]
    with pytest.raises(PlanError, match=r"column 'duration' is no number.*'long'") as caught:
        list(StepStream(tmp_path / "d", BySeconds(10)).read())
    assert caught.value.__notes__ == ["while reading the durations of dataset 'd'"]
