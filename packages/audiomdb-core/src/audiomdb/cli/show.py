"""`audiomdb show`: show all fields of one sample, and the level of its audio."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from audiomdb.cli.arguments import EXIT_OK, UsageError, add_command, add_dataset, add_json
from audiomdb.cli.opening import columns_of, opened, place_of
from audiomdb.cli.text import one_line, plain, summary, table
from audiomdb.quantities import counted, duration, hertz

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from audiomdb.cli.arguments import Commands
    from audiomdb.cli.level import Level
    from audiomdb.errors import AudioError
    from audiomdb.retrievers.base import BaseRetriever

__all__ = ["add"]

_DESCRIPTION = """\
Shows all fields of the sample, the format of its audio and how loud it is: a line drawn from the
peaks, the highest peak and the mean level (RMS). Bytes and arrays are described, not printed. For a
dataset at a URL, the index and the sample's shard are downloaded."""

_EXAMPLE = """\
  audiomdb show speech 0                              by position
  audiomdb show speech -1                             the last one
  audiomdb show speech 3_theo_0.wav --save theo.wav   by key; the audio as it is stored
  audiomdb show speech 3_theo_0.wav --save - | ffplay -
  audiomdb show s3://my-bucket/speech 0               from a bucket"""

_MAX_CHARACTERS = 2000


