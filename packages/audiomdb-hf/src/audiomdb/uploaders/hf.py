"""Upload datasets to dataset repositories of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiomdb._hf import hub_errors
from audiomdb._hf_card import merge_card
from audiomdb._hf_url import HubFolder, parse_hf_url
from audiomdb.checks import true_or_false
from audiomdb.errors import FormatVersionError, MetadataError, UploadError
from audiomdb.progress import stderr_is_terminal
from audiomdb.shards import Metadata, read_metadata
from audiomdb.shards.metadata import MOST_METADATA_BYTES, data_files, parse_metadata
from audiomdb.uploaders.base import BaseUploader, DatasetFile, UploadReport, dataset_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

__all__ = ["HFUploader"]

_FILES_PER_COMMIT = 100
"""Files in a commit, which are half as many shards.

An interrupted upload loses only the commit in progress, not the files that were sent."""

_FILES_PER_QUESTION = 500
_CARD = "README.md"


class HFUploader(BaseUploader):
    """Uploads a dataset to a dataset repository of the Hub, which is created if it is missing.

        HFUploader("user/digits", private=True).upload_dir("digits")

    Shards are uploaded in separate commits. Once all have arrived, the last commit adds
    `metadata.json` and updates the card. Files that the repository already holds with the same
    content are not sent again. The first commit that replaces a file of another dataset deletes
    the `metadata.json` of that dataset, so that no commit holds a mixture of both, and the files
    that only that dataset has. The history of the repository keeps them.

    The card (README.md) describes the dataset from its metadata. Only the part between two comments
    is written; the rest may be edited.

    Args:
        repo_id: Name of the repository, "user/name".
        private: Whether to make the repository private if it is created.
        revision: Branch, which is created if it is missing. None: the main branch.
        token: Token for the Hub. None: the one of `hf auth login`; False: none.
        subdir: Folder of the dataset in the repository.
        card: Whether to write the card.
        endpoint: URL of another Hub. None: HF_ENDPOINT, or else https://huggingface.co.
        workers: Number of files sent at once.
        progress: Whether the Hub's client shows its progress bars on stderr; None: if stderr is a
            terminal. HF_HUB_DISABLE_PROGRESS_BARS takes precedence. While the bars are off, they
            are off in all threads of the process.
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
        self._folder = HubFolder(repo_id, revision, subdir, endpoint)
        self._private = true_or_false("private", private)
        self._token = token
        self._card = true_or_false("card", card)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> HFUploader:  # noqa: ANN401
        """Make an uploader for `hf://datasets/user/repo[@revision][/subdir]`.

        The URL is read as by `HFRetriever.from_url`; the revision is a branch.

        Raises:
            InvalidURLError: the URL has another form.
            TypeError: an option repeats a part of the URL.
        """
        repo_id, where = parse_hf_url(url)
        return cls(repo_id, **where, **options)

    def upload_dir(self, local_dir: str | os.PathLike[str]) -> UploadReport:
        """Upload the dataset in a folder; after an interruption or failure, call it again.

        Raises:
            DatasetNotFoundError: the folder holds no finished dataset.
            CorruptShardError: a file is missing, or differs from what conversion wrote.
            UploadError: the Hub refuses, or a file did not arrive whole.
        """
        files = dataset_files(local_dir)
        with hub_errors(f"upload to {self.destination('')}", UploadError), _bars(self.progress):
            from huggingface_hub import HfApi

            api = HfApi(endpoint=self._folder.endpoint, token=self._token)
            self._make_repository(api)
            there = self._look(api, [file.rel_path for file in files])
            missing = [file for file in files if not _is_there(file, there.get(file.rel_path))]
            metadata = files[-1]
            gone = self._withdrawn(api, files, there) if metadata in missing else []
            withdrawals, deleted = [self._deletion(path) for path in gone], 0
            shards = [file for file in missing if file is not metadata]
            for batch in _batches(shards, _FILES_PER_COMMIT):
                operations = [self._addition(file) for file in batch]
                if any(file.rel_path in there for file in batch):
                    operations += withdrawals
                    deleted += len(withdrawals[1:])
                    withdrawals = []
                self._commit(api, operations, "shards")
                self._compare(api, batch)
            self._publish(api, metadata, missing, read_metadata(local_dir))
            # Compare all files, because another upload may have replaced some in the meantime.
            self._compare(api, files)
        return UploadReport(
            files=len(files),
            bytes=sum(file.bytes for file in files),
            sent_files=len(missing),
            sent_bytes=sum(file.bytes for file in missing),
            deleted_files=deleted,
        )

    def destination(self, rel_path: str) -> str:
        """Return the name of a file in the repository for error messages."""
        return self._folder.name(rel_path)

    def _make_repository(self, api: HfApi) -> None:
        api.create_repo(
            self._folder.repo_id, repo_type="dataset", private=self._private, exist_ok=True
        )
        if self._folder.revision and not self._folder.revision.startswith("refs/"):
            api.create_branch(
                self._folder.repo_id,
                branch=self._folder.revision,
                repo_type="dataset",
                exist_ok=True,
            )

    def _look(self, api: HfApi, rel_paths: Iterable[str]) -> dict[str, RepoFile]:
        """Return the entries of those files that the repository holds, by path in the dataset."""
        from huggingface_hub.hf_api import RepoFile

        names = {self._folder.path(rel_path): rel_path for rel_path in rel_paths}
        found = {}
        for paths in _batches(list(names), _FILES_PER_QUESTION):
            for entry in api.get_paths_info(
                self._folder.repo_id,
                list(paths),
                repo_type="dataset",
                revision=self._folder.revision,
            ):
                if isinstance(entry, RepoFile):
                    found[names[entry.path]] = entry
        return found

    def _addition(self, file: DatasetFile) -> Any:  # noqa: ANN401
        from huggingface_hub import CommitOperationAdd

        addition = CommitOperationAdd(self._folder.path(file.rel_path), file.full_path)
        file.refuse_changed(addition.upload_info.sha256.hex())
        return addition

    def _deletion(self, rel_path: str) -> Any:  # noqa: ANN401
        from huggingface_hub import CommitOperationDelete

        return CommitOperationDelete(self._folder.path(rel_path))

    def _withdrawn(
        self, api: HfApi, files: Sequence[DatasetFile], there: dict[str, RepoFile]
    ) -> list[str]:
        """Return the files that the first replacing commit deletes: metadata, and what it names.

        Without metadata, no commit holds a mixture of two datasets that looks like a dataset.
        """
        name = files[-1].rel_path
        if name not in there:
            return []
        ours = {file.rel_path for file in files}
        return [name, *self._look(api, sorted(self._named(api, there[name]) - ours))]

    def _named(self, api: HfApi, metadata: RepoFile) -> set[str]:
        """Return the files of the dataset in the repository; none if it cannot be read."""
        if metadata.size > MOST_METADATA_BYTES:
            return set()
        path = api.hf_hub_download(
            self._folder.repo_id,
            metadata.path,
            repo_type="dataset",
            revision=self._folder.revision,
        )
        try:
            found = parse_metadata(Path(path).read_bytes(), metadata.path)
        except (MetadataError, FormatVersionError):
            return set()
        return set(data_files(found))

    def _commit(self, api: HfApi, operations: list[Any], what: str) -> None:
        where = f" in {self._folder.subdir}" if self._folder.subdir else ""
        api.create_commit(
            self._folder.repo_id,
            operations,
            commit_message=f"Upload {what}{where}",
            repo_type="dataset",
            revision=self._folder.revision,
            num_threads=self.workers,
        )

    def _publish(
        self, api: HfApi, last: DatasetFile, missing: Sequence[DatasetFile], metadata: Metadata
    ) -> None:
        from huggingface_hub import CommitOperationAdd

        operations = []
        if self._card:
            old = self._read_card(api)
            new = merge_card(old, metadata, self._folder)
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
                self._folder.repo_id, _CARD, repo_type="dataset", revision=self._folder.revision
            )
        except EntryNotFoundError:
            return None
        try:
            return Path(path).read_bytes().decode()  # line ends stay as they are
        except UnicodeDecodeError as exc:
            raise UploadError(
                f"the {_CARD} of datasets/{self._folder.repo_id} is not UTF-8, so nothing can be "
                f"added to it ({exc}): save it as UTF-8, or give card=False"
            ) from exc

    def _compare(self, api: HfApi, files: Sequence[DatasetFile]) -> None:
        there = self._look(api, [file.rel_path for file in files])
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
    """Show or hide the progress bars of the Hub's client within the `with` block."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if show is None:
        show = stderr_is_terminal()
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
    """Return the Git blob id of a file. The Hub keeps small files in Git itself."""
    content = path.read_bytes()
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
