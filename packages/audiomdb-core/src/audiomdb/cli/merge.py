"""`audiomdb merge`: make one dataset of several."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from audiomdb.cli.arguments import EXIT_OK, UsageError, add_command, add_json
from audiomdb.cli.opening import is_cache, refuse_file
from audiomdb.cli.text import extent, one_line
from audiomdb.notes import add_note
from audiomdb.quantities import counted, size
from audiomdb.urls import folder_path

if TYPE_CHECKING:
    import argparse

    from audiomdb.cli.arguments import Commands
    from audiomdb.shards import Metadata

__all__ = ["add"]

_DESCRIPTION = """\
For a corpus that is converted in parts: by the jobs of a cluster, by language, or as it grows. The
shards of the datasets are taken as they are, in the order of the FOLDERs; no audio is read or
stored again. A key may occur only once in all of them, and all must have been made with the same
processors. A field that is text in one and a number in another is named: filters find one of the
two. metadata.json comes last: OUTPUT holds either the whole dataset or none yet. If a merge is
stopped, give the same command again and it continues where it was.

Where the file system allows it, shards become hard links: they take no space, and the FOLDERs may
be deleted afterwards. But a link and its original are one file, so that whatever writes into one of
them changes both. With --copy, and between disks, shards are copied, and each is checked against
its sha256."""

_EXAMPLE = """\
  audiomdb merge part-0 part-1 part-2 speech
  audiomdb merge parts/* speech --name "Read speech"   as the shell sorts them
  audiomdb merge english german /media/disk/speech --copy
  audiomdb merge part-0 part-1 speech && audiomdb verify speech && rm -r part-0 part-1"""


def add(commands: Commands) -> None:
    """Add the `merge` command to the command line."""
    parser = add_command(
        commands,
        "merge",
        _run,
        summary="make one dataset of several",
        description=_DESCRIPTION,
        example=_EXAMPLE,
        usage="audiomdb merge [options] FOLDER [FOLDER ...] OUTPUT",
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folder of a finished dataset")
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        help="folder of the new dataset: new, empty, or from an earlier run",
    )
    parser.add_argument(
        "--name", metavar="NAME", help="name of the new dataset (default: that of its folder)"
    )
    parser.add_argument(
        "--copy", action="store_true", help="copy the shards even where they could be links"
    )
    add_json(parser, "one JSON object")
    parser.set_defaults(log_level=logging.INFO)  # what is copied or there already is logged as INFO


def _run(args: argparse.Namespace) -> int:
    from audiomdb.errors import OutputExistsError
    from audiomdb.shards import merge_datasets

    for given in args.folders:
        folder = folder_path(given, instead="pull the dataset first")
        refuse_file(folder, given)
        if is_cache(folder):
            raise UsageError(
                f"{given} is the cache of a dataset, of which it may hold a part: pull the dataset "
                "into a folder first"
            )
    start = time.perf_counter()
    try:
        metadata = merge_datasets(args.folders, args.output, name=args.name, copy=args.copy)
    except OutputExistsError as exc:
        add_note(exc, f"{args.output} is taken for OUTPUT, because it comes last")
        raise
    except KeyboardInterrupt as exc:
        add_note(exc, "shards that are there are kept: give the same command again to go on")
        raise
    _report(_facts(metadata, args, time.perf_counter() - start), as_json=args.json)
    return EXIT_OK


def _facts(metadata: Metadata, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    return {
        "sources": args.folders,
        "folder": args.output,
        "name": metadata.name,
        "samples": metadata.samples,
        "rejected": metadata.rejected,
        "shards": len(metadata.shards),
        "stored_bytes": metadata.bytes + metadata.index.bytes,
        "elapsed_s": seconds,
    }


def _report(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(facts))
        return
    what = f"{extent(facts['samples'], facts['shards'])}, {size(facts['stored_bytes'])}"
    print(f"{one_line(facts['folder'])}: {what}, of {counted(len(facts['sources']), 'dataset')}")
