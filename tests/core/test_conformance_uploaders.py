"""Core's own uploaders pass the kit, or those of its parts that are about what they have."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
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
    write_dataset,
)
from audiomdb.testing.kits.uploader_files import FileTests
from audiomdb.testing.kits.uploader_folders import FolderTests
from audiomdb.uploaders.base import BaseUploader
from audiomdb.uploaders.local import LocalUploader


class TestLocalUploader(FolderTests, FileTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FolderStore:
        return FolderStore(tmp_path / "store")

    def make_uploader(self, store: FolderStore, endpoint: None, **options: Any) -> LocalUploader:
        assert endpoint is None
        return LocalUploader(store.folder, **options)

    def url_of(self, store: FolderStore, endpoint: None) -> str:
        assert endpoint is None
        return f"file://{store.folder}"


@pytest.fixture(scope="module")
def server() -> Iterator[MemoryServer]:
    with MemoryServer() as server:
        yield server


class TestMemoryUploader(UploaderConformance):
    @pytest.fixture
    def store(self, server: MemoryServer) -> MemoryStore:
        return MemoryStore(server, uuid.uuid4().hex)

    def make_uploader(self, store: MemoryStore, endpoint: Any, **options: Any) -> MemoryUploader:
        return MemoryUploader(f"{endpoint}/{store.name}", timeout_s=2.0, **options)


class Forgetful(MemoryUploader):
    """Of a store that knows sizes, and no sha256."""

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        found = super().stat(rel_path)
        return found and (found[0], None)


class TestUploaderToAStoreThatKnowsNoSha256(TestMemoryUploader):
    def make_uploader(self, store: MemoryStore, endpoint: Any, **options: Any) -> MemoryUploader:
        return Forgetful(f"{endpoint}/{store.name}", timeout_s=2.0, **options)


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
class TestUploadersOfTheShortLevel(FolderTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FolderStore:
        return FolderStore(tmp_path / "store")

    @pytest.fixture(autouse=True)
    def choose(self, kind: type[LoopUploader]) -> None:
        self.kind = kind

    def make_uploader(self, store: FolderStore, endpoint: None, **options: Any) -> LoopUploader:
        assert endpoint is None
        assert not options
        return self.kind(store.folder)


class Wrong(MemoryUploader):
    """Its methods return or raise what a function says."""

    def __init__(self, url: str, meet: Callable[[str, str], Any]) -> None:
        super().__init__(url)
        self.meet = meet

    def stat(self, rel_path: str) -> Any:
        met = self.meet("stat", rel_path)
        return super().stat(rel_path) if met is None else met

    def upload_file(self, full_path: str, rel_path: str) -> None:
        self.meet("upload_file", rel_path)
        super().upload_file(full_path, rel_path)


@pytest.mark.parametrize("found", [81920, "81920", (81920,), (81920, b"00"), ("81920", None)])
def test_a_stat_of_a_wrong_type_is_named(server: MemoryServer, tmp_path: Path, found: Any) -> None:
    write_dataset(tmp_path / "clips")
    uploader = Wrong(
        server.url(uuid.uuid4().hex), lambda method, _: found if method == "stat" else None
    )
    with pytest.raises(TypeError) as caught:
        uploader.upload_dir(tmp_path / "clips")
    assert re.match(
        r"Wrong\.stat\('(shard_0000\d/\w+\.mdb|index\.bin)'\) returned .*81920.*, "
        "expected a tuple of size in bytes and sha256 in hex",
        str(caught.value),
    )


def test_a_digest_in_capital_letters_is_the_same(server: MemoryServer, tmp_path: Path) -> None:
    class Capital(MemoryUploader):
        def stat(self, rel_path: str) -> tuple[int, str | None] | None:
            found = super().stat(rel_path)
            return found and (found[0], (found[1] or "").upper())

    write_dataset(tmp_path / "clips")
    uploader = Capital(server.url(uuid.uuid4().hex))
    first, second = (uploader.upload_dir(tmp_path / "clips") for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.sent_files, second.sent_files) == (first.files, 0)
    assert not uploader.holds_another(tmp_path / "clips")
    write_dataset(tmp_path / "others", seed=1)
    assert uploader.holds_another(tmp_path / "others")


@pytest.mark.parametrize("failing", ["stat", "upload_file"])
def test_what_a_method_raises_is_noted_with_the_file(
    server: MemoryServer, tmp_path: Path, failing: str
) -> None:
    def meet(method: str, rel_path: str) -> None:
        if method == failing and rel_path == "shard_00001/data.mdb":
            raise ValueError("client bug")

    write_dataset(tmp_path / "clips")
    with pytest.raises(ValueError, match="client bug") as caught:
        Wrong(server.url(uuid.uuid4().hex), meet).upload_dir(tmp_path / "clips")
    assert caught.value.__notes__ == ["while Wrong sent shard_00001/data.mdb"]
