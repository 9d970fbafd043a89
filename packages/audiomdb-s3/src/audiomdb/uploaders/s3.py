"""Uploader to Amazon S3 and compatible stores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from audiomdb._s3 import AddressingStyle, ClientOptions, ProcessClient, checked_place, join_key
from audiomdb._s3_errors import error_code, s3_errors
from audiomdb.errors import UploadError
from audiomdb.log import logger
from audiomdb.shards.layout import METADATA_FILE
from audiomdb.uploaders.base import BaseUploader
from audiomdb.urls import split_url

__all__ = ["S3Uploader"]

_THREADS_PER_FILE = 4
"""Parts of one file sent at once, for each of the `workers` files being sent."""

_STEP_BYTES = 256 * 1024

_FORBIDDEN = ("AccessDenied", "403", "AllAccessDisabled", "MethodNotAllowed")

_ARCHIVED = "InvalidObjectState"
"""The answer for an object of a storage class that has to be restored before it can be read."""

_SHA256 = "sha256"
"""Key in an object's metadata for the sha256 of its content, in hex."""


class S3Uploader(BaseUploader):
    """Uploads a dataset under a prefix of a bucket, which must exist.

        S3Uploader("my-bucket", "datasets/digits").upload_dir("digits")

    Large files are sent in parts. boto3 retries failed requests, and sends with each request data
    that the store verifies: to Amazon a checksum, elsewhere the sha256 in the signature, unless
    AWS_REQUEST_CHECKSUM_CALCULATION says otherwise. Each object has the sha256 of its content as
    metadata, so that a second upload sends only what has changed; afterwards its size is compared.

    Picklable; makes a client of its own in every process.

    Args:
        bucket: Name of the bucket.
        prefix: Prefix of the dataset in the bucket; with or without a "/" at its end.
        endpoint_url: URL of a store other than Amazon's.
        region_name: Region of the bucket; by default the one that the environment sets.
        profile_name: Profile in AWS's own files to take the credentials from.
        anonymous: Do not sign requests.
        requester_pays: Pay for requests and transfer, if the bucket's owner does not.
        addressing_style: As for `S3Retriever`.
        object_options: Options of each object, by boto3's names, such as
            `{"StorageClass": "STANDARD_IA", "ServerSideEncryption": "aws:kms"}`.
        workers: Number of files sent at once.
        progress: Whether to show a progress bar on stderr; None: only if that is a terminal.

    Raises:
        TypeError, ValueError: an option has the wrong type, or is out of range.
    """

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
        object_options: Mapping[str, object] | None = None,
        workers: int = 4,
        progress: bool | None = None,
    ) -> None:
        super().__init__(workers=workers, progress=progress)
        self._bucket, self._prefix = checked_place(bucket, prefix)
        self._object_options = _checked(object_options)
        options = ClientOptions(
            endpoint_url=endpoint_url,
            region_name=region_name,
            profile_name=profile_name,
            anonymous=anonymous,
            requester_pays=requester_pays,
            addressing_style=addressing_style,
            connections=self.workers * (_THREADS_PER_FILE + 1),
        )
        self._per_request = options.per_request
        self._client = ProcessClient(options)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> S3Uploader:  # noqa: ANN401
        """Make an uploader for `s3://bucket/prefix`, see `S3Retriever.from_url`.

        Raises:
            InvalidURLError: the URL names no bucket.
        """
        return cls(*split_url(url), **options)

    def upload_file(self, full_path: str, rel_path: str) -> None:
        """Send one file, in parts if it is large.

        Raises:
            UnknownOptionError: boto3 has no object option of this name.
            UploadError: the file cannot be sent.
        """
        from boto3.s3.transfer import TransferConfig

        self._check_names()
        options = {"ContentType": _content_type(rel_path), **self._object_options}
        options.update(self._per_request)
        metadata = {**options.get("Metadata", {}), _SHA256: self.sha256(full_path)}
        with s3_errors(f"upload {full_path} to {self.destination(rel_path)}", UploadError):
            self._client.call(
                lambda client: client.upload_file(
                    full_path,
                    self._bucket,
                    join_key(self._prefix, rel_path),
                    ExtraArgs={**options, "Metadata": metadata},
                    Callback=_Check(self.stop_check()),
                    Config=TransferConfig(max_concurrency=_THREADS_PER_FILE),
                )
            )

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        """Return the size of an object, and the sha256 it was uploaded with.

        Raises:
            UnknownOptionError: boto3 has no object option of this name.
            UploadError: the store cannot be queried.
        """
        from botocore.exceptions import ClientError

        self._check_names()
        with s3_errors(f"look at {self.destination(rel_path)}", UploadError):
            request = {"Bucket": self._bucket, "Key": join_key(self._prefix, rel_path)}
            request.update(self._per_request)
            try:
                head = self._client.call(lambda client: client.head_object(**request))
            except ClientError as exc:
                # A HEAD has no body, so a missing key and a missing bucket both say 404; the
                # upload that follows tells them apart.
                if error_code(exc) in ("404", "NoSuchKey"):
                    return None
                raise
        return head["ContentLength"], head.get("Metadata", {}).get(_SHA256)

    def read(self, rel_path: str) -> bytes | None:
        """Return the content of an object, or None if there is none, or if it is archived.

        Raises:
            UploadError: the object cannot be read.
        """
        from botocore.exceptions import ClientError

        request = {"Bucket": self._bucket, "Key": join_key(self._prefix, rel_path)}
        request.update(self._per_request)
        with s3_errors(f"read {self.destination(rel_path)}", UploadError):
            try:
                content: bytes = self._client.call(
                    lambda client: client.get_object(**request)["Body"].read()
                )
            except ClientError as exc:
                if error_code(exc) in ("404", "NoSuchKey", _ARCHIVED):
                    return None
                raise
        return content

    def remove(self, rel_path: str) -> None:
        """Delete an object; without permission to do so, log a warning and go on."""
        from botocore.exceptions import ClientError

        request = {"Bucket": self._bucket, "Key": join_key(self._prefix, rel_path)}
        request.update(self._per_request)
        with s3_errors(f"delete {self.destination(rel_path)}", UploadError):
            try:
                self._client.call(lambda client: client.delete_object(**request))
            except ClientError as exc:
                if error_code(exc) not in _FORBIDDEN:
                    raise
                effect = "it stays there, though only the dataset that was replaced had it"
                if rel_path == METADATA_FILE:
                    effect = (
                        "who reads meanwhile meets a mixture of two datasets, until this upload "
                        "has ended"
                    )
                logger("uploaders").warning(
                    "these credentials may not delete %s: %s", self.destination(rel_path), effect
                )

    def destination(self, rel_path: str) -> str:
        """Return the URL of a file."""
        return f"s3://{self._bucket}/{join_key(self._prefix, rel_path)}"

    def _check_names(self) -> None:
        """Check `object_options` before sending; the constructor would have to import boto3."""
        from boto3.s3.transfer import S3Transfer

        for name in self._object_options:
            if name not in S3Transfer.ALLOWED_UPLOAD_ARGS:
                from audiomdb.signatures import refuse_option

                raise refuse_option(name, "object_options", S3Transfer.ALLOWED_UPLOAD_ARGS)


