"""What a writer leaves alone, takes back and says of its folder."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import (
    ConversionError,
    DatasetNotFoundError,
    DuplicateKeyError,
    MetadataError,
    OutputExistsError,
    OutputWriteError,
    SampleError,
    SourceChangedError,
)
from audiomdb.shards import DatasetReader, DatasetWriter, verify_dataset
from audiomdb.shards.finished import FinishedShard, check_shard
from audiomdb.shards.shard_reader import ShardReader
from tests.core.caches import CopyRetriever
from tests.core.conversions import digests, rejections


def write(path: Path, numbers: range = range(6), **options: Any) -> None:
    with DatasetWriter(path, samples_per_shard=2, **options) as writer:
        for i in numbers:
            writer.write(f"k{i}", {"text": f"number {i}"})


class Tensor:
    """As far as a writer is concerned: something that makes an array of itself."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.nbytes = array.nbytes

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._array


@pytest.mark.parametrize(
    "theirs", [["metadata.json"], ["metadata.json", ".partial"], [".partial", "thesis.txt"]]
)
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, theirs: list[str]) -> None:
    for name in theirs:
        if name == ".partial":
            (tmp_path / name).mkdir()
            (tmp_path / name / "mine.txt").write_text("precious")
        else:
            (tmp_path / name).write_text('{"my": "project"}')
    before = digests(tmp_path)
    with pytest.raises(OutputExistsError, match="no AudioMDB dataset"):
        write(tmp_path)
    assert digests(tmp_path) == before


def test_the_cache_of_a_dataset_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "d")
    retriever = CopyRetriever(tmp_path / "d", cache_dir=tmp_path / "c")
    retriever.open()[0]
    cache = Path(retriever.cache_dir)
    retriever.close()
    before = digests(cache)
    with pytest.raises(OutputExistsError, match="no AudioMDB dataset"):
        write(cache)
    assert digests(cache) == before


def test_leftovers_of_a_run_killed_before_its_first_shard_are_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".partial" / "shard_00000").mkdir(parents=True)
    (tmp_path / ".index.bin.tmp").write_bytes(b"half an index of no samples")
    write(tmp_path)
    assert verify_dataset(tmp_path) == []
    assert not list(tmp_path.glob(".*"))


def test_unremovable_leftovers_of_a_killed_run_are_reported_with_their_path(
    tmp_path: Path, read_only: Callable[[Path], Path]
) -> None:
    (tmp_path / ".partial" / "shard_00000").mkdir(parents=True)
    folder = read_only(tmp_path)
    with pytest.raises(OutputWriteError, match=f"^cannot write to {re.escape(str(folder))}: "):
        write(folder)


def test_metadata_is_removed_if_one_of_its_shards_is_missing(tmp_path: Path) -> None:
    write(tmp_path)
    shutil.rmtree(tmp_path / "shard_00002")
    with pytest.raises(KeyboardInterrupt), DatasetWriter(tmp_path, samples_per_shard=2):
        raise KeyboardInterrupt
    with pytest.raises(DatasetNotFoundError):
        DatasetReader.open(tmp_path)
    write(tmp_path)
    assert verify_dataset(tmp_path) == []


def test_metadata_is_removed_before_the_index_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, range(4))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("audiomdb.shards.completion.write_metadata", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path)
    with pytest.raises(DatasetNotFoundError):
        DatasetReader.open(tmp_path)
    write(tmp_path)
    assert len(DatasetReader.open(tmp_path)) == 6


def test_an_output_folder_without_shards_is_removed(tmp_path: Path) -> None:
    with pytest.raises(SampleError), DatasetWriter(tmp_path / "new") as writer:
        writer.write("k", {"value": object()})
    assert not (tmp_path / "new").exists()


def test_a_finished_writer_refuses_samples(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "a") as writer:
        writer.write("k", {"x": 1})
        writer.finish()
        with pytest.raises(ConversionError, match="was finished before"):
            writer.write("l", {"x": 2})
        assert writer.finish().samples == 1
    closed = DatasetWriter(tmp_path / "b")
    closed.close()
    for late in (closed.finish, lambda: closed.write("k", {"x": 1})):
        with pytest.raises(ConversionError, match="was closed before"):
            late()


