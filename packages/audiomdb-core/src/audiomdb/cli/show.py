"""`audiomdb show`: one sample with everything in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from audiomdb.cli.arguments import EXIT_OK, UsageError, add_command, add_dataset, add_json
from audiomdb.cli.opening import columns_of, opened, place_of

if TYPE_CHECKING:
    import argparse

    from audiomdb.audio import AudioInfo
    from audiomdb.cli.arguments import Commands
    from audiomdb.cli.level import Level
    from audiomdb.errors import AudioError
    from audiomdb.retrievers.base import BaseRetriever

__all__ = ["add"]

_DESCRIPTION = """\
All fields of the sample, what its audio is, and how loud: a line drawn from the peaks, the highest
peak and the mean level (RMS). Bytes and arrays are described, not printed. Of a dataset at a URL,
the index and the one shard are downloaded."""

_EXAMPLE = """\
  audiomdb show speech 0                            by position
  audiomdb show speech -1                           the last one
  audiomdb show speech 3_theo_0 --save theo.wav     by key; the encoded bytes as they are stored
  audiomdb show speech 3_theo_0 --save - | ffplay - and without a file
  audiomdb show s3://my-bucket/speech 0             out of a bucket"""

_MAX_CHARACTERS = 2000


def add(commands: Commands) -> None:
    """Add the command."""
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
        help="a key; a whole number that is no key is a position, negative from the end",
    )
    parser.add_argument(
        "--save",
        metavar="FILE",
        help="write the encoded audio to FILE as it is stored; - is standard output. Audio stored "
        "as an array goes to a .npy file",
    )
    add_json(parser, "one JSON object")


def _run(args: argparse.Namespace) -> int:
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
    try:
        position = int(sample)
    except ValueError:
        raise UnknownKeyError(
            f"no sample {sample!r} in dataset {reader.metadata.name!r} of {size} samples"
        ) from None
    if not -size <= position < size:
        raise UnknownKeyError(
            f"no sample at position {position}, and none has the key {sample!r}; "
            f"positions go from 0 to {size - 1} (dataset {reader.metadata.name!r})"
        )
    return position % size


def _find(retriever: BaseRetriever, key: str) -> int | None:
    """Position of a key. Of a remote dataset out of the index: keys of shards may overlap."""
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

    if audio is None:
        raise UsageError(f"sample {key!r} has no audio to save")
    if isinstance(audio, np.ndarray):
        if not target.endswith(".npy"):
            raise UsageError(
                f"the audio of sample {key!r} is stored as an array, not as a file; "
                f"give --save a name that ends in .npy, not {target!r}"
            )
        np.save(target, audio)
    elif target == "-":
        sys.stdout.buffer.write(audio)
    else:
        Path(target).write_bytes(audio)


def _print(key: str, where: dict[str, int], sample: dict[str, Any], clip: _Clip | None) -> None:
    from audiomdb.cli.text import one_line, summary, table

    rows = [
        ("position", f"{where['position']} (record {where['place']} of shard {where['shard']})")
    ]
    for name, value in sample.items():
        shown = summary(value)
        if len(shown) > _MAX_CHARACTERS:
            shown = f"{shown[:_MAX_CHARACTERS]}… ({len(shown):,} characters; --json shows all)"
        rows.append((one_line(name), shown))
    if clip is not None:
        rows += [("encoding", _encoding(clip.info)), ("level", _level(clip.level))]
    print(one_line(key))
    for line in table(rows, indent="  "):
        print(line)


def _print_json(
    key: str, where: dict[str, int], sample: dict[str, Any], clip: _Clip | None
) -> None:
    import json

    from audiomdb.cli.text import plain

    facts: dict[str, Any] = {"key": key, **where, "fields": plain(sample)}
    if clip is not None:
        info, level = clip.info, clip.level
        facts["encoding"] = {"container": info.container, "subtype": info.subtype}
        if level is not None:
            facts["level"] = plain({"peak_dbfs": level.peak_db, "rms_dbfs": level.rms_db})
    print(json.dumps(facts))


class _Clip:
    """What a sample's audio is; `error` says why it has no level."""

    def __init__(
        self, info: AudioInfo, level: Level | None = None, error: AudioError | None = None
    ) -> None:
        self.info = info
        self.level = level
        self.error = error


def _clip(key: str, sample: dict[str, Any]) -> _Clip | None:
    import numpy as np

    from audiomdb.audio import AudioInfo, probe
    from audiomdb.cli.level import measure
    from audiomdb.errors import AudioError

    audio = sample.get("audio")
    if audio is None:
        return None
    if isinstance(audio, np.ndarray):
        channels = 1 if audio.ndim == 1 else audio.shape[1]
        kind = f"{audio.dtype} array"
        info = AudioInfo(kind, "", int(sample["sample_rate"]), channels, len(audio))
    else:
        info = probe(audio, name=f"sample {key!r}")
    try:
        return _Clip(info, measure(sample, f"sample {key!r}"))
    except AudioError as exc:
        return _Clip(info, error=exc)


def _encoding(info: AudioInfo) -> str:
    from audiomdb.cli.text import duration, hertz

    channels = "1 channel" if info.channels == 1 else f"{info.channels} channels"
    kind = f"{info.container} {info.subtype}".strip()
    return f"{kind}, {hertz(info.sample_rate)}, {channels}, {duration(info.duration)}"


def _level(level: Level | None) -> str:
    from audiomdb.cli.level import draw

    if level is None:
        return "none, it cannot be decoded"
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    drawn = draw(level, ascii_only=not encoding.startswith("utf"))
    if level.peak <= 0:
        return f"{drawn}  silence"
    return f"{drawn}  peak {level.peak_db:.1f} dBFS, mean {level.rms_db:.1f} dBFS"
