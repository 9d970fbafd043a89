from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import audiomdb.cache.retry
from audiomdb.cache import RemoteFile
from audiomdb.cache.answers import CheckedOpen
from audiomdb.cache.counters import Counters
from audiomdb.cache.failures import Outage
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import try_exclusive
from audiomdb.cache.part_file import Delivered, Part
from audiomdb.cache.retry import Retries
from audiomdb.cache.slots import Slots
from audiomdb.cache.transfer import RangeTransfer, TransferContext
from audiomdb.cache.waiting import how_far
from audiomdb.errors import CacheFullError, DownloadError, DownloadInterruptedError
from audiomdb.shards import ShardEntry
from audiomdb.threads import Stopped

pytestmark = pytest.mark.usefixtures("short_waits")

CONTENT = bytes(range(256)) * 2000
ENTRY = ShardEntry(
    path="shard_00000",
    samples=1,
    bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    duration=0.0,
    first_key="",
    last_key="",
    index_offset=0,
    index_bytes=0,
)
Answer = Callable[[int, str | None], RemoteFile]


class Store:
    """Answers requests with what a list of functions says; the last one answers all others."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[int, str | None]] = []

    def __call__(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        assert path == "shard_00000/data.mdb"
        self.asked.append((start, validator))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(start, validator)


def whole(start: int, _validator: str | None) -> RemoteFile:
    return RemoteFile([CONTENT[start:]], start, "v1", len(CONTENT))


def cut(sent: int) -> Answer:
    def answer(start: int, _validator: str | None) -> RemoteFile:
        def chunks() -> Iterator[bytes]:
            yield CONTENT[start : start + sent]
            raise DownloadInterruptedError("cut")

        return RemoteFile(chunks(), start, "v1")

    return answer


def refuse(error: Exception) -> Answer:
    def answer(_start: int, _validator: str | None) -> RemoteFile:
        raise error

    return answer


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., Delivered]:
    parts: list[Part] = []
    layout = CacheLayout(tmp_path)
    layout.make()

    def run(
        store: Store,
        *,
        make_room: Callable[[int], bool] = lambda _: False,
        check: Callable[[], None] = lambda: None,
        counters: Counters | None = None,
    ) -> Delivered:
        path = layout.parts / "part"
        held = try_exclusive(path, create=True, write=True)
        assert held is not None
        parts.append(Part(0, "part", path, held))
        transfer = RangeTransfer(CheckedOpen(store), layout, counters or Counters())
        context = TransferContext(check, make_room, Slots(tmp_path, 1).extra(ahead=False))
        try:
            return transfer(parts[-1], ENTRY, context)
        finally:
            held.release()

    return run


def is_whole(delivered: Delivered) -> bool:
    assert delivered.path.read_bytes() == CONTENT
    return (delivered.size, delivered.sha256) == (ENTRY.bytes, ENTRY.sha256)


def test_a_cut_transfer_goes_on_where_it_broke_off(fetch) -> None:
    store, counters = Store(cut(100_000)), Counters()
    assert is_whole(fetch(store, counters=counters))
    assert store.asked == [(0, None)] + [(100_000 * i, "v1") for i in range(1, 6)]
    assert counters.stats.fetched_bytes == len(CONTENT)
    assert counters.stats.retries == 5


def test_a_part_left_by_another_process_is_resumed(fetch, tmp_path: Path) -> None:
    (tmp_path / "parts" / "part").write_bytes(CONTENT[:1000])
    (tmp_path / "parts" / "part.validator").write_text("v1")
    store = Store(whole)
    assert is_whole(fetch(store))
    assert store.asked == [(1000, "v1")]


def test_a_store_that_ignores_ranges_is_read_from_the_start(fetch) -> None:
    store = Store(cut(100_000), lambda _start, _validator: RemoteFile([CONTENT], 0, "v1"))
    assert is_whole(fetch(store))


def test_a_changed_file_is_fetched_from_the_start(fetch, tmp_path: Path) -> None:
    (tmp_path / "parts" / "part").write_bytes(b"x" * 1000)
    (tmp_path / "parts" / "part.validator").write_text("v0")
    store = Store(lambda _start, _validator: RemoteFile([CONTENT], 0, "v1"))
    assert is_whole(fetch(store))
    assert store.asked == [(1000, "v0")]


def test_an_answer_from_another_offset_is_refused(fetch) -> None:
    store = Store(lambda _start, _validator: RemoteFile([CONTENT[5:]], 5), whole)
    assert is_whole(fetch(store))


def test_an_endless_answer_is_not_read_to_its_end(fetch) -> None:
    def endless(_start: int, _validator: str | None) -> RemoteFile:
        def chunks() -> Iterable[bytes]:
            while True:
                yield bytes(1 << 16)

        return RemoteFile(chunks())

    delivered = fetch(Store(endless))
    assert delivered.size == ENTRY.bytes
    assert delivered.sha256 != ENTRY.sha256


def test_a_file_of_another_size_is_not_fetched(fetch) -> None:
    delivered = fetch(Store(lambda _start, _validator: RemoteFile([b"short"], 0, None, 5)))
    assert delivered.size == 5


SHORT = CONTENT[:300_000]


@pytest.mark.parametrize("validator", ["same", "none", "new"])
@pytest.mark.parametrize("beyond_the_end", ["begins anew", "is empty"])
def test_a_file_that_ends_too_early_is_not_fetched_for_ever(
    fetch, validator: str, beyond_the_end: str
) -> None:
    versions = iter(range(1000))

    def answer(start: int, _validator: str | None) -> RemoteFile:
        named = {"same": "v1", "none": None, "new": f"v{next(versions)}"}[validator]
        if start >= len(SHORT) and beyond_the_end == "begins anew":
            start = 0
        return RemoteFile([SHORT[start:]] if start < len(SHORT) else [], start, named)

    store, counters = Store(answer), Counters()
    delivered = fetch(store, counters=counters)
    assert delivered.size == len(SHORT)
    assert delivered.sha256 == hashlib.sha256(SHORT).hexdigest()
    assert len(store.asked) <= 5
    assert counters.stats.fetched_bytes <= 5 * len(SHORT)


def test_answers_that_repeat_known_bytes_are_no_progress(fetch) -> None:
    lengths = iter([300_000, *range(299_000, 0, -1000)])
    # Begins anew each time and ends somewhere else, as if that were all.
    store = Store(lambda _start, _validator: RemoteFile([CONTENT[: next(lengths)]], 0, "v1"))
    with pytest.raises(DownloadInterruptedError, match="no further than one before it"):
        fetch(store)
    assert len(store.asked) == 1 + audiomdb.cache.retry._ATTEMPTS


def test_a_file_that_comes_in_portions_is_fetched_whole(fetch) -> None:
    counters = Counters()
    store = Store(lambda start, _validator: RemoteFile([CONTENT[start : start + 9000]], start, "1"))
    assert is_whole(fetch(store, counters=counters))
    assert len(store.asked) == -(-len(CONTENT) // 9000)
    assert counters.stats.retries == 0


def test_a_replaced_file_may_be_shorter_than_the_old_one(fetch) -> None:
    def old(start: int, _validator: str | None) -> RemoteFile:
        return RemoteFile([b"x" * 400_000], start, "v0")

    def portion(start: int, validator: str | None) -> RemoteFile:
        start = start if validator == "v1" else 0
        return RemoteFile([CONTENT[start : start + 1000]], start, "v1")

    assert is_whole(fetch(Store(old, portion)))


def test_attempts_that_bring_nothing_end_with_the_last_error(fetch) -> None:
    store = Store(refuse(DownloadInterruptedError("503 SlowDown")))
    with pytest.raises(DownloadInterruptedError, match="503 SlowDown"):
        fetch(store)
    assert len(store.asked) == audiomdb.cache.retry._ATTEMPTS


def test_a_trickle_counts_as_nothing(fetch) -> None:
    store = Store(cut(10))
    with pytest.raises(DownloadInterruptedError):
        fetch(store)


def test_a_permanent_error_is_raised_without_a_retry(fetch) -> None:
    store = Store(refuse(DownloadError("403")))
    with pytest.raises(DownloadError, match="403"):
        fetch(store)
    assert len(store.asked) == 1


def test_a_transfer_stops_when_told(fetch) -> None:
    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        fetch(Store(whole), check=stop)
    with pytest.raises(Stopped):
        fetch(Store(refuse(TimeoutError())), check=stop)


def test_a_full_disk_evicts_and_goes_on(fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    write, full = os.pwrite, [True, True]

    def failing(fd: int, data: bytes, at: int) -> int:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data, at)

    monkeypatch.setattr(os, "pwrite", failing)
    assert is_whole(fetch(Store(whole), make_room=lambda _: bool(full.pop()) or True))


def test_a_full_disk_with_nothing_to_evict_is_a_typed_error(
    fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_fd: int, _data: bytes, _at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(CacheFullError, match="max_cache_bytes"):
        fetch(Store(whole))


def test_waits_grow_at_random_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(audiomdb.cache.retry, "FIRST_WAIT_S", 0.5)
    monkeypatch.setattr(audiomdb.cache.retry, "_LONGEST_WAIT_S", 3.0)
    monkeypatch.setattr(audiomdb.cache.retry, "pause", lambda seconds, **_: waits.append(seconds))

    def fail() -> None:
        raise ConnectionResetError

    with pytest.raises(DownloadInterruptedError):
        Retries("it", counters=Counters(), check=lambda: None)(fail)
    for wait, most in zip(waits, [0.5, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0], strict=True):
        assert 0 <= wait <= most
    assert len(set(waits)) == 7


def test_the_last_error_says_what_was_tried() -> None:
    def fail() -> None:
        raise TimeoutError("no answer")

    with pytest.raises(
        DownloadInterruptedError,
        match=r"shard_7: no answer \(given up after 8 failed attempts in \d+\.\d s;",
    ) as caught:
        Retries("shard_7", counters=Counters(), check=lambda: None)(fail)
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_a_store_that_always_restarts_and_breaks_off_is_given_up(fetch) -> None:
    def anew(_start: int, _validator: str | None) -> RemoteFile:
        def chunks() -> Iterator[bytes]:
            yield CONTENT[:100_000]
            raise DownloadInterruptedError("cut")

        return RemoteFile(chunks(), 0, "v1")

    store = Store(anew)
    with pytest.raises(DownloadInterruptedError, match="after 21 failed attempts"):
        fetch(store)


def test_each_file_is_tried_once_while_the_store_is_known_to_be_down(tmp_path: Path) -> None:
    outage, calls = Outage(tmp_path / "store"), [0]

    def fail() -> None:
        calls[0] += 1
        raise ConnectionRefusedError("down")

    def attempts() -> int:
        calls[0] = 0
        with pytest.raises(DownloadInterruptedError, match="down"):
            Retries("it", counters=Counters(), check=lambda: None, outage=outage)(fail)
        return calls[0]

    assert attempts() == audiomdb.cache.retry._ATTEMPTS
    outage.begin()
    assert attempts() == 1
    os.utime(tmp_path / "store", (0, 0))  # long ago
    assert attempts() == audiomdb.cache.retry._ATTEMPTS
    os.utime(tmp_path / "store", (2**33, 2**33))  # a clock that was set back
    assert attempts() == audiomdb.cache.retry._ATTEMPTS
    outage.begin()
    outage.end()
    assert attempts() == audiomdb.cache.retry._ATTEMPTS


def test_the_error_of_a_single_try_names_the_earlier_attempts(tmp_path: Path) -> None:
    outage = Outage(tmp_path / "store")

    def error_of(what: str, text: str) -> str:
        def fail() -> None:
            raise ConnectionRefusedError(text)

        with pytest.raises(DownloadInterruptedError) as caught:
            Retries(what, counters=Counters(), check=lambda: None, outage=outage)(fail)
        return str(caught.value)

    first = error_of("shard_7", "cannot read shard_7")
    assert re.fullmatch(
        r"cannot read shard_7 \(given up after 8 failed attempts in \d\.\d s; this was the last "
        r"one's error\)",
        first,
    )
    outage.begin(first)
    second = error_of("shard_8", "no answer")
    assert re.fullmatch(
        r"shard_8: no answer \(given up after 1 failed attempt in \d\.\d s, since this store had "
        rf"failed moments before: {re.escape(first)}\)",
        second,
    )
    outage.begin(second)
    third = error_of("shard_9", "no answer")
    assert first in third
    assert "shard_8" not in third


def portion(start: int, _validator: str | None) -> RemoteFile:
    return RemoteFile([CONTENT[start : start + 9000]], start, "v1", len(CONTENT))


@pytest.mark.parametrize("sends", [cut(100_000), portion], ids=["what breaks off", "a portion"])
def test_a_store_that_answers_again_is_retried_patiently(
    fetch, tmp_path: Path, sends: Answer
) -> None:
    outage = Outage(CacheLayout(tmp_path).outage)
    outage.begin("connection refused")
    with pytest.raises(DownloadInterruptedError, match="failed moments before: connection refused"):
        fetch(Store(cut(10)))  # which proves nothing
    assert outage.lately()
    busy = refuse(DownloadInterruptedError("503 SlowDown"))
    assert is_whole(fetch(Store(sends, busy, busy, whole)))
    assert not outage.lately()


def test_progress_and_speed_are_described_in_words() -> None:
    text = how_far(12_300_000, 64_000_000, 900_000, 30.0)
    assert text == "12.3 MB of 64.0 MB are there, at 30.0 kB/s"
