"""Datasets written by earlier versions are read for ever."""

import hashlib
import runpy
from pathlib import Path

import lmdb
import numpy as np

from audiomdb.shards import DatasetReader, verify_dataset

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
MAKE_V1 = runpy.run_path(str(GOLDEN / "make_v1.py"))

# Of the bytes as they were first published. Never change one of these.
V1_SHARDS = [
    "bd500cef0acb3d868992ca86f116e27c8fdbed6f4e0f39e3a357256ac831ce6b",
    "b6de33ba1aeb8f3c205d9192f873f73020b0c117a24732d50dc8bd9d8c36a14b",
]


def assert_same(stored, given):
    if isinstance(given, np.ndarray | np.generic):
        assert stored.dtype == given.dtype
        assert np.shape(stored) == np.shape(given)
        assert stored.tobytes() == given.tobytes()
    elif isinstance(given, dict):
        assert stored.keys() == given.keys()
        for name, value in given.items():
            assert_same(stored[name], value)
    elif isinstance(given, list):
        assert len(stored) == len(given)
        for a, b in zip(stored, given, strict=True):
            assert_same(a, b)
    elif isinstance(given, bytes | Path):
        assert bytes(stored) == (given if isinstance(given, bytes) else given.read_bytes())
    else:
        assert type(stored) is type(given)
        assert stored == given


def test_version_1_is_whole_and_unchanged():
    assert verify_dataset(GOLDEN / "v1") == []
    metadata = DatasetReader.open(GOLDEN / "v1").metadata
    assert [shard.sha256 for shard in metadata.shards] == V1_SHARDS
    for shard in metadata.shards:
        data = (GOLDEN / "v1" / shard.path / "data.mdb").read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard.sha256


def test_version_1_holds_what_was_written():
    reader = DatasetReader.open(GOLDEN / "v1")
    samples = dict(MAKE_V1["samples"]())
    assert sorted(reader.keys()) == sorted(samples)
    for key, given in samples.items():
        for stored in (reader[key], reader.read(key, copy=False)):
            for name, value in given.items():
                assert_same(stored[name], value)
    assert reader["stereo"]["channels"] == 2
    assert reader["7_theo_0.wav"]["sample_rate"] == 8000
    assert reader.index["frames"].tolist()[:2] == [reader[i]["frames"] for i in range(2)]


def test_version_1_is_read_by_plain_lmdb():
    env = lmdb.open(str(GOLDEN / "v1" / "shard_00000"), readonly=True, lock=False, max_dbs=2)
    with env.begin() as transaction:
        keys = list(transaction.cursor(env.open_db(b"samples", transaction)).iternext(values=False))
        assert transaction.get(b"index").startswith(b"AMDBIDX1")
    env.close()
    assert keys == sorted(keys)
    assert b"7_theo_0.wav" in keys
