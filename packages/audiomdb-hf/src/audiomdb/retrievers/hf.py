"""Read datasets from dataset repositories of the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from audiomdb._hf import download_error, request_errors
from audiomdb._hf_commit import CommitFile
from audiomdb._hf_http import Answer, get
from audiomdb._hf_missing import missing_error
from audiomdb._hf_pause import Pause
from audiomdb._hf_url import HubFolder, parse_hf_url
from audiomdb.errors import (
    AudioMDBError,
    CacheError,
    DownloadError,
    DownloadInterruptedError,
)
from audiomdb.lazy import importing
from audiomdb.retrievers.base import BaseRetriever, RemoteFile
from audiomdb.urls import without_password

if TYPE_CHECKING:
    from audiomdb.shards import DatasetReader

__all__ = ["HFRetriever"]

_PUBLIC_HUB = "https://huggingface.co"

_LONGEST_WAIT_S = 300.0
"""Longest wait that is honoured; the Hub counts requests in windows of this length."""

_LINK_S = 300.0
"""Seconds for which a link to a store is used.

Links are usually valid for longer; one that is not costs a request."""

_GOOD = (200, 206)


class _Link(NamedTuple):
    """The URL of a file's version in the store, and the monotonic time until which it is used."""

    url: str
    version: str | None
    until: float


