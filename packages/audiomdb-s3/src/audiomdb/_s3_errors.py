"""Translation of boto3's errors to AudioMDB's own, with advice on what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from audiomdb.errors import AudioMDBError

__all__ = ["EXPIRED", "advice", "error_code", "may_pass", "s3_errors"]

EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
)
"""Codes that stores use for expired credentials."""

_BUSY = frozenset(
    {
        "InternalError",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
"""Codes of stores that are temporarily busy or broken, whatever the status of the response."""

_NOT_IMPLEMENTED, _STORE_FULL = 501, 507

_CREDENTIALS = (
    "check the credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile "
    "(profile_name=), or anonymous=True for a public bucket"
)
_RENEW = (
    "the session token has expired, and no newer one is to be had: renew it where it came from, or "
    "use credentials that renew themselves (a role, single sign-on, credential_process)"
)
_PERMISSION = (
    "these credentials may not do that; reading needs s3:GetObject, writing s3:PutObject and "
    "s3:AbortMultipartUpload, a bucket whose owner does not pay requester_pays=True, and without "
    "s3:ListBucket a missing file looks like a forbidden one"
)
_REACH = "check endpoint_url= and the network"
_PROXY = (
    "check the proxy that HTTPS_PROXY or HTTP_PROXY names; hosts in NO_PROXY are reached without it"
)
_REGION = "the bucket is in another region; give region_name="
_AGAIN = "the store is busy or broken; run again"
_REFUSED = "the store refuses this; what it says tells why"
_SETTINGS = "boto3 cannot do this with the settings it finds; what it says tells which"
_FULL = "the store is full"
_NAMES = "the bucket's name or the key is not one S3 allows"
_CHECKSUMS = (
    f"{_REFUSED}; if it knows no checksums at the end of a body, AWS_REQUEST_CHECKSUM_CALCULATION="
    "when_required leaves them out"
)

_ADVICE = {
    "403": _PERMISSION,
    "AccessDenied": _PERMISSION,
    "AllAccessDisabled": _PERMISSION,
    **dict.fromkeys(EXPIRED, _RENEW),
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "404": "there is no such bucket or key",
    "NoSuchBucket": "there is no such bucket at this store; check its name and endpoint_url=",
    "NoSuchKey": "there is no such key",
    "301": _REGION,
    "400": _CREDENTIALS + "; the region may be wrong too (region_name=)",
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    # Class names of botocore's own errors.
    "NoCredentialsError": _CREDENTIALS,
    "PartialCredentialsError": _CREDENTIALS,
    "ProfileNotFound": _CREDENTIALS,
    "TokenRetrievalError": _CREDENTIALS,
    "NoRegionError": "give region_name=",
    "InvalidRegionError": "check region_name=",
    "ConnectTimeoutError": _REACH,
    "EndpointConnectionError": _REACH,
    "InvalidEndpointConfigurationError": _REACH,
    "ProxyConnectionError": _PROXY,
    "SSLError": _REACH,
}

_ADVICE_WRITING = {
    "NoSuchBucket": "make the bucket first",
    "EntityTooLarge": "the store takes no files of this size; convert with a smaller "
    "max_shard_bytes",
    "QuotaExceeded": _FULL,
    "MissingContentLength": _CHECKSUMS,
    "NotImplemented": _CHECKSUMS,
    "XAmzContentSHA256Mismatch": _CHECKSUMS,
}
"""Advice that replaces or extends `_ADVICE` while something is written."""


@contextmanager
def s3_errors(
    doing: str,
    kind: type[AudioMDBError] | Callable[[BaseException], type[AudioMDBError]],
    *,
    reading: bool = False,
) -> Iterator[None]:
    """Turn whatever boto3 raises into `kind`, saying what was being done and what to do.

    Args:
        doing: Text to put after "cannot", such as "read s3://bucket/key".
        kind: Class of the error to raise, or a function that chooses it for an error of boto3.
        reading: Whether nothing is sent, so that advice on writing does not apply.
    """
    try:
        yield
    except Exception as exc:
        # boto3 is imported only now: naming a cache happens in here, and does not always need it.
        if not _of_boto3(exc):
            raise
        said = " ".join(str(exc).split())
        chosen = kind if isinstance(kind, type) else kind(exc)
        raise chosen(f"cannot {doing}: {said} ({advice(exc, reading=reading)})") from exc


def error_code(error: BaseException) -> str:
    """Return the store's code for an error ("NoSuchBucket", "404"), else the name of its class."""
    answer = _answer(error)
    if answer is None:
        return type(error).__name__
    return str(answer.get("Error", {}).get("Code", ""))


def may_pass(error: BaseException) -> bool:
    """Return whether a retry may succeed, since the store is busy or a connection broke."""
    from boto3 import exceptions as transfers
    from botocore import exceptions

    if _answer(error) is not None:
        status = _status(error)
        broken = status >= 500 and status not in (_NOT_IMPLEMENTED, _STORE_FULL)
        return broken or status == 429 or error_code(error) in _BUSY
    return isinstance(
        error,
        (
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            exceptions.IncompleteReadError,
            # A transfer that ends without a response from the store.
            transfers.RetriesExceededError,
            transfers.S3TransferFailedError,
            transfers.S3UploadFailedError,
        ),
    )


def advice(error: BaseException, *, reading: bool = False) -> str:
    """Return what to do about an error."""
    code, known = error_code(error), _ADVICE if reading else {**_ADVICE, **_ADVICE_WRITING}
    if code in known:
        return known[code]
    if may_pass(error):
        return _AGAIN if reading else f"{_AGAIN}, what has arrived is not sent again"
    if _answer(error) is not None:
        return _FULL if _status(error) == _STORE_FULL else _REFUSED
    if code == "ParamValidationError":
        # Anything else can only come from `object_options`.
        names = reading or re.search(r"bucket name|parameter (Bucket|Key)\b", str(error))
        return _NAMES if names else "check object_options="
    return _SETTINGS


def _of_boto3(error: BaseException) -> bool:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError

    return isinstance(error, (Boto3Error, BotoCoreError, ClientError, RetriesExceededError))


def _answer(error: BaseException) -> dict[str, Any] | None:
    """Return the store's response to the failed request, or None if there was none."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict) and error.__context__ is not None:
        # boto3's transfers raise errors of their own while they handle the store's.
        answer = getattr(error.__context__, "response", None)
    return answer if isinstance(answer, dict) else None


def _status(error: BaseException) -> int:
    """Return the HTTP status of the store's response, 0 for none."""
    answer = _answer(error) or {}
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
