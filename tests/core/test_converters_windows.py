"""Windows whose ends are near the end of their file, or beyond it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audiomdb.audio import AudioWindow, encode
from audiomdb.errors import AudioError
from audiomdb.shards import DatasetReader
from tests.core.conversions import Listed, rejections

RATE = 8000


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
