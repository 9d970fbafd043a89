"""Options of decoding that are the same for every format."""

from __future__ import annotations

import mmap
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiomdb import audio
from audiomdb.errors import AudioError, DamagedAudioError

FILES = Path(__file__).parent.parent / "data" / "audio"
FLAC = FILES / "flac/flac_s16_level5_16k_mono.flac"


def stereo(frames: int = 4000) -> np.ndarray:
    times = np.arange(frames) / 16000
    return np.stack([np.sin(times * 900), 0.5 * np.cos(times * 300)], axis=1).astype(np.float32)


def test_mono_is_the_mean_of_the_channels() -> None:
    encoded = audio.encode(stereo(), 16000)
    both, _ = audio.decode(encoded)
    one, rate = audio.decode(encoded, mono=True)
    assert one.shape == (4000,)
    assert rate == 16000
    assert np.array_equal(one, both.mean(axis=1, dtype=np.float32))
    assert one.flags.writeable


def test_mono_leaves_a_clip_of_one_channel_alone() -> None:
    assert np.array_equal(audio.decode(FLAC, mono=True)[0], audio.decode(FLAC)[0])


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_sample_rate_resamples_and_is_returned(rate: int) -> None:
    original, _ = audio.decode(FLAC)
    decoded, its_rate = audio.decode(FLAC, sample_rate=rate)
    assert its_rate == rate
    assert np.array_equal(decoded, audio.resample(original, 16000, rate))
    assert abs(len(decoded) - len(original) * rate / 16000) <= 1


def test_own_sample_rate_changes_nothing() -> None:
    assert np.array_equal(audio.decode(FLAC, sample_rate=16000)[0], audio.decode(FLAC)[0])


def test_recorded_number_of_frames_is_compared_with_a_whole_decode() -> None:
    audio.decode(FLAC, frames=30393)
    with pytest.raises(DamagedAudioError, match="30393 frames, but 30000 were recorded"):
        audio.decode(FLAC, frames=30000)
    audio.decode(FLAC, frames=30000, duration=0.5)


def test_float_files_keep_values_beyond_one_nan_and_infinity(tmp_path: Path) -> None:
    samples = np.array([0.0, 5.0, -7.5, np.nan, np.inf, -np.inf], np.float32)
    soundfile.write(tmp_path / "f.wav", samples, 16000, subtype="FLOAT")
    decoded, _ = audio.decode(tmp_path / "f.wav")
    assert np.array_equal(decoded, samples, equal_nan=True)


def test_result_is_the_callers_own_memory() -> None:
    encoded = audio.encode(np.zeros(100, np.int16), 16000, "wav")
    first, _ = audio.decode(encoded)
    first += 1
    second, _ = audio.decode(encoded)
    assert not second.any()


def test_view_into_a_memory_map_is_decoded_in_place(tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(b"before" + FLAC.read_bytes() + b"behind")
    with (tmp_path / "shard").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=1) as mapped:
        view = memoryview(mapped)
        part = view[6 : 6 + FLAC.stat().st_size]
        decoded, _ = audio.decode(part)
        windowed, _ = audio.decode(part, offset=1.0)
        part.release()
        view.release()  # the map cannot close while anything still points into it
    assert np.array_equal(decoded, audio.decode(FLAC)[0])
    assert np.array_equal(windowed, decoded[16000:])


def test_view_with_gaps_is_decoded() -> None:
    spread = np.zeros((FLAC.stat().st_size, 2), np.uint8)
    spread[:, 0] = np.frombuffer(FLAC.read_bytes(), np.uint8)
    decoded, _ = audio.decode(spread[:, 0].data)
    assert np.array_equal(decoded, audio.decode(FLAC)[0])


def test_many_threads_decode_at_once() -> None:
    files = [p for p in sorted(FILES.glob("*/*_16k_mono.*")) if "broken" not in str(p)]
    expected = [audio.decode(path)[0] for path in files]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for got, want in zip(pool.map(audio.decode, files), expected, strict=True):
                assert np.array_equal(got[0], want)


