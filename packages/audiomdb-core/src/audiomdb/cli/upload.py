"""`audiomdb upload`: upload a finished dataset to a store or copy it to a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from audiomdb.cli.arguments import EXIT_OK, add_command, add_json, add_options, count
from audiomdb.cli.opening import make_uploader, refuse_file
from audiomdb.cli.text import one_line
from audiomdb.notes import add_note
from audiomdb.quantities import counted, size
from audiomdb.urls import folder_path, without_password

if TYPE_CHECKING:
    import argparse

    from audiomdb.cli.arguments import Commands
    from audiomdb.uploaders.base import UploadReport

__all__ = ["add"]

_DESCRIPTION = """\
Sends the files that are not there yet with the same content, several at once, and checks each after
it has arrived. metadata.json goes last, so that nobody reads half a dataset. If an upload is
stopped, give the same command again and it continues where it was.

A different dataset at URL, which may be an older version of this one, is replaced only with
--replace: file by file, and there is no dataset at URL until all files have arrived. Then the files
that only the old dataset had are deleted, and no others. Programs that have the old dataset open
get an error when they need one of its shards. The Hub keeps what was replaced in its history, so
--replace is not needed there. In a folder, --replace also replaces shards of another dataset's
unfinished conversion or upload; a folder with other files and no dataset is refused."""

_EXAMPLE = """\
  audiomdb upload speech s3://my-bucket/speech
  audiomdb upload speech hf://datasets/user/speech --option private=true
  audiomdb upload speech /media/disk/speech
  audiomdb upload speech s3://my-bucket/speech --json | jq .sent_bytes"""


def add(commands: Commands) -> None:
    """Add the `upload` command to the command line."""
    parser = add_command(
        commands,
        "upload",
        _run,
        summary="publish a dataset",
        description=_DESCRIPTION,
        example=_EXAMPLE,
        usage="audiomdb upload [options] FOLDER URL",
    )
    parser.add_argument("source", metavar="FOLDER", help="folder of a finished dataset")
    parser.add_argument(
        "target", metavar="URL", help="such as s3://bucket/prefix, or another folder"
    )
    parser.add_argument(
        "--workers", type=count, metavar="N", help="files sent at once (default: 4; to a folder 2)"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace a different dataset, or another version of this one",
    )
    add_options(
        parser.add_argument_group("writing to the URL"),
        example="private=true for a repository of the Hub",
    )
    add_json(parser, "one JSON object")


def _run(args: argparse.Namespace) -> int:
    from audiomdb.cli.replacing import refuse_another
    from audiomdb.shards import read_metadata

    folder = folder_path(args.source, instead="pull the dataset first")
    refuse_file(folder, args.source)
    uploader = make_uploader(args.target, args.option, workers=args.workers)
    target = without_password(args.target)
    metadata = read_metadata(folder)
    start = time.perf_counter()
    refuse_another(uploader, target, folder, metadata, replace=args.replace)
    try:
        report = uploader.upload_dir(str(folder))
    except KeyboardInterrupt as exc:
        add_note(exc, "what has arrived is not sent again: give the same command again to go on")
        raise
    seconds = time.perf_counter() - start
    if args.json:
        import json

        from msgspec.structs import asdict

        # An uploader that does not track what it sends returns no report.
        facts = {} if report is None else asdict(report)
        done = {"target": target, "name": metadata.name, **facts, "elapsed_s": seconds}
        print(json.dumps(done))
    else:
        for line in _lines(target, report, seconds):
            print(line)
    return EXIT_OK


def _lines(target: str, report: UploadReport | None, seconds: float) -> Iterator[str]:
    if report is None:  # the uploader keeps no count, and may not have looked at what arrived
        yield f"{one_line(target)}: sent; `audiomdb verify` checks what is there"
        return
    yield f"{one_line(target)}: {counted(report.files, 'file')}, {size(report.bytes)}, whole"
    there = report.files - report.sent_files
    kept = f"; {counted(there, 'file')} had been there" if there else ""
    yield f"{size(report.sent_bytes)} sent in {seconds:.1f} s{kept}"
    if report.deleted_files:
        yield f"{counted(report.deleted_files, 'file')} of the dataset before it deleted"
