"""A dataset from a stranger, with right checksums, gives errors of ours and nothing worse."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.msgpack import Ext

from audiomdb.errors import CorruptRecordError, CorruptShardError, DatasetError, MetadataError
from audiomdb.shards import DatasetReader, DatasetWriter, verify_dataset
from tests.core.caches import CopyRetriever
from tests.core.forgeries import array, encode, forge, reference

KEY = "__key__"
FACTS = {KEY: "k", "audio": b"", "text": "hello", "tags": ["a", {"b": 1}], "vec": array("<f4", [0])}
BLOB = bytes(range(200)) * 2


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def read_in_every_way(path: Path) -> Iterator[Exception | None]:
    """Read the first sample of a dataset; yields each way's error, if it is one of ours."""
    with DatasetReader.open(path) as reader:
        ways = [
            lambda: reader[0],
            lambda: reader.read(0, copy=False, verify=False),
            lambda: reader.read(0, fields=["tags", "vec", "blob"]),
            lambda: next(reader.scan()),
        ]
        for way in ways:
            try:
                assert type(way()[KEY]) is str
            except CorruptRecordError as exc:
                assert "shard_00000: record 0 'k'" in str(exc)  # noqa: PT017
                yield exc
            else:
                yield None


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ({}, "no text '__key__'"),
        ({KEY: None}, "no text '__key__'"),
        ({KEY: ["k"]}, "no text '__key__'"),
        ({KEY: "k", 5: 6}, "map"),
        (b"\x82\xa7__key__\xa1k\x80\x01", "head is no MessagePack"),  # a map as a key
        (b"\x82\xa7__key__\xa1k\xa4tags\x81\x80\x01", "head is no MessagePack"),
        ({KEY: "k", "vec": array("|S0", [2**31])}, "not allowed"),
        ({KEY: "k", "vec": array("<U0", [2**40])}, "not allowed"),
        ({KEY: "k", "vec": array([["a", "<f4", [0]]], [2**62])}, "not allowed"),
        ({KEY: "k", "vec": array("<U1", [1], b"\xff" * 4)}, "code point 0xffffffff"),
        ({KEY: "k", "vec": array([["a", "<U1"]], [1], b"\xff" * 4)}, "code point"),
        ({KEY: "k", "tags": [reference(0, BLOB)] * 2}, "overlaps another"),
        ({KEY: "k", "blob": reference(0, BLOB), "tags": [reference(0, BLOB)]}, "overlaps another"),
    ],
)
def test_an_impossible_head_is_refused(tmp_path: Path, head: Any, says: str) -> None:
    path = forge(tmp_path / "d", {"k": head}, payloads=BLOB)
    for error in read_in_every_way(path):
        assert says in str(error)
    assert any(says in problem.reason for problem in verify_dataset(path))


def test_payloads_that_do_not_overlap_may_come_in_any_order(tmp_path: Path) -> None:
    head = {KEY: "k", "tags": [reference(300, BLOB[300:]), reference(0, BLOB[:300])]}
    path = forge(tmp_path / "d", {"k": head}, payloads=BLOB)
    assert list(read_in_every_way(path)) == [None] * 4
    assert DatasetReader.open(path)[0]["tags"] == [BLOB[300:], BLOB[:300]]


# Python's own limit: since 3.12, it is another one for code in C, and deeper.
TOO_DEEP = 3000 if sys.version_info < (3, 12) else 1_000_000


@pytest.mark.parametrize("depth", [64, 600, 900, 3000, 1_000_000])
def test_deep_nesting_is_read_or_refused(tmp_path: Path, depth: int) -> None:
    tree = b"\x82\xa7__key__\xa1k\xa4tags" + b"\x91" * depth + b"\x01"
    errors = list(read_in_every_way(forge(tmp_path / "d", {"k": tree})))
    assert depth > 64 or errors == [None] * 4
    assert depth < TOO_DEEP or None not in errors


@pytest.mark.parametrize("table", ["head_offset", "head_bytes", "payload_offset", "payload_bytes"])
@pytest.mark.parametrize("number", [2**20, 2**63 - 1, 2**63, 2**64 - 1])
def test_records_beyond_the_file_are_refused_when_the_shard_is_opened(
    tmp_path: Path, table: str, number: int
) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree[table] = array("<u8", [1], struct.pack("<Q", number))

    path = forge(tmp_path / "d", {"k": FACTS}, index=change)
    with pytest.raises(CorruptShardError, match="shard_00000: the index has records beyond"):
        DatasetReader.open(path)[0]
    with pytest.raises(CorruptShardError, match=r"index\.bin, part shard_00000.*beyond"):
        DatasetReader.open(path).index["n"]
    assert "beyond" in verify_dataset(path)[0].reason


