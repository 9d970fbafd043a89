"""A process that streams a dataset does not come to have it as its memory."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiomdb.errors import CorruptRecordError
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.shards.mapping import map_file, read_apart, release_pages
from audiomdb.stream import SampleStream, loading
from audiomdb.stream.load_options import LoadOptions
from audiomdb.stream.loading import SampleLoader

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
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips are decoded out of the mapping, as very short and very long ones are."""
    monkeypatch.setattr(loading, "_APART_BYTES", range(0))
    monkeypatch.setattr(loading, "_MAPPED_BYTES", READ_BYTES)


def streamed(folder: Path, *, num_threads: int, shuffle: bool) -> list[int]:
    """Bytes that were mapped while each sample was there."""
    found = []
    with SampleStream(folder, num_threads=num_threads, shuffle=shuffle) as stream:
        for sample in stream:
            assert len(sample["audio"]) == CLIP_BYTES // 2
            found.append(mapped_bytes(folder))
    return found


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_decoding_leaves_no_clip_mapped(folder: Path, num_threads: int, shuffle: bool) -> None:
    assert max(streamed(folder, num_threads=num_threads, shuffle=shuffle)) < CLIP_BYTES


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_decoded_clips_no_longer_count_as_process_memory(
    folder: Path, num_threads: int, shuffle: bool
) -> None:
    most = max(streamed(folder, num_threads=num_threads, shuffle=shuffle))
    assert CLIP_BYTES <= most <= MOST_BYTES


@pytest.mark.usefixtures("mapped")
def test_views_of_released_pages_keep_their_contents(folder: Path) -> None:
    with DatasetReader.open(folder) as reader:
        views = [reader.read(number, copy=False)["audio"] for number in range(CLIPS)]
        loader = SampleLoader(reader, LoadOptions())
        for number in range(CLIPS):
            loader.load(number)
        assert mapped_bytes(folder) <= MOST_BYTES
        for number, view in enumerate(views):
            assert bytes(view) == clip(number)


def test_reading_apart_ends_at_the_end_of_the_file(tmp_path: Path) -> None:
    content = os.urandom(10_000)
    (tmp_path / "data.mdb").write_bytes(content)
    for file in (map_file(tmp_path / "data.mdb"), memoryview(content)):
        for start, length in ((0, 1 << 20), (5000, 100), (9_999, 4096), (20_000, 1), (3, 0)):
            assert read_apart(file, start, length) == content[start : start + length]
        release_pages(file)
        assert file == content


def test_a_file_truncated_after_opening_raises_an_error_not_a_signal(
    folder: Path, tmp_path: Path
) -> None:
    """Nothing here shortens a file, but other programs do. The heads lie before the audio."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with DatasetReader.open(copy) as reader:
        loader = SampleLoader(reader, LoadOptions())
        for number in range(CLIPS // 4):
            loader.load(number)
        data = next(copy.glob("*00000/data.mdb"))
        os.truncate(data, data.stat().st_size - CLIP_BYTES)
        missing = r"00000: record \d+ 'clip-\d+': payload of"
        with pytest.raises(CorruptRecordError, match=missing):
            list(map(loader.load, range(CLIPS // 4)))


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_mapping_closes_its_descriptors_with_its_last_view(folder: Path) -> None:
    before = descriptors()
    file = map_file(next(folder.glob("*/data.mdb")))
    view = file[100:200]
    assert len(read_apart(file, 0, 10)) == 10
    del file
    assert descriptors() > before
    del view
    assert descriptors() == before


def read_bytes() -> int:
    """What this process has read from files, page cache or not."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(lines[0].removeprefix("rchar: "))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [(["audio"], 1), (["audio", "loss"], 5), (["audio", "nested"], 6), (None, 6), (["loss"], 0)],
)
def test_unrequested_fields_are_not_read(
    tmp_path: Path, fields: list[str] | None, expected: int
) -> None:
    """Values lie in the order of their fields; what lies between two that are wanted is read."""
    megabyte, clips = 1 << 20, 3
    with DatasetWriter(tmp_path / "noise") as writer:
        for number in range(clips):
            beside = {"image": bytes(3 * megabyte), "loss": np.full(megabyte // 8, number)}
            nested = {"deep": [bytes(megabyte)]}
            writer.write(f"clip-{number}", {"audio": clip(number), **beside, "nested": nested})
    with SampleStream(tmp_path / "noise", num_threads=0, fields=fields) as stream:
        before = read_bytes()
        samples = list(stream)
        read = read_bytes() - before
    assert read // (clips * megabyte) == expected
    for number, sample in enumerate(samples):
        wanted = {"audio", "image", "loss", "nested"} if fields is None else set(fields)
        assert wanted < set(sample)
        if "audio" in sample:
            expected_audio, _ = soundfile.read(io.BytesIO(clip(number)), dtype="float32")
            np.testing.assert_array_equal(sample["audio"], expected_audio)
        if "loss" in sample:
            assert (sample["loss"] == number).all()
        if "nested" in sample:
            assert sample["nested"] == {"deep": [bytes(megabyte)]}
