"""Stores that know no checksums at the end of a body, which boto3 sends over TLS."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server, make_ssl_devcert

from audiomdb._s3 import ClientOptions, ProcessClient
from audiomdb.errors import UploadError
from audiomdb.uploaders.s3 import S3Uploader


class OldStore:
    """An S3 server over TLS, as far as boto3 was in 2024: a trailer is more than it knows."""

    def __init__(self, folder: Path) -> None:
        self.certificate, key = make_ssl_devcert(str(folder / "store"), host="localhost")
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, ssl_context=(self.certificate, key)
        )
        self._server.log = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"https://localhost:{self._server.port}"
        self.signed: dict[str, str] = {}
        """Of each body, the digest that its signature covers, by the end of its path."""

    def _answer(self, environ: dict[str, Any], start: Any) -> Any:
        said = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
        if environ["REQUEST_METHOD"] == "PUT":
            self.signed[environ["PATH_INFO"].rpartition("/d/")[2]] = said
        if "TRAILER" not in said:
            return self._app(environ, start)
        # All of the body, or the client would not come to read what is answered.
        environ["wsgi.input"].read()
        body = b"<Error><Code>NotImplemented</Code><Message>trailer</Message></Error>"
        start("501 Not Implemented", [("Content-Length", str(len(body)))])
        return [body]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def running_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OldStore]:
    store = OldStore(tmp_path_factory.mktemp("tls"))
    yield store
    store.close()


@pytest.fixture
def store(
    running_store: OldStore,
    server: Any,  # noqa: ARG001 (sets the environment)
    monkeypatch: pytest.MonkeyPatch,
) -> OldStore:
    running_store.signed.clear()
    monkeypatch.setenv("AWS_CA_BUNDLE", running_store.certificate)
    return running_store


@pytest.fixture
def uploader(store: OldStore) -> S3Uploader:
    options = ClientOptions(endpoint_url=store.url, addressing_style="path")
    bucket = f"bucket-{uuid.uuid4().hex}"
    ProcessClient(options).get().create_bucket(Bucket=bucket)
    return S3Uploader(bucket, "d", endpoint_url=store.url, addressing_style="path")


def test_a_store_that_knows_no_trailers_takes_uploads(
    store: OldStore, uploader: S3Uploader, dataset: Path
) -> None:
    uploader.upload_dir(str(dataset))
    for path in dataset.rglob("*.*"):
        rel_path = path.relative_to(dataset).as_posix()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert uploader.stat(rel_path) == (path.stat().st_size, digest)
        # What is signed is the body's digest: the store sees it if something else arrives.
        assert store.signed[rel_path] == digest


def test_parts_are_signed_with_their_digests_too(
    store: OldStore, uploader: S3Uploader, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(9 * 2**20))
    uploader.upload_file(str(tmp_path / "large"), "large")
    # Both parts have the same path. Whichever came last:
    digests = {hashlib.sha256(bytes(size)).hexdigest() for size in (8 * 2**20, 2**20)}
    assert store.signed["large"] in digests


@pytest.mark.parametrize("place", ["environment", "config"])
def test_uploads_send_checksums_if_they_are_requested(
    place: str,
    uploader: S3Uploader,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if place == "environment":
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    else:
        (tmp_path / "config").write_text("[default]\nrequest_checksum_calculation=when_supported\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(UploadError, match=r"NotImplemented.*AWS_REQUEST_CHECKSUM_CALCULATION="):
        uploader.upload_dir(str(dataset))


def calculation(**options: Any) -> str:
    client = ProcessClient(ClientOptions(**options)).get()
    found: str = client.meta.config.request_checksum_calculation
    return found


@pytest.mark.usefixtures("server")  # the environment
def test_amazons_own_store_gets_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calculation() == calculation(region_name="cn-north-1") == "when_supported"
    assert calculation(endpoint_url="https://s3.eu-central-1.amazonaws.com") == "when_supported"
    assert calculation(endpoint_url="https://minio.lab") == "when_required"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://minio.lab")
    assert calculation() == "when_required"
