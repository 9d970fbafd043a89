"""Frameworks that deal out data among processes themselves: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from audiomdb.shards import DatasetWriter

CLIPS = 43
PROGRAM = Path(__file__).parent / "programs" / "frameworks.py"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, samples_per_shard=10) as writer:
        for i in range(CLIPS):
            audio = np.full(80, i / 64, np.float32)
            writer.write(f"{i:02d}", {"audio": audio, "sample_rate": 8000, "number": i})
    return path


def run(framework: str, dataset: Path, out: Path) -> dict[str, Counter[int]]:
    """How often each sample came to one of two processes, for each way to load it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(PROGRAM), framework, str(dataset), str(out)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)]
    return {name: Counter(ranks[0][name]) + Counter(ranks[1][name]) for name in ranks[0]}


def test_accelerate_loses_nothing(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    found = run("accelerate", dataset, tmp_path)
    assert len(found) == 6
    exact = found.pop("StreamingLoader")
    assert exact == Counter(range(CLIPS))
    for name, counts in found.items():
        # Accelerate fills up the last batch, or batches, by repeating the first samples.
        assert set(counts) == set(range(CLIPS)), name
        assert sum(counts.values()) <= 48, name


def test_the_transformers_trainer_loses_nothing(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    found = run("transformers", dataset, tmp_path)
    assert found.pop("StreamingLoader") == Counter(2 * [*range(CLIPS)])
    (plain,) = found.values()
    assert set(plain) == set(range(CLIPS))
    assert min(plain.values()) >= 2


def test_lightning_loses_nothing(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    found = run("lightning", dataset, tmp_path)
    assert len(found) == 5
    for name, counts in found.items():
        assert counts == Counter(2 * [*range(CLIPS)]), name
