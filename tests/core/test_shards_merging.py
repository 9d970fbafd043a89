"""Datasets that were made in parts become one, whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import (
    CorruptShardError,
    DatasetNotFoundError,
    DuplicateKeyError,
    InvalidURLError,
    OptionsChangedError,
    OutputBusyError,
    OutputExistsError,
    OutputWriteError,
    SourceChangedError,
    SourceError,
    UnknownColumnError,
)
from audiomdb.shards import (
    DatasetReader,
    DatasetWriter,
    merge_datasets,
    read_metadata,
    verify_dataset,
)
from audiomdb.shards.folder_lock import lock_folder, unlock_folder
from audiomdb.stream import SampleStream
from audiomdb.uploaders.local import LocalUploader
from tests.core.caches import CopyRetriever
from tests.core.conversions import digests, rejections
from tests.core.disks import mounted_disk

KILLED = Path(__file__).parent / "programs" / "killed_merging.py"


def part(folder: Path, numbers: range, *, rejected: bool = False, **fields: Any) -> Path:
    """A dataset of clips in shards of two; with a sample that could not be stored."""
    with DatasetWriter(folder, samples_per_shard=2, on_error="skip") as writer:
        for i in numbers:
            audio = np.full(800 + i, i / 100, np.float32)
            writer.write(f"clip-{i:02d}", {"audio": audio, "sample_rate": 8000, "n": i, **fields})
        if rejected:
            writer.write(f"bad-{folder.name}", {"audio": b"no audio"})
    return folder


@pytest.fixture
def english(tmp_path: Path) -> Path:
    return part(tmp_path / "english", range(10, 15), language="en", rejected=True)


@pytest.fixture
def german(tmp_path: Path) -> Path:
    return part(tmp_path / "german", range(4), language="de", rejected=True)


def is_linked(folder: Path, shard: int, source: Path) -> bool:
    return (folder / f"shard_{shard:05d}" / "data.mdb").samefile(source / "data.mdb")


@pytest.mark.parametrize("copy", [False, True])
def test_a_merged_dataset_holds_the_samples_of_all_in_the_order_given(
    english: Path, german: Path, tmp_path: Path, copy: bool
) -> None:
    before = digests(english), digests(german)
    merged = tmp_path / "speech"
    metadata = merge_datasets([english, str(german)], merged, copy=copy)
    assert metadata == read_metadata(merged)
    assert [shard.path for shard in metadata.shards] == [f"shard_{i:05d}" for i in range(6)]
    assert verify_dataset(merged) == []
    assert (metadata.name, metadata.samples, metadata.rejected) == ("speech", 9, 2)
    with (
        DatasetReader.open(merged) as reader,
        DatasetReader.open(english) as first,
        DatasetReader.open(german) as second,
    ):
        wanted = [*first, *second]
        assert [sample["__key__"] for sample in wanted] == list(reader.keys())
        assert reader.index["language"].tolist() == ["en"] * 5 + ["de"] * 4
        for sample, expected in zip(reader, wanted, strict=True):
            assert reader[sample["__key__"]].keys() == sample.keys() == expected.keys()
            assert np.array_equal(sample["audio"], expected["audio"])
    assert rejections(merged) == [*rejections(english), *rejections(german)]
    assert (digests(english), digests(german)) == before


def test_it_is_the_dataset_that_one_conversion_would_have_made(tmp_path: Path) -> None:
    parts = [part(tmp_path / "a", range(4)), part(tmp_path / "b", range(4, 7))]
    merge_datasets(parts, tmp_path / "merged", name="whole")
    assert digests(tmp_path / "merged") == digests(part(tmp_path / "whole", range(7)))


def test_it_can_be_streamed_and_uploaded(english: Path, german: Path, tmp_path: Path) -> None:
    merged = tmp_path / "speech"
    merge_datasets([english, german], merged)
    with SampleStream(merged, shuffle=True, where=lambda c: c["language"] == "de") as stream:
        assert sorted(sample["n"] for sample in stream) == [0, 1, 2, 3]
    LocalUploader(tmp_path / "disk").upload_dir(merged)
    assert digests(tmp_path / "disk") == digests(merged)


def test_shards_are_links_that_outlive_the_parts(
    english: Path, german: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "speech"
    merge_datasets([english, german], merged)
    assert is_linked(merged, 0, english / "shard_00000")
    assert is_linked(merged, 4, german / "shard_00001")
    shutil.rmtree(english)
    shutil.rmtree(german)
    assert verify_dataset(merged) == []


def test_copies_share_nothing_with_the_parts(
    english: Path, german: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    merged = tmp_path / "speech"
    with caplog.at_level(logging.INFO, "audiomdb"):
        merge_datasets([english, german], merged, copy=True)
    assert caplog.text == ""  # who asked for copies is not told of links
    with (english / "shard_00000" / "data.mdb").open("r+b") as file:
        file.write(b"spoilt")
    assert verify_dataset(merged) == []


def test_where_no_links_can_be_made_shards_are_copied(
    english: Path,
    german: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    merged = tmp_path / "speech"
    with caplog.at_level(logging.INFO, "audiomdb"):
        merge_datasets([english, german], merged)
    assert [record.message for record in caplog.records] == [
        f"{merged} allows no links to {english / 'shard_00000'}: copying"
    ]
    assert verify_dataset(merged) == []


def test_a_part_whose_files_are_symbolic_links_is_linked_to_what_they_lead_to(
    english: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshot"
    shutil.copytree(english, snapshot)
    data = snapshot / "shard_00000" / "data.mdb"
    data.unlink()
    data.symlink_to("../../english/shard_00000/data.mdb")
    merge_datasets([snapshot], tmp_path / "merged")
    assert not (tmp_path / "merged" / "shard_00000" / "data.mdb").is_symlink()
    assert is_linked(tmp_path / "merged", 0, english / "shard_00000")


def test_a_column_that_one_part_left_out_is_in_none(tmp_path: Path) -> None:
    long = part(tmp_path / "long", range(2), note="x" * 2000, speaker="ann")
    short = part(tmp_path / "short", range(2, 4), note="short")
    merge_datasets([long, short], tmp_path / "merged")
    index = DatasetReader.open(tmp_path / "merged").index
    assert "note" not in index
    with pytest.raises(UnknownColumnError, match="2000 bytes"):
        index["note"]
    assert index["speaker"].tolist() == ["ann", "ann", None, None]
    assert verify_dataset(tmp_path / "merged") == []


def test_features_are_those_of_all_parts(tmp_path: Path) -> None:
    one = part(tmp_path / "one", range(2), vector=np.zeros((2, 3), np.float32))
    other = part(tmp_path / "other", range(2, 4), vector=np.zeros((4, 3), np.float32), tag=None)
    metadata = merge_datasets([one, other], tmp_path / "merged")
    assert metadata.features["vector"].shape == (None, 3)
    assert metadata.features["tag"].types == ("null",)


def test_a_dataset_without_samples_adds_nothing(english: Path, tmp_path: Path) -> None:
    nothing = part(tmp_path / "nothing", range(0))
    assert merge_datasets([nothing, english, nothing], tmp_path / "merged").samples == 5
    assert verify_dataset(tmp_path / "merged") == []
    assert merge_datasets([nothing, nothing], tmp_path / "none").samples == 0
    assert verify_dataset(tmp_path / "none") == []


def test_a_key_of_two_parts_is_named_with_both(english: Path, tmp_path: Path) -> None:
    other = part(tmp_path / "other", range(13, 16))
    with pytest.raises(DuplicateKeyError) as caught:
        merge_datasets([english, other], tmp_path / "merged")
    assert "key 'clip-13' occurs twice" in str(caught.value)
    assert f"{english / 'shard_00001'} and {other / 'shard_00000'}" in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_one_part_given_twice_has_all_keys_twice(english: Path, tmp_path: Path) -> None:
    with pytest.raises(DuplicateKeyError, match="'clip-10' occurs twice"):
        merge_datasets([english, english], tmp_path / "merged")


def test_parts_of_different_processors_are_refused(english: Path, tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "loud", process_names=("Loudness", "Pitch")) as writer:
        writer.write("a", {"n": 1})
    with pytest.raises(SourceError) as caught:
        merge_datasets([english, tmp_path / "loud"], tmp_path / "merged")
    assert f"{english} was made with no processor" in str(caught.value)
    assert f"{tmp_path / 'loud'} with the processors Loudness, Pitch" in str(caught.value)
    assert not (tmp_path / "merged").exists()
    assert merge_datasets([tmp_path / "loud"], tmp_path / "merged").processors == (
        "Loudness",
        "Pitch",
    )


def test_what_is_no_list_of_datasets_is_refused(english: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_datasets([], output)
    with pytest.raises(TypeError, match="expected a list of folders"):
        merge_datasets(str(english), output)
    with pytest.raises(InvalidURLError, match=r"s3://bucket/x is a URL, .* pull the dataset"):
        merge_datasets([english, "s3://bucket/x"], output)
    with pytest.raises(InvalidURLError, match="audiomdb upload"):
        merge_datasets([english], "s3://bucket/x")
    with pytest.raises(DatasetNotFoundError, match="nowhere: the folder does not exist"):
        merge_datasets([english, tmp_path / "nowhere"], output)
    (english / "metadata.json").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"no metadata\.json, which is written last"):
        merge_datasets([english], output)
    assert not output.exists()


def test_a_cache_is_told_from_a_dataset(english: Path, tmp_path: Path) -> None:
    retriever = CopyRetriever(english, cache_dir=tmp_path / "cache")
    with closing(retriever):
        assert len(list(retriever.open())) == 5
    with pytest.raises(CorruptShardError, match="the cache of a dataset at a URL, pull"):
        merge_datasets([retriever.cache_dir], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("copy", [False, True])
def test_a_shard_that_is_cut_off_is_found_before_anything_is_written(
    english: Path, german: Path, tmp_path: Path, copy: bool
) -> None:
    data = german / "shard_00001" / "data.mdb"
    os.truncate(data, data.stat().st_size - 4096)
    with pytest.raises(CorruptShardError, match=r"german/shard_00001/data\.mdb has "):
        merge_datasets([english, german], tmp_path / "merged", copy=copy)
    assert not (tmp_path / "merged").exists()


def test_a_damaged_shard_is_not_copied(english: Path, german: Path, tmp_path: Path) -> None:
    data = german / "shard_00000" / "data.mdb"
    whole = data.read_bytes()
    where = whole.index(np.full(4, 0.01, np.float32).tobytes())
    data.write_bytes(whole[:where] + b"\xff" + whole[where + 1 :])
    with pytest.raises(CorruptShardError, match=r"german/shard_00000/data\.mdb has sha256 "):
        merge_datasets([english, german], tmp_path / "merged", copy=True)
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == [
        "shard_00000",
        "shard_00001",
        "shard_00002",
    ]
    data.write_bytes(whole)
    merge_datasets([english, german], tmp_path / "merged", copy=True)
    assert verify_dataset(tmp_path / "merged") == []


@pytest.mark.parametrize("how", ["link", "copy"])
def test_killed_at_any_step_and_run_again_it_is_the_same(how: str, tmp_path: Path) -> None:
    parts = [part(tmp_path / "a", range(2)), part(tmp_path / "b", range(2, 3), rejected=True)]
    wanted = tmp_path / "wanted"
    merge_datasets(parts, wanted, name="merged")
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    subprocess.run([sys.executable, KILLED, outputs, how, *parts], check=True)
    steps = len(list(outputs.iterdir()))
    assert steps > 20
    for number in range(1, steps + 1):
        output = outputs / str(number)
        if (output / "metadata.json").exists():
            assert verify_dataset(output) == []
        merge_datasets(parts, output, name="merged", copy=how == "copy")
        assert digests(output) == digests(wanted)


def test_a_merge_that_was_stopped_keeps_what_is_there(
    english: Path, german: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "speech"
    merge_datasets([english, german], merged, copy=True)
    (merged / "metadata.json").unlink()
    shutil.rmtree(merged / "shard_00003")
    kept = (merged / "shard_00002" / "data.mdb").stat().st_ino
    merge_datasets([english, german], merged)
    assert (merged / "shard_00002" / "data.mdb").stat().st_ino == kept
    assert is_linked(merged, 3, german / "shard_00000")
    assert verify_dataset(merged) == []


@pytest.mark.parametrize("copy", [False, True])
def test_a_complete_output_is_left_as_it_is(
    english: Path, german: Path, tmp_path: Path, copy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    merged = tmp_path / "speech"
    metadata = merge_datasets([english, german], merged, copy=copy)
    written = (merged / "metadata.json").stat().st_ino
    with caplog.at_level(logging.INFO, "audiomdb"):
        assert merge_datasets([english, german], merged, copy=copy) == metadata
    assert [record.message for record in caplog.records] == [f"{merged} holds this dataset already"]
    assert (merged / "metadata.json").stat().st_ino == written


@pytest.mark.parametrize("lost", ["index.bin", "rejected.jsonl", "metadata.json", "shard_00001"])
def test_what_a_complete_output_has_lost_is_made_again(
    lost: str, english: Path, german: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "speech"
    merge_datasets([english, german], merged)
    whole = digests(merged)
    path = merged / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    merge_datasets([english, german], merged)
    assert digests(merged) == whole


def test_an_index_that_was_damaged_is_made_again(english: Path, tmp_path: Path) -> None:
    merged = tmp_path / "speech"
    merge_datasets([english], merged)
    whole = digests(merged)
    with (merged / "index.bin").open("r+b") as file:
        file.write(b"spoilt")
    merge_datasets([english], merged)
    assert digests(merged) == whole


def test_an_unfinished_merge_of_more_parts_is_not_taken_over(
    english: Path, german: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "speech"
    merge_datasets([english, german], merged)
    (merged / "metadata.json").unlink()
    for shard in (4, 5):
        shutil.rmtree(merged / f"shard_{shard:05d}")
    before = digests(merged)
    with pytest.raises(OutputExistsError, match="none of those that are merged"):
        merge_datasets([english], merged)
    assert digests(merged) == before


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
def test_the_output_may_have_a_name_without_a_utf8_form(english: Path, tmp_path: Path) -> None:
    merged = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    assert merge_datasets([english], merged).name == "\\udcff"
    assert verify_dataset(merged) == []


def test_a_complete_output_can_be_given_another_name(english: Path, tmp_path: Path) -> None:
    merge_datasets([english], tmp_path / "merged")
    assert merge_datasets([english], tmp_path / "merged", name="Read speech").name == "Read speech"
    assert read_metadata(tmp_path / "merged").name == "Read speech"


def test_links_do_not_count_as_copies(english: Path, tmp_path: Path) -> None:
    merge_datasets([english], tmp_path / "merged")
    with pytest.raises(OptionsChangedError, match=r"is a link to .*english/shard_00000"):
        merge_datasets([english], tmp_path / "merged", copy=True)


def test_another_dataset_in_the_output_stays(english: Path, german: Path, tmp_path: Path) -> None:
    merged = tmp_path / "speech"
    merge_datasets([english, german], merged)
    whole = digests(merged)
    for others in ([german, english], [english], [part(tmp_path / "more", range(20, 22))]):
        with pytest.raises(OutputExistsError, match="speech holds another dataset"):
            merge_datasets(others, merged)
        assert digests(merged) == whole


@pytest.mark.parametrize("numbers", [range(20, 22), range(30, 50)], ids=["fewer", "more"])
def test_shards_of_an_unfinished_conversion_stay(
    english: Path, tmp_path: Path, numbers: range
) -> None:
    unfinished = part(tmp_path / "unfinished", numbers)
    (unfinished / "metadata.json").unlink()
    before = digests(unfinished)
    with pytest.raises(OutputExistsError, match=r"of another dataset\. Delete that folder"):
        merge_datasets([english], unfinished)
    assert digests(unfinished) == before


def test_the_last_shard_is_compared_before_the_first_is_brought(
    english: Path, tmp_path: Path
) -> None:
    other = part(tmp_path / "other", range(10, 15), language="fr")
    for name in ("metadata.json", "index.bin"):
        (other / name).unlink()
    shutil.rmtree(other / "shard_00000")
    before = digests(other)
    with pytest.raises(OutputExistsError, match="shard_00001 is not"):
        merge_datasets([english], other)
    assert digests(other) == before


def test_a_folder_of_other_files_is_refused(english: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputExistsError, match=r"holds 'thesis\.txt' and no AudioMDB dataset"):
        merge_datasets([english], tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_output_in_one_of_the_parts_is_refused(
    english: Path, german: Path, tmp_path: Path
) -> None:
    before = digests(german)
    (tmp_path / "link").symlink_to(german)
    for output in (german, german / "merged", tmp_path / "link" / "a" / "b", tmp_path / "link"):
        with pytest.raises(OutputExistsError, match="german or lies in it"):
            merge_datasets([english, german], output)
    assert digests(german) == before
    assert not (german / "merged").exists()


def test_an_output_that_another_process_writes_to_is_refused(english: Path, tmp_path: Path) -> None:
    lock, _ = lock_folder(tmp_path / "merged")
    try:
        with pytest.raises(OutputBusyError):
            merge_datasets([english], tmp_path / "merged")
    finally:
        unlock_folder(lock)


def test_a_full_disk_costs_no_shard_that_is_there(english: Path, tmp_path: Path) -> None:
    size = read_metadata(english).bytes
    with mounted_disk(tmp_path / "disk", f"{size * 2}") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(size * 3 // 2))
        with pytest.raises(OutputWriteError, match="make room and run the same merge again"):
            merge_datasets([english], disk / "merged", name="english")
        assert 0 < len(list((disk / "merged").glob("shard_*"))) < 3
        filler.unlink()
        merge_datasets([english], disk / "merged", name="english")
        assert digests(disk / "merged") == digests(english)


def test_a_later_conversion_into_a_merged_dataset_says_what_differs(tmp_path: Path) -> None:
    parts = [part(tmp_path / "a", range(4)), part(tmp_path / "b", range(4, 7))]
    merged = tmp_path / "merged"
    merge_datasets(parts, merged)
    whole = digests(merged)
    with pytest.raises(SourceChangedError, match=r"shard_00002 .* source now ends after 2 shards"):
        part(merged, range(4))
    with pytest.raises(SourceChangedError, match=r"shard_00000 .* differs"):
        part(merged, range(4, 7))
    with pytest.raises(OptionsChangedError, match="samples_per_shard=2; this run has"):
        DatasetWriter(merged, samples_per_shard=3)
    assert digests(merged) == whole
    part(merged, range(7))
    assert digests(merged) == whole
