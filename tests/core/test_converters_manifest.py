"""Manifests: formats, columns, keys, paths, parts of files, and lines that are wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiomdb.audio import decode, encode, probe
from audiomdb.converters.files import ManifestConverter
from audiomdb.errors import (
    AudioError,
    DuplicateKeyError,
    SampleError,
    SourceError,
    UnreadableAudioError,
)
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, verify_dataset

RATE = 8000


def tone(seconds: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE))
    return (np.rint(noise * 32768) / 32768).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with clips a.wav, b.wav, c.wav of 0.1 s and long.wav of 2 s."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, name in enumerate("abc"):
        (folder / f"{name}.wav").write_bytes(encode(tone(0.1, number), RATE, "wav"))
    (folder / "long.wav").write_bytes(encode(tone(2), RATE, "wav"))
    return folder


def write(folder: Path, content: str | bytes | list[dict[str, Any]], name: str = "m.jsonl") -> Path:
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def convert(manifest: Path, **options: Any) -> dict[str, Sample]:
    out = manifest.parent.parent / "converted"
    shutil.rmtree(out, ignore_errors=True)
    ManifestConverter(manifest, out, **options).run()
    with DatasetReader.open(out) as dataset:
        return {sample["__key__"]: sample for sample in dataset}


def test_a_nemo_manifest_keeps_its_columns_and_types(folder: Path) -> None:
    row = {"audio_filepath": "a.wav", "text": "hi", "duration": 0.1, "tags": ["x"], "n": 3}
    samples = convert(write(folder, [row, {"audio_filepath": "b.wav", "text": "ho"}], "m.json"))
    assert samples["a.wav"] == {
        "__key__": "a.wav",
        "audio": (folder / "a.wav").read_bytes(),
        "text": "hi",
        "sample_rate": RATE,
        "channels": 1,
        "frames": 800,
        "duration": 0.1,
        "tags": ["x"],
        "n": 3,
    }
    assert list(samples) == ["a.wav", "b.wav"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", 'audio_filepath,text,speaker,duration\na.wav,"one, ""two""",07,0.1\n'),
        ("m.CSV", '\ufeffaudio_filepath,text,speaker,duration\r\n\r\na.wav,"one, ""two""",07,\r\n'),
        ("m.tsv", 'audio_filepath\ttext\tspeaker\tduration\na.wav\tone, "two"\t07\t0.1'),
        ("m.txt", 'audio_filepath\ttext\tspeaker\na.wav\tone, "two"\t07\n\n'),
        ("m", 'audio_filepath,text,speaker\na.wav,"one, ""two""",07\n'),
        ("m", '\n {"audio_filepath": "a.wav", "text": "one, \\"two\\"", "speaker": "07"}\r\n\r\n'),
    ],
)
def test_formats_are_told_by_suffix_or_by_content(folder: Path, name: str, content: str) -> None:
    (sample,) = convert(write(folder, content, name)).values()
    assert (sample["text"], sample["speaker"], sample["duration"]) == ('one, "two"', "07", 0.1)


def test_a_quotation_mark_in_tsv_is_a_character_like_any_other(folder: Path) -> None:
    content = 'audio_filepath\ttext\na.wav\t"quoted\nb.wav\tplain\n'
    texts = [sample["text"] for sample in convert(write(folder, content, "m.tsv")).values()]
    assert texts == ['"quoted', "plain"]


def test_cells_are_text_but_for_facts_about_audio(folder: Path) -> None:
    content = "audio_filepath,text,sample_rate,channels,duration,take,\na.wav,1,8000.0,1,0.1,3,x\n"
    manifest = write(folder, content, "m.csv")
    report = ManifestConverter(manifest, folder.parent / "out").run()
    assert report.contradictions == {}
    with DatasetReader.open(folder.parent / "out") as dataset:
        sample = dataset["a.wav"]
    assert (sample["text"], sample["take"], sample["sample_rate"]) == ("1", "3", 8000)
    assert "" not in sample