CODES = array("|i1", [1], b"\0")


@pytest.mark.parametrize(
    "column",
    [
        "text",
        5,
        None,
        [1.0],
        array("<f8", []),
        array("<f8", [2], bytes(16)),
        array("<f8", [1, 1], bytes(8)),
        array("<U1", [1], b"\xff" * 4),
        array("|S8", [1], bytes(8)),
        array("<M8[s]", [1], bytes(8)),
        array("<c8", [1], bytes(8)),
        array([["codes", "|i1"], ["values", "|i1"]], [1], bytes(2)),
        Ext(4, array("<f8", [], bytes(8)).data),
        {"codes": CODES},
        {"codes": CODES, "values": "ab"},
        {"codes": CODES, "values": [1]},
        {"codes": CODES, "values": [["a"]]},
        {"codes": CODES, "values": [{"a": 1}]},
        {"codes": array("|i1", [1], b"\x01"), "values": ["a"]},
        {"codes": array("|i1", [1], b"\xfe"), "values": ["a"]},
        {"codes": array("|b1", [1], b"\0"), "values": ["a"]},
        {"codes": array("<f4", [1], bytes(4)), "values": ["a"]},
        {"codes": 0, "values": ["a"]},
    ],
)
def test_an_impossible_column_is_refused(tmp_path: Path, column: Any) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["columns"] = {"duration": column}

    path = forge(tmp_path / "d", {"k": FACTS}, index=change)
    reader = DatasetReader.open(path)
    with pytest.raises(CorruptShardError, match=r"part shard_00000: the index is damaged"):
        reader.index["duration"]
    with pytest.raises(CorruptShardError, match=r"shard_00000: the index is damaged"):
        _ = reader.shard(0).index.columns
    assert "the index is damaged" in verify_dataset(path)[0].reason
    assert reader[0]["text"] == "hello"


NUMPY_RECORD = Ext(4, array([["a", "<i4"]], [], bytes(4)).data)


@pytest.mark.parametrize(
    "change",
    [
        {"journal": {}},
        {"journal": {"rejected": 5}},
        {"journal": {"rejected": NUMPY_RECORD}},
        {"features": {"f": 5}},
        {"features": {"f": NUMPY_RECORD}},
    ],
)
def test_shards_that_no_metadata_can_describe_are_reported(tmp_path: Path, change: Any) -> None:
    path = forge(tmp_path / "d", {"k": FACTS}, index=lambda tree: tree.update(change))
    last = verify_dataset(path)[-1]
    assert (last.file, "what metadata is made of" in last.reason) == ("metadata.json", True)


@pytest.mark.usefixtures("short_waits")
def test_an_index_of_the_wrong_length_is_refused_when_gathered(
    tmp_path: Path,
) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["samples"] = tree["shards"][0]["samples"] = 1

    columns = {"duration": np.ones(2)}
    forge(tmp_path / "d", {"a": FACTS, "b": FACTS}, columns=columns, metadata=change)
    with pytest.raises(CorruptShardError, match="holds 2 samples, metadata says 1"):
        CopyRetriever(tmp_path / "d").open().index["duration"]


# LMDB's pages, which are parsed to verify a shard, and where there is no metadata.

PAGE = 4096


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "d") as writer:
        for i in range(40):
            writer.write(f"k{i:03d}", {"text": f"number {i}"})
    return tmp_path / "d" / "shard_00000" / "data.mdb"


