"""Writing a dataset and reading it back, by position, by key, in order, from anywhere."""

import multiprocessing
import pickle
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb.errors import (
    DatasetNotFoundError,
    DuplicateKeyError,
    InvalidURLError,
    UnknownColumnError,
    UnknownKeyError,
)
from audiomdb.shards import (
    DatasetReader,
    DatasetWriter,
    ShardReader,
    read_metadata,
    verify_dataset,
)

SPEAKERS = ["ann", "bob", None]


def sample(i):
    return {
        "audio": np.full(100 + i, i, np.int16),
        "sample_rate": 8000,
        "text": "word " * (i % 7),
        "speaker": SPEAKERS[i % 3],
        "snr": None if i % 5 == 0 else i / 2,
        "note": {"blob": bytes([i % 256]) * (300 + i)},
    }


def write(path, numbers, **options):
    with DatasetWriter(path, **options) as writer:
        for i in numbers:
            writer.write(f"clip-{i:04d}", sample(i))
    return writer.finish()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clips"
    write(path, range(250), samples_per_shard=40)
    return path


def test_metadata_says_what_the_dataset_holds(dataset):
    metadata = DatasetReader.open(dataset).metadata
    assert metadata.name == "clips"
    assert metadata.samples == 250
    assert [shard.samples for shard in metadata.shards] == [40, 40, 40, 40, 40, 40, 10]
    assert metadata.duration == pytest.approx(sum(100 + i for i in range(250)) / 8000)
    assert metadata.features["audio"].dtype == "int16"
    assert metadata.features["audio"].shape == (None,)
    assert metadata.features["speaker"].types == ("null", "str")
    assert metadata.features["note"].types == ("dict",)


@pytest.mark.parametrize("i", [0, 1, 39, 40, 123, 249])
def test_samples_are_found_by_positive_and_negative_position_and_key(dataset, i):
    reader = DatasetReader.open(dataset)
    for found in (reader[i], reader[i - 250], reader[f"clip-{i:04d}"]):
        assert found["__key__"] == f"clip-{i:04d}"
        assert np.array_equal(found["audio"], sample(i)["audio"])
        assert found["note"] == sample(i)["note"]
        assert found["frames"] == 100 + i
        assert found["duration"] == (100 + i) / 8000


@pytest.mark.parametrize("position", [250, -251])
def test_positions_outside_are_index_errors(dataset, position):
    with pytest.raises(IndexError, match="250 samples"):
        DatasetReader.open(dataset)[position]


def test_unknown_keys_are_key_errors_that_read_as_a_sentence(dataset):
    reader = DatasetReader.open(dataset)
    assert "clip-0003" in reader
    assert "clip" not in reader
    assert 3 not in reader
    with pytest.raises(UnknownKeyError) as caught:
        reader["clip-9999"]
    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == "no sample 'clip-9999' in dataset 'clips' of 250 samples"


@pytest.mark.parametrize("key", ["", "clip", "clip-0003a", "clip-0039a", "clip-9999", "é"])
def test_a_shard_says_so_when_it_does_not_hold_a_key(dataset, key):
    with pytest.raises(UnknownKeyError, match=f"shard_00000 has no sample {key!r}"):
        ShardReader(dataset / "shard_00000").find(key)


def test_iteration_goes_through_all_samples_in_order(dataset):
    reader = DatasetReader.open(dataset)
    assert [s["__key__"] for s in reader] == [f"clip-{i:04d}" for i in range(250)]
    assert list(reader.keys()) == [reader.key(i) for i in range(250)]


