"""The real client and a real server, with a network between them that fails."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import audiomdb.cache.retry
from audiomdb.errors import DownloadInterruptedError
from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.shards import DatasetWriter, read_metadata
from audiomdb.stream import SampleStream
from audiomdb.uploaders.s3 import S3Uploader


class Proxy:
    """Passes TCP connections on, and does to answers what `fault` says.

    "reset" and "close" end a connection after `after` bytes of answers, "stall" stops passing them
    on, "refuse" ends it at once. `times` is how often; None: always.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.fault, self.after = "", 0
        self.times: int | None = None
        self.faults = self.passed = 0
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        # One thread for both directions: a second one in recv() would keep a reset from being sent.
        with client, socket.create_connection(self._target) as server, suppress(OSError):
            sent = 0
            while not self._end.is_set():
                for source in select.select([client, server], [], [], 0.1)[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is client:
                        server.sendall(data)
                        continue
                    if self.fault and sent + len(data) > self.after and self.times != 0:
                        client.sendall(data[: self.after - sent])
                        self._fail(client)
                        return
                    client.sendall(data)
                    sent += len(data)
                    self.passed += len(data)

    def _fail(self, client: socket.socket) -> None:
        self.faults += 1
        if self.times is not None:
            self.times -= 1
        if self.fault == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self.fault == "stall":
            self._end.wait()

    def close(self) -> None:
        self._end.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def proxy(server: Any) -> Iterator[Proxy]:
    where = urlsplit(server.url)
    proxy = Proxy((where.hostname, where.port))
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def megabytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 5 MB. Tests read it only."""
    path = tmp_path_factory.mktemp("megabytes")
    rng = np.random.default_rng(0)
    with DatasetWriter(path, samples_per_shard=5) as writer:
        for number in range(10):
            writer.write(f"clip-{number}", {"n": number, "blob": rng.bytes(1_000_000)})
    return path


@pytest.fixture
def retriever(
    server: Any,
    bucket: str,
    megabytes: Path,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[S3Retriever]:
    monkeypatch.setattr(audiomdb.cache.retry, "_FIRST_WAIT_S", 1e-3)
    S3Uploader(bucket, "d", endpoint_url=server.url).upload_dir(str(megabytes))
    retriever = S3Retriever(
        bucket, "d", endpoint_url=proxy.url, cache_dir=tmp_path, read_timeout_s=0.5
    )
    yield retriever
    retriever.close()


@pytest.mark.parametrize("fault", ["reset", "close"])
def test_a_connection_that_breaks_every_two_megabytes_costs_little(
    fault: str, retriever: S3Retriever, proxy: Proxy, megabytes: Path
) -> None:
    proxy.fault, proxy.after = fault, 2_000_000
    assert [sample["n"] for sample in SampleStream(retriever)] == list(range(10))
    assert proxy.faults >= 4
    kept = read_metadata(megabytes).bytes + (megabytes / "metadata.json").stat().st_size
    assert retriever.cache_stats.fetched_bytes == kept
    if fault == "close":  # a reset throws away what the client has not read yet
        assert proxy.passed < 1.2 * kept


def test_a_stalled_connection_is_given_up_and_continued(
    retriever: S3Retriever, proxy: Proxy
) -> None:
    len(retriever)
    proxy.fault, proxy.after, proxy.times = "stall", 2_000_000, 1
    assert retriever.open()[0]["n"] == 0
    assert proxy.faults == 1
    assert retriever.cache_stats.retries == 1


def test_a_store_that_refuses_connections_is_an_error_with_its_url(
    retriever: S3Retriever, proxy: Proxy, bucket: str
) -> None:
    proxy.fault, proxy.after = "refuse", 0
    with pytest.raises(DownloadInterruptedError, match=f"s3://{bucket}/d/metadata.json"):
        retriever.open()
    proxy.fault = ""
    assert len(retriever) == 10
