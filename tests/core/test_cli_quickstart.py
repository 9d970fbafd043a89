"""`quickstart`: the main job, end to end, and its own judge."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from audiomdb.cli import main
from audiomdb.shards import DatasetReader, DatasetWriter, verify_dataset
from tests.commands import run_command


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and time of change of each file."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_makes_a_whole_dataset_twice_in_a_row(tmp_path: Path) -> None:
    first = run_command("quickstart", cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    dataset = tmp_path / "audiomdb-quickstart"
    assert verify_dataset(dataset) == []
    assert len(DatasetReader.open(dataset)) == 160
    before = files_of(dataset / "shard_00000")

    second = run_command("quickstart", cwd=tmp_path)
    assert (second.returncode, second.stderr) == (0, "")
    assert "earlier run" in second.stdout
    assert files_of(dataset / "shard_00000") == before


def test_it_loads_no_training_framework(tmp_path: Path) -> None:
    code = (
        "import sys; from audiomdb.cli import main\n"
        "assert main(['quickstart']) == 0\n"
        "heavy = {'torch', 'transformers', 'boto3', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL
    )


def test_the_summary_tells_clips_speakers_sizes_and_rates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "with a space"
    assert main(["quickstart", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert f"{output}, 1 shard" in printed
    assert "160, 1 min 07 s of speech" in printed
    assert "4: george (40), jackson (40), nicolas (40), theo (40)" in printed
    assert re.search(r"1\.1 MB of recordings, 1\.\d MB stored \(\+\d+\.\d%", printed)
    for stage in ("convert", "verify", "stream"):
        assert re.search(rf"^{stage} +[\d.]+ s +[\d,]+ +[\d,]+ ", printed, re.MULTILINE)
    assert "160 clips came in 10 batches, each complete and exactly once" in printed


def test_the_commands_suggested_by_quickstart_work(tmp_path: Path) -> None:
    printed = run_command("quickstart", "--output", "it's mine", cwd=tmp_path).stdout
    shell, python = printed.split("Next, in a shell:\n")[1].split("or in ")
    commands = [shlex.split(line) for line in shell.splitlines()]
    assert len(commands) == 3
    for name, *args in commands:
        assert Path(name).name == "audiomdb"
        done = run_command(*args, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    program, *lines = python.splitlines()
    code = "\n".join(line.removeprefix("  ") for line in lines)
    done = subprocess.run(
        [program.removesuffix(":"), "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[0] == "three"
    assert len(done.stdout.splitlines()) == 161


def test_a_folder_that_holds_something_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch", encoding="utf-8")
    before = files_of(tmp_path)
    assert main(["quickstart", "--output", str(tmp_path)]) == 1
    assert "thesis.txt" in capsys.readouterr().err
    assert files_of(tmp_path) == before


def test_the_dataset_of_somebody_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DatasetWriter(tmp_path / "mine") as writer:
        writer.write("a", {"text": "hello"})
    before = files_of(tmp_path)
    assert main(["quickstart", "--output", str(tmp_path / "mine")]) == 1
    printed = capsys.readouterr().err
    assert "'mine'" in printed
    assert "--output" in printed
    assert files_of(tmp_path) == before


def test_an_empty_folder_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["quickstart", "--output", str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().err == ""


def test_a_run_that_was_cut_short_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quickstart", "--output", str(tmp_path / "demo")]) == 0
    whole = {name: octets for name, (octets, _) in files_of(tmp_path / "demo").items()}
    (tmp_path / "demo" / "metadata.json").unlink()
    (tmp_path / "demo" / "index.bin").unlink()
    assert main(["quickstart", "--output", str(tmp_path / "demo")]) == 0
    assert {name: octets for name, (octets, _) in files_of(tmp_path / "demo").items()} == whole
    assert capsys.readouterr().err == ""


def test_damage_to_its_dataset_is_reported_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quickstart", "--output", str(tmp_path / "demo")]) == 0
    capsys.readouterr()
    data = tmp_path / "demo" / "shard_00000" / "data.mdb"
    octets = bytearray(data.read_bytes())
    shard = DatasetReader.open(tmp_path / "demo").shard(0)
    octets[shard.index.payload_offset[80] + 500] ^= 1
    data.write_bytes(octets)
    assert main(["quickstart", "--output", str(tmp_path / "demo")]) == 1
    printed = capsys.readouterr()
    assert "shard_00000" in printed.out + printed.err
    assert "exactly once" not in printed.out
