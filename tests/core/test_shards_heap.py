"""Copies of encoded clips are made in memory that is there, not in new pages for each."""

from __future__ import annotations

import platform
import random
import subprocess
import sys
from pathlib import Path

import pytest

from audiomdb.shards import DatasetWriter

CLIPS = 200
SHORTEST = 60_000
LONGEST = 250_000

COUNTING = """
import resource, sys
from audiomdb.shards import DatasetReader

reader = DatasetReader.open(sys.argv[1])
def read():
    for sample in reader.scan(verify=False):
        assert sample["blob"]
read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
read()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what other C libraries do is theirs")
def test_reading_again_takes_no_new_pages(tmp_path: Path) -> None:
    """Without what is done about it, there are ten for each clip."""
    sizes = random.Random(0)
    with DatasetWriter(tmp_path / "clips") as writer:
        for number in range(CLIPS):
            blob = bytes(sizes.randint(SHORTEST, LONGEST))
            writer.write(f"clip-{number:03d}", {"blob": blob})
    counted = subprocess.run(
        [sys.executable, "-c", COUNTING, str(tmp_path / "clips")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(counted.stdout) < CLIPS // 4
