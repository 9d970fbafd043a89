"""Folders of audio files: what is found, in which order, under which key, with which fields."""

from __future__ import annotations

import json
import logging
import os
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.audio import encode
from audiomdb.converters.files import FolderConverter
from audiomdb.errors import OptionsChangedError, SourceError, UnreadableAudioError
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, verify_dataset

CLIP = encode(np.sin(np.arange(800) * 0.1).astype(np.float32) * 0.5, 8000, "wav")


def put(folder: Path, *names: str, content: bytes = CLIP) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def convert(folder: Path, **options: Any) -> dict[str, Sample]:
    """The samples by key, in the order of the dataset."""
    out = folder.parent / "converted"
    shutil.rmtree(out, ignore_errors=True)
    FolderConverter(folder, out, **options).run()
    with DatasetReader.open(out) as dataset:
        return {sample["__key__"]: sample for sample in dataset}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "recordings"


def test_keys_are_relative_paths_with_their_suffix(folder: Path) -> None:
    names = ["a.wav", "a.flac", "b/two.dots.in.name.WAV", "b/c/ü ñ 音.ogg", "with space/x y.Mp3"]
    put(folder, *names)
    samples = convert(folder)
    assert sorted(samples) == sorted(names)
    assert samples["a.flac"]["audio"] == CLIP  # what a file holds counts, not what it is called


def test_files_come_in_order_of_name_before_those_of_sub_folders(folder: Path) -> None:
    put(folder, "b/2.wav", "z.wav", "a/1.wav", "b/a/3.wav", "c.wav", "b/10.wav")
    yielded = [key for key, _ in FolderConverter(folder, "unused").sample_iterator()]
    assert yielded == ["c.wav", "z.wav", "a/1.wav", "b/10.wav", "b/2.wav", "b/a/3.wav"]
    assert FolderConverter(folder, "unused").sample_count() == 6


def test_the_parent_folder_is_the_label(folder: Path) -> None:
    put(folder, "top.wav", "dog/1.wav", "animals/cat/2.wav")
    labels = {key: sample.get("label") for key, sample in convert(folder).items()}
    assert labels == {"animals/cat/2.wav": "cat", "dog/1.wav": "dog", "top.wav": None}


def test_a_text_file_beside_a_clip_is_its_text(folder: Path) -> None:
    put(folder, "a.wav", "b.c.flac", "d.wav")
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfHello\r\n")
    (folder / "b.c.txt").write_text("  Grüße\n", encoding="utf-8")
    texts = {key: sample.get("text") for key, sample in convert(folder).items()}
    assert texts == {"a.wav": "Hello", "b.c.flac": "Grüße", "d.wav": None}


def test_a_text_file_in_another_encoding_is_named(folder: Path) -> None:
    put(folder, "a.wav")
    (folder / "a.txt").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(SourceError, match=r"a\.txt is not UTF-8"):
        convert(folder)


