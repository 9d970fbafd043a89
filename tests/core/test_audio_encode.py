"""Encoding: what comes back, what is refused, and the same bytes every time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from audiomdb import audio
from audiomdb.audio.ogg_pages import checksum
from audiomdb.errors import AudioError

FILES = Path(__file__).parent.parent / "data" / "audio"
FORMATS = ["flac", "wav", "opus", "vorbis", "mp3"]
SHAPES = st.one_of(
    st.tuples(st.integers(1, 5000)),
    st.tuples(st.integers(8, 3000), st.integers(1, 8)),
)


def tone(frames: int = 8000) -> np.ndarray:
    return (0.4 * np.sin(np.arange(frames) / 7)).astype(np.float32)


@settings(max_examples=80)
@given(
    samples=arrays.arrays(np.int16, SHAPES),
    rate=st.sampled_from([8000, 11025, 16000, 44100, 48000, 96000, 12345]),
    kind=st.sampled_from(["flac", "wav"]),
)
def test_integers_come_back_unchanged(samples: np.ndarray, rate: int, kind: str) -> None:
    encoded = audio.encode(samples, rate, kind)
    expected = samples if samples.ndim == 1 or samples.shape[1] > 1 else samples[:, 0]
    decoded, its_rate = audio.decode(encoded)
    assert its_rate == rate
    assert np.array_equal(decoded * 32768, expected)
    assert audio.check(encoded).frames == len(samples)
    with audio.only_libsndfile():
        assert np.array_equal(audio.decode(encoded)[0], decoded)


@settings(max_examples=60)
@given(
    samples=arrays.arrays(
        np.float32, st.integers(1, 2000), elements=st.floats(-2, 2, width=32, allow_nan=False)
    )
)
def test_floats_are_rounded_to_16_bits_and_clipped(samples: np.ndarray) -> None:
    decoded, _ = audio.decode(audio.encode(samples, 16000))
    expected = np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767) / 32768
    assert np.array_equal(decoded, expected)


def test_decoding_and_encoding_again_changes_nothing() -> None:
    decoded, rate = audio.decode(FILES / "flac/flac_s16_level5_16k_mono.flac")
    again, _ = audio.decode(audio.encode(decoded, rate))
    assert np.array_equal(again, decoded)


def test_double_precision_is_rounded_once() -> None:
    samples = np.array([0.5 / 32768 + 1e-12, 0.5 / 32768 - 1e-12, 1.0, -1.0])
    decoded, _ = audio.decode(audio.encode(samples, 16000))
    assert (decoded * 32768).tolist() == [1, 0, 32767, -32768]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_gives_the_same_bytes_again_and_the_clip_back(
    kind: str, channels: int
) -> None:
    samples = np.stack([tone(), tone()[::-1]], axis=1)[:, :channels]
    encoded = audio.encode(samples, 16000, kind)
    assert audio.encode(samples.copy(order="F"), 16000, kind) == encoded
    decoded, rate = audio.decode(encoded)
    assert rate == 16000
    assert decoded.shape == ((8000,) if channels == 1 else (8000, 2))
    error = decoded.reshape(8000, channels) - samples
    assert np.sqrt(np.mean(error[1000:-1000] ** 2)) < 0.05


@pytest.mark.parametrize("kind", FORMATS)
def test_integers_and_equal_floats_encode_to_the_same_bytes(kind: str) -> None:
    integers = np.rint(tone() * 32768).astype(np.int16)
    as_floats = integers / np.float32(32768)
    assert audio.encode(integers, 16000, kind) == audio.encode(as_floats, 16000, kind)


@pytest.mark.parametrize("kind", ["opus", "vorbis"])
def test_ogg_pages_carry_one_serial_and_right_checksums(kind: str) -> None:
    encoded = audio.encode(tone(48000), 16000, kind)
    pages = [b"OggS" + page for page in encoded.split(b"OggS")[1:]]
    assert len(pages) > 2
    assert {page[14:18] for page in pages} == {b"AMDB"}
    for page in pages:
        assert int.from_bytes(page[22:26], "little") == checksum(page[:22] + bytes(4) + page[26:])
    soundfile.read(io.BytesIO(encoded))


def test_ogg_checksum_is_that_of_other_encoders() -> None:
    encoded = (FILES / "ogg/ogg_vorbis_16k_mono.ogg").read_bytes()
    page = encoded[: encoded.index(b"OggS", 4)]
    stored = int.from_bytes(page[22:26], "little")
    assert checksum(page[:22] + bytes(4) + page[26:]) == stored


@pytest.mark.parametrize("kind", ["wav", "vorbis"])
def test_empty_clip_is_written_to_formats_that_can_hold_it(kind: str) -> None:
    decoded, rate = audio.decode(audio.encode(np.empty(0, np.float32), 16000, kind))
    assert decoded.shape == (0,)
    assert rate == 16000


@pytest.mark.parametrize("kind", ["flac", "opus", "mp3"])
def test_empty_clip_is_refused_for_formats_that_cannot_hold_it(kind: str) -> None:
    with pytest.raises(AudioError, match="0 frames"):
        audio.encode(np.empty(0, np.float32), 16000, kind)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", [(2, 16000), (1, 1000), (8, 9)])
def test_channels_before_frames_is_refused_with_a_hint(kind: str, shape: tuple[int, int]) -> None:
    with pytest.raises(AudioError, match=r"torchaudio.*pass audio\.T"):
        audio.encode(np.zeros(shape, np.float32), 16000, kind)


@pytest.mark.parametrize("kind", ["flac", "wav"])
@pytest.mark.parametrize("shape", [(1, 2), (2, 3), (1, 8)])
def test_clip_of_fewer_frames_than_channels_comes_back(kind: str, shape: tuple[int, int]) -> None:
    samples = np.arange(shape[0] * shape[1], dtype=np.int16).reshape(shape)
    decoded, _ = audio.decode(audio.encode(samples, 16000, kind))
    assert np.array_equal(decoded * 32768, samples)


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("opus", [8000, 12000, 16000, 24000, 48000]),
        ("mp3", [8000, 11025, 22050, 44100, 48000]),
        ("flac", [1, 44100, 65535, 65540, 96000, 384_000, 655_350]),
        ("vorbis", [1, 8001, 44100, 192_000, 200_000]),
        ("wav", [1, 44101, 2**31 - 1]),
    ],
)
def test_legal_rates_are_written(kind: str, rates: list[int]) -> None:
    for rate in rates:
        audio.check_rate(kind, rate)
        assert audio.check(audio.encode(tone(4000), rate, kind)).sample_rate == rate


@pytest.mark.parametrize(
    ("kind", "rate", "words"),
    [
        (
            "opus",
            22050,
            "only at 8000, 12000, 16000, 24000, 48000 Hz; the closest are 16000",
        ),
        ("opus", 1, "the closest is 8000"),
        ("opus", 44100, "the closest are 24000 and 48000"),
        ("mp3", 96000, "the closest is 48000"),
        ("flac", 65536, "1 to 65535 Hz and multiples of 10 to 655350; .* 65535 and 65540"),
        ("flac", 352_801, "the closest are 352800 and 352810"),
        ("flac", 700_000, "the closest is 655350"),
        ("flac", 10**10, "the closest is 655350"),
        ("vorbis", 200_001, "only at 1 to 200000 Hz; the closest is 200000"),
        ("wav", 10**10, "the closest is 2147483647"),
        ("wav", 0, "0 Hz, only at 1 to 2147483647 Hz; the closest is 1"),
        ("wav", -5, "-5 Hz"),
        ("wav", 8000.5, "sample_rate is 8000.5, expected a whole number"),
        ("flac", "16000", "sample_rate is '16000', expected a whole number"),
        ("aac", 16000, "not one of flac, wav, opus, vorbis, mp3"),
    ],
)
def test_illegal_rate_is_refused_with_the_closest_legal_ones(
    kind: str, rate: Any, words: str
) -> None:
    with pytest.raises(AudioError, match=words):
        audio.check_rate(kind, rate)
    with pytest.raises(AudioError, match=words):
        audio.encode(tone(), rate, kind)


@pytest.mark.parametrize(
    ("samples", "rate", "kind", "words"),
    [
        (np.zeros(9, np.float32), 16000, "aac", "not one of flac, wav, opus, vorbis, mp3"),
        (np.zeros((2, 2, 2), np.float32), 16000, "flac", "frames, channels"),
        (np.zeros(9, np.int32), 16000, "flac", "float or int16, not int32"),
        (np.zeros((20, 9), np.int16), 16000, "flac", "1 to 8 channels"),
        (np.zeros((20, 3), np.int16), 16000, "mp3", "1 to 2 channels"),
        (np.zeros((20, 6), np.int16), 16000, "vorbis", "last of 6 channels for a subwoofer's"),
        (np.zeros((20, 8), np.int16), 16000, "opus", "last of 8 channels for a subwoofer's"),
        (np.zeros((20, 0), np.int16), 16000, "flac", "channels"),
        (np.zeros(9, np.float32), 22050, "opus", "only at 8000, 12000, 16000, 24000, 48000"),
        (np.zeros(9, np.float32), 96000, "mp3", "the closest is 48000"),
        (np.zeros(9, np.float32), 0, "flac", "0 Hz"),
        (np.zeros(9, np.float32), 10_000_000, "flac", "10000000 Hz"),
        (np.array([0, np.nan, np.inf], np.float32), 16000, "flac", "2 NaN or infinite"),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    samples: np.ndarray, rate: int, kind: str, words: str
) -> None:
    with pytest.raises(AudioError, match=words):
        audio.encode(samples, rate, kind)


@pytest.mark.parametrize("kind", ["opus", "vorbis", "mp3"])
@pytest.mark.parametrize("scale", [2.0**15, 2.0**31, -1e300])
def test_floats_in_the_range_of_integers_are_refused_not_silenced(kind: str, scale: float) -> None:
    with pytest.raises(AudioError, match=r"audio reaches .*, while full scale is 1"):
        audio.encode(np.sin(np.arange(30_000) / 20) * scale, 16_000, kind)
    audio.encode(np.sin(np.arange(30_000) / 20) * 999, 16_000, kind)


@pytest.mark.parametrize(
    ("kind", "channels"),
    [
        *(("flac", channels) for channels in range(3, 9)),
        *(("wav", channels) for channels in range(3, 9)),
        *(("opus", channels) for channels in (3, 4, 5)),
        *(("vorbis", channels) for channels in (3, 4, 5, 7, 8)),
    ],
)
def test_every_channel_of_a_microphone_array_is_kept(kind: str, channels: int) -> None:
    time = np.arange(16000) / 16000
    samples = np.stack([np.sin(2 * np.pi * 440 * (c + 1) * time) / 4 for c in range(channels)], 1)
    decoded, _ = audio.decode(audio.encode(samples.astype(np.float32), 16000, kind))
    pitches = np.argmax(np.abs(np.fft.rfft(decoded[:16000], axis=0)), axis=0)
    assert np.abs(pitches - 440 * np.arange(1, channels + 1)).max() < 5