class _Check:
    """Callback for s3transfer that abandons an upload once it has become pointless.

    While a file is sent, s3transfer calls it for every 256 KiB. It passes the remaining bytes when
    the file is closed, and all of them again after an exception: an exception raised then would
    leave the file open.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._raised: set[int] = set()

    def __call__(self, bytes_transferred: int) -> None:
        thread = threading.get_ident()
        if bytes_transferred < _STEP_BYTES or thread in self._raised:
            self._raised.discard(thread)
            return
        self._raised.add(thread)
        self._check()
        self._raised.discard(thread)


def _content_type(rel_path: str) -> str:
    return "application/json" if rel_path.endswith(".json") else "application/octet-stream"


def _checked(object_options: Mapping[str, object] | None) -> dict[str, Any]:
    """Return the object options, checked as far as possible without boto3.

    Raises:
        TypeError: they are not a mapping, or `Metadata` maps anything but text to text.
        ValueError: `Metadata` has characters that no store accepts.
    """
    if object_options is None:
        return {}
    if not isinstance(object_options, Mapping):
        raise TypeError(
            f"object_options is {object_options!r}, expected a mapping from boto3's names, such as "
            "{'StorageClass': 'STANDARD_IA'}"
        )
    metadata = object_options.get("Metadata", {})
    if not isinstance(metadata, Mapping):
        raise TypeError(f"Metadata in object_options is {metadata!r}, expected a mapping of text")
    for pair in metadata.items():
        for text in pair:
            if not isinstance(text, str):
                raise TypeError(f"Metadata in object_options holds {text!r}, expected text")
            if not text.isascii():
                raise ValueError(f"Metadata in object_options holds {text!r}, S3 takes ASCII only")
    return dict(object_options)
