from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audiomdb.retrievers.local import LocalRetriever
from tests.torch.clips import write_clips, write_numbered


@pytest.fixture(scope="session")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> LocalRetriever:
    """Of the clips of `tests.torch.clips`. Tests read them only."""
    return LocalRetriever(write_clips(tmp_path_factory.mktemp("data") / "clips"))


@pytest.fixture(scope="session")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of clips of many durations. Tests read it only."""
    path = tmp_path_factory.mktemp("data") / "varied"
    return write_numbered(path, lambda i: np.zeros(200 + 37 * i % 400, np.float32))