def add(commands: Commands) -> None:
    """Add the `show` command to the command line."""
    parser = add_command(
        commands,
        "show",
        _run,
        summary="show one sample",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    add_dataset(parser)
    parser.add_argument(
        "sample",
        metavar="KEY_OR_POSITION",
        help="a key, or a position from 0; negative positions count from the end",
    )
    parser.add_argument(
        "--save",
        metavar="FILE",
        help="write the audio to FILE as it is stored (an array as .npy); - is standard output",
    )
    add_json(parser, "one JSON object")


def _run(args: argparse.Namespace) -> int:
    if args.json and args.save == "-":
        raise UsageError("--save - and --json would both write to standard output; leave one")
    with opened(args) as retriever:
        reader = retriever.open()
        position = _position(retriever, args.sample)
        sample = reader.read(position)
        shard, place = reader.locate(position)
        where = {"position": position, "shard": shard, "place": place}
    key, audio = sample.pop("__key__"), sample.get("audio")
    if args.save is not None:
        _save(key, audio, args.save)
        if args.save == "-":
            return EXIT_OK
    clip = _clip(key, sample)
    (_print_json if args.json else _print)(key, where, sample, clip)
    if clip is not None and clip.error is not None:
        raise clip.error
    return EXIT_OK


def _position(retriever: BaseRetriever, sample: str) -> int:
    from audiomdb.errors import UnknownKeyError

    reader = retriever.open()
    found = _find(retriever, sample)
    if found is not None:
        return found
    size = len(reader)
    dataset = f"dataset {reader.metadata.name!r} of {counted(size, 'sample')}"
    try:
        position = int(sample)
    except ValueError:
        raise UnknownKeyError(
            f"no sample {sample!r} in {dataset}; `audiomdb ls` lists the keys"
        ) from None
    if not -size <= position < size:
        there = f"; positions go from 0 to {size - 1}" if size > 1 else ""
        raise UnknownKeyError(
            f"no sample at position {position}, and none with the key {sample!r}, "
            f"in {dataset}{there}"
        )
    return position % size


def _find(retriever: BaseRetriever, key: str) -> int | None:
    """Return the position of a key, or None.

    For a remote dataset it is looked up in the index, because the key ranges of shards may overlap.
    """
    reader = retriever.open()
    index = columns_of(retriever) if place_of(retriever) is None else None
    if index is None:
        return reader.position(key) if key in reader else None
    before = 0
    for part in index.parts:
        place = part.find(key)
        if place is not None:
            return before + place
        before += part.samples
    return None


def _save(key: str, audio: Any, target: str) -> None:  # noqa: ANN401
    from pathlib import Path

    import numpy as np

    from audiomdb.errors import OutputWriteError

    if not isinstance(audio, bytes | memoryview | np.ndarray):
        raise UsageError(f"sample {key!r} has no audio to save")
    if isinstance(audio, np.ndarray) and not target.endswith(".npy"):
        raise UsageError(
            f"the audio of sample {key!r} is stored as an array, not as a file; "
            f"give --save a name that ends in .npy, not {target!r}"
        )
    try:
        if isinstance(audio, np.ndarray):
            np.save(target, audio)
        elif target == "-":
            # Buffered, as stdout may not be: a write to a full disk can be a short one.
            with open(sys.stdout.fileno(), "wb", closefd=False) as output:
                output.write(audio)
        else:
            Path(target).write_bytes(audio)
    except BrokenPipeError:  # the reader of the pipe has ended
        raise
    except OSError as exc:
        raise OutputWriteError(
            f"cannot write the audio of sample {key!r} to {target!r}: {exc.strerror or exc}"
        ) from exc


def _print(key: str, where: dict[str, int], sample: dict[str, Any], clip: _Clip | None) -> None:
    rows = [
        ("position", f"{where['position']} (record {where['place']} of shard {where['shard']})")
    ]
    for name, value in sample.items():
        shown = summary(value)
        if len(shown) > _MAX_CHARACTERS:
            shown = f"{shown[:_MAX_CHARACTERS]}… ({len(shown):,} characters; --json shows all)"
        rows.append((one_line(name), shown))
    if clip is not None:
        rows.append(("encoding", _encoding(clip)))
        rows += zip(("level", ""), _level(clip.level), strict=False)
    print(one_line(key))
    for line in table(rows, indent="  "):
        print(line)


def _print_json(
    key: str, where: dict[str, int], sample: dict[str, Any], clip: _Clip | None
) -> None:
    import json

    facts: dict[str, Any] = {"key": key, **where, "fields": plain(sample)}
    if clip is not None:
        level = clip.level
        facts["encoding"] = {"container": clip.container, "subtype": clip.subtype}
        if level is not None:
            facts["level"] = plain(
                {
                    "peak_dbfs": level.peak_db,
                    "rms_dbfs": level.rms_db,
                    "not_finite": level.not_finite,
                }
            )
    print(json.dumps(facts))


class _Clip(NamedTuple):
    """Facts about a sample's audio, as far as they are known; `error` says why `level` is None."""

    container: str
    subtype: str
    sample_rate: int | None
    channels: int
    frames: int | None
    level: Level | None = None
    error: AudioError | None = None


def _clip(key: str, sample: dict[str, Any]) -> _Clip | None:
    """Describe a sample's clip; None if there is none, or a processor stored something else."""
    from audiomdb.cli.level import measure
    from audiomdb.errors import AudioError

    clip = _described(key, sample)
    if clip is None:
        return None
    try:
        return clip._replace(level=measure(sample, f"sample {key!r}"))
    except AudioError as exc:
        return clip._replace(error=exc)


def _described(key: str, sample: dict[str, Any]) -> _Clip | None:
    import numpy as np

    from audiomdb.audio import probe

    audio = sample.get("audio")
    if isinstance(audio, bytes | memoryview):
        info = probe(audio, name=f"sample {key!r}")
        return _Clip(info.container, info.subtype, info.sample_rate, info.channels, info.frames)
    if isinstance(audio, np.ndarray) and audio.ndim in (1, 2) and audio.dtype.kind in "iuf":
        rate = sample.get("sample_rate")  # a processor may have left it out
        known = rate if isinstance(rate, int) and rate > 0 else None
        channels = 1 if audio.ndim == 1 else audio.shape[1]
        return _Clip(f"{audio.dtype} array", "", known, channels, len(audio))
    return None


def _encoding(clip: _Clip) -> str:
    kind = f"{clip.container} {clip.subtype}".strip()
    channels = counted(clip.channels, "channel")
    rate, frames = clip.sample_rate, clip.frames
    if rate is None:
        return f"{kind}, unknown rate, {channels}, {counted(frames or 0, 'frame')}"
    length = duration(None if frames is None else frames / rate)
    return f"{kind}, {hertz(rate)}, {channels}, {length}"


def _level(level: Level | None) -> Iterator[str]:
    """Yield the drawing and what is to be said of it, which may be too long for one line."""
    from audiomdb.cli.level import draw

    if level is None:
        yield "none, it cannot be decoded"
        return
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    if level.peaks:
        yield draw(level, ascii_only=not encoding.startswith("utf"))
    said = []
    if level.peak > 0:
        said.append(f"peak {level.peak_db:.1f} dBFS, mean {level.rms_db:.1f} dBFS")
    elif level.not_finite < max(level.samples, 1):
        said.append("silence")
    if level.not_finite:
        are = "is" if level.not_finite == 1 else "are"
        said.append(f"{level.not_finite:,} of {counted(level.samples, 'sample')} {are} not finite")
    yield "; ".join(said)
