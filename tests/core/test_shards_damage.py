"""Damage gives an error that names the shard and what is wrong; never a crash or a wrong value."""

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from audiomdb.errors import (
    CorruptRecordError,
    CorruptShardError,
    DatasetError,
    FormatVersionError,
    MetadataError,
)
from audiomdb.shards import DatasetReader, DatasetWriter, ShardReader, verify_dataset
from audiomdb.shards.codec import HEAD_PREFIX, pack_head

TREE_PAGES = (b"\x01\x00", b"\x02\x00")
"""Flags, at byte 10 of a page of an LMDB file, of pages that hold pointers: branches and leaves."""


def values(i):
    return {"audio": np.full(900, i, np.int16), "sample_rate": 8000, "text": f"number {i}"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "d"
    with DatasetWriter(path, samples_per_shard=60) as writer:
        for i in range(120):
            writer.write(f"k{i:03d}", values(i))
    return path


@pytest.fixture
def dataset(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "d")


def data_file(dataset, shard=0):
    return dataset / f"shard_{shard:05d}" / "data.mdb"


def edit_metadata(dataset, change):
    path = dataset / "metadata.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def read_everything(dataset):
    """Every value that can be had, or an error of ours for it; anything else fails the test."""
    right = wrong = 0
    try:
        reader = DatasetReader.open(dataset)
    except DatasetError:
        return 0, 1
    for i in range(len(reader)):
        try:
            found = reader[i]
        except DatasetError:
            wrong += 1
            continue
        assert found["text"] == f"number {i}"
        assert found["audio"].tolist() == [i] * 900
        right += 1
    try:
        assert len(reader.index["duration"]) == 120
    except DatasetError:
        wrong += 1
    return right, wrong


def test_the_whole_dataset_has_no_problem(whole):
    done = []
    assert verify_dataset(whole, on_shard=done.append) == []
    assert [entry.path for entry in done] == ["shard_00000", "shard_00001"]
    assert read_everything(whole) == (120, 0)


def test_a_shard_cut_at_any_page_is_refused_by_size(dataset):
    path = data_file(dataset)
    data = path.read_bytes()
    for end in [*range(0, len(data), 4096), len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(CorruptShardError, match=rf"shard_00000.* has {end} bytes, metadata"):
            DatasetReader.open(dataset)[0]
    assert read_everything(dataset) == (60, 60)
    assert verify_dataset(dataset)[0].file == "shard_00000/data.mdb"


def test_a_cut_shard_is_an_error_without_metadata_too(dataset):
    path = data_file(dataset)
    data = path.read_bytes()
    for end in range(0, len(data), 4096):
        path.write_bytes(data[:end])
        try:
            shard = ShardReader(path.parent)
            list(shard)
        except CorruptShardError as exc:
            assert "shard_00000" in str(exc)  # noqa: PT017


def test_flipped_bytes_anywhere_never_give_a_wrong_value(dataset):
    path = data_file(dataset)
    data = path.read_bytes()
    chance = random.Random(7)
    noticed = 0
    for _ in range(150):
        spoilt = bytearray(data)
        for _ in range(chance.choice([1, 1, 4])):
            spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        path.write_bytes(spoilt)
        read_everything(dataset)
        noticed += bool(verify_dataset(dataset))
    assert noticed == 150


def test_flipped_bytes_are_survived_without_metadata_too(dataset):
    path = data_file(dataset)
    data = path.read_bytes()
    chance = random.Random(11)
    # The pages that lead to the index: the first two and the last ones.
    tail = len(data) - 6 * 4096
    for _ in range(300):
        spoilt = bytearray(data)
        at = chance.choice([chance.randrange(8192), chance.randrange(tail, len(data))])
        spoilt[at] = chance.randrange(256)
        path.write_bytes(spoilt)
        try:
            for i, sample in enumerate(ShardReader(path.parent)):
                assert sample["text"] == f"number {i}"
        except CorruptShardError:
            pass


@pytest.mark.parametrize("points_to", [0, 4092, 65534])
def test_a_page_that_points_outside_itself_is_reported_and_not_followed(dataset, points_to):
    path = data_file(dataset)
    data = path.read_bytes()
    reported = 0
    for at in range(8192, len(data), 4096):
        if data[at + 10 : at + 12] in TREE_PAGES:
            spoilt = bytearray(data)
            spoilt[at + 16 : at + 18] = points_to.to_bytes(2, "little")
            path.write_bytes(spoilt)
            reasons = [problem.reason for problem in verify_dataset(dataset)]
            reported += any("points outside itself" in reason for reason in reasons)
    assert reported >= 3  # the main database and the two named ones


@pytest.mark.parametrize("content", [b"", b"hello, this is a text file\n" * 400, bytes(262144)])
def test_another_file_in_the_shards_place_is_refused(dataset, content):
    data_file(dataset).write_bytes(content)
    with pytest.raises(CorruptShardError, match="shard_00000"):
        ShardReader(dataset / "shard_00000")
    with pytest.raises(CorruptShardError, match="shard_00000"):
        DatasetReader.open(dataset)[0]
    assert DatasetReader.open(dataset)[60]["text"] == "number 60"


def test_a_zero_filled_tail_of_the_right_size_is_noticed(dataset):
    path = data_file(dataset)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert read_everything(dataset)[1] > 0
    assert verify_dataset(dataset)


def test_a_missing_file_or_folder_is_named(dataset):
    data_file(dataset).unlink()
    with pytest.raises(CorruptShardError, match=r"shard_00000/data\.mdb is missing"):
        DatasetReader.open(dataset)[0]
    shutil.rmtree(dataset / "shard_00001")
    with pytest.raises(CorruptShardError, match=r"shard_00001/data\.mdb is missing"):
        DatasetReader.open(dataset)[119]
    assert [problem.file for problem in verify_dataset(dataset)] == [
        "shard_00000/data.mdb",
        "shard_00001/data.mdb",
    ]


def test_a_shard_in_anothers_place_is_noticed(dataset):
    a, b = data_file(dataset, 0), data_file(dataset, 1)
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)
    # Same size and counts: only the digest can tell, and verify looks at it.
    assert {problem.file for problem in verify_dataset(dataset)} == {
        "shard_00000/data.mdb",
        "shard_00001/data.mdb",
    }


def test_one_damaged_record_leaves_the_others_readable(dataset):
    reader = DatasetReader.open(dataset)
    shard = reader.shard(0)
    path = data_file(dataset)
    data = bytearray(path.read_bytes())
    data[shard.index.payload_offset[7] + 20] ^= 4
    path.write_bytes(data)
    reader = DatasetReader.open(dataset)
    with pytest.raises(CorruptRecordError, match=r"shard_00000: record 7 'k007': checksum"):
        reader[7]
    assert reader.read(7, fields=["text"])["text"] == "number 7"
    assert reader.read(7, verify=False)["audio"][5] == 7
    assert reader[8]["text"] == "number 8"


def test_a_damaged_index_file_is_named_and_samples_stay_readable(dataset):
    path = dataset / "index.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    reader = DatasetReader.open(dataset)
    with pytest.raises(CorruptShardError, match=r"index\.bin, part shard_00000"):
        reader.index["duration"]
    assert reader[100]["text"] == "number 100"
    last = len(reader.metadata.shards) - 1
    assert reader.index.parts[last].key(0) == reader.metadata.shards[last].first_key
    path.write_bytes(data[:-5])
    with pytest.raises(MetadataError, match="bytes, metadata says"):
        DatasetReader.open(dataset).index["duration"]
    path.unlink()
    with pytest.raises(CorruptShardError, match=r"index\.bin is missing"):
        DatasetReader.open(dataset).index["duration"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(samples=7), "its shards say 120"),
        (lambda m: m["shards"][0].update(path="../elsewhere"), "not of the form"),
        (lambda m: m["shards"][0].update(path="/etc"), "not of the form"),
        (lambda m: m["shards"][0].update(path="shard_000000"), "not of the form"),
        (lambda m: m["shards"][1].update(path="shard_00000"), "twice"),
        (lambda m: m["shards"][0].update(bytes=-1), "impossible sizes"),
        (lambda m: m["shards"][0].update(index_offset=2**40), "impossible sizes"),
        (lambda m: m["shards"][0].update(index_bytes=2**40), "impossible sizes"),
        (lambda m: m["shards"][0].update(samples=-1), "impossible sizes"),
        (lambda m: m["shards"][0].update(samples=10**9), "impossible sizes"),
        (lambda m: m["shards"][0].update(bytes=10**30), "bytes, which none has"),
        (lambda m: m["index"].update(bytes=10), "its index has 10 bytes, its shards say"),
        (lambda m: m["shards"][0].update(sha256="zz"), "sha256"),
        (lambda m: m["shards"][0].update(samples="many"), r"shards\[0\].samples|samples"),
        (lambda m: m.pop("shards"), "shards"),
        (lambda m: m["index"].update(path="other.bin"), "its index is 'other.bin', not index.bin"),
        (lambda m: m.update(format="zip"), r"AudioMDB dataset \('format' is 'zip'\)"),
        (lambda m: m.pop("format"), r"AudioMDB dataset \('format' is missing\)"),
        (lambda m: m.update(format_version="1"), "format_version"),
    ],
)
def test_metadata_that_contradicts_itself_is_refused(dataset, change, says):
    edit_metadata(dataset, change)
    with pytest.raises(MetadataError, match=says) as caught:
        DatasetReader.open(dataset)
    assert "metadata.json" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_metadata_that_is_no_json_object_is_refused(dataset, content):
    (dataset / "metadata.json").write_bytes(content)
    with pytest.raises(MetadataError, match=r"metadata\.json"):
        DatasetReader.open(dataset)


