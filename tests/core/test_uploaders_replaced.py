"""What becomes of the files that only the replaced dataset had."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from audiomdb.errors import DatasetNotFoundError, UploadError
from audiomdb.shards import DatasetWriter, verify_dataset
from audiomdb.testing import MemoryRetriever, MemoryServer, MemoryUploader
from audiomdb.uploaders.base import BaseUploader, UploadReport
from audiomdb.uploaders.local import LocalUploader
from tests.commands import files

NOTE = ".replaced.json"


class Dropped(Exception):  # noqa: N818
    """Stands for the end of the process."""


class DictUploader(BaseUploader):
    """The per-file interface over a dict, whose `fails_at`-th change of it does not happen."""

    def __init__(self, files: dict[str, bytes], *, fails_at: int = -1) -> None:
        super().__init__(workers=1)
        self.files = files
        self.left = fails_at

    def change(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise Dropped

    def upload_file(self, full_path: str, rel_path: str) -> None:
        self.change()
        self.files[rel_path] = Path(full_path).read_bytes()

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        content = self.files.get(rel_path)
        if content is None:
            return None
        return len(content), hashlib.sha256(content).hexdigest()

    def read(self, rel_path: str) -> bytes | None:
        return self.files.get(rel_path)

    def remove(self, rel_path: str) -> None:
        self.change()
        self.files.pop(rel_path, None)


def written(path: Path, samples: int, seed: int, **options: Any) -> Path:
    with DatasetWriter(path, name="digits", samples_per_shard=2, **options) as writer:
        for number in range(samples):
            writer.write(f"clip-{number}", {"number": number, "seed": seed})
        if options:
            writer.write("not-audio", {"audio": b"no audio at all"})
    return path


def report_of(uploader: BaseUploader, folder: Path) -> UploadReport:
    report = uploader.upload_dir(folder)
    assert report is not None
    return report


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return written(tmp_path / "old", 9, 1, on_error="skip")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return written(tmp_path / "new", 4, 2)


def test_only_files_of_the_replaced_dataset_are_deleted(old: Path, new: Path) -> None:
    store: dict[str, bytes] = {}
    DictUploader(store).upload_dir(old)
    strangers = {
        "shard_00009/data.mdb": b"not of the old index",
        "shard_00003/notes.txt": b"mine",
        "README.md": b"mine",
    }
    store.update(strangers)
    report = report_of(DictUploader(store), new)
    assert store == {**files(new), **strangers}
    assert report.deleted_files == len(files(old).keys() - files(new).keys()) == 7


def test_a_file_of_other_content_at_the_place_of_an_old_one_stays(old: Path, new: Path) -> None:
    store: dict[str, bytes] = {}
    DictUploader(store).upload_dir(old)
    put_there = {"shard_00003/data.mdb": b"put there by somebody else", "shard_00003/lock.mdb": b""}
    store.update(put_there)
    DictUploader(store).upload_dir(new)
    assert store == {**files(new), **put_there}


def test_a_dataset_that_only_lost_its_list_of_rejected_samples_loses_it_there(old: Path) -> None:
    store: dict[str, bytes] = {}
    DictUploader(store).upload_dir(old)
    assert store.keys() >= {"rejected.jsonl"}
    metadata = json.loads(store["metadata.json"])
    (old / "metadata.json").write_text(json.dumps({**metadata, "rejected": 0}))
    (old / "rejected.jsonl").unlink()
    report = report_of(DictUploader(store), old)
    assert (report.sent_files, report.deleted_files) == (1, 1)
    assert store == files(old)


def test_a_dataset_that_only_lost_its_last_shards_loses_them_there(
    old: Path, tmp_path: Path
) -> None:
    store: dict[str, bytes] = {}
    DictUploader(store).upload_dir(old)
    shorter = written(tmp_path / "shorter", 4, 1)
    assert files(shorter)["shard_00000/data.mdb"] == store["shard_00000/data.mdb"]
    DictUploader(store).upload_dir(shorter)
    assert store == files(shorter)


def stopped(old: Path, new: Path) -> Iterator[dict[str, bytes]]:
    """Stores in which the replacement of a dataset stopped, before one of its changes in each."""
    for fails_at in count():
        store: dict[str, bytes] = {}
        DictUploader(store).upload_dir(old)
        try:
            DictUploader(store, fails_at=fails_at).upload_dir(new)
        except Dropped:
            yield store
        else:
            assert store == files(new)
            return


def test_wherever_the_replacement_stops_the_next_upload_finishes_it(old: Path, new: Path) -> None:
    before, after = files(old), files(new)
    beyond = before.keys() - after.keys()
    stops = 0
    for store in stopped(old, new):
        if store.get("metadata.json") != after["metadata.json"]:
            assert beyond <= store.keys(), "nothing goes before the new index is in place"
        DictUploader(store).upload_dir(new)
        assert store == after, f"stopped before change {stops}"
        stops += 1
    assert stops >= len(after) + len(beyond)


def test_a_third_upload_also_deletes_leftovers_of_an_interrupted_one(
    old: Path, new: Path, tmp_path: Path
) -> None:
    store: dict[str, bytes] = {}
    DictUploader(store).upload_dir(old)
    with pytest.raises(Dropped):
        # The note, the metadata's end, six files, the metadata; then the first that is to go.
        DictUploader(store, fails_at=8).upload_dir(new)
    assert store["metadata.json"] == (new / "metadata.json").read_bytes()
    assert "shard_00004/data.mdb" in store
    third = written(tmp_path / "third", 2, 3)
    DictUploader(store).upload_dir(third)
    assert store == files(third)


def test_a_failed_deletion_says_that_the_new_dataset_is_complete(old: Path, new: Path) -> None:
    class Fails(DictUploader):
        def remove(self, rel_path: str) -> None:
            if rel_path.startswith("shard_"):
                raise UploadError(f"cannot delete {rel_path}: the store is busy")
            super().remove(rel_path)

    store: dict[str, bytes] = {}
    DictUploader(store).upload_dir(old)
    with pytest.raises(UploadError, match=r"shard_0000\d/data\.mdb") as caught:
        Fails(store).upload_dir(new)
    assert "the dataset has arrived whole" in "".join(caught.value.__notes__)
    assert store["metadata.json"] == (new / "metadata.json").read_bytes()
    DictUploader(store).upload_dir(new)
    assert store == files(new)


def test_a_store_that_deletes_nothing_is_asked_to_only_once(old: Path, new: Path) -> None:
    class Keeps(DictUploader):
        asked = 0

        def remove(self, rel_path: str) -> None:
            self.asked += rel_path.startswith("shard_")

    store: dict[str, bytes] = {}
    DictUploader(store).upload_dir(old)
    uploader = Keeps(store)
    assert report_of(uploader, new).deleted_files == 0
    assert report_of(uploader, new).deleted_files == 0
    assert uploader.asked == 1
    assert files(new).items() <= store.items()


def test_a_shard_of_the_same_size_without_a_sha256_is_not_deleted(old: Path, new: Path) -> None:
    class SizesOnly(DictUploader):
        def stat(self, rel_path: str) -> tuple[int, str | None] | None:
            found = super().stat(rel_path)
            return found and (found[0], None)

    store: dict[str, bytes] = {}
    SizesOnly(store).upload_dir(old)
    store["shard_00003/data.mdb"] = bytes(len(store["shard_00003/data.mdb"]))
    shards = {name: content for name, content in store.items() if name.startswith("shard_0000")}
    SizesOnly(store).upload_dir(new)
    assert store == {**shards, **files(new)}


def test_the_old_dataset_can_be_restored_after_an_interrupted_replacement(
    old: Path, new: Path
) -> None:
    for number, store in enumerate(stopped(old, new)):
        DictUploader(store).upload_dir(old)
        assert store == files(old), f"stopped before change {number}"


def test_deleting_files_of_a_concurrent_upload_is_reported(old: Path, new: Path) -> None:
    class Overtaken(DictUploader):
        def remove(self, rel_path: str) -> None:
            if rel_path == "shard_00004/data.mdb":
                DictUploader(self.files).upload_dir(old)
            super().remove(rel_path)

    store: dict[str, bytes] = {}
    DictUploader(store).upload_dir(old)
    with pytest.raises(UploadError, match=r"metadata\.json .*somebody else uploads another"):
        Overtaken(store).upload_dir(new)
    DictUploader(store).upload_dir(old)
    assert store == files(old)


@pytest.mark.parametrize(
    "note",
    [
        *(b"no JSON", b"[{}]", b'{"shards": []}', b'[{"path": "../x"}]'),
        *(b"[" * 100_000, b'[{"shards":' + b"[" * 100_000 + b"]" * 100_000 + b"}]"),
    ],
)
def test_an_unreadable_note_deletes_nothing(new: Path, note: bytes) -> None:
    store = {NOTE: note, "shard_00007/data.mdb": b"somebody's"}
    assert report_of(DictUploader(store), new).deleted_files == 0
    assert store == {**files(new), "shard_00007/data.mdb": b"somebody's"}


@pytest.mark.parametrize("name", [NOTE, "metadata.json"])
def test_an_oversized_metadata_file_is_not_read_by_an_upload(
    old: Path, new: Path, name: str
) -> None:
    class Endless(DictUploader):
        def stat(self, rel_path: str) -> tuple[int, str | None] | None:
            found = super().stat(rel_path)
            large = rel_path == name and found and found[1] == hashlib.sha256(b"x").hexdigest()
            return (2**50, found[1]) if found and large else found

        def read(self, rel_path: str) -> bytes | None:
            content = super().read(rel_path)
            assert content != b"x", "it does not fit into memory"
            return content

    store: dict[str, bytes] = {}
    DictUploader(store).upload_dir(old)
    store[name] = b"x"
    Endless(store).upload_dir(new)
    assert files(new).items() <= store.items()


def test_local_replacement_removes_the_folders_of_old_shards(
    old: Path, new: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    LocalUploader(target).upload_dir(old)
    (target / "shard_00003" / "notes.txt").write_bytes(b"mine")
    LocalUploader(target).upload_dir(new)
    assert files(target) == {**files(new), "shard_00003/notes.txt": b"mine"}
    assert sorted(path.name for path in target.glob("shard_*")) == [
        *("shard_00000", "shard_00001"),
        "shard_00003",
    ]
    assert verify_dataset(target) == []


def test_the_target_of_a_linked_shard_folder_is_not_deleted(
    old: Path, new: Path, tmp_path: Path
) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    LocalUploader(target).upload_dir(old)
    (target / "shard_00003").rename(elsewhere)
    (target / "shard_00003").symlink_to(elsewhere)
    before = files(elsewhere)
    LocalUploader(target).upload_dir(new)
    assert files(target) == files(new)
    assert files(elsewhere) == before


def test_readers_of_a_replaced_dataset_are_told_to_reopen_it(
    old: Path, new: Path, tmp_path: Path
) -> None:
    with MemoryServer() as server:
        url = server.url("digits")
        MemoryUploader(url).upload_dir(old)
        retriever = MemoryRetriever(url, cache_dir=tmp_path / "caches", prefetch=0)
        assert retriever.open()["clip-0"]["seed"] == 1
        MemoryUploader(url).upload_dir(new)
        with pytest.raises(DatasetNotFoundError, match=r"shard_00004/data\.mdb") as caught:
            retriever.open()["clip-8"]
        assert "close it in all processes of this machine" in "".join(caught.value.__notes__)
        retriever.close()
        assert retriever.open()["clip-0"]["seed"] == 2
        retriever.close()
