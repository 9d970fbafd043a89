# ruff: noqa: ARG002, ARG003, N801, RUF012, SIM115
"""Backends that break what is expected of them, each in one way, under the kits.

The attribute `found_by` of a class names the test that has to fail.
"""

from __future__ import annotations

import contextlib
import random
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.converters.base import BaseConverter
from audiomdb.processors.base import BaseProcessor
from audiomdb.registry import RETRIEVERS
from audiomdb.retrievers.base import RemoteFile
from audiomdb.testing import (
    ConverterConformance,
    FolderStore,
    MemoryRetriever,
    MemoryServer,
    MemoryStore,
    MemoryUploader,
    ProcessorConformance,
    RetrieverConformance,
    UploaderConformance,
)
from audiomdb.uploaders.base import BaseUploader


@pytest.fixture(scope="module")
def server():
    with MemoryServer() as server:
        yield server


class Retrievers(RetrieverConformance):
    kind: Any

    @pytest.fixture
    def store(self, server):
        return MemoryStore(server, uuid.uuid4().hex)

    def make_retriever(self, store, endpoint, **options):
        return self.kind(f"{endpoint}/{store.name}", timeout_s=2.0, **options)


class TestSplices(Retrievers):
    found_by = "test_a_file_that_changes_on_the_way_is_never_spliced"

    class kind(MemoryRetriever):
        def open_remote(self, path, *, start=0, validator=None):
            if not start:
                return super().open_remote(path)
            answer = self._get(path, {"Range": f"bytes={start}-"})
            return RemoteFile(answer, start, validator)


class TestStartsAnew(Retrievers):
    found_by = "test_a_broken_download_goes_on_where_it_stopped"

    class kind(MemoryRetriever):
        def open_remote(self, path, *, start=0, validator=None):
            return super().open_remote(path)


class TestConnectsWhenMade(Retrievers):
    found_by = "test_making_a_retriever_asks_for_nothing"

    class kind(MemoryRetriever):
        def __init__(self, url, **options):
            super().__init__(url, **options)
            super()._get("metadata.json", {}).close()

    @pytest.fixture
    def store(self, server):
        store = MemoryStore(server, uuid.uuid4().hex)
        store.write("metadata.json", b"{}")
        return store


class TestKeepsConnections(Retrievers):
    found_by = "test_closing_leaves_no_descriptor_and_no_thread_behind"

    class kind(MemoryRetriever):
        kept: Any = []

        def open_remote(self, path, **request):
            self.kept.append(socket.socket())
            return super().open_remote(path, **request)


class TestRaisesTheClientsErrors(Retrievers):
    found_by = "test_a_dataset_that_is_not_there_is_an_error_of_its_own"

    class kind(MemoryRetriever):
        def open_remote(self, path, **request):
            try:
                return super().open_remote(path, **request)
            except FileNotFoundError as exc:
                raise LookupError(path) from exc


class TestNeverTriesAgain(Retrievers):
    found_by = "test_a_connection_that_breaks_does_not_reach_the_reader"

    class kind(MemoryRetriever):
        def open_remote(self, path, **request):
            remote = super().open_remote(path, **request)
            return RemoteFile(self.all_of(remote), remote.start, remote.validator, remote.size)

        def all_of(self, remote):
            try:
                yield from remote.chunks
            except ConnectionError as exc:
                raise RuntimeError("gave up") from exc


class InPieces(MemoryRetriever):
    """Takes `stop`, as it has to be."""

    def open_remote(self, path, *, start=0, stop=None, validator=None):
        remote = super().open_remote(path, start=start, validator=validator)
        content = b"".join(remote.chunks)
        piece = content if stop is None else content[: self.length(stop - remote.start)]
        return RemoteFile([piece], remote.start, remote.validator, self.size(piece, remote.size))

    def length(self, asked):
        return asked

    def size(self, piece, whole):
        return whole


class TestIsOneByteShort(Retrievers):
    found_by = "test_a_piece_is_the_bytes_that_were_asked_for"

    class kind(InPieces):
        def length(self, asked):
            return asked - 1


class TestGivesThePiecesSize(Retrievers):
    found_by = "test_a_piece_is_the_bytes_that_were_asked_for"

    class kind(InPieces):
        def size(self, piece, whole):
            return len(piece)


class TestGivesNewBytesTheOldName(Retrievers):
    found_by = "test_an_answer_names_the_version_that_its_bytes_are_of"

    class kind(MemoryRetriever):
        def open_remote(self, path, *, start=0, validator=None):
            answer = super().open_remote(path, start=start)
            return RemoteFile(answer.chunks, answer.start, validator or answer.validator)


