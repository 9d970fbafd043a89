"""Options and clients shared by the S3 retriever and the S3 uploader.

botocore renews credentials from a role, single sign-on or a `credential_process` before they
expire. Those from a file or the environment are read once, when a client is made; a client whose
token has expired is therefore replaced by a new one, which reads what has been written there since.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from audiomdb._s3_errors import EXPIRED, error_code
from audiomdb._s3_store import is_amazon, is_endpoint, shown, store_name
from audiomdb.checks import true_or_false
from audiomdb.errors import InvalidURLError
from audiomdb.lazy import importing
from audiomdb.locks import Lock
from audiomdb.urls import scheme_of

__all__ = ["AddressingStyle", "ClientOptions", "ProcessClient", "checked_place", "join_key"]

AddressingStyle: TypeAlias = Literal["auto", "path", "virtual"]
"""Whether a bucket is named in the path of a URL or in its host. "auto" leaves it to botocore."""

_T = TypeVar("_T")

_CONNECT_TIMEOUT_S = 10

_EXPECTED_ENDPOINT = "expected a URL such as https://host or http://host:9000, without credentials"

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables in which AWS's own tools look for an endpoint, before their config file."""


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Options for the connection to a store.

    Attributes:
        endpoint_url: URL of a store other than Amazon's.
        region_name: Region of the bucket; by default the one that the environment sets.
        profile_name: Profile in AWS's own files to take the credentials from.
        anonymous: Do not sign requests, for public buckets.
        requester_pays: Pay for requests and transfer, if the bucket's owner does not.
        addressing_style: See `AddressingStyle`.
        connections: Number of concurrent requests.
        attempts: Attempts that boto3 makes for each request.
        read_timeout_s: Seconds without a byte after which a connection counts as broken.
    """

    endpoint_url: str | None = None
    region_name: str | None = None
    profile_name: str | None = None
    anonymous: bool = False
    requester_pays: bool = False
    addressing_style: AddressingStyle = "auto"
    connections: int = 10
    attempts: int = 5
    read_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("region_name", "profile_name"):
            text = getattr(self, name)
            if not isinstance(text, str | None):
                raise TypeError(f"{name} is {text!r}, expected text or None")
        for name in ("anonymous", "requester_pays"):
            true_or_false(name, getattr(self, name))
        if self.endpoint_url is not None and not is_endpoint(self.endpoint_url):
            raise ValueError(f"endpoint_url is {shown(self.endpoint_url)}, {_EXPECTED_ENDPOINT}")
        seconds = self.read_timeout_s
        if not isinstance(seconds, int | float) or not 0 < seconds < math.inf or seconds is True:
            raise ValueError(f"read_timeout_s is {seconds!r}, expected a number of seconds above 0")
        if self.addressing_style not in get_args(AddressingStyle):
            raise ValueError(
                f"addressing_style is {self.addressing_style!r}, expected one of "
                f"{', '.join(map(repr, get_args(AddressingStyle)))}"
            )
        if self.anonymous and (self.requester_pays or self.profile_name is not None):
            raise ValueError("anonymous=True sends no credentials: leave out what needs them")

    @property
    def per_request(self) -> dict[str, str]:
        """Arguments to add to every request."""
        return {"RequestPayer": "requester"} if self.requester_pays else {}


class ProcessClient:
    """Gives each process a client of its own, made on first use.

    The endpoint is determined once in each process, even if the environment or AWS's own files
    change later. Picklable: only the options are sent. Thread-safe, as boto3's clients are.
    """

    _client: Any
    _endpoint: _Endpoint | None

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._forget()

    def __getstate__(self) -> ClientOptions:
        return self._options

    def __setstate__(self, options: ClientOptions) -> None:
        self._options = options
        self._forget()

    def get(self) -> Any:  # noqa: ANN401
        """Return the client of this process."""
        _import_boto3()
        with self._own_lock():
            if self._client is None:
                self._client = _make_client(self._options, self._found())
            return self._client

    def store_name(self) -> str | None:
        """Return what identifies the store, or None for Amazon's, without connecting to it."""
        if self._options.endpoint_url is not None:
            return store_name(self._options.endpoint_url)
        _import_boto3()
        with self._own_lock():
            return store_name(self._found().url)

    def call(self, request: Callable[[Any], _T]) -> _T:
        """Make a request; if the credentials have expired, repeat it once with newer ones."""
        client = self.get()
        try:
            return request(client)
        except Exception as exc:
            if _redirects_for_ever(exc):
                raise _endpoint_error(
                    "it redirects every request, as a login page does, or a server that expects "
                    "https:// instead of http://"
                ) from None
            if error_code(exc) not in EXPIRED:
                raise
        self._renew(client)
        return request(self.get())

    def _renew(self, expired: Any) -> None:  # noqa: ANN401
        """Drop a client, unless another thread has done so already."""
        with self._lock:
            if self._client is expired:
                self._client = None

    def _own_lock(self) -> Lock:
        if self._pid != os.getpid():
            # A lock that some thread held during a fork stays locked in the child, so make another.
            self._forget()
        return self._lock

    def _found(self) -> _Endpoint:
        """Return the endpoint. Call with the lock held."""
        if self._endpoint is None:
            self._endpoint = _find_endpoint(self._options)
        return self._endpoint

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = Lock()
        self._client = None
        self._endpoint = None


class _Endpoint(NamedTuple):
    """The URL that requests go to.

    Attributes:
        url: The URL according to boto3.
        given: The same, or None if neither an argument nor AWS's own settings name an endpoint, so
            that boto3 chooses it by region.
    """

    url: str
    given: str | None


