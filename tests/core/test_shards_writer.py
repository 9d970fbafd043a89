"""Writing a dataset: the same bytes each time, taken up again after any end, nothing lost."""

import fcntl
import json
import multiprocessing
import os
import shutil
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiomdb.errors import (
    CorruptShardError,
    OptionsChangedError,
    OutputBusyError,
    OutputExistsError,
    OutputWriteError,
    ProcessingError,
    SourceChangedError,
    UnreadableAudioError,
)
from audiomdb.shards import DatasetReader, DatasetWriter, verify_dataset
from audiomdb.shards.borders import ShardBorders
from audiomdb.shards.key_set import KeySet
from tests.core.conversions import digests

OPTIONS = {"name": "d", "samples_per_shard": 7}


def sample(i):
    return {"audio": np.full(500 + i, i, np.int16), "sample_rate": 8000, "text": f"number {i}"}


def write(path, numbers=range(30), **options):
    with DatasetWriter(path, **{**OPTIONS, **options}) as writer:
        for i in numbers:
            writer.write(f"k{i:03d}", sample(i))
    return writer.finish()


def inodes(path):
    return {shard.name: shard.stat().st_ino for shard in path.glob("shard_*")}


class InterruptedRunError(Exception):
    pass


def test_the_same_input_gives_the_same_bytes_whatever_the_workers(tmp_path):
    for name, workers in (("one", 1), ("two", 2), ("five", 5)):
        write(tmp_path / name, num_workers=workers)
    assert digests(tmp_path / "one") == digests(tmp_path / "two") == digests(tmp_path / "five")


def test_a_shard_larger_than_one_transaction_and_one_map_is_the_same_every_time(tmp_path):
    def noise(i):
        return {"blob": np.random.default_rng(i).bytes(3_000_000)}

    for name in ("a", "b"):
        with DatasetWriter(tmp_path / name, name="d", samples_per_shard=100, map_size=2**20) as w:
            for i in range(25):
                w.write(f"{i:02d}", noise(i))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert verify_dataset(tmp_path / "a") == []
    assert DatasetReader.open(tmp_path / "a")["24"]["blob"] == noise(24)["blob"]


@pytest.mark.parametrize("stop", [0, 3, 7, 8, 20, 29])
def test_a_failed_run_resumes_to_the_bytes_of_an_undisturbed_one(tmp_path, stop):
    write(tmp_path / "undisturbed")
    path = tmp_path / "d"

    def source():
        for i in range(30):
            if i == stop:
                raise InterruptedRunError
            yield i

    with pytest.raises(InterruptedRunError):
        write(path, source())
    assert not (path / "metadata.json").exists()
    kept = inodes(path)
    write(path)
    assert digests(path) == digests(tmp_path / "undisturbed")
    assert kept.items() <= inodes(path).items()


