"""`info`, `ls` and `show`: what they say of a dataset is what the dataset holds."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiomdb.audio import encode
from audiomdb.cli import main
from audiomdb.shards import DatasetReader, DatasetWriter
from tests.commands import run_in_terminal

RECORDINGS = Path(str(files("audiomdb.cli"))) / "data" / "fsdd"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty recordings in three shards."""
    folder = tmp_path_factory.mktemp("cli") / "speech"
    with (RECORDINGS / "metadata.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))[:20]
    with DatasetWriter(folder, samples_per_shard=8) as writer:
        for row in rows:
            file = RECORDINGS / row.pop("file_name")
            writer.write(file.stem, {"audio": file, **row, "digit": int(row["digit"])})
    return folder


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys in several scripts, a position that is a key, values of every kind."""
    folder = tmp_path_factory.mktemp("cli") / "odd"
    tone = np.sin(np.arange(1600) / 5).astype(np.float32) / 2
    with DatasetWriter(folder) as writer:
        writer.write("汉字/é.wav", {"audio": tone, "sample_rate": 16000, "text": "naïve\n\x1b[31m"})
        writer.write("3", {"text": None, "flag": True, "blob": b"x" * 300})
        writer.write("z", {"vector": np.zeros((3, 4), np.int16), "nested": {"a": [1, None, 2.5]}})
        writer.write("silence", {"audio": np.zeros((50, 2), np.float32), "sample_rate": 8000})
    return folder


def output_of(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    code = main([str(arg) for arg in args])
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    return printed.out


def json_of(capsys: pytest.CaptureFixture[str], *args: str | Path) -> Any:
    return json.loads(output_of(capsys, *args, "--json"))


def test_info_agrees_with_the_reader(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json_of(capsys, "info", speech)
    reader = DatasetReader.open(speech)
    durations = reader.index["duration"]
    assert facts["name"] == "speech"
    assert facts["samples"] == 20
    assert facts["shards"] == 3
    assert facts["duration_s"] == pytest.approx(durations.sum())
    assert facts["audio_bytes"] == reader.index["audio_bytes"].sum()
    assert facts["fields"]["speaker"] == {"types": ["str"]}
    assert facts["columns"]["duration"]["min"] == durations.min()
    assert facts["columns"]["duration"]["median"] == np.median(durations)
    assert facts["columns"]["sample_rate"]["common"] == [{"value": 8000, "samples": 20}]
    assert facts["columns"]["speaker"]["different"] == 4
    assert facts["rejected"] == 0


@pytest.mark.parametrize("value", ["many", 2.0**70, float("inf")])
def test_samples_without_audio_may_use_the_names_of_audio_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: Any
) -> None:
    with DatasetWriter(tmp_path / "texts") as writer:
        writer.write("a", dict.fromkeys(("audio_bytes", "duration", "sample_rate"), value))
    assert json_of(capsys, "info", tmp_path / "texts")["samples"] == 1
    assert "audio_bytes" in output_of(capsys, "info", tmp_path / "texts")
    assert "sample_rate" in output_of(capsys, "ls", tmp_path / "texts")


def test_info_is_readable(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = output_of(capsys, "info", speech)
    assert "20 in 3 shards" in printed
    assert "8,000 Hz" in printed
    assert "0 (16), 1 (4)" in printed
    assert max(map(len, printed.splitlines())) < 120


def test_info_adds_up_samples_and_hours_by_a_column(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by = json_of(capsys, "info", speech, "--by", "speaker")["by"]
    with DatasetReader.open(speech) as reader:
        speakers, durations = reader.index["speaker"], reader.index["duration"]
    assert by["column"] == "speaker"
    assert {group["value"] for group in by["groups"]} == set(speakers)
    for group in by["groups"]:
        chosen = speakers == group["value"]
        assert group["samples"] == chosen.sum()
        assert group["duration_s"] == pytest.approx(durations[chosen].sum())
    seconds = [group["duration_s"] for group in by["groups"]]
    assert seconds == sorted(seconds, reverse=True)
    header, first, *_ = (
        output_of(capsys, "info", speech, "--by", "speaker").split("\n\n")[-1].split("\n")
    )
    assert header.split() == ["speaker", "samples", "share", "audio"]
    assert first.split()[:2] == [by["groups"][0]["value"], str(by["groups"][0]["samples"])]


def test_info_adds_up_samples_without_a_value_or_audio(
    odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by = json_of(capsys, "info", odd, "--by", "sample_rate")["by"]["groups"]
    assert [(g["value"], g["samples"], g["duration_s"]) for g in by] == [
        (16000, 1, 0.1),
        (8000, 1, 0.00625),
        (None, 2, 0.0),
    ]
    with DatasetWriter(tmp_path / "texts") as writer:
        writer.write("a", {"label": "x", "duration": "long"})
    by = json_of(capsys, "info", tmp_path / "texts", "--by", "label")["by"]["groups"]
    assert by == [{"value": "x", "samples": 1, "duration_s": 0.0}]
    assert main(["info", str(odd), "--by", "none"]) == 1
    assert "none" in capsys.readouterr().err


def test_info_lists_no_values_of_a_column_where_each_occurs_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DatasetWriter(tmp_path / "d") as writer:
        for i in range(9):
            digest, speaker = f"digest-{i}", f"speaker-{min(i, 7)}"
            writer.write(f"{i}", {"digest": digest, "speaker": speaker})
    printed = output_of(capsys, "info", tmp_path / "d")
    assert "digest-" not in printed
    assert "9 different values" in printed
    assert "speaker-7 (2)" in printed
    assert "8 different values: speaker-7 (2), " in printed


def test_info_of_odd_values_survives(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json_of(capsys, "info", odd)
    assert facts["fields"]["vector"] == {"types": ["array"], "dtype": "int16", "shape": [3, 4]}
    assert facts["columns"]["duration"]["missing"] == 2
    assert "array of int16, shape (3, 4)" in output_of(capsys, "info", odd)


def test_info_of_features_alone_counts_no_audio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DatasetWriter(tmp_path / "d", process=lambda sample: {"n": len(sample)}) as writer:
        writer.write("a", {"audio": encode(np.zeros(8000, np.float32), 8000)})
    assert json_of(capsys, "info", tmp_path / "d")["audio_bytes"] is None
    assert "of encoded audio" not in output_of(capsys, "info", tmp_path / "d")
    assert "a" in output_of(capsys, "ls", tmp_path / "d", "--columns", "key,n").split()


def test_info_of_an_empty_dataset_survives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DatasetWriter(tmp_path / "empty").finish()
    assert json_of(capsys, "info", tmp_path / "empty")["samples"] == 0
    printed = output_of(capsys, "info", tmp_path / "empty")
    assert "0 in 0 shards" in printed
    assert printed.endswith("\nfields\n  none\n\ncolumns of the index\n  none\n")
    assert output_of(capsys, "ls", tmp_path / "empty", "--json") == ""


def test_ls_gives_a_line_to_every_sample_in_order(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *lines = output_of(capsys, "ls", speech).splitlines()
    assert header.split() == ["position", "key", "duration", "sample_rate", "text"]
    keys = list(DatasetReader.open(speech).keys())
    assert [line.split()[:2] for line in lines] == [[str(i), key] for i, key in enumerate(keys)]


def test_ls_stops_at_its_limit(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(output_of(capsys, "ls", speech, "--limit", "9").splitlines()) == 10


def test_ls_shows_the_columns_asked_for_from_samples_and_index(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = output_of(
        capsys, "ls", speech, "--columns", "speaker, audio_bytes", "--json", "--limit", "1"
    )
    reader = DatasetReader.open(speech)
    assert json.loads(first) == {
        "position": 0,
        "key": reader.key(0),
        "speaker": reader[0]["speaker"],
        "audio_bytes": reader.index["audio_bytes"][0],
    }


def test_ls_lists_the_existing_columns_if_asked_for_an_unknown_one(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", str(speech), "--columns", "nonsense"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "'nonsense'" in printed.err
    assert "text_length" in printed.err
    assert ", text" in printed.err.partition("the samples have the fields")[2]


def test_ls_keeps_odd_keys_and_texts_on_one_line(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = output_of(capsys, "ls", odd)
    assert len(printed.splitlines()) == 5
    assert "汉字/é.wav" in printed
    assert "naïve\\n\\x1b[31m" in printed


def test_ls_as_json_gives_one_object_a_line_with_values_as_they_are(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = output_of(capsys, "ls", odd, "--columns", "text,blob,vector,flag", "--json")
    rows = {row["key"]: row for row in map(json.loads, lines.splitlines())}
    assert rows["汉字/é.wav"]["text"] == "naïve\n\x1b[31m"
    assert rows["3"]["blob"] == {"type": "bytes", "bytes": 300}
    assert rows["3"]["flag"] is True
    assert rows["z"]["vector"] == {"type": "array", "dtype": "int16", "shape": [3, 4]}


def in_narrow_terminal(*args: str | Path) -> str:
    code = (
        "import os, sys\nfrom audiomdb.cli import main\n"
        "os.environ['COLUMNS'] = '40'\nassert main(sys.argv[1:]) == 0\n"
    )
    return run_in_terminal(code, *args)


@pytest.mark.parametrize("command", ["ls", "info"])
def test_rows_are_cut_at_the_edge_of_a_terminal(command: str, speech: Path) -> None:
    seen = in_narrow_terminal(command, speech)
    rows = seen.rpartition("columns of the index\r\n")[2].split("\r\n")
    assert max(map(len, rows)) == 40
    assert {row[-1] for row in rows if len(row) == 40} == {"…"}


def test_a_row_of_any_length_is_cut_without_delay(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "long") as writer:
        writer.write("a", {"text": "語" * 300_000})  # a step for each of them took hours
    row = in_narrow_terminal("ls", tmp_path / "long").splitlines()[1]
    assert row.split() == ["0", "a", "語" * 12 + "…"]


def test_show_takes_key_or_position(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = DatasetReader.open(speech).key(9)
    by_key = json_of(capsys, "show", speech, key)
    assert by_key == json_of(capsys, "show", speech, "9")
    assert by_key == json_of(capsys, "show", speech, "-11")
    assert (by_key["key"], by_key["shard"], by_key["place"]) == (key, 1, 1)


def test_show_prefers_a_key_that_looks_like_a_position(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json_of(capsys, "show", odd, "3")["position"] == 0


def test_show_tells_encoding_and_level(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json_of(capsys, "show", speech, "0")
    audio, _ = soundfile.read(io.BytesIO(DatasetReader.open(speech)[0]["audio"]))
    assert facts["encoding"] == {"container": "WAV", "subtype": "PCM_16"}
    assert facts["level"]["peak_dbfs"] == pytest.approx(20 * np.log10(np.abs(audio).max()))
    assert facts["level"]["rms_dbfs"] == pytest.approx(10 * np.log10(np.square(audio).mean()))
    printed = output_of(capsys, "show", speech, "0")
    assert "WAV PCM_16, 8,000 Hz, 1 channel" in printed
    assert "█" in printed


def test_show_survives_silence_arrays_and_samples_without_audio(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "silence" in output_of(capsys, "show", odd, "silence").splitlines()[-1]
    assert json_of(capsys, "show", odd, "silence")["level"]["peak_dbfs"] is None
    assert "level" not in json_of(capsys, "show", odd, "z")
    assert '{"a": [1, null, 2.5]}' in output_of(capsys, "show", odd, "z")
    assert "float32 array, 16,000 Hz" in output_of(capsys, "show", odd, "汉字/é.wav")


@pytest.mark.parametrize("wanted", ["no-such-key", "20", "-21"])
def test_show_exits_with_1_for_an_unknown_sample(
    wanted: str, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(speech), wanted]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert wanted in printed.err


def test_saved_audio_has_the_stored_bytes(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output_of(capsys, "show", speech, "0", "--save", tmp_path / "clip.wav")
    assert (tmp_path / "clip.wav").read_bytes() == DatasetReader.open(speech)[0]["audio"]


def test_saving_audio_to_a_dash_prints_nothing_else(speech: Path) -> None:
    command = [sys.executable, "-m", "audiomdb.cli", "show", str(speech), "0", "--save", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == DatasetReader.open(speech)[0]["audio"]


def test_audio_and_json_do_not_both_go_to_standard_output(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(speech), "0", "--save", "-", "--json"]) == 2
    assert "--save - and --json" in capsys.readouterr().err


def test_an_array_is_saved_as_npy_and_as_nothing_else(
    odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output_of(capsys, "show", odd, "silence", "--save", tmp_path / "clip.npy")
    assert np.load(tmp_path / "clip.npy").shape == (50, 2)
    assert main(["show", str(odd), "silence", "--save", str(tmp_path / "clip.wav")]) == 2
    assert ".npy" in capsys.readouterr().err
    assert main(["show", str(odd), "z", "--save", str(tmp_path / "clip.wav")]) == 2
    assert "no audio" in capsys.readouterr().err


def test_a_damaged_record_is_named_by_show_and_ls(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    DatasetReader.open(speech)  # whole before
    for file in speech.rglob("*"):
        if file.is_file():
            copy = damaged / file.relative_to(speech)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    reader = DatasetReader.open(speech)
    shard = reader.shard(1)
    data = damaged / "shard_00001" / "data.mdb"
    octets = bytearray(data.read_bytes())
    octets[shard.index.head_offset[2] + 20] ^= 0xFF
    data.write_bytes(octets)
    assert main(["show", str(damaged), "10"]) == 1
    assert "shard_00001: record 2" in capsys.readouterr().err
    assert main(["ls", str(damaged)]) == 1
    assert reader.key(10) in capsys.readouterr().err
    assert main(["show", str(damaged), "11"]) == 0


def test_output_that_the_terminal_cannot_show_is_escaped(odd: Path) -> None:
    command = [sys.executable, "-m", "audiomdb.cli", "show", str(odd), "汉字/é.wav"]
    done = subprocess.run(
        command, capture_output=True, check=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.stdout.isascii()
    assert b"\\u6c49" in done.stdout
    assert b"#" in done.stdout  # the level, drawn in plain letters


def test_ls_ends_silently_when_its_pipe_is_closed(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "many", samples_per_shard=1000) as writer:
        for i in range(5000):
            writer.write(f"{i:05d}", {"text": "some words to fill the pipe " * 4})
    command = [sys.executable, "-m", "audiomdb.cli", "ls", str(tmp_path / "many")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().split() == [b"position", b"key", b"text"]
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141
