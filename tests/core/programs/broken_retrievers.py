# ruff: noqa: ARG002, ARG003, N801, RUF012
"""Retrievers that break what is expected of them, each in one way, under the kit.

The attribute `found_by` of a class names the test that has to fail.
"""

from __future__ import annotations

import socket
import time
import uuid
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from audiomdb.registry import RETRIEVERS
from audiomdb.retrievers.base import RemoteFile
from audiomdb.testing import MemoryRetriever, MemoryServer, MemoryStore, RetrieverConformance


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


class TestRemembersThePathForAllThreads(Retrievers):
    found_by = "test_threads_that_fetch_many_shards_at_once_get_the_right_ones"

    class kind(MemoryRetriever):
        def open_remote(self, path, **request):
            self.path = path
            time.sleep(0.002)  # as long as a connection takes
            return super().open_remote(self.path, **request)


class TestMisnamesShardsFromTheTenthOn(Retrievers):
    found_by = "test_threads_that_fetch_many_shards_at_once_get_the_right_ones"

    class kind(MemoryRetriever):
        def open_remote(self, path, **request):
            return super().open_remote(path.replace("shard_0001", "shard_00001"), **request)


class TestDropsACacheOption(Retrievers):
    found_by = "test_each_option_of_the_cache_reaches_it"

    class kind(MemoryRetriever):
        def __init__(self, url, *, workers=4, **options):
            super().__init__(url, **options)


class TestWaitsForEver(Retrievers):
    found_by = "test_a_connection_that_goes_silent_is_given_up"
    longest_test_s = 2.0

    class kind(MemoryRetriever):
        def __init__(self, url, *, timeout_s, **options):
            super().__init__(url, timeout_s=None, **options)


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
