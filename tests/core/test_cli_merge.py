"""`merge`: makes one dataset of several, and says what it made, or why not."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from audiomdb.cli import main
from audiomdb.shards import DatasetWriter, read_metadata, verify_dataset
from tests.commands import files, output, run_command, run_in_terminal
from tests.core.caches import CopyRetriever


def part(folder: Path, *keys: str) -> Path:
    with DatasetWriter(folder, samples_per_shard=1) as writer:
        for key in keys:
            audio = np.full(400, len(key), np.float32)
            writer.write(key, {"audio": audio, "sample_rate": 16_000})
    return folder


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return [part(tmp_path / "part-0", "a", "bb"), part(tmp_path / "part-1", "ccc")]


def test_it_says_what_it_made(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "speech"
    printed = output(capsys, "merge", *parts, merged)
    stored = read_metadata(merged)
    assert printed.startswith(f"{merged}: 3 samples in 3 shards, ")
    assert printed.endswith(" kB, of 2 datasets\n")
    assert stored.name == "speech"
    assert verify_dataset(merged) == []
    output(capsys, "verify", merged)


def test_a_field_of_two_types_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, speaker in (("week-1", "3"), ("week-2", 3)):
        with DatasetWriter(tmp_path / name) as writer:
            writer.write(f"{name}-clip", {"speaker_id": speaker})
    weeks = (tmp_path / "week-1", tmp_path / "week-2")
    said = f"audiomdb: field 'speaker_id' is str in {weeks[0]} and int in {weeks[1]}: "
    assert said in output(capsys, "merge", *weeks, tmp_path / "all")


def test_programs_get_the_same_as_json(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "speech"
    facts = json.loads(output(capsys, "merge", *parts, merged, "--name", "Read", "--json"))
    assert facts.pop("elapsed_s") >= 0
    metadata = read_metadata(merged)
    assert facts == {
        "sources": list(map(str, parts)),
        "folder": str(merged),
        "name": "Read",
        "samples": 3,
        "rejected": 0,
        "shards": 3,
        "stored_bytes": metadata.bytes + metadata.index.bytes,
    }


def test_shards_are_links_unless_copies_are_asked_for(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = parts[0] / "shard_00000" / "data.mdb"
    for name, options, linked in (("links", (), True), ("copies", ("--copy",), False)):
        output(capsys, "merge", *options, *parts, tmp_path / name)
        merged = tmp_path / name / "shard_00000" / "data.mdb"
        assert merged.samefile(original) is linked
        assert merged.read_bytes() == original.read_bytes()


def test_given_again_the_command_says_that_nothing_was_left_to_do(
    parts: list[Path], tmp_path: Path
) -> None:
    merged = tmp_path / "speech"
    assert run_command("merge", *parts, merged).stderr == ""
    before = files(merged)
    again = run_command("merge", *parts, merged, "--json")
    assert again.stderr == f"audiomdb: {merged} holds this dataset already\n"
    assert json.loads(again.stdout)["samples"] == 3
    assert files(merged) == before


def test_a_key_that_occurs_twice_is_named(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = part(tmp_path / "part-2", "dd", "bb")
    message = output(capsys, "merge", *parts, other, tmp_path / "speech", code=1)
    assert "key 'bb' occurs twice" in message
    assert f"{parts[0] / 'shard_00001'} and {other / 'shard_00001'} hold it" in message
    assert not (tmp_path / "speech").exists()


def test_who_forgets_the_output_is_told_what_was_taken_for_it(
    parts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(parts[1])
    message = output(capsys, "merge", *parts, code=1)
    assert f"{parts[1]} holds another dataset" in message
    assert f"{parts[1]} is taken for OUTPUT, because it comes last" in message
    assert files(parts[1]) == before
    assert "required: OUTPUT" in output(capsys, "merge", parts[0], code=2)


def test_what_is_no_folder_of_a_dataset_is_told_from_one(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "speech"
    message = output(capsys, "merge", parts[0], "s3://bucket/part-1", merged, code=2)
    assert "s3://bucket/part-1 is a URL, expected a folder: pull the dataset first" in message
    retriever = CopyRetriever(parts[1], cache_dir=tmp_path / "cache")
    with closing(retriever):
        retriever.open()
    message = output(capsys, "merge", parts[0], retriever.cache_dir, merged, code=2)
    assert f"{retriever.cache_dir} is the cache of a dataset" in message
    assert "pull the dataset into a folder first" in message
    message = output(capsys, "merge", parts[0], tmp_path / "part-7", merged, code=1)
    assert f"no dataset at {tmp_path / 'part-7'}: the folder does not exist" in message
    assert not merged.exists()


def test_a_terminal_shows_how_far_the_copies_are(parts: list[Path], tmp_path: Path) -> None:
    code = "import sys; from audiomdb.cli import main; sys.exit(main(sys.argv[1:]))"
    seen = run_in_terminal(code, "merge", "--copy", *parts, tmp_path / "speech")
    assert "comparing keys: 100%" in seen
    assert "merging: 100%" in seen


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(
    parts: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    merged = tmp_path / "speech"
    with monkeypatch.context() as patched:
        patched.setattr("audiomdb.shards.completion.write_metadata", interrupted)
        assert main(["merge", *map(str, parts), str(merged)]) == 130
    assert "give the same command again to go on" in capsys.readouterr().err
    output(capsys, "merge", *parts, merged)
    assert verify_dataset(merged) == []
