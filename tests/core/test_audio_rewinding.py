"""Windows that begin before the end of the last one: what they hold, and what they cost."""

from __future__ import annotations

import io
import random
import tracemalloc
from functools import cache

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb import audio
from audiomdb.audio import rewinding
from audiomdb.audio.cutting import Cutter
from tests.core.decoded import count_decoded

RATE = 16_000
SECONDS = 12

CODINGS = {
    "Opus": ("OGG", "OPUS"),
    "Vorbis": ("OGG", "VORBIS"),
    "MP3": ("MP3", "MPEG_LAYER_III"),
    "FLAC": ("FLAC", "PCM_16"),
    "GSM": ("WAV", "GSM610"),
    "AIFF": ("AIFF", "PCM_24"),
}
UNKNOWN, WRONG_BLOCK = "FLAC of unknown length", "FLAC with a wrong smallest block"
MONO_ONLY = ("GSM",)
FORWARD_ONLY = ("Opus", "GSM", UNKNOWN, WRONG_BLOCK)


def encoded(samples: np.ndarray, container: str, subtype: str) -> bytes:
    out = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(out, "w", RATE, channels, subtype, format=container) as file:
        for start in range(0, len(samples), RATE):  # the encoders' stack is small
            file.write(samples[start : start + RATE])
    return out.getvalue()


def of_unknown_length(flac: bytes) -> bytes:
    packed = int.from_bytes(flac[18:26], "big") >> 36 << 36
    return flac[:18] + packed.to_bytes(8, "big") + flac[26:]


@cache
def clip(coding: str, channels: int = 1) -> tuple[bytes, np.ndarray]:
    """Return a clip of noise whose loudness changes, and all that it decodes to."""
    noise = np.random.default_rng(channels)
    loudness = np.repeat(noise.uniform(0.01, 0.9, 4 * SECONDS), RATE // 4)
    samples = noise.uniform(-1, 1, (len(loudness), channels)) * loudness[:, None]
    octets = encoded(samples.squeeze(), *CODINGS.get(coding, CODINGS["FLAC"]))
    if coding == UNKNOWN:
        octets = of_unknown_length(octets)
    elif coding == WRONG_BLOCK:
        octets = octets[:8] + (16).to_bytes(2, "big") + octets[10:]
    return octets, audio.decode(octets)[0]


def assert_slice(cutter: Cutter, whole: np.ndarray, start: int, stop: int) -> None:
    part, _ = cutter.cut(start / RATE, (stop - start) / RATE)
    assert part.shape == whole[start:stop].shape
    assert np.array_equal(part, whole[start:stop])
    part[...] = 7  # it belongs to the caller, and is no part of what is kept


@settings(max_examples=150)
@given(
    st.sampled_from([*CODINGS, UNKNOWN, WRONG_BLOCK]),
    st.integers(1, 2),
    st.sampled_from([1 << 10, 1 << 16, 1 << 24]),
    st.lists(
        st.tuples(st.integers(0, SECONDS * RATE), st.integers(0, 40_000)), min_size=2, max_size=12
    ),
    st.booleans(),
)
def test_windows_in_any_order_are_slices_of_the_whole(
    coding: str, channels: int, kept: int, windows: list[tuple[int, int]], in_order: bool
) -> None:
    octets, whole = clip(coding, 1 if coding in MONO_ONLY else channels)
    if in_order:
        windows = sorted(windows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewinding, "KEPT_BYTES", kept)
        with Cutter(octets) as cutter:
            for start, count in windows:
                if start < len(whole):
                    assert_slice(cutter, whole, start, min(start + count, len(whole)))


@pytest.mark.parametrize("coding", FORWARD_ONLY)
def test_overlapping_windows_decode_a_recording_once(
    monkeypatch: pytest.MonkeyPatch, coding: str
) -> None:
    octets, whole = clip(coding)
    decoded = count_decoded(monkeypatch)
    with Cutter(octets) as cutter:
        assert_slice(cutter, whole, 0, RATE)
        before = len(whole) if coding == UNKNOWN else 0  # to find out how long it is
        for start in range(SECONDS - 2):  # each begins before the last one's end
            assert_slice(cutter, whole, start * RATE, (start + 2) * RATE)
            assert_slice(cutter, whole, start * RATE + 100, start * RATE + 9000)
    assert sum(decoded) - before <= len(whole)


@pytest.mark.parametrize("coding", FORWARD_ONLY)
def test_the_windows_of_a_short_recording_may_be_in_any_order(
    monkeypatch: pytest.MonkeyPatch, coding: str
) -> None:
    octets, whole = clip(coding)
    decoded = count_decoded(monkeypatch)
    starts = list(range(0, (SECONDS - 1) * RATE, RATE // 4))
    random.Random(0).shuffle(starts)
    with Cutter(octets) as cutter:
        for start in starts:
            assert_slice(cutter, whole, start, start + RATE)
    assert sum(decoded) <= 2 * len(whole)


def test_what_is_kept_of_a_long_recording_of_many_channels_has_a_bound() -> None:
    octets = of_unknown_length(encoded(np.zeros((60 * RATE, 8), np.float32), *CODINGS["FLAC"]))
    with Cutter(octets) as cutter:
        cutter.cut(0.0, 1.0)
        tracemalloc.start()
        try:
            for start in range(58):
                cutter.cut(start, 1.5)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 24 << 20  # all of it would be 31 MB