def test_only_the_wanted_fields_are_read(dataset):
    reader = DatasetReader.open(dataset)
    assert reader.read(5, fields=["text"]) == {"__key__": "clip-0005", "text": "word " * 5}
    assert reader.read(5, fields=[]) == {"__key__": "clip-0005"}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize(
    "fields", [None, ["flac"], ["video"], ["note"], ["flac", "note"], ["tags", "video"], ["text"]]
)
def test_fields_are_the_same_however_they_are_read(tmp_path, fields, copy, apart):
    values = {
        "flac": bytes(range(256)) * 20,
        "note": {"blob": b"n" * 300},
        "tags": [b"t" * 400, 7],
        "text": "hello",
        "video": np.arange(1000, dtype=np.int16),
    }
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write("k", values)
    shard = ShardReader(tmp_path / "d" / "shard_00000")
    found = shard.read(0, fields=fields, copy=copy, apart=apart)
    if "flac" in found:
        assert type(found["flac"]) is (bytes if copy else memoryview)
    if "video" in found:
        assert found["video"].flags.writeable == copy
        found["video"], values["video"] = found["video"].tolist(), values["video"].tolist()
    wanted = {name: value for name, value in values.items() if fields is None or name in fields}
    assert found == {"__key__": "k", **wanted}


@pytest.mark.parametrize("fields", ["text", iter(["text"])])
def test_fields_must_be_a_collection_of_names(dataset, fields):
    reader = DatasetReader.open(dataset)
    with pytest.raises(TypeError, match="expected a list of names"):
        reader.read(0, fields=fields)
    with pytest.raises(TypeError, match="expected a list of names"):
        next(reader.scan(fields=fields))


def test_paths_may_be_text(dataset):
    assert read_metadata(str(dataset)) == read_metadata(dataset)
    assert verify_dataset(str(dataset)) == []
    shard = ShardReader(f"{dataset}/shard_00000")
    assert shard.read(0)["__key__"] == shard.index.key(0)
    for function in (read_metadata, verify_dataset):
        with pytest.raises(InvalidURLError, match="s3://bucket/d is a URL"):
            function("s3://bucket/d")


def test_an_index_holds_only_requested_columns_in_memory(tmp_path):
    rows = [{"number": i, **{f"more{at}": f"{i} {at}" for at in range(20)}} for i in range(400)]
    with DatasetWriter(tmp_path / "d", samples_per_shard=2) as writer:
        for i, row in enumerate(rows):
            writer.write(f"clip-{i:04d}", row)
    reader = DatasetReader.open(tmp_path / "d")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        numbers = reader.index["number"]
        held = tracemalloc.get_traced_memory()[0] - before - numbers.nbytes
    finally:
        tracemalloc.stop()
    assert numbers.tolist() == list(range(400))
    lost = 300 if np.__version__.startswith("1.") else 0  # by NumPy 1.26, for each parsed part
    assert held < (200 + lost) * len(reader.metadata.shards)


def test_index_columns_are_arrays_over_all_samples(dataset):
    index = DatasetReader.open(dataset).index
    assert index["duration"].tolist() == [(100 + i) / 8000 for i in range(250)]
    assert index["frames"].dtype == np.int64
    assert index["audio_bytes"].tolist() == [2 * (100 + i) for i in range(250)]
    assert index["text_length"].tolist() == [5 * (i % 7) for i in range(250)]
    assert index["speaker"].tolist() == [SPEAKERS[i % 3] for i in range(250)]
    assert np.isnan(index["snr"][::5]).all()
    assert index["snr"][7] == 3.5
    assert index["__key__"][17] == "clip-0017"
    with pytest.raises(ValueError, match="read-only"):
        index["duration"].sort()  # they are also what filters and plans are made from
    with pytest.raises(UnknownColumnError, match=r"no column 'nope'; it has .*duration"):
        index["nope"]