def leaf(data: bytearray) -> int:
    """Where the last version of the leaf page that holds the last key begins."""
    pages = [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
    return PAGE * max(
        number for number, page in enumerate(pages) if page[10] == 2 and b"number 39" in page
    )


def test_overlapping_nodes_are_not_read_repeatedly(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    at = leaf(data)
    (lower,) = struct.unpack_from("<H", data, at + 12)
    (first,) = struct.unpack_from("<H", data, at + 16)
    struct.pack_into(f"<{(lower - 16) // 2}H", data, at + 16, *[first] * ((lower - 16) // 2))
    struct.pack_into("<H", data, at + first + 6, 511)
    shard.write_bytes(data)
    reasons = [problem.reason for problem in verify_dataset(shard.parent.parent)]
    assert any("holds more than fits into it" in reason for reason in reasons)


@pytest.mark.parametrize("page_bytes", [0, 1, 4095, 2**16, 2**31])
def test_page_sizes_unknown_to_lmdb_are_refused(shard: Path, page_bytes: int) -> None:
    data = bytearray(shard.read_bytes())
    for meta in (0, PAGE):
        struct.pack_into("<I", data, meta + 40, page_bytes)
    shard.write_bytes(data)
    assert any("page" in problem.reason for problem in verify_dataset(shard.parent.parent))


def test_a_head_too_short_for_its_prefix_is_reported(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write("k", {"text": "x"})
    path = tmp_path / "d" / "shard_00000" / "data.mdb"
    reader = DatasetReader.open(tmp_path / "d")
    at = reader.shard(0).index.head_offset[0]
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, at - 9, 5)  # the size in the node, before flags, key size and key
    path.write_bytes(data)
    reasons = [problem.reason for problem in verify_dataset(tmp_path / "d")]
    assert "LMDB and the index disagree on record 0" in reasons


# Everything else: one value anywhere in a head or an index is replaced by another one.

SCALARS = st.sampled_from(
    [0, -1, 2**63, 2**64 - 1, float("nan"), 1e308, True, None, "", "\x1b[31m", "x" * 300, b"", b"x"]
)
DESCRS = st.sampled_from(
    [
        "<f4",
        "|O",
        "|S0",
        "<U1",
        "|V3",
        "<M8[s]",
        "(3,)f4",
        "T",
        "",
        5,
        [["a", "<f4", [2**62]]],
        [[]],
    ]
)
SHAPES = st.sampled_from([[], [0], [1], [2, 3], [2**31], [2**62, 0], [2**63], [-1], [0] * 70, None])
ARRAYS = st.builds(array, DESCRS, SHAPES, st.sampled_from([b"", bytes(4), b"\xff" * 24]))
NUMBERS = st.sampled_from([0, 1, 16, 255, 400, 2**32, 2**63, 2**64 - 1])
REFERENCES = st.builds(
    lambda code, where, length: Ext(code, struct.pack("<QQI", where, length, 0)),
    st.integers(0, 5),
    NUMBERS,
    NUMBERS,
)
VALUES = st.one_of(
    SCALARS,
    ARRAYS,
    REFERENCES,
    st.integers(1, 800).map(nested),
    st.lists(SCALARS | REFERENCES, max_size=3),
    st.dictionaries(st.sampled_from(["", "a", "codes", "values", 5, None]), SCALARS | ARRAYS),
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Each container of a tree, with each place in it."""
    inside = list(tree) if isinstance(tree, dict) else range(len(tree))
    here = [(tree, at) for at in inside]
    return here + [
        place for at in inside if isinstance(tree[at], dict | list) for place in places(tree[at])
    ]


def change_one(draw: st.DataObject, tree: Any) -> None:
    holder, at = draw.draw(st.sampled_from(places(tree)), "place")
    holder[at] = draw.draw(VALUES, "value")


def read_all(path: Path) -> None:
    with DatasetReader.open(path) as reader:
        for key in list(reader.keys()):
            assert isinstance(key, str)
        for _ in read_in_every_way(path):
            pass
        for name in reader.index:
            assert len(reader.index[name]) == len(reader)


FUZZ = settings(
    max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@FUZZ
@given(st.data())
def test_any_change_of_a_head_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tree = {**FACTS, "tags": ["a", {"b": [1]}], "blob": reference(0, BLOB)}
    change_one(data, tree)
    try:
        encoded = encode(tree)
    except (TypeError, ValueError):
        return  # not even a forger can write this
    path = tmp_path_factory.mktemp("forged") / "d"
    read_all(forge(path, {"k": encoded}, payloads=BLOB))
    verify_dataset(path)


@FUZZ
@given(st.data())
def test_any_change_of_an_index_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("forged") / "d"
    codes = {"codes": np.zeros(1, np.int8), "values": ["a"]}
    columns = {"duration": np.ones(1), "n": np.ones(1, np.uint8), "speaker": codes}
    forge(path, {"k": FACTS}, columns=columns, index=lambda tree: change_one(data, tree))
    with suppress(DatasetError):
        read_all(path)
    verify_dataset(path)


def test_metadata_of_more_samples_than_the_index_can_hold_is_refused(tmp_path: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["samples"] = tree["shards"][0]["samples"] = 10**30

    with pytest.raises(MetadataError, match="impossible sizes"):
        DatasetReader.open(forge(tmp_path / "d", {"k": FACTS}, metadata=change))


def test_a_payload_and_a_key_that_are_not_what_the_record_says_are_reported(
    tmp_path: Path,
) -> None:
    spoilt = bytes(len(BLOB))
    records = {key: {KEY: key, "b": reference(0, BLOB)} for key in ("l", "m")}
    forge(tmp_path, {"k": {KEY: "other"}, **records}, payloads=spoilt)
    reasons = [problem.reason for problem in verify_dataset(tmp_path)]
    assert any("record 0 calls itself 'other', the index 'k'" in reason for reason in reasons)
    for record in ("record 1 'l'", "record 2 'm'"):
        assert any(f"{record}: checksum of a payload" in reason for reason in reasons)