@cache
def _import_boto3() -> None:
    """Import boto3, and with it all of botocore that is imported below, while nobody forks."""
    with importing():
        import boto3.session  # noqa: F401


def _find_endpoint(options: ClientOptions) -> _Endpoint:
    """Ask boto3 for the endpoint it would use.

    The clients made for this have dummy keys, since a search for credentials may query a server.
    """
    from botocore.config import Config

    if options.endpoint_url is not None:
        return _Endpoint(options.endpoint_url, options.endpoint_url)
    session = _make_session(options)
    keys = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), "none")

    def ask(*, ignored: bool | None) -> str:
        config = Config(ignore_configured_endpoint_urls=ignored)
        url: str = session.client("s3", config=config, **keys).meta.endpoint_url
        return url

    plain = ask(ignored=True)
    try:
        found = ask(ignored=None)
    except ValueError as exc:
        # Without the error itself, which may show a password.
        raise _wrong_endpoint(str(exc).removeprefix("Invalid endpoint: ")) from None
    if found == plain:
        return _Endpoint(found, None)
    if not is_endpoint(found):
        raise _wrong_endpoint(found)
    return _Endpoint(found, found)


def _redirects_for_ever(error: Exception) -> bool:
    """Return whether boto3 was led astray: on a redirect, it asks for the bucket's region.

    If that is redirected as well, it asks again, and so on.
    """
    return isinstance(error, RecursionError) or isinstance(error.__context__, RecursionError)


def _endpoint_error(text: str) -> Exception:
    """Return an error about the endpoint, of a botocore class."""
    from botocore.exceptions import InvalidEndpointConfigurationError

    error: Exception = InvalidEndpointConfigurationError(msg=text)
    return error


def _wrong_endpoint(found: str) -> Exception:
    """Return the error for an invalid endpoint in AWS's own settings."""
    for name in _ENDPOINT_VARIABLES:
        if url := os.environ.get(name):
            return _endpoint_error(f"{name} is {shown(url)}, {_EXPECTED_ENDPOINT}")
    return _endpoint_error(
        f"endpoint_url in AWS's config file is {shown(found)}, {_EXPECTED_ENDPOINT}"
    )


def _make_session(options: ClientOptions) -> Any:  # noqa: ANN401
    """Make a new session, because boto3's default session is not thread-safe."""
    import boto3
    from botocore.session import Session

    core = Session(profile=options.profile_name)
    session = boto3.session.Session(botocore_session=core, region_name=options.region_name)
    core.register_component("data_loader", _loader(core.get_config_variable("data_path")))
    return session


@cache
def _loader(data_path: str | None) -> Any:  # noqa: ANN401
    """What reads botocore's description of S3: once, since it takes 12 MB and 0.1 s each time.

    Nobody changes what it has read; two threads that come first read it twice.
    """
    from botocore.loaders import create_loader

    return create_loader(data_path)


def _make_client(options: ClientOptions, endpoint: _Endpoint) -> Any:  # noqa: ANN401
    from botocore import UNSIGNED
    from botocore.config import Config

    more: dict[str, Any] = {}
    if options.anonymous:
        more["signature_version"] = UNSIGNED
    if endpoint.given and not is_amazon(endpoint.given) and not _says_checksums(options):
        # Over TLS, boto3 would send a checksum at the end of each body, which many other stores do
        # not support (storj/gateway-st#89, treeverse/lakeFS#7939). Without it, the signature covers
        # the body's sha256, so that they detect damage all the same.
        more["request_checksum_calculation"] = "when_required"
    config = Config(
        # Some stores send the checksum of the whole object with a part of it, which botocore would
        # take for damage. AudioMDB compares sizes and sha256 itself.
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": options.attempts},
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=options.read_timeout_s,
        max_pool_connections=options.connections,
        s3={"addressing_style": options.addressing_style},
        # The endpoint is known from them already, and the cache is named by it.
        ignore_configured_endpoint_urls=True,
        **more,
    )
    session = _make_session(options)
    return session.client("s3", endpoint_url=endpoint.given, config=config)


def _says_checksums(options: ClientOptions) -> bool:
    """Return whether the user has configured which requests get a checksum."""
    from botocore.session import Session

    name = "request_checksum_calculation"
    profile = Session(profile=options.profile_name).get_scoped_config()
    return f"AWS_{name.upper()}" in os.environ or name in profile


def checked_place(bucket: str, prefix: str) -> tuple[str, str]:
    """Return bucket and prefix, the latter without outer slashes.

    Raises:
        TypeError: one of them is not text.
        InvalidURLError: the bucket has no name, or is a URL.
        ValueError: the bucket comes with credentials.
    """
    for name, text in (("bucket", bucket), ("prefix", prefix)):
        if not isinstance(text, str):
            raise TypeError(f"{name} is {text!r}, expected text")
    if not bucket:
        raise InvalidURLError("the bucket has no name")
    if scheme_of(bucket) is not None:
        raise InvalidURLError(
            f"the bucket {shown(bucket)} is a URL: give the names of bucket and prefix, or the URL "
            "to audiomdb.registry.retriever_for or uploader_for"
        )
    if "@" in bucket:  # which later errors would show
        raise ValueError(
            f"the bucket {bucket.rpartition('@')[2]!r} comes with credentials before an '@': give "
            "profile_name=, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return bucket, prefix.strip("/")


def join_key(prefix: str, rel_path: str) -> str:
    """Return the key of a file of the dataset under `prefix`."""
    return f"{prefix}/{rel_path}" if prefix else rel_path
