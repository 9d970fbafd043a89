"""The note of the commit in a cache's directory, which somebody deletes or damages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.hf.test_retrievers_hf import run, write


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("datasets") / "old", "0123")


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("datasets") / "newer", "01abcd")


@pytest.mark.parametrize("damage", ["write_bytes(b'\\xff' * 40)", "write_bytes(b'')", "unlink()"])
def test_a_damaged_note_of_the_commit_is_written_anew_or_named(
    hub: Any, old: Path, tmp_path: Path, damage: str
) -> None:
    commit = hub.add_dataset("user/digits", old).sha("main")
    code = f"""
        import pathlib
        from audiomdb.errors import CacheError

        retriever.open()[0]
        folder = pathlib.Path(retriever.cache_dir)
        (folder / "commit").{damage}
        print(retriever.commit)
        with contextlib.closing(HFRetriever(repo_id, cache_dir=sys.argv[1])) as other:
            try:
                print(other.commit)
            except CacheError as error:
                print(error)
            print(other.open()[2]["text"], other.commit)
    """
    first, named, *last = run(hub, tmp_path, code).split("\n", 2)
    assert first == commit
    assert re.search(r"/commit is missing or names no commit, .*open it again", named)
    assert last == [f"2 {commit}\n"]


def test_who_opens_a_cache_that_was_deleted_in_use_reads_the_commit_of_its_metadata(
    hub: Any, old: Path, newer: Path, tmp_path: Path
) -> None:
    commit = hub.add_dataset("user/digits", old).sha("main")
    hub.fail("/resolve-cache/", cut=10, then=lambda: hub.add_dataset("user/digits", newer))
    code = """
        import shutil

        retriever.open()[0]
        shutil.rmtree(retriever.cache_dir)
        retriever.open()[2]
        with contextlib.closing(HFRetriever(repo_id, cache_dir=sys.argv[1])) as other:
            print(other.commit, *(sample["text"] for sample in other.open()))
    """
    assert run(hub, tmp_path, code).split() == [commit, *"0123"]
