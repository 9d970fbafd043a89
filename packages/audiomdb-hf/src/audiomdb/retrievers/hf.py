"""Datasets in dataset repositories of the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from audiomdb._hf import download_error, error_names, request_errors
from audiomdb._hf_commit import CommitFile
from audiomdb._hf_http import Answer, get
from audiomdb._hf_pause import Pause
from audiomdb._hf_url import parse_hf_url
from audiomdb.errors import (
    AudioMDBError,
    CacheError,
    DatasetNotFoundError,
    DownloadError,
    DownloadInterruptedError,
)
from audiomdb.retrievers.base import BaseRetriever, RemoteFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from audiomdb.shards import DatasetReader

__all__ = ["HFRetriever"]

_METADATA_FILE = "metadata.json"

_LONGEST_WAIT_S = 300.0
"""The Hub counts requests in windows of this length."""

_LINK_S = 300.0
"""Links to a store are good for longer. One that is not costs a request."""

_GOOD = (200, 206)

_MOST_FILES = 10_000
"""Looked through for datasets in other folders."""


class _Link(NamedTuple):
    """Where the store has a version of a file, and the time until which that is believed."""

    url: str
    version: str | None
    until: float


class HFRetriever(BaseRetriever):
    """Reads a dataset that `HFUploader` uploaded, through a cache on a local disk.

        retriever = HFRetriever("user/digits", max_cache_bytes=50 * 1024**3)
        for batch in DataLoader(StreamingDataset(retriever, shuffle=True), batch_size=32):
            ...

    Shards are downloaded ahead of a stream, once for all processes of the machine. A download that
    breaks off goes on from its last byte. When the Hub asks to wait, that is done, unless the loop
    is left or the retriever closed meanwhile.

    What a branch points at may change. The dataset is read from the commit that it pointed at when
    the first process of the machine opened it, by all processes that use the same cache, as long as
    any of them does; copies of an open retriever that are sent to other machines read that commit,
    too. Who opens the dataset when nobody has it open looks where the branch is then, and shards
    that have not changed are not downloaded again. Give a commit as `revision` to read the same
    data for good.

    Requests go through the session of `huggingface_hub`, so that its settings count (HF_ENDPOINT,
    HF_TOKEN, proxies); files that the Hub keeps in Xet storage are read over plain HTTP. The token
    is sent to the Hub alone, not to the stores that it redirects to.

    Args:
        repo_id: Name of the repository, "user/name".
        revision: Branch, tag or commit. None: the main branch.
        token: Of the Hub. None: the one of `hf auth login`, if there is one; False: none.
        subdir: Where in the repository the dataset lies.
        endpoint: URL of another Hub. None: HF_ENDPOINT, else https://huggingface.co.
        read_timeout_s: Seconds without a byte after which a connection counts as broken. None:
            HF_HUB_DOWNLOAD_TIMEOUT, which is 10 unless it is set.
        cache_dir: Directory for caches, see `BaseRetriever`.
        max_cache_bytes: Limit of this dataset's cache.
        prefetch: Shards to download ahead of a stream.
        workers: Downloads at once, over all processes of the machine.

    Raises:
        ValueError: an option is out of range.
    """

    access_options = frozenset({"read_timeout_s", "token"})

    _commit: str | None = None

    def __init__(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        subdir: str = "",
        endpoint: str | None = None,
        read_timeout_s: float | None = None,
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
        self._repo_id = repo_id
        self._revision = revision
        self._token = token
        self._subdir = subdir.strip("/")
        self._endpoint = endpoint.rstrip("/") if endpoint else None
        self._read_timeout_s = read_timeout_s
        self._opening = threading.local()
        self._links: dict[str, _Link] = {}
        self._pause = Pause()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> HFRetriever:  # noqa: ANN401
        """Make a retriever for `hf://datasets/user/repo[@revision][/subdir]`.

        "/" in a revision is written "%2F". Anything else is an option, or comes from the
        environment as `huggingface_hub` reads it (HF_ENDPOINT, HF_TOKEN).

        Raises:
            InvalidURLError: the URL has another form.
            TypeError: an option says what the URL says, too.
        """
        repo_id, where = parse_hf_url(url)
        return cls(repo_id, **where, **options)

    @property
    def commit(self) -> str:
        """The commit that the dataset is read from.

        Raises:
            DatasetError, DownloadError: as `open`.
            CacheError: it is not known, since the cache's directory has been damaged.
        """
        self.open()
        file = self._commit_file()
        commit = file.read() or self._commit
        if commit is None:
            raise CacheError(
                f"{file.path} is missing or names no commit, so that it is not known which one is "
                "read; close all that read the dataset, and open it again"
            )
        return commit

    def reader(self) -> DatasetReader:
        """Open the dataset; the commit that its metadata is of is noted beside it."""
        self._opening.commit_file = self._commit_file()
        try:
            reader = super().reader()
        finally:
            del self._opening.commit_file
        # Whoever fetched the metadata, maybe another process, wrote it before the metadata came.
        self._commit = self._commit_file().read() or self._commit
        return reader

    def close(self) -> None:
        """Let go of the dataset, and of its commit: opening it again looks where the branch is.

        Whoever waits because the Hub asked for it gets a DownloadError.
        """
        super().close()
        self._commit = None
        self._pause.end()

    def open_remote(
        self,
        path: str,
        *,
        start: int = 0,
        stop: int | None = None,
        validator: str | None = None,
    ) -> RemoteFile:
        """Open a file from some byte on; from byte 0 if it is another than it was.

        While the Hub asks to wait, the file that is returned has no bytes: reading it waits, and
        then raises the DownloadInterruptedError that says so.
        """
        try:
            return self._open_remote(path, start, stop, validator)
        except DownloadInterruptedError as exc:
            if not self._pause.left_s():
                raise
            return RemoteFile(self._pause.chunks(exc), start, validator)

    def _open_remote(
        self, path: str, start: int, stop: int | None, validator: str | None
    ) -> RemoteFile:
        answer = None
        if not start or validator is not None:
            answer = self._ask(path, start, stop)
        if answer is not None and start and self._version(answer) != validator:
            # Not by If-Range: the stores that the Hub redirects to have names of their own for a
            # version, or none at all, and would send everything.
            answer.close()
            answer = None
        if answer is None or answer.span is None:
            answer = self._ask(path)
        assert answer is not None, "only a range can be refused"
        self._pin(answer)
        begin, size = answer.span or (0, None)
        return RemoteFile(
            _Chunks(answer, partial(self._errors, path)), begin, self._version(answer), size
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"_commit": self._commit})

    def __repr__(self) -> str:
        options = {"revision": self._revision, "subdir": self._subdir, "endpoint": self._endpoint}
        given = "".join(f", {name}={value!r}" for name, value in options.items() if value)
        return f"HFRetriever({self._repo_id!r}{given})"

    def _ask(self, path: str, start: int = 0, stop: int | None = None) -> Answer | None:
        """Ask for a file; None when it has no bytes where they were asked for.

        Raises:
            DatasetNotFoundError: there is no such repository, revision or file.
            DownloadError: anything else.
        """
        from huggingface_hub import hf_hub_url

        span: dict[str, Any] = {"start": start, "stop": stop, "timeout_s": self._read_timeout_s}
        with self._errors(path):
            if start and (answer := self._ask_store(path, span)) is not None:
                return answer
            if left_s := self._pause.left_s():
                raise DownloadInterruptedError(
                    f"cannot read {self._place(path)}: the Hub asks to wait {left_s:.0f} s"
                )
            url = hf_hub_url(
                self._repo_id,
                self._in_repository(path),
                repo_type="dataset",
                revision=self._commit or self._revision,
                endpoint=self._endpoint,
            )
            answer = get(url, **span, token=self._token)
            if answer.status in _GOOD:
                self._keep_link(path, answer)
                return answer
            with contextlib.closing(answer):
                if answer.status == 416:
                    return None
                self._pause.ask(min(answer.wait_s() or 0.0, _LONGEST_WAIT_S))
                answer.raise_for_status()
                raise DownloadError(f"{url} answers {answer.status}, which is of no use here")

    def _ask_store(self, path: str, span: dict[str, Any]) -> Answer | None:
        """Ask for the rest of a file where the Hub redirected to; None: ask the Hub.

        The Hub counts requests, and limits their number; its stores do not.
        """
        link = self._links.get(path)
        if link is None or link.until < time.monotonic():
            return None
        good = False
        try:
            answer = get(link.url, **span, token=False, version=link.version)
            good = answer.status in _GOOD
        finally:
            if not good:
                self._links.pop(path, None)
        if good:
            return answer
        answer.close()
        return None

    def _keep_link(self, path: str, answer: Answer) -> None:
        now, url = time.monotonic(), answer.link
        for other, link in list(self._links.items()):
            if link.until < now:
                self._links.pop(other, None)
        if url is not None:
            self._links[path] = _Link(url, self._version(answer), now + _LINK_S)

    def _pin(self, answer: Answer) -> None:
        """Stay at the commit that the first answer is of."""
        if self._commit is None:
            self._commit = answer.commit
        if self._commit is None:
            answer.close()
            raise DownloadError(
                f"{self._place()} came without the X-Repo-Commit header, which names its commit: "
                "this is no Hub, or a proxy on the way drops it; check endpoint= and HF_ENDPOINT"
            )
        commit_file = getattr(self._opening, "commit_file", None)
        if commit_file is not None:
            # The cache fetches metadata for all, and lets nobody in meanwhile.
            commit_file.write(self._commit)
        elif self._shards is not None:
            self._commit_file().put_back(self._commit)

    def _version(self, answer: Answer) -> str | None:
        """What tells a file's content from another; behind some mirrors, the commit does."""
        return answer.version or self._commit

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Turn errors of the Hub's client into ours, saying what to do."""
        errors: tuple[type[Exception], ...] = (*request_errors(), ValueError)
        try:
            yield
        except AudioMDBError:
            raise
        except errors as exc:
            raise self._missing(path, exc) or download_error(self._place(path), exc) from exc

    def _missing(self, path: str, error: Exception) -> DatasetNotFoundError | None:
        """What to raise where there is no such repository, revision or file; else None."""
        names = error_names(error)
        if "GatedRepoError" in names:
            return None
        if "RepositoryNotFoundError" in names:
            return DatasetNotFoundError(
                f"there is no dataset repository {self._repo_id!r}, or the token may not see it: "
                "check the name; for a private repository, log in (hf auth login), or give token="
            )
        if "RevisionNotFoundError" in names:
            revision = self._commit or self._revision
            return DatasetNotFoundError(
                f"datasets/{self._repo_id} has no revision {revision!r}"
                f"{_may_be('revision', self._names(self._revisions))}"
            )
        if "EntryNotFoundError" not in names:
            return None
        if path != _METADATA_FILE:
            return DatasetNotFoundError(f"no {self._place(path)}; upload the dataset again")
        folders = self._names(self._datasets)
        advice = _may_be("subdir", folders) or (
            ": HFRetriever reads what HFUploader uploaded; HFConverter converts other datasets"
        )
        return DatasetNotFoundError(f"no dataset in {self._place()}, {path} is missing{advice}")

    def _names(self, look: Callable[[HfApi], Iterable[str]]) -> list[str]:
        """What there is, for an error message, which comes without where it cannot be had."""
        from huggingface_hub import HfApi

        errors: tuple[type[Exception], ...] = (*request_errors(), ValueError)
        try:
            return list(look(HfApi(endpoint=self._endpoint, token=self._token)))
        except errors:
            return []

    def _revisions(self, api: HfApi) -> Iterable[str]:
        refs = api.list_repo_refs(self._repo_id, repo_type="dataset")
        return (ref.name for ref in (*refs.branches, *refs.tags))

    def _datasets(self, api: HfApi) -> Iterable[str]:
        revision = self._commit or self._revision
        entries = api.list_repo_tree(
            self._repo_id, recursive=True, repo_type="dataset", revision=revision
        )
        for entry in islice(entries, _MOST_FILES):
            folder, _, name = entry.path.rpartition("/")
            if name == _METADATA_FILE:
                yield folder

    def _in_repository(self, path: str) -> str:
        return f"{self._subdir}/{path}" if self._subdir else path

    def _place(self, path: str = "") -> str:
        """What errors call a file."""
        revision = self._revision or self._commit
        at = f"@{revision}" if revision else ""
        return f"datasets/{self._repo_id}{at}/{self._in_repository(path)}".rstrip("/")

    def _commit_file(self) -> CommitFile:
        return CommitFile(self._cache_directory())


class _Chunks:
    """The bytes of an answer."""

    def __init__(
        self, answer: Answer, errors: Callable[[], contextlib.AbstractContextManager[None]]
    ) -> None:
        self._answer = answer
        self._errors = errors

    def __iter__(self) -> Iterator[bytes]:
        with self._errors():
            yield from self._answer

    def close(self) -> None:
        self._answer.close()


def _may_be(option: str, values: list[str]) -> str:
    listed = ", ".join(map(repr, values))
    return f"; {option}= may be {listed}" if values else ""