def test_columns_may_have_other_names(folder: Path) -> None:
    content = "path\tsentence\tclient_id\na.wav\tHello\tx\n"
    (folder / "clips").mkdir()
    (folder / "a.wav").rename(folder / "clips" / "a.wav")
    manifest = write(folder, content, "validated.tsv")
    columns = {"audio_column": "path", "text_column": "sentence"}
    (sample,) = convert(manifest, audio_dir=folder / "clips", **columns).values()
    assert (sample["__key__"], sample["text"], sample["client_id"]) == ("a.wav", "Hello", "x")
    assert "sentence" not in sample


def test_a_column_cannot_be_both_audio_and_text(folder: Path) -> None:
    manifest = write(folder, "path\na.wav\n", "m.tsv")
    with pytest.raises(SourceError, match="'path' is given as the column of the audio and of the"):
        ManifestConverter(manifest, folder / "out", audio_column="path", text_column="path")


def test_paths_are_relative_to_the_manifest_and_keys_omit_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(folder / "c.wav", folder.parent / "other.wav")
    rows = [str(folder / "a.wav"), "./b.wav", "../other.wav"]
    write(folder, [{"audio_filepath": row} for row in rows])
    monkeypatch.chdir(folder)
    converter = ManifestConverter("m.jsonl", "unused")
    monkeypatch.chdir(folder.parent)
    found: dict[str, Any] = dict(converter.sample_iterator())
    read = {key: Path(sample["audio"]).read_bytes() for key, sample in found.items()}
    assert list(read) == ["a.wav", "b.wav", "../other.wav"]
    assert list(read.values()) == [(folder / f"{name}.wav").read_bytes() for name in "abc"]


@pytest.mark.parametrize(
    ("rows", "options", "keys"),
    [
        ([{"id": "u1"}, {"id": "u2"}], {}, ["u1", "u2"]),
        ([{"id": 7, "key": "k"}, {"id": 8, "key": "l"}], {}, ["k", "l"]),
        ([{"id": 7, "utt": "x"}, {"id": 8, "utt": 3}], {"key_column": "utt"}, ["3", "x"]),
        ([{"n": 1}, {"id": "late"}], {}, ["a.wav", "b.wav"]),
    ],
)
def test_keys_come_from_a_column_where_there_is_one(
    folder: Path, rows: list[dict[str, Any]], options: dict[str, Any], keys: list[str]
) -> None:
    names = ["a.wav", "b.wav"]
    full = [{"audio_filepath": name, **row} for name, row in zip(names, rows, strict=True)]
    assert list(convert(write(folder, full), **options)) == keys


def test_a_repeated_path_gets_its_line_number_as_a_suffix(folder: Path) -> None:
    rows = [{"audio_filepath": f"{name}.wav", "text": str(n)} for n, name in enumerate("abaca")]
    texts = {key: sample["text"] for key, sample in convert(write(folder, rows)).items()}
    assert texts == {"a.wav#1": "0", "a.wav#3": "2", "a.wav#5": "4", "b.wav": "1", "c.wav": "3"}


def test_a_chosen_key_that_repeats_is_a_duplicate(folder: Path) -> None:
    rows = [{"audio_filepath": "a.wav", "id": "x"}, {"audio_filepath": "b.wav", "id": "x"}]
    with pytest.raises(DuplicateKeyError, match="'x' occurs twice"):
        convert(write(folder, rows))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_row_with_an_offset_is_cut_out_and_stored_as_flac(folder: Path, suffix: str) -> None:
    long = tone(2)
    soundfile.write(folder / f"long.{suffix}", long, RATE)
    rows: list[dict[str, Any]] = [
        {"audio_filepath": f"long.{suffix}", "offset": 0.5, "duration": 0.25, "text": "part"},
        {"audio_filepath": f"long.{suffix}", "offset": 1.75, "duration": None},
        {"audio_filepath": f"long.{suffix}", "offset": 0, "duration": 0.125},
        {"audio_filepath": "a.wav", "offset": None, "duration": 0.1},
    ]
    samples = convert(write(folder, rows))
    whole, _ = decode(folder / f"long.{suffix}")
    name = f"long.{suffix}@"
    assert list(samples) == ["a.wav", f"{name}0.000", f"{name}0.500", f"{name}1.750"]
    part = samples[f"{name}0.500"]
    assert (part["frames"], part["duration"], part["offset"]) == (2000, 0.25, 0.5)
    info = probe(part["audio"])
    assert (info.container, info.subtype) == ("FLAC", "PCM_16")
    assert np.abs(decode(part["audio"])[0] - whole[4000:6000]).max() <= 0.5 / 32768
    assert samples[f"{name}1.750"]["frames"] == 2000
    assert samples["a.wav"]["audio"] == (folder / "a.wav").read_bytes()


