"""Parse and build `hf://` URLs of datasets, in the form that `huggingface_hub` uses."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

from audiomdb.errors import InvalidURLError

__all__ = ["hf_url", "parse_hf_url"]

_FORM = "hf://datasets/user/repo[@revision][/subdir]"

# A revision ends at the next "/", except in the names that the Hub itself makes: refs/pr/1,
# refs/convert/parquet.
_URL = re.compile(
    r"hf://datasets/(?P<repo_id>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?"
    r"(?:/(?P<subdir>.*))?"
)


def parse_hf_url(url: str) -> tuple[str, dict[str, Any]]:
    """Parse the URL of a dataset on the Hub.

    Args:
        url: `hf://datasets/user/repo`, optionally with `@revision` and `/subdir`; "/" in a
            revision is written "%2F".

    Returns:
        `repo_id`, and a dict with those of `revision` and `subdir` that the URL has.

    Raises:
        InvalidURLError: the URL has another form.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise InvalidURLError(f"{url!r} is no dataset on the Hub, expected {_FORM}{_why(url)}")
    revision, subdir = match["revision"], (match["subdir"] or "").strip("/")
    options = {"revision": revision and unquote(revision), "subdir": subdir}
    return match["repo_id"], {name: value for name, value in options.items() if value}


def hf_url(repo_id: str, revision: str | None = None, subdir: str = "") -> str:
    """Return the URL of a dataset on the Hub; the inverse of `parse_hf_url`."""
    at = f"@{quote(revision, safe='')}" if revision else ""
    return f"hf://datasets/{repo_id}{at}/{subdir}".rstrip("/")


def _why(url: str) -> str:
    if not url.startswith("hf://"):
        return ""
    if not url.startswith("hf://datasets/"):
        return ": only repositories of datasets hold datasets"
    return ': "/" in a revision is written "%2F"' if "@" in url else ""
