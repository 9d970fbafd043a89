"""`show` of clips that are not as usual: samples that are no numbers, arrays that lack a rate."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiomdb.audio import encode
from audiomdb.cli import main
from audiomdb.shards import DatasetWriter
from tests.core.decoded import count_decoded


def stored(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """Stand in for a processor whose result replaces the sample."""
    result: Mapping[str, Any] = sample.get("result", sample)
    return result


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show") / "odd"
    ramp = np.linspace(-0.5, 0.25, 1000, dtype=np.float32)
    holed = np.stack([ramp, ramp], axis=1)
    holed[10, 0], holed[20, 1], holed[500, 0] = np.nan, np.inf, -np.inf
    wav = io.BytesIO()
    soundfile.write(wav, holed, 16_000, format="WAV", subtype="FLOAT")
    one = np.zeros(50, np.float32)
    one[7] = np.nan
    clips: dict[str, Any] = {
        "encoded": wav.getvalue(),
        "array": holed,
        "hopeless": np.full(50, np.nan, np.float32),
        "silence-but-one": one,
        "middle-of-uint8": np.full(50, 128, np.uint8),
        "half-of-uint8": np.tile(np.array([64, 192], np.uint8), 50),
        "half-of-int16": np.tile(np.array([-(2**14), 2**14], np.int16), 50),
    }
    results: dict[str, Any] = {
        "no-rate": np.full((100, 2), 0.5, np.float32),
        "no-numbers": np.zeros(100, bool),
        "no-clip": np.zeros((2, 3, 4), np.float32),
        "words": "not a path",
    }
    with DatasetWriter(folder, process=stored) as writer:
        for key, audio in clips.items():
            writer.write(key, {"audio": audio, "sample_rate": 16_000})
        for key, audio in results.items():
            sample = {"audio": ramp, "sample_rate": 16_000, "result": {"audio": audio}}
            writer.write(key, sample)
    return folder


def show(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    code = main(["show", *map(str, args)])
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    return printed.out


def facts_of(capsys: pytest.CaptureFixture[str], *args: str | Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(show(capsys, *args, "--json"), parse_constant=refuse)


@pytest.mark.parametrize("key", ["encoded", "array"])
def test_show_measures_finite_samples_and_counts_the_others(
    key: str, odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, drawn, level = show(capsys, odd, key).splitlines()
    assert level.endswith("peak -6.0 dBFS, mean -12.0 dBFS; 3 of 2,000 samples are not finite")
    assert "█" in drawn
    facts = facts_of(capsys, odd, key)["level"]
    assert facts["peak_dbfs"] == pytest.approx(20 * np.log10(0.5))
    assert facts["not_finite"] == 3


def test_a_clip_without_any_finite_sample_has_no_level(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, level = show(capsys, odd, "hopeless").splitlines()
    assert level.endswith("  50 of 50 samples are not finite")
    assert "silence" not in level
    facts = facts_of(capsys, odd, "hopeless")["level"]
    assert facts == {"peak_dbfs": None, "rms_dbfs": None, "not_finite": 50}


def test_show_reports_both_silence_and_a_non_finite_sample(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = show(capsys, odd, "silence-but-one")
    assert printed.endswith("  silence; 1 of 50 samples is not finite\n")


def test_integers_are_scaled_by_the_range_of_their_type_signed_or_not(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(capsys, odd, "middle-of-uint8").endswith("  silence\n")
    for key in ("half-of-uint8", "half-of-int16"):
        level = facts_of(capsys, odd, key)["level"]
        assert level["peak_dbfs"] == level["rms_dbfs"] == pytest.approx(20 * np.log10(0.5))


def test_a_clip_that_is_measured_in_parts_is_decoded_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = 0.5 * np.sin(np.arange(8000 * 301) * 0.2)
    with DatasetWriter(tmp_path / "long") as writer:
        writer.write("clip", {"audio": encode(loud, 8000, "opus")})
    decoded = count_decoded(monkeypatch)
    level = facts_of(capsys, tmp_path / "long", "clip")["level"]
    assert level["rms_dbfs"] == pytest.approx(20 * np.log10(0.5**1.5), abs=0.5)
    assert sum(decoded) == len(loud)


def test_show_gives_a_processed_array_the_rate_of_the_conversion(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = show(capsys, odd, "no-rate")
    assert "float32 array, 16,000 Hz, 2 channels, 0.006 s" in printed
    assert "peak -6.0 dBFS" in printed
    assert facts_of(capsys, odd, "no-rate")["encoding"]["container"] == "float32 array"


@pytest.mark.parametrize("key", ["no-numbers", "no-clip", "words"])
def test_a_non_audio_value_stored_as_audio_is_shown_as_a_field(
    key: str, odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "level" not in facts_of(capsys, odd, key)
    assert "encoding" not in show(capsys, odd, key)


def test_audio_that_is_text_cannot_be_saved(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(odd), "words", "--save", "clip.wav"]) == 2
    assert "sample 'words' has no audio to save" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "name"), [("encoded", "x.wav"), ("array", "x.npy")])
def test_a_file_that_cannot_be_written_is_named_with_the_sample(
    key: str, name: str, odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "nowhere" / name
    assert main(["show", str(odd), key, "--save", str(target)]) == 1
    assert capsys.readouterr().err == (
        f"audiomdb: cannot write the audio of sample {key!r} to {str(target)!r}: "
        "No such file or directory\n"
    )


def test_an_out_of_range_position_is_refused_with_the_sample_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size, told in ((0, "of 0 samples\n"), (1, "of 1 sample\n"), (2, "go from 0 to 1\n")):
        with DatasetWriter(tmp_path / str(size)) as writer:
            for number in range(size):
                writer.write(f"clip-{number}", {"text": ""})
        assert main(["show", str(tmp_path / str(size)), "7"]) == 1
        assert capsys.readouterr().err.endswith(told)


def test_columns_with_infinities_are_null_in_the_json_of_info(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DatasetWriter(tmp_path / "infinite") as writer:
        for number, value in enumerate((np.inf, -np.inf, np.nan)):
            writer.write(f"clip-{number}", {"text": "", "score": float(value)})
    assert main(["info", str(tmp_path / "infinite"), "--json"]) == 0
    printed = capsys.readouterr().out
    assert "Infinity" not in printed
    assert "NaN" not in printed
    score = json.loads(printed)["columns"]["score"]
    assert (score["missing"], score["min"], score["median"], score["max"]) == (1, None, None, None)
    assert main(["info", str(tmp_path / "infinite")]) == 0
    assert "-inf" in capsys.readouterr().out
