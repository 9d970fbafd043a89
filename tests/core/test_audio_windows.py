"""Windows are slices of the whole decode."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb import audio
from audiomdb.errors import AudioError

FILES = Path(__file__).parent.parent / "data" / "audio"
SEEKABLE = [
    path
    for folder in ("wav", "flac", "ogg", "mp3", "other", "channels", "headers")
    for path in sorted((FILES / folder).iterdir())
]

READ = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "VOC", "FLAC", "OGG", "MP3")


def mp3(samples: np.ndarray, rate: int, **options: Any) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="MP3", **options)
    return out.getvalue()


@pytest.mark.parametrize("path", SEEKABLE, ids=lambda path: path.name)
@pytest.mark.parametrize("from_path", [True, False])
def test_window_equals_the_slice_of_the_whole(path: Path, from_path: bool) -> None:
    source = path if from_path else path.read_bytes()
    whole, rate = audio.decode(path)
    total = len(whole)
    places = [(0, 100), (1, 1), (total // 3, total // 4), (total - 50, 50), (total // 2, 0)]
    for start, count in places:
        part, its_rate = audio.decode(source, offset=start / rate, duration=count / rate)
        assert its_rate == rate
        assert np.array_equal(part, whole[start : start + count])
        assert part.shape == whole[start : start + count].shape
        assert part.flags.c_contiguous
        assert part.flags.writeable
    tail, _ = audio.decode(source, offset=(total - 1000) / rate)
    assert np.array_equal(tail, whole[-1000:])


def written(samples: np.ndarray, container: str, subtype: str) -> bytes | None:
    """The clip at 8 kHz; None where libsndfile lists the coding and cannot write it."""
    out = io.BytesIO()
    try:
        soundfile.write(out, samples, 8000, format=container, subtype=subtype)
    except soundfile.LibsndfileError:
        return None
    return out.getvalue()


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        (container, subtype)
        for container in READ
        for subtype in soundfile.available_subtypes(container)
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_window_equals_the_slice_in_every_coding(
    container: str, subtype: str, channels: int
) -> None:
    samples = np.random.default_rng(0).standard_normal((8000, channels)) * 0.1
    encoded = written(samples, container, subtype)
    if encoded is None or (container, subtype[1:], channels) == ("VOC", "LAW", 1):
        return  # libsndfile's own A-law and u-law VOC announces a byte too many
    whole, _ = audio.decode(encoded)
    for start, count in [(0, 800), (800, 1600), (4001, 800), (7200, 800)]:
        part, _ = audio.decode(encoded, offset=start / 8000, duration=count / 8000)
        assert np.array_equal(part, whole[start : start + count])


@settings(max_examples=60)
@given(
    start=st.integers(0, 15_999),
    count=st.integers(0, 16_000),
    channels=st.integers(1, 3),
    kind=st.sampled_from(["flac", "wav"]),
)
def test_any_window_of_a_lossless_clip_is_its_slice(
    start: int, count: int, channels: int, kind: str
) -> None:
    samples = np.random.default_rng(channels).integers(-9000, 9000, (16_000, channels), np.int16)
    encoded = audio.encode(samples, 16_000, kind)
    part, _ = audio.decode(encoded, offset=start / 16_000, duration=count / 16_000)
    expected = (
        (samples[start : start + count] / np.float32(32768)).squeeze(axis=-1)
        if (channels == 1)
        else samples[start : start + count] / np.float32(32768)
    )
    assert np.array_equal(part, expected)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize(
    "options",
    [
        {"bitrate_mode": "CONSTANT", "compression_level": 0.9},
        {"bitrate_mode": "CONSTANT", "compression_level": 0.3},
        {"bitrate_mode": "VARIABLE", "compression_level": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("signal", ["sine", "noise"])
def test_mp3_window_deep_inside_equals_the_slice(
    rate: int, options: dict[str, Any], signal: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # A sine fills the bit reservoir, which a decoder that seeks starts without.
    times = np.arange(rate * 8) / rate
    if signal == "sine":
        samples = 0.5 * np.sin(2 * np.pi * 440 * times)
    else:
        samples = np.random.default_rng(0).standard_normal(len(times)) * 0.1
    encoded = mp3(samples.astype(np.float32), rate, **options)
    whole, _ = audio.decode(encoded)
    for start in (rate // 2, 4 * rate + 17, 6 * rate + 1151, 7 * rate):
        for count in (1, 700, rate):
            part, _ = audio.decode(encoded, offset=start / rate, duration=count / rate)
            assert np.array_equal(part, whole[start : start + count])
    assert "error" not in capfd.readouterr().err  # libmpg123 writes there when it stumbles


@pytest.mark.parametrize("seed", range(3))
def test_windows_near_the_end_of_a_vorbis_clip_are_exact(seed: int) -> None:
    # libsndfile's seek leads to other frames here.
    noise = np.random.default_rng(seed)
    loudness = noise.uniform(0, 1, 20) ** 4
    out = io.BytesIO()
    samples = noise.uniform(-0.5, 0.5, 80_000) * np.repeat(loudness, 4000)
    soundfile.write(out, samples, 16_000, format="OGG", subtype="VORBIS")
    whole, rate = audio.decode(out.getvalue())
    for start in (60_000, 75_981, 77_314, 79_000, 79_500, 79_900):
        part, _ = audio.decode(out.getvalue(), offset=start / rate, duration=100 / rate)
        assert np.array_equal(part, whole[start : start + 100])


def test_windows_of_a_flac_with_a_wrong_smallest_block_are_exact() -> None:
    encoded = bytearray((FILES / "flac/flac_s16_level5_16k_mono.flac").read_bytes())
    whole, rate = audio.decode(bytes(encoded))
    encoded[8:10] = (len(whole) % 4096).to_bytes(2, "big")
    for start in range(0, len(whole) - 100, 700):
        part, _ = audio.decode(bytes(encoded), offset=start / rate, duration=100 / rate)
        assert np.array_equal(part, whole[start : start + 100])


@pytest.mark.parametrize("size", [0, 20, 5000, 100_000])
def test_windows_of_a_flac_after_an_id3_tag_are_exact(size: int) -> None:
    encoded = (FILES / "flac/flac_s16_level5_16k_mono.flac").read_bytes()
    whole, rate = audio.decode(encoded)
    lengths = bytes((size >> 21, size >> 14 & 127, size >> 7 & 127, size & 127))
    tagged = b"ID3\x03\0\0" + lengths + bytes(size) + encoded
    for start in range(0, len(whole) - 100, 1500):
        part, _ = audio.decode(tagged, offset=start / rate, duration=100 / rate)
        assert np.array_equal(part, whole[start : start + 100])
    with audio.only_libsndfile():
        assert audio.check(tagged).frames == len(whole)


def test_adjoining_windows_tile_a_clip() -> None:
    path = FILES / "flac/flac_s16_level5_16k_mono.flac"
    whole, _ = audio.decode(path)
    parts = [audio.decode(path, offset=i * 0.3333, duration=0.3333)[0] for i in range(6)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_window_over_the_end_is_shorter() -> None:
    path = FILES / "flac/flac_s16_level5_16k_mono.flac"
    part, _ = audio.decode(path, offset=1.5, duration=10)
    assert len(part) == 30393 - 24000
    whole, _ = audio.decode(path)
    for duration in (1e15, 1e308):
        assert np.array_equal(audio.decode(path, duration=duration)[0], whole)


@pytest.mark.parametrize(
    "name", ["flac/flac_s16_level5_16k_mono.flac", "ogg/ogg_opus_8k_mono.opus"]
)
@pytest.mark.parametrize("offset", [2.0, 1e9, 1e308])
def test_window_behind_the_end_is_refused(name: str, offset: float) -> None:
    with pytest.raises(AudioError, match="is not before the end"):
        audio.decode(FILES / name, offset=offset)


@pytest.mark.parametrize(
    "window",
    [
        {"offset": -0.1},
        {"offset": float("nan")},
        {"offset": float("inf")},
        {"duration": -1.0},
        {"duration": float("nan")},
        {"duration": float("inf")},
    ],
    ids=str,
)
def test_impossible_window_is_refused(window: dict[str, float]) -> None:
    with pytest.raises(AudioError, match="0 or more seconds"):
        audio.decode(FILES / "wav/wav_u8_16k_mono.wav", **window)  # type: ignore[arg-type]


def test_window_of_an_empty_clip_is_empty() -> None:
    for name in ("lengths/flac_0_samples.flac", "lengths/wav_0_samples.wav"):
        part, _ = audio.decode(FILES / name, duration=1.0)
        assert part.shape == (0,)
        with pytest.raises(AudioError, match="is not before the end"):
            audio.decode(FILES / name, offset=1e308)


def test_window_is_resampled_after_it_is_cut() -> None:
    path = FILES / "flac/flac_s16_level5_16k_mono.flac"
    part, _ = audio.decode(path, offset=0.5, duration=0.5)
    resampled, rate = audio.decode(path, offset=0.5, duration=0.5, sample_rate=8000)
    assert rate == 8000
    assert np.array_equal(resampled, audio.resample(part, 16000, 8000))
