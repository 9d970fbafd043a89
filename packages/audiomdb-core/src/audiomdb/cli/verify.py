"""`audiomdb verify`: checks every byte of a dataset."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from audiomdb.cli.arguments import (
    EXIT_DAMAGED,
    EXIT_OK,
    add_command,
    add_dataset,
    add_json,
    count,
)
from audiomdb.cli.opening import folder_of
from audiomdb.progress import progress

if TYPE_CHECKING:
    import argparse

    from audiomdb.cli.arguments import Commands

__all__ = ["add"]

_DESCRIPTION = """\
Reads all shards and compares sizes, digests, pages, keys, records and payloads with what
metadata.json promises. Each problem is a line of output: the file it is in, and what it is.
Exits with 0 when the dataset is whole, with 1 when it is damaged."""

_EXAMPLE = """\
  audiomdb verify speech                        check, with a progress bar in a terminal
  audiomdb verify speech && train speech        train only on a whole dataset
  audiomdb verify speech --json | jq .problems  the same for programs"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "verify",
        _run,
        summary="check a dataset from end to end",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    add_dataset(parser)
    parser.add_argument(
        "--workers", type=count, default=2, metavar="N", help="shards checked at once (2)"
    )
    add_json(parser, "one JSON object")


def _run(args: argparse.Namespace) -> int:
    from audiomdb.cli.text import counted, one_line, size
    from audiomdb.shards import read_metadata, verify_dataset

    folder = folder_of(args.dataset)
    metadata = read_metadata(folder)
    start = time.perf_counter()
    with progress(metadata.bytes, unit="B", description="verifying") as bar:
        problems = verify_dataset(
            folder, workers=args.workers, on_shard=lambda shard: bar.update(shard.bytes)
        )
    seconds = time.perf_counter() - start
    damaged = len({problem.file for problem in problems})
    if args.json:
        import json

        listed = [{"file": problem.file, "reason": problem.reason} for problem in problems]
        totals = {"samples": metadata.samples, "bytes": metadata.bytes, "seconds": seconds}
        print(json.dumps({"whole": not problems, "problems": listed, **totals}))
    else:
        for problem in problems:
            print(f"{problem.file}: {one_line(problem.reason)}")
        what = f"{counted(metadata.samples, 'sample')} in {counted(len(metadata.shards), 'shard')}"
        if problems:
            found = f"{counted(len(problems), 'problem')} in {counted(damaged, 'file')}"
            print(f"damaged: {found}; metadata.json promises {what}")
        else:
            print(f"whole: {what}, {size(metadata.bytes)} checked in {seconds:.1f} s")
    return EXIT_DAMAGED if problems else EXIT_OK