class TestForgetsOptionsOfAURL(Retrievers):
    found_by = "test_a_url_leads_to_the_same_dataset"
    kind = MemoryRetriever

    def url_of(self, store, endpoint):
        return f"forgetful://{endpoint.removeprefix('http://')}/{store.name}"

    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch):
        point = EntryPoint("forgetful", f"{__name__}:Forgetful", RETRIEVERS)
        monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: EntryPoints([point]))


class Forgetful(MemoryRetriever):
    @classmethod
    def from_url(cls, url, *, cache_dir, **options):  # takes max_cache_bytes, and drops it
        return cls(f"http://{url.removeprefix('forgetful://')}", cache_dir=cache_dir)


class TestLeavesATestOut(Retrievers):
    found_by = "test_no_test_is_left_out_without_a_reason"
    kind = MemoryRetriever

    def test_it_pickles_as_its_arguments(self):
        pass


class Uploaders(UploaderConformance):
    kind: Any

    @pytest.fixture
    def store(self, server):
        return MemoryStore(server, uuid.uuid4().hex)

    def make_uploader(self, store, endpoint):
        return self.kind(f"{endpoint}/{store.name}", timeout_s=2.0)


class TestSendsMetadataFirst(Uploaders):
    found_by = "test_an_upload_that_breaks_off_leaves_no_metadata_and_is_taken_up_again"

    class kind(MemoryUploader):
        def upload_dir(self, local_dir):
            for full_path, rel_path in reversed(list(self.iter_files(local_dir))):
                self.upload_file(full_path, rel_path)


