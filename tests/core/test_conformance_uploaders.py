"""Core's own uploaders pass the kit."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audiomdb.testing import (
    FolderStore,
    MemoryServer,
    MemoryStore,
    MemoryUploader,
    UploaderConformance,
)
from audiomdb.uploaders.local import LocalUploader


class TestLocalUploader(UploaderConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FolderStore:
        return FolderStore(tmp_path / "store")

    def make_uploader(self, store: Any, endpoint: None) -> LocalUploader:
        assert endpoint is None
        return LocalUploader(store.folder)

    def url_of(self, store: Any) -> str:
        return f"file://{store.folder}"


@pytest.fixture(scope="module")
def server() -> Iterator[MemoryServer]:
    with MemoryServer() as server:
        yield server


class TestMemoryUploader(UploaderConformance):
    @pytest.fixture
    def store(self, server: MemoryServer) -> MemoryStore:
        return MemoryStore(server, uuid.uuid4().hex)

    def make_uploader(self, store: Any, endpoint: Any) -> MemoryUploader:
        return MemoryUploader(f"{endpoint}/{store.name}")
