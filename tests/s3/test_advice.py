"""What errors say to do: something else for who reads than for who uploads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ParamValidationError

from audiomdb._s3_errors import advice, may_pass
from audiomdb.errors import (
    DatasetNotFoundError,
    DownloadError,
    DownloadInterruptedError,
    UploadError,
)
from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.uploaders.s3 import S3Uploader

pytestmark = pytest.mark.usefixtures("short_waits")


def refusal(status: int, code: str) -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": "as the store says"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "GetObject")


@pytest.mark.parametrize(
    "error",
    [
        refusal(500, "500"),
        refusal(502, "BadGateway"),
        refusal(503, "SlowDown"),
        refusal(429, "TooManyRequests"),
        refusal(400, "RequestTimeout"),
        ConnectionClosedError(endpoint_url="http://store"),
    ],
    ids=str,
)
def test_temporary_errors_are_retried(error: Exception) -> None:
    assert may_pass(error)
    assert advice(error).endswith("run again, what has arrived is not sent again")
    assert advice(error, reading=True).endswith("run again")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (refusal(400, "InvalidArgument"), "the store refuses this"),
        (refusal(403, "InvalidObjectState"), "the store refuses this"),
        (refusal(405, "MethodNotAllowed"), "the store refuses this"),
        (refusal(501, "NotImplemented"), "the store refuses this"),
        (refusal(507, "XMinioStorageFull"), "the store is full"),
    ],
    ids=str,
)
def test_permanent_errors_are_not_retried(error: Exception, text: str) -> None:
    assert not may_pass(error)
    for reading in (False, True):
        assert advice(error, reading=reading).startswith(text)


def test_only_an_upload_error_advises_to_create_a_missing_bucket(
    server: Any, dataset: Path
) -> None:
    options = {"endpoint_url": server.url}
    with pytest.raises(UploadError, match="make the bucket first"):
        S3Uploader("no-such-bucket", "d", **options).upload_dir(str(dataset))
    with pytest.raises(DatasetNotFoundError, match=r"check its name and endpoint_url=") as caught:
        S3Retriever("no-such-bucket", "d", **options).open()
    assert "make" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "kind", "requests"),
    [
        ("503 Busy", "SlowDown", DownloadInterruptedError, 10),
        ("501 Not Implemented", "NotImplemented", DownloadError, 1),
        ("400 Bad Request", "InvalidArgument", DownloadError, 1),
    ],
)
def test_read_errors_are_retried_and_do_not_mention_sending(
    status: str, code: str, kind: type[Exception], requests: int, server: Any
) -> None:
    body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
    server.intercept = lambda _: (status, body)
    with pytest.raises(DownloadError) as caught:
        S3Retriever("bucket", "d", endpoint_url=server.url).open()
    assert type(caught.value) is kind
    assert "sent" not in str(caught.value)
    assert ("run again" in str(caught.value)) == (kind is DownloadInterruptedError)
    assert len(server.requests) == requests


@pytest.mark.parametrize(
    ("report", "text"),
    [
        ('Invalid bucket name "b kt": Bucket name must match the regex', "the bucket's name"),
        ("Invalid length for parameter Key, value: 0, valid min length: 1", "the bucket's name"),
        ("Non ascii characters found in S3 metadata for key 'team'", "check object_options="),
        ("Invalid type for parameter ACL, value: 3", "check object_options="),
    ],
)
def test_arguments_refused_by_boto3_are_explained(report: str, text: str) -> None:
    assert advice(ParamValidationError(report=report)).startswith(text)


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
def test_an_endpoint_that_redirects_everything_is_explained(
    server: Any, bucket: str, dataset: Path, tmp_path: Path, status: str
) -> None:
    server.intercept = lambda _: (status, b"")
    expected = r"redirects every request, as a login page.*check endpoint_url="
    retriever = S3Retriever(bucket, "digits", endpoint_url=server.url, cache_dir=tmp_path)
    with pytest.raises(DownloadError, match=expected):
        retriever.open()
    uploader = S3Uploader(bucket, "digits", endpoint_url=server.url, workers=1)
    with pytest.raises(UploadError, match=expected):
        uploader.upload_dir(dataset)


def test_a_proxy_that_cannot_be_reached_is_named(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    retriever = S3Retriever(
        bucket, "digits", endpoint_url="http://store.example", cache_dir=tmp_path
    )
    with pytest.raises(DownloadInterruptedError, match=r"http://127\.0\.0\.1:9.*NO_PROXY"):
        retriever.open()
