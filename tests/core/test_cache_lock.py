from __future__ import annotations

import ctypes
import gc
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audiomdb.cache.lock import Held, exclusive, is_held, try_exclusive, try_shared
from tests.core.caches import Opener, budget, write_store


def test_a_lock_that_nobody_refers_to_is_released_and_its_file_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = try_exclusive(path, create=True)
    assert held is not None
    fd = held.fd
    assert try_exclusive(path) is None
    del held
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    again = try_exclusive(path)
    assert again is not None
    again.release()


@pytest.fixture
def deleted_once_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, list[int]]]:
    """A file that somebody deletes right after it is opened, as many times as the list is long."""
    path, times = tmp_path / "lock", [0]
    path.touch()
    open_file = os.open

    def deleting(name: Any, *args: Any, **options: Any) -> int:
        fd = open_file(name, *args, **options)
        if name == path and times:
            times.pop()
            path.unlink()
        return fd

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", deleting)
        yield path, times


@pytest.mark.parametrize("take", [try_exclusive, try_shared])
def test_a_file_deleted_between_opening_and_locking_is_not_held(
    deleted_once_opened: tuple[Path, list[int]], take: Callable[..., Held | None]
) -> None:
    path, _ = deleted_once_opened
    assert take(path) is None
    with take(path, create=True):  # type: ignore[union-attr]
        assert path.exists()


def test_who_waits_for_a_lock_gets_that_of_the_file_that_is_there(
    deleted_once_opened: tuple[Path, list[int]],
) -> None:
    path, times = deleted_once_opened
    times += [0, 0]
    with exclusive(path):
        assert times == []
        assert is_held(path)
    assert not is_held(path)


def test_a_file_that_others_share_is_not_held(tmp_path: Path) -> None:
    with try_shared(tmp_path / "lock", create=True):  # type: ignore[union-attr]
        assert not is_held(tmp_path / "lock")
        assert try_exclusive(tmp_path / "lock") is None


def test_a_reader_whose_registration_is_interrupted_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_store(tmp_path / "store", 3, 100_000)
    opener = Opener(store, tmp_path)
    cache = opener(max_bytes=budget(store, 1) + 100)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("audiomdb.cache.directory_use.DirectoryUse.enter", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.register(1)
    gc.collect()
    # There is room for one reader only.
    registration = cache.register(1)
    assert len(list((cache.directory / "readers").iterdir())) == 1
    registration.close()
    opener.close()


@pytest.fixture
def umask_of_a_group() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask_of_a_group")
@pytest.mark.parametrize("kind", ["ranges", "directories"])
def test_users_of_one_group_can_share_a_cache_if_their_umask_lets_them(
    tmp_path: Path, kind: str
) -> None:
    opener = Opener(write_store(tmp_path / "store", 2, 100_000), tmp_path)
    cache = opener(kind)
    registration = cache.register(1)
    cache.lease(0)
    cache.index_file()
    private = [
        str(path.relative_to(cache.directory))
        for path in cache.directory.rglob("*")
        if not path.stat().st_mode & stat.S_IWGRP
    ]
    assert private == []
    registration.close()
    opener.close()


def obey_permissions() -> None:
    """Give up what lets root ignore the permissions of files."""
    if sys.platform == "linux" and os.geteuid() == 0:
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(header, none) == 0


def test_files_of_a_user_who_lets_others_only_read_are_evicted(tmp_path: Path) -> None:
    opener = Opener(write_store(tmp_path / "store", 4, 100_000), tmp_path)

    def break_off(path: str, at: int) -> None:
        if at and path.startswith("shard_00002"):
            raise KeyboardInterrupt

    cache = opener()
    cache.lease(0)
    cache.lease(1)
    opener.meet = break_off
    with pytest.raises(KeyboardInterrupt):
        cache.lease(2)
    opener.close()
    for path in opener.directory.rglob("*"):
        if path.is_file():
            path.chmod(0o444)

    child = os.fork()
    if child == 0:
        status = 1
        try:
            obey_permissions()
            opener.meet = lambda _path, _at: None
            cache = opener(max_bytes=budget(opener.store, 1) + 4096)
            cache.register(1)
            for number in (2, 3, 0):
                assert cache.lease(number) == opener.content(number)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_cache_survives_what_somebody_puts_among_its_readers(tmp_path: Path) -> None:
    opener = Opener(write_store(tmp_path / "store", 2, 1000), tmp_path)
    cache = opener(max_bytes=budget(opener.store, 2) + 4096)
    (cache.directory / "readers" / "lost+found").mkdir()
    cache.register(1)
    assert cache.lease(1) == opener.content(1)
    opener.close()
