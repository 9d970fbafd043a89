from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from audiomdb.shards import DatasetWriter

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_args: Any) -> None:
        """The server notes requests itself."""


class S3Server:
    """An S3 server in a thread, whose requests a test can count, refuse or change."""

    def __init__(self) -> None:
        self._app: WSGI = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._handle, threaded=True, request_handler=_Quiet
        )
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.requests: list[tuple[str, str]] = []
        self.intercept: Callable[[dict[str, Any]], tuple[str, bytes] | None] | None = None

    def _handle(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        answer = self.intercept(environ) if self.intercept else None
        if answer is None:
            return self._app(environ, start)
        status, body = answer
        self.read_body(environ)
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    @staticmethod
    def read_body(environ: dict[str, Any]) -> bytes:
        """All of a request's body, which ends with its length or with its last chunk."""
        body = environ["wsgi.input"]
        length = environ.get("CONTENT_LENGTH")
        content: bytes = body.read(int(length)) if length else b""
        if not length and environ.get("wsgi.input_terminated"):
            content = body.read()
        return content

    def client(self) -> Any:
        """A plain client, apart from the code under test."""
        return boto3.session.Session().client("s3", endpoint_url=self.url)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="session")
def running_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def server(running_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """The server, with nothing intercepted, and credentials that no file of the user lends."""
    running_server.intercept = None
    running_server.requests.clear()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no-such-file"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return running_server


@pytest.fixture
def bucket(server: S3Server) -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    server.client().create_bucket(Bucket=name)
    server.requests.clear()
    return name


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples in three shards. Tests read it only."""
    path = tmp_path_factory.mktemp("dataset")
    with DatasetWriter(path, samples_per_shard=2) as writer:
        for number in range(6):
            audio = np.full(400, number, np.float32)
            writer.write(f"clip-{number}", {"audio": audio, "sample_rate": 16_000})
    return path
