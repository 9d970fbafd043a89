"""Windows of large FLACs in memory are decoded from a part of the file."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiomdb import audio
from audiomdb.audio import base_decoder, flac, handle, source
from audiomdb.audio.cutting import Cutter
from audiomdb.audio.flac_frames import read_frame_header
from audiomdb.errors import DamagedAudioError

FILES = sorted((Path(__file__).parent.parent / "data/audio/flac").iterdir())
RATE = 16_000
BLOCK = 4096


def noise(seconds: int, channels: int = 1) -> np.ndarray:
    """Of 16 bits and full scale, which FLAC stores as it is."""
    shape = (seconds * RATE, channels) if channels > 1 else seconds * RATE
    return np.random.default_rng(0).integers(-(2**15), 2**15, shape, np.int16)


def encoded(samples: np.ndarray, rate: int = RATE) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def assert_slices(octets: bytes, seed: int = 0) -> None:
    whole, rate = audio.decode(octets)
    chosen = random.Random(seed)
    total = len(whole)
    places = [(0, 10), (0, BLOCK), (1, BLOCK), (BLOCK, BLOCK), (total - 1, 1), (total // 2, 0)]
    for _ in range(20):
        start = chosen.randrange(total)
        places.append((start, chosen.randrange(min(total - start, 3 * BLOCK) + 1)))
    for start, count in places:
        part, _ = audio.decode(octets, offset=start / rate, duration=count / rate)
        assert np.array_equal(part, whole[start : start + count]), (start, count)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what libsndfile was given to read."""
    sizes: list[int] = []

    def handle_of(view: memoryview) -> handle.Handle:
        sizes.append(len(view))
        return handle.handle_of(view)

    monkeypatch.setattr(base_decoder, "handle_of", handle_of)
    monkeypatch.setattr(source, "handle_of", handle_of)
    return sizes


@pytest.mark.parametrize("channels", [1, 2])
def test_a_window_of_a_long_flac_takes_a_part_of_it(given: list[int], channels: int) -> None:
    octets = encoded(noise(120, channels))
    whole, _ = audio.decode(octets)
    given.clear()
    for offset in (0, 17, 60, 118):
        part, _ = audio.decode(octets, offset=offset, duration=2)
        assert np.array_equal(part, whole[offset * RATE : (offset + 2) * RATE])
    assert len(given) == 4
    assert max(given) < len(octets) / 20


def test_windows_of_one_sample_or_of_the_whole_clip_are_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert_slices(encoded(noise(60)))
    monkeypatch.setattr(flac, "SMALLEST_SEARCHED", 0)
    for path in FILES:
        assert_slices(path.read_bytes())


def test_windows_one_after_another_open_few_decoders(given: list[int]) -> None:
    samples = noise(120)
    with Cutter(encoded(samples)) as cutter:
        for second in range(100):
            part, _ = cutter.cut(second, 1.0)
            expected = samples[second * RATE : (second + 1) * RATE] / np.float32(2**15)
            assert np.array_equal(part, expected)
    assert len(given) < 10


def test_samples_that_look_like_flac_frames_are_not_mistaken_for_them() -> None:
    samples = noise(40)
    plain = encoded(samples)
    at = plain.index(b"\xff\xf8", 42)
    assert read_frame_header(plain[at : at + 16]) is not None
    # The headers of later frames, as samples of earlier ones.
    found: list[bytes] = []
    while at >= 0:
        header = read_frame_header(plain[at : at + 16])
        if header is not None and header.number == len(found):
            found.append(plain[at : at + 8])
        at = plain.find(b"\xff\xf8", at + 1)
    assert len(found) == -(-len(samples) // BLOCK)
    for number, octets in enumerate(found[20:]):
        for place in range(1000, 3000, 200):
            start = number * BLOCK + place
            samples[start : start + 4] = np.frombuffer(octets, ">i2")
    spoilt = encoded(samples)
    assert spoilt.count(found[40]) > 1
    assert_slices(spoilt)


def test_only_damage_in_the_window_is_found() -> None:
    octets = bytearray(encoded(noise(60)))
    octets[len(octets) // 2] ^= 1
    audio.decode(bytes(octets), offset=10, duration=2)
    audio.decode(bytes(octets), offset=50, duration=2)
    with pytest.raises(DamagedAudioError):
        audio.decode(bytes(octets), offset=28, duration=4)
