"""`audiomdb convert`: convert a folder or a manifest of audio files to a dataset."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiomdb.cli.arguments import (
    EXIT_OK,
    Commands,
    UsageError,
    add_command,
    add_debug,
    add_json,
    count,
    octets,
)
from audiomdb.errors import ConversionError

if TYPE_CHECKING:
    from audiomdb.converters.base import BaseConverter
    from audiomdb.processors.base import BaseProcessor

__all__ = ["add"]

_COMMON = """\
If a run is stopped, by Ctrl-C or a crash, give the same command again and it continues where it
was. Every clip is decoded once, so that a damaged file is found now: the run stops and names it.
With --on-error skip the file is listed in OUTPUT/rejected.jsonl instead, and the exit code is still
0 as long as anything was stored."""

_FOLDER = f"""\
Each audio file in INPUT and its sub-folders is a sample; its key is the path relative to INPUT.
A metadata.csv or metadata.jsonl with a column file_name decides which files belong to the dataset,
and its other columns become fields. Without one, a text file with the same name as the audio file
becomes the field text, and the name of the sub-folder becomes label.

{_COMMON}"""

_FOLDER_EXAMPLE = """\
  audiomdb convert folder recordings speech
  audiomdb convert folder recordings speech --sample-rate 16000 --audio-format flac
  audiomdb convert folder recordings speech --on-error skip && cat speech/rejected.jsonl"""

_MANIFEST = f"""\
Each row of MANIFEST is a sample: JSON lines as NeMo writes them, CSV, or TSV. audio_filepath is the
audio file, text the transcript; every other column keeps its name. JSON keeps its types; in CSV and
TSV every column is text except sample_rate, channels, frames, duration and offset. A row with
offset and duration, in seconds, is that part of its file.

The key of a sample is the value in --key-column, or in a column key or id. Without these it is the
path, followed by @offset for a part of a file, and by #line if several rows would have the same.

