"""Core's own uploaders pass the kit."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from audiomdb.uploaders.base import BaseUploader
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


class Forgetful(MemoryUploader):
    """Of a store that knows sizes, and no sha256."""

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        found = super().stat(rel_path)
        return found and (found[0], None)


class TestUploaderToAStoreThatKnowsNoSha256(TestMemoryUploader):
    def make_uploader(self, store: Any, endpoint: Any) -> MemoryUploader:
        return Forgetful(f"{endpoint}/{store.name}")


class LoopUploader(BaseUploader):
    """The short level."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def upload_dir(self, local_dir: str | os.PathLike[str]) -> None:
        for full_path, rel_path in self.iter_files(local_dir):
            (self.folder / rel_path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(full_path, self.folder / rel_path)


class ThreadsUploader(LoopUploader):
    """The short level with threads, as it has to be."""

    def upload_dir(self, local_dir: str | os.PathLike[str]) -> None:
        *data, metadata = self.iter_files(local_dir)
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(self.copy, data):
                pass
        self.copy(metadata)

    def copy(self, file: tuple[str, str]) -> None:
        target = self.folder / file[1]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file[0], target)


@pytest.mark.parametrize("kind", [LoopUploader, ThreadsUploader])
class TestUploadersOfTheShortLevel(UploaderConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FolderStore:
        return FolderStore(tmp_path / "store")

    @pytest.fixture(autouse=True)
    def choose(self, kind: type[LoopUploader]) -> None:
        self.kind = kind

    def make_uploader(self, store: Any, endpoint: None) -> LoopUploader:
        assert endpoint is None
        return self.kind(store.folder)
