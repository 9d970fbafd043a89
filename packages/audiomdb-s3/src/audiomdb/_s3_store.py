"""Which store an address leads to: Amazon's own, which is one, or another one."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

__all__ = ["is_amazon", "is_endpoint", "store_name"]

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
"""Hosts of S3, so not those of machines and load balancers that Amazon rents out."""


def is_endpoint(url: object) -> bool:
    """Whether it is the URL of a machine, as boto3 takes it: `https://host`, maybe with a port."""
    if not isinstance(url, str) or url != url.strip():
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in _DEFAULT_PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or brackets around what is no address
        return False


def is_amazon(url: str) -> bool:
    """Whether the endpoint is one of Amazon's own."""
    return _AMAZON.fullmatch(urlsplit(url).hostname or "") is not None


def store_name(url: str) -> str | None:
    """What tells the store of an endpoint from others, the same for all ways to write it.

    None for Amazon's, where no two buckets have one name, whatever their region; but those in
    China, of governments and the like may have the names of others, and so are told apart.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_amazon(url) and host.endswith(".amazonaws.com") and "us-gov-" not in host:
        return None
    return f"{parts.scheme}://{_address(parts)}{parts.path.rstrip('/')}"


def _address(parts: SplitResult) -> str:
    """Host and port, the port left out where the scheme says it."""
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    default = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
    return host if default else f"{host}:{parts.port}"