{_COMMON}"""

_MANIFEST_EXAMPLE = """\
  audiomdb convert manifest train.jsonl train
  audiomdb convert manifest cv/train.tsv cv-train --audio-dir cv/clips \\
      --audio-column path --text-column sentence"""


def add(commands: Commands) -> None:
    """Add the `convert` command, with a subcommand for each kind of source."""
    parser = commands.add_parser(
        "convert",
        help="make a dataset from audio files",
        description="Make a dataset from audio files. What kind of source is it?",
        epilog="example:\n  audiomdb convert folder recordings speech\n\n"
        "`audiomdb convert folder --help` explains the options. Datasets of the Hugging Face Hub "
        "and sources of your own are converted from Python: `HFConverter` and `BaseConverter`.",
    )
    add_debug(parser)
    sources = parser.add_subparsers(title="sources", metavar="SOURCE", required=True)
    _add_folder(sources)
    _add_manifest(sources)


def _add_folder(sources: Commands) -> None:
    parser = add_command(
        sources,
        "folder",
        _folder,
        summary="audio files in a folder, with or without a table of their texts",
        description=_FOLDER,
        example=_FOLDER_EXAMPLE,
        usage="audiomdb convert folder [options] INPUT OUTPUT",
    )
    parser.add_argument("input", metavar="INPUT", help="folder with audio files")
    _add_output(parser)
    reading = parser.add_argument_group("reading the source")
    reading.add_argument(
        "--text-column",
        metavar="NAME",
        help="column of the table to store as text (default: the first of text, sentence, "
        "transcription, transcript)",
    )
    _add_options(parser, reading)


def _add_manifest(sources: Commands) -> None:
    parser = add_command(
        sources,
        "manifest",
        _manifest,
        summary="a file that lists audio files: JSON lines, CSV or TSV",
        description=_MANIFEST,
        example=_MANIFEST_EXAMPLE,
        usage="audiomdb convert manifest [options] MANIFEST OUTPUT",
    )
    parser.add_argument("input", metavar="MANIFEST", help="file that lists the audio files")
    _add_output(parser)
    reading = parser.add_argument_group("reading the source")
    reading.add_argument(
        "--audio-column",
        default="audio_filepath",
        metavar="NAME",
        help="column with the path of the audio file (default: audio_filepath)",
    )
    reading.add_argument(
        "--text-column",
        default="text",
        metavar="NAME",
        help="column to store as text (default: text)",
    )
    reading.add_argument(
        "--key-column",
        metavar="NAME",
        help="column with the keys (default: key or id, or else the path)",
    )
    reading.add_argument(
        "--audio-dir",
        metavar="DIR",
        help="folder that relative paths start from (default: that of the manifest)",
    )
    _add_options(parser, reading)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "output", metavar="OUTPUT", help="folder of the dataset: new, empty, or from an earlier run"
    )
    add_json(parser, "the report as one JSON object")


def _add_options(
    parser: argparse.ArgumentParser,
    reading: argparse._ArgumentGroup,
) -> None:
    reading.add_argument("--limit", type=count, metavar="N", help="stop after N samples")
    reading.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="for a clip that cannot be stored: stop (default), or list it in rejected.jsonl",
    )
    reading.add_argument(
        "--check-audio",
        choices=("decode", "header"),
        default="decode",
        help="decode every clip once to find damaged ones (default), or trust headers (faster)",
    )
    storing = parser.add_argument_group("storing the audio (default: unchanged)")
    storing.add_argument(
        "--audio-format",
        choices=("flac", "wav", "opus", "vorbis", "mp3"),
        help="store all audio in this format",
    )
    storing.add_argument(
        "--sample-rate",
        type=count,
        metavar="HZ",
        help="store all audio at this rate; resampled clips become FLAC unless --audio-format is "
        "given",
    )
    storing.add_argument(
        "--processor",
        action="append",
        metavar="MODULE:NAME",
        help="apply this processor, a class or an object in a Python module in the working "
        "directory or installed; may be repeated",
    )
    shards = parser.add_argument_group("shards and work")
    shards.add_argument(
        "--name", metavar="NAME", help="name of the dataset (default: that of its folder)"
    )
    size = shards.add_mutually_exclusive_group()
    size.add_argument(
        "--samples-per-shard", type=count, metavar="N", help="close a shard after N samples"
    )
    size.add_argument(
        "--max-shard-bytes",
        type=octets,
        metavar="SIZE",
        help="close a shard after this many bytes of source, such as 200MB (default: 64MiB)",
    )
    shards.add_argument(
        "--map-size",
        type=octets,
        metavar="SIZE",
        help="address space that LMDB starts with; it grows as needed",
    )
    shards.add_argument(
        "--num-workers",
        type=count,
        metavar="N",
        help="samples worked on at once (default: the number of cores)",
    )
    parser.set_defaults(log_level=logging.INFO)  # files left out of a folder are logged as INFO


def _folder(args: argparse.Namespace) -> int:
    from audiomdb.converters.files import FolderConverter

    if Path(args.input).is_file():
        raise UsageError(f"{args.input} is a file; for a manifest: audiomdb convert manifest")
    converter = FolderConverter(
        args.input, args.output, text_column=args.text_column, **_options(args)
    )
    return _convert(converter, args)


def _manifest(args: argparse.Namespace) -> int:
    from audiomdb.converters.files import ManifestConverter

    if Path(args.input).is_dir():
        raise UsageError(f"{args.input} is a folder; for one with audio: audiomdb convert folder")
    converter = ManifestConverter(
        args.input,
        args.output,
        audio_column=args.audio_column,
        text_column=args.text_column,
        key_column=args.key_column,
        audio_dir=args.audio_dir,
        **_options(args),
    )
    return _convert(converter, args)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "samples_per_shard": args.samples_per_shard,
        "max_shard_bytes": args.max_shard_bytes,
        "map_size": args.map_size,
        "num_workers": args.num_workers,
        "processor": [_processor(name) for name in args.processor] if args.processor else None,
        "sample_rate": args.sample_rate,
        "audio_format": args.audio_format,
        "check_audio": args.check_audio,
        "limit": args.limit,
        "on_error": args.on_error,
    }


def _convert(converter: BaseConverter, args: argparse.Namespace) -> int:
    if args.name is not None:
        converter.dataset_name = args.name
    report = converter.run()
    if args.json:
        import json

        from msgspec.structs import asdict

        facts = asdict(report)
        print(json.dumps({**facts, "output_dir": str(report.output_dir)}))
    else:
        print(report)
    if not report.samples:
        from audiomdb.shards.layout import REJECTED_FILE

        raise ConversionError(
            f"nothing was stored: every sample was rejected, {report.output_dir / REJECTED_FILE} "
            "says why"
        )
    return EXIT_OK


def _processor(name: str) -> BaseProcessor:
    """Import the processor that `--processor` names.

    Raises:
        UsageError: when there is no such processor.
    """
    import importlib

    from audiomdb.processors.base import BaseProcessor

    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"--processor {name!r} is not of the form MODULE:NAME")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does; an installed command does not
    try:
        found = getattr(importlib.import_module(module), attribute)
        processor = found() if isinstance(found, type) else found
    except Exception as exc:  # the module may raise anything
        raise UsageError(f"--processor {name}: {type(exc).__name__}: {exc}") from exc
    if not isinstance(processor, BaseProcessor):
        raise UsageError(f"--processor {name} is {type(processor).__name__}, no BaseProcessor")
    return processor
