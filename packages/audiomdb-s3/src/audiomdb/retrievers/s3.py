"""Retriever for datasets in Amazon S3 and compatible stores."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from audiomdb._s3 import AddressingStyle, ClientOptions, ProcessClient, checked_place, join_key
from audiomdb._s3_errors import EXPIRED, advice, error_code, may_pass, s3_errors
from audiomdb.errors import DatasetNotFoundError, DownloadError, DownloadInterruptedError
from audiomdb.retrievers.base import BaseRetriever, RemoteFile
from audiomdb.urls import split_url

__all__ = ["S3Retriever"]

_CHUNK_BYTES = 64 * 1024
"""Size of the chunks read from a connection.

A broken connection loses half of this on average, because urllib3 drops a chunk that it has in
part. Connections reset every 2 MB cost 7 % more bytes with 256 KiB, 2 % with 64 KiB. Processor time
goes the other way: 0.3 s per GB with 256 KiB, 0.6 s with 64 KiB, 1.0 s with 32 KiB.
"""

_ATTEMPTS = 2
"""Attempts by boto3, in case a pooled connection is dead. The cache retries everything else."""

_PARTIAL = 206
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)")

_CHANGED = ("412", "PreconditionFailed")
_BEYOND_THE_END = ("416", "InvalidRange")
_MISSING = ("404", "NoSuchKey", "NoSuchBucket")


class S3Retriever(BaseRetriever):
    """Reads a dataset under a prefix of a bucket, through a cache on a local disk.

        retriever = S3Retriever("my-bucket", "datasets/digits", max_cache_bytes=50 * 1024**3)
        for batch in DataLoader(StreamingDataset(retriever, shuffle=True), batch_size=32):
            ...

    Shards are downloaded ahead of a stream, once for all processes of the machine. A download that
    breaks off resumes after its last byte, as long as the object is the same (its ETag). Errors of
    boto3 are raised as `DownloadError`, with what to do about them.

    The cache is named by bucket, prefix and store. The store is identified by `endpoint_url`, or by
    the endpoint that the environment or the profile sets when the cache is first needed; Amazon's
    own store adds nothing to the name.

    Args:
        bucket: Name of the bucket.
        prefix: Prefix of the dataset in the bucket; with or without a "/" at its end.
        endpoint_url: URL of a store other than Amazon's.
        region_name: Region of the bucket; by default the one that the environment sets.
        profile_name: Profile in AWS's own files to take the credentials from.
        anonymous: Do not sign requests, for public buckets.
        requester_pays: Pay for requests and transfer, if the bucket's owner does not.
        addressing_style: "path" for stores whose certificate or name server does not support
            `bucket.host`; "virtual" for those that support nothing else.
        read_timeout_s: Seconds without a byte after which a connection counts as broken.
        cache_dir: Directory for caches, see `BaseRetriever`.
        max_cache_bytes: Limit of this dataset's cache.
        prefetch: Number of shards to download ahead of a stream.
        workers: Number of concurrent downloads, over all processes of the machine.

    Raises:
        TypeError, ValueError: an option has the wrong type, or is out of range.
    """

    access_options = frozenset(
        {
            "addressing_style",
            "anonymous",
            "profile_name",
            "read_timeout_s",
            "region_name",
            "requester_pays",
        }
    )

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str | None = None,
        region_name: str | None = None,
        profile_name: str | None = None,
        anonymous: bool = False,
        requester_pays: bool = False,
        addressing_style: AddressingStyle = "auto",
        read_timeout_s: float = 20.0,
        cache_dir: str | os.PathLike[str] | None = None,
        max_cache_bytes: int | None = None,
        prefetch: int = 4,
        workers: int = 4,
    ) -> None:
        super().__init__(
            cache_dir=cache_dir,
            max_cache_bytes=max_cache_bytes,
            prefetch=prefetch,
            workers=workers,
        )
        self._bucket, self._prefix = checked_place(bucket, prefix)
        options = ClientOptions(
            endpoint_url=endpoint_url,
            region_name=region_name,
            profile_name=profile_name,
            anonymous=anonymous,
            requester_pays=requester_pays,
            addressing_style=addressing_style,
            connections=int(workers) + 1,
            attempts=_ATTEMPTS,
            read_timeout_s=read_timeout_s,
        )
        self._per_request = options.per_request
        self._client = ProcessClient(options)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> S3Retriever:  # noqa: ANN401
        """Make a retriever for `s3://bucket/prefix`.

        Everything after the bucket is the prefix, taken literally except for slashes at its ends.
        Other settings are options, or come from the environment as boto3 reads it
        (AWS_ENDPOINT_URL, AWS_PROFILE, AWS_DEFAULT_REGION).

        Raises:
            InvalidURLError: the URL names no bucket.
        """
        return cls(*split_url(url), **options)

    def open_remote(
        self,
        path: str,
        *,
        start: int = 0,
        stop: int | None = None,
        validator: str | None = None,
    ) -> RemoteFile:
        """Open an object at byte `start`, or at byte 0 if it has changed since `validator`."""
        key = join_key(self._prefix, path)
        url = f"s3://{self._bucket}/{key}"
        request = {"Bucket": self._bucket, "Key": key, **self._per_request}
        part = dict(request)
        if start or stop is not None:
            part["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if validator is not None:
            part["IfMatch"] = validator
        # Without a validator, the bytes from the middle on could be of another version.
        response = None if start and validator is None else self._get(url, part)
        span = None if response is None else _span(response)
        if span is None:
            if response is not None:
                response["Body"].close()
            response = self._get(url, request)
            assert response is not None, "only a condition or a range can be refused"
            span = _span(response) or (0, None)
        assert response is not None, "there is no span without one"
        begin, size = span
        return RemoteFile(_Chunks(url, response["Body"]), begin, response.get("ETag"), size)

    def _settled_arguments(self) -> Mapping[str, Any]:
        """Return the store, however it is given, and the prefix without outer slashes."""
        with s3_errors(
            f"read s3://{join_key(self._bucket, self._prefix)}", DownloadError, reading=True
        ):
            store = self._client.store_name()
        return {"endpoint_url": store, "prefix": self._prefix or None}

    def _get(self, url: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """Get an object, or None if it has changed or does not reach the requested range.

        Raises:
            DatasetNotFoundError: there is no such object.
            DownloadError: anything else.
        """
        from botocore.exceptions import ClientError

        with s3_errors(f"read {url}", _kind, reading=True):
            try:
                response: dict[str, Any] = self._client.call(
                    lambda client: client.get_object(**request)
                )
            except ClientError as exc:
                code = error_code(exc)
                if code in _CHANGED + _BEYOND_THE_END:
                    return None
                if code in _MISSING:
                    step = advice(exc, reading=True)
                    if code != "NoSuchBucket":
                        first = url.endswith("/metadata.json")
                        step += f"; {'check bucket and prefix' if first else 'upload again'}"
                    raise DatasetNotFoundError(f"no {url}: {step}") from exc
                raise
        return response

    def __repr__(self) -> str:
        return f"S3Retriever({self._bucket!r}, {self._prefix!r})"


class _Chunks:
    """The body of a response, as chunks of bytes."""

    def __init__(self, url: str, body: Any) -> None:  # noqa: ANN401
        self._url = url
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        with s3_errors(f"read {self._url}", _kind, reading=True):
            yield from self._body.iter_chunks(_CHUNK_BYTES)

    def close(self) -> None:
        self._body.close()


def _span(response: Mapping[str, Any]) -> tuple[int, int | None] | None:
    """Return the first byte sent and the size of the whole object; None if the range is unknown.

    Proxies that send chunks leave out the length of the body, and some leave out the object's size.
    """
    said = response.get("ContentRange")
    if said is None and response["ResponseMetadata"]["HTTPStatusCode"] != _PARTIAL:
        return 0, response.get("ContentLength")  # the response of a store that ignores ranges
    match = _CONTENT_RANGE.fullmatch(said or "")
    if match is None:
        return None
    first, size = match.groups()
    return int(first), None if size == "*" else int(size)


def _kind(error: BaseException) -> type[DownloadError]:
    """Return the class of the error to raise, which depends on whether a retry may help."""
    # Expired credentials too: their renewal in a file may be a little late.
    again = may_pass(error) or error_code(error) in EXPIRED
    return DownloadInterruptedError if again else DownloadError