def test_decoders_tells_what_is_used() -> None:
    try:
        import miniaudio  # noqa: F401

        fast = "dr_flac"
    except ImportError:
        fast = "libsndfile"
    assert audio.decoders() == {"FLAC": fast, "WAV": "numpy", "other": "libsndfile"}
    with audio.only_libsndfile():
        assert set(audio.decoders().values()) == {"libsndfile"}
    assert audio.decoders()["WAV"] == "numpy"


def test_missing_miniaudio_leaves_libsndfile(monkeypatch: pytest.MonkeyPatch) -> None:
    from audiomdb.audio import fast_decoders

    expected, _ = audio.decode(FLAC)
    fast_decoders._dr_flac.cache_clear()
    monkeypatch.setitem(sys.modules, "_miniaudio", None)
    try:
        assert audio.decoders()["FLAC"] == "libsndfile"
        assert np.array_equal(audio.decode(FLAC)[0], expected)
    finally:
        fast_decoders._dr_flac.cache_clear()


@pytest.mark.parametrize("rate", [0, -16000])
def test_impossible_sample_rate_is_refused(rate: int) -> None:
    with pytest.raises(AudioError, match="positive"):
        audio.decode(FLAC, sample_rate=rate)


def test_bytes_around_the_frames_of_a_flac_are_ignored() -> None:
    encoded = FLAC.read_bytes()
    block = b"\x02" + (300_000).to_bytes(3, "big") + bytes(300_000)  # an application's own
    with_block = encoded[:42] + block + encoded[42:]
    with_tag = encoded + b"TAG" + bytes(125)
    with_large_tail = encoded + bytes(20_000)
    expected, _ = audio.decode(encoded)
    for changed in (with_block, with_tag, with_large_tail):
        assert np.array_equal(audio.decode(changed)[0], expected)
        assert audio.probe(changed).frames == 30393


@pytest.mark.parametrize("frames", [None, "recorded"])
@pytest.mark.parametrize("audio_format", ["flac", "wav", "vorbis"])
def test_a_clip_is_decoded_into_an_array_of_its_shape(audio_format: str, frames: Any) -> None:
    encoded = memoryview(audio.encode(np.sin(np.arange(8000) / 9), 8000, audio_format))
    expected, _ = audio.decode(encoded)
    count = len(expected) if frames else None
    out = np.empty(len(expected), np.float32)
    assert audio.decode(encoded, frames=count, out=out)[0] is out
    assert np.array_equal(out, expected)
    other = np.empty(len(expected) + 1, np.float32)
    assert np.array_equal(audio.decode(encoded, frames=count, out=other)[0], expected)


@pytest.mark.parametrize(
    "out",
    [
        np.empty(8000, np.int16),
        np.empty(8000, np.float64),
        np.empty(8000, ">f4"),
        np.empty(16000, np.float32)[::2],
        np.frombuffer(bytes(4 * 8000), np.float32),
    ],
)
def test_an_array_that_cannot_be_decoded_into_is_refused(out: np.ndarray) -> None:
    before = out.copy()
    encoded = audio.encode(np.sin(np.arange(8000) / 9), 8000)
    with pytest.raises(ValueError, match="expected C-contiguous, writable float32"):
        audio.decode(encoded, out=out)
    np.testing.assert_array_equal(out, before)


@pytest.mark.parametrize("kind", ["flac", "vorbis", "mp3"])
def test_a_clip_longer_than_recorded_is_not_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = audio.encode(np.zeros(16_000 * 60, np.float32), 16_000, kind)
    monkeypatch.setattr("audiomdb.audio.base_decoder.Decoder.read_all", None)
    monkeypatch.setattr("audiomdb.audio.decoding.decode_flac", None)
    with pytest.raises(DamagedAudioError, match="960000 frames, but 800 were recorded"):
        audio.decode(silence, frames=800)
