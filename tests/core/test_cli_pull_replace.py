"""`pull --replace` makes a mirror of an older dataset one of the new dataset."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audiomdb.errors import CorruptShardError
from audiomdb.shards import DatasetReader, merge_datasets, verify_dataset
from tests.commands import files, output
from tests.core.conversions import numbered_clips

KILLED = Path(__file__).parent / "programs" / "killed_pulling.py"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Four shards, the last without a sample."""
    return numbered_clips(tmp_path / "first", range(6), rejected=True)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Two shards."""
    return numbered_clips(tmp_path / "second", range(6, 10))


@pytest.fixture
def third(tmp_path: Path) -> Path:
    """One shard."""
    return numbered_clips(tmp_path / "third", range(10, 12))


def joined(folder: Path, *parts: Path) -> Path:
    merge_datasets(parts, folder, name="speech", copy=True)
    return folder


def inodes(folder: Path) -> dict[str, int]:
    """The number of each shard's file by its SHA-256: it changes if the file is written anew."""
    entries = DatasetReader.open(folder).metadata.shards
    return {e.sha256: (folder / e.path / "data.mdb").stat().st_ino for e in entries}


def test_a_mirror_of_an_older_version_is_replaced_only_on_request(
    first: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror"
    output(capsys, "pull", joined(tmp_path / "old", first), mirror)
    new = joined(tmp_path / "new", first, second)
    before = files(mirror)
    message = output(capsys, "pull", new, mirror, code=1)
    assert "holds another dataset, or another version of this one" in message
    assert "give --replace" in message
    assert files(mirror) == before
    assert not (mirror / ".pull").exists()


def test_only_what_a_grown_dataset_has_more_is_fetched(
    first: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror"
    output(capsys, "pull", joined(tmp_path / "old", first), mirror)
    new, before = joined(tmp_path / "new", first, second), inodes(mirror)
    facts = json.loads(output(capsys, "pull", new, mirror, "--replace", "--json"))
    assert (facts["shards"], facts["fetched_shards"]) == (6, 2)
    assert files(mirror) == files(new)
    assert before.items() <= inodes(mirror).items()
    assert output(capsys, "pull", new, mirror, "--replace").endswith("6 shards had been there\n")


def test_shards_with_other_numbers_are_moved(
    first: Path, second: Path, third: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in a circle, and where there is one shard fewer."""
    mirror = tmp_path / "mirror"
    output(capsys, "pull", joined(tmp_path / "old", first, second), mirror)
    new, before = joined(tmp_path / "new", second, third, first), inodes(mirror)
    facts = json.loads(output(capsys, "pull", new, mirror, "--replace", "--json"))
    assert facts["fetched_shards"] == 1
    assert files(mirror) == files(new)
    assert before.items() <= inodes(mirror).items()
    output(capsys, "pull", second, mirror, "--replace")
    assert files(mirror) == files(second)


def test_files_that_are_not_the_datasets_stay(
    first: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror"
    output(capsys, "pull", first, mirror)
    (mirror / "README.md").write_text("mine")
    (mirror / "shard_00002" / "notes.txt").write_text("mine")
    output(capsys, "pull", second, mirror, "--replace")
    mine = {"README.md": b"mine", "shard_00002/notes.txt": b"mine"}
    assert files(mirror) == {**files(second), **mine}


def test_what_a_linked_shard_leads_to_stays(
    first: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror"
    output(capsys, "pull", first, mirror)
    for number in (0, 2):
        name = f"shard_{number:05d}"
        (mirror / name).rename(tmp_path / f"elsewhere-{number}")
        (mirror / name).symlink_to(tmp_path / f"elsewhere-{number}")
    before = files(tmp_path / "elsewhere-0"), files(tmp_path / "elsewhere-2")
    new = joined(tmp_path / "new", second)
    output(capsys, "pull", new, mirror, "--replace")
    assert files(mirror) == files(new)
    assert (files(tmp_path / "elsewhere-0"), files(tmp_path / "elsewhere-2")) == before


def test_something_unreadable_in_place_of_a_dataset_is_replaced(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "metadata.json").write_text("no JSON")
    output(capsys, "pull", first, mirror, "--replace")
    assert files(mirror) == files(first)


def test_a_folder_of_other_files_is_refused_even_with_replace(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    said = output(capsys, "pull", first, mine, "--replace", code=1)
    assert "holds 'notes.txt'" in said


def test_the_old_dataset_stays_until_all_of_the_new_one_has_arrived(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror"
    old = numbered_clips(tmp_path / "old", range(6), seed=100)
    output(capsys, "pull", old, mirror)
    shard = first / "shard_00002" / "data.mdb"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"x")
    again = ("pull", first, mirror, "--replace", "--workers", "1")
    assert "what has arrived is kept" in output(capsys, *again, code=1)
    there = files(mirror)
    assert files(old).items() <= there.items()
    assert all(name.startswith(".pull/") for name in there.keys() - files(old).keys())
    shard.write_bytes(whole)
    assert output(capsys, *again).endswith("; 2 shards had been there\n")
    assert files(mirror) == files(first)


def test_a_killed_replacement_shows_one_whole_dataset_or_none_and_goes_on(
    first: Path, second: Path, third: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = joined(tmp_path / "old", first, second)
    changed = numbered_clips(tmp_path / "changed", range(20, 24), seed=100)
    new = joined(tmp_path / "new", second, changed, third)
    copies = tmp_path / "copies"
    command: list[str | Path] = [sys.executable, KILLED, new, old, copies]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    datasets = [(folder / "metadata.json").read_bytes() for folder in (old, new)]
    seen = []
    steps = len(list(copies.iterdir()))
    assert steps > 20
    for number in range(1, steps + 1):
        copy = copies / str(number)
        metadata = copy / "metadata.json"
        if metadata.exists():
            assert verify_dataset(copy) == []
            seen.append(datasets.index(metadata.read_bytes()))
        output(capsys, "pull", new, copy, "--replace")
        assert files(copy) == files(new), f"killed in step {number}"
        assert not (copy / ".pull").exists()
    assert seen == sorted(seen)
    assert set(seen) == {0, 1}
    assert len(seen) < steps, "for a moment there was no dataset"


def test_readers_of_the_old_dataset_keep_open_shards_and_are_told_to_open_it_again(
    first: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror"
    output(capsys, "pull", first, mirror)
    reader = DatasetReader.open(mirror)
    assert np.all(reader["clip-00"]["audio"] == 0)
    output(capsys, "pull", second, mirror, "--replace")
    assert np.all(reader["clip-01"]["audio"] == 1)
    with pytest.raises(CorruptShardError, match=r"open it again"):
        reader["clip-05"]
    assert np.all(DatasetReader.open(mirror)["clip-06"]["audio"] == 6)
