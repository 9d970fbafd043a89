"""The options and the work that are common to all sources of `audiomdb convert`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiomdb.cli.arguments import EXIT_OK, UsageError, add_json, count, octets
from audiomdb.errors import ConversionError

if TYPE_CHECKING:
    from audiomdb.converters.base import BaseConverter
    from audiomdb.processors.base import BaseProcessor

__all__ = ["ABOUT_RUNS", "add_options", "add_output", "convert", "options_of"]

ABOUT_RUNS = """\
If a run is stopped, by Ctrl-C or a crash, give the same command again and it continues where it
was. Every clip is decoded once, so that a damaged file is found now: the run stops and names it.
With --on-error skip the file is listed in OUTPUT/rejected.jsonl instead, and the exit code is still
0 as long as anything was stored."""
"""Part of the help of each source."""


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the folder of the dataset, and `--json`."""
    parser.add_argument(
        "output", metavar="OUTPUT", help="folder of the dataset: new, empty, or from an earlier run"
    )
    add_json(parser, "the report as one JSON object")


def add_options(
    parser: argparse.ArgumentParser,
    reading: argparse._ArgumentGroup,
) -> None:
    """Add the options of `BaseConverter`.

    Args:
        parser: The parser of the source.
        reading: Its group for options about reading, to which some are added.
    """
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
        "--mono",
        action="store_true",
        help="store all audio with one channel, the mean of its channels; clips that have several "
        "become FLAC unless --audio-format is given",
    )
    storing.add_argument(
        "--processor",
        action="append",
        metavar="MODULE:NAME",
        help="apply this processor, a class or an object in a Python module that is installed or "
        "in the working directory; may be repeated",
    )
    shards = parser.add_argument_group("shards and work")
    shards.add_argument(
        "--name",
        metavar="NAME",
        help="name of the dataset (default: the name that the source gives, or that of OUTPUT)",
    )
    size = shards.add_mutually_exclusive_group()
    size.add_argument(
        "--samples-per-shard", type=count, metavar="N", help="close a shard after N samples"
    )
    size.add_argument(
        "--max-shard-bytes",
        type=octets,
        metavar="SIZE",
        help="close a shard after this many bytes of source, such as 200MB (default: 64MiB), or "
        "after 65,536 samples",
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


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `BaseConverter` that the user gave."""
    return {
        "samples_per_shard": args.samples_per_shard,
        "max_shard_bytes": args.max_shard_bytes,
        "map_size": args.map_size,
        "num_workers": args.num_workers,
        "processor": [_processor(name) for name in args.processor] if args.processor else None,
        "sample_rate": args.sample_rate,
        "mono": args.mono,
        "audio_format": args.audio_format,
        "check_audio": args.check_audio,
        "limit": args.limit,
        "on_error": args.on_error,
    }


def convert(converter: BaseConverter, args: argparse.Namespace) -> int:
    """Run a converter, print its report, and return the exit code.

    Raises:
        ConversionError: when nothing was stored; and as `BaseConverter.run`.
    """
    if args.name is not None:
        converter.dataset_name = args.name
    report = converter.run()
    if args.json:
        import json

        from msgspec.structs import asdict

        facts = asdict(report)
        print(json.dumps({"folder": str(facts.pop("output_dir")), **facts}))
    else:
        print(report)
    if not report.samples:
        from audiomdb.shards.layout import REJECTED_FILE

        why = "the source has no samples"
        if report.rejected:
            why = f"every sample was rejected, {report.output_dir / REJECTED_FILE} says why"
        raise ConversionError(f"nothing was stored: {why}")
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
