"""Conformance tests of an uploader that defines `upload_file` and `stat`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from audiomdb.errors import CorruptShardError, UploadError
from audiomdb.testing.datasets import write_dataset
from audiomdb.testing.kits.conformance import expect_same, files_in
from audiomdb.testing.kits.uploader_base import (
    METADATA,
    UploaderTests,
    arrived,
    expect_no_metadata,
)
from audiomdb.testing.store import Store
from audiomdb.uploaders.base import BaseUploader

__all__ = ["FileTests"]


class FileTests(UploaderTests):
    """Tests of single files; all are skipped if the uploader only defines `upload_dir`."""

    def test_each_option_of_the_base_reaches_it(self, store: Store, uploader: BaseUploader) -> None:
        """Pass `**options` on, and also those options that the constructor names itself."""
        self.need_upload_file(uploader)
        uploader = self.make_uploader(store, store.endpoint, workers=3, progress=False)
        assert uploader.workers == 3, "workers does not reach the base class"
        assert uploader.progress is False, "progress does not reach the base class"

    def test_a_shard_that_was_changed_since_conversion_is_not_published(
        self, store: Store, uploader: BaseUploader, dataset: Path
    ) -> None:
        """The per-file interface compares each file's sha256 with the metadata."""
        self.need_upload_file(uploader)
        shard = dataset / "shard_00002" / "data.mdb"
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        with pytest.raises(CorruptShardError, match="shard_00002"):
            uploader.upload_dir(dataset)
        expect_no_metadata(store)

    def test_metadata_is_sent_when_everything_else_has_arrived(
        self, store: Store, uploader: BaseUploader, dataset: Path, files: dict[str, bytes]
    ) -> None:
        """Each file is whole at its destination when `upload_file` returns."""
        self.need_upload_file(uploader)
        before: dict[str, bytes | None] = {}

        def upload_file(full_path: str, rel_path: str) -> None:
            if rel_path == METADATA:
                before.update(arrived(store, files))
            send(full_path, rel_path)
            assert uploader.stat(rel_path) is not None, f"{rel_path} is not there after it was sent"

        send = _replace_upload(uploader, upload_file)
        uploader.upload_dir(dataset)
        expect_same(before, {**files, METADATA: None})

    @pytest.mark.parametrize("what", ["nothing", "half", "another"])
    def test_a_file_that_does_not_arrive_as_it_was_sent_is_noticed(
        self, store: Store, uploader: BaseUploader, dataset: Path, tmp_path: Path, what: str
    ) -> None:
        """`stat` returns what is there: None, or its size and, if known, its sha256."""
        self.need_upload_file(uploader)

        def upload_file(full_path: str, rel_path: str) -> None:
            content = Path(full_path).read_bytes()
            if rel_path == "shard_00001/data.mdb":
                if what == "nothing":
                    return
                content = content[: len(content) // 2] if what == "half" else bytes(len(content))
            spoilt = tmp_path / rel_path.replace("/", "-")
            spoilt.write_bytes(content)
            send(str(spoilt), rel_path)

        send = _replace_upload(uploader, upload_file)
        if what == "another" and not self.knows_sha256(uploader, dataset):
            pytest.skip("the store knows no sha256")
        with pytest.raises(UploadError, match=r"shard_00001/data\.mdb"):
            uploader.upload_dir(dataset)
        expect_no_metadata(store)

    def test_stat_says_what_is_there(
        self, store: Store, uploader: BaseUploader, files: dict[str, bytes], dataset: Path
    ) -> None:
        """`stat` returns None for a file that does not exist."""
        self.need_upload_file(uploader)
        for path in ("shard_00000/data.mdb", "shard_00000"):
            assert uploader.stat(path) is None, f"there is no {path} in the store"
        uploader.upload_dir(dataset)
        for name, content in files.items():
            found = uploader.stat(name)
            assert found is not None, f"{name} is in the store"
            assert found[0] == len(content), f"size of {name}"
            digest = found[1] and found[1].lower()
            assert digest in (None, uploader.sha256(str(dataset / name))), f"sha256 of {name}"
        store.delete("index.bin")
        assert uploader.stat("index.bin") is None, "index.bin was deleted by somebody else"

    def test_what_is_removed_is_gone_and_so_is_what_was_not_there(
        self, store: Store, uploader: BaseUploader, dataset: Path
    ) -> None:
        """`remove` lets an upload replace a dataset without readers seeing a mixture of both."""
        self.need_upload_file(uploader)
        if type(uploader).remove is BaseUploader.remove:
            pytest.skip("it does not define remove")
        uploader.upload_file(str(dataset / METADATA), METADATA)
        assert store.read(METADATA) is not None, "upload_file did not put it there"
        uploader.remove(METADATA)
        assert not store.read(METADATA), "remove left it there"
        assert uploader.stat(METADATA) is None, "stat sees what was removed"
        uploader.remove(METADATA)

    def test_files_that_only_a_replaced_dataset_had_are_deleted(
        self, store: Store, uploader: BaseUploader, dataset: Path, tmp_path: Path
    ) -> None:
        """`read` returns the old `metadata.json`, which says what else there is to delete."""
        self.need_upload_file(uploader)
        if type(uploader).read is BaseUploader.read:
            pytest.skip("it does not define read")
        if not self.knows_sha256(uploader, dataset):
            pytest.skip("the store knows no sha256")
        assert uploader.read(METADATA) is None, "read returns None for a file that is not there"
        uploader.upload_dir(dataset)
        metadata = (dataset / METADATA).read_bytes()
        expect_same({METADATA: uploader.read(METADATA)}, {METADATA: metadata})
        store.write("shard_00099/data.mdb", b"of nobody")
        old, smaller = set(files_in(dataset)), tmp_path / "smaller"
        write_dataset(smaller, shards=2, seed=1)
        uploader.upload_dir(smaller)
        new = files_in(smaller)
        assert old - set(new), "the dataset in the kit has several shards"
        expect_same({name: store.read(name) for name in {*old, *new}}, new)
        assert store.read("shard_00099/data.mdb") == b"of nobody"
        assert uploader.upload_dir(smaller) is not None
        assert not store.read(".replaced.json"), "the notes of the replacement are still there"


def _replace_upload(
    uploader: BaseUploader, upload_file: Callable[[str, str], None]
) -> Callable[[str, str], None]:
    """Replace the function that `upload_dir` sends a file with; return the previous one."""
    before = uploader.upload_file
    vars(uploader)["upload_file"] = upload_file
    return before
