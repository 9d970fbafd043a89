"""Conformance tests for uploaders."""

from __future__ import annotations

from audiomdb.testing.kits.uploader_files import FileTests
from audiomdb.testing.kits.uploader_folders import FolderTests, NetworkTests

__all__ = ["UploaderConformance"]


class UploaderConformance(FolderTests, NetworkTests, FileTests):
    """Tests that every uploader must pass. Subclass it in a test module, once per uploader.

        class TestMyUploader(UploaderConformance):
            @pytest.fixture
            def store(self, my_server):
                return MyStore(my_server, uuid4().hex)    # an `audiomdb.testing.Store`

            def make_uploader(self, store, endpoint):
                return MyUploader(endpoint, store.name)

    `store` is an empty place, a new one for each test. The tests upload small datasets through
    `make_uploader` and check what `store.read` returns.
    """
