"""The command line against the Hub: look at a dataset, check it, download it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.audio import encode
from audiomdb.shards import DatasetReader, read_metadata

URL = "hf://datasets/user/digits"
CODE = """
    import os, sys, unittest.mock
    from audiomdb.cli import main

    with unittest.mock.patch.dict(os.environ, XDG_CACHE_HOME=sys.argv.pop(1)):
        code = main(sys.argv[1:])
    assert code == 0, code
"""


@pytest.fixture
def run(hub: Any, dataset: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a command where the Hub has a dataset in a folder of a branch; what it printed."""
    hub.add_dataset("user/digits", dataset)
    hub.add_dataset("user/more", dataset, "train/digits")
    hub.repositories["user/more"].branches["v1"] = hub.repositories["user/more"].sha("main")
    hub.requests.clear()

    def run(*arguments: object) -> str:
        return str(hub.run(CODE, tmp_path / "cache", *arguments))

    return run


def asked(hub: Any) -> list[str]:
    """Files that the Hub was asked for since the last time, sorted."""
    paths = [request.partition("/resolve/")[2] for request in hub.requests]
    hub.requests.clear()
    return sorted(path.partition("/")[2] for path in paths if path)


@pytest.mark.parametrize("url", [URL, "hf://datasets/user/more@v1/train/digits"])
def test_info_reads_no_shard(hub: Any, run: Callable[..., str], url: str, dataset: Path) -> None:
    facts = json.loads(run("info", url, "--json"))
    assert (facts["samples"], facts["shards"]) == (6, 3)
    assert [path.rpartition("/")[2] for path in asked(hub)] == ["index.bin", "metadata.json"]
    assert read_metadata(dataset).name in run("info", url)


def test_convert_hf_converts_any_loadable_dataset_with_its_options(
    run: Callable[..., str], tmp_path: Path
) -> None:
    from datasets import Audio, Dataset

    clip = encode(np.zeros(800, np.float32), 16_000, "flac")
    rows = {"audio": [{"bytes": clip, "path": None}] * 2, "said": ["three", "drei"]}
    table = Dataset.from_dict(rows).cast_column("audio", Audio(decode=False))
    (tmp_path / "digits").mkdir()
    table.to_parquet(tmp_path / "digits" / "dev-00000-of-00001.parquet")
    arguments = ("convert", "hf", tmp_path / "digits", tmp_path / "out", "--streaming", "false")
    report = json.loads(
        run(*arguments, "--data-split", "validation", "--text-column", "said", "--json")
    )
    assert report["samples"] == 2
    with DatasetReader.open(tmp_path / "out") as reader:
        assert [sample["text"] for sample in reader] == ["three", "drei"]


def test_ls_reads_the_index_and_no_shard(hub: Any, run: Callable[..., str]) -> None:
    printed = run("ls", URL, "--limit", 2)
    assert "clip-0" in printed
    assert "clip-1" in printed
    assert "clip-2" not in printed
    assert set(asked(hub)) == {"index.bin", "metadata.json"}


def test_a_revision_and_a_folder_may_look_like_numbers(
    hub: Any, run: Callable[..., str], dataset: Path
) -> None:
    repository = hub.add_dataset("user/more", dataset, "2024")
    repository.branches["1.10"] = repository.sha("main")
    printed = run("ls", "hf://datasets/user/more", "-o", "revision=1.10", "-o", "subdir=2024")
    assert "clip-5" in printed


def test_show_reads_the_one_shard_that_it_needs(hub: Any, run: Callable[..., str]) -> None:
    assert "clip-3" in run("show", URL, "clip-3")
    shards = [path for path in asked(hub) if path.endswith(".mdb")]
    assert shards == ["shard_00001/data.mdb"]


def test_verify_reads_all_and_finds_what_is_wrong(
    hub: Any, run: Callable[..., str], dataset: Path
) -> None:
    assert "6 samples" in run("verify", URL)
    assert [path for path in asked(hub) if path.endswith(".mdb")] == [
        f"shard_0000{number}/data.mdb" for number in range(3)
    ]
    path = "shard_00001/data.mdb"
    damaged = bytearray((dataset / path).read_bytes())
    damaged[-1] ^= 1
    hub.add("user/digits", {path: bytes(damaged)})
    failure = hub.failure(CODE, dataset.parent / "no-cache", "verify", URL)
    assert failure.rstrip().endswith("AssertionError: 1")


def test_pull_brings_the_dataset_byte_for_byte(
    hub: Any, run: Callable[..., str], dataset: Path, tmp_path: Path
) -> None:
    run("pull", "hf://datasets/user/more@v1/train/digits", tmp_path / "pulled")
    copy = tmp_path / "pulled"
    for file in dataset.rglob("*"):
        if file.is_file():
            assert (copy / file.relative_to(dataset)).read_bytes() == file.read_bytes()
    with DatasetReader.open(copy) as ours, DatasetReader.open(dataset) as theirs:
        assert [s["text"] for s in ours] == [s["text"] for s in theirs]
    hub.requests.clear()
    run("pull", "hf://datasets/user/more@v1/train/digits", copy)
    assert [path for path in asked(hub) if path.endswith(".mdb")] == []