@pytest.mark.parametrize("text", [b'"d"', b"k000"])
def test_metadata_whose_text_is_damaged_is_refused(dataset, text):
    path = dataset / "metadata.json"
    raw = path.read_bytes()
    assert text in raw
    path.write_bytes(raw.replace(text, text[:1] + b"\xff" + text[2:]))
    with pytest.raises(MetadataError, match=r"metadata\.json"):
        DatasetReader.open(dataset)


def test_false_durations_in_metadata_are_reported(dataset):
    edit_metadata(dataset, lambda m: m["shards"][1].update(duration=m["shards"][1]["duration"] + 1))
    shard, total = verify_dataset(dataset)
    assert (shard.file, total.file) == ("shard_00001/data.mdb", "metadata.json")
    assert re.match(r"its samples last 6\.7\d* s, metadata says 7\.7", shard.reason)
    assert "seconds of audio" in total.reason


def test_a_key_that_lmdb_and_the_index_spell_differently_is_reported(dataset):
    path = data_file(dataset)
    data = path.read_bytes()
    reasons = []
    for place in re.finditer(b"k007", data):  # in LMDB's tree, the index and the record
        path.write_bytes(data[: place.end() - 1] + b"X" + data[place.end() :])
        reasons += [problem.reason for problem in verify_dataset(dataset)]
    assert any("LMDB and the index disagree on record 7" in reason for reason in reasons)


