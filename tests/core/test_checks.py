"""Options that are whole numbers: what is refused is the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.cache import CacheOptions
from audiomdb.plan import EpochPlan
from audiomdb.shards import DatasetWriter
from audiomdb.stream import LoadOptions, SampleStream, StepStream
from audiomdb.uploaders.local import LocalUploader


def _writer(folder: Path, number: Any) -> DatasetWriter:
    with DatasetWriter(folder, num_workers=number) as writer:
        return writer


USERS: dict[str, Callable[[Path, Any], object]] = {
    "num_threads": lambda folder, number: SampleStream(folder, num_threads=number),
    "world_size": lambda folder, number: SampleStream(folder, rank=0, world_size=number),
    "batch_size": lambda folder, number: StepStream(folder, number),
    "window": lambda _, number: EpochPlan([1], window=number),
    "prefetch": lambda _, number: CacheOptions(prefetch=number),
    "max_cache_bytes": lambda _, number: CacheOptions(max_bytes=number),
    "sample_rate": lambda _, number: LoadOptions(sample_rate=number),
    "workers": lambda folder, number: LocalUploader(folder, workers=number),
    "num_workers": _writer,
}


@pytest.mark.parametrize("name", USERS)
def test_a_whole_number_may_be_numpys_but_no_bool_or_float(name: str, tmp_path: Path) -> None:
    USERS[name](tmp_path / "numpy", np.int16(8000))
    for wrong in (True, 2.0, "2"):
        words = f"^{name}.* must be a whole number from . .*not {wrong!r}"
        with pytest.raises(ValueError, match=words):
            USERS[name](tmp_path / "wrong", wrong)
