"""One channel of a file: in a window, and by a column of a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiomdb.audio import AudioWindow, decode, encode, probe
from audiomdb.cli import main
from audiomdb.converters.files import ManifestConverter
from audiomdb.errors import AudioError, OptionsChangedError, SampleError, SourceError
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader
from tests.core.conversions import Listed, rejections

RATE = 8000
SECONDS = 2


def two_speakers() -> np.ndarray:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (SECONDS * RATE, 2))
    noise[:, 1] *= 0.25
    return (np.rint(noise * 32768) / 32768).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with call.wav, call.flac, call.opus, call.mp3 and call.aiff, and a mono.flac."""
    folder = tmp_path / "calls"
    folder.mkdir()
    for suffix in ("wav", "flac", "opus", "mp3"):
        (folder / f"call.{suffix}").write_bytes(encode(two_speakers(), RATE, suffix))
    soundfile.write(folder / "call.aiff", two_speakers(), RATE)
    (folder / "mono.flac").write_bytes(encode(two_speakers()[:, 0], RATE, "flac"))
    return folder


def stored(audio: object, out: Path, **options: Any) -> Sample:
    Listed([("a", {"audio": audio})], out, **options).run()
    with DatasetReader.open(out) as dataset:
        return dataset["a"]


def rounded(audio: np.ndarray) -> np.ndarray:
    """As 16-bit FLAC stores it."""
    values: np.ndarray = np.clip(np.rint(audio * 32768), -32768, 32767)
    return values / 32768


@pytest.mark.parametrize("suffix", ["wav", "flac", "opus", "mp3", "aiff"])
@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize(("offset", "duration"), [(0.0, None), (0.5, 1.0), (0.0, SECONDS)])
def test_a_window_of_a_channel_holds_that_channel_alone(
    folder: Path, suffix: str, channel: int, offset: float, duration: float | None
) -> None:
    path = folder / f"call.{suffix}"
    sample = stored(AudioWindow(path, offset, duration, channel=channel), folder / "out")
    part, _ = decode(sample["audio"])
    whole, rate = decode(path, offset=offset, duration=duration)
    assert (probe(sample["audio"]).container, sample["channels"]) == ("FLAC", 1)
    assert (part.shape, sample["sample_rate"]) == ((len(whole),), rate)
    assert np.array_equal(part, rounded(whole[:, channel]))


def test_a_channel_follows_the_options_of_the_conversion(folder: Path) -> None:
    window = AudioWindow(folder / "call.wav", 0.0, channel=np.int64(1))  # type: ignore[arg-type]
    sample = stored(window, folder / "out", mono=True, audio_format="wav", sample_rate=16_000)
    assert (probe(sample["audio"]).container, sample["channels"]) == ("WAV", 1)
    assert sample["frames"] == SECONDS * 16_000


@pytest.mark.parametrize("duration", [None, SECONDS])
def test_the_only_channel_of_a_whole_file_is_stored_as_the_file(
    folder: Path, duration: float | None
) -> None:
    path = folder / "mono.flac"
    sample = stored(AudioWindow(path, 0.0, duration, channel=0), folder / "out")
    assert sample["audio"] == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "channel", "there"),
    [("mono.flac", 1, "1 channel"), ("call.opus", 2, "2 channels"), ("call.wav", 9, "2 channels")],
)
def test_a_channel_that_a_file_has_not_is_refused(
    folder: Path, name: str, channel: int, there: str
) -> None:
    items = [("k", {"audio": AudioWindow(folder / name, 0.0, channel=channel)})]
    wrong = (
        rf"{name} from .* channel {channel} \(sample 'k'\): the file has {there}, counted from 0"
    )
    with pytest.raises(AudioError, match=wrong):
        Listed(items, folder / "out").run()
    assert Listed(items, folder / "out", on_error="skip").run().rejected == 1


@pytest.mark.parametrize("channel", [-1, 2**16, 0.0, True, "average"])
def test_what_is_no_number_of_a_channel_is_refused_at_once(channel: Any) -> None:
    with pytest.raises(ValueError, match="channel must be a whole number from 0 to 65535, not"):
        AudioWindow("call.wav", 0.0, channel=channel)


def manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def convert(path: Path, **options: Any) -> dict[str, Sample]:
    out = path.parent.parent / "out"
    ManifestConverter(path, out, **options).run()
    with DatasetReader.open(out) as dataset:
        return {sample["__key__"]: sample for sample in dataset}


def is_channel(sample: Sample, channel: int | None, start: float, stop: float) -> bool:
    part, _ = decode(sample["audio"])
    whole = two_speakers()[round(start * RATE) : round(stop * RATE)]
    return np.array_equal(part, whole if channel is None else whole[:, channel])


