"""Split URLs into their parts. Object keys are not decoded: they may contain any character."""

from __future__ import annotations

import os
import re
from pathlib import Path

from audiomdb.errors import InvalidURLError

__all__ = [
    "folder_path",
    "local_path",
    "path_text",
    "scheme_of",
    "split_url",
    "without_password",
]


def scheme_of(text: str) -> str | None:
    """Return the scheme of a URL in lower case ("s3"), or None if the text is not a URL."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    return found[1].lower() if found else None


def split_url(url: str) -> tuple[str, str]:
    """Return the bucket or host of a URL, and its path without leading and trailing slashes.

        >>> split_url("s3://my-bucket/datasets/digits/")
        ('my-bucket', 'datasets/digits')

    Query strings and percent-encoding are not interpreted.

    Raises:
        InvalidURLError: the text is not a URL, or has no name after "://".
    """
    _, found, rest = url.partition("://")
    first, _, path = rest.partition("/")
    if not found or not first:
        raise InvalidURLError(
            f"{url!r} has no bucket or host after '://', as in s3://bucket/prefix"
        )
    return first, path.strip("/")


def without_password(text: str) -> str:
    """Return a URL with `***` for the password before its host; any other text unchanged.

        >>> without_password("ftp://me:secret@example.org/speech")
        'ftp://me:***@example.org/speech'

    For messages and logs.
    """
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://[^/:]*):[^/]*@", r"\1:***@", text)


def local_path(url: str) -> str:
    """Return the path of a file URL such as `file:///data/speech`, percent-decoded.

        >>> local_path("file:///data/my%20speech")
        '/data/my speech'

    Text that is not a URL is taken as a path and returned unchanged.

    Raises:
        InvalidURLError: the URL is not a path on this machine.
    """
    scheme = scheme_of(url)
    if scheme is None:
        return url
    host, slash, path = url.partition("://")[2].partition("/")
    if scheme != "file" or host not in ("", "localhost") or not slash:
        raise InvalidURLError(
            f"{without_password(url)!r} is no path on this machine: a file URL has three slashes, "
            "as in file:///data/speech; a relative path is given as it is, without file:"
        )
    from urllib.parse import unquote_to_bytes

    return os.fsdecode(b"/" + unquote_to_bytes(path))


def folder_path(path: str | os.PathLike[str], *, instead: str, expected: str = "a folder") -> Path:
    """Return a folder's path, rejecting URLs, which `Path` would turn into a folder like `s3:`.

    A `~` that the path begins with is the home directory, alone or before a slash.

    Args:
        path: The path to check.
        instead: What to do with a URL instead, for the error message.
        expected: What the path leads to, for the error message.

    Raises:
        InvalidURLError: the path is a URL, is empty, or has a NUL character, as `file:///a%00b`
            has.
        TypeError: it is no path.
    """
    text = path_text(path, expected)
    if scheme_of(text) is not None:
        raise InvalidURLError(f"{without_password(text)} is a URL, expected {expected}: {instead}")
    if "\0" in text:
        raise InvalidURLError(f"{text!r} contains a NUL character, which no path can have")
    return Path(text).expanduser() if text.split("/", 1)[0] == "~" else Path(text)


def path_text(path: object, expected: str) -> str:
    """Return the text of a path or URL.

    Args:
        path: What a user gave.
        expected: What it leads to, for the error message.

    Raises:
        InvalidURLError: it is empty.
        TypeError: it is no path, such as bytes.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"the path is {path!r:.80}, expected {expected} as text or a Path")
    if not text:
        raise InvalidURLError(f"the path is empty, expected {expected}: '.' is the current folder")
    return text
