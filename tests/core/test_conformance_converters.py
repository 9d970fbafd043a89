"""Core's own converters, and one as the base's documentation writes it, pass the kit."""

from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.audio import encode
from audiomdb.converters.base import BaseConverter
from audiomdb.converters.files import FolderConverter, ManifestConverter
from audiomdb.testing import ConverterConformance
from audiomdb.testing.kits.converters import _OPTIONS

RATE = 16_000


def clip(number: int, audio_format: str = "wav") -> bytes:
    audio = np.random.default_rng(number).uniform(-0.1, 0.1, 800).astype(np.float32)
    return encode(audio, RATE, audio_format)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    for number in range(6):
        path = folder / f"speaker-{number % 2}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip(number))
        path.with_suffix(".txt").write_text(f"sentence {number}")
    return folder


class TestFolderConverter(ConverterConformance):
    @pytest.fixture(autouse=True)
    def source(self, recordings: Path) -> None:
        self.folder = recordings

    def make_converter(self, output_dir: Path, **options: Any) -> FolderConverter:
        return FolderConverter(self.folder, output_dir, **options)


class TestManifestConverter(ConverterConformance):
    @pytest.fixture(autouse=True, params=["jsonl", "csv"])
    def source(self, recordings: Path, request: Any) -> None:
        rows = [
            {"audio_filepath": str(path.relative_to(recordings)), "text": path.stem}
            for path in sorted(recordings.rglob("*.wav"))
        ]
        self.manifest = recordings / f"manifest.{request.param}"
        with self.manifest.open("w", newline="") as file:
            if request.param == "csv":
                table = csv.DictWriter(file, rows[0])
                table.writeheader()
                table.writerows(rows)
            else:
                file.writelines(json.dumps(row) + "\n" for row in rows)

    def make_converter(self, output_dir: Path, **options: Any) -> ManifestConverter:
        return ManifestConverter(self.manifest, output_dir, **options)


class Numbers(BaseConverter):
    """As a user writes one: attributes before and after the base, samples from anywhere."""

    def __init__(self, how_many: int, **kwargs: Any) -> None:
        self.how_many = how_many
        super().__init__(**kwargs)
        self.formats = ("flac", "wav")

    def sample_iterator(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(self.how_many):
            audio = clip(number, self.formats[number % 2])
            yield f"number-{number}", {"audio": audio, "text": str(number), "n": number}


class TestConverterOfAUser(ConverterConformance):
    def make_converter(self, output_dir: Path, **options: Any) -> Numbers:
        return Numbers(5, output_dir=output_dir, **options)


def test_the_kit_looks_at_every_option_of_the_base() -> None:
    options = inspect.signature(BaseConverter.__init__).parameters
    assert set(_OPTIONS) == set(options) - {"self", "output_dir", "processor"}
    assert [name for name, value in _OPTIONS.items() if options[name].default == value] == []
