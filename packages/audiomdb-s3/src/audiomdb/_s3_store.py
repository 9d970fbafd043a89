"""Identity of the store behind an endpoint: Amazon S3, which counts as one store, or another."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

__all__ = ["is_amazon", "is_endpoint", "shown", "store_name"]

_DEFAULT_PORTS = {"http": 80, "https": 443}

_AMAZON = re.compile(
    r"""
    (?: s3 (?:-[a-z0-9-]+)? (?:\.dualstack)? (?:\.[a-z0-9-]+)?    # s3.eu-central-1, s3-fips, ...
      | (?:bucket|accesspoint)\.vpce-[a-z0-9-]+\.s3\.[a-z0-9-]+\.vpce
    )
    \.(?:amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu|c2s\.ic\.gov|sc2s\.sgov\.gov)
    """,
    re.VERBOSE,
)
"""Host names of S3, but not of other Amazon services such as instances and load balancers."""


def is_endpoint(url: object) -> bool:
    """Return whether this is an endpoint URL for boto3: `https://host`, with an optional port.

    A URL with a user or a password is none: boto3 does not use them, and its errors show them.
    """
    if not isinstance(url, str) or url != url.strip():
        return False
    try:
        parts = urlsplit(url)
        plain = parts.scheme in _DEFAULT_PORTS and "@" not in parts.netloc
        return plain and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, or brackets around an invalid address
        return False


def shown(url: object) -> str:
    """Return the `repr` of an endpoint for errors, with `***` for all that stands before an "@"."""
    return re.sub(r"""(['"](?:\w+://)?).*@""", r"\1***@", repr(url))


def is_amazon(url: str) -> bool:
    """Return whether the endpoint is one of Amazon's own."""
    return _AMAZON.fullmatch(urlsplit(url).hostname or "") is not None


def store_name(url: str) -> str | None:
    """Return a name that identifies the store of an endpoint, the same for all spellings of it.

    None for Amazon's, where no two buckets have the same name, whatever their region. Its stores in
    China, for governments and the like may repeat the names of others, so they are told apart.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_amazon(url) and host.endswith(".amazonaws.com") and "us-gov-" not in host:
        return None
    return f"{parts.scheme}://{_address(parts)}{parts.path.rstrip('/')}"


def _address(parts: SplitResult) -> str:
    """Return host and port, without the port if it is the default of the scheme."""
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    default = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
    return host if default else f"{host}:{parts.port}"
