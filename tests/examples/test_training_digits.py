"""The digit recogniser learns, from S3, and a kill costs it no sample and gives it none twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from audiomdb.shards import DatasetReader
from audiomdb.uploaders.s3 import S3Uploader

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "examples" / "training"
SHIPPED = ROOT / "packages" / "audiomdb-core" / "src" / "audiomdb" / "cli" / "data" / "fsdd"
OTHERS = ROOT / "tests" / "data" / "fsdd" / "recordings.zip"

EPOCHS = 12
BUDGET = 3_000_000
SAVE_EVERY = 180
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    recordings = folder / "recordings"
    shutil.copytree(SHIPPED, recordings)
    with zipfile.ZipFile(OTHERS) as archive:
        archive.extractall(recordings)
    convert = [TRAINING / "convert_digits.py", recordings, folder / "digits"]
    command = [sys.executable, *map(str, convert), "--samples-per-shard", "32"]
    subprocess.run(command, check=True)
    return folder / "digits"


def keys_to_train_on(dataset: Path) -> Counter[str]:
    with DatasetReader.open(dataset) as reader:
        takes = reader.index["take"]
        return Counter(reader.key(i) for i in range(len(reader)) if takes[i] >= 5)


@contextmanager
def started(command: list[Any], errors: Path) -> Iterator[subprocess.Popen[str]]:
    """A program and what it starts, of which nothing is left afterwards."""
    # A few hundred small operations a step: threads of their own only wait for each other.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        errors.open("w", encoding="utf-8") as said,
        subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                # torchrun's processes have sessions of their own, so no group holds them all.
                agent = psutil.Process(process.pid)
                family = [*agent.children(recursive=True), agent]
                for one in family:
                    one.kill()
                psutil.wait_procs(family)


def noted(folder: Path) -> list[dict[str, Any]]:
    lines = [line for path in folder.iterdir() for line in path.read_text().splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def by_step(notes: list[dict[str, Any]]) -> dict[int, Counter[str]]:
    steps: dict[int, Counter[str]] = defaultdict(Counter)
    for one in notes:
        steps[one["step"]].update(one["keys"])
    return steps


def test_a_run_that_is_killed_goes_on_with_the_next_step(
    dataset: Path, s3_bucket: str, tmp_path: Path
) -> None:
    import torch

    S3Uploader(s3_bucket, "digits").upload_dir(str(dataset))
    cache, checkpoint = tmp_path / "cache", tmp_path / "digits.pt"
    program = [TRAINING / "digits.py", f"s3://{s3_bucket}/digits", "--checkpoint", checkpoint]
    program += ["--max-cache-bytes", BUDGET, "--cache-dir", cache, "--epochs", EPOCHS]
    # The next one is far off, however late the kill comes.
    program += ["--save-every", SAVE_EVERY, "--note-keys"]

    errors = tmp_path / "errors"
    with started([*TORCHRUN, *program, tmp_path / "first"], errors) as training:
        assert training.stdout is not None
        said = ""
        while not said.startswith("step 190:"):
            said = training.stdout.readline()
            assert said, errors.read_text()
    saved = torch.load(checkpoint, weights_only=True)["step"]
    assert saved == SAVE_EVERY
    first = noted(tmp_path / "first")

    with started([sys.executable, *program, tmp_path / "second"], errors) as training:
        output = training.communicate()[0]
    assert training.returncode == 0, errors.read_text()
    assert output.startswith(f"going on from step {SAVE_EVERY} on 1 process")
    second = noted(tmp_path / "second")

    # What was learned after the checkpoint is lost with the processes, so it does not count.
    kept = [one for one in first if one["step"] < saved]
    counted = kept + second
    assert {one["epoch"] for one in kept} & {one["epoch"] for one in second}, "not in the middle"
    epochs: dict[int, Counter[str]] = defaultdict(Counter)
    for one in counted:
        epochs[one["epoch"]].update(one["keys"])
    wanted = keys_to_train_on(dataset)
    assert len(wanted) == 600
    assert dict(epochs) == dict.fromkeys(range(EPOCHS), wanted)
    # Two processes shared each step, one has it whole, and it is the same.
    # The kill may have come before both had noted the last one.
    lost = by_step([one for one in first if saved <= one["step"] < 189])
    assert len(lost) == 9
    assert {step: keys for step, keys in by_step(second).items() if step in lost} == lost

    cached = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert 0 < cached <= BUDGET < sum(p.stat().st_size for p in dataset.rglob("data.mdb"))

    right = re.findall(r"^epoch (\d+): ([\d.]+) %", output, re.MULTILINE)
    assert int(right[-1][0]) == EPOCHS - 1
    assert float(right[-1][1]) > 95, output
