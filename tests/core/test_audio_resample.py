"""Resampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soxr

from audiomdb import audio
from audiomdb.errors import AudioError


@pytest.mark.parametrize("channels", [None, 1, 2])
def test_result_is_soxr_at_high_quality(channels: int | None) -> None:
    shape = (4410,) if channels is None else (4410, channels)
    samples = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    resampled = audio.resample(samples, 44100, 16000)
    assert np.array_equal(resampled, soxr.resample(samples, 44100, 16000, quality="HQ"))
    assert resampled.dtype == np.float32
    assert resampled.flags.c_contiguous
    assert resampled.flags.writeable


def test_tone_keeps_its_pitch_and_level() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(48000) / 48000)
    resampled = audio.resample(tone, 48000, 16000)
    expected = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(resampled - expected)[200:-200].max() < 1e-4


@pytest.mark.parametrize("frames", [0, 7])
def test_same_rate_copies(frames: int) -> None:
    samples = np.ones(frames, np.float32)
    same = audio.resample(samples, 16000, 16000)
    assert np.array_equal(same, samples)
    assert not np.shares_memory(same, samples)


@pytest.mark.parametrize("shape", [(0,), (0, 2)])
def test_nothing_stays_nothing(shape: tuple[int, ...]) -> None:
    assert audio.resample(np.empty(shape, np.float32), 16000, 8000).shape == shape


@pytest.mark.parametrize("frames", [1, 2, 10])
def test_very_short_audio_is_resampled(frames: int) -> None:
    assert len(audio.resample(np.ones(frames, np.float32), 16000, 48000)) == frames * 3


@pytest.mark.parametrize("rates", [(0, 16000), (16000, 0), (-1, 16000)])
def test_impossible_rates_are_refused(rates: tuple[int, int]) -> None:
    with pytest.raises(AudioError, match="positive"):
        audio.resample(np.ones(5, np.float32), *rates)


@pytest.mark.parametrize(
    ("rates", "says"), [((10**15, 16000), "below 4294967296"), ((1, 16000), "over 256 times")]
)
def test_rates_that_no_audio_has_are_refused(rates: tuple[int, int], says: str) -> None:
    with pytest.raises(AudioError, match=says):
        audio.resample(np.ones(5, np.float32), *rates)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int64", "float32"])
def test_rates_may_be_numbers_of_numpy(dtype: str) -> None:
    samples = np.random.default_rng(0).standard_normal(800).astype(np.float32)
    kind = np.dtype(dtype).type
    expected = audio.resample(samples, 8000, 16_000)
    assert np.array_equal(audio.resample(samples, kind(8000), kind(16_000)), expected)


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(AudioError, match="frames"):
        audio.resample(np.ones((2, 2, 2), np.float32), 16000, 8000)


@pytest.mark.parametrize("rate", ["16k", None, True, 0, -8000, float("nan"), float("inf")])
def test_a_rate_that_is_not_a_number_of_hz_is_refused(rate: Any) -> None:
    with pytest.raises(AudioError, match=repr(rate)):
        audio.resample(np.zeros(10, np.float32), 8000, rate)