class HFRetriever(BaseRetriever):
    """Reads a dataset that `HFUploader` uploaded to the Hub, through a cache on a local disk.

        retriever = HFRetriever("user/digits", max_cache_bytes=50 * 1024**3)
        for batch in DataLoader(StreamingDataset(retriever, shuffle=True), batch_size=32):
            ...

    Shards are prefetched ahead of a stream, once for all processes of the machine. An interrupted
    download is resumed from its last byte. If the Hub asks to wait, the retriever waits, unless the
    loop is left or the retriever is closed in the meantime.

    A branch may move to another commit. All processes that use the same cache read the commit that
    the branch pointed to when the first of them opened the dataset, as long as any of them has it
    open; copies of an open retriever that are sent to other machines read that commit too. If no
    process has the dataset open, opening it looks up the branch again, and shards that have not
    changed are not downloaded again. Pass a commit as `revision` to always read the same data.

    The cache is named by repository, revision, folder and Hub, whether the Hub is set by `endpoint`
    or HF_ENDPOINT; huggingface.co adds nothing to the name.

    Requests go through the session of `huggingface_hub`, so that its settings apply (HF_ENDPOINT,
    HF_TOKEN, proxies); files that the Hub keeps in Xet storage are read over plain HTTP. The token
    is sent only to the Hub, not to the stores that it redirects to.

    Args:
        repo_id: Name of the repository, "user/name".
        revision: Branch, tag or commit. None: the main branch.
        token: Token for the Hub. None: the one of `hf auth login`, if there is one; False: none.
        subdir: Folder of the dataset in the repository.
        endpoint: URL of another Hub. None: HF_ENDPOINT, or else https://huggingface.co.
        read_timeout_s: Seconds without a byte after which a connection counts as broken. None:
            HF_HUB_DOWNLOAD_TIMEOUT, which is 10 unless it is set.
        cache_dir: Directory for caches, see `BaseRetriever`.
        max_cache_bytes: Limit of this dataset's cache in bytes.
        prefetch: Number of shards to download ahead of a stream.
        workers: Number of downloads at once, over all processes of the machine.

    Raises:
        TypeError, ValueError: an option has the wrong type, or is out of range.
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
        self._folder = HubFolder(repo_id, revision, subdir, endpoint)
        self._token = token
        seconds = read_timeout_s
        if not (seconds is None or (isinstance(seconds, int | float) and 0 < seconds < math.inf)):
            raise ValueError(
                f"read_timeout_s is {seconds!r}, expected a number of seconds above 0, or None"
            )
        self._read_timeout_s = seconds
        self._opening = threading.local()
        self._links: dict[str, _Link] = {}
        self._pause = Pause()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> HFRetriever:  # noqa: ANN401
        """Make a retriever for `hf://datasets/user/repo[@revision][/subdir]`.

        "/" in a revision is written "%2F". All other settings are options, or come from the
        environment as `huggingface_hub` reads it (HF_ENDPOINT, HF_TOKEN).

        Raises:
            InvalidURLError: the URL has another form.
            TypeError: an option repeats a part of the URL.
        """
        repo_id, where = parse_hf_url(url)
        return cls(repo_id, **where, **options)

    @property
    def commit(self) -> str:
        """The commit that the dataset is read from.

        Raises:
            DatasetError, DownloadError: as for `open`.
            CacheError: the commit is unknown, because the cache directory has been damaged.
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

    def make_reader(self) -> DatasetReader:
        """Open the dataset, and record the commit of its metadata in the cache directory."""
        self._opening.commit_file = self._commit_file()
        try:
            reader = super().make_reader()
        finally:
            del self._opening.commit_file
        # The process that fetched the metadata, possibly another one, wrote the commit before it.
        self._commit = self._commit_file().read() or self._commit
        return reader

    def close(self) -> None:
        """Close the dataset and forget its commit: opening it again looks up the branch.

        Threads that wait because the Hub asked for it get a DownloadError.
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
        """Open a file from byte `start` on; from byte 0 if its content has changed.

        While the Hub asks to wait, the returned file has no bytes: reading it waits, and then
        raises the DownloadInterruptedError that says so.
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
        # Not checked with If-Range: the stores that the Hub redirects to have their own version
        # identifiers, or none, and would send the whole file.
        if answer is not None and (
            answer.span is None or (start and self._version(answer) != validator)
        ):
            answer.close()
            answer = None
        if answer is None:
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
        repo_id, *options = vars(self._folder).items()
        given = "".join(f", {name}={without_password(value)!r}" for name, value in options if value)
        return f"HFRetriever({repo_id[1]!r}{given})"

    def _settled_arguments(self) -> Mapping[str, Any]:
        """Return the Hub, however it is given, and the folder without outer slashes."""
        with importing():
            from huggingface_hub import constants

        hub = self._folder.endpoint or constants.ENDPOINT
        return {
            "endpoint": None if hub == _PUBLIC_HUB else hub,
            "subdir": self._folder.subdir or None,
        }

    def _ask(self, path: str, start: int = 0, stop: int | None = None) -> Answer | None:
        """Request a file; None if the range starts past its end.

        Raises:
            DatasetNotFoundError: there is no such repository, revision or file.
            DownloadError: any other failure.
        """
        client = _client()  # first, because the others import parts of it
        span: dict[str, Any] = {"start": start, "stop": stop, "timeout_s": self._read_timeout_s}
        with self._errors(path):
            if start and (answer := self._ask_store(path, span)) is not None:
                return answer
            if left_s := self._pause.left_s():
                raise DownloadInterruptedError(
                    f"cannot read {self._place(path)}: the Hub asks to wait {left_s:.0f} s"
                )
            url = client.hf_hub_url(
                self._folder.repo_id,
                self._folder.path(path),
                repo_type="dataset",
                revision=self._commit or self._folder.revision,
                endpoint=self._folder.endpoint,
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
                raise DownloadError(
                    f"{without_password(url)} answers {answer.status}, which is of no use here"
                )

    def _ask_store(self, path: str, span: dict[str, Any]) -> Answer | None:
        """Request the rest of a file from the store; None if the Hub must be asked.

        The Hub limits the number of requests; its stores do not.
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
        """Fix the commit to that of the first answer, and record it in the cache directory."""
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
            # The cache holds a lock while it fetches the metadata for all processes.
            commit_file.write(self._commit)
        elif self._opened:
            self._commit_file().put_back(self._commit)

    def _version(self, answer: Answer) -> str | None:
        """Return an identifier of a file's content; some mirrors give none but the commit."""
        return answer.version or self._commit

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Turn errors of the Hub's client into errors of AudioMDB that say what to do."""
        errors: tuple[type[Exception], ...] = (*request_errors(), ValueError)
        try:
            yield
        except AudioMDBError:
            raise
        except errors as exc:
            missing = missing_error(exc, path, self._folder, commit=self._commit, token=self._token)
            raise missing or download_error(self._place(path), exc) from exc

    def _place(self, path: str = "") -> str:
        """Return the name of a file for error messages."""
        return self._folder.name(path, commit=self._commit)

    def _commit_file(self) -> CommitFile:
        return CommitFile(self._cache_directory())


class _Chunks:
    """The body of an answer in chunks, with errors turned into errors of AudioMDB."""

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


@cache
def _client() -> Any:  # noqa: ANN401
    with importing():
        import huggingface_hub
        from huggingface_hub import hf_hub_url  # noqa: F401 (which imports the larger part of it)

    return huggingface_hub
