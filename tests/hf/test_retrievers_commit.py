"""A dataset is read from one commit, whatever happens to its branch and to the cache."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from audiomdb.retrievers.hf import HFRetriever
from tests.hf.client import run


@pytest.fixture
def moving(hub: Any, large: Path, newer: Path) -> Any:
    """A repository whose branch moves during the first download."""
    repository = hub.add_dataset("user/digits", large)
    hub.fail("/resolve-cache/", cut=10, then=lambda: hub.add_dataset("user/digits", newer))
    return repository


def test_a_dataset_is_read_from_one_commit_while_its_branch_moves(
    hub: Any, moving: Any, tmp_path: Path
) -> None:
    old = moving.sha("main")
    code = """
        print(retriever.commit)
        print(*(sample["text"] for sample in retriever.open()))
        retriever.open().index["text_length"]
    """
    assert run(hub, tmp_path, code).splitlines() == [old, "0 1 2 3"]
    new = moving.sha("main")
    hub.exchanges.clear()
    assert run(hub, tmp_path, code).splitlines() == [new, "0 1 a b c d"]
    assert len(hub.seen("/xet-bridge/")) == 3, "two shards and the index: the first had come"
    assert run(hub, tmp_path, code, revision=old).splitlines()[0] == old


def test_a_closed_retriever_looks_up_the_branch_again(
    hub: Any, moving: Any, tmp_path: Path
) -> None:
    old = moving.sha("main")
    code = """
        for _ in range(2):
            print(retriever.commit, len(retriever))
            retriever.close()
    """
    found = run(hub, tmp_path, code).splitlines()
    assert found == [f"{old} 4", f"{moving.sha('main')} 6"]


def test_a_copy_of_an_open_retriever_reads_the_same_commit_elsewhere(
    hub: Any, large: Path, newer: Path, tmp_path: Path
) -> None:
    old = hub.add_dataset("user/digits", large).sha("main")
    code = """
        import os, pathlib, pickle, sys
        from audiomdb.retrievers.hf import HFRetriever

        os.environ["XDG_CACHE_HOME"], saved = sys.argv[1:]
        path = pathlib.Path(saved)
        retriever = pickle.loads(path.read_bytes())
        print(retriever.commit)
        path.write_bytes(pickle.dumps(retriever))
        retriever.close()
    """
    saved = tmp_path / "saved"
    saved.write_bytes(pickle.dumps(HFRetriever("user/digits")))
    assert hub.run(code, tmp_path / "one-machine", saved).strip() == old
    hub.add_dataset("user/digits", newer)
    assert hub.run(code, tmp_path / "another-machine", saved).strip() == old


def test_a_process_forked_from_one_that_got_a_copy_reads_the_same_commit(
    hub: Any, large: Path, newer: Path, tmp_path: Path
) -> None:
    old = hub.add_dataset("user/digits", large).sha("main")
    code = """
        import os, pathlib, pickle, sys
        from audiomdb.retrievers.hf import HFRetriever

        os.environ["XDG_CACHE_HOME"], saved = sys.argv[1:]
        retriever = pickle.loads(pathlib.Path(saved).read_bytes())
        coming, going = os.pipe()
        if child := os.fork():
            os.waitpid(child, 0)
            print(os.read(coming, 100).decode())
        else:
            try:
                os.write(going, f"{retriever.commit} {len(retriever)}".encode())
                retriever.close()
            finally:
                os._exit(0)
    """
    retriever = HFRetriever("user/digits")
    retriever._commit = old  # as on the machine that opened it
    saved = tmp_path / "saved"
    saved.write_bytes(pickle.dumps(retriever))
    hub.add_dataset("user/digits", newer)
    assert hub.run(code, tmp_path / "another-machine", saved).split() == [old, "4"]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_processes_that_are_handed_a_retriever_read_what_it_reads(
    hub: Any, large: Path, newer: Path, tmp_path: Path, start_method: str
) -> None:
    hub.add_dataset("user/digits", large)
    with hub.client.start("readers.py", tmp_path, start_method) as process:
        assert process.stdout.readline() == "0\n"
        hub.add_dataset("user/digits", newer)
        assert process.communicate("go\n", timeout=120)[0] == "02 13 3\n"
    assert len(hub.seen("/xet-bridge/")) == 2


@pytest.mark.parametrize("damage", ["write_bytes(b'\\xff' * 40)", "write_bytes(b'')", "unlink()"])
def test_a_damaged_note_of_the_commit_is_written_anew_or_named(
    hub: Any, large: Path, tmp_path: Path, damage: str
) -> None:
    commit = hub.add_dataset("user/digits", large).sha("main")
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


def test_a_cache_deleted_in_use_is_reopened_at_the_commit_of_its_metadata(
    hub: Any, large: Path, newer: Path, tmp_path: Path
) -> None:
    commit = hub.add_dataset("user/digits", large).sha("main")
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
