"""Uploading to a dataset repository of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiomdb._hf import hub_errors
from audiomdb._hf_card import merge_card
from audiomdb._hf_url import parse_hf_url
from audiomdb.errors import UploadError
from audiomdb.shards import Metadata, read_metadata
from audiomdb.uploaders.base import BaseUploader, DatasetFile, UploadReport, dataset_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

__all__ = ["HFUploader"]

_FILES_PER_COMMIT = 100
"""Half as many shards. An upload that breaks off loses the commit it was at, not what was sent."""

_FILES_PER_QUESTION = 500
_CARD = "README.md"


class HFUploader(BaseUploader):
    """Uploads a dataset to a dataset repository, which is made where it does not exist.

        HFUploader("user/digits", private=True).upload_dir("digits")

    Shards go in commits of their own; the last one, when all has arrived, adds `metadata.json` and
    brings the card up to date. What is there already with the same content is not sent again. The
    first commit that replaces a file of another dataset deletes its `metadata.json`, so that no
    commit holds a mixture of both.

    The card (README.md) tells what the metadata knows. Only the part between two comments is
    written, so that it may be edited.

    Args:
        repo_id: Name of the repository, "user/name".
        private: Whether a repository that is made is private.
        revision: Branch, made where it does not exist. None: the main one.
        token: Of the Hub. None: the one of `hf auth login`; False: none.
        subdir: Where in the repository the dataset lies.
        card: Whether to write the card.
        endpoint: URL of another Hub. None: HF_ENDPOINT, else https://huggingface.co.
        workers: Files sent at once.
        progress: Whether the client of the Hub shows its progress bars on stderr; None: where that
            is a terminal. What HF_HUB_DISABLE_PROGRESS_BARS says goes before. Where they are not
            shown, no other thread's are meanwhile.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        subdir: str = "",
        card: bool = True,
        endpoint: str | None = None,
        workers: int = 4,
        progress: bool | None = None,
    ) -> None:
        super().__init__(workers=workers, progress=progress)
        self._repo_id = repo_id
        self._private = private
        self._revision = revision
        self._token = token
        self._subdir = subdir.strip("/")
        self._card = card
        self._endpoint = endpoint.rstrip("/") if endpoint else None

    @classmethod
    def from_url(cls, url: str, **options: Any) -> HFUploader:  # noqa: ANN401
        """Make an uploader for `hf://datasets/user/repo[@revision][/subdir]`.

        As `HFRetriever.from_url`; the revision is a branch.

        Raises:
            InvalidURLError: the URL has another form.
            TypeError: an option says what the URL says, too.
        """
        repo_id, where = parse_hf_url(url)
        return cls(repo_id, **where, **options)

    def upload_dir(self, local_dir: str | os.PathLike[str]) -> UploadReport:
        """Upload the dataset in a folder. Interrupted or failed, it may simply be called again.

        Raises:
            DatasetNotFoundError: when the folder holds no finished dataset.
            CorruptShardError: when a file is missing, or is not what conversion wrote.
            UploadError: when the Hub refuses, or a file did not arrive whole.
        """
        files = dataset_files(Path(local_dir))
        with hub_errors(f"upload to {self.destination('')}", UploadError), _bars(self.progress):
            from huggingface_hub import HfApi

            api = HfApi(endpoint=self._endpoint, token=self._token)
            self._make_repository(api)
            there = self._look(api, files)
            missing = [file for file in files if not _is_there(file, there.get(file.rel_path))]
            *data, metadata = files
            withdrawals = self._withdrawals(metadata, there) if metadata in missing else []
            for batch in _batches([file for file in missing if file in data], _FILES_PER_COMMIT):
                operations = [self._addition(file) for file in batch]
                if any(file.rel_path in there for file in batch):
                    operations += withdrawals
                    withdrawals = []
                self._commit(api, operations, "shards")
                self._compare(batch, self._look(api, batch))
            self._publish(api, metadata, missing, read_metadata(Path(local_dir)))
            # All, for somebody else may have uploaded there meanwhile.
            self._compare(files, self._look(api, files))
        return UploadReport(
            files=len(files),
            bytes=sum(file.bytes for file in files),
            sent_files=len(missing),
            sent_bytes=sum(file.bytes for file in missing),
        )

    def destination(self, rel_path: str) -> str:
        """What errors call a file's place in the repository."""
        branch = f"@{self._revision}" if self._revision else ""
        return f"datasets/{self._repo_id}{branch}/{self._path(rel_path)}".rstrip("/")

    def _path(self, rel_path: str) -> str:
        return f"{self._subdir}/{rel_path}" if self._subdir else rel_path

    def _make_repository(self, api: HfApi) -> None:
        api.create_repo(self._repo_id, repo_type="dataset", private=self._private, exist_ok=True)
        if self._revision and not self._revision.startswith("refs/"):
            api.create_branch(
                self._repo_id, branch=self._revision, repo_type="dataset", exist_ok=True
            )

    def _look(self, api: HfApi, files: Sequence[DatasetFile]) -> dict[str, RepoFile]:
        """What the repository holds of these files, by their path in the dataset."""
        from huggingface_hub.hf_api import RepoFile

        names = {self._path(file.rel_path): file.rel_path for file in files}
        found = {}
        for paths in _batches(list(names), _FILES_PER_QUESTION):
            for entry in api.get_paths_info(
                self._repo_id, list(paths), repo_type="dataset", revision=self._revision
            ):
                if isinstance(entry, RepoFile):
                    found[names[entry.path]] = entry
        return found

    def _addition(self, file: DatasetFile) -> Any:  # noqa: ANN401
        from huggingface_hub import CommitOperationAdd

        addition = CommitOperationAdd(self._path(file.rel_path), file.full_path)
        file.refuse_changed(addition.upload_info.sha256.hex())
        return addition

    def _withdrawals(self, metadata: DatasetFile, there: dict[str, RepoFile]) -> list[Any]:
        """What deletes the metadata of another dataset, for the first commit that replaces a file.

        So that no commit holds a mixture of both that looks like a dataset.
        """
        from huggingface_hub import CommitOperationDelete

        name = metadata.rel_path
        return [CommitOperationDelete(self._path(name))] if name in there else []

    def _commit(self, api: HfApi, operations: list[Any], what: str) -> None:
        where = f" in {self._subdir}" if self._subdir else ""
        api.create_commit(
            self._repo_id,
            operations,
            commit_message=f"Upload {what}{where}",
            repo_type="dataset",
            revision=self._revision,
            num_threads=self.workers,
        )

    def _publish(
        self, api: HfApi, last: DatasetFile, missing: Sequence[DatasetFile], metadata: Metadata
    ) -> None:
        from huggingface_hub import CommitOperationAdd

        operations = []
        if self._card:
            old = self._read_card(api)
            new = merge_card(old, metadata, self._repo_id, self._subdir, self._revision)
            if new != old:
                operations.append(CommitOperationAdd(_CARD, new.encode()))
        if last in missing:
            operations.append(self._addition(last))
        if operations:
            self._commit(api, operations, "metadata")

    def _read_card(self, api: HfApi) -> str | None:
        from huggingface_hub.errors import EntryNotFoundError

        try:
            path = api.hf_hub_download(
                self._repo_id, _CARD, repo_type="dataset", revision=self._revision
            )
        except EntryNotFoundError:
            return None
        return Path(path).read_text(encoding="utf-8")

    def _compare(self, files: Sequence[DatasetFile], there: dict[str, RepoFile]) -> None:
        for file in files:
            found = there.get(file.rel_path)
            if not _is_there(file, found):
                what = f"as {found.size} bytes of other content" if found else "not at all"
                raise UploadError(
                    f"{self.destination(file.rel_path)} arrived {what}, instead of the "
                    f"{file.bytes} bytes that were sent; upload again"
                )


@contextmanager
def _bars(show: bool | None) -> Iterator[None]:
    """Let the Hub's client show its progress bars, or keep it from that."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if show is None:
        show = sys.stderr is not None and sys.stderr.isatty()
    by_environment = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
    if show or by_environment or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _is_there(file: DatasetFile, found: RepoFile | None) -> bool:
    if found is None or found.size != file.bytes:
        return False
    if file.bytes == 0:
        return True
    if found.lfs is not None:
        return found.lfs.sha256 == (file.sha256 or BaseUploader.sha256(file.full_path))
    return found.blob_id == _git_blob_id(Path(file.full_path))


def _git_blob_id(path: Path) -> str:
    """Git's name for a file's content. The Hub keeps small files in git itself."""
    content = path.read_bytes()
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
