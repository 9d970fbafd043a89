from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import CorruptShardError, DatasetNotFoundError, UploadError
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.uploaders.base import BaseUploader


def write_dataset(path: Path, *, samples: int = 6, on_error: Any = "raise") -> Path:
    with DatasetWriter(path, samples_per_shard=2, on_error=on_error) as writer:
        for number in range(samples):
            audio = np.full(400, number, np.float32)
            writer.write(f"clip-{number}", {"audio": audio, "sample_rate": 16_000})
        if on_error == "skip":
            writer.write("not-audio", {"audio": b"no audio at all"})
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset")


class LoopUploader(BaseUploader):
    """The short level, as the founding README writes it."""

    def __init__(self, target: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target
        self.order: list[str] = []

    def upload_dir(self, local_dir: str | os.PathLike[str]) -> None:
        for full_path, rel_path in self.iter_files(local_dir):
            (self.target / rel_path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(full_path, self.target / rel_path)
            self.order.append(rel_path)


class MemoryUploader(BaseUploader):
    """The per-file interface, over a dict; `knows_sha256` is what a backend may lack."""

    def __init__(self, *, knows_sha256: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.files: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.knows_sha256 = knows_sha256

    def upload_file(self, full_path: str, rel_path: str) -> None:
        self.files[rel_path] = Path(full_path).read_bytes()
        self.sent.append(rel_path)

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        content = self.files.get(rel_path)
        if content is None:
            return None
        return len(content), _sha256(content) if self.knows_sha256 else None


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def names(uploader: BaseUploader, folder: Path) -> list[str]:
    return [rel_path for _, rel_path in uploader.iter_files(folder)]


def test_files_come_shard_by_shard_with_metadata_last(dataset: Path) -> None:
    assert names(MemoryUploader(), dataset) == [
        *("shard_00000/data.mdb", "shard_00000/lock.mdb"),
        *("shard_00001/data.mdb", "shard_00001/lock.mdb"),
        *("shard_00002/data.mdb", "shard_00002/lock.mdb"),
        "index.bin",
        "metadata.json",
    ]


def test_both_paths_are_strings_and_the_full_one_leads_to_the_file(dataset: Path) -> None:
    for full_path, rel_path in MemoryUploader().iter_files(str(dataset)):
        assert type(full_path) is type(rel_path) is str
        assert Path(full_path) == dataset / rel_path
        assert rel_path.count("/") <= 1


def test_rejected_samples_are_listed_at_the_destination_too(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "dataset", on_error="skip")
    assert names(MemoryUploader(), folder)[-3:] == ["index.bin", "rejected.jsonl", "metadata.json"]


def test_files_that_metadata_does_not_list_are_not_uploaded(dataset: Path) -> None:
    before = names(MemoryUploader(), dataset)
    for stray in (".partial/shard_00007/data.mdb", "shard_00009/data.mdb", "notes.txt"):
        (dataset / stray).parent.mkdir(parents=True, exist_ok=True)
        (dataset / stray).write_bytes(b"stray")
    (dataset / "rejected.jsonl").write_bytes(b"of an earlier run")
    assert names(MemoryUploader(), dataset) == before


def test_a_folder_without_metadata_is_refused(dataset: Path) -> None:
    (dataset / "metadata.json").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"no metadata\.json"):
        names(MemoryUploader(), dataset)


@pytest.mark.parametrize("missing", ["shard_00001/data.mdb", "shard_00001/lock.mdb", "index.bin"])
def test_a_dataset_that_lacks_a_file_is_refused_before_anything_is_sent(
    dataset: Path, missing: str
) -> None:
    (dataset / missing).unlink()
    uploader = MemoryUploader()
    with pytest.raises(CorruptShardError, match=missing):
        uploader.upload_dir(dataset)
    assert uploader.sent == []


def test_a_truncated_shard_is_refused(dataset: Path) -> None:
    os.truncate(dataset / "shard_00001" / "data.mdb", 4096)
    with pytest.raises(CorruptShardError, match=r"shard_00001/data\.mdb has 4096 bytes"):
        names(MemoryUploader(), dataset)


def test_a_shard_changed_since_conversion_is_not_sent(dataset: Path) -> None:
    path = dataset / "shard_00001" / "data.mdb"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    uploader = MemoryUploader()
    with pytest.raises(CorruptShardError, match="changed since conversion"):
        uploader.upload_dir(dataset)
    assert "shard_00001/data.mdb" not in uploader.files
    assert "metadata.json" not in uploader.files


def test_metadata_that_was_replaced_meanwhile_is_not_sent(dataset: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", samples=4) / "metadata.json"

    class Late(MemoryUploader):
        def upload_file(self, full_path: str, rel_path: str) -> None:
            super().upload_file(full_path, rel_path)
            if rel_path == "index.bin":
                shutil.copyfile(other, dataset / "metadata.json")

    uploader = Late()
    with pytest.raises(UploadError, match=r"metadata\.json was replaced during the upload"):
        uploader.upload_dir(dataset)
    assert "metadata.json" not in uploader.files


def test_a_loop_over_the_files_is_an_uploader(dataset: Path, tmp_path: Path) -> None:
    uploader = LoopUploader(tmp_path / "copy", workers=2)
    uploader.upload_dir(dataset)
    assert uploader.order[-1] == "metadata.json"
    with DatasetReader.open(tmp_path / "copy") as copy:
        assert len(copy) == 6


def test_an_uploader_that_leaves_out_the_base_constructor_works(dataset: Path) -> None:
    class Bare(MemoryUploader):
        def __init__(self) -> None:
            self.files, self.sent, self.knows_sha256 = {}, [], True

    uploader = Bare()
    uploader.upload_dir(dataset)
    assert uploader.sent[-1] == "metadata.json"


def test_a_second_upload_sends_nothing(dataset: Path) -> None:
    uploader = MemoryUploader()
    first = uploader.upload_dir(dataset)
    second = uploader.upload_dir(dataset)
    assert first is not None
    assert second is not None
    assert (first.files, first.sent_files) == (8, 8)
    assert (second.files, second.sent_files, second.sent_bytes) == (8, 0, 0)
    assert first.bytes == first.sent_bytes == sum(map(len, uploader.files.values()))


def test_only_what_differs_is_sent_again(dataset: Path) -> None:
    uploader = MemoryUploader()
    uploader.upload_dir(dataset)
    uploader.sent.clear()
    same_size = uploader.files["shard_00001/data.mdb"]
    uploader.files["shard_00001/data.mdb"] = bytes(len(same_size))
    uploader.upload_dir(dataset)
    assert uploader.sent == ["shard_00001/data.mdb"]


def test_a_file_without_a_known_digest_is_sent_again(dataset: Path) -> None:
    uploader = MemoryUploader(knows_sha256=False)
    uploader.upload_dir(dataset)
    uploader.sent.clear()
    uploader.upload_dir(dataset)
    assert "shard_00000/data.mdb" in uploader.sent
    assert "shard_00000/lock.mdb" not in uploader.sent, "empty files are alike"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "bytes instead of"),
        (lambda content: bytes(len(content)), "sha256 .* instead of"),
    ],
)
def test_a_file_that_does_not_arrive_whole_stops_the_upload(
    dataset: Path, damage: Any, message: str
) -> None:
    class Lossy(MemoryUploader):
        def upload_file(self, full_path: str, rel_path: str) -> None:
            super().upload_file(full_path, rel_path)
            if rel_path == "shard_00001/data.mdb":
                self.files[rel_path] = damage(self.files[rel_path])

    uploader = Lossy()
    with pytest.raises(UploadError, match=rf"shard_00001/data\.mdb .*{message}"):
        uploader.upload_dir(dataset)
    assert "metadata.json" not in uploader.files


