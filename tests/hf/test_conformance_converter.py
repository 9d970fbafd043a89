"""`HFConverter` passes the kit, over a dataset that is already in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Audio, Dataset

from audiomdb.audio import encode
from audiomdb.converters.hf import HFConverter
from audiomdb.testing import ConverterConformance


class TestHFConverter(ConverterConformance):
    @pytest.fixture(autouse=True)
    def rows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, (6, 800)).astype(np.float32)
        clips = [{"bytes": encode(audio, 16_000, "flac"), "path": None} for audio in noise]
        columns: dict[str, list[Any]] = {
            "audio": clips,
            "sentence": [f"sentence {number}" for number in range(6)],
            "speaker": [number % 2 for number in range(6)],
        }
        self.data = Dataset.from_dict(columns).cast_column("audio", Audio(sampling_rate=16_000))

    def make_converter(self, output_dir: Path, **options: Any) -> HFConverter:
        return HFConverter(self.data, output_dir, **options)