def test_false_metadata_of_a_shard_is_found_when_it_is_opened(dataset):
    edit_metadata(dataset, lambda m: (m["shards"][0].update(samples=59), m.update(samples=119)))
    with pytest.raises(CorruptShardError, match="holds 60 samples, metadata says 59"):
        DatasetReader.open(dataset)[0]
    edit_metadata(dataset, lambda m: m["shards"][1].update(index_offset=4096))
    with pytest.raises(CorruptShardError, match="shard_00001: no index where one is expected"):
        DatasetReader.open(dataset)[119 - 10]


def test_a_newer_format_asks_for_an_upgrade(dataset):
    edit_metadata(dataset, lambda m: m.update(format_version=2))
    with pytest.raises(FormatVersionError, match="Upgrade audiomdb-core"):
        DatasetReader.open(dataset)


# Each of these ends the process (SIGSEGV, SIGBUS) when done with LMDB environments and their views.
VIEW_OUTLIVES = {
    "close": "reader.close(); del reader; gc.collect()",
    "deletion of the dataset": "shutil.rmtree(path); reader.close()",
    "replacement of the shard": """
other = path / "shard_00000" / "other"; other.write_bytes(b"x" * 10)
os.replace(other, path / "shard_00000" / "data.mdb"); reader.close()""",
    "a fork": """
child = os.fork()
if child == 0:
    reader.close(); gc.collect()
    assert bytes(view) == expected
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0""",
    "a second reader's end": "other = DatasetReader.open(path); other[0]; del other; gc.collect()",
    "eviction of its shard": "reader._open.clear(); gc.collect()",
}


