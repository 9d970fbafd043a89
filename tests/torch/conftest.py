from __future__ import annotations

import pytest

from audiomdb.retrievers.local import LocalRetriever
from tests.torch.clips import write_clips


@pytest.fixture(scope="session")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> LocalRetriever:
    """Of the clips of `tests.torch.clips`. Tests read them only."""
    return LocalRetriever(write_clips(tmp_path_factory.mktemp("data") / "clips"))
