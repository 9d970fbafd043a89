from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from audiomdb.shards import DatasetWriter
from tests.hf.hub import Hub, serving_hub


@pytest.fixture(scope="session")
def running_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with serving_hub(tmp_path_factory.mktemp("hf-home")) as hub:
        yield hub


@pytest.fixture
def hub(running_hub: Hub) -> Hub:
    """A Hub without any repository, whose user is called "user"."""
    running_hub.forget()
    return running_hub


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples in three shards. Tests read it only."""
    path = tmp_path_factory.mktemp("uploads") / "digits"
    with DatasetWriter(path, samples_per_shard=2) as writer:
        for number in range(6):
            audio = np.full(400, number, np.float32)
            sample = {"audio": audio, "sample_rate": 16_000, "text": str(number)}
            writer.write(f"clip-{number}", sample)
    return path


def _write(path: Path, texts: str) -> Path:
    """A dataset of two samples a shard."""
    rng = np.random.default_rng(0)
    with DatasetWriter(path, samples_per_shard=2) as writer:
        for number, text in enumerate(texts):
            writer.write(f"clip-{number}", {"text": text, "blob": rng.bytes(300_000)})
    return path


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 600 kB. Tests read it only."""
    return _write(tmp_path_factory.mktemp("datasets") / "large", "0123")


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the dataset `large` became: its second shard is another one, and a third has come."""
    return _write(tmp_path_factory.mktemp("datasets") / "newer", "01abcd")