def test_a_file_that_vanishes_after_its_upload_is_an_error(dataset: Path) -> None:
    class Hole(MemoryUploader):
        def upload_file(self, full_path: str, rel_path: str) -> None:
            if rel_path != "index.bin":
                super().upload_file(full_path, rel_path)

    with pytest.raises(UploadError, match=r"index\.bin .* is not there after its upload"):
        Hole().upload_dir(dataset)


def test_metadata_is_sent_when_all_other_files_have_arrived(dataset: Path) -> None:
    class Watching(MemoryUploader):
        def upload_file(self, full_path: str, rel_path: str) -> None:
            if rel_path == "metadata.json":
                assert len(self.files) == 7
            super().upload_file(full_path, rel_path)

    assert Watching(workers=8).upload_dir(dataset) is not None


def test_as_many_files_are_on_their_way_as_there_are_workers(dataset: Path) -> None:
    class Meeting(MemoryUploader):
        together = threading.Barrier(3)

        def upload_file(self, full_path: str, rel_path: str) -> None:
            if rel_path.endswith("data.mdb"):
                self.together.wait(timeout=300)
            super().upload_file(full_path, rel_path)

    assert Meeting(workers=6).upload_dir(dataset) is not None


def test_no_uploader_takes_fewer_than_one_worker() -> None:
    with pytest.raises(ValueError, match="workers must be a whole number from 1 on, not 0"):
        MemoryUploader(workers=0)


