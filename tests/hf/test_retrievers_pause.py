"""Waiting because the Hub asks for it, and not waiting any longer than it is of use."""

from __future__ import annotations

import signal
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

PRELUDE = """
import logging, os, signal, sys, threading
from audiomdb.errors import DownloadError
from audiomdb.retrievers.hf import HFRetriever
from audiomdb.stream import SampleStream

class Noticed(logging.Handler):
    def emit(self, record):
        if "asks to wait" in record.getMessage():
            waiting.set()

def once_it_waits(do):
    def run():
        assert waiting.wait(300)
        do()

    thread = threading.Thread(target=run)
    thread.start()
    return thread

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

waiting, noticed, result = threading.Event(), Noticed(), []
logging.getLogger("audiomdb.retrievers").addHandler(noticed)
retriever = HFRetriever("user/digits", cache_dir=sys.argv[1], prefetch=int(sys.argv[2]))
"""

# What is in the cache does not wait. Without this, a thread could ask for the second shard before
# another asks for the first, which would wait as well, and the loop would never be entered.
FIRST_SHARD_IS_THERE = "retriever.open()[0]\n"

STILL = """
retriever.close()
logging.getLogger("audiomdb.retrievers").removeHandler(noticed)
left = [thread.name for thread in threading.enumerate() if thread.name.startswith("audiomdb")]
print("the pause goes on", retriever._pause.left_s() > 0, *result, *left)
"""


def program(code: str, before: str = "") -> str:
    return PRELUDE + before + textwrap.dedent(code)


@pytest.fixture
def busy(hub: Any, dataset: Path) -> Any:
    """A Hub that gives out the metadata and the first of three shards, and then asks to wait."""
    hub.add_dataset("user/digits", dataset)
    for shard in ("shard_00001", "shard_00002"):
        hub.fail(f"{shard}/data.mdb", 429, b"", {"Retry-After": "299"}, times=9)
    return hub


@pytest.mark.parametrize(("prefetch", "num_threads"), [(0, 2), (2, 0), (2, 2)])
def test_a_loop_can_be_left_while_the_hub_asks_to_wait(
    busy: Any, tmp_path: Path, prefetch: int, num_threads: int
) -> None:
    code = f"""
        for sample in SampleStream(retriever, num_threads={num_threads}):
            assert waiting.wait(300)
            break
    """
    printed = busy.run(program(code, FIRST_SHARD_IS_THERE) + STILL, tmp_path, prefetch)
    assert printed == "the pause goes on True\n"


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_iteration_that_waits_for_the_hub_can_be_interrupted(
    busy: Any, tmp_path: Path, num_threads: int
) -> None:
    code = f"""
        thread = once_it_waits(interrupt)
        try:
            for sample in SampleStream(retriever, num_threads={num_threads}):
                pass
        except KeyboardInterrupt:
            result.append("interrupted")
        thread.join()
    """
    printed = busy.run(program(code) + STILL, tmp_path, 0)
    assert printed == "the pause goes on True interrupted\n"


def test_closing_a_retriever_ends_waits_for_the_hub_with_an_error(
    busy: Any, tmp_path: Path
) -> None:
    code = """
        for number in (2, 0):  # the second time, it is opening that waits
            waiting.clear()
            thread = once_it_waits(retriever.close)
            try:
                retriever.open()[number]
            except DownloadError as error:
                result.append(str(error).partition(",")[0])
            thread.join()
    """
    printed = busy.run(program(code) + STILL, tmp_path, 0)
    assert printed == "the pause goes on True" + 2 * " closed while the Hub asks to wait" + "\n"


def test_a_program_that_is_interrupted_in_its_loop_ends(busy: Any, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    code = """
        for sample in SampleStream(retriever, num_threads=2):
            assert waiting.wait(300)
            interrupt()
    """
    path.write_text(program(code, FIRST_SHARD_IS_THERE))
    with busy.client.start(path, tmp_path, 0, stderr=subprocess.PIPE) as process:
        try:
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert said.rstrip().endswith("KeyboardInterrupt"), said
