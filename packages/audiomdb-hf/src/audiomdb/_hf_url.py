"""Name the folder of a dataset on the Hub: by options, by URL, and in error messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from audiomdb.errors import InvalidURLError
from audiomdb.urls import scheme_of, without_password

__all__ = ["HubFolder", "hf_url", "parse_hf_url"]

_FORM = "hf://datasets/user/repo[@revision][/subdir]"

# A revision ends at the next "/", except in the names that the Hub itself makes: refs/pr/1,
# refs/convert/parquet.
_URL = re.compile(
    r"hf://datasets/(?P<repo_id>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?"
    r"(?:/(?P<subdir>.*))?"
)


@dataclass(frozen=True)
class HubFolder:
    """The folder of a dataset in a repository.

    Attributes:
        repo_id: Name of the repository, "user/name".
        revision: Branch, tag or commit. None: the main branch.
        subdir: Folder in the repository, which may be given as "/a/" or "./a".
        endpoint: URL of another Hub, with or without a slash at its end. None: HF_ENDPOINT, or else
            https://huggingface.co.

    Raises:
        TypeError: one of them is not text.
        InvalidURLError: the repository has no name, or is a URL.
    """

    repo_id: str
    revision: str | None = None
    subdir: str = ""
    endpoint: str | None = None

    def __post_init__(self) -> None:
        for name in ("repo_id", "revision", "subdir", "endpoint"):
            value, optional = getattr(self, name), name in ("revision", "endpoint")
            if not isinstance(value, str) and not (optional and value is None):
                expected = "text or None" if optional else "text"
                raise TypeError(f"{name} is {value!r}, expected {expected}")
        if not self.repo_id:
            raise InvalidURLError("repo_id is empty, expected 'user/name'")
        if scheme_of(self.repo_id) is not None:
            raise InvalidURLError(
                f"repo_id {without_password(self.repo_id)!r} is a URL: give 'user/name', or "
                f"{_FORM} to audiomdb.registry.retriever_for or uploader_for"
            )
        # As the Hub's client does with paths that it uploads to, but not with those it looks up.
        folders = (name for name in self.subdir.split("/") if name not in ("", "."))
        object.__setattr__(self, "subdir", "/".join(folders))
        object.__setattr__(self, "endpoint", (self.endpoint or "").rstrip("/") or None)

    def path(self, rel_path: str) -> str:
        """Return the path in the repository of a file of the dataset."""
        return f"{self.subdir}/{rel_path}" if self.subdir else rel_path

    def name(self, rel_path: str = "", *, commit: str | None = None) -> str:
        """Return the name of a file for errors; `commit` is named if there is no revision."""
        revision = self.revision or commit
        at = f"@{revision}" if revision else ""
        return f"datasets/{self.repo_id}{at}/{self.path(rel_path)}".rstrip("/")


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
        raise InvalidURLError(
            f"{without_password(url)!r} is no dataset on the Hub, expected {_FORM}{_why(url)}"
        )
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