def test_an_uploader_of_neither_level_cannot_be_made() -> None:
    class Half(BaseUploader):
        def upload_file(self, _full_path: str, _rel_path: str) -> None:
            raise AssertionError

    with pytest.raises(TypeError, match="Half does not define stat"):
        Half()
    with pytest.raises(TypeError, match="upload_dir, or both"):
        BaseUploader()


class RemovingUploader(MemoryUploader):
    """A store that can delete, too."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.removed: list[str] = []

    def remove(self, rel_path: str) -> None:
        self.files.pop(rel_path, None)
        self.removed.append(rel_path)


@pytest.fixture
def another(tmp_path: Path) -> Path:
    """A dataset of as many shards, none of them the same."""
    with DatasetWriter(tmp_path / "another", samples_per_shard=2) as writer:
        for number in range(6):
            audio = np.full(400, -number - 1, np.float32)
            writer.write(f"clip-{number}", {"audio": audio, "sample_rate": 16_000})
    return tmp_path / "another"


def test_another_dataset_is_withdrawn_before_its_first_file_is_replaced(
    dataset: Path, another: Path
) -> None:
    uploader = RemovingUploader(workers=1)
    uploader.upload_dir(dataset)

    class Stops(RemovingUploader):
        def upload_file(self, full_path: str, rel_path: str) -> None:
            if rel_path == "shard_00001/data.mdb":
                assert "metadata.json" not in self.files
                raise UploadError("the line is down")
            super().upload_file(full_path, rel_path)

    stopped = Stops(workers=1)
    stopped.files = uploader.files
    with pytest.raises(UploadError, match="the line is down"):
        stopped.upload_dir(another)
    assert "metadata.json" not in uploader.files
    uploader.upload_dir(another)
    assert uploader.files["metadata.json"] == (another / "metadata.json").read_bytes()


def test_no_file_is_replaced_while_another_thread_withdraws_the_dataset(
    dataset: Path, another: Path
) -> None:
    uploader = RemovingUploader()
    uploader.upload_dir(dataset)
    replaced = threading.Event()
    withdrawn = []

    class Slow(RemovingUploader):
        def remove(self, rel_path: str) -> None:
            withdrawn.append(rel_path)
            assert not replaced.wait(0.2)  # another thread has all this time to get ahead
            super().remove(rel_path)

        def upload_file(self, full_path: str, rel_path: str) -> None:
            replaced.set()
            super().upload_file(full_path, rel_path)

    slow = Slow(workers=4)
    slow.files = uploader.files
    slow.upload_dir(another)
    assert withdrawn == ["metadata.json"]
    assert slow.files["metadata.json"] == (another / "metadata.json").read_bytes()


def test_a_dataset_that_grows_is_there_until_its_index_is_replaced(
    dataset: Path, tmp_path: Path
) -> None:
    larger = write_dataset(tmp_path / "elsewhere" / "dataset", samples=8)

    class Watching(RemovingUploader):
        def upload_file(self, full_path: str, rel_path: str) -> None:
            if rel_path.startswith("shard_"):
                assert "metadata.json" in self.files
            super().upload_file(full_path, rel_path)

    uploader = RemovingUploader(workers=1)
    uploader.upload_dir(dataset)
    growing = Watching(workers=1)
    growing.files = uploader.files
    growing.upload_dir(larger)
    assert growing.sent[0] == "shard_00003/data.mdb"


def test_a_damaged_copy_is_replaced_without_withdrawing_the_dataset(dataset: Path) -> None:
    uploader = RemovingUploader()
    uploader.upload_dir(dataset)
    uploader.files["shard_00001/data.mdb"] = b"damaged"
    uploader.upload_dir(dataset)
    assert uploader.removed == []


@pytest.mark.parametrize("first_to_end", ["own", "other"])
def test_two_uploads_to_one_place_are_not_both_called_whole(
    dataset: Path, another: Path, first_to_end: str
) -> None:
    """The second begins and ends while the first one sends its metadata, or just before."""
    other = RemovingUploader(workers=1)

    class Overtaken(RemovingUploader):
        def upload_file(self, full_path: str, rel_path: str) -> None:
            if rel_path == "metadata.json" and first_to_end == "other":
                other.upload_dir(another)
            super().upload_file(full_path, rel_path)
            if rel_path == "metadata.json" and first_to_end == "own":
                other.upload_dir(another)

    uploader = Overtaken(workers=1)
    other.files = uploader.files
    with pytest.raises(
        UploadError, match=r"somebody else uploads another dataset there|instead of"
    ):
        uploader.upload_dir(dataset)
    published = uploader.files.get("metadata.json")
    assert published in (None, (another / "metadata.json").read_bytes())
    if published is not None:
        name = "shard_00001/data.mdb"
        assert uploader.files[name] == (another / name).read_bytes()


def test_files_under_way_are_given_up_when_another_fails(dataset: Path) -> None:
    under_way = threading.Event()
    given_up = []

    class Slow(MemoryUploader):
        def upload_file(self, full_path: str, rel_path: str) -> None:
            check = self.stop_check()
            if rel_path == "shard_00001/data.mdb":
                assert under_way.wait(300)
                raise UploadError("the line is down")
            if rel_path == "shard_00000/data.mdb":
                under_way.set()
                try:
                    for _ in range(6000):
                        check()
                        threading.Event().wait(0.01)
                except Exception:
                    given_up.append(rel_path)
                    raise
            super().upload_file(full_path, rel_path)

    uploader = Slow()
    with pytest.raises(UploadError, match="the line is down"):
        uploader.upload_dir(dataset)
    assert given_up == ["shard_00000/data.mdb"]
    assert "metadata.json" not in uploader.files


def test_stop_check_never_raises_outside_an_upload() -> None:
    MemoryUploader().stop_check()()


def test_a_shard_that_cannot_be_read_is_named(dataset: Path) -> None:
    class Loses(MemoryUploader):
        def stat(self, rel_path: str) -> tuple[int, str | None] | None:
            (dataset / "shard_00002" / "data.mdb").unlink(missing_ok=True)
            return super().stat(rel_path)

    with pytest.raises(UploadError, match=r"cannot read .*shard_00002/data\.mdb: No such file"):
        Loses().upload_dir(dataset)
