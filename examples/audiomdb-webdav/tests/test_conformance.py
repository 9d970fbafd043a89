"""The package does what AudioMDB expects of a store: all of this is the kit's."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from audiomdb.testing import FolderStore, RetrieverConformance, UploaderConformance
from audiomdb_webdav import WebDAVRetriever, WebDAVUploader

CREDENTIALS = {"username": "me", "password": "s3cret/word:"}


class ServedFolder(FolderStore):
    """A folder that the server serves, looked into past the server."""

    def __init__(self, url: str, parent: Path) -> None:
        self.name = f"data {uuid.uuid4().hex}"  # with a blank: not every letter may be in a URL
        self.endpoint = url
        super().__init__(parent / self.name)
        self.folder.mkdir()


class TestWebDAVRetriever(RetrieverConformance):
    @pytest.fixture
    def store(self, server: Any) -> ServedFolder:
        return ServedFolder(server.url, server.folder)

    def make_retriever(self, store: Any, endpoint: Any, **options: Any) -> WebDAVRetriever:
        url = f"{endpoint}/{store.name}"
        return WebDAVRetriever(url, **CREDENTIALS, read_timeout_s=2.0, **options)

    def url_of(self, store: Any, endpoint: Any) -> str:
        server = endpoint.removeprefix("http://")
        return f"webdav://me:s3cret%2Fword%3A@{server}/{store.name}"


# The server leaves its own file open when a client breaks off.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestWebDAVUploader(UploaderConformance):
    @pytest.fixture
    def store(self, server: Any) -> ServedFolder:
        return ServedFolder(server.url, server.folder)

    def make_uploader(self, store: Any, endpoint: Any, **options: Any) -> WebDAVUploader:
        url = f"{endpoint}/{store.name}"
        return WebDAVUploader(url, **CREDENTIALS, read_timeout_s=2.0, **options)

    def url_of(self, store: Any, endpoint: Any) -> str:
        server = endpoint.removeprefix("http://")
        return f"webdav://me:s3cret%2Fword%3A@{server}/{store.name}"
