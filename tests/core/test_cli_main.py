"""What all commands share: help, exit codes, errors in one line, pipes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audiomdb.audio import encode
from audiomdb.cli import main
from audiomdb.shards import DatasetWriter
from audiomdb.testing import write_dataset
from audiomdb.uploaders.local import LocalUploader
from tests.commands import run_command

COMMANDS = (
    ("quickstart",),
    ("convert",),
    ("convert", "folder"),
    ("convert", "manifest"),
    ("merge",),
    ("info",),
    ("ls",),
    ("show",),
    ("verify",),
    ("upload",),
    ("pull",),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_shows_an_example(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--help"]) == 0
    printed = capsys.readouterr().out
    example = printed.split("example:\n")[1]
    assert example.lstrip().startswith(f"audiomdb {' '.join(command)}")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_fits_a_narrow_terminal(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main([*command, "--help"]) == 0
    described = capsys.readouterr().out.split("example:\n")[0].splitlines()
    assert [line for line in described if len(line) > 60 or line.endswith("-")] == []


def test_paragraphs_of_help_stay_readable_in_a_wide_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["verify", "--help"]) == 0
    described = capsys.readouterr().out.split("positional arguments:")[0].splitlines()[1:]
    assert 60 < max(map(len, described)) <= 100


def test_the_main_help_lists_every_command_and_the_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for command, *_ in COMMANDS:
        assert f"\n    {command}" in printed
    for code in ("0  all is well", "1  ", "2  ", "130  "):
        assert code in printed


def test_no_command_prints_the_help_and_counts_as_wrong_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [("nonsense",), ("info",), ("ls", "x", "--limit", "0"), ("verify", "x", "--workers", "many")],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(
    wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(wrong)) == 2
    assert "usage: audiomdb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "wrong", "near"),
    [
        ("convert folder", ("in", "out", "--sample-rat", "16000"), "--sample-rate"),
        ("convert folder", ("in", "out", "--samplerate=16000"), "--sample-rate"),
        ("ls", ("speech", "--colums", "text", "--jsn"), "--columns and --json"),
        ("verify", ("speech", "--worker", "3"), "--workers"),
    ],
)
def test_a_misspelt_option_shows_the_usage_of_its_command_and_the_nearest_option(
    command: str, wrong: tuple[str, ...], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), *wrong]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"usage: audiomdb {command} ")
    assert printed.endswith(f"; did you mean {near}?\n")


def test_an_option_unlike_any_other_gets_no_suggestion(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["info", "speech", "--xyzzy"]) == 2
    printed = capsys.readouterr().err
    assert printed.endswith("audiomdb info: error: unrecognized arguments: --xyzzy\n")
    assert main(["--xyzzy"]) == 2
    assert capsys.readouterr().err.startswith("usage: audiomdb [-h] ")


@pytest.mark.parametrize("number", ["16k", "0", "-1", "1.5"])
def test_an_invalid_whole_number_is_refused_with_what_was_expected(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "folder", "in", "out", f"--sample-rate={number}"]) == 2
    assert f"'{number}' is not a whole number of 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("number", [str(2**63), "9" * 30])
def test_a_number_that_nothing_can_reach_is_refused(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, option in (
        ("ls speech", "--limit"),
        ("convert folder in out", "--limit"),
        ("convert folder in out", "--samples-per-shard"),
        ("convert folder in out", "--map-size"),
        ("info speech", "--max-cache-bytes"),
    ):
        assert main([*command.split(), option, number]) == 2
        assert f"argument {option}: '{number}' is more than {2**63 - 1}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "merge {} copy",
        "info {}",
        "ls {}",
        "show {} 0",
        "verify {}",
        "pull {} copy",
        "upload {} copy",
    ],
)
def test_a_file_in_the_place_of_a_dataset_is_called_one(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metadata.json").touch()
    (tmp_path / "clip.wav").touch()
    assert main(command.format("clip.wav").split()) == 2
    said = "is a file; a dataset is a folder with metadata.json"
    assert capsys.readouterr().err == f"audiomdb: clip.wav {said}\n"
    file = tmp_path / "metadata.json"
    assert main(command.format(file).split()) == 2
    assert capsys.readouterr().err == f"audiomdb: {file} {said}: give {tmp_path}\n"
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "command", ["convert folder .", "pull clips", "quickstart --output", "upload clips"]
)
def test_an_output_folder_that_cannot_be_made_is_explained(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "clips", shards=1)
    (tmp_path / "loop").symlink_to("loop")
    for name in ("x" * 300, f"clips/metadata.json/{'x' * 300}", "loop"):
        assert main([*command.split(), name]) == 1
        said = capsys.readouterr().err
        assert name in said
        assert "Errno" not in said
    if not command.startswith("convert"):
        assert main([*command.split(), (tmp_path / "a").as_uri() + "%00"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "loop"]


def run_redirected(
    redirection: str, *args: str | Path, unbuffered: str = "", limit: str = ""
) -> subprocess.CompletedProcess[str]:
    shell = ["sh", "-c", f'{limit} "$@" {redirection}', "sh"]
    command = [*shell, sys.executable, "-m", "audiomdb.cli", *args]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_command_whose_output_was_closed_does_its_work(tmp_path: Path) -> None:
    write_dataset(tmp_path / "clips", shards=1)
    for command in ("ls", "verify"):
        done = run_redirected(">&-", command, tmp_path / "clips")
        assert (done.returncode, done.stderr) == (0, "")


def test_an_error_with_stderr_closed_is_not_written_to_stdout(tmp_path: Path) -> None:
    done = run_redirected("2>&-", "info", tmp_path / "nothing")
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line_and_exits_with_1(unbuffered: str) -> None:
    done = run_redirected(">/dev/full", "--version", unbuffered=unbuffered)
    assert done.returncode == 1
    assert done.stderr.startswith("audiomdb: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_saving_only_part_of_a_clip_is_an_error(tmp_path: Path, unbuffered: str) -> None:
    with DatasetWriter(tmp_path / "clips") as writer:
        writer.write("clip", {"audio": encode(np.zeros(100_000), 8000, "wav")})
    saving, out = ("show", tmp_path / "clips", "clip", "--save", "-"), tmp_path / "clip.wav"
    limited = {"unbuffered": unbuffered, "limit": "ulimit -f 64;"}
    done = run_redirected(f"> '{out}'", *saving, **limited)
    assert done.returncode == 1, done.stderr
    assert done.stderr == (
        "audiomdb: cannot write the audio of sample 'clip' to '-': File too large\n"
    )
    done = run_redirected(f"> '{out}'", *saving, unbuffered=unbuffered)
    assert (done.returncode, out.stat().st_size > 200_000) == (0, True)


def test_a_connection_closed_by_a_store_is_not_taken_for_a_closed_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def upload_file(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    write_dataset(tmp_path / "clips", shards=1)
    monkeypatch.setattr(LocalUploader, "upload_file", upload_file)
    assert main(["upload", str(tmp_path / "clips"), str(tmp_path / "there")]) == 1
    said = capsys.readouterr().err
    assert "Broken pipe" in said
    assert "while LocalUploader sent " in said


def test_an_error_without_a_message_is_named_by_its_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def upload_dir(*_: object) -> None:
        raise TimeoutError

    write_dataset(tmp_path / "clips", shards=1)
    monkeypatch.setattr(LocalUploader, "upload_dir", upload_dir)
    assert main(["upload", str(tmp_path / "clips"), str(tmp_path / "there")]) == 1
    assert capsys.readouterr().err == "audiomdb: TimeoutError\n"


@pytest.mark.parametrize("command", ["info", "ls", "verify"])
def test_a_missing_dataset_is_one_line_and_exits_with_1(command: str, tmp_path: Path) -> None:
    done = run_command(command, tmp_path / "nothing")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("audiomdb: no dataset at ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("place", range(4))
def test_debug_shows_the_traceback_wherever_it_stands(place: int, tmp_path: Path) -> None:
    command = ["convert", "folder", str(tmp_path / "none"), str(tmp_path / "out")]
    done = run_command(*command[:place], "--debug", *command[place:])
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().rsplit("\n", 1)[-1].startswith("audiomdb: there is no folder ")


def test_a_url_of_an_unknown_scheme_is_refused_with_an_explanation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in ("info", "ls", "verify"):
        assert main([command, "gs://bucket/speech"]) == 2
        assert "no installed package reads gs:// URLs" in capsys.readouterr().err
    assert main(["upload", "speech", "gs://bucket/speech"]) == 2
    assert "no installed package uploads to gs:// URLs" in capsys.readouterr().err
    assert main(["quickstart", "--output", "gs://bucket/speech"]) == 2
    assert "gs://bucket/speech is a URL, expected a folder" in capsys.readouterr().err
    assert main(["convert", "folder", ".", "gs://bucket/speech"]) == 2
    assert "gs://bucket/speech is a URL, expected a folder" in capsys.readouterr().err
    assert main(["convert", "folder", "gs://bucket/speech", "out"]) == 2
    assert "gs://bucket/speech is a URL, expected a folder" in capsys.readouterr().err
    assert main(["convert", "manifest", "gs://bucket/clips.csv", "out"]) == 2
    assert "gs://bucket/clips.csv is a URL, expected a file" in capsys.readouterr().err


def test_a_folder_with_line_breaks_in_its_name_still_makes_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(tmp_path / "a\nb\x1b[31m")]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "\x1b" not in printed


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("audiomdb ")


def test_help_loads_neither_numpy_nor_lmdb() -> None:
    code = (
        "import sys; from audiomdb.cli import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'numpy', 'lmdb', 'soundfile', 'msgspec', 'tqdm', 'loky'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
