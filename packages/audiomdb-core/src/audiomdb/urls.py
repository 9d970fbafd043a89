"""Taking URLs apart. What stands in them is taken as it is: a bucket's keys may hold any letter."""

from __future__ import annotations

import os
import re
from pathlib import Path

from audiomdb.errors import InvalidURLError

__all__ = ["folder_path", "local_path", "scheme_of", "split_url"]


def scheme_of(text: str) -> str | None:
    """The scheme of a URL in small letters ("s3"), None for what is no URL, such as a path."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    return found[1].lower() if found else None


def split_url(url: str) -> tuple[str, str]:
    """What comes first in a URL, its bucket or machine, and the rest without slashes at its ends.

        >>> split_url("s3://my-bucket/datasets/digits/")
        ('my-bucket', 'datasets/digits')

    Neither a query nor %-signs mean anything here.

    Raises:
        InvalidURLError: there is nothing after "://", or it is no URL.
    """
    _, found, rest = url.partition("://")
    first, _, path = rest.partition("/")
    if not found or not first:
        raise InvalidURLError(
            f"{url!r} leads nowhere: a name has to follow the two slashes, as in s3://bucket/prefix"
        )
    return first, path.strip("/")


def local_path(url: str) -> str:
    """The path that a URL like `file:///data/speech` stands for, %-signs resolved.

        >>> local_path("file:///data/my%20speech")
        '/data/my speech'

    Anything but a URL is a path already and returned as it is.

    Raises:
        InvalidURLError: it is not a path on this machine.
    """
    scheme = scheme_of(url)
    if scheme is None:
        return url
    host, slash, path = url.partition("://")[2].partition("/")
    if scheme != "file" or host not in ("", "localhost") or not slash:
        raise InvalidURLError(
            f"{url!r} is no path on this machine: a file URL has three slashes, as in "
            "file:///data/speech; a relative path is given as it is, without file:"
        )
    from urllib.parse import unquote_to_bytes

    return os.fsdecode(b"/" + unquote_to_bytes(path))


def folder_path(path: str | os.PathLike[str], *, instead: str) -> Path:
    """The path of a folder, where a URL would become a folder called `s3:`.

    Args:
        path: What was given.
        instead: What to do with a URL, for the error.

    Raises:
        InvalidURLError: it is a URL.
    """
    if scheme_of(os.fspath(path)) is not None:
        raise InvalidURLError(f"{os.fspath(path)} is a URL, expected a folder: {instead}")
    return Path(path)
