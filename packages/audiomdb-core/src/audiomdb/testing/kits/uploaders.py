"""Conformance tests for uploaders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from audiomdb.errors import CorruptShardError, DatasetNotFoundError, UploadError
from audiomdb.shards import verify_dataset
from audiomdb.testing.datasets import write_dataset
from audiomdb.testing.kits.conformance import Held, StoreConformance, files_in
from audiomdb.testing.proxy import FaultProxy
from audiomdb.testing.store import Store
from audiomdb.uploaders.base import BaseUploader

__all__ = ["UploaderConformance"]

METADATA = "metadata.json"


class UploaderConformance(StoreConformance):
    """Tests that every uploader must pass. Subclass it in a test module, once per uploader.

        class TestMyUploader(UploaderConformance):
            @pytest.fixture
            def store(self, my_server):
                return MyStore(my_server, uuid4().hex)    # an `audiomdb.testing.Store`

            def make_uploader(self, store, endpoint):
                return MyUploader(endpoint, store.name)

    `store` is an empty place, a new one for each test. The tests upload small datasets through
    `make_uploader` and check what `store.read` returns.
    """

    network_error: ClassVar[type[Exception] | tuple[type[Exception], ...]] = UploadError
    """Raised when the network goes down. A custom `upload_dir` may raise other exceptions."""

    def make_uploader(self, store: Store, endpoint: Any) -> BaseUploader:  # noqa: ANN401
        """Make an uploader to `store`. To be defined by the subclass.

        Args:
            store: The `store` fixture.
            endpoint: The server to connect to: `store.endpoint`, or a proxy in front of it in the
                same form (URL, or host and port).
        """
        raise NotImplementedError(f"{type(self).__name__} has to define make_uploader")

    def url_of(self, store: Store) -> str | None:  # noqa: ARG002
        """Return a URL for `audiomdb.registry.uploader_for`, or None if no scheme is registered."""
        return None

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Path:
        """A dataset on this machine."""
        path = tmp_path / "dataset"
        write_dataset(path)
        return path

    @pytest.fixture
    def files(self, dataset: Path) -> dict[str, bytes]:
        """Content of the dataset's files by path."""
        return files_in(dataset)

    @pytest.fixture
    def uploader(self, store: Store) -> BaseUploader:
        """An uploader to the store."""
        return self.make_uploader(store, store.endpoint)

    def test_making_an_uploader_asks_for_nothing(self, store: Store, proxy: FaultProxy) -> None:
        """Programs make uploaders before they know whether the conversion succeeds."""
        self.make_uploader(store, self.endpoint_of(store, proxy))
        assert proxy.stats.connections == 0

    def test_every_file_arrives_as_it_is(
        self, store: Store, uploader: BaseUploader, dataset: Path, files: dict[str, bytes]
    ) -> None:
        """Each file arrives under its own path, with "/" in it."""
        report = uploader.upload_dir(dataset)
        assert _arrived(store, files) == files
        if report is not None:
            size = sum(map(len, files.values()))
            assert (report.files, report.bytes) == (len(files), size)
            assert (report.sent_files, report.sent_bytes) == (len(files), size)

    def test_what_arrived_is_a_dataset(
        self, store: Store, uploader: BaseUploader, dataset: Path, tmp_path: Path
    ) -> None:
        """Every checksum of the uploaded dataset is right."""
        names = list(files_in(dataset))
        uploader.upload_dir(str(dataset))
        copy = tmp_path / "copy"
        for name in names:
            content = store.read(name)
            assert content is not None, name
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(content)
        assert list(verify_dataset(copy)) == []

    def test_what_is_not_the_datasets_stays_here(
        self, store: Store, uploader: BaseUploader, dataset: Path
    ) -> None:
        """Upload what `iter_files` lists, not everything in the folder."""
        strays = ["notes.txt", "shard_00009/data.mdb", ".partial/data.mdb"]
        for stray in strays:
            (dataset / stray).parent.mkdir(exist_ok=True)
            (dataset / stray).write_bytes(b"stray")
        uploader.upload_dir(dataset)
        assert [stray for stray in strays if store.read(stray) is not None] == []

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
    def test_an_upload_that_breaks_off_leaves_no_metadata_and_is_taken_up_again(
        self,
        store: Store,
        proxy: FaultProxy,
        dataset: Path,
        files: dict[str, bytes],
        share: float,
    ) -> None:
        """Readers find no dataset meanwhile, rather than half of one."""
        size = sum(map(len, files.values()))
        uploader = self.make_uploader(store, self.endpoint_of(store, proxy))
        proxy.fail("down", after=int(share * size))
        with pytest.raises(self.network_error):
            uploader.upload_dir(dataset)
        assert store.read(METADATA) is None
        proxy.heal()
        there = [name for name in files if self.is_there(uploader, store, dataset, name)]
        report = uploader.upload_dir(dataset)
        assert _arrived(store, files) == files
        if report is not None:
            assert report.sent_files <= len(files) - len(there)

    def test_an_uploader_for_a_store_that_cannot_be_reached_raises(
        self, store: Store, proxy: FaultProxy, dataset: Path
    ) -> None:
        """Raise `UploadError`, and say what to do about it."""
        proxy.fail("refuse")
        with pytest.raises(self.network_error):
            self.make_uploader(store, self.endpoint_of(store, proxy)).upload_dir(dataset)
        assert store.read(METADATA) is None

    def test_a_file_that_cannot_be_sent_raises_and_leaves_no_metadata(
        self, store: Store, uploader: BaseUploader, dataset: Path
    ) -> None:
        """Send `metadata.json` after all else has arrived; let errors out, from threads too.

        For a custom `upload_dir`, with or without a network: a shard is deleted just before its
        turn comes.
        """
        gone: list[str] = []

        def iter_files(local_dir: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
            for full_path, rel_path in files_of(local_dir):
                if rel_path == "shard_00001/data.mdb":
                    Path(full_path).unlink()
                    gone.append(rel_path)
                yield full_path, rel_path

        files_of = uploader.iter_files
        vars(uploader)["iter_files"] = iter_files
        error: Exception | None = None
        try:
            uploader.upload_dir(dataset)
        except Exception as caught:  # noqa: BLE001 - may raise anything
            error = caught
        if not gone:
            pytest.skip("it does not loop over iter_files")
        assert error is not None, "it took no notice of a file that it could not send"
        assert store.read(METADATA) is None

    def test_nothing_is_sent_twice(
        self, uploader: BaseUploader, dataset: Path, store: Store, files: dict[str, bytes]
    ) -> None:
        """A second upload of the same dataset finds everything there."""
        uploader.upload_dir(dataset)
        report = uploader.upload_dir(dataset)
        assert _arrived(store, files) == files
        if report is None:
            pytest.skip("it keeps no account")
        assert report.files == len(files)
        if _has_upload_file(uploader) and not self.knows_sha256(uploader, dataset):
            pytest.skip("the store knows no sha256: every file is sent again")
        assert (report.sent_files, report.sent_bytes) == (0, 0)

    def test_a_file_that_is_there_with_other_content_is_replaced(
        self, store: Store, uploader: BaseUploader, dataset: Path, files: dict[str, bytes]
    ) -> None:
        """Files of another size are replaced, and so are files of the same size."""
        uploader.upload_dir(dataset)
        store.write("shard_00001/data.mdb", files["shard_00001/data.mdb"][:-100])
        store.write("index.bin", bytes(len(files["index.bin"])))
        uploader.upload_dir(dataset)
        assert _arrived(store, files) == files

    def test_another_dataset_replaces_the_first(
        self, store: Store, uploader: BaseUploader, dataset: Path, tmp_path: Path
    ) -> None:
        """It is replaced file by file, its metadata last."""
        uploader.upload_dir(dataset)
        write_dataset(tmp_path / "other", seed=1)
        uploader.upload_dir(tmp_path / "other")
        other = files_in(tmp_path / "other")
        assert _arrived(store, other) == other

    def test_a_folder_without_a_dataset_is_refused(
        self, store: Store, uploader: BaseUploader, dataset: Path, files: dict[str, bytes]
    ) -> None:
        """Nothing is sent of an interrupted conversion, for example."""
        (dataset / METADATA).unlink()
        with pytest.raises(DatasetNotFoundError):
            uploader.upload_dir(dataset)
        assert set(_arrived(store, files).values()) == {None}

    @pytest.mark.parametrize("change", ["missing", "shorter"])
    def test_a_dataset_that_is_not_whole_is_refused(
        self,
        store: Store,
        uploader: BaseUploader,
        dataset: Path,
        files: dict[str, bytes],
        change: str,
    ) -> None:
        """It is refused before the first file is sent."""
        shard = dataset / "shard_00002" / "data.mdb"
        if change == "missing":
            shard.unlink()
        else:
            shard.write_bytes(shard.read_bytes()[:-1])
        with pytest.raises(CorruptShardError, match="shard_00002"):
            uploader.upload_dir(dataset)
        assert set(_arrived(store, files).values()) == {None}

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
        assert store.read(METADATA) is None

    def test_metadata_is_sent_when_everything_else_has_arrived(
        self, store: Store, uploader: BaseUploader, dataset: Path, files: dict[str, bytes]
    ) -> None:
        """Each file is whole at its destination when `upload_file` returns."""
        self.need_upload_file(uploader)
        before: dict[str, bytes | None] = {}

        def upload_file(full_path: str, rel_path: str) -> None:
            if rel_path == METADATA:
                before.update(_arrived(store, files))
            send(full_path, rel_path)
            assert uploader.stat(rel_path) is not None

        send = _replace_upload(uploader, upload_file)
        uploader.upload_dir(dataset)
        assert before == {**files, METADATA: None}

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
        assert store.read(METADATA) is None

    def test_stat_says_what_is_there(
        self, store: Store, uploader: BaseUploader, files: dict[str, bytes], dataset: Path
    ) -> None:
        """`stat` returns None for a file that does not exist."""
        self.need_upload_file(uploader)
        assert uploader.stat("shard_00000/data.mdb") is None
        assert uploader.stat("shard_00000") is None
        uploader.upload_dir(dataset)
        for name, content in files.items():
            found = uploader.stat(name)
            assert found is not None
            assert found[0] == len(content)
            digest = found[1] and found[1].lower()
            assert digest in (None, uploader.sha256(str(dataset / name)))
        store.delete("index.bin")
        assert uploader.stat("index.bin") is None

    def test_an_upload_leaves_no_descriptor_and_no_thread_behind(
        self, store: Store, dataset: Path, tmp_path: Path
    ) -> None:
        """Shut pools of clients down, or let them close with the uploader."""
        self.make_uploader(store, store.endpoint).upload_dir(dataset)
        write_dataset(tmp_path / "other", seed=1)
        held = Held()
        self.make_uploader(store, store.endpoint).upload_dir(tmp_path / "other")
        assert held.is_given_back(), held

    def test_what_is_removed_is_gone_and_so_is_what_was_not_there(
        self, store: Store, uploader: BaseUploader, dataset: Path
    ) -> None:
        """`remove` lets an upload replace a dataset without readers seeing a mixture of both."""
        self.need_upload_file(uploader)
        if type(uploader).remove is BaseUploader.remove:
            pytest.skip("it does not define remove")
        uploader.upload_file(str(dataset / METADATA), METADATA)
        assert store.read(METADATA) is not None
        uploader.remove(METADATA)
        assert store.read(METADATA) is None
        assert uploader.stat(METADATA) is None
        uploader.remove(METADATA)

    def test_a_url_leads_to_the_same_place(
        self, store: Store, dataset: Path, files: dict[str, bytes]
    ) -> None:
        """The scheme is registered, and `from_url` understands it."""
        url = self.url_of(store)
        if url is None:
            pytest.skip("it has no URL")
        from audiomdb.registry import uploader_for

        uploader_for(url).upload_dir(dataset)
        assert _arrived(store, files) == files

    def is_there(self, uploader: BaseUploader, store: Store, dataset: Path, name: str) -> bool:
        """Return whether a file has arrived whole, so that it need not be sent again."""
        content = (dataset / name).read_bytes()
        if not _has_upload_file(uploader):
            return store.read(name) == content
        digest = uploader.sha256(str(dataset / name)) if content else None
        found = uploader.stat(name)
        if found is None or found[0] != len(content):
            return False
        return digest is None or (found[1] or "").lower() == digest

    def need_upload_file(self, uploader: BaseUploader) -> None:
        """Skip the test if the uploader only defines `upload_dir`."""
        if not _has_upload_file(uploader):
            pytest.skip("it has an upload_dir of its own")

    def knows_sha256(self, uploader: BaseUploader, dataset: Path) -> bool:
        """Return whether the store can tell the sha256 of a file."""
        uploader.upload_file(str(dataset / "index.bin"), "index.bin")
        found = uploader.stat("index.bin")
        return found is not None and found[1] is not None


def _has_upload_file(uploader: BaseUploader) -> bool:
    return type(uploader).upload_file is not BaseUploader.upload_file


def _arrived(store: Store, files: dict[str, bytes]) -> dict[str, bytes | None]:
    """Return what the store holds under the paths of these files."""
    return {name: store.read(name) for name in files}


def _replace_upload(
    uploader: BaseUploader, upload_file: Callable[[str, str], None]
) -> Callable[[str, str], None]:
    """Replace the function that `upload_dir` sends a file with; return the previous one."""
    before = uploader.upload_file
    vars(uploader)["upload_file"] = upload_file
    return before