def test_columns_that_some_shards_lack_are_filled_up(tmp_path):
    with DatasetWriter(tmp_path / "d", samples_per_shard=2) as writer:
        for i, extra in enumerate([{}, {}, {"n": 1}, {"n": 2}, {"s": "x"}, {"s": "y"}]):
            writer.write(f"k{i}", extra)
    index = DatasetReader.open(tmp_path / "d").index
    assert index["s"].tolist() == [None, None, None, None, "x", "y"]
    assert index["n"][2:4].tolist() == [1, 2]
    assert np.isnan(index["n"][[0, 1, 4, 5]]).all()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([2**60 + 1, 2**60 + 2, None, None], object),
        ([2**60 + 1, 5, 7, None], object),
        ([-1, -2, 2**63 + 1, 2**63 + 2], object),
        ([-(2**40), 2, 2**63 + 1, 5], object),
        ([2**62 + 1, 5, 2**63 + 1, 2**63 + 2], np.uint64),
        ([-1, 2, 2**40, 2**60 + 1], np.int64),
        ([1, 2, 2**53, None], np.float64),
        ([True, False, None, None], np.float64),
        ([True, False, 3, 4], np.int64),
        ([True, False, True, True], np.bool_),
    ],
)
def test_numbers_of_several_shards_are_joined_without_a_change(tmp_path, values, dtype):
    with DatasetWriter(tmp_path / "d", samples_per_shard=2) as writer:
        for i, value in enumerate(values):
            writer.write(f"k{i}", {} if value is None else {"n": value})
    column = DatasetReader.open(tmp_path / "d").index["n"]
    assert column.dtype == dtype
    found = [None if v is None or v != v else v for v in column.tolist()]
    assert found == values


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([2**63 - 1, -(2**63)], np.int64),
        ([2**63, 0], np.uint64),
        ([2**64 - 1, 1], np.uint64),
        ([2**63, -1], "neither int64 nor uint64"),
        ([2**53, None], np.float64),
        ([-(2**53), None], np.float64),
        ([2**53 + 1, None], "float64 cannot hold"),
        ([-(2**53) - 1, None], "float64 cannot hold"),
    ],
)
def test_integer_columns_are_exact_or_left_out(tmp_path, values, kept):
    with DatasetWriter(tmp_path / "d") as writer:
        for i, value in enumerate(values):
            writer.write(f"k{i}", {"n": value})
    index = DatasetReader.open(tmp_path / "d").index
    if isinstance(kept, str):
        with pytest.raises(UnknownColumnError, match=kept):
            index["n"]
    else:
        assert index["n"].dtype == kept
        assert [None if v != v else v for v in index["n"].tolist()] == values


def test_a_shard_without_samples_does_not_change_the_dtype_of_a_column(tmp_path):
    with DatasetWriter(tmp_path / "d", samples_per_shard=1, on_error="skip") as writer:
        for i, value in enumerate([2**60 + 1, {"no", "value"}, 2]):
            writer.write(f"k{i}", {"n": value})
    column = DatasetReader.open(tmp_path / "d").index["n"]
    assert (column.dtype, column.tolist()) == (np.int64, [2**60 + 1, 2])


def test_a_column_of_mixed_kinds_is_left_out_with_the_reason(tmp_path):
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write("a", {"v": 1, "long": "x" * 2000})
        writer.write("b", {"v": "one", "long": "y"})
    index = DatasetReader.open(tmp_path / "d").index
    with pytest.raises(UnknownColumnError, match="several kinds: int, str"):
        index["v"]
    with pytest.raises(UnknownColumnError, match="up to 2000 bytes"):
        index["long"]


def test_keys_in_any_order_are_stored_in_key_order(tmp_path):
    numbers = [(7 * i) % 31 for i in range(31)]
    write(tmp_path / "d", numbers, samples_per_shard=10)
    reader = DatasetReader.open(tmp_path / "d")
    for shard in range(4):
        keys = list(reader.shard(shard).index.all_keys())
        assert keys == sorted(keys)
    for i in range(31):
        assert np.array_equal(reader[f"clip-{i:04d}"]["audio"], sample(i)["audio"])
    assert verify_dataset(tmp_path / "d") == []


@settings(max_examples=30)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), unique=True
    ),
    st.integers(1, 6),
)
def test_any_keys_can_be_found_again(tmp_path_factory, keys, per_shard):
    path = tmp_path_factory.mktemp("keys") / "d"
    with DatasetWriter(path, samples_per_shard=per_shard) as writer:
        for i, key in enumerate(keys):
            writer.write(key, {"i": i})
    reader = DatasetReader.open(path)
    assert len(reader) == len(keys)
    for i, key in enumerate(keys):
        assert reader[key]["i"] == i
        assert reader.key(reader.position(key)) == key


