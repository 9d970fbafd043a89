"""What the tests of conversions share: a source, a processor, and views of what came out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from audiomdb.audio import encode
from audiomdb.converters.base import BaseConverter
from audiomdb.processors.base import BaseProcessor
from audiomdb.sample import Sample
from audiomdb.shards import DatasetWriter

__all__ = ["Listed", "clip", "digests", "frames", "numbered_clips", "rejections", "samples"]


def clip(seed: int, seconds: float = 0.1, rate: int = 8000) -> bytes:
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate))
    return encode(noise.astype(np.float32), rate, "wav")


def samples(count: int) -> list[tuple[str, Sample]]:
    return [(f"clip-{i:04d}", {"audio": clip(i), "text": f"number {i}"}) for i in range(count)]


class Listed(BaseConverter):
    """Yields what it was given."""

    def __init__(self, items: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.items = items

    def sample_iterator(self) -> Iterable[tuple[str, Sample]]:
        return self.items  # type: ignore[no-any-return]


def frames(size: int = 80, **options: Any) -> BaseProcessor:
    """A processor of a class that worker processes cannot import, like one of a notebook."""

    class Frames(BaseProcessor):
        def __init__(self, size: int, **options: Any) -> None:
            super().__init__(**options)
            self.size = size

        def process(self, sample: Sample, **kwargs: Any) -> dict[str, Any]:
            array = self.load_array(sample["audio"], kwargs.get("sample_rate", 8000))
            return {"feature": array[: len(array) // self.size * self.size].reshape(-1, self.size)}

    return Frames(size, **options)


def numbered_clips(folder: Path, numbers: range, *, seed: int = 0, rejected: bool = False) -> Path:
    """A dataset in shards of two samples, of the same size whatever they hold."""
    with DatasetWriter(folder, samples_per_shard=2, on_error="skip") as writer:
        for number in numbers:
            audio = np.full(4000, number + seed, np.float32)
            writer.write(f"clip-{number:02d}", {"audio": audio, "sample_rate": 16_000})
        if rejected:
            writer.write(f"bad-{folder.name}", {"audio": b"no audio at all"})
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rejections(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