def test_parts_follow_the_options_of_the_conversion(folder: Path) -> None:
    rows = [{"audio_filepath": "long.wav", "offset": 1, "duration": 0.5, "sample_rate": RATE}]
    options: dict[str, Any] = {"audio_format": "wav", "sample_rate": 16000}
    manifest = write(folder, rows)
    report = ManifestConverter(manifest, folder.parent / "out", **options).run()
    assert report.contradictions == {}
    with DatasetReader.open(folder.parent / "out") as dataset:
        part = dataset[0]
    assert probe(part["audio"]).container == "WAV"
    assert (part["frames"], part["sample_rate"], part["duration"]) == (8000, 16000, 0.5)


def test_parts_count_toward_shard_borders_by_their_own_length(folder: Path) -> None:
    rows = [{"audio_filepath": "long.wav", "offset": i / 10, "duration": 0.1} for i in range(20)]
    options: dict[str, Any] = {"max_shard_bytes": 16_000}
    report = ManifestConverter(write(folder, rows), folder.parent / "out", **options).run()
    assert report.shards == 4  # 3200 bytes each


def test_a_part_that_starts_after_the_end_is_refused_by_file_and_key(folder: Path) -> None:
    rows = [{"audio_filepath": "long.wav", "offset": 5, "duration": 1}]
    manifest = write(folder, rows)
    with pytest.raises(AudioError, match=r"long\.wav from 5\.000 s to 6\.000 s.*long\.wav@5\.000"):
        convert(manifest)
    report = ManifestConverter(manifest, folder.parent / "out", on_error="skip").run()
    assert report.rejected == 1
    rejection = json.loads((folder.parent / "out" / "rejected.jsonl").read_text())
    assert rejection["source"].endswith("long.wav from 5.000 s to 6.000 s")


