# ruff: noqa: ARG002, N801
"""Uploaders that break what is expected of them, each in one way, under the kit.

The attribute `found_by` of a class names the test that has to fail.
"""

from __future__ import annotations

import contextlib
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from audiomdb.errors import UploadError
from audiomdb.testing import (
    FolderStore,
    MemoryServer,
    MemoryStore,
    MemoryUploader,
    UploaderConformance,
)
from audiomdb.uploaders.base import BaseUploader


@pytest.fixture(scope="module")
def server():
    with MemoryServer() as server:
        yield server


class Uploaders(UploaderConformance):
    kind: Any

    @pytest.fixture
    def store(self, server):
        return MemoryStore(server, uuid.uuid4().hex)

    def make_uploader(self, store, endpoint, **options):
        return self.kind(f"{endpoint}/{store.name}", timeout_s=2.0, **options)


class TestSendsMetadataFirst(Uploaders):
    found_by = "test_an_upload_that_breaks_off_leaves_no_metadata_and_is_taken_up_again"

    class kind(MemoryUploader):
        def upload_dir(self, local_dir):
            for full_path, rel_path in reversed(list(self.iter_files(local_dir))):
                self.upload_file(full_path, rel_path)


class TestWritesInPlace(Uploaders):
    found_by = "test_an_upload_that_breaks_off_leaves_no_metadata_and_is_taken_up_again"

    class kind(MemoryUploader):
        def upload_file(self, full_path, rel_path):
            content = Path(full_path).read_bytes()
            if len(content) > 1000:
                half = Path(full_path).with_suffix(".half")
                half.write_bytes(content[: len(content) // 2])
                super().upload_file(str(half), rel_path)
            super().upload_file(full_path, rel_path)


class TestLooksAtNoStatus(Uploaders):
    found_by = "test_a_store_that_takes_nothing_is_an_error"

    class kind(BaseUploader):
        def __init__(self, url, **options):
            self.memory = MemoryUploader(url, **options)

        def upload_dir(self, local_dir):
            for full_path, rel_path in self.iter_files(local_dir):
                with contextlib.closing(self.memory._ask("PUT", rel_path)) as answer:
                    answer.ask(body=Path(full_path).read_bytes())


class TestNamesNoPlace(Uploaders):
    found_by = "test_an_uploader_for_a_store_that_cannot_be_reached_raises"

    class kind(MemoryUploader):
        def stat(self, rel_path):
            try:
                return super().stat(rel_path)
            except UploadError as exc:
                raise UploadError("failed") from exc


class TestWaitsForEverToSend(Uploaders):
    found_by = "test_a_store_that_goes_silent_is_given_up"
    longest_test_s = 2.0

    class kind(MemoryUploader):
        def __init__(self, url, *, timeout_s, **options):
            super().__init__(url, timeout_s=None, **options)


class TestDropsAnUploadersOptions(Uploaders):
    found_by = "test_each_option_of_the_base_reaches_it"

    class kind(MemoryUploader):
        def __init__(self, url, *, timeout_s, **options):
            super().__init__(url, timeout_s=timeout_s)


class CopiesToAFolder(UploaderConformance):
    """As the guide writes one: the short level, and no network."""

    kind: Any

    @pytest.fixture
    def store(self, tmp_path):
        return FolderStore(tmp_path / "store")

    def make_uploader(self, store, endpoint, **options):
        return self.kind(store)


class Copying(BaseUploader):
    def __init__(self, store):
        self.store = store

    def copy(self, full_path, rel_path):
        self.store.write(rel_path, Path(full_path).read_bytes())


class TestCopiesMetadataFirst(CopiesToAFolder):
    found_by = "test_a_file_that_cannot_be_sent_raises_and_leaves_no_metadata"

    class kind(Copying):
        def upload_dir(self, local_dir):
            for file in sorted(self.iter_files(local_dir)):  # metadata.json, shard_00000/...
                self.copy(*file)


class TestLooksAtNoFuture(CopiesToAFolder):
    found_by = "test_a_file_that_cannot_be_sent_raises_and_leaves_no_metadata"

    class kind(Copying):
        def upload_dir(self, local_dir):
            with ThreadPoolExecutor(4) as pool:
                for file in self.iter_files(local_dir):
                    pool.submit(self.copy, *file)


class TestLooksAtTheFuturesTooLate(CopiesToAFolder):
    found_by = "test_a_file_that_cannot_be_sent_raises_and_leaves_no_metadata"

    class kind(Copying):
        def upload_dir(self, local_dir):
            with ThreadPoolExecutor(4) as pool:
                works = [pool.submit(self.copy, *file) for file in self.iter_files(local_dir)]
            for work in works:
                work.result()


class TestGoesOnAfterAnError(CopiesToAFolder):
    found_by = "test_a_file_that_cannot_be_sent_raises_and_leaves_no_metadata"

    class kind(Copying):
        def upload_dir(self, local_dir):
            for file in self.iter_files(local_dir):
                with contextlib.suppress(OSError):
                    self.copy(*file)


class TestSeesWhatIsNotThere(Uploaders):
    found_by = "test_stat_says_what_is_there"

    class kind(MemoryUploader):
        def stat(self, rel_path):
            return super().stat(rel_path) or (0, None)


class TestSendsWhatLiesAround(Uploaders):
    found_by = "test_what_is_not_the_datasets_stays_here"

    class kind(MemoryUploader):
        def upload_dir(self, local_dir):
            for path in sorted(Path(local_dir).rglob("*")):
                if path.is_file():
                    self.upload_file(str(path), path.relative_to(local_dir).as_posix())


class TestForgetsWhatIsThere(Uploaders):
    found_by = "test_nothing_is_sent_twice"

    class kind(MemoryUploader):
        def upload_dir(self, local_dir):
            self.known = set()
            return super().upload_dir(local_dir)

        def upload_file(self, full_path, rel_path):
            super().upload_file(full_path, rel_path)
            self.known.add(rel_path)

        def stat(self, rel_path):
            return super().stat(rel_path) if rel_path in self.known else None
