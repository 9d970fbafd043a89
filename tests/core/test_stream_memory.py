"""A process that streams a dataset does not come to have it as its memory."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.shards.mapping import Pages, map_file
from audiomdb.stream import SampleStream, loading
from audiomdb.stream.loading import LoadOptions, SampleLoader

CLIPS = 64
CLIP_BYTES = 1 << 20
READ_BYTES = 8 << 20
MOST_BYTES = 3 * READ_BYTES
"""The system maps more than is asked for, up to a large page around each place."""


def clip(number: int) -> bytes:
    samples = np.random.default_rng(number).integers(-999, 999, CLIP_BYTES // 2, np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, "PCM_16", format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "noise"
    with DatasetWriter(path, samples_per_shard=CLIPS // 4) as writer:
        for number in range(CLIPS):
            writer.write(f"clip-{number:02d}", {"audio": clip(number)})
    return path


def mapped_bytes(folder: Path) -> int:
    """How much of the files in a folder this process holds, by the system's own account."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            counts = str(folder) in rest
        elif counts and name == "Rss:":
            total += int(rest.split()[0]) * 1024
    return total


@pytest.fixture
def few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_READ_BYTES", READ_BYTES)


@pytest.mark.usefixtures("few_bytes")
@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_what_was_decoded_no_longer_counts_as_memory(
    folder: Path, num_threads: int, shuffle: bool
) -> None:
    most = 0
    with SampleStream(folder, num_threads=num_threads, shuffle=shuffle) as stream:
        for sample in stream:
            assert len(sample["audio"]) == CLIP_BYTES // 2
            most = max(most, mapped_bytes(folder))
    assert CLIP_BYTES <= most <= MOST_BYTES


@pytest.mark.usefixtures("few_bytes")
def test_views_of_what_is_released_stay_what_they_were(folder: Path) -> None:
    with DatasetReader.open(folder) as reader:
        views = [reader.read(number, copy=False)["audio"] for number in range(CLIPS)]
        loader = SampleLoader(reader, LoadOptions())
        for number in range(CLIPS):
            loader.load(number)
        assert mapped_bytes(folder) <= MOST_BYTES
        for number, view in enumerate(views):
            assert bytes(view) == clip(number)


def test_pages_that_are_not_there_are_not_brought_in(folder: Path, tmp_path: Path) -> None:
    """Neither beyond a file's end nor of none: nothing happens, least of all a signal."""
    (tmp_path / "data.mdb").write_bytes(bytes(10_000))
    for file in (map_file(tmp_path / "data.mdb"), map_file(next(folder.glob("*/data.mdb")))):
        pages = Pages(file)
        for start, length in ((0, 1 << 20), (len(file) - 1, 4096), (len(file) + 8192, 1), (3, 0)):
            pages.bring_in(start, length)
        pages.release()
        assert len(bytes(file)) == len(file)
