"""Random windows of clips, decoded without the rest."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audiomdb.errors import AudioError, CorruptRecordError
from audiomdb.plan.bits import Purpose, random_words
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream.crops import Crop
from audiomdb.stream.draws import Draw
from audiomdb.stream.load_options import LoadOptions
from audiomdb.stream.loading import SampleLoader

RATE = 8000
SECONDS = [0.1, 1.0, 2.5, 0.5, 4.0]
"""Of the clips, one after the other; the fourth is as long as the window."""


def wave(number: int) -> np.ndarray:
    noise = np.random.default_rng(number).integers(-20000, 20000, round(SECONDS[number] * RATE))
    return noise / 32768


def encoded(number: int, form: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave(number), RATE, format=form)
    return file.getvalue()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path) as writer:
        for i in range(len(SECONDS)):
            writer.write(f"clip-{i}", {"audio": encoded(i), "text": str(i)})
    return path


@pytest.fixture(scope="module")
def reader(path: Path) -> DatasetReader:
    return DatasetReader.open(path)


def load(
    reader: DatasetReader, position: int, epoch: int = 0, *, crop: Crop | None = None, **how: Any
) -> Sample:
    options = LoadOptions(crop=crop or Crop(0.5), **how)
    return SampleLoader(reader, options).load(position, epoch)


@pytest.mark.parametrize("position", [1, 2, 4])
def test_a_window_is_the_slice_that_its_fields_name(reader: DatasetReader, position: int) -> None:
    starts = set()
    for epoch in range(10):
        sample = load(reader, position, epoch)
        start = round(sample["crop_offset"] * RATE)
        assert start / RATE == sample["crop_offset"]
        assert (sample["crop_seconds"], sample["frames"]) == (0.5, 4000)
        assert sample["duration"] == SECONDS[position]
        assert sample["audio"].tolist() == wave(position)[start : start + 4000].tolist()
        assert sample["audio"].flags.writeable
        starts.add(start)
    assert len(starts) == 10


@pytest.mark.parametrize("position", [0, 3])
def test_a_clip_that_is_not_longer_is_kept_whole(reader: DatasetReader, position: int) -> None:
    sample = load(reader, position, 7)
    assert sample["audio"].tolist() == wave(position).tolist()
    assert sample["crop_offset"] == 0
    assert sample["crop_seconds"] == SECONDS[position]


def test_a_clip_that_is_not_longer_can_be_padded_with_zeros(reader: DatasetReader) -> None:
    sample = load(reader, 0, crop=Crop(0.5, short_clips="pad"))
    assert sample["audio"].shape == (4000,)
    assert sample["audio"][:800].tolist() == wave(0).tolist()
    assert not sample["audio"][800:].any()
    assert (sample["frames"], sample["crop_seconds"]) == (4000, 0.1)


@pytest.mark.parametrize("to_rate", [16000, 11025, 6000])
def test_a_resampled_window_has_the_length_that_its_seconds_say(
    reader: DatasetReader, to_rate: int
) -> None:
    for position in (1, 2, 4):
        sample = load(reader, position, sample_rate=to_rate, crop=Crop(0.333))
        assert len(sample["audio"]) == sample["frames"] == round(0.333 * to_rate)
        assert sample["sample_rate"] == to_rate


def test_the_window_depends_on_seed_epoch_and_position_alone(reader: DatasetReader) -> None:
    def offsets(seed: int, epoch: int) -> list[float]:
        return [load(reader, i, epoch, crop=Crop(0.5, seed))["crop_offset"] for i in (1, 2, 4)]

    assert offsets(3, 1) == offsets(3, 1)
    assert len({tuple(offsets(seed, epoch)) for seed in (0, 3) for epoch in (0, 1)}) == 4
    # As words 1, 2 and 4 of the stream say, for ever.
    words = random_words(3, 1, Purpose.CROP_OFFSET, stop=5).tolist()
    places = [(1, 4000), (2, 16000), (4, 28000)]
    assert offsets(3, 1) == [(words[i] * (room + 1) >> 64) / RATE for i, room in places]


def test_a_golden_window_does_not_move() -> None:
    crop = Crop(0.5, seed=7)
    found = [
        crop.span(Draw(2, position), 16000, RATE).start for position in (0, 1, 1023, 1024, 10**9)
    ]
    assert found == [194, 2965, 10709, 5475, 9512]


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**40),
    st.integers(0, 10**7),
    st.integers(1, 192000),
    st.floats(0.001, 100),
)
def test_a_window_lies_inside_its_clip(
    seed: int, epoch: int, position: int, frames: int, rate: int, seconds: float
) -> None:
    crop = Crop(seconds, seed)
    span = crop.span(Draw(epoch, position), frames, rate)
    assert 0 <= span.start <= span.start + span.frames <= frames
    assert span.frames == min(frames, crop.frames_at(rate))
    assert span.whole == (frames <= crop.frames_at(rate))


def test_all_starts_are_equally_likely() -> None:
    crop = Crop(0.5)
    room = 9
    met = Counter(crop.span(Draw(0, i), 4000 + room, RATE).start for i in range(20000))
    assert sorted(met) == list(range(room + 1))
    # Six standard deviations.
    assert max(abs(count - 2000) for count in met.values()) < 6 * (2000 * 0.9) ** 0.5


def damaged(path: Path, copy: Path, number: int, start: float, stop: float) -> DatasetReader:
    """A copy of the dataset, with zeros over a share of a clip's bytes."""
    shutil.copytree(path, copy)
    index = DatasetReader.open(copy).shard(0).index
    size = index.payload_bytes[number]
    with (copy / "shard_00000" / "data.mdb").open("r+b") as file:
        file.seek(index.payload_offset[number] + int(start * size))
        file.write(bytes(int((stop - start) * size)))
    return DatasetReader.open(copy)


