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

            def make_uploader(self, store, endpoint, **options):
                return MyUploader(endpoint, store.name, timeout_s=2.0, **options)

    `store` is an empty place, a new one for each test. The tests upload small datasets through
    `make_uploader` and check what `store.read` returns. A method `url_of(store, endpoint)` returns
    the URL of this place, if the class is registered for a scheme.

    Attributes:
        network_error: Raised when the network goes down, or the store refuses; by default
            `UploadError`. A custom `upload_dir` may raise other exceptions. A type, or a tuple of
            types.
        gives_up_on_stalls: Whether an uploader notices, within seconds as made here, that a
            connection has gone silent; by default True.
        longest_test_s: Seconds after which a test that has not ended fails; by default 120.
    """