def test_a_key_is_found_among_very_many_shards_without_opening_the_others(tmp_path):
    # Every shard holds an early and a late key, so that the ranges of keys exclude none.
    with DatasetWriter(tmp_path / "d", samples_per_shard=2) as writer:
        for i in range(300):
            writer.write(f"a{i:03d}", {"i": i})
            writer.write(f"z{i:03d}", {"i": i})
    reader = DatasetReader.open(tmp_path / "d")
    assert reader["z123"]["i"] == 123
    assert "z1234" not in reader
    assert next(iter(reader.keys())) == "a000"
    assert reader.open_shards == 1


def test_an_empty_dataset_is_a_dataset(tmp_path):
    with DatasetWriter(tmp_path / "d"):
        pass
    reader = DatasetReader.open(tmp_path / "d")
    assert len(reader) == 0
    assert list(reader) == []
    assert reader.index["__key__"].tolist() == []
    assert verify_dataset(tmp_path / "d") == []


def test_a_shard_whose_samples_were_all_rejected_is_empty_and_whole(tmp_path):
    with DatasetWriter(tmp_path / "d", samples_per_shard=1, on_error="skip") as writer:
        writer.write("good", {"n": 1})
        writer.write("bad", {"audio": b"no audio"})
        writer.write("fine", {"n": 2})
    reader = DatasetReader.open(tmp_path / "d")
    assert [shard.samples for shard in reader.metadata.shards] == [1, 0, 1]
    assert [s["__key__"] for s in reader] == ["good", "fine"]
    assert reader["fine"]["n"] == 2
    assert reader.metadata.rejected == 1
    assert verify_dataset(tmp_path / "d") == []


def test_the_shard_is_an_ordinary_lmdb_with_the_users_keys(dataset):
    env = lmdb.open(str(dataset / "shard_00001"), readonly=True, lock=False, max_dbs=2)
    samples = env.open_db(b"samples", create=False)
    with env.begin(db=samples) as transaction:
        keys = list(transaction.cursor().iternext(values=False))
    env.close()
    assert keys == [f"clip-{i:04d}".encode() for i in range(40, 80)]


@pytest.mark.parametrize("seconds", [0.1, 0.3])
def test_short_clips_do_not_pay_for_page_rounding(tmp_path, seconds):
    frames = int(8000 * seconds)
    random = np.random.default_rng(1)
    with DatasetWriter(tmp_path / "d") as writer:
        for i in range(2000):
            audio = random.integers(-9, 9, frames).astype(np.int16)
            writer.write(f"digit-{i:05d}", {"audio": audio, "sample_rate": 8000})
    stored = writer.finish().bytes
    assert stored < 2000 * frames * 2 * 1.25
    if seconds == 0.3:
        assert stored < 2000 * frames * 2 * 1.08


def test_a_value_of_one_gibibyte_survives(tmp_path):
    # Zero pages, so that memory holds it once.
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write("huge", {"blob": bytes(2**30), "one": b"x"})
        writer.write("next", {"blob": b"y" * 1000})
    reader = DatasetReader.open(tmp_path / "d")
    blob = reader.read("huge", copy=False)["blob"]
    assert len(blob) == 2**30
    assert blob[-1] == 0
    assert reader["next"]["blob"] == b"y" * 1000


