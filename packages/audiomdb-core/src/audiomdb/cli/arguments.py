"""What the parsers of all commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import argparse

    from audiomdb.cli.parsing import Parser

    Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

__all__ = [
    "EXIT_BROKEN_PIPE",
    "EXIT_DAMAGED",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "EXIT_USAGE",
    "UsageError",
    "add_cache",
    "add_command",
    "add_dataset",
    "add_debug",
    "add_json",
    "add_options",
    "count",
    "octets",
]

_CACHE_DIR = "audiomdb in $XDG_CACHE_HOME or ~/.cache"
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}

EXIT_OK = 0
EXIT_DAMAGED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE, as other programs end when `head` has seen enough. Nothing was verified then."""


class UsageError(Exception):
    """The command was called in a way that cannot work."""


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    summary: str,
    description: str = "",
    example: str,
    usage: str | None = None,
) -> Parser:
    """Add a command.

    Args:
        commands: Where to.
        name: What the user types.
        run: Does the work and returns the exit code.
        summary: One line, for the list of commands.
        description: More than that, for the command's own help.
        example: Command lines with a remark each, shown at the end of the help.
        usage: The command's form, where the one that argparse makes would be too long.
    """
    import argparse

    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{description}".strip(),
        epilog=f"example:\n{example}",
        usage=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add_debug(parser)
    return parser


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Let an option `--debug` stand before or after the command's name."""
    import argparse

    # Without SUPPRESS the command's default would undo what stood before its name.
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a dataset to read, and how to reach one at a URL."""
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="folder that holds metadata.json, or a URL like s3://bucket/prefix",
    )
    group = parser.add_argument_group("reading from a URL")
    add_cache(group)
    add_options(group)


def add_cache(group: argparse._ArgumentGroup, *, default: str = _CACHE_DIR) -> None:
    """Add what says where shards of remote datasets are kept; `default` is for the help."""
    group.add_argument(
        "--cache-dir",
        metavar="DIR",
        help=f"where downloaded shards are kept for the next time ({default})",
    )
    group.add_argument(
        "--max-cache-bytes",
        type=octets,
        metavar="SIZE",
        help="hard limit of this dataset's cache, such as 50GB (that of the disk)",
    )


def add_options(group: argparse._ArgumentGroup) -> None:
    """Add what the class behind a URL wants to know."""
    group.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of the class that opens the URL, such as anonymous=true for a public "
        "bucket; may be given again. What is not given comes from the environment, as for other "
        "programs (AWS_PROFILE, AWS_ENDPOINT_URL, HF_TOKEN)",
    )


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--json`, which prints `what` for programs."""
    parser.add_argument("--json", action="store_true", help=f"print {what}, for programs")


def count(text: str) -> int:
    """An argument that is a whole number from 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        import argparse

        raise argparse.ArgumentTypeError(f"{text!r} is given, expected a whole number from 1")
    return number


def octets(text: str) -> int:
    """An argument that is a number of bytes: 1000000, 500MB, 64MiB."""
    import re

    found = re.fullmatch(r"(\d+) ?([kmg]i?)?b?", text.strip().lower())
    if found is None or int(found[1]) < 1:
        import argparse

        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 500MB or 64MiB")
    return int(found[1]) * _UNITS[found[2] or ""]
