from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import DatasetNotFoundError, DownloadError, DownloadInterruptedError
from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import SampleStream
from audiomdb.uploaders.s3 import S3Uploader

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 1.2 MB: several chunks each. Tests read it only."""
    path = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    with DatasetWriter(path, samples_per_shard=4) as writer:
        for number in range(8):
            writer.write(f"clip-{number}", {"blob": rng.bytes(300_000)})
    return path


@pytest.fixture
def retrievers() -> Iterator[list[S3Retriever]]:
    made: list[S3Retriever] = []
    yield made
    for retriever in made:
        retriever.close()


@pytest.fixture
def uploaded(server: Any, bucket: str, large: Path, retrievers: list[S3Retriever]) -> Any:
    S3Uploader(bucket, "sets/large", endpoint_url=server.url).upload_dir(str(large))
    server.requests.clear()

    def retriever(prefix: str = "sets/large", **options: Any) -> S3Retriever:
        retrievers.append(S3Retriever(bucket, prefix, endpoint_url=server.url, **options))
        return retrievers[-1]

    return retriever


def test_an_uploaded_s3_dataset_is_read_fetching_each_object_once(
    uploaded: Any, server: Any, large: Path
) -> None:
    retriever = uploaded()
    assert list(SampleStream(retriever)) == list(DatasetReader.open(large))
    assert list(retriever.open().index) == list(DatasetReader.open(large).index)
    asked = [path.rpartition("sets/large/")[2] for method, path in server.requests]
    assert sorted(asked) == [
        "index.bin",
        "metadata.json",
        "shard_00000/data.mdb",
        "shard_00001/data.mdb",
    ]


def test_making_a_retriever_connects_to_nothing(server: Any) -> None:
    retriever = S3Retriever("no-bucket", endpoint_url=server.url)
    assert server.requests == []
    assert repr(retriever) == "S3Retriever('no-bucket', '')"


def test_a_slash_at_the_end_of_the_prefix_makes_no_difference(uploaded: Any) -> None:
    assert len(uploaded("/sets/large/")) == 8


def cut_bodies(server: Any, monkeypatch: pytest.MonkeyPatch, after: int, times: int) -> list[str]:
    """Make the server close connections in the middle of shards; returns the ranges asked for."""
    ranges: list[str] = []
    app, left = server._app, [times]

    def cutting(environ: dict[str, Any], start: Any) -> Any:
        body = b"".join(app(environ, start))
        if not environ["PATH_INFO"].endswith(".mdb") or environ["REQUEST_METHOD"] != "GET":
            return [body]
        ranges.append(environ.get("HTTP_RANGE", ""))
        if left[0]:
            left[0] -= 1
            # Fewer bytes than Content-Length says: the server then closes the connection.
            return [body[:after]]
        return [body]

    monkeypatch.setattr(server, "_app", cutting)
    return ranges


def test_a_cut_download_goes_on_where_it_broke_off(
    uploaded: Any, server: Any, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = cut_bodies(server, monkeypatch, 400_000, 2)
    retriever = uploaded()
    assert retriever.open()[0]["blob"] == DatasetReader.open(large)[0]["blob"]
    starts = [int(text.removeprefix("bytes=").rstrip("-") or 0) for text in ranges]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] < starts[2]
    size = retriever.metadata.shards[0].bytes
    metadata_bytes = (large / "metadata.json").stat().st_size
    assert retriever.cache_stats.fetched_bytes == size + metadata_bytes
    assert retriever.cache_stats.retries == 2


def test_an_object_that_changes_while_it_is_read_is_read_anew(
    uploaded: Any, server: Any, bucket: str, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sets/large/shard_00000/data.mdb"
    right = (large / "shard_00000" / "data.mdb").read_bytes()
    client = server.client()
    client.put_object(Bucket=bucket, Key=key, Body=b"x" * len(right))
    ranges = cut_bodies(server, monkeypatch, 400_000, 1)
    retriever = uploaded()
    original = retriever.open_remote

    def changing(path: str, *, start: int = 0, validator: str | None = None) -> Any:
        if start:
            client.put_object(Bucket=bucket, Key=key, Body=right)
        return original(path, start=start, validator=validator)

    monkeypatch.setattr(
        S3Retriever, "open_remote", lambda _self, path, **more: changing(path, **more)
    )
    retriever.open_remote = changing
    assert retriever.open()[0]["blob"] == DatasetReader.open(large)[0]["blob"]
    assert ranges[-1] == ""
    assert retriever.cache_stats.corrupt == 0


@pytest.mark.parametrize(
    "said", ["bytes {start}-{last}/*", "bytes junk", "bytes {start}-{last}/" + "9" * 5000, None]
)
def test_an_incomplete_content_range_is_understood_or_requested_again(
    said: str | None,
    uploaded: Any,
    server: Any,
    large: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut_bodies(server, monkeypatch, 400_000, 1)
    app, changed = server._app, []

    def changing(environ: dict[str, Any], start: Any) -> Any:
        def started(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            there = {name.title(): value for name, value in headers}
            if span := there.pop("Content-Range", ""):
                changed.append(span)
                first, _, last = span.removeprefix("bytes ").partition("/")[0].partition("-")
                if said is not None:
                    there["Content-Range"] = said.format(start=first, last=last)
            return start(status, list(there.items()), *more)

        return app(environ, started)

    monkeypatch.setattr(server, "_app", changing)
    retriever = uploaded()
    assert retriever.open()[0]["blob"] == DatasetReader.open(large)[0]["blob"]
    assert len(changed) == 1
    assert retriever.cache_stats.corrupt == 0


@pytest.mark.parametrize("path", ["metadata.json", "data.mdb"])
def test_a_store_that_does_not_say_how_long_a_file_is_is_read(
    path: str, uploaded: Any, server: Any, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = server._app

    def silent(environ: dict[str, Any], start: Any) -> Any:
        def started(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            hidden = "Content-Length" if environ["PATH_INFO"].endswith(path) else ""
            return start(status, [pair for pair in headers if pair[0] != hidden], *more)

        return app(environ, started)

    monkeypatch.setattr(server, "_app", silent)
    assert uploaded().open()[0]["blob"] == DatasetReader.open(large)[0]["blob"]


def test_a_busy_store_is_asked_again(uploaded: Any, server: Any) -> None:
    refusals = [b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"] * 5

    def busy(environ: dict[str, Any]) -> tuple[str, bytes] | None:
        if environ["PATH_INFO"].endswith(".mdb") and refusals:
            return "503 Slow Down", refusals.pop()
        return None

    server.intercept = busy
    retriever = uploaded()
    assert retriever.open()[0]["__key__"] == "clip-0"
    assert refusals == []


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        ("403 Forbidden", "AccessDenied", DownloadError, "s3:GetObject"),
        ("404 Not Found", "NoSuchKey", DatasetNotFoundError, "no such key; check bucket"),
        ("500 Internal Server Error", "InternalError", DownloadInterruptedError, "run again"),
    ],
)
def test_refusals_say_what_to_do(
    uploaded: Any, server: Any, status: str, code: str, kind: type[Exception], text: str
) -> None:
    body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
    server.intercept = lambda _: (status, body)
    with pytest.raises(kind, match=text) as caught:
        uploaded().open()
    assert type(caught.value) is kind
    assert "/sets/large/metadata.json" in str(caught.value)


def test_an_empty_prefix_holds_no_dataset(uploaded: Any) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"s3://.*/nothing/metadata\.json"):
        uploaded("nothing").open()


def test_importing_the_retriever_does_not_import_boto3() -> None:
    import subprocess

    code = "import sys, audiomdb.retrievers.s3; sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
