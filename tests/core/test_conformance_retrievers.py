"""Core's own retrievers pass the kit, or those of its parts that are about what they have."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audiomdb.errors import DatasetNotFoundError
from audiomdb.retrievers.base import BaseRetriever, RemoteFile
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.testing import (
    FolderStore,
    MemoryRetriever,
    MemoryServer,
    MemoryStore,
    RetrieverConformance,
)
from audiomdb.testing.kits.retriever_damage import BudgetTests, DamageTests
from audiomdb.testing.kits.retriever_processes import ProcessTests
from audiomdb.testing.kits.retriever_reading import ReadingTests


class TestLocalRetriever(ReadingTests, DamageTests, ProcessTests):
    in_place = True

    @pytest.fixture
    def store(self, tmp_path: Path) -> FolderStore:
        return FolderStore(tmp_path / "store")

    def make_retriever(self, store: FolderStore, endpoint: None, **options: Any) -> LocalRetriever:
        assert endpoint is None
        return LocalRetriever(store.folder, **options)

    def url_of(self, store: FolderStore, endpoint: None) -> str:
        assert endpoint is None
        return f"file://{store.folder}"


@pytest.fixture(scope="module")
def server() -> Iterator[MemoryServer]:
    with MemoryServer() as server:
        yield server


class TestMemoryRetriever(RetrieverConformance):
    @pytest.fixture
    def store(self, server: MemoryServer) -> MemoryStore:
        return MemoryStore(server, uuid.uuid4().hex)

    def make_retriever(self, store: MemoryStore, endpoint: Any, **options: Any) -> MemoryRetriever:
        return MemoryRetriever(f"{endpoint}/{store.name}", timeout_s=2.0, **options)


class Silent(BaseRetriever):
    """A folder, as if far away, that never says how large a file is."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def open_remote(
        self, path: str, *, start: int = 0, stop: int | None = None, validator: str | None = None
    ) -> RemoteFile:
        try:
            content = (self.folder / path).read_bytes()
        except FileNotFoundError as exc:
            raise DatasetNotFoundError(f"there is no {self.folder / path}") from exc
        version = hashlib.sha256(content).hexdigest()
        if start >= len(content) or (start and validator != version):
            start, stop = 0, None
        return RemoteFile([content[start:stop]], start, version)


class TestRetrieverThatTellsNoSize(ReadingTests, DamageTests, BudgetTests, ProcessTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FolderStore:
        return FolderStore(tmp_path / "store")

    def make_retriever(self, store: FolderStore, endpoint: None, **options: Any) -> Silent:
        assert endpoint is None
        return Silent(store.folder, **options)


class ShareRetriever(BaseRetriever):
    """The short level, as the guide writes it."""

    def __init__(self, share: Path, **kwargs: Any) -> None:
        self.share = share
        super().__init__(**kwargs)

    def download_metadata(self) -> str:
        return self.copy("metadata.json", self.cache_dir)

    def download_shard(self, shard_id: int) -> str:
        name = f"shard_{shard_id:05d}"
        folder = f"{self.cache_dir}/{name}"
        Path(folder).mkdir()
        self.copy(f"{name}/data.mdb", folder)
        return folder

    def copy(self, path: str, folder: str) -> str:
        try:
            return str(shutil.copy(f"{self.share}/{path}", folder))
        except FileNotFoundError as error:
            raise DatasetNotFoundError(f"there is no {self.share}/{path}") from error


class TestRetrieverOfTheShortLevel(ReadingTests, DamageTests, BudgetTests, ProcessTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FolderStore:
        return FolderStore(tmp_path / "store")

    def make_retriever(self, store: FolderStore, endpoint: None, **options: Any) -> ShareRetriever:
        assert endpoint is None
        return ShareRetriever(store.folder, **options)
