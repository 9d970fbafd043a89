"""AIFF: what COMM announces must be in the SSND chunk."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from audiomdb import audio
from audiomdb.errors import DamagedAudioError


def aiff(subtype: str, keep: int, *, frames: int = 100) -> bytes:
    """An AIFF that announces so many frames, whose SSND chunk has `keep` bytes of samples."""
    out = io.BytesIO()
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, frames)
    soundfile.write(out, samples, 8000, format="AIFF", subtype=subtype)
    encoded = out.getvalue()
    place = encoded.index(b"SSND")
    body = encoded[12:place] + b"SSND" + (8 + keep).to_bytes(4, "big")
    body += encoded[place + 8 :][: 8 + keep] + bytes(keep % 2)
    return b"FORM" + (4 + len(body)).to_bytes(4, "big") + encoded[8:12] + body


@pytest.mark.parametrize(
    ("subtype", "width"),
    [
        ("PCM_S8", 1),
        ("PCM_U8", 1),
        ("PCM_16", 2),
        ("PCM_24", 3),
        ("FLOAT", 4),
        ("DOUBLE", 8),
        ("ULAW", 1),
        ("ALAW", 1),
    ],
)
def test_aiff_with_fewer_samples_than_announced_is_damaged(subtype: str, width: int) -> None:
    assert len(audio.decode(aiff(subtype, 100 * width))[0]) == 100
    for held in (0, 1, 50, 99):
        for use in (audio.decode, audio.check, audio.probe):
            with pytest.raises(DamagedAudioError, match=f"announces 100 frames and holds {held}:"):
                use(aiff(subtype, held * width))


@pytest.mark.parametrize(("skipped", "held"), [(2, 99), (100, 50), (2**32 - 1, 0)])
def test_samples_that_are_skipped_do_not_count(skipped: int, held: int) -> None:
    encoded = bytearray(aiff("PCM_16", 200))
    place = encoded.index(b"SSND") + 8
    encoded[place : place + 4] = skipped.to_bytes(4, "big")
    for use in (audio.decode, audio.check, audio.probe):
        with pytest.raises(DamagedAudioError, match=f"announces 100 frames and holds {held}:"):
            use(bytes(encoded))


def test_bytes_before_the_samples_are_skipped() -> None:
    encoded = aiff("PCM_16", 200)
    expected, _ = audio.decode(encoded)
    place = encoded.index(b"SSND")
    sizes = (len(encoded) + 4 - 8, 8 + 4 + 200)
    outer, inner = (size.to_bytes(4, "big") for size in sizes)
    padded = b"FORM" + outer + encoded[8:place] + b"SSND" + inner + (4).to_bytes(4, "big")
    padded += bytes(8) + encoded[place + 16 :]
    assert np.array_equal(audio.decode(padded)[0], expected)
    assert audio.check(padded).frames == 100


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "GSM610", "DWVW_16"])
def test_aiff_in_blocks_without_any_is_damaged(subtype: str) -> None:
    with pytest.raises(DamagedAudioError, match="holds 0"):
        audio.decode(aiff(subtype, 0))


def test_aiff_that_announces_no_frames_is_empty() -> None:
    assert audio.decode(aiff("PCM_16", 0, frames=0))[0].shape == (0,)
