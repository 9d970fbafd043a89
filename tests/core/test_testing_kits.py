"""The kits find what is wrong, and the room can be used without them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audiomdb.shards import DatasetReader, verify_dataset
from audiomdb.testing import (
    MemoryRetriever,
    MemoryServer,
    MemoryUploader,
    sample_digest,
    write_dataset,
)

PROGRAMS = Path(__file__).parent / "programs"
BROKEN = {
    path.name.replace("broken", "test"): path.read_text() for path in PROGRAMS.glob("broken_*.py")
}


def run_broken(folder: Path, tests: list[str], *options: str) -> str:
    """Run tests of broken backends outside the repository, whose settings no third party has."""
    for name, text in BROKEN.items():
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    # If one of them hangs, the tracebacks of all threads are printed.
    command += ["-o", "faulthandler_timeout=120", "-o", "faulthandler_exit_on_timeout=true"]
    result = subprocess.run(
        [*command, *tests],
        cwd=folder,
        # There, pytest shows all of what differs: bytes would take it hours.
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result.stdout + result.stderr


def test_each_broken_backend_fails_the_test_that_is_about_it(tmp_path: Path) -> None:
    classes = {
        f"{file}::{name}": f"{file}::{name}::{test}"
        for file, text in BROKEN.items()
        for name, test in re.findall(
            r"^class (Test\w+).*\n    found_by = \"(\w+)\"", text, re.MULTILINE
        )
    }
    assert len(classes) >= 40
    output = run_broken(tmp_path, list(classes.values()), "--tb=no", "-rA")
    failed = re.findall(r"^FAILED (test_\w+\.py::\w+)::", output, re.MULTILINE)
    assert set(failed) == set(classes), output


def test_a_test_that_hangs_ends_and_says_what_to_do(tmp_path: Path) -> None:
    silent = "test_a_connection_that_goes_silent_is_given_up"
    output = run_broken(tmp_path, [f"test_retrievers.py::TestWaitsForEver::{silent}"], "--tb=short")
    assert f"Failed: {silent} has not ended after 2 s (longest_test_s)" in output
    assert "in recv_into" in output or "in readinto" in output, "where it waits"
    advice = "Give the client a timeout, and the retriever an argument for it."
    assert advice in output.partition("Captured advice")[2]
    assert "1 failed in" in output


WITHOUT_PYTEST = """
import sys
sys.modules["pytest"] = None  # as if it were not installed
from audiomdb.testing import FaultProxy, MemoryServer, write_dataset
try:
    from audiomdb.testing import RetrieverConformance
except ModuleNotFoundError as error:
    sys.stdout.write(str(error))
"""


def test_the_tools_need_no_pytest() -> None:
    command = [sys.executable, "-c", WITHOUT_PYTEST]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        'RetrieverConformance needs pytest: pip install "audiomdb-core[testing]"'
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    import audiomdb.testing

    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        audiomdb.testing.Nonsense  # noqa: B018


def test_a_written_dataset_is_whole_and_the_same_each_time(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "a" / "clips", shards=2)
    assert write_dataset(tmp_path / "b" / "clips", shards=2) == first
    assert write_dataset(tmp_path / "c" / "clips", shards=2, seed=1) != first
    assert verify_dataset(tmp_path / "a" / "clips") == []
    with DatasetReader.open(tmp_path / "a" / "clips") as reader:
        assert len(reader) == 6
        assert len({sample_digest(sample) for sample in reader}) == 6


def test_equal_samples_have_equal_digests_and_others_do_not() -> None:
    base = {"a": b"x", "b": [1, 2.0, None], "c": np.zeros((2, 3), np.float32), "d": {"e": "f"}}
    same = {name: base[name] for name in reversed(base)}
    same["b"] = (1, 2.0, None)
    same["a"] = memoryview(b"x")
    assert sample_digest(same) == sample_digest(base)
    others = [
        {**base, "a": "x"},
        {**base, "b": [1, 2, None]},
        {**base, "b": [1, 2.0]},
        {**base, "c": np.zeros((3, 2), np.float32)},
        {**base, "c": np.zeros((2, 3), np.int32)},
        {**base, "d": {"e": "g"}},
        {**base, "g": True},
    ]
    assert len({sample_digest(sample) for sample in [base, *others]}) == len(others) + 1


@pytest.mark.parametrize("name", ["my data", "ünï", "a?b", "a#b", "a%20b"])
def test_the_store_in_memory_takes_any_name(name: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "clips", shards=1)
    with MemoryServer() as server:
        MemoryUploader(server.url(name)).upload_dir(tmp_path / "clips")
        assert f"{name}/metadata.json" in server.files
        retriever = MemoryRetriever(server.url(name), cache_dir=tmp_path / "cache")
        assert len(retriever) == 3
        retriever.close()
