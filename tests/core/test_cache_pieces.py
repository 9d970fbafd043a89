"""A large shard comes over several connections at once."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import audiomdb.cache.retry
import audiomdb.cache.transfer
from audiomdb.cache import RemoteFile
from audiomdb.cache.answers import CheckedOpen
from audiomdb.cache.counters import Counters
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import Held, try_exclusive
from audiomdb.cache.part_file import Delivered, Part, PartFile
from audiomdb.cache.slots import Slots
from audiomdb.cache.spans import DONE_BYTES
from audiomdb.cache.transfer import RangeTransfer, TransferContext
from audiomdb.errors import DownloadError, DownloadInterruptedError
from audiomdb.shards import ShardEntry
from audiomdb.threads import Stopped
from tests.core.caches import Opener, write_store

CHUNK = 1000
PIECE = 10 * CHUNK
OLD, NEW = (random.Random(seed).randbytes(20 * PIECE + 123) for seed in (1, 2))


def entry_of(content: bytes) -> ShardEntry:
    return ShardEntry(
        path="shard_00000",
        samples=1,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        duration=0.0,
        first_key="",
        last_key="",
        index_offset=0,
        index_bytes=0,
    )


class Store:
    """Answers as a good store does; `meet` may interfere before each chunk."""

    def __init__(self, content: bytes = NEW) -> None:
        self.content = content
        self.version: str | None = "v1"
        self.ranges = True
        self.meet: Callable[[int], None] = lambda _: None
        self.asked: list[tuple[int, int | None, str | None]] = []
        self.sent = 0
        self._lock = threading.Lock()

    def __call__(
        self, path: str, *, start: int = 0, stop: int | None = None, validator: str | None = None
    ) -> RemoteFile:
        assert path == "shard_00000/data.mdb"
        with self._lock:
            self.asked.append((start, stop, validator))
            content, version = self.content, self.version
        if not self.ranges or validator not in (None, version) or (start and validator is None):
            start, stop = 0, None
        return RemoteFile(self._chunks(content, start, stop), start, version, len(content))

    def _chunks(self, content: bytes, start: int, stop: int | None) -> Iterator[bytes]:
        end = len(content) if stop is None else stop
        for at in range(start, end, CHUNK):
            self.meet(at)
            chunk = content[at : min(at + CHUNK, end)]
            with self._lock:
                self.sent += len(chunk)
            yield chunk


class Node:
    """A part in a folder, and slots."""

    def __init__(self, folder: Path, slots: int = 3) -> None:
        self.layout = CacheLayout(folder)
        self.layout.make()
        self.folder = self.layout.parts
        self.slots = Slots(self.layout.slots, slots)
        self.counters = Counters()
        self.full: Callable[[int], bool] = lambda _: False

    def fetch(
        self, store: Store, entry: ShardEntry, check: Callable[[], None] = lambda: None
    ) -> Delivered:
        held = try_exclusive(self.folder / "part", create=True, write=True)
        assert held is not None
        transfer = RangeTransfer(CheckedOpen(store), self.layout, self.counters)
        context = TransferContext(check, self.full, self.slots.extra(ahead=False))
        slot = self.slots.take(ahead=False)
        assert slot is not None
        with slot:
            try:
                return transfer(Part(0, "part", self.folder / "part", held), entry, context)
            finally:
                held.release()

    def assert_whole(self, delivered: Delivered, content: bytes) -> None:
        assert (self.folder / "part").read_bytes() == content
        assert delivered.size == len(content)
        assert delivered.sha256 == hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(audiomdb.cache.transfer, "_LEAST_PIECE", PIECE)
    monkeypatch.setattr(audiomdb.cache.retry, "FIRST_WAIT_S", 1e-6)
    yield
    join_extra_connections()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_large_file_comes_over_as_many_connections_as_there_are_slots(node: Node) -> None:
    store = Store()
    together = threading.Barrier(3)
    met = threading.local()

    def meet(_: int) -> None:
        if not hasattr(met, "done"):
            met.done = True
            together.wait(300)

    store.meet = meet
    node.assert_whole(node.fetch(store, entry_of(NEW)), NEW)
    assert store.sent == node.counters.stats.fetched_bytes == len(NEW)
    assert store.asked[0][0] == 0
    assert store.asked[0][2] is None
    assert {validator for _, _, validator in store.asked[1:]} == {"v1"}
    join_extra_connections()
    assert all(node.slots.take(ahead=False) is not None for _ in range(3))


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_pieces_arrive_with_any_number_of_slots(slots: int, tmp_path: Path) -> None:
    node, store = Node(tmp_path, slots), Store()
    node.assert_whole(node.fetch(store, entry_of(NEW)), NEW)
    assert store.sent == len(NEW)
    assert (len(store.asked) == 1) == (slots == 1)


def test_a_small_file_comes_over_one_connection(node: Node) -> None:
    store = Store(NEW[: 2 * PIECE - 1])
    node.assert_whole(node.fetch(store, entry_of(store.content)), store.content)
    assert store.asked == [(0, None, None)]


def test_pieces_of_a_file_without_a_version_are_never_put_together(node: Node) -> None:
    store = Store()
    store.version = None
    node.assert_whole(node.fetch(store, entry_of(NEW)), NEW)
    assert [(start, stop is None) for start, stop, _ in store.asked] == [(0, False), (0, True)]
    assert store.sent == len(NEW)


def test_a_store_that_ignores_ranges_is_read_over_one_connection(node: Node) -> None:
    store = Store()
    store.ranges = False
    node.assert_whole(node.fetch(store, entry_of(NEW)), NEW)


@pytest.mark.parametrize("seed", range(6))
def test_pieces_of_two_versions_are_never_put_together(seed: int, node: Node) -> None:
    store = Store(OLD)
    at = random.Random(seed).randrange(1, len(OLD) // CHUNK)
    chunks = [0]

    def meet(_: int) -> None:
        chunks[0] += 1
        if chunks[0] >= at:
            store.content, store.version = NEW, "v2"

    store.meet = meet
    delivered = node.fetch(store, entry_of(NEW))
    if delivered.sha256 != entry_of(NEW).sha256:
        # All requests were answered before the change.
        node.assert_whole(delivered, OLD)
    else:
        node.assert_whole(delivered, NEW)


@pytest.mark.parametrize("seed", range(10))
def test_connections_that_break_anywhere_bring_each_byte_once(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    node, store = Node(tmp_path, rng.randrange(1, 5)), Store()
    breaks = {rng.randrange(0, len(NEW), CHUNK) for _ in range(6)}

    def meet(at: int) -> None:
        if at in breaks:
            breaks.discard(at)
            raise rng.choice([ConnectionResetError, TimeoutError, DownloadInterruptedError])("cut")

    store.meet = meet
    node.assert_whole(node.fetch(store, entry_of(NEW)), NEW)
    assert store.sent == node.counters.stats.fetched_bytes == len(NEW)


@pytest.mark.parametrize("seed", range(10))
def test_bytes_of_a_stopped_transfer_are_not_fetched_again(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    store = Store()
    for _ in range(rng.randrange(1, 4)):
        node = Node(tmp_path, rng.randrange(1, 5))
        stop_at = store.sent + rng.randrange(len(NEW) // 2)

        def check(limit: int = stop_at) -> None:
            if store.sent > limit:
                raise Stopped

        with suppress(Stopped):
            node.fetch(store, entry_of(NEW), check)
        join_extra_connections()
    node = Node(tmp_path, rng.randrange(1, 5))
    node.assert_whole(node.fetch(store, entry_of(NEW)), NEW)
    # Each time, chunks were on their way on each connection.
    assert len(NEW) <= store.sent <= len(NEW) + 3 * 2 * 4 * CHUNK


@pytest.mark.parametrize("damage", ["spans", "part", "longer", "validator"])
def test_a_part_that_contradicts_its_notes_is_never_trusted(damage: str, node: Node) -> None:
    store = Store()

    def check() -> None:
        if store.sent > len(NEW) // 2:
            raise Stopped

    with pytest.raises(Stopped):
        node.fetch(store, entry_of(NEW), check)
    part, spans = node.folder / "part", node.folder / "part.spans"
    if damage == "spans":
        spans.write_bytes(spans.read_bytes()[:-3])
    elif damage == "part":
        os.truncate(part, CHUNK)
    elif damage == "longer":
        os.truncate(part, len(NEW) + 1)
    else:
        (node.folder / "part.validator").write_bytes(b"\xff\x00\n")
    node.assert_whole(node.fetch(store, entry_of(NEW)), NEW)


def test_a_part_whose_notes_were_deleted_is_found_damaged(node: Node) -> None:
    store = Store()
    beyond, main = threading.Event(), threading.get_ident()

    def meet(at: int) -> None:
        if threading.get_ident() != main:
            if at % PIECE:  # the chunk before this one is written
                beyond.set()
        elif at:
            assert beyond.wait(300)

    def check() -> None:
        if beyond.is_set() and threading.get_ident() == main:
            raise Stopped

    store.meet = meet
    with pytest.raises(Stopped):
        node.fetch(store, entry_of(NEW), check)
    assert store.sent < len(NEW)
    (node.folder / "part.spans").unlink()  # now all up to the part's end seems to be there
    delivered = node.fetch(store, entry_of(NEW))
    content = (node.folder / "part").read_bytes()
    assert delivered.sha256 == hashlib.sha256(content).hexdigest()
    assert content != NEW


def join_extra_connections() -> None:
    for thread in threading.enumerate():
        if thread.name == "audiomdb-stream-of-a-shard":
            thread.join(300)
            assert not thread.is_alive()


def test_an_extra_connection_ends_when_somebody_lacks_a_slot(node: Node) -> None:
    store = Store()
    together, main = threading.Barrier(3), threading.get_ident()
    met = threading.local()
    held: list[Held | None] = []
    lacks = threading.Event()

    def meet(_: int) -> None:
        if hasattr(met, "done"):
            return
        met.done = True
        together.wait(300)
        if threading.get_ident() != main:
            assert lacks.wait(300)
        else:
            assert node.slots.take(ahead=False) is None
            held.append(node.slots.lacking(ahead=False))
            lacks.set()
            join_extra_connections()
            held.append(node.slots.take(ahead=False))

    store.meet = meet
    node.assert_whole(node.fetch(store, entry_of(NEW)), NEW)
    assert len(store.asked) == 6  # the first connection has gone on alone, piece by piece
    for one in held:
        assert one is not None
        one.release()


def test_prefetching_yields_to_all_transfers_and_demand_to_demand(node: Node) -> None:
    sign = node.slots.lacking(ahead=True)
    assert sign is not None
    assert node.slots.extra(ahead=True).must_yield()
    assert not node.slots.extra(ahead=False).must_yield()
    assert node.slots.lacking(ahead=True) is None, "one sign is enough"
    sign.release()
    assert not node.slots.extra(ahead=True).must_yield()
    sign = node.slots.lacking(ahead=False)
    assert sign is not None
    assert node.slots.extra(ahead=True).must_yield()
    assert node.slots.extra(ahead=False).must_yield()
    sign.release()


def test_after_the_end_of_a_transfer_nothing_is_written_any_more(node: Node) -> None:
    store = Store()
    stuck, go_on = threading.Event(), threading.Event()
    main = threading.get_ident()

    def meet(at: int) -> None:
        if threading.get_ident() == main:
            assert not at or stuck.wait(300)
        elif not stuck.is_set():
            stuck.set()
            go_on.wait(300)

    def check() -> None:
        if stuck.is_set():
            raise Stopped

    store.meet = meet
    with pytest.raises(Stopped):
        node.fetch(store, entry_of(NEW), check)
    (node.folder / "part").write_bytes(OLD)
    go_on.set()
    join_extra_connections()
    assert (node.folder / "part").read_bytes() == OLD


def test_a_permanent_error_is_raised_when_the_main_connection_meets_it(
    node: Node,
) -> None:
    store = Store()

    def meet(at: int) -> None:
        if at >= 10 * PIECE:
            raise DownloadError("403")

    store.meet = meet
    with pytest.raises(DownloadError, match="403"):
        node.fetch(store, entry_of(NEW))


@pytest.mark.parametrize("what", ["content", "progress", "first list", "later list"])
def test_a_full_disk_on_any_connection_evicts_and_continues(
    node: Node, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    write, full, lists = os.pwrite, [True] * 5, 0
    store = Store()
    if what == "later list":
        store.version = None  # so that the pieces are given up

    def failing(fd: int, data: Any, at: int) -> int:
        nonlocal lists
        if len(data) == DONE_BYTES:
            written = "progress"
        elif at == 0 and len(data) < CHUNK:
            written = "later list" if lists else "first list"
        else:
            written = "content" if at > PIECE else "first piece"
        if full and written == what:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        lists += written == "first list"
        return write(fd, data, at)

    monkeypatch.setattr(os, "pwrite", failing)
    node.full = lambda _: bool(full.pop()) if full else True
    node.assert_whole(node.fetch(store, entry_of(NEW)), NEW)
    assert not full


def test_a_restart_while_another_stream_ends_keeps_the_digest_right(
    tmp_path: Path,
) -> None:
    descriptor = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    part = PartFile(descriptor, len(NEW), validator=tmp_path / "v", spans=tmp_path / "s")

    class Digest:
        """In its first update, the other stream hashes what it takes for its own bytes."""

        def __init__(self) -> None:
            self.real = hashlib.sha256()
            self.met = False

        def update(self, data: bytes) -> None:
            if not self.met:
                self.met = True
                part.hash_on(wait=False)
            self.real.update(data)

        def hexdigest(self) -> str:
            return self.real.hexdigest()

    with part:
        part.cut(PIECE)
        span = part.restart()
        part._digest = Digest()  # type: ignore[assignment]
        part.write(span, NEW)
        assert part.sha256() == hashlib.sha256(NEW).hexdigest()
    os.close(descriptor)


def test_a_part_that_became_a_shard_leaves_no_files(tmp_path: Path) -> None:
    opener = Opener(write_store(tmp_path / "store", 1, 20 * PIECE), tmp_path)
    try:
        cache = opener(workers=4)
        assert cache.lease(0) == opener.content(0)
        assert len(opener.sent()) > 3
        assert list((opener.directory / "parts").iterdir()) == []
    finally:
        opener.close()


def test_interrupting_one_stream_leaves_no_other_stream_waiting(tmp_path: Path) -> None:
    """It is raised after each call of C, as it is if a signal arrives during the call.

    Not after what a `with` statement calls, see programs/interrupted_everywhere.py.
    """

    def was_interrupted(part: PartFile, at: int) -> bool:
        seen = 0

        def profile(frame: FrameType, event: str, called: object) -> None:
            nonlocal seen
            if getattr(called, "__name__", "") == "__enter__" != frame.f_code.co_name:
                return
            if event == "c_return":
                seen += 1
                if seen == at:
                    raise KeyboardInterrupt

        sys.setprofile(profile)
        try:
            part.unclaimed()
        except KeyboardInterrupt:
            return True
        finally:
            sys.setprofile(None)
        return False

    descriptor = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    at = 1
    while True:
        part = PartFile(descriptor, 10, validator=tmp_path / "v", spans=tmp_path / "s")
        interrupted = was_interrupted(part, at)
        other = threading.Thread(target=part.unclaimed, daemon=True)
        other.start()
        other.join(60)
        assert not other.is_alive()
        if not interrupted:
            break
        at += 1
    os.close(descriptor)
    assert at > 1