def test_a_table_gives_fields_and_decides_what_belongs(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(folder, "x.wav", "sub/y.wav", "left_out.wav")
    (folder / "metadata.csv").write_text(
        'file_name,text,speaker,duration\nsub/y.wav,"one, two",7,0.1\n./x.wav,three,8,\n'
    )
    samples = convert(folder)
    assert list(samples) == ["sub/y.wav", "x.wav"]
    assert samples["sub/y.wav"]["text"] == "one, two"
    assert samples["x.wav"]["speaker"] == "8"
    assert samples["x.wav"]["duration"] == 0.1
    assert "1 audio file is left out: not in the table of the folder" in caplog.text


def test_a_table_in_json_lines_keeps_types(folder: Path) -> None:
    put(folder, "x.wav")
    row = {"file_name": "x.wav", "transcription": "hi", "tags": ["a"], "speaker": 8}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    sample = convert(folder, text_column="transcription")["x.wav"]
    assert (sample["text"], sample["tags"], sample["speaker"]) == ("hi", ["a"], 8)
    assert "transcription" not in sample
    assert "file_name" not in sample


def test_each_sub_folder_may_have_its_own_table(folder: Path) -> None:
    put(folder, "train/x.wav", "test/x.wav", "test/deep/z.wav", "extra/e.wav")
    for split in ("train", "test"):
        rows = [f"x.wav,{split}"] + ["deep/z.wav,deep"] * (split == "test")
        (folder / split / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    texts = {key: sample.get("text") for key, sample in convert(folder).items()}
    assert texts == {
        "extra/e.wav": None,
        "test/deep/z.wav": "deep",
        "test/x.wav": "test",
        "train/x.wav": "train",
    }


def test_a_file_named_only_by_the_table_is_reported_missing(folder: Path) -> None:
    put(folder, "x.wav")
    (folder / "metadata.csv").write_text("file_name,text\nx.wav,a\ngone.wav,b\n")
    with pytest.raises(UnreadableAudioError, match=r"gone\.wav.*No such file"):
        convert(folder)
    assert list(convert(folder, on_error="skip")) == ["x.wav"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,text\nx.wav,a\n", r"metadata\.csv:2: no column 'file_name'; there are 'path', 'te"),
        ("file_name,text\n,a\n", r"metadata\.csv:2: file_name is ''"),
        ("file_name,text\nx.wav\n", r"metadata\.csv:2: 1 values for the 2 columns"),
        ("file_name,audio\nx.wav,a\n", r"x\.wav: its row has a column 'audio' beside 'file_name'"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_its_line(
    folder: Path, table: str, message: str
) -> None:
    put(folder, "x.wav")
    (folder / "metadata.csv").write_text(table)
    with pytest.raises(SourceError, match=message):
        convert(folder)


def test_two_tables_in_a_folder_are_refused(folder: Path) -> None:
    put(folder, "x.wav", "metadata.csv", "metadata.jsonl")
    with pytest.raises(SourceError, match=r"holds both metadata\.csv and metadata\.jsonl"):
        convert(folder)


@pytest.mark.parametrize("name", ["sentence", "file_name"])
def test_a_text_column_that_the_table_lacks_is_refused(folder: Path, name: str) -> None:
    put(folder, "x.wav")
    (folder / "metadata.csv").write_text("file_name,text,speaker\nx.wav,a,b\n")
    there = "beside 'file_name' there are 'text', 'speaker'"
    with pytest.raises(SourceError, match=f"no column '{name}' of text; {there}"):
        convert(folder, text_column=name)


@pytest.mark.parametrize("progress", [True, False])
def test_a_limit_stops_the_reading_of_a_table(folder: Path, progress: bool) -> None:
    put(folder, "a.wav", "b.wav")
    (folder / "metadata.csv").write_text("file_name,text\na.wav,a\nb.wav,b\nno text\n")
    assert list(convert(folder, limit=2, progress=progress)) == ["a.wav", "b.wav"]
    with pytest.raises(SourceError, match=r"metadata\.csv:4: 1 values for the 2 columns"):
        convert(folder, progress=progress)


def test_a_text_column_without_a_table_is_refused(folder: Path) -> None:
    put(folder, "x.wav")
    with pytest.raises(SourceError, match=r"x\.wav: no metadata\.csv .* no column 'sentence'"):
        convert(folder, text_column="sentence")


def test_files_that_are_not_audio_are_skipped_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    put(folder, "a.wav", "b.wav", ".hidden.wav", "._a.wav", ".git/c.wav", "README", "LICENSE")
    put(folder, "cover.JPG", "a.txt", "notes.txt", content=b"x")
    assert sorted(convert(folder)) == ["a.wav", "b.wav"]
    assert "skipped 7 files" in caplog.text
    for part in ("3 hidden", "2 without a suffix", "1 .jpg", "1 .txt"):
        assert part in caplog.text


def test_transcripts_that_are_not_read_are_pointed_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(folder, "1272/1.flac", "1272/2.flac")
    put(folder, "1272/1272.trans.txt", content=b"1 HELLO\n2 WORLD\n")
    assert not any("text" in sample for sample in convert(folder).values())
    assert "no clip has a text, skipped 1 file: 1 .txt. Transcripts are read from" in caplog.text
    caplog.clear()
    put(folder, "1272/1.txt", content=b"HELLO")
    convert(folder)
    assert caplog.text == ""


def test_audio_in_an_unsupported_format_is_an_error_not_skipped(folder: Path) -> None:
    put(folder, "a.wav")
    put(folder, "b.m4a", content=b"\0\0\0\x1cftypM4A " + bytes(100))
    with pytest.raises(UnreadableAudioError, match=r"b\.m4a"):
        convert(folder)
    assert list(convert(folder, on_error="skip")) == ["a.wav"]


def test_a_folder_without_audio_says_what_was_looked_for(folder: Path) -> None:
    put(folder, "a.pdf", "b.pdf")
    with pytest.raises(SourceError, match=r"holds no audio files, skipped 2 files: 2 \.pdf; look"):
        convert(folder)


def test_a_folder_that_is_not_there_is_refused_at_once(folder: Path) -> None:
    with pytest.raises(SourceError, match="there is no folder"):
        FolderConverter(folder, "out")


def test_links_are_followed_but_not_in_circles(folder: Path) -> None:
    put(folder, "a/x.wav")
    put(folder.parent / "elsewhere", "y.wav", "z.wav")
    (folder / "linked").symlink_to(folder.parent / "elsewhere")
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "a" / "self").symlink_to(folder / "a")
    (folder / "file.wav").symlink_to(folder / "a" / "x.wav")
    assert sorted(convert(folder)) == ["a/x.wav", "file.wav", "linked/y.wav", "linked/z.wav"]


def test_a_broken_link_is_a_missing_clip(folder: Path) -> None:
    put(folder, "a.wav")
    (folder / "b.wav").symlink_to(folder / "nowhere.wav")
    with pytest.raises(UnreadableAudioError, match=r"b\.wav"):
        convert(folder)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    put(folder, "a.wav")
    os.mkfifo(folder / "b.wav")
    assert list(convert(folder)) == ["a.wav"]


def test_a_file_name_that_is_not_utf8_is_rejected_by_name(folder: Path) -> None:
    put(folder, "a.wav")
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff.wav")).write_bytes(CLIP)
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(ValueError, match="no UTF-8 form"):
        convert(folder)
    assert list(convert(folder, on_error="skip")) == ["a.wav"]


def test_a_second_run_finds_the_same_and_a_new_file_is_noticed(folder: Path) -> None:
    put(folder, *(f"{i:02d}.wav" for i in range(10)))
    out = folder.parent / "out"
    FolderConverter(folder, out, samples_per_shard=4).run()
    assert FolderConverter(folder, out, samples_per_shard=4).run().reused_shards == 3
    with pytest.raises(OptionsChangedError):
        FolderConverter(folder, out, samples_per_shard=3).run()
    put(folder, "00b.wav")
    with pytest.raises(ValueError, match="shard_00000 was finished by an earlier run"):
        FolderConverter(folder, out, samples_per_shard=4).run()


def test_the_recordings_of_the_quickstart_convert(tmp_path: Path) -> None:
    recordings = Path(str(files("audiomdb.cli"))) / "data" / "fsdd"
    report = FolderConverter(recordings, tmp_path / "out").run()
    assert (report.samples, report.rejected, report.contradictions) == (160, 0, {})
    assert verify_dataset(tmp_path / "out") == []
    with DatasetReader.open(tmp_path / "out") as dataset:
        sample = dataset["7_theo_2.wav"]
        assert sample["audio"] == (recordings / "7_theo_2.wav").read_bytes()
        assert (sample["text"], sample["speaker"], sample["sample_rate"]) == ("seven", "theo", 8000)


@pytest.mark.parametrize("after", [1, 60])  # 1: before any file has been read
@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_that_goes_away_ends_the_run_which_goes_on_once_it_is_back(
    folder: Path, tmp_path: Path, workers: int, after: int
) -> None:
    put(folder, *(f"{number:03d}.wav" for number in range(160)))

    class Unmounted(FolderConverter):
        gone = True

        def sample_iterator(self) -> Any:
            for number, item in enumerate(super().sample_iterator()):
                if number == after and self.gone:
                    folder.rename(tmp_path / "away")
                yield item

    options: dict[str, Any] = {"on_error": "skip", "samples_per_shard": 20, "num_workers": workers}
    with pytest.raises(SourceError, match="the source has gone, such as a disk"):
        Unmounted(folder, tmp_path / "out", **options).run()
    (tmp_path / "away").rename(folder)
    Unmounted.gone = False
    report = Unmounted(folder, tmp_path / "out", **options).run()
    assert (report.samples, report.rejected) == (160, 0)


def test_a_file_that_goes_away_alone_is_rejected(folder: Path, tmp_path: Path) -> None:
    put(folder, *(f"{number:03d}.wav" for number in range(160)))

    class Deleted(FolderConverter):
        def sample_iterator(self) -> Any:
            for number, item in enumerate(super().sample_iterator()):
                if number == 60:
                    Path(item[1]["audio"]).unlink()
                yield item

    report = Deleted(folder, tmp_path / "out", on_error="skip", num_workers=1).run()
    assert (report.samples, report.rejected) == (159, 1)


def test_a_text_file_that_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    put(folder, "a.wav")
    (folder / "a.txt").symlink_to("missing.txt")
    with pytest.raises(SourceError, match=r"cannot read .*a\.txt: No such file"):
        FolderConverter(folder, tmp_path / "out").run()
