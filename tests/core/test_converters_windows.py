"""Windows whose ends are near the end of their file, or beyond it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiomdb.audio import AudioWindow, encode, probe
from audiomdb.errors import AudioError
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader
from tests.core.conversions import Listed, digests, rejections

RATE = 8000
FILES = Path(__file__).parent.parent / "data" / "audio"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A file of 2 s."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE).astype(np.float32)
    path = tmp_path / "long.flac"
    path.write_bytes(encode(noise, RATE))
    return path


@pytest.mark.parametrize(("offset", "duration"), [(1.9, 10.0), (0.0, 2.3), (1.0, 1.26)])
def test_a_window_that_reaches_well_past_the_end_is_refused_by_key_and_by_both_ends(
    recording: Path, offset: float, duration: float
) -> None:
    items = [("a", {"audio": AudioWindow(recording, offset, duration), "text": "of ten seconds"})]
    out = recording.parent / "out"
    with pytest.raises(
        AudioError, match=r"long\.flac from .*'a'\): the audio ends at 2\.000 s"
    ) as no:
        Listed(items, out).run()
    assert f"to {offset + duration:.3f} s" in str(no.value)
    report = Listed(items, out, on_error="skip").run()
    assert (report.samples, report.rejected) == (0, 1)
    assert "the audio ends at 2.000 s" in rejections(out)[0]["reason"]


@pytest.mark.parametrize("duration", [0.5, 0.54, 0.74])
def test_a_window_that_reaches_a_little_past_the_end_is_shorter_and_reported(
    recording: Path, duration: float, caplog: pytest.LogCaptureFixture
) -> None:
    window = AudioWindow(recording, 1.5, duration)
    items = [("a", {"audio": window, "duration": duration})]
    report = Listed(items, recording.parent / "out").run()
    assert DatasetReader.open(recording.parent / "out")["a"]["frames"] == RATE // 2
    wrong = duration == 0.74
    assert report.contradictions == ({"duration": 1} if wrong else {})
    assert ("has duration 0.5, while the source says 0.74" in caplog.text) == wrong


def stored(out: Path, audio: object, **options: object) -> Sample:
    Listed([("a", {"audio": audio})], out, **options).run()
    return DatasetReader.open(out)["a"]


LOSSY = ["mp3/mp3_vbr_16k_mono.mp3", "ogg/ogg_opus_8k_mono.opus", "ogg/ogg_vorbis_16k_mono.ogg"]


@pytest.mark.parametrize("name", [*LOSSY, "wav/wav_u8_16k_mono.wav", "flac/flac_s24_16k_mono.flac"])
def test_a_window_of_all_of_a_file_is_stored_as_the_file(tmp_path: Path, name: str) -> None:
    path = FILES / name
    seconds = probe(path).duration
    assert seconds is not None
    whole = stored(tmp_path / "whole", path)
    ends = {"exact": seconds, "rounded": round(seconds - 0.005, 2), "past": seconds + 0.2}
    for what, duration in {**ends, "none": None}.items():
        sample = stored(tmp_path / what, AudioWindow(path, 0.0, duration))
        assert sample == whole
        assert sample["audio"] == path.read_bytes()


@pytest.mark.parametrize("duration", [0.06, 0.95])
def test_a_window_that_leaves_out_the_end_of_a_short_file_is_cut(
    tmp_path: Path, duration: float
) -> None:
    path = tmp_path / "short.ogg"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, round((duration + 0.02) * RATE))
    soundfile.write(path, noise, RATE)
    sample = stored(tmp_path / "out", AudioWindow(path, 0.0, duration))
    assert sample["frames"] == round(duration * RATE)
    assert probe(sample["audio"]).container == "FLAC"


def test_a_whole_file_that_is_damaged_is_refused_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "cut.ogg"
    path.write_bytes((FILES / LOSSY[2]).read_bytes()[:-3000])
    for number, window in enumerate((AudioWindow(path, 0.0), AudioWindow(path, 0.0, 2.0))):
        with pytest.raises(AudioError, match=r"cut\.ogg from 0\.000 s to .*'a'"):
            stored(tmp_path / f"{number}", window)


def test_a_whole_file_follows_the_options_of_the_conversion(tmp_path: Path) -> None:
    window = AudioWindow(FILES / "wav/wav_u8_16k_mono.wav", 0.0)
    sample = stored(tmp_path / "out", window, audio_format="flac", sample_rate=8000)
    assert (probe(sample["audio"]).container, sample["sample_rate"]) == ("FLAC", 8000)


def test_whole_files_and_parts_are_the_same_for_any_number_of_workers(
    tmp_path: Path, recording: Path
) -> None:
    paths = [recording, *(FILES / name for name in LOSSY)]
    items = [
        (f"{path.name}-{offset}-{duration}", {"audio": AudioWindow(path, offset, duration)})
        for path in paths
        for offset in (0.0, 0.5)
        for duration in (None, 0.25, probe(path).duration)
        if not (offset and duration and duration > 1)
    ]
    for workers in (1, 3):
        Listed(items, tmp_path / f"{workers}", num_workers=workers).run()
    same = [digests(tmp_path / f"{n}" / "shard_00000") for n in (1, 3)]
    assert same[0] == same[1]