def test_a_finish_that_failed_is_not_tried_twice(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "d")
    writer.write("k", {"value": object()})
    with pytest.raises(SampleError):
        writer.finish()
    with pytest.raises(ConversionError, match="was closed before"):
        writer.finish()


def test_a_dropped_writer_releases_its_folder(tmp_path: Path) -> None:
    writer: DatasetWriter | None = DatasetWriter(tmp_path)
    before = len(list(Path("/dev/fd").iterdir()))
    assert writer is not None
    del writer
    gc.collect()
    assert len(list(Path("/dev/fd").iterdir())) < before
    write(tmp_path)


def test_a_writer_that_is_closed_unfinished_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = DatasetWriter(tmp_path / "d")
    writer.close()  # nothing was written
    assert caplog.text == ""
    writer = DatasetWriter(tmp_path / "d")
    writer.write("a", {"n": 1})
    writer.close()
    assert "was closed without finish(), so there is no dataset" in caplog.text
    caplog.clear()
    with pytest.raises(ZeroDivisionError), DatasetWriter(tmp_path / "d") as writer:
        writer.write("a", {"n": 1 // 0})
    write(tmp_path / "d")
    assert caplog.text == ""


def test_closing_a_forked_copy_of_a_writer_removes_no_shard(tmp_path: Path) -> None:
    code = """
import os, sys
from audiomdb.shards import DatasetWriter

with DatasetWriter(sys.argv[1]) as writer:
    writer.write("a", {"n": 1})
    child = os.fork()
    if child == 0:
        writer.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")], check=True)
    assert verify_dataset(tmp_path / "d") == []


def test_options_are_the_same_whatever_sequence_holds_them(tmp_path: Path) -> None:
    write(tmp_path, options={"languages": ("de", "en")})
    write(tmp_path, options={"languages": ("de", "en")})
    write(tmp_path, options={"languages": ["de", "en"]})


def test_a_map_that_is_too_small_grows(tmp_path: Path) -> None:
    write(tmp_path / "d", map_size=1)
    assert verify_dataset(tmp_path / "d") == []
    with pytest.raises(ValueError, match="map_size must be a whole number from 1 on, not -1"):
        write(tmp_path / "e", map_size=-1)


def test_a_folder_may_have_a_name_without_a_utf8_form(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    write(folder)
    assert verify_dataset(folder) == []


def test_a_sample_of_another_dataset_adds_no_second_key_column(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with DatasetWriter(tmp_path / "b") as writer:
        for sample in DatasetReader.open(tmp_path / "a"):
            writer.write(sample["__key__"], sample)
    assert list(DatasetReader.open(tmp_path / "b").index) == ["__key__", "text_length"]


def test_a_tensor_counts_as_the_array_it_is(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, max_shard_bytes=2_100_000) as writer:
        for i in range(6):
            audio = Tensor(np.zeros(250_000, np.float32))
            other = Tensor(np.zeros((2, i), np.float32 if i else np.float64))
            writer.write(f"{i}", {"audio": audio, "sample_rate": 16000, "other": other})
    metadata = DatasetReader.open(tmp_path).metadata
    assert [shard.samples for shard in metadata.shards] == [2, 2, 2]
    assert metadata.features["other"].dtype is None
    assert metadata.features["other"].shape == (2, None)


def test_records_of_the_same_size_are_not_of_the_same_dtype(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path) as writer:
        writer.write("a", {"v": np.zeros(3, [("left", "<i4"), ("right", "<i4")])})
        writer.write("b", {"v": np.zeros(3, [("peak", "<f8")])})
    assert writer.finish().features["v"].dtype is None


def test_features_have_the_types_that_reading_gives(tmp_path: Path) -> None:
    values = {"bytes": np.bytes_(b"ab"), "str": np.str_("ab"), "scalar": np.float64(0.5)}
    with DatasetWriter(tmp_path) as writer:
        writer.write("a", values)
    reader = DatasetReader.open(tmp_path)
    assert [type(reader["a"][name]) for name in values] == [bytes, str, np.float64]
    features = reader.metadata.features
    assert {name: feature.types for name, feature in features.items()} == {
        name: (name,) for name in values
    }


def test_an_infinite_duration_leaves_a_dataset_that_can_be_opened(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path) as writer:
        writer.write("a", {"duration": float("inf")})
        writer.write("b", {"duration": 2.5})
    reader = DatasetReader.open(tmp_path)
    assert reader.metadata.duration == 2.5
    assert reader["a"]["duration"] == float("inf")
    assert verify_dataset(tmp_path) == []


def test_a_key_that_occurs_twice_names_both(tmp_path: Path) -> None:
    audio = Path(__file__).parents[1] / "data" / "audio" / "flac" / "flac_s16_level5_16k_mono.flac"
    with DatasetWriter(tmp_path, samples_per_shard=2, on_error="skip") as writer:
        for key in ("a", "a", "b", "c", "a"):
            writer.write(key, {"audio": audio})
    same_shard, other_shard = rejections(tmp_path)
    assert same_shard["reason"] == f"{audio}: key 'a' occurs twice"
    assert same_shard["source"] == str(audio)
    assert other_shard["reason"] == f"{audio}: key 'a' occurs twice: shard_00000 holds it already"
    assert other_shard["source"] == str(audio)


def test_a_caught_writer_error_is_raised_again_unchanged(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "d")
    for i in range(192):
        with contextlib.suppress(DuplicateKeyError):
            writer.write(f"{min(i, 150)}", {"i": i})
    for _ in range(2):
        with pytest.raises(DuplicateKeyError, match=r"^key '150' occurs twice$"):
            writer.flush()
    writer.close()


def test_new_shards_do_not_wait_until_those_of_earlier_runs_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    made = threading.Event()

    def held(directory: Path) -> FinishedShard:
        assert made.wait(60), "a shard waits for the check of one that was there before"
        return check_shard(directory)

    monkeypatch.setattr("audiomdb.shards.assembly.check_shard", held)
    with DatasetWriter(tmp_path, samples_per_shard=2, on_error="skip") as writer:
        for i in (*range(6), 0, *range(6, 15)):  # k0 is of a shard that is not checked yet
            writer.write(f"k{i}", {"text": f"number {i}"})
        writer.flush()
        assert (tmp_path / "shard_00004").exists()
        made.set()
    assert verify_dataset(tmp_path) == []
    assert [rejection["key"] for rejection in rejections(tmp_path)] == ["k0"]


def test_a_repeated_key_is_looked_up_only_in_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    class Recorded(ShardReader):
        def __init__(self, directory: Path, *entry: Any) -> None:
            opened.append(directory)
            super().__init__(directory, *entry)

    monkeypatch.setattr("audiomdb.shards.assembly.ShardReader", Recorded)
    with DatasetWriter(tmp_path, samples_per_shard=2, on_error="skip") as writer:
        for key in ("a0", "z0", "a1", "z1", "a2", "z2", "m", "a2"):
            writer.write(key, {"text": key})
    published = [folder for folder in opened if folder.parent == tmp_path]
    assert published == [tmp_path / "shard_00002"]


def test_earlier_shards_are_checked_by_one_thread_per_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, range(8))
    together = threading.Barrier(2, timeout=60)

    def held(directory: Path) -> FinishedShard:
        together.wait()
        return check_shard(directory)

    monkeypatch.setattr("audiomdb.shards.assembly.check_shard", held)
    monkeypatch.setattr("audiomdb.shards.dataset_writer.usable_cores", lambda: 2)
    write(tmp_path, range(8), num_workers=2)
    assert verify_dataset(tmp_path) == []


def test_checking_earlier_shards_shows_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = threading.Event()

    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            if "checking" in text:
                shown.set()
            return super().write(text)

    def held(directory: Path) -> FinishedShard:
        assert shown.wait(60), "nothing was said while a shard was checked"
        return check_shard(directory)

    write(tmp_path)
    monkeypatch.setattr("audiomdb.shards.assembly.check_shard", held)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    write(tmp_path, progress=True)
    said = terminal.getvalue()
    assert "opening" in said
    assert "3/3" in said.rpartition("checking")[2]


def test_shared_facts_of_finished_shards_are_held_once(tmp_path: Path) -> None:
    write(tmp_path)
    one, other = (check_shard(tmp_path / f"shard_0000{i}") for i in (0, 1))
    assert one.features is other.features
    assert one.journal.options == {}


def test_a_failed_run_stops_checking_earlier_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    begun: list[str] = []
    opened, never = threading.Event(), threading.Event()

    def held(directory: Path) -> FinishedShard:
        begun.append(directory.name)
        opened.wait()
        while not writer._assembly._checks._works.empty():
            never.wait(0.01)
        return check_shard(directory)

    monkeypatch.setattr("audiomdb.shards.assembly.check_shard", held)
    writer = DatasetWriter(tmp_path, samples_per_shard=2, num_workers=1)
    opened.set()
    writer.write("k0", {"text": "other"})
    writer.write("k1", {"text": "number 1"})
    with pytest.raises(SourceChangedError):
        writer.write("k2", {"text": "number 2"})
    writer.close()
    assert begun in ([], ["shard_00000"])
    assert writer.finished_shards == len(begun)
    assert len(writer.journals()) == len(begun)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["shards"][0].update(first_key="zzz"), "keys go from 'k0' to 'k1'"),
        (lambda m: m["shards"][0].update(duration=1.0), "last 0.0 s, metadata says 1.0"),
        (lambda m: m.update(bytes=5), "it says 5 bytes"),
        (lambda m: m.update(duration=1e9), "it says 1000000000.0 seconds of audio"),
        (lambda m: m.update(rejected=99), "it says 99 rejected samples"),
        (lambda m: m.update(features={}), "it says nothing of the field"),
        (lambda m: m["index"].update(sha256="0" * 64), "metadata says 0000"),
    ],
)
def test_metadata_that_contradicts_its_shards_is_found(
    tmp_path: Path, change: Any, says: str
) -> None:
    write(tmp_path)
    path = tmp_path / "metadata.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))
    problems = verify_dataset(tmp_path)
    assert any(says in problem.reason for problem in problems), problems


def test_damaged_metadata_is_reported_as_damaged(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "metadata.json").write_text("{")
    with pytest.raises(MetadataError):
        verify_dataset(tmp_path)
    write(tmp_path)  # shards are there: it is ours, and made again
    assert verify_dataset(tmp_path) == []


def test_durations_are_added_up_one_by_one_on_every_python(tmp_path: Path) -> None:
    # What the built-in sum gives up to Python 3.11; since 3.12 it gives 1.0.
    naive = 0.9999999999999999
    with DatasetWriter(tmp_path / "out", samples_per_shard=1) as writer:
        for i in range(10):
            writer.write(f"k{i}", {"duration": 0.1})
    assert writer.finish().duration == naive
    with DatasetWriter(tmp_path / "one") as writer:
        for i in range(10):
            writer.write(f"k{i}", {"duration": 0.1})
    metadata = writer.finish()
    assert (metadata.duration, metadata.shards[0].duration) == (naive, naive)


def test_durations_beyond_float_range_become_the_largest_float(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "out", samples_per_shard=1) as writer:
        for i in range(3):
            writer.write(f"k{i}", {"duration": 1.5e308})
    assert writer.finish().duration == sys.float_info.max
    assert verify_dataset(tmp_path / "out") == []


@pytest.mark.parametrize(("change", "problems"), [(1e-12, 0), (-1e-12, 0), (1e-3, 2)])
def test_durations_may_have_been_rounded_by_another_writer(
    tmp_path: Path, change: float, problems: int
) -> None:
    write(tmp_path / "out")
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    metadata["duration"] -= change
    metadata["shards"][1]["duration"] += change
    (tmp_path / "out" / "metadata.json").write_text(json.dumps(metadata))
    found = [problem.reason for problem in verify_dataset(tmp_path / "out")]
    assert len([reason for reason in found if "last" in reason or "seconds" in reason]) == problems


def test_metadata_is_shown_in_a_line_however_many_shards_it_has(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "digits", samples_per_shard=1) as writer:
        for i in range(30):
            tone = np.full(8000, i / 64, np.float32)
            writer.write(f"{i:02d}", {"audio": tone, "sample_rate": 8000})
    metadata = DatasetReader.open(tmp_path / "digits").metadata
    assert repr(metadata) == "<Metadata of 'digits': 30 samples in 30 shards, 30.0 s>"
    assert metadata == DatasetReader.open(tmp_path / "digits").metadata
