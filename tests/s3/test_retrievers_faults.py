"""The real client and a real server, with a network between them that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audiomdb.cache.retry
import audiomdb.cache.transfer
from audiomdb.errors import DownloadInterruptedError
from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.shards import DatasetReader, DatasetWriter, read_metadata
from audiomdb.stream import SampleStream
from audiomdb.testing import FaultProxy
from audiomdb.uploaders.s3 import S3Uploader


@pytest.fixture
def proxy(server: Any) -> Iterator[FaultProxy]:
    with FaultProxy(server.url) as proxy:
        yield proxy


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
    proxy: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[S3Retriever]:
    monkeypatch.setattr(audiomdb.cache.retry, "FIRST_WAIT_S", 1e-3)
    S3Uploader(bucket, "d", endpoint_url=server.url).upload_dir(str(megabytes))
    retriever = S3Retriever(
        bucket, "d", endpoint_url=proxy.url, cache_dir=tmp_path, read_timeout_s=2.0
    )
    yield retriever
    retriever.close()


@pytest.mark.parametrize("fault", ["reset", "close"])
def test_a_connection_that_breaks_every_two_megabytes_costs_little(
    fault: Any, retriever: S3Retriever, proxy: FaultProxy, megabytes: Path
) -> None:
    proxy.fail(fault, after=2_000_000)
    assert [sample["n"] for sample in SampleStream(retriever)] == list(range(10))
    assert proxy.stats.faults >= 4
    kept = read_metadata(megabytes).bytes + (megabytes / "metadata.json").stat().st_size
    assert retriever.cache_stats.fetched_bytes == kept
    if fault == "close":  # a reset throws away what the client has not read yet
        assert proxy.stats.answer_bytes < 1.2 * kept


def test_a_stalled_connection_is_given_up_and_continued(
    retriever: S3Retriever, proxy: FaultProxy
) -> None:
    len(retriever)
    proxy.fail("stall", after=2_000_000, times=1)
    assert retriever.open()[0]["n"] == 0
    assert proxy.stats.faults == 1
    assert retriever.cache_stats.retries == 1


SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "reset", "after": 300_000, "times": 3},
        {"kind": "close", "after": 300_000, "times": 3},
        {"kind": "stall", "after": 300_000, "times": 2},
        {"kind": "status", "status": 503, "body": SLOW_DOWN, "times": 5, "match": "data.mdb"},
        {"kind": "status", "status": 500, "times": 5, "match": "data.mdb"},
        {"kind": "short", "after": 100_000, "times": 3, "match": "Range: bytes"},
        {"kind": "ignore_range", "match": "data.mdb"},
        {"kind": "flip", "after": 300_000, "times": 1},
    ],
    ids=lambda fault: fault["kind"] + str(fault.get("status", "")),
)
def test_a_large_shard_survives_whatever_happens_to_its_connections(
    fault: Any,
    retriever: S3Retriever,
    proxy: FaultProxy,
    megabytes: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audiomdb.cache.transfer, "_LEAST_PIECE", 600_000)
    len(retriever)
    proxy.reset_stats()
    proxy.fail(**fault)
    assert retriever.open()[9] == DatasetReader.open(megabytes)[9]
    assert proxy.stats.faults >= 1
    assert proxy.stats.connections > 1
    if fault["kind"] in ("close", "stall", "status", "short"):
        # What an ended connection has brought is kept.
        size = retriever.metadata.shards[1].bytes
        metadata_bytes = (megabytes / "metadata.json").stat().st_size
        assert retriever.cache_stats.fetched_bytes == size + metadata_bytes


def test_a_store_that_refuses_connections_is_an_error_with_its_url(
    retriever: S3Retriever, proxy: FaultProxy, bucket: str
) -> None:
    proxy.fail("refuse")
    with pytest.raises(DownloadInterruptedError, match=f"s3://{bucket}/d/metadata.json"):
        retriever.open()
    proxy.heal()
    assert len(retriever) == 10