def test_only_the_window_is_decoded(path: Path, tmp_path: Path) -> None:
    reader = damaged(path, tmp_path / "copy", 4, 0.5, 0.8)
    good = bad = 0
    for epoch in range(30):
        start = Crop(0.5).span(Draw(epoch, 4), 32000, RATE).start
        if start + 4000 < 12000:
            sample = load(reader, 4, epoch)
            assert sample["audio"].tolist() == wave(4)[start : start + 4000].tolist()
            good += 1
        elif 17000 < start < 24500:
            with pytest.raises(AudioError, match="shard_00000: sample 'clip-4'"):
                load(reader, 4, epoch)
            bad += 1
    assert good > 5
    assert bad > 3


def test_a_clip_that_is_taken_whole_is_checked_whole(path: Path, tmp_path: Path) -> None:
    reader = damaged(path, tmp_path / "copy", 0, 0.5, 0.6)
    with pytest.raises(CorruptRecordError, match="clip-0"):
        load(reader, 0)


@pytest.mark.parametrize("form", ["WAV", "OGG", "MP3"])
def test_crops_of_every_format_are_exact_windows(tmp_path: Path, form: str) -> None:
    with DatasetWriter(tmp_path / "clips") as writer:
        writer.write("clip", {"audio": encoded(4, form)})
    reader = DatasetReader.open(tmp_path / "clips")
    whole = SampleLoader(reader, LoadOptions()).load(0)["audio"]
    sample = load(reader, 0, 3)
    start = round(sample["crop_offset"] * RATE)
    np.testing.assert_array_equal(sample["audio"], whole[start : start + 4000])


def test_crops_work_on_arrays_and_on_several_channels(tmp_path: Path) -> None:
    stereo = np.stack([wave(2), -wave(2)], axis=1).astype(np.float32)
    with DatasetWriter(tmp_path / "clips") as writer:
        writer.write("clip", {"audio": stereo, "sample_rate": RATE})
    reader = DatasetReader.open(tmp_path / "clips")
    sample = load(reader, 0)
    start = round(sample["crop_offset"] * RATE)
    np.testing.assert_array_equal(sample["audio"], stereo[start : start + 4000])
    padded = load(reader, 0, crop=Crop(5.0, short_clips="pad"))
    assert padded["audio"].shape == (40000, 2)
    assert load(reader, 0, mono=True)["audio"].shape == (4000,)


def test_fields_select_what_is_loaded_and_crops_keep_their_label(
    reader: DatasetReader,
) -> None:
    assert set(load(reader, 2, fields=["audio"])) == {
        "__key__",
        "audio",
        "crop_offset",
        "crop_seconds",
    }
    assert set(load(reader, 2, fields=["text"])) == {"__key__", "text"}


def test_the_processor_gets_the_window(reader: DatasetReader) -> None:
    sample = load(reader, 2, processor=lambda s: {"size": len(s["audio"])})
    assert sample == {"__key__": "clip-2", "size": 4000}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds is 0"):
        Crop(0)
    with pytest.raises(ValueError, match="seconds is inf"):
        Crop(float("inf"))
    with pytest.raises(ValueError, match="seconds is '2', expected more than 0"):
        Crop("2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must be a whole number"):
        Crop(1, seed=-1)
    with pytest.raises(ValueError, match="short_clips is 'drop'"):
        Crop(1, short_clips="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a crop of 1 seconds .* leave decode=True"):
        LoadOptions(decode=False, crop=Crop(1))


def test_a_batch_by_seconds_counts_the_cropped_duration() -> None:
    clips = np.array([0.5, 2.0, 7.0, np.nan])
    assert np.array_equal(Crop(2.0).lasts(clips), [0.5, 2.0, 2.0, np.nan], equal_nan=True)
    padded = Crop(2.0, short_clips="pad").lasts(clips)
    assert np.array_equal(padded, [2.0, 2.0, 2.0, np.nan], equal_nan=True)
