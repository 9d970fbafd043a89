"""`audiomdb quickstart`: convert, verify and stream recordings that come with the package."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiomdb.cli.arguments import EXIT_FAILED, EXIT_OK, add_command
from audiomdb.cli.text import table
from audiomdb.errors import OutputExistsError
from audiomdb.progress import progress
from audiomdb.quantities import counted, duration, number, size
from audiomdb.urls import folder_path

if TYPE_CHECKING:
    import argparse

    import numpy as np

    from audiomdb.cli.arguments import Commands
    from audiomdb.converters.base import ConversionReport
    from audiomdb.shards import DatasetReader

__all__ = ["add"]

_NAME = "quickstart"
_OUTPUT = "audiomdb-quickstart"
_BATCH = 16
_EXAMPLE_KEY = "3_theo_0.wav"
_RECORDINGS = Path(__file__).parent / "data" / "fsdd"

_DESCRIPTION = """\
Converts 160 recordings of spoken digits that come with the package into a dataset, checks every
byte of it, and streams it back shuffled, decoded and in batches, as training would. Takes a few
seconds and needs no network. A second run uses the dataset of the first; a folder that holds
something else is left alone.

Exits with 0 only if the dataset is whole and every clip came back complete and exactly once."""

_EXAMPLE = f"""\
  audiomdb quickstart                     into ./{_OUTPUT}
  audiomdb quickstart --output /tmp/demo  somewhere else"""


def add(commands: Commands) -> None:
    """Add the `quickstart` command to the command line."""
    parser = add_command(
        commands,
        "quickstart",
        _run,
        summary="convert, check and read the recordings included",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    parser.add_argument(
        "--output",
        default=_OUTPUT,
        metavar="DIR",
        help=f"where the dataset goes (default: {_OUTPUT})",
    )


def _run(args: argparse.Namespace) -> int:
    from audiomdb.shards import DatasetReader

    output = folder_path(args.output, instead="give the path of one on this machine")
    print("160 recordings of spoken digits, of the Free Spoken Digit Dataset (CC BY-SA 4.0)")
    stages = _Stages()
    report = _convert(output, stages)
    wrong = _verify(output, stages)
    if not wrong:  # a damaged dataset is not read any further
        with DatasetReader.open(output) as reader:
            came = _stream(reader, stages)
            wrong += _differences(came, reader)
            for line in _summary(report, reader, stages, came):
                print(line)
    if wrong:
        for line in wrong:
            print(f"wrong: {line}")
        print(f"Delete {output} and run this again. If it stays wrong, please report it.")
        return EXIT_FAILED
    for line in _next_steps(output):
        print(line)
    return EXIT_OK


def _convert(output: Path, stages: _Stages) -> ConversionReport:
    from audiomdb.converters.files import FolderConverter

    again = _is_ours(output)
    remark = "the dataset of an earlier run was compared with its source"
    with stages.timed("convert", remark if again else "each clip decoded once, to find damage"):
        converter = FolderConverter(_RECORDINGS, output)
        converter.dataset_name = _NAME
        return converter.run()


def _verify(output: Path, stages: _Stages) -> list[str]:
    from audiomdb.cli.verifying import verify_folder

    with stages.timed("verify", "every byte compared with its checksum"):
        problems = verify_folder(output, workers=2).problems
    return [f"{problem.file}: {problem.reason}" for problem in problems]


def _is_ours(output: Path) -> bool:
    """Whether `output` holds the dataset of an earlier quickstart."""
    from audiomdb.shards import read_metadata

    try:
        name = read_metadata(output).name
    except OSError:  # also for no dataset
        return False  # empty, an interrupted run, or a place that the converter rejects
    if name != _NAME:
        raise OutputExistsError(
            f"{output} holds the dataset {name!r}, which the quickstart did not make; "
            "name another folder with --output"
        )
    return True


class _Stages:
    """The finished stages, each with its name, duration in seconds and a remark."""

    def __init__(self) -> None:
        self.done: list[tuple[str, float, str]] = []

    @contextmanager
    def timed(self, name: str, remark: str) -> Iterator[None]:
        """Time a stage of the quickstart."""
        start = time.perf_counter()
        yield
        self.done.append((name, time.perf_counter() - start, remark))


class _Streamed:
    """What the stream yielded: key and number of frames of each clip, in order of arrival."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, int]] = []
        self.batches = 0
        self.padded_frames = 0


