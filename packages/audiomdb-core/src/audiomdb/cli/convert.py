"""`audiomdb convert`: convert a folder, a manifest, or what a package reads, to a dataset."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from audiomdb.cli import installed
from audiomdb.cli.arguments import Commands, UsageError, add_command, add_debug
from audiomdb.cli.converting import ABOUT_RUNS, add_options, add_output, convert, options_of

__all__ = ["add"]

_FOLDER = f"""\
Each audio file in INPUT and its sub-folders is a sample; its key is the path relative to INPUT.
A metadata.csv or metadata.jsonl with a column file_name decides which files belong to the dataset,
and its other columns become fields. Without one, a text file with the same name as the audio file
becomes the field text, and the name of the sub-folder becomes label.

{ABOUT_RUNS}"""

_FOLDER_EXAMPLE = """\
  audiomdb convert folder recordings speech
  audiomdb convert folder recordings speech --sample-rate 16000 --audio-format flac
  audiomdb convert folder recordings speech --on-error skip && cat speech/rejected.jsonl"""

_MANIFEST = f"""\
Each row of MANIFEST is a sample: JSON lines as NeMo writes them, CSV, or TSV. audio_filepath is the
audio file, text the transcript; every other column keeps its name. JSON keeps its types; in CSV and
TSV every column is text except sample_rate, channels, frames, duration and offset. A row with
offset and duration, in seconds, is that part of its file; one that reaches past the end of the file
by more than 0.25 s cannot be stored. A row with channel_selector, a number from 0, is that channel
of its file; without, it is all channels.

The key of a sample is the value in --key-column, or in a column key or id. Without these it is the
path, followed by @offset for a part of a file, and by #line if several rows would have the same.

{ABOUT_RUNS}"""

_MANIFEST_EXAMPLE = """\
  audiomdb convert manifest train.jsonl train
  audiomdb convert manifest cv/train.tsv cv-train --audio-dir cv/clips \\
      --audio-column path --text-column sentence"""


def add(commands: Commands) -> None:
    """Add the `convert` command, with a subcommand for each kind of source."""
    parser = commands.add_parser(
        "convert",
        help="make a dataset from audio files",
        description="Make a dataset from audio files. Choose the kind of source:",
        epilog="example:\n  audiomdb convert folder recordings speech\n\n"
        "`audiomdb convert folder --help` explains the options. Other packages add kinds of "
        "sources; for one of your own, subclass `BaseConverter`.",
    )
    add_debug(parser)
    sources = parser.add_subparsers(title="sources", metavar="SOURCE", required=True)
    _add_folder(sources)
    _add_manifest(sources)
    parser.prepare = partial(installed.add, sources)


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
    add_output(parser)
    reading = parser.add_argument_group("reading the source")
    reading.add_argument(
        "--text-column",
        metavar="NAME",
        help="column of the table to store as text (default: the first of text, sentence, "
        "transcription, transcript)",
    )
    add_options(parser, reading)


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
    add_output(parser)
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
        "--channel-column",
        default="channel_selector",
        metavar="NAME",
        help="column with the number of the channel to store, from 0 (default: channel_selector; "
        "'' for none)",
    )
    reading.add_argument(
        "--audio-dir",
        metavar="DIR",
        help="folder that relative paths start from (default: that of the manifest)",
    )
    add_options(parser, reading)


def _folder(args: argparse.Namespace) -> int:
    from audiomdb.converters.files import FolderConverter

    if Path(args.input).is_file():
        raise UsageError(f"{args.input} is a file; for a manifest: audiomdb convert manifest")
    converter = FolderConverter(
        args.input, args.output, text_column=args.text_column, **options_of(args)
    )
    return convert(converter, args)


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
        channel_column=args.channel_column or None,
        audio_dir=args.audio_dir,
        **options_of(args),
    )
    return convert(converter, args)
