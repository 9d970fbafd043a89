"""The entry point: parses the arguments, runs a command, and reports errors on one line each."""

from __future__ import annotations

import argparse
import io
import logging
import os
import select
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from audiomdb.cli import convert, info, ls, merge, pull, quickstart, show, upload, verify
from audiomdb.cli.arguments import (
    EXIT_BROKEN_PIPE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    Parser,
    UsageError,
    add_debug,
)
from audiomdb.cli.text import one_line
from audiomdb.errors import AudioMDBError, InvalidURLError
from audiomdb.progress import stderr_is_terminal

__all__ = ["main"]

_EPILOG = """\
start here:
  audiomdb quickstart                              convert and read the recordings included
  audiomdb convert folder recordings my-dataset    convert your own
  audiomdb upload my-dataset s3://bucket/prefix    for others to read or pull

exit codes:
  0  all is well
  1  a dataset or sample is damaged, missing or refused, or a store cannot be reached
  2  the command line is wrong
  130  stopped by Ctrl-C
  141  the program that read the output has ended

`audiomdb COMMAND --help` explains a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line interface.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit code.
    """
    _prepare_streams()
    args = argparse.Namespace()
    try:
        code = _run(argv, args)
        sys.stdout.flush()
    except KeyboardInterrupt as exc:
        return _report(exc, EXIT_INTERRUPTED, args)
    except (UsageError, InvalidURLError) as exc:
        return _report(exc, EXIT_USAGE, args)
    except (AudioMDBError, OSError) as exc:
        if isinstance(exc, BrokenPipeError) and _nobody_reads():
            return EXIT_BROKEN_PIPE
        return _report(exc, EXIT_FAILED, args)
    finally:
        _flush_or_drop_output()
    return code


def _run(argv: Sequence[str] | None, args: argparse.Namespace) -> int:
    """Parse the arguments into `args`, run the command and return the exit code."""
    parser = _parser()
    try:
        parser.parse_args(argv, args)
    except SystemExit as exc:  # --help, or a usage error; argparse has printed it
        return int(exc.code or EXIT_OK)
    if args.version:
        print("audiomdb", _version())
        return EXIT_OK
    if args.run is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    with _one_line_messages(args.log_level):
        code: int = args.run(args)
    return code


def _parser() -> Parser:
    parser = Parser(
        prog="audiomdb",
        description="Convert audio datasets into shards; inspect, check and publish them.",
        epilog=_EPILOG,
    )
    parser.add_argument("-V", "--version", action="store_true", help="print the version")
    add_debug(parser)
    parser.set_defaults(run=None, log_level=logging.WARNING)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (quickstart, convert, merge, info, ls, show, verify, upload, pull):
        command.add(commands)
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("audiomdb-core")
    except PackageNotFoundError:
        return "(from a source tree that is not installed)"


def _report(exc: BaseException, code: int, args: argparse.Namespace) -> int:
    if getattr(args, "debug", False):
        import traceback

        traceback.print_exc()
    interrupted = isinstance(exc, KeyboardInterrupt)
    message = "interrupted" if interrupted else str(exc) or type(exc).__name__
    # A converter adds a note to its errors that says how to continue.
    for line in (message, *getattr(exc, "__notes__", ())):
        with suppress(BrokenPipeError):  # the exit code has to do
            _say(line)
    return code


@contextmanager
def _one_line_messages(level: int) -> Iterator[None]:
    """Print warnings and log messages of the library in the same form as errors."""

    class Messages(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _say(record.getMessage())

    logger, handler = logging.getLogger("audiomdb"), Messages(level)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _show_warning(message: Warning | str, *_: object) -> None:
    _say(f"warning: {message}")


def _say(message: str) -> None:
    # A progress bar may stand in the terminal's last line; it is drawn again below the message.
    clear = "\r\x1b[K" if stderr_is_terminal() else ""
    # Whatever a file name contains, a message stays on one line and does not move the cursor.
    print(f"{clear}audiomdb: {one_line(' '.join(message.splitlines()))}", file=sys.stderr)


def _prepare_streams() -> None:
    """Escape what a terminal cannot show, and let output go nowhere that its receiver closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for the rest of the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _nobody_reads() -> bool:
    """Whether the reader of a standard stream has ended; else a store's connection has."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a stream in memory has no descriptor
            poll.register(stream, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _flush_or_drop_output() -> None:
    """Write what is left of the output; drop it if that fails, for which there is an error."""
    try:
        sys.stdout.flush()
    except OSError:
        # Python flushes stdout again at exit, and would report the failure a second time.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