class TestWritesInPlace(Uploaders):
    found_by = "test_an_upload_that_breaks_off_leaves_no_metadata_and_is_taken_up_again"

    class kind(MemoryUploader):
        def upload_file(self, full_path, rel_path):
            content = Path(full_path).read_bytes()
            if len(content) > 1000:
                half = Path(full_path).with_suffix(".half")
                half.write_bytes(content[: len(content) // 2])
                super().upload_file(str(half), rel_path)
            super().upload_file(full_path, rel_path)


class CopiesToAFolder(UploaderConformance):
    """As the guide writes one: the short level, and no network."""

    kind: Any

    @pytest.fixture
    def store(self, tmp_path):
        return FolderStore(tmp_path / "store")

    def make_uploader(self, store, endpoint):
        return self.kind(store)


class Copying(BaseUploader):
    def __init__(self, store):
        self.store = store

    def copy(self, full_path, rel_path):
        self.store.write(rel_path, Path(full_path).read_bytes())


class TestCopiesMetadataFirst(CopiesToAFolder):
    found_by = "test_a_file_that_cannot_be_sent_raises_and_leaves_no_metadata"

    class kind(Copying):
        def upload_dir(self, local_dir):
            for file in sorted(self.iter_files(local_dir)):  # metadata.json, shard_00000/...
                self.copy(*file)


class TestLooksAtNoFuture(CopiesToAFolder):
    found_by = "test_a_file_that_cannot_be_sent_raises_and_leaves_no_metadata"

    class kind(Copying):
        def upload_dir(self, local_dir):
            with ThreadPoolExecutor(4) as pool:
                for file in self.iter_files(local_dir):
                    pool.submit(self.copy, *file)


class TestLooksAtTheFuturesTooLate(CopiesToAFolder):
    found_by = "test_a_file_that_cannot_be_sent_raises_and_leaves_no_metadata"

    class kind(Copying):
        def upload_dir(self, local_dir):
            with ThreadPoolExecutor(4) as pool:
                works = [pool.submit(self.copy, *file) for file in self.iter_files(local_dir)]
            for work in works:
                work.result()


class TestGoesOnAfterAnError(CopiesToAFolder):
    found_by = "test_a_file_that_cannot_be_sent_raises_and_leaves_no_metadata"

    class kind(Copying):
        def upload_dir(self, local_dir):
            for file in self.iter_files(local_dir):
                with contextlib.suppress(OSError):
                    self.copy(*file)


class TestSeesWhatIsNotThere(Uploaders):
    found_by = "test_stat_says_what_is_there"

    class kind(MemoryUploader):
        def stat(self, rel_path):
            return super().stat(rel_path) or (0, None)


class TestSendsWhatLiesAround(Uploaders):
    found_by = "test_what_is_not_the_datasets_stays_here"

    class kind(MemoryUploader):
        def upload_dir(self, local_dir):
            for path in sorted(Path(local_dir).rglob("*")):
                if path.is_file():
                    self.upload_file(str(path), path.relative_to(local_dir).as_posix())


class TestForgetsWhatIsThere(Uploaders):
    found_by = "test_nothing_is_sent_twice"

    class kind(MemoryUploader):
        def upload_dir(self, local_dir):
            self.known = set()
            return super().upload_dir(local_dir)

        def upload_file(self, full_path, rel_path):
            super().upload_file(full_path, rel_path)
            self.known.add(rel_path)

        def stat(self, rel_path):
            return super().stat(rel_path) if rel_path in self.known else None


class Numbers(BaseConverter):
    def __init__(self, output_dir, **options):
        super().__init__(output_dir, **options)

    def sample_iterator(self):
        for number in range(6):
            yield f"n-{number}", {"n": number}


class Converters(ConverterConformance):
    kind: Any

    def make_converter(self, output_dir, **options):
        return self.kind(output_dir, **options)


class TestChangesItsOrder(Converters):
    found_by = "test_the_source_yields_the_same_order_each_time"

    class kind(Numbers):
        def sample_iterator(self):
            pairs = list(super().sample_iterator())
            random.SystemRandom().shuffle(pairs)
            return [*pairs, (uuid.uuid4().hex, {})]


class TestYieldsASet(Converters):
    found_by = "test_the_order_is_the_same_in_another_process"

    class kind(Numbers):
        def sample_iterator(self):
            pairs = dict(super().sample_iterator())
            return ((key, pairs[key]) for key in set(pairs))


class TestYieldsOnce(Converters):
    found_by = "test_a_finished_conversion_is_not_done_again"

    class kind(Numbers):
        def sample_iterator(self):
            if not hasattr(self, "pairs"):
                self.pairs = super().sample_iterator()
            return self.pairs


class TestKeepsOptionsToItself(Converters):
    found_by = "test_options_reach_the_base"

    class kind(Numbers):
        def __init__(self, output_dir, **options):
            super().__init__(output_dir)


class TestDropsAnOption(Converters):
    found_by = "test_each_option_of_the_base_reaches_it"

    class kind(Numbers):
        def __init__(self, output_dir, *, on_error="raise", **options):
            super().__init__(output_dir, **options)


class TestHoldsItsFiles(Converters):
    found_by = "test_a_source_that_is_left_early_lets_go_of_what_it_holds"

    class kind(Numbers):
        files: Any = []

        def sample_iterator(self):
            self.files.append(Path("/dev/null").open())
            yield from super().sample_iterator()


class Processors(ProcessorConformance):
    kind: Any

    def make_processor(self, keep_original):
        return self.kind(keep_original)


class TestChangesTheSample(Processors):
    found_by = "test_it_leaves_the_sample_as_it_is"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            audio = sample["audio"]
            if isinstance(audio, np.ndarray):
                audio *= 0.5
            return {"n": 1}


class TestRemembers(Processors):
    found_by = "test_the_result_depends_on_the_sample_alone"

    class kind(BaseProcessor):
        calls = 0

        def process(self, sample, **_kwargs):
            self.calls += 1
            return {"calls": self.calls}


class TestGivesTheSameMemoryTwice(Processors):
    found_by = "test_the_result_depends_on_the_sample_alone"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            shared = self.__dict__.setdefault("_shared", np.zeros(4, np.float32))
            shared[:] = self.load_array(sample["audio"], 16_000)[:4]
            return {"start": shared}


class TestHashesTexts(Processors):
    found_by = "test_another_process_makes_the_same_of_a_sample"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            return {"label": hash(sample["text"]) % 1000}


class TestHasNoLastingName(Processors):
    found_by = "test_its_name_is_the_same_in_every_process"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            return {"n": 1}

        def __repr__(self):
            return object.__repr__(self)


class TestReturnsWhatCannotBeStored(Processors):
    found_by = "test_it_makes_fields_that_can_be_stored"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            return {"words": set(sample["text"].split())}


class TestLeavesArraysAsTheyAre(Processors):
    found_by = "test_audio_may_be_encoded_or_an_array"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            audio = sample["audio"]
            if not isinstance(audio, np.ndarray):
                audio = 0.5 * self.load_array(audio, 16_000)
            return {"audio": audio, "sample_rate": 16_000}
