"""What the parsers of all commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import argparse

    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

__all__ = [
    "EXIT_BROKEN_PIPE",
    "EXIT_DAMAGED",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "EXIT_USAGE",
    "UsageError",
    "add_command",
    "add_dataset",
    "add_debug",
    "add_json",
    "count",
]

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
) -> argparse.ArgumentParser:
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
    """Add the argument that names a dataset."""
    parser.add_argument("dataset", metavar="DATASET", help="folder that holds metadata.json")


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--json`, which prints `what` for programs."""
    parser.add_argument("--json", action="store_true", help=f"print {what}, for programs")


def count(text: str) -> int:
    """An argument that is a whole number from 1."""
    number = int(text)  # argparse says "invalid count value" to a ValueError
    if number < 1:
        import argparse

        raise argparse.ArgumentTypeError(f"{number} is given, expected a whole number from 1")
    return number
