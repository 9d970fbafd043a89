"""A small Whisper learns from streamed shards, under the trainer of transformers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "examples" / "training"
SHIPPED = ROOT / "packages" / "audiomdb-core" / "src" / "audiomdb" / "cli" / "data" / "fsdd"


def test_two_processes_train_a_whisper_model(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    dataset, model = tmp_path / "digits", tmp_path / "model"
    convert = [TRAINING / "convert_digits.py", SHIPPED, dataset]
    subprocess.run([sys.executable, *map(str, convert)], check=True)

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    program = [TRAINING / "whisper_finetune.py", dataset, "--steps", "40", "--output", model]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", *map(str, program)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"'loss': '?([\d.]+)", done.stdout)]
    assert len(losses) == 8
    assert losses[0] > 4  # of 263 tokens, hardly any is likelier than others: log(263) is 5.6
    assert losses[-1] < 2.5
    # Together they took 16 of the 160 samples a step: 40 steps were four epochs.
    assert re.findall(r"'epoch': '?([\d.]+)", done.stdout)[-1] == "4"
    assert (model / "model.safetensors").exists()