@pytest.mark.parametrize("event", VIEW_OUTLIVES)
def test_a_view_outlives_reader_fork_and_file(dataset, event):
    code = f"""
import gc, os, shutil, sys
from pathlib import Path
from audiomdb.shards import DatasetReader
path = Path(sys.argv[1])
reader = DatasetReader.open(path)
view = reader.read(0, copy=False)["audio"]
assert type(view).__name__ == "ndarray" and not view.flags.owndata
view = memoryview(view)
expected = bytes(reader[0]["audio"])
{VIEW_OUTLIVES[event]}
assert bytes(view) == expected
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(dataset)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_truncating_before_opening_cannot_end_the_process(dataset):
    code = """
import sys
from pathlib import Path
from audiomdb.errors import DatasetError
from audiomdb.shards import DatasetReader, ShardReader
path = Path(sys.argv[1])
data = (path / "shard_00000/data.mdb").read_bytes()
for end in range(0, len(data), 4096):
    with (path / "shard_00000/data.mdb").open("r+b") as file:
        file.truncate(0); file.write(data[:end])
    shard = path / "shard_00000"
    for attempt in (lambda: DatasetReader.open(path)[0], lambda: list(ShardReader(shard))):
        try:
            attempt()
        except DatasetError:
            pass
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(dataset)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fields", [None, ["text", "audio"]])
def test_a_disk_that_fails_is_reported_with_shard_and_key(dataset, monkeypatch, fields):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    shard = ShardReader(dataset / "shard_00000")
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(CorruptRecordError, match=r"shard_00000: record 0 '.*': .*Input/output"):
        shard.read(0, fields=fields, apart=True)


@pytest.mark.parametrize("block", [0, 70_000])
def test_a_head_that_says_otherwise_where_its_payloads_lie_is_reported(dataset, block):
    path = dataset / "shard_00000" / "data.mdb"
    index = ShardReader(path.parent).index
    at, length = index.head_offset[0], index.head_bytes[0]
    octets = bytearray(path.read_bytes())
    body = bytes(octets[at + HEAD_PREFIX.size : at + length])
    octets[at : at + length] = pack_head(body, block, 160_000)
    path.write_bytes(octets)
    reasons = [problem.reason for problem in verify_dataset(dataset)]
    assert "record 0 and the index disagree on where its payloads lie" in reasons


def test_a_check_that_is_interrupted_leaves_no_thread_behind(dataset):
    def interrupt(_):
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt) as caught:
        verify_dataset(dataset, on_shard=interrupt)
    assert set(threading.enumerate()) <= before
    assert caught.traceback


def test_each_read_copies_and_checks_or_not_whatever_the_one_before_did(dataset):
    path = dataset / "shard_00000" / "data.mdb"
    octets = bytearray(path.read_bytes())
    octets[ShardReader(path.parent).index.payload_offset[0]] ^= 1
    path.write_bytes(octets)
    shard = ShardReader(path.parent)
    for copy, verify in 2 * ((False, False), (True, False), (False, True), (True, True)):
        assert shard.read(1, copy=copy, verify=verify)["audio"].flags.writeable == copy
        if verify:
            with pytest.raises(CorruptRecordError, match="checksum of a payload"):
                shard.read(0, copy=copy)
        else:
            shard.read(0, copy=copy, verify=False)
