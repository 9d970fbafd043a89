from __future__ import annotations

import gc
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from audiomdb.cache.lock import try_exclusive
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