def test_a_duration_without_an_offset_is_a_claim(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    claims = {"a": 0.1, "b": 3, "c": 0.14}
    rows = [{"audio_filepath": f"{name}.wav", "duration": s} for name, s in claims.items()]
    report = ManifestConverter(write(folder, rows), folder.parent / "out").run()
    assert report.contradictions == {"duration": 1}
    assert report.duration_s == pytest.approx(0.3)
    assert re.search(r"b\.wav \(sample 'b\.wav'\) has duration 0\.1, .* says 3\b", caplog.text)


@pytest.mark.parametrize("claim", [10**400, -(10**400)], ids=["positive", "negative"])
def test_a_duration_larger_than_any_float_is_a_wrong_claim(folder: Path, claim: int) -> None:
    manifest = write(folder, [{"audio_filepath": "a.wav", "duration": claim}])
    report = ManifestConverter(manifest, folder.parent / "out").run()
    assert report.contradictions == {"duration": 1}
    assert report.duration_s == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ('{"audio_filepath": "a.wav"}\n{"audio_fil', "m.jsonl", r"m\.jsonl:2: not JSON"),
        ('[{"audio_filepath": "a.wav"}]', "m.json", r"m\.json:1: a JSON list, expected one obj"),
        ('{"path": "a.wav", "n": 1}', "m.jsonl", r":1: no column 'audio_filepath'; there are 'pa"),
        ('{"audio_filepath": 3}', "m.jsonl", r":1: audio_filepath is 3, expected a path"),
        ('{"audio_filepath": ""}', "m.jsonl", r":1: audio_filepath is '', expected a path"),
        ('{"audio_filepath": "a.wav", "audio": 1}', "m.jsonl", r":1: there is a column 'audio' be"),
        ('\n{"audio_filepath": "a.wav", "offset": "1"}', "m.jsonl", r":2: offset is '1', expected"),
        (
            '{"audio_filepath": "a.wav", "offset": -1}',
            "m.jsonl",
            r":1: offset is -1\.0, expected 0",
        ),
        ('{"audio_filepath": "a.wav", "offset": NaN}', "m.jsonl", r":1: offset is nan"),
        ('{"audio_filepath": "a.wav", "offset": 1, "duration": 0}', "m.jsonl", r":1: duration is"),
        ('{"audio_filepath": "a.wav", "id": null}', "m.jsonl", r":1: id is None, expected text or"),
        ("audio_filepath,text\na.wav,x\nb.wav\n", "m.csv", r"m\.csv:3: 1 values for the 2 columns"),
        ("audio_filepath,text\na.wav,x,y\n", "m.csv", r"m\.csv:2: 3 values for the 2 columns"),
        ('audio_filepath,text\na.wav,"x\ny\n', "m.csv", r"m\.csv:2: unexpected end of data"),
        ("audio_filepath,duration\na.wav,long\n", "m.csv", r":2: duration is 'long', expected a n"),
        ("audio_filepath,a,a\n", "m.csv", r"m\.csv:1: two columns are called 'a'"),
        ("path,sentence\nx.wav,hello\n", "m.csv", r":2: no column 'audio_filepath'; there are 'pa"),
        (b'{"audio_filepath": "a.wav"}\n\xff\xfe', "m.jsonl", r"m\.jsonl:2: not UTF-8"),
        (b"audio_filepath,text\na.wav,\xe4\n", "m.csv", r"m\.csv:2: not UTF-8"),
        ("", "m.jsonl", r"m\.jsonl has no rows"),
        ("audio_filepath\n", "m.csv", r"m\.csv has no rows"),
    ],
)
def test_a_line_that_is_wrong_is_named_before_any_work(
    folder: Path, content: str | bytes, name: str, message: str
) -> None:
    with pytest.raises((SourceError, SampleError), match=message):
        convert(write(folder, content, name))
    assert not (folder.parent / "converted").exists()


def test_each_row_with_an_impossible_window_is_rejected_alone(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"audio_filepath": "long.wav", "offset": 1, "duration": 0},
        {"audio_filepath": "a.wav"},
        {"audio_filepath": "long.wav", "offset": -0.5},
        {"audio_filepath": "long.wav", "offset": 1, "duration": float("inf")},
    ]
    manifest = write(folder, rows)
    with pytest.raises(SampleError, match=r":1: duration is 0") as caught:
        convert(manifest)
    if sys.version_info >= (3, 11):
        assert any("--on-error skip" in note for note in caught.value.__notes__)
    out = folder.parent / "out"
    report = ManifestConverter(manifest, out, on_error="skip", num_workers=2).run()
    assert (report.samples, report.rejected) == (1, 3)
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [line["key"] for line in rejected] == [
        "long.wav@1.000#1",
        "long.wav@-0.500",
        "long.wav@1.000#4",
    ]
    assert "m.jsonl:3: offset is -0.5, expected 0 or more" in rejected[1]["reason"]


def test_an_offset_larger_than_any_float_rejects_its_row(folder: Path) -> None:
    offsets = [10**400, -(10**400), 10**401]
    rows: list[dict[str, Any]] = [{"audio_filepath": "a.wav", "offset": n} for n in offsets]
    manifest = write(folder, [*rows, {"audio_filepath": "b.wav"}])
    with pytest.raises(SampleError, match=r"m\.jsonl:1: int too large"):
        convert(manifest)
    out = folder.parent / "out"
    report = ManifestConverter(manifest, out, on_error="skip").run()
    assert (report.samples, report.rejected) == (1, 3)
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [line["key"] for line in rejected] == ["a.wav@inf#1", "a.wav@-inf", "a.wav@inf#3"]


