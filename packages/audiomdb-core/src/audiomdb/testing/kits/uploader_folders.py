"""Conformance tests of an uploader that uploads a whole dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from audiomdb.errors import AudioMDBError, CorruptShardError, DatasetNotFoundError
from audiomdb.shards.verify import verify_dataset
from audiomdb.testing.datasets import write_dataset
from audiomdb.testing.kits.conformance import Held, expect_same, files_in
from audiomdb.testing.kits.uploader_base import (
    METADATA,
    UploaderTests,
    arrived,
    expect_no_metadata,
    has_upload_file,
)
from audiomdb.testing.proxy import FaultProxy
from audiomdb.testing.store import Store
from audiomdb.uploaders.base import BaseUploader

__all__ = ["FolderTests", "NetworkTests"]


class FolderTests(UploaderTests):
    """Tests in which the network does not fail."""

    def test_every_file_arrives_as_it_is(
        self, store: Store, uploader: BaseUploader, dataset: Path, files: dict[str, bytes]
    ) -> None:
        """Each file arrives under its own path, with "/" in it."""
        report = uploader.upload_dir(dataset)
        expect_same(arrived(store, files), files)
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
        sent = [stray for stray in strays if store.read(stray) is not None]
        assert sent == [], "these are not files of the dataset"

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
        expect_no_metadata(store)

    def test_nothing_is_sent_twice(
        self, uploader: BaseUploader, dataset: Path, store: Store, files: dict[str, bytes]
    ) -> None:
        """A second upload of the same dataset finds everything there."""
        uploader.upload_dir(dataset)
        report = uploader.upload_dir(dataset)
        expect_same(arrived(store, files), files)
        if report is None:
            pytest.skip("it keeps no account")
        assert report.files == len(files)
        if has_upload_file(uploader) and not self.knows_sha256(uploader, dataset):
            pytest.skip("the store knows no sha256: every file is sent again")
        sent = (report.sent_files, report.sent_bytes)
        assert sent == (0, 0), "files that `stat` could see were sent again"

    def test_a_file_that_is_there_with_other_content_is_replaced(
        self, store: Store, uploader: BaseUploader, dataset: Path, files: dict[str, bytes]
    ) -> None:
        """Files of another size are replaced, and so are files of the same size."""
        uploader.upload_dir(dataset)
        store.write("shard_00001/data.mdb", files["shard_00001/data.mdb"][:-100])
        store.write("index.bin", bytes(len(files["index.bin"])))
        uploader.upload_dir(dataset)
        expect_same(arrived(store, files), files)

    def test_another_dataset_replaces_the_first(
        self, store: Store, uploader: BaseUploader, dataset: Path, tmp_path: Path
    ) -> None:
        """It is replaced file by file, its metadata last."""
        uploader.upload_dir(dataset)
        write_dataset(tmp_path / "other", seed=1)
        uploader.upload_dir(tmp_path / "other")
        other = files_in(tmp_path / "other")
        expect_same(arrived(store, other), other)

    def test_a_folder_without_a_dataset_is_refused(
        self, store: Store, uploader: BaseUploader, dataset: Path, files: dict[str, bytes]
    ) -> None:
        """Nothing is sent of an interrupted conversion, for example."""
        (dataset / METADATA).unlink()
        with pytest.raises(DatasetNotFoundError):
            uploader.upload_dir(dataset)
        expect_same(arrived(store, files), {})

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
        expect_same(arrived(store, files), {})

    def test_an_upload_leaves_no_descriptor_and_no_thread_behind(
        self, store: Store, dataset: Path, tmp_path: Path
    ) -> None:
        """Shut pools of clients down, or let them close with the uploader."""
        self.make_uploader(store, store.endpoint).upload_dir(dataset)
        write_dataset(tmp_path / "other", seed=1)
        held = Held()
        self.make_uploader(store, store.endpoint).upload_dir(tmp_path / "other")
        assert held.is_given_back(), held

    def test_a_url_leads_to_the_same_place(
        self, store: Store, dataset: Path, files: dict[str, bytes]
    ) -> None:
        """The scheme is registered, and `from_url` understands it and passes options on."""
        url = self.url_of(store, store.endpoint)
        if url is None:
            pytest.skip("it has no URL")
        from audiomdb.registry import uploader_for

        uploader = uploader_for(url)
        uploader.upload_dir(dataset)
        expect_same(arrived(store, files), files)
        if has_upload_file(uploader):
            assert uploader_for(url, workers=3).workers == 3, "from_url drops options"


class NetworkTests(UploaderTests):
    """Tests in which the network fails."""

    def test_making_an_uploader_asks_for_nothing(self, store: Store, proxy: FaultProxy) -> None:
        """Programs make uploaders before they know whether the conversion succeeds."""
        self.make_uploader(store, self.endpoint_of(store, proxy))
        assert proxy.stats.connections == 0, "the constructor connects to the store"

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
        expect_no_metadata(store)
        if has_upload_file(uploader):
            parts = arrived(store, files)
            halves = [name for name, part in parts.items() if part not in (None, files[name])]
            assert halves == [], "upload_file puts a file into its place before it is whole"
        proxy.heal()
        there = [name for name in files if self.is_there(uploader, store, dataset, name)]
        report = uploader.upload_dir(dataset)
        expect_same(arrived(store, files), files)
        if report is not None:
            most = len(files) - len(there)
            assert report.sent_files <= most, "files that had arrived were sent again"

    def test_an_uploader_for_a_store_that_cannot_be_reached_raises(
        self, store: Store, proxy: FaultProxy, dataset: Path, files: dict[str, bytes]
    ) -> None:
        """Raise `UploadError`; name the destination, and say what to do about it."""
        proxy.fail("refuse")
        uploader = self.make_uploader(store, self.endpoint_of(store, proxy))
        with pytest.raises(self.network_error) as caught:
            uploader.upload_dir(dataset)
        expect_no_metadata(store)
        if isinstance(caught.value, AudioMDBError):
            places = [*files, *(uploader.destination(path) for path in ["", *files])]
            places.append(":".join(map(str, proxy.address)))
            named = [place for place in places if place in str(caught.value)]
            assert named, f"the error names no file and no place: {caught.value}"

    @pytest.mark.usefixtures("http")
    @pytest.mark.parametrize("status", [403, 507])
    def test_a_store_that_takes_nothing_is_an_error(
        self,
        store: Store,
        proxy: FaultProxy,
        dataset: Path,
        files: dict[str, bytes],
        status: int,
    ) -> None:
        """Look at the status of every response: a refusal or a full disk raises no exception."""
        uploader = self.make_uploader(store, self.endpoint_of(store, proxy))
        proxy.fail("status", status=status)
        with pytest.raises(self.network_error):
            uploader.upload_dir(dataset)
        expect_no_metadata(store)
        proxy.heal()
        uploader.upload_dir(dataset)
        expect_same(arrived(store, files), files)

    def test_a_store_that_goes_silent_is_given_up(
        self, store: Store, proxy: FaultProxy, dataset: Path
    ) -> None:
        """Give the client a timeout, and the uploader an argument for it."""
        if not self.gives_up_on_stalls:
            pytest.skip("it waits for ever, or for too long to be tested")
        uploader = self.make_uploader(store, self.endpoint_of(store, proxy))
        proxy.fail("stall")
        with pytest.raises(self.network_error):
            uploader.upload_dir(dataset)
        expect_no_metadata(store)