def test_a_manifest_selects_channels_and_keys_differ(folder: Path) -> None:
    part = {"audio_filepath": "call.wav", "offset": 0.5, "duration": 1.0}
    rows: list[dict[str, Any]] = [
        {**part, "channel_selector": 0},
        {**part, "channel_selector": 1},
        {**part, "offset": 1.0, "channel_selector": [1]},
        {**part, "offset": 0.25},
        {"audio_filepath": "call.flac", "channel_selector": None},
        {"audio_filepath": "mono.flac", "channel_selector": 0},
        {"audio_filepath": "call.aiff", "duration": 2.0, "channel_selector": 1},
    ]
    samples = convert(manifest(folder, rows))
    assert is_channel(samples["call.wav@0.500#1"], 0, 0.5, 1.5)
    assert is_channel(samples["call.wav@0.500#2"], 1, 0.5, 1.5)
    assert is_channel(samples["call.wav@1.000"], 1, 1.0, 2.0)
    assert is_channel(samples["call.wav@0.250"], None, 0.25, 1.25)
    assert samples["call.flac"]["audio"] == (folder / "call.flac").read_bytes()
    assert samples["mono.flac"]["audio"] == (folder / "mono.flac").read_bytes()
    assert is_channel(samples["call.aiff"], 1, 0.0, 2.0)
    assert samples["call.wav@1.000"]["channel_selector"] == [1]  # as every other column


def test_cells_of_a_csv_select_channels(folder: Path) -> None:
    table = "audio_filepath,channel_selector\ncall.wav, 1\nmono.flac,0\ncall.flac,\n"
    path = folder / "m.csv"
    path.write_text(table)
    samples = convert(path)
    assert is_channel(samples["call.wav"], 1, 0, SECONDS)
    assert [samples[name]["channels"] for name in ("mono.flac", "call.flac")] == [1, 2]


@pytest.mark.parametrize(
    "value",
    [
        "average",
        [0, 1],
        [None],
        [],
        True,
        1.5,
        {},
        "left",
        -1,
        pytest.param("9" * 5000, id="5000 digits"),
    ],
)
def test_a_selection_that_is_not_one_channel_rejects_its_row(folder: Path, value: Any) -> None:
    path = manifest(
        folder,
        [
            {"audio_filepath": "call.wav", "channel_selector": value},
            {"audio_filepath": "call.flac", "channel_selector": 1},
        ],
    )
    with pytest.raises(
        SampleError, match=r"m\.jsonl:1: channel_selector is .* expected the number"
    ):
        convert(path)
    assert list(convert(path, on_error="skip")) == ["call.flac"]
    assert "--mono" in rejections(path.parent.parent / "out")[0]["reason"]


def test_no_column_selects_channels_where_that_is_asked_for(folder: Path) -> None:
    path = manifest(folder, [{"audio_filepath": "call.wav", "channel_selector": "average"}])
    sample = convert(path, channel_column=None)["call.wav"]
    assert (sample["channels"], sample["channel_selector"]) == (2, "average")


def test_another_column_may_select_channels(folder: Path) -> None:
    path = manifest(
        folder, [{"audio_filepath": "call.wav", "channel": 1}, {"audio_filepath": "call.flac"}]
    )
    samples = convert(path, channel_column="channel")
    assert is_channel(samples["call.wav"], 1, 0, SECONDS)
    assert samples["call.flac"]["channels"] == 2


def test_a_given_channel_column_must_be_in_some_row(folder: Path) -> None:
    path = manifest(folder, [{"audio_filepath": "call.wav", "channel": 1}])
    with pytest.raises(SourceError, match=r"no row has a column 'chanel'.*--channel-column"):
        convert(path, channel_column="chanel")


def test_another_channel_column_is_refused_by_name_when_a_run_goes_on(folder: Path) -> None:
    path = manifest(folder, [{"audio_filepath": "call.wav", "channel": 1, "track": 1}])
    convert(path, channel_column="channel")
    convert(path, channel_column="channel")
    with pytest.raises(OptionsChangedError, match="channel_column='channel'"):
        convert(path, channel_column="track")


def test_the_command_line_takes_the_column(folder: Path) -> None:
    path = manifest(folder, [{"audio_filepath": "call.wav", "channel": 1, "channel_selector": 0}])
    for name, channels, column in (("a", 1, "channel"), ("b", 2, "")):
        out = folder / name
        assert main(["convert", "manifest", str(path), str(out), "--channel-column", column]) == 0
        with DatasetReader.open(out) as dataset:
            sample = dataset["call.wav"]
        assert sample["channels"] == channels
        assert is_channel(sample, 1 if channels == 1 else None, 0, SECONDS)
