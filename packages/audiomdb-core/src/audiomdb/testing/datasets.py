"""Small datasets for tests, and digests to compare their samples."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from audiomdb.audio.encoding import encode
from audiomdb.shards import Metadata
from audiomdb.shards.dataset_writer import DatasetWriter

__all__ = ["sample_digest", "write_dataset"]

_RATE = 16_000


def write_dataset(
    path: str | os.PathLike[str],
    *,
    shards: int = 4,
    samples_per_shard: int = 3,
    payload_bytes: int = 40_000,
    seed: int = 0,
) -> Metadata:
    """Write a small dataset with audio, text, arrays and columns; the same for the same arguments.

    Args:
        path: Folder to write to.
        shards: Number of shards.
        samples_per_shard: Number of samples in each shard.
        payload_bytes: Random bytes in each sample, in addition to some 15 kB of audio.
        seed: Seed of the contents. Datasets that differ only in the seed have shards of about the
            same size.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    with DatasetWriter(path, name="conformance", samples_per_shard=samples_per_shard) as writer:
        for number in range(shards * samples_per_shard):
            frames = _RATE // 4 + 160 * (number % 5)
            audio = (rng.random(frames, np.float32) - 0.5) * 0.2
            sample = {
                "audio": encode(audio, _RATE, "flac") if number % 2 else audio,
                "sample_rate": _RATE,
                "text": f"sentence {number} of {seed}",
                "speaker": number % 3,
                # Random, so that neither a store nor a network can compress it.
                "payload": rng.bytes(payload_bytes),
                "vector": rng.random((4, 3)),
                "nothing": None,
            }
            writer.write(f"clip-{number:05d}", sample)
    return writer.finish()


def sample_digest(value: Any) -> str:  # noqa: ANN401
    """Return a digest that is the same for equal samples, in any process, and different otherwise.

    Args:
        value: A sample, or any value a sample may hold. For arrays, dtype and shape count too.
    """
    digest = hashlib.sha256()
    _update(digest, value)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:  # noqa: ANN401
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value)
        _head(digest, "bytes", len(value))
        digest.update(value)
    elif isinstance(value, Mapping):
        _head(digest, "dict", len(value))
        for name in sorted(value):
            _update(digest, name)
            _update(digest, value[name])
    elif isinstance(value, list | tuple):
        _head(digest, "list", len(value))
        for item in value:
            _update(digest, item)
    elif hasattr(value, "__array__"):
        array = np.ascontiguousarray(value)
        _head(digest, "array", array.dtype.str, np.shape(value))
        digest.update(array.tobytes())
    else:
        _head(digest, type(value).__name__, value)


def _head(digest: Any, *parts: object) -> None:  # noqa: ANN401
    digest.update(repr(parts).encode("utf-8", "surrogatepass") + b"\n")
