"""Base class and fixtures of the uploader tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from audiomdb.errors import UploadError
from audiomdb.testing.datasets import write_dataset
from audiomdb.testing.kits.conformance import StoreConformance, files_in
from audiomdb.testing.store import Store
from audiomdb.uploaders.base import BaseUploader

__all__ = ["METADATA", "UploaderTests", "arrived", "expect_no_metadata", "has_upload_file"]

METADATA = "metadata.json"


class UploaderTests(StoreConformance):
    """Fixtures of the uploader tests, and the methods and attributes a subclass provides."""

    # `UploaderConformance` says what they mean.
    network_error: ClassVar[type[Exception] | tuple[type[Exception], ...]] = UploadError
    gives_up_on_stalls: ClassVar[bool] = True

    # Any store, so that a subclass may say which class its own fixture returns.
    def make_uploader(self, store: Any, endpoint: Any, **options: Any) -> BaseUploader:  # noqa: ANN401
        """Make an uploader to `store`. To be defined by the subclass.

        Args:
            store: The `store` fixture.
            endpoint: The server to connect to: `store.endpoint`, or a proxy in front of it in the
                same form (URL, or host and port).
            options: `workers` and `progress`, to be passed on; empty if the uploader has an
                `upload_dir` of its own.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define make_uploader")

    def url_of(self, store: Any, endpoint: Any) -> str | None:  # noqa: ANN401, ARG002
        """Return a URL for `audiomdb.registry.uploader_for`, or None if no scheme is registered."""
        return None

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Path:
        """A dataset on this machine."""
        path = tmp_path / "dataset"
        write_dataset(path)
        return path

    @pytest.fixture
    def files(self, dataset: Path) -> dict[str, bytes]:
        """Content of the dataset's files by path."""
        return files_in(dataset)

    @pytest.fixture
    def uploader(self, store: Store) -> BaseUploader:
        """An uploader to the store."""
        return self.make_uploader(store, store.endpoint)

    def is_there(self, uploader: BaseUploader, store: Store, dataset: Path, name: str) -> bool:
        """Return whether a file has arrived whole, so that it need not be sent again."""
        content = (dataset / name).read_bytes()
        if not has_upload_file(uploader):
            return store.read(name) == content
        digest = uploader.sha256(str(dataset / name)) if content else None
        found = uploader.stat(name)
        if found is None or found[0] != len(content):
            return False
        return digest is None or (found[1] or "").lower() == digest

    def need_upload_file(self, uploader: BaseUploader) -> None:
        """Skip the test if the uploader only defines `upload_dir`."""
        if not has_upload_file(uploader):
            pytest.skip("it has an upload_dir of its own")

    def knows_sha256(self, uploader: BaseUploader, dataset: Path) -> bool:
        """Return whether the store can tell the sha256 of a file."""
        uploader.upload_file(str(dataset / "index.bin"), "index.bin")
        found = uploader.stat("index.bin")
        return found is not None and found[1] is not None


def has_upload_file(uploader: BaseUploader) -> bool:
    """Return whether an uploader defines `upload_file`, and not only `upload_dir`."""
    return type(uploader).upload_file is not BaseUploader.upload_file


def expect_no_metadata(store: Store) -> None:
    """Fail if a reader would find a dataset, without printing it."""
    __tracebackhide__ = True
    found = store.read(METADATA)
    if found is not None:
        pytest.fail(
            f"the store has a {METADATA} ({len(found)} bytes): it is to be sent last, and only if "
            "everything else has arrived"
        )


def arrived(store: Store, files: dict[str, bytes]) -> dict[str, bytes | None]:
    """Return what the store holds under the paths of these files."""
    return {name: store.read(name) for name in files}