def _stream(reader: DatasetReader, stages: _Stages) -> _Streamed:
    from audiomdb.stream import SampleStream

    came = _Streamed()
    with (
        stages.timed("stream", f"shuffled, decoded, padded to batches of {_BATCH}"),
        progress(len(reader), description="streaming") as bar,
    ):
        for batch in _batches(SampleStream(reader, shuffle=True, mono=True)):
            audio, lengths = _pad([sample["audio"] for sample in batch])
            keys = [sample["__key__"] for sample in batch]
            came.frames += zip(keys, lengths.tolist(), strict=True)
            came.batches += 1
            came.padded_frames += audio.size
            bar.update(len(batch))
    return came


def _batches(samples: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _pad(clips: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pad clips with zeros to one float32 array `(clips, frames)`; return it with their lengths."""
    import numpy as np

    lengths = np.array([len(clip) for clip in clips])
    padded = np.zeros((len(clips), int(lengths.max())), np.float32)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    return padded, lengths


def _differences(came: _Streamed, reader: DatasetReader) -> Iterator[str]:
    """Describe each clip that the stream did not yield exactly once and with all its frames."""
    from collections import Counter

    index = reader.index
    stored = dict(zip(index["__key__"].tolist(), index["frames"].tolist(), strict=True))
    times = Counter(key for key, _ in came.frames)
    for key in stored:
        if times[key] != 1:
            yield f"{key} came {times[key]} times out of the stream, expected once"
    for key, frames in came.frames:
        if key not in stored:
            yield f"{key} came out of the stream and is not in the dataset"
        elif frames != stored[key]:
            yield f"{key} came with {frames} frames, the recording has {stored[key]}"


def _summary(
    report: ConversionReport, reader: DatasetReader, stages: _Stages, came: _Streamed
) -> Iterator[str]:
    from collections import Counter

    overhead = report.stored_bytes / report.source_bytes - 1
    sizes = f"{size(report.source_bytes)} of recordings, {size(report.stored_bytes)} stored"
    speakers = sorted(Counter(reader.index["speaker"].tolist()).items())
    said = ", ".join(f"{speaker} ({clips})" for speaker, clips in speakers)
    facts = [
        ("dataset", f"{report.output_dir.resolve()}, {counted(report.shards, 'shard')}"),
        ("clips", f"{number(report.samples)}, {duration(report.duration_s)} of speech"),
        ("speakers", f"{len(speakers)}: {said}"),
        ("size", f"{sizes} ({overhead:+.1%}; short clips and few of them cost most)"),
    ]
    yield ""
    yield from table(facts)
    yield ""
    rows = [("stage", "time", "clips/s", "x real time", "")]
    for name, seconds, remark in stages.done:
        clips, speech = report.samples / seconds, report.duration_s / seconds
        rows.append((name, f"{seconds:.2f} s", f"{clips:,.0f}", f"{speech:,.0f}", remark))
    yield from table(rows, right=(1, 2, 3))
    yield ""
    yield (
        f"The dataset is whole. {counted(len(came.frames), 'clip')} came in "
        f"{counted(came.batches, 'batch', 'batches')}, each complete and exactly once."
    )


def _next_steps(output: Path) -> Iterator[str]:
    import shlex

    folder, shell = str(output), shlex.quote(str(output))
    command, python = (shlex.quote(_program(name)) for name in ("audiomdb", "python"))
    yield ""
    yield "Next, in a shell:"
    yield f"  {command} info {shell}"
    yield f"  {command} show {shell} {_EXAMPLE_KEY}"
    yield f"  {command} convert folder --help"
    yield f"or in {python}:"
    yield "  from audiomdb.shards import DatasetReader"
    yield "  from audiomdb.stream import SampleStream"
    yield f"  print(DatasetReader.open({folder!r})[{_EXAMPLE_KEY!r}]['text'])"
    yield f"  for sample in SampleStream({folder!r}, shuffle=True):"
    yield "      print(sample['__key__'], sample['text'], sample['audio'].shape)"


def _program(name: str) -> str:
    """Return the command for a program of this environment, which may not be on the PATH."""
    import os
    import shutil
    import sys

    here = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not here.exists() or (found is not None and Path(found).resolve() == here.resolve()):
        return name
    below = os.path.relpath(here)
    return str(here) if below.startswith(os.pardir) else below