def test_no_metadata_means_no_dataset(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        DatasetReader.open(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no metadata\.json"):
        DatasetReader.open(tmp_path / "empty")


def test_a_file_in_the_place_of_a_dataset_is_called_one(dataset):
    with pytest.raises(DatasetNotFoundError, match="that is a file"):
        DatasetReader.open(dataset / "metadata.json")


def test_a_key_that_occurs_twice_is_refused_within_and_across_shards(tmp_path):
    for name, per_shard in (("one", 10), ("two", 2)):
        with pytest.raises(DuplicateKeyError, match="'clip-0001' occurs twice"):
            write(tmp_path / name, [0, 1, 2, 3, 1], samples_per_shard=per_shard)
        assert not (tmp_path / name / "metadata.json").exists()


def test_duplicates_are_listed_when_errors_are_skipped(tmp_path):
    metadata = write(tmp_path / "d", [0, 1, 1, 2, 3, 1], samples_per_shard=3, on_error="skip")
    assert metadata.samples == 4
    assert metadata.rejected == 2
    lines = (tmp_path / "d" / "rejected.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert all("occurs twice" in line for line in lines)
    assert "shard_00000 holds it already" in lines[1]


def test_one_process_may_open_a_shard_any_number_of_times(dataset):
    shards = [ShardReader(dataset / "shard_00000") for _ in range(50)]
    views = [shard.read(3, copy=False)["audio"] for shard in shards]
    assert all(np.array_equal(view, sample(3)["audio"]) for view in views)


def test_threads_share_a_reader(dataset):
    reader = DatasetReader.open(dataset)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: reader[i % 250]["audio"][0], range(2000)))
    assert found == [i % 250 for i in range(2000)]


def test_a_relative_path_keeps_its_meaning_after_chdir(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with DatasetWriter("d", samples_per_shard=2) as writer:
        for i in range(6):
            if i == 3:
                monkeypatch.chdir(tmp_path / "elsewhere")
            writer.write(f"clip-{i}", {"text": str(i)})
    assert not list((tmp_path / "elsewhere").iterdir())
    monkeypatch.chdir(tmp_path)
    with DatasetReader.open("d") as reader:
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert [sample["text"] for sample in reader] == ["0", "1", "2", "3", "4", "5"]
        assert list(reader.index["text_length"]) == [1] * 6


def test_a_pickled_reader_opens_the_dataset_again(dataset):
    reader = DatasetReader.open(dataset)
    reader[0]
    again = pickle.loads(pickle.dumps(reader))
    assert again["clip-0100"]["frames"] == 200


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes_read_what_the_parent_has_open(dataset, method):
    reader = DatasetReader.open(dataset)
    view = reader.read(0, copy=False)["audio"]
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        found = pool.starmap(DatasetReader.read, [(reader, i) for i in range(0, 250, 25)])
    assert [one["frames"] for one in found] == [100 + i for i in range(0, 250, 25)]
    assert np.array_equal(view, sample(0)["audio"])
    assert reader[249]["frames"] == 349


def test_a_read_only_folder_can_be_read_and_is_left_as_it_is(dataset, read_only):
    folder = read_only(dataset)
    before = sorted(folder.rglob("*"))
    reader = DatasetReader.open(folder)
    assert sum(1 for _ in reader) == 250
    assert verify_dataset(folder) == []
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("limit", "readers"), [(64, 1), (300, 1), (300, 8)])
@pytest.mark.parametrize("cached", [False, True])
def test_opening_many_shards_stays_within_the_limit_of_open_files(limit, readers, cached, tmp_path):
    code = """
import os, resource, sys
from pathlib import Path
from audiomdb.retrievers.base import BaseRetriever, RemoteFile
from audiomdb.shards import DatasetReader

class Folder(BaseRetriever):
    def __init__(self, folder, **kwargs):
        self.folder = Path(folder)
        super().__init__(**kwargs)
    def open_remote(self, path, *, start=0, validator=None):
        return RemoteFile([(self.folder / path).read_bytes()[start:]])

folder, cache, limit, count, cached = sys.argv[1:]
if cached == "True":
    kept = [Folder(folder, cache_dir=cache) for _ in range(int(count))]
    readers = [retriever.open() for retriever in kept]
else:
    readers = [DatasetReader.open(folder) for _ in range(int(count))]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
for reader in readers:
    assert [reader[i]["i"] for i in range(200)] == list(range(200))
for i in reversed(range(200)):
    for reader in readers:
        assert reader[i]["i"] == i
# What else the process does needs some, too.
rest = [open(os.devnull) for _ in range(int(limit) // 5)]
"""
    with DatasetWriter(tmp_path / "d", samples_per_shard=1) as writer:
        for i in range(200):
            writer.write(f"{i:03d}", {"i": i})
    arguments = [tmp_path / "d", tmp_path / "cache", limit, readers, cached]
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)
