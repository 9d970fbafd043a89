from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.caches import Opener


@pytest.fixture
def opener(store: Path, tmp_path: Path) -> Iterator[Opener]:
    """Opens caches of the `store` that a test file has."""
    opener = Opener(store, tmp_path)
    yield opener
    opener.close()
