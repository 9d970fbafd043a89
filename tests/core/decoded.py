"""What tests of decoding share: how much of a clip libsndfile was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soundfile

__all__ = ["count_decoded"]


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what will hold the number of frames of each read from now on."""
    decoded: list[int] = []
    read = soundfile.SoundFile.read

    def reading(*args: Any, **options: Any) -> np.ndarray:
        part: np.ndarray = read(*args, **options)
        decoded.append(len(part))
        return part

    monkeypatch.setattr(soundfile.SoundFile, "read", reading)
    return decoded
