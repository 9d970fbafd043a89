"""Many windows of one file: what they hold, and what they cost."""

from __future__ import annotations

import errno
import gc
import importlib.util
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiomdb import audio
from audiomdb.audio import cutting, opening
from audiomdb.audio.cutting import Cutter, Cutters
from audiomdb.converters.files import ManifestConverter
from audiomdb.errors import AudioError
from audiomdb.shards import DatasetReader
from tests.core.decoded import count_decoded
from tests.core.disks import refuse_stat

FILES = Path(__file__).parent.parent / "data" / "audio"
ALL = [
    path
    for folder in ("wav", "flac", "ogg", "mp3", "other", "channels", "headers")
    for path in sorted((FILES / folder).iterdir())
]
RATE = 16_000


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_an_open_clip_gives_exact_windows_in_any_order(path: Path) -> None:
    whole, rate = audio.decode(path)
    total = len(whole)
    chosen = random.Random(path.name)
    starts = [0, total // 2, total // 2 + 100, total // 4, total - 100, 0]
    starts += [chosen.randrange(total - 1) for _ in range(6)]
    with Cutter(path) as cutter:
        for start in starts:
            count = chosen.randrange(1, total - start)
            part, its_rate = cutter.cut(start / rate, count / rate)
            assert its_rate == rate
            assert np.array_equal(part, whole[start : start + count])
            assert part.shape == whole[start : start + count].shape


def long_file(path: Path, container: str, subtype: str, seconds: int = 20) -> np.ndarray:
    """Write noise that changes its loudness every second; return what it decodes to."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (seconds, RATE))
    noise *= np.linspace(0.1, 1, seconds)[:, None]
    soundfile.write(path, noise.reshape(-1), RATE, format=container, subtype=subtype)
    return audio.decode(path)[0]


def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[list[object], list[int]]:
    """Return what will hold each decoder that a cutter opens, and the frames of each read."""
    opened: list[object] = []

    def opening_one(*args: Any, **options: Any) -> object:
        opened.append(opening.open_decoder(*args, **options))
        return opened[-1]

    monkeypatch.setattr(cutting, "open_decoder", opening_one)
    return opened, count_decoded(monkeypatch)


def manifest_of(path: Path, windows: list[tuple[float, float]]) -> Path:
    rows = [{"audio_filepath": path.name, "offset": a, "duration": b} for a, b in windows]
    manifest = path.with_suffix(".jsonl")
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


@pytest.mark.parametrize(
    ("container", "subtype"), [("OGG", "OPUS"), ("OGG", "VORBIS"), ("FLAC", "PCM_16")]
)
@pytest.mark.parametrize("workers", [1, 3])
def test_each_worker_decodes_a_long_recording_once_for_all_its_parts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    container: str,
    subtype: str,
    workers: int,
) -> None:
    path = tmp_path / "long"
    whole = long_file(path, container, subtype)
    windows = [(index * 0.1, 0.08) for index in range(199)]
    opened, decoded = counted(monkeypatch)
    ManifestConverter(manifest_of(path, windows), tmp_path / "out", num_workers=workers).run()
    # Each part is decoded once more, as it is stored: where miniaudio does that, it is not counted.
    checked = 0
    if importlib.util.find_spec("miniaudio") is None:
        checked = sum(round(seconds * RATE) for _, seconds in windows)
    assert 0 < sum(decoded) - checked <= workers * len(whole)
    # In Vorbis, a worker that is far behind opens a part of the file instead of decoding up to it.
    assert 1 <= len(opened) <= workers or (subtype == "VORBIS" and workers > 1)
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert len(dataset) == len(windows)
        for offset, seconds in windows:
            part, _ = audio.decode(dataset[f"long@{offset:.3f}"]["audio"])
            start = round(offset * RATE)
            # Stored as 16 bits, as parts of all files are.
            wanted = np.clip(
                np.rint(whole[start : start + round(seconds * RATE)] * 32768), -32768, 32767
            )
            assert np.array_equal(part * 32768, np.clip(wanted, -32768, 32767))


@pytest.mark.parametrize(("container", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_windows_after_a_distant_one_need_few_decoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, subtype: str
) -> None:
    path = tmp_path / "long"
    whole = long_file(path, container, subtype, seconds=120)
    starts = [90 + index * 0.1 for index in range(200)]
    opened, decoded = counted(monkeypatch)
    with Cutter(path) as cutter:
        for start in starts:
            part, _ = cutter.cut(start, 0.08)
            assert np.array_equal(part, whole[round(start * RATE) :][: len(part)])
    assert len(opened) < 6
    assert sum(decoded) < 40 * RATE


def test_a_conversion_of_parts_leaves_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "long.ogg"
    long_file(path, "OGG", "OPUS", seconds=3)
    gc.collect()
    before = len(list(Path("/dev/fd").iterdir()))
    manifest = manifest_of(path, [(0.0, 0.5), (1.0, 0.5)])
    ManifestConverter(manifest, tmp_path / "out", num_workers=2).run()
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_a_file_that_is_replaced_between_two_windows_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    cutters = Cutters()
    for value in (0.25, 0.5):
        new = tmp_path / "new.wav"
        soundfile.write(new, np.full(RATE, value), RATE)
        new.rename(path)
        part, _ = cutters.cut(path, 0.5, 0.1, name="a window")
        assert (part == value).all()
    cutters.close()


def test_two_files_are_told_apart_even_if_their_stat_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutters = Cutters()
    for value in (0.25, 0.5):
        path = tmp_path / f"{value}.wav"
        soundfile.write(path, np.full(RATE, value), RATE)
        refuse_stat(monkeypatch, path, errno.ESTALE)
        part, _ = cutters.cut(path, 0.5, 0.1, name="a window")
        assert (part == value).all()
    cutters.close()


def test_cutting_continues_after_a_window_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "long.ogg"
    whole = long_file(path, "OGG", "OPUS", seconds=2)
    cutters = Cutters()
    for _ in range(2):
        with pytest.raises(AudioError, match=r"^the third: offset 9.0 s is not before the end"):
            cutters.cut(path, 9.0, 1.0, name="the third")
        part, _ = cutters.cut(path, 0.5, 1.0, name="the fourth")
        assert np.array_equal(part, whole[RATE // 2 : RATE * 3 // 2])
    cutters.close()


def test_copies_unpickled_in_a_process_share_one_object() -> None:
    sent = pickle.dumps(Cutters())
    assert pickle.loads(sent) is pickle.loads(sent)


def test_a_window_of_a_cut_off_flac_of_unknown_length_is_refused() -> None:
    whole, rate = audio.decode(FILES / "headers" / "flac_unknown_total_samples.flac")
    octets = (FILES / "headers" / "flac_unknown_total_samples.flac").read_bytes()
    with Cutter(octets) as cutter:
        for start in (0, 8000, 100, len(whole) - 10):
            part, _ = cutter.cut(start / rate, 0.1)
            assert np.array_equal(part, whole[start : start + round(0.1 * rate)])
    with pytest.raises(AudioError):
        audio.decode(octets[: len(octets) // 2], offset=0.1, duration=0.1)