def test_a_failed_run_leaves_only_finished_shards(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "d", (i if i < 20 else 1 // 0 for i in range(30)))
    names = {p.name for p in (tmp_path / "d").iterdir()}
    assert names <= {"shard_00000", "shard_00001"}


def test_writing_a_finished_dataset_again_changes_nothing(tmp_path):
    write(tmp_path / "d")
    before, files = inodes(tmp_path / "d"), digests(tmp_path / "d")
    write(tmp_path / "d")
    assert inodes(tmp_path / "d") == before
    assert digests(tmp_path / "d") == files


def test_a_deleted_shard_is_made_again_and_meanwhile_there_is_no_dataset(tmp_path):
    path = tmp_path / "d"
    write(path)
    files = digests(path)
    shutil.rmtree(path / "shard_00002")
    with pytest.raises(InterruptedRunError):
        write(path, _failing_at(25))
    assert not (path / "metadata.json").exists()
    write(path)
    assert digests(path) == files


def _failing_at(stop):
    for i in range(30):
        if i == stop:
            raise InterruptedRunError
        yield i


@pytest.mark.parametrize(
    "numbers",
    [[0, 2, 1, *range(3, 30)], [*range(6), *range(7, 30)], [0, 1]],
    ids=["order", "one fewer", "shorter"],
)
def test_a_changed_source_is_refused_by_shard(tmp_path, numbers):
    write(tmp_path / "d")
    files = digests(tmp_path / "d")
    with pytest.raises(SourceChangedError, match="shard_00000 was finished by an earlier run"):
        write(tmp_path / "d", numbers)
    assert digests(tmp_path / "d") == files


def test_a_source_that_now_ends_earlier_is_refused(tmp_path):
    write(tmp_path / "d")
    with pytest.raises(SourceChangedError, match="now ends after 2 shards"):
        write(tmp_path / "d", range(14))


def test_changed_options_are_refused_by_name(tmp_path):
    write(tmp_path / "d")
    with pytest.raises(OptionsChangedError, match=r"samples_per_shard=7; this run has .*=8"):
        write(tmp_path / "d", samples_per_shard=8)
    with pytest.raises(OptionsChangedError, match="check_audio='decode'"):
        write(tmp_path / "d", check_audio="header")


def test_a_resumed_run_may_skip_errors(tmp_path):
    def source(writer):
        for i in range(20):
            writer.write(f"k{i:03d}", sample(i) if i != 15 else {"audio": b"broken", "text": ""})

    with (
        pytest.raises(UnreadableAudioError, match="k015"),
        DatasetWriter(tmp_path / "d", **OPTIONS) as writer,
    ):
        source(writer)
    with DatasetWriter(tmp_path / "d", on_error="skip", **OPTIONS) as writer:
        source(writer)
    assert writer.finish().samples == 19
    (line,) = (tmp_path / "d" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "k015"


def test_a_damaged_finished_shard_is_named_with_what_to_do(tmp_path):
    write(tmp_path / "d")
    (tmp_path / "d" / "shard_00001" / "data.mdb").write_bytes(b"rubbish")
    with pytest.raises(CorruptShardError, match=r"shard_00001.*Delete that folder"):
        write(tmp_path / "d")


def test_a_finished_shard_damaged_later_is_not_accepted(tmp_path):
    write(tmp_path / "d")
    shard = DatasetReader.open(tmp_path / "d").shard(1)
    path = tmp_path / "d" / "shard_00001" / "data.mdb"
    data = bytearray(path.read_bytes())
    data[shard.index.payload_offset[3] + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptShardError, match=r"shard_00001.*'k010'.*Delete that folder"):
        write(tmp_path / "d")
    shutil.rmtree(tmp_path / "d" / "shard_00001")
    write(tmp_path / "d")
    assert verify_dataset(tmp_path / "d") == []


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"thesis\.txt"):
        DatasetWriter(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(OutputExistsError, match="is a file"):
        DatasetWriter(tmp_path / "thesis.txt")


def test_two_writers_at_once_are_refused_until_the_first_is_done(tmp_path):
    writer = DatasetWriter(tmp_path / "d", **OPTIONS)
    with pytest.raises(OutputBusyError, match="another process"):
        DatasetWriter(tmp_path / "d", **OPTIONS)
    writer.close()
    write(tmp_path / "d")


def test_a_process_that_was_forked_meanwhile_does_not_keep_the_folder_locked(tmp_path):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        for _ in range(2):
            write(tmp_path / "d", executor=pool)


def test_half_made_shards_of_a_killed_run_are_cleared_away(tmp_path):
    leftover = tmp_path / "d" / ".partial" / "shard_00000"
    leftover.mkdir(parents=True)
    (leftover / "data.mdb").write_bytes(b"half")
    write(tmp_path / "d")
    assert not (tmp_path / "d" / ".partial").exists()
    assert verify_dataset(tmp_path / "d") == []


def test_the_lock_ends_with_its_file_descriptor(tmp_path):
    (tmp_path / "d").mkdir()
    descriptor = os.open(tmp_path / "d", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(OutputBusyError):
        write(tmp_path / "d")
    os.close(descriptor)
    write(tmp_path / "d")


def test_processor_results_are_stored_and_failures_name_the_sample(tmp_path):
    def process(sample):
        if sample["text"] == "number 5":
            raise KeyError("vocabulary")
        return {"length": len(sample["text"]), "peak": float(sample["audio"].max())}

    with pytest.raises(ProcessingError, match="'k005': KeyError: 'vocabulary'"):
        write(tmp_path / "strict", process=process, process_names=("lengths",))
    metadata = write(tmp_path / "d", process=process, process_names=("lengths",), on_error="skip")
    assert metadata.processors == ("lengths",)
    assert metadata.samples == 29
    reader = DatasetReader.open(tmp_path / "d")
    assert reader["k012"] == {"__key__": "k012", "length": 9, "peak": 12.0}
    # Columns describe the source's audio, whatever a processor makes of it.
    assert reader.index["frames"].tolist() == [500 + i for i in range(30) if i != 5]


class Postponing(Executor):
    """Does work when its result is asked for, and notes the most that was waiting at a time."""

    def __init__(self):
        self.waiting = self.most = 0

    def submit(self, call, *args):
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        future = Future()
        future.result = lambda: self.make(call, args)
        return future

    def make(self, call, args):
        self.waiting -= 1
        return call(*args)


@pytest.mark.parametrize(
    ("mib", "samples", "most"), [(0, 3000, 29), (1, 40, 29), (8, 12, 7), (30, 6, 3)]
)
def test_pending_samples_take_little_memory_however_large_they_are(tmp_path, mib, samples, most):
    pool = Postponing()
    blob = bytes(mib * 2**20)
    with DatasetWriter(tmp_path / "d", executor=pool, num_workers=2) as writer:
        for i in range(samples):
            writer.write(f"{i:04d}", {"blob": blob, "i": i})
    assert pool.most == most
    assert len(DatasetReader.open(tmp_path / "d")) == samples


def test_pending_results_take_little_memory_however_large_they_are(tmp_path):
    pool = Postponing()
    with DatasetWriter(
        tmp_path / "d", executor=pool, num_workers=2, process=lambda _: {"made": bytes(2**20)}
    ) as writer:
        for i in range(320):
            writer.write(f"{i:04d}", {"i": i})
    assert pool.most == 3
    assert len(DatasetReader.open(tmp_path / "d")) == 320


def test_large_samples_take_little_memory_however_little_is_made_of_them(tmp_path):
    pool = Postponing()
    with DatasetWriter(
        tmp_path / "d", executor=pool, num_workers=2, process=lambda _: {"made": 1}
    ) as writer:
        for i in range(12):
            writer.write(f"{i:04d}", {"blob": bytes(8 * 2**20)})
    assert pool.most == 8
    assert len(DatasetReader.open(tmp_path / "d")) == 12


def test_a_shard_of_many_gigabytes_is_warned_about_once(tmp_path, monkeypatch):
    monkeypatch.setattr("audiomdb.shards.assembly._HUGE_SHARD_BYTES", 1000)
    with pytest.warns(UserWarning, match=r"shard_00000 .*samples_per_shard") as caught:
        write(tmp_path / "d")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.undo()
        write(tmp_path / "e")


def test_a_huge_shard_is_judged_by_stored_bytes_not_source_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("audiomdb.shards.assembly._HUGE_SHARD_BYTES", 2**20)
    with (
        pytest.warns(UserWarning, match="max_shard_bytes"),
        DatasetWriter(tmp_path / "d", process=lambda _: {"made": bytes(2**20)}) as writer,
    ):
        writer.write("a", {"text": "a"})


@given(
    st.lists(st.integers(0, 100)),
    st.one_of(st.none(), st.integers(1, 10)),
    st.one_of(st.none(), st.integers(1, 200)),
)
def test_borders_keep_both_limits_and_leave_no_gap(sizes, samples, size_limit):
    borders = ShardBorders(samples, size_limit)
    shards = [borders.place(size) for size in sizes]
    assert sorted(set(shards)) == list(range(len(set(shards))))
    assert shards == sorted(shards)
    for shard in set(shards):
        members = [size for size, at in zip(sizes, shards, strict=True) if at == shard]
        assert samples is None or len(members) <= samples
        assert size_limit is None or sum(members) <= size_limit or len(members) == 1


def test_shards_default_to_64_mib_or_the_requested_number_of_samples():
    by_bytes, by_samples = ShardBorders(), ShardBorders(samples_per_shard=2)
    assert [by_bytes.place(mib << 20) for mib in (40, 24, 1, 64, 65)] == [0, 0, 1, 2, 3]
    assert [by_samples.place(mib << 20) for mib in (40, 64, 1)] == [0, 0, 1]


def test_a_shard_closed_by_bytes_ends_at_65536_samples_too():
    # Numbers, lists and dicts count no bytes.
    by_bytes, by_samples = ShardBorders(), ShardBorders(samples_per_shard=100_000)
    by_larger = ShardBorders(max_shard_bytes=2**30)
    for borders, samples in ((by_bytes, 65_536), (by_larger, 65_536), (by_samples, 100_000)):
        shards = [borders.place(0) for _ in range(samples + 1)]
        assert shards == [0] * samples + [1]


@pytest.mark.parametrize("options", [{"samples_per_shard": 0}, {"max_shard_bytes": -1}])
def test_impossible_borders_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="must be a whole number from 1 on"):
        DatasetWriter(tmp_path / "d", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"samples_per_shard": 2.5},
        {"samples_per_shard": True},
        {"max_shard_bytes": "200MB"},
        {"map_size": 2.0**25},
        {"num_workers": "4"},
    ],
)
def test_sizes_and_counts_are_whole_numbers(tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a whole number"):
        DatasetWriter(tmp_path / "d", **options)


def test_sizes_and_counts_may_be_numpy_integers(tmp_path):
    options = {"samples_per_shard": 2, "max_shard_bytes": 5000, "map_size": 2**25, "num_workers": 2}
    fingerprints = []
    for kind in (int, np.int64):
        with DatasetWriter(
            tmp_path / kind.__name__, **{name: kind(value) for name, value in options.items()}
        ) as writer:
            for number in range(5):
                writer.write(f"{number}", {"text": "hello"})
        fingerprints.append(writer.finish().fingerprint)
    assert fingerprints[0] == fingerprints[1]


@given(
    st.lists(st.sets(st.binary(max_size=3), max_size=30), max_size=20),
    st.binary(max_size=3),
    st.sampled_from([2, 10**6]),
)
def test_a_key_set_never_forgets_a_key_nor_its_shard(batches, probe, longest):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("audiomdb.shards.key_set._MAX_MERGED_KEYS", longest)
        keys = KeySet()
        for shard, batch in enumerate(batches):
            keys.add(shard, sorted(batch))
    held = sorted(set().union(*batches))
    found = keys.maybe(held)
    for shard, batch in enumerate(batches):
        assert set(found.get(shard, ())) == batch
    assert bool(keys.maybe([probe])) == (probe in held)


def test_memory_that_cannot_be_mapped_is_not_called_a_full_disk(tmp_path):
    with (
        pytest.raises(OutputWriteError, match=r"no lack of disk.*ulimit -v.*smaller map_size"),
        DatasetWriter(tmp_path / "d", map_size=2**50) as writer,
    ):
        writer.write("a", {"text": "a"})


def test_names_of_processors_are_not_the_letters_of_one(tmp_path):
    with pytest.raises(TypeError, match="process_names is 'whisper', expected a list of names"):
        DatasetWriter(tmp_path / "d", process_names="whisper")
    assert not (tmp_path / "d").exists()
