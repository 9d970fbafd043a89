"""Datasets written by earlier versions are read for ever."""

import hashlib
import runpy
from pathlib import Path

import lmdb
import numpy as np
import pytest

from audiomdb.errors import InvalidURLError
from audiomdb.shards import DatasetReader, read_metadata, verify_dataset

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
MAKE_V1 = runpy.run_path(str(GOLDEN / "make_v1.py"))

# Of the bytes as they were first published. Never change one of these.
V1_SHARDS = [
    "bd500cef0acb3d868992ca86f116e27c8fdbed6f4e0f39e3a357256ac831ce6b",
    "b6de33ba1aeb8f3c205d9192f873f73020b0c117a24732d50dc8bd9d8c36a14b",
]
V1_16K_SHARDS = [
    "7ba811c5df9c86e96cefdbe85fba99215765fae3ae2255efc8c2924386bae4b8",
    "53ab557acaae0001425f4d5c194211f774bedaba43ecf19f7a959528758e67fc",
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


@pytest.mark.parametrize(("name", "digests"), [("v1", V1_SHARDS), ("v1_16k", V1_16K_SHARDS)])
def test_version_1_is_whole_and_unchanged(name, digests):
    assert verify_dataset(GOLDEN / name) == []
    metadata = DatasetReader.open(GOLDEN / name).metadata
    assert [shard.sha256 for shard in metadata.shards] == digests
    for shard in metadata.shards:
        data = (GOLDEN / name / shard.path / "data.mdb").read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard.sha256


@pytest.mark.parametrize("name", ["v1", "v1_16k"])
def test_version_1_holds_what_was_written(name):
    reader = DatasetReader.open(GOLDEN / name)
    samples = dict(MAKE_V1["samples"]())
    assert sorted(reader.keys()) == sorted(samples)
    for key, given in samples.items():
        for stored in (reader[key], reader.read(key, copy=False)):
            for name, value in given.items():
                assert_same(stored[name], value)
    assert reader["stereo"]["channels"] == 2
    assert reader["7_theo_0.wav"]["sample_rate"] == 8000
    assert reader.index["frames"].tolist()[:2] == [reader[i]["frames"] for i in range(2)]


@pytest.mark.parametrize(("name", "page_bytes"), [("v1", 4096), ("v1_16k", 16384)])
def test_version_1_is_read_by_plain_lmdb(name, page_bytes):
    env = lmdb.open(str(GOLDEN / name / "shard_00000"), readonly=True, lock=False, max_dbs=2)
    assert env.stat()["psize"] == page_bytes
    with env.begin() as transaction:
        keys = list(transaction.cursor(env.open_db(b"samples", transaction)).iternext(values=False))
        assert transaction.get(b"index").startswith(b"AMDBIDX1")
    env.close()
    assert keys == sorted(keys)
    assert b"7_theo_0.wav" in keys


def test_a_folder_may_be_named_by_a_string_but_is_no_url():
    assert verify_dataset(str(GOLDEN / "v1")) == []
    assert read_metadata(str(GOLDEN / "v1")).name == "golden"
    with pytest.raises(InvalidURLError, match="audiomdb verify"):
        verify_dataset("s3://bucket/digits")