def test_a_given_text_column_must_exist(folder: Path) -> None:
    manifest = write(folder, [{"audio_filepath": "a.wav", "n": 1}])
    assert "text" not in convert(manifest)["a.wav"]
    with pytest.raises(SourceError, match=r":1: no column 'sentence'; there are 'audio_filepath'"):
        convert(manifest, text_column="sentence")


@pytest.mark.parametrize("name", ["sentence", "transcription", "transcript"])
def test_a_column_that_looks_like_the_text_is_pointed_out(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = write(folder, [{"audio_filepath": f"{clip}.wav", name: clip} for clip in "ab"])
    assert "text" not in convert(manifest)["a.wav"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "no row has a column 'text'" in record.message
    assert f"in the column '{name}', name that with text_column=" in record.message


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([{"sentence": "zero"}, {"text": "one"}], {}),
        ([{"sentence": "zero"}], {"text_column": "sentence"}),
        ([{"n": 1}, {"sentence": "zero"}], {}),
    ],
)
def test_nothing_is_pointed_out_where_there_is_a_text(
    folder: Path,
    rows: list[dict[str, Any]],
    options: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = ["a.wav", "b.wav"]
    full = [{"audio_filepath": name, **row} for name, row in zip(names, rows, strict=False)]
    convert(write(folder, full), **options)
    assert not caplog.records


def test_a_manifest_that_is_not_there_is_refused_at_once(folder: Path) -> None:
    with pytest.raises(SourceError, match="there is no manifest"):
        ManifestConverter(folder / "none.jsonl", "out")


@pytest.fixture
def languages(folder: Path) -> list[Path]:
    """Two manifests, each of a folder of its own with a file of the same name."""
    manifests = []
    for number, (name, kind) in enumerate((("en", "m.jsonl"), ("sw", "m.tsv"))):
        (folder / name).mkdir()
        (folder / name / "a.wav").write_bytes(encode(tone(0.1, number), RATE, "wav"))
        content = f"audio_filepath\ttext\na.wav\t{name}\n"
        rows = [{"audio_filepath": "a.wav", "text": name}]
        manifests.append(write(folder / name, content if kind == "m.tsv" else rows, kind))
    return manifests


def test_manifests_are_read_one_after_the_other_each_with_the_paths_of_its_folder(
    folder: Path, languages: list[Path]
) -> None:
    found = list(ManifestConverter(languages, folder / "unused").sample_iterator())
    assert [key for key, _ in found] == ["en/a.wav", "sw/a.wav"]
    ManifestConverter(iter(languages), folder / "out").run()
    with DatasetReader.open(folder / "out") as dataset:
        for name in ("en", "sw"):
            sample = dataset[f"{name}/a.wav"]
            assert sample["text"] == name
            assert sample["audio"] == (folder / name / "a.wav").read_bytes()


def test_one_manifest_in_a_list_is_as_one(folder: Path) -> None:
    rows = [{"audio_filepath": name} for name in ("a.wav", "a.wav", str(folder / "b.wav"))]
    manifest = write(folder, rows)
    keys = [
        [key for key, _ in ManifestConverter(given, folder / "unused").sample_iterator()]
        for given in (manifest, [manifest])
    ]
    assert keys[0] == keys[1] == ["a.wav#1", "a.wav#2", "b.wav"]


def test_a_path_that_repeats_in_another_manifest_gets_its_number_too(
    folder: Path, languages: list[Path]
) -> None:
    converter = ManifestConverter(languages, folder / "out", audio_dir=folder / "en")
    assert [key for key, _ in converter.sample_iterator()] == ["a.wav#1:1", "a.wav#2:2"]
    converter.run()
    with DatasetReader.open(folder / "out") as dataset:
        assert [sample["text"] for sample in dataset] == ["en", "sw"]


def test_a_wrong_line_of_a_later_manifest_is_named_before_any_work(
    folder: Path, languages: list[Path]
) -> None:
    write(languages[1].parent, "audio_filepath\ttext\na.wav\n", "m.tsv")
    with pytest.raises(SourceError, match=r"sw/m\.tsv:2: 1 values for the 2 columns"):
        ManifestConverter(languages, folder / "out").run()
    with pytest.raises(SourceError, match=r"there is no manifest .*none\.jsonl"):
        ManifestConverter([*languages, folder / "none.jsonl"], folder / "out")
    with pytest.raises(SourceError, match=r"manifest is \[\], expected a path or a list of paths"):
        ManifestConverter([], folder / "out")
    assert not (folder / "out").exists()


def test_a_missing_file_is_named_or_skipped(folder: Path) -> None:
    manifest = write(folder, [{"audio_filepath": "gone.wav"}, {"audio_filepath": "a.wav"}])
    with pytest.raises(UnreadableAudioError, match=r"gone\.wav.*No such file"):
        convert(manifest)
    assert list(convert(manifest, on_error="skip")) == ["a.wav"]


def test_a_manifest_changed_between_runs_of_one_object_is_read_anew(folder: Path) -> None:
    manifest = write(folder, [{"audio_filepath": "a.wav"}])
    converter = ManifestConverter(manifest, folder.parent / "out")
    assert converter.run().samples == 1
    shutil.rmtree(folder.parent / "out")
    write(folder, [{"audio_filepath": "a.wav"}, {"audio_filepath": "a.wav"}])
    assert converter.run().samples == 2
    assert [key for key, _ in converter.sample_iterator()] == ["a.wav#1", "a.wav#2"]


def test_the_bytes_are_the_same_in_every_process(folder: Path) -> None:
    names = ["duration", "sample_rate", "channels", "frames", "speaker", "text", "take"]
    rows = [["audio_filepath", *names], ["a.wav", "0.1", "8000", "1", "800", "s", "t", "1"]]
    manifest = write(folder, "\n".join(map(",".join, rows)), "m.csv")
    code = (
        "import sys; from audiomdb.converters.files import ManifestConverter\n"
        "ManifestConverter(sys.argv[1], sys.argv[2]).run()"
    )
    stored = set()
    for seed in ("1", "2", "3", "4"):
        out = folder.parent / seed
        command = [sys.executable, "-c", code, str(manifest), str(out)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        stored.add((out / "shard_00000" / "data.mdb").read_bytes())
    assert len(stored) == 1


def test_a_corpus_of_many_formats_converts_whole(folder: Path) -> None:
    clips = {}
    for kind, subtype in (("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "OPUS"), ("AIFF", None)):
        path = folder / f"clip.{kind.lower()}"
        soundfile.write(path, tone(0.5), RATE, format=kind, subtype=subtype)
        clips[path.name] = path.read_bytes()
    samples = convert(write(folder, [{"audio_filepath": name} for name in clips]))
    assert {key: sample["audio"] for key, sample in samples.items()} == clips
    assert {sample["frames"] for sample in samples.values()} == {4000}
    assert verify_dataset(folder.parent / "converted") == []


def test_a_part_that_no_file_has_is_found_before_any_work(folder: Path) -> None:
    rows: list[dict[str, Any]] = [{"audio_filepath": "a.wav"}]
    rows.append({"audio_filepath": "b.wav", "offset": -1})
    converter = ManifestConverter(write(folder, rows), folder.parent / "out")
    with pytest.raises(SampleError, match=r"m\.jsonl:2: offset is -1"):
        next(iter(converter.sample_iterator()))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"key": True}, "key is True, expected text or an integer"),
        ({"offset": True, "duration": 1}, "offset is True, expected seconds"),
        ({"offset": 0, "duration": False}, "duration is False, expected seconds"),
    ],
)
def test_a_truth_value_is_no_number(folder: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        convert(write(folder, [{"audio_filepath": "long.wav", **row}]))


def test_a_manifest_that_grew_is_looked_at_again(folder: Path) -> None:
    manifest = write(folder, [{"audio_filepath": "a.wav"}])
    converter = ManifestConverter(manifest, folder.parent / "out")
    assert converter.sample_count() == 1
    assert [key for key, _ in converter.sample_iterator()] == ["a.wav"]
    write(folder, [{"audio_filepath": "a.wav"}] * 2)
    assert [key for key, _ in converter.sample_iterator()] == ["a.wav#1", "a.wav#2"]
