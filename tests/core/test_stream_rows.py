"""Steps whose clips are decoded into the rows of their batch."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.audio import decode, encode
from audiomdb.sample import Sample
from audiomdb.shards import DatasetWriter
from audiomdb.stream import BySeconds, StepStream

RATE = 8000


def tone(frames: int, channels: int = 1) -> np.ndarray:
    shape = frames if channels == 1 else (frames, channels)
    return np.random.default_rng(frames).uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, samples_per_shard=7) as writer:
        for i in range(30):
            clip: Any = tone(400 + 10 * i)
            if i % 5:
                clip = encode(clip, RATE, "flac" if i % 2 else "wav")
            writer.write(f"{i:02d}", {"audio": clip, "sample_rate": RATE})
    return path


class Memory:
    """Makes arrays, and remembers them."""

    def __init__(self) -> None:
        self.made: list[np.ndarray] = []

    def __call__(self, rows: int, frames: int) -> np.ndarray:
        self.made.append(np.full((rows, frames), np.nan, np.float32))
        return self.made[-1]


def steps(source: Any, memory: Memory | None, size: Any = 6, **how: Any) -> list[list[Sample]]:
    stream = StepStream(source, size, shuffle=True, tail="uneven", **how)
    return [batch.samples for batch in stream.read(allocate=memory)]


def assert_same(one: list[list[Sample]], other: list[list[Sample]]) -> None:
    assert [len(batch) for batch in one] == [len(batch) for batch in other]
    for sample, wanted in zip(chain(*one), chain(*other), strict=True):
        assert sample.keys() == wanted.keys()
        np.testing.assert_array_equal(sample["audio"], wanted["audio"])
        assert sample["__key__"] == wanted["__key__"]


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("options", [{}, {"mono": True}, {"sample_rate": RATE}])
def test_clips_lie_in_the_rows_of_their_batch(
    threads: int, options: dict[str, Any], folder: Path
) -> None:
    memory = Memory()
    found = steps(folder, memory, num_threads=threads, **options)
    assert_same(found, steps(folder, None, num_threads=threads, **options))
    assert len(memory.made) == len(found) == 5
    places = {block.ctypes.data: block for block in memory.made}
    for batch in found:
        block = places[batch[0]["audio"].ctypes.data]
        assert block.shape == (len(batch), max(len(sample["audio"]) for sample in batch))
        for row, sample in zip(block, batch, strict=True):
            assert np.shares_memory(row, sample["audio"])
            assert sample["audio"].ctypes.data == row.ctypes.data


@pytest.mark.parametrize(
    "options",
    [
        {"sample_rate": 16000},
        {"decode": False},
        {"fields": ["sample_rate"]},
        {"processor": lambda sample: sample},
    ],
    ids=["another rate", "not decoded", "no audio", "processed"],
)
def test_clips_of_unknown_length_get_memory_of_their_own(
    options: dict[str, Any], folder: Path
) -> None:
    memory = Memory()
    found = steps(folder, memory, **options)
    assert memory.made == []
    if "audio" in found[0][0]:
        assert_same(found, steps(folder, None, **options))


def test_one_clip_of_two_channels_keeps_its_batch_apart(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "clips") as writer:
        for i, channels in enumerate([1, 1, 2, 1]):
            clip = encode(tone(500, channels), RATE, "flac")
            writer.write(f"{i}", {"audio": clip, "sample_rate": RATE})
    memory = Memory()
    with StepStream(tmp_path / "clips", 2) as stream:
        first, second = (batch.samples for batch in stream.read(allocate=memory))
    assert [len(block) for block in memory.made] == [2]
    assert np.shares_memory(first[0]["audio"], memory.made[0])
    assert [sample["audio"].shape for sample in second] == [(500, 2), (500,)]
    with StepStream(tmp_path / "clips", 2, mono=True) as stream:
        assert [len(batch.samples) for batch in stream.read(allocate=memory)] == [2, 2]
    assert len(memory.made) == 3


def test_each_batch_by_seconds_has_its_own(folder: Path) -> None:
    memory, size = Memory(), BySeconds(0.4, slots=2)
    with StepStream(folder, size, seed=1) as stream:
        batches = [batch for step in stream.read(allocate=memory) for batch in step.batches]
    assert len(memory.made) == len(batches)
    for block in memory.made:
        assert any(np.shares_memory(block, batch[0]["audio"]) for batch in batches)


@pytest.mark.parametrize("audio_format", ["flac", "wav", "vorbis"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_clip_is_decoded_into_memory_that_fits(audio_format: Any, channels: int) -> None:
    clip = encode(tone(1000, channels), RATE, audio_format)
    alone, rate = decode(clip)
    out = np.full_like(alone, np.nan)
    found, _ = decode(clip, out=out)
    assert found is out
    np.testing.assert_array_equal(found, alone)
    other, _ = decode(clip, out=np.empty(999, np.float32))
    np.testing.assert_array_equal(other, alone)
    half, _ = decode(clip, sample_rate=rate // 2, out=out)
    assert half is not out
