"""`convert`: hands its options to the converters, and can be stopped and taken up again."""

from __future__ import annotations

import json
import os
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.audio import encode, probe
from audiomdb.cli import main
from audiomdb.converters.files import FolderConverter
from audiomdb.shards import DatasetReader
from tests.commands import output, run_command

RECORDINGS = Path(str(files("audiomdb.cli"))) / "data" / "fsdd"

INTERRUPTING = """
import os, signal
from pathlib import Path
from audiomdb.processors.base import BaseProcessor

class Interrupting(BaseProcessor):
    def process(self, sample, **kwargs):
        if sample["text"] == "five" and not Path("interrupted").exists():
            Path("interrupted").touch()
            os.kill(os.getpid(), signal.SIGINT)
        return sample

class Loud(BaseProcessor):
    def process(self, sample, **kwargs):
        return {"loud": sample["text"].upper()}

loud = Loud(keep_original=True)
"""


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder of eight clips, two of them in a sub-folder, one with a text."""
    folder = tmp_path / "recordings"
    (folder / "größe").mkdir(parents=True)
    for i in range(6):
        shutil.copy(RECORDINGS / f"{i}_theo_0.wav", folder / f"{i}.wav")
    (folder / "0.txt").write_text("zero\n", encoding="utf-8")
    for i in (6, 7):
        shutil.copy(RECORDINGS / f"{i}_theo_0.wav", folder / "größe" / f"{i} 数.wav")
    return folder


def convert(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    code = main(["convert", *map(str, args), "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


def test_a_folder_becomes_a_dataset(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = convert(capsys, "folder", recordings, tmp_path / "out", "--name", "theo")
    assert (report["samples"], report["rejected"], report["shards"]) == (8, 0, 1)
    assert report["folder"] == str(tmp_path / "out")
    reader = DatasetReader.open(tmp_path / "out")
    assert reader.metadata.name == "theo"
    assert reader["0.wav"]["text"] == "zero"
    assert reader["größe/7 数.wav"]["label"] == "größe"


def test_convert_reports_quantities_by_the_names_of_other_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    made = convert(capsys, "folder", RECORDINGS, out, "--limit", 20)
    info, verified, pulled = (
        json.loads(output(capsys, *command, "--json"))
        for command in (("info", out), ("verify", out), ("pull", out, tmp_path / "copy"))
    )
    for name in ("folder", "samples", "shards", "duration_s", "rejected"):
        assert made[name] == info[name]
    for name in ("samples", "shards", "shard_bytes", "cache"):
        assert verified[name] == info[name]
    for name in ("samples", "shards", "stored_bytes"):
        assert made[name] == pulled[name]
    assert made["stored_bytes"] == info["shard_bytes"] + info["index_bytes"]


def test_the_report_is_readable_without_json(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "folder", str(recordings), str(tmp_path / "out")]) == 0
    assert "8 samples" in capsys.readouterr().out


def test_options_reach_the_converter(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = convert(
        capsys,
        *("folder", recordings, tmp_path / "out"),
        *("--samples-per-shard", 2, "--limit", 5, "--sample-rate", 16000),
        *("--audio-format", "flac", "--check-audio", "header", "--num-workers", 1),
        *("--map-size", "8MiB"),
    )
    assert (report["samples"], report["shards"]) == (5, 3)
    info = probe(DatasetReader.open(tmp_path / "out")[0]["audio"])
    assert (info.container, info.sample_rate) == ("FLAC", 16000)
    same: dict[str, Any] = {"samples_per_shard": 2, "limit": 5, "sample_rate": 16000}
    same |= {"audio_format": "flac", "check_audio": "header", "map_size": 8 * 2**20}
    assert FolderConverter(recordings, tmp_path / "out", **same).run().reused_shards == 3


def test_one_worker_needs_no_other_process(
    recordings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "processor_of_a_test.py").write_text(
        "import os\n"
        "from audiomdb.processors.base import BaseProcessor\n"
        "class Process(BaseProcessor):\n"
        "    def process(self, sample, **kwargs):\n"
        "        return {'process': os.getpid()}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    processor = ("--processor", "processor_of_a_test:Process", "--num-workers", 1)
    convert(capsys, "folder", recordings, tmp_path / "out", *processor)
    assert {sample["process"] for sample in DatasetReader.open(tmp_path / "out")} == {os.getpid()}


@pytest.mark.filterwarnings("always:shard_00000 has:UserWarning")
def test_a_warning_is_a_line_like_any_other_and_each_command_says_it_once(
    recordings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("audiomdb.shards.assembly._HUGE_SHARD_BYTES", 1000)
    (recordings / "notes.pdf").touch()
    for number in range(2):
        assert main(["convert", "folder", str(recordings), str(tmp_path / f"{number}")]) == 0
        lines = capsys.readouterr().err.splitlines()
        assert len([line for line in lines if "skipped 1 file: 1 .pdf" in line]) == 1
        (warning,) = (line for line in lines if "a cache fetches" in line)
        assert warning.startswith("audiomdb: warning: shard_00000 has ")


def test_channels_are_averaged_by_a_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "calls").mkdir()
    two = np.zeros((800, 2), np.int16)
    (tmp_path / "calls" / "a.wav").write_bytes(encode(two, 8000, "wav"))
    convert(capsys, "folder", tmp_path / "calls", tmp_path / "out", "--mono")
    assert DatasetReader.open(tmp_path / "out")[0]["channels"] == 1


def test_shards_close_at_a_size_in_any_unit(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = [
        convert(capsys, "folder", recordings, tmp_path / f"out-{size}", "--max-shard-bytes", size)[
            "shards"
        ]
        for size in ("10000", "10kB", "10k")
    ]
    assert counts[0] > 1
    assert len(set(counts)) == 1


@pytest.mark.parametrize("size", ["0", "-1", "much", "64 Zib", "1.5MB"])
def test_an_invalid_size_is_wrong_usage(
    size: str, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", "folder", str(recordings), str(tmp_path / "out")]
    assert main([*command, f"--max-shard-bytes={size}"]) == 2
    assert "64MiB" in capsys.readouterr().err


@pytest.mark.parametrize(("column", "text"), [("sentence", "zero"), ("speaker", None)])
def test_convert_finds_the_text_column_of_a_table_if_there_is_one(
    column: str, text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").mkdir()
    shutil.copy(RECORDINGS / "0_theo_0.wav", tmp_path / "clips")
    table = tmp_path / "clips" / "metadata.csv"
    table.write_text(f"file_name,{column}\n0_theo_0.wav,zero\n", encoding="utf-8")
    convert(capsys, "folder", tmp_path / "clips", tmp_path / "out")
    assert DatasetReader.open(tmp_path / "out")[0].get("text") == text


def test_a_manifest_becomes_a_dataset(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"name": f"clip-{i}", "file": f"{i}.wav", "words": str(i)} for i in range(3)]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report = convert(
        capsys,
        *("manifest", manifest, tmp_path / "out", "--audio-dir", recordings),
        *("--audio-column", "file", "--text-column", "words", "--key-column", "name"),
    )
    assert report["samples"] == 3
    assert DatasetReader.open(tmp_path / "out")["clip-2"]["text"] == "2"


def test_a_damaged_clip_stops_the_run_and_is_named(recordings: Path, tmp_path: Path) -> None:
    clip = recordings / "3.wav"
    clip.write_bytes(clip.read_bytes()[:1000])
    done = run_command("convert", "folder", recordings, "out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("audiomdb: ")
    assert str(clip) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_clip_is_skipped_on_request(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recordings / "3.wav").write_bytes(b"no audio at all")
    report = convert(capsys, "folder", recordings, tmp_path / "out", "--on-error", "skip")
    assert (report["samples"], report["rejected"]) == (7, 1)
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "1, listed in" in capsys.readouterr().out


def test_a_conversion_that_stored_nothing_exits_with_1(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for clip in recordings.rglob("*.wav"):
        clip.write_bytes(b"no audio at all")
    output = tmp_path / "out"
    command = ["convert", "folder", str(recordings), str(output), "--on-error", "skip"]
    for _ in range(2):  # the second one finds the dataset of the first
        assert main(command) == 1
        printed = capsys.readouterr()
        assert "8 samples rejected" in printed.out
        assert printed.err == (
            "audiomdb: nothing was stored: every sample was rejected, "
            f"{output / 'rejected.jsonl'} says why\n"
        )
    assert main([*command, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["samples"], report["rejected"]) == (0, 8)


def test_a_manifest_and_a_folder_in_each_others_place_are_told_apart(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, output = tmp_path / "manifest.jsonl", tmp_path / "out"
    manifest.write_text('{"audio_filepath": "recordings/0.wav"}', encoding="utf-8")
    assert main(["convert", "folder", str(manifest), str(output)]) == 2
    told = capsys.readouterr().err
    assert f"{manifest} is a file; for a manifest: audiomdb convert manifest\n" in told
    assert main(["convert", "manifest", str(recordings), str(output)]) == 2
    told = capsys.readouterr().err
    assert f"{recordings} is a folder; for one with audio: audiomdb convert folder\n" in told
    assert not output.exists()


def test_the_help_for_manifests_tells_how_keys_are_made_and_what_csv_holds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["convert", "manifest", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "the path, followed by @offset for a part of a file" in printed
    assert "by #line if several rows would have the same" in printed
    assert "text except sample_rate, channels, frames, duration and offset" in printed


def test_other_options_than_before_are_refused(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(capsys, "folder", recordings, tmp_path / "out")
    again = ["convert", "folder", str(recordings), str(tmp_path / "out"), "--sample-rate", "16000"]
    assert main(again) == 1
    assert "sample_rate" in capsys.readouterr().err


def test_a_source_that_is_not_there_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "folder", str(tmp_path / "no"), str(tmp_path / "out")]) == 1
    assert str(tmp_path / "no") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_audio_are_counted_in_one_log_line(
    recordings: Path, tmp_path: Path
) -> None:
    (recordings / "notes.pdf").touch()
    done = run_command("convert", "folder", recordings, "out", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith("audiomdb: ")
    assert done.stderr.count("\n") == 1
    assert "1 .pdf" in done.stderr


@pytest.mark.parametrize("name", ["Loud", "loud"])
def test_a_processor_of_the_current_folder_is_applied(name: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(INTERRUPTING, encoding="utf-8")
    options = ("--limit", 8, "--num-workers", 2, "--processor", f"own:{name}")
    done = run_command("convert", "folder", RECORDINGS, "out", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sample = DatasetReader.open(tmp_path / "out")[0]
    assert sample["loud"] == "ZERO"
    assert ("audio" in sample) == (name == "loud")


@pytest.mark.parametrize(
    "name", ["own", "own:", "nowhere:Loud", "own:Missing", "own:Path", "own:BaseProcessor"]
)
def test_a_name_that_is_not_a_processor_is_wrong_usage(name: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(INTERRUPTING, encoding="utf-8")
    done = run_command("convert", "folder", RECORDINGS, "out", "--processor", name, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("audiomdb: --processor ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def loud(:", "SyntaxError: invalid syntax (own.py, line 1)"),
        ("def loud(): pass\nloud.volume", "AttributeError: 'function' object has no"),
        ("class Loud:\n    def __init__(self): raise ValueError('no')", "ValueError: no"),
    ],
)
def test_a_processor_that_cannot_be_made_is_one_line(
    code: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(code, encoding="utf-8")
    command = ("convert", "folder", RECORDINGS, "out", "--processor", "own:Loud")
    done = run_command(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"audiomdb: --processor own:Loud: {message}")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_exits_with_130_and_the_next_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(INTERRUPTING, encoding="utf-8")
    options = ("--samples-per-shard", 16, "--num-workers", 1, "--processor", "own:Interrupting")
    stopped = run_command("convert", "folder", RECORDINGS, "out", *options, cwd=tmp_path)
    assert stopped.returncode == 130
    assert "audiomdb: interrupted\n" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "out" / "metadata.json").exists()
    kept = len(list((tmp_path / "out").glob("shard_*")))
    assert kept < 10

    again = run_command("convert", "folder", RECORDINGS, "out", *options, "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["reused_shards"] == kept

    whole = run_command("convert", "folder", RECORDINGS, "whole", *options, cwd=tmp_path)
    assert whole.returncode == 0
    for shard in range(10):
        name = f"shard_{shard:05d}/data.mdb"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_ctrl_c_before_the_first_finished_shard_promises_no_resuming(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(INTERRUPTING, encoding="utf-8")
    options = ("--num-workers", 1, "--processor", "own:Interrupting")
    stopped = run_command("convert", "folder", RECORDINGS, "out", *options, cwd=tmp_path)
    assert stopped.returncode == 130
    assert stopped.stderr.endswith("audiomdb: interrupted\n")
    assert list((tmp_path / "out").glob("shard_*")) == []
