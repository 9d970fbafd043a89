"""An S3 server in a process of its own, and what is done to it past the slow network.

It is one process of Python: the row `server` says how fast, so that one can see that the network
is what is narrow.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3

from benchmarks.processes import free_port

__all__ = ["BUCKET", "Store", "running_store"]

BUCKET = "benchmark"

_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_LONGEST_START_S = 60.0
_ROOT = Path(__file__).parents[1]


class Store:
    """A bucket on a running server.

    Args:
        url: URL of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._client: Any = boto3.session.Session().client("s3", endpoint_url=url)
        self._client.create_bucket(Bucket=BUCKET)

    def upload(self, folder: Path, prefix: str) -> dict[str, int]:
        """Upload a folder's files.

        Returns:
            Bytes of each, by its path in the folder.
        """
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sizes = {}
        for path in files:
            name = path.relative_to(folder).as_posix()
            content = path.read_bytes()
            self.put(f"{prefix}/{name}", content)
            sizes[name] = len(content)
        return sizes

    def put(self, key: str, content: bytes) -> None:
        """Write one object."""
        self._client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        """Read one object."""
        content: bytes = self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def rate(self, keys: list[str]) -> float:
        """Bytes a second that four threads get without the proxy."""
        start = time.perf_counter()
        with ThreadPoolExecutor(4) as pool:
            total = sum(map(len, pool.map(self.get, keys)))
        return total / (time.perf_counter() - start)


@contextlib.contextmanager
def running_store() -> Iterator[Store]:
    """Start a server; its credentials go into the environment, for all that is started later."""
    os.environ.update(_ENVIRONMENT)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        os.environ.pop(name, None)
    port = free_port()
    program = [sys.executable, "-m", "benchmarks.remote_store", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(program, cwd=_ROOT, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        _wait_for(process, port)
        yield Store(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _LONGEST_START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the S3 server does not start") from None
            time.sleep(0.05)
        else:
            return
