"""What is this package's own: URLs, credentials, names, and what a server may answer."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from audiomdb.errors import DownloadError, InvalidURLError, UploadError
from audiomdb.registry import retriever_for, uploader_for
from audiomdb.testing import FaultProxy, write_dataset
from audiomdb_webdav import WebDAVRetriever, WebDAVUploader
from audiomdb_webdav.client import plain_url

CREDENTIALS = {"username": "me", "password": "s3cret/word:"}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "dataset", shards=2)
    return tmp_path / "dataset"


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def test_a_url_becomes_an_address_and_credentials() -> None:
    assert plain_url("webdav://host:81/a%20b/c") == ("http://host:81/a b/c", {})
    assert plain_url("webdavs://me:p%40ss@host/") == (
        "https://host",
        {"username": "me", "password": "p@ss"},
    )


@pytest.mark.parametrize("url", ["webdav://", "http://host/a", "webdavs:///a", "webdav://me:pw@/a"])
def test_a_url_without_a_server_is_refused(url: str) -> None:
    with pytest.raises(InvalidURLError) as caught:
        plain_url(url)
    assert ":pw@" not in str(caught.value)


def test_both_schemes_are_registered() -> None:
    retriever = retriever_for("webdavs://host/speech", username="me", password="word")
    assert isinstance(retriever, WebDAVRetriever)
    assert repr(retriever) == "WebDAVRetriever('https://host/speech')"
    assert isinstance(uploader_for("webdav://host/speech"), WebDAVUploader)


def test_the_cache_is_found_again_with_other_credentials() -> None:
    caches = {
        retriever_for(url, **options).cache_dir
        for url, options in [
            ("webdavs://me:word@host/speech", {}),
            ("webdavs://host/speech/", {"username": "me", "password": "new"}),
            ("webdavs://host/speech", {"read_timeout_s": 5.0}),
        ]
    }
    assert len(caches) == 1
    assert retriever_for("webdavs://host/music").cache_dir not in caches


def test_what_the_uploader_wrote_the_retriever_reads(
    server: Any, name: str, dataset: Path, tmp_path: Path
) -> None:
    WebDAVUploader(f"{server.url}/{name}/", **CREDENTIALS).upload_dir(dataset)
    retriever = WebDAVRetriever(f"{server.url}/{name}/", **CREDENTIALS, cache_dir=tmp_path / "c")
    assert len(retriever) == 6
    assert retriever.open()["clip-00004"]["text"] == "sentence 4 of 0"
    retriever.close()
    assert not [path for path in (server.folder / name).rglob("*") if path.suffix == ".part"]


@pytest.mark.parametrize("given", [{}, {"username": "me", "password": "wrong"}])
def test_wrong_credentials_are_an_error_that_says_so_and_does_not_show_them(
    server: Any, name: str, dataset: Path, tmp_path: Path, given: dict[str, str]
) -> None:
    with pytest.raises(UploadError, match=r"401.*username= and password=") as caught:
        WebDAVUploader(f"{server.url}/{name}", **given).upload_dir(dataset)
    assert "wrong" not in str(caught.value)
    retriever = WebDAVRetriever(f"{server.url}/{name}", **given, cache_dir=tmp_path / "c")
    with pytest.raises(DownloadError, match=r"401.*username= and password="):
        retriever.open()


def test_a_server_that_refers_to_another_address_is_quoted(
    server: Any, name: str, tmp_path: Path
) -> None:
    (server.folder / name / "metadata.json").mkdir(parents=True)  # asked for as a file
    retriever = WebDAVRetriever(f"{server.url}/{name}", **CREDENTIALS, cache_dir=tmp_path / "c")
    with pytest.raises(DownloadError, match=f"the address that it refers to: .*{name}"):
        retriever.open()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server that answers as the handler does; its address."""
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("said", ["bytes 4-9/*", "bytes 4-9/10", "bytes", "bytes x-y/z", None])
def test_a_part_that_is_not_named_is_asked_for_from_the_start(
    tmp_path: Path, said: str | None
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            part = "Range" in self.headers
            self.send_response(206 if part else 200)
            if part and said is not None:
                self.send_header("Content-Range", said)
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(b"0123456789"[4 if part else 0 :])

        def log_message(self, *_: object) -> None: ...

    with serving(Handler) as url:
        retriever = WebDAVRetriever(url, cache_dir=tmp_path)
        remote = retriever.open_remote("file", start=4, validator='"1"')
        assert b"".join(remote.chunks) == b"0123456789"[remote.start :]
        retriever.close()


def test_a_file_is_sent_with_its_length(tmp_path: Path) -> None:
    lengths = []

    class Handler(BaseHTTPRequestHandler):
        def do_MKCOL(self) -> None:
            self.send_response(201)
            self.end_headers()

        def do_PUT(self) -> None:
            lengths.append(self.headers["Content-Length"])
            self.rfile.read(int(lengths[-1] or 0))
            self.send_response(507)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    (tmp_path / "file").write_bytes(b"0123456789")
    with serving(Handler) as url, pytest.raises(UploadError, match="the server's disk is full"):
        WebDAVUploader(url).upload_file(str(tmp_path / "file"), "file")
    assert lengths == ["10"]


def test_the_folder_of_the_dataset_is_made_under_its_own_name(
    server: Any, name: str, dataset: Path
) -> None:
    with FaultProxy(server.url) as proxy:
        proxy.fail("status", match=f"MKCOL /{name}// ")  # a name that some servers refuse
        WebDAVUploader(f"{proxy.url}/{name}", **CREDENTIALS).upload_dir(dataset)
        assert proxy.stats.faults == 0


def test_a_missing_folder_above_is_named(server: Any, name: str, dataset: Path) -> None:
    with pytest.raises(UploadError, match=f"{name}/missing.*the folder above does not exist"):
        WebDAVUploader(f"{server.url}/{name}/missing", **CREDENTIALS).upload_dir(dataset)


def test_a_file_that_was_changed_on_its_way_does_not_get_its_name(
    server: Any, name: str, dataset: Path
) -> None:
    with FaultProxy(server.url) as proxy:
        uploader = WebDAVUploader(f"{proxy.url}/{name}", **CREDENTIALS, workers=1)
        # What is read back is not what was sent.
        proxy.fail("flip", after=50_000, times=1, match="GET /")
        with pytest.raises(UploadError, match=r"shard_00000/data\.mdb arrived with sha256"):
            uploader.upload_dir(dataset)
        assert not (server.folder / name / "shard_00000" / "data.mdb").exists()
        uploader.upload_dir(dataset)
    assert (server.folder / name / "metadata.json").exists()
