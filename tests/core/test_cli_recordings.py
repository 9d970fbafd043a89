"""The recordings that ship with the quickstart are all there, described, licensed and small."""

from __future__ import annotations

import csv
import itertools
from importlib.resources import files
from pathlib import Path

import soundfile

RECORDINGS = Path(str(files("audiomdb.cli"))) / "data" / "fsdd"


def rows() -> list[dict[str, str]]:
    with (RECORDINGS / "metadata.csv").open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def test_the_table_names_every_recording_once() -> None:
    names = [row["file_name"] for row in rows()]
    assert sorted(names) == sorted(path.name for path in RECORDINGS.glob("*.wav"))
    assert names == sorted(set(names))


def test_every_speaker_says_every_digit_equally_often() -> None:
    said = [(row["speaker"], int(row["digit"])) for row in rows()]
    speakers = {speaker for speaker, _ in said}
    assert len(speakers) == 4
    counts = {said.count(pair) for pair in itertools.product(speakers, range(10))}
    assert counts == {4}


def test_the_columns_agree_with_the_file_names() -> None:
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for row in rows():
        digit, speaker, _ = row["file_name"].split("_")
        assert (row["digit"], row["speaker"], row["text"]) == (digit, speaker, words[int(digit)])


def test_every_recording_is_8_khz_mono_and_not_empty() -> None:
    for path in RECORDINGS.glob("*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (8000, 1, "PCM_16"), path.name
        assert info.frames > 0


def test_licence_and_source_lie_beside_the_recordings() -> None:
    assert "CC BY-SA 4.0" in (RECORDINGS / "LICENSE.txt").read_text(encoding="utf-8")
    attribution = (RECORDINGS / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "https://github.com/Jakobovski/free-spoken-digit-dataset" in attribution


def test_the_recordings_stay_below_a_megabyte_and_a_half() -> None:
    assert sum(path.stat().st_size for path in RECORDINGS.iterdir()) < 1_500_000
