"""How the datasets in v1/ and v1_16k/ were made. Their bytes never change again: a new format gets
a new folder.

LMDB's pages are as large as the system's: v1/ has pages of 4 KiB, and v1_16k/ of 16 KiB, as on
macOS with Apple silicon.

The journals of v1/ are of an older kind, see "Versions" in docs/format.md; everything else in it
comes out the same today.

Run from the repository, into a folder that does not exist: python tests/data/golden/make_v1.py v1
"""

import sys
from pathlib import Path

import numpy as np

from audiomdb.shards import DatasetWriter

ROOT = Path(__file__).resolve().parents[3]
RECORDINGS = ROOT / "packages/audiomdb-core/src/audiomdb/cli/data/fsdd"


def samples() -> list[tuple[str, dict[str, object]]]:
    """Keys and samples, in the order of writing."""
    digits = [
        (name, {"audio": RECORDINGS / name, "text": text, "speaker": speaker})
        for name, text, speaker in (
            ("7_theo_0.wav", "seven", "theo"),
            ("3_george_1.wav", "three", "george"),
        )
    ]
    t = np.arange(400, dtype=np.float32) / 8000
    values: dict[str, object] = {
        "none": None,
        "yes": True,
        "integers": [0, -1, 2**63, -(2**63), 2**64 - 1],
        "floats": [0.1, float("inf"), float("-inf")],
        "text": "ünïcode 日本語 \x00 🎧",
        "empty": ["", b"", [], {}],
        "bytes": [b"x", bytes(range(256)) * 2],
        "nested": {"a": {"b": [{"c": np.arange(3)}, bytes(1000)]}},
        "float16": np.arange(300, dtype=np.float16),
        "big_endian": np.arange(300, dtype=">i4").reshape(3, 100),
        "zero_dimensions": np.array(2.5),
        "zero_size": np.zeros((0, 80), np.float32),
        "scalar": np.float32(0.1),
        "when": np.array(["2026-11-23", "NaT"], "datetime64[s]"),
        "records": np.array([(1, b"ab"), (2, b"c")], [("n", "<i8"), ("s", "S4")]),
        "strings": np.array(["a", "日本"]),
    }
    tone = {"audio": np.sin(2000 * t), "sample_rate": 8000, "text": "a tone"}
    return [*digits, ("värden/日本", values), ("tone", tone), ("stereo", _stereo(t))]


def _stereo(t: np.ndarray) -> dict[str, object]:
    audio = np.stack([np.sin(1000 * t), np.cos(3000 * t)], axis=1)
    return {"audio": (audio * 30000).astype(np.int16), "sample_rate": 44100}


if __name__ == "__main__":
    with DatasetWriter(sys.argv[1], name="golden", samples_per_shard=3) as writer:
        for key, sample in samples():
            writer.write(key, sample)
