"""The argument parser, exit codes and options that the commands share."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

__all__ = [
    "EXIT_BROKEN_PIPE",
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "EXIT_USAGE",
    "Commands",
    "Parser",
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

_KEPT = (
    "where downloaded shards are kept for next time (default: audiomdb in $XDG_CACHE_HOME or "
    "~/.cache)"
)

_WIDEST = 100
"""Maximum width of help paragraphs, in columns; longer lines are hard to read in any terminal."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE, as other programs exit when their output is no longer read. Not a success."""


class UsageError(Exception):
    """Raised for arguments that are invalid or do not work together."""


class _Help(argparse.HelpFormatter):
    """Wraps texts to the terminal width, but no option or file name; keeps lists and examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        paragraphs = (
            part if "\n " in part else "\n".join(self._split_lines(part, width))
            for part in text.strip("\n").split("\n\n")
        )
        return textwrap.indent("\n\n".join(paragraphs), indent)

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap

        return textwrap.wrap(" ".join(text.split()), min(width, _WIDEST), break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """An argument parser that rejects abbreviated options and suggests names for misspelt ones.

    Args:
        options: Arguments of `argparse.ArgumentParser`.

    Attributes:
        prepare: Called once, before this parser is used: adds arguments that take long to find.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options, allow_abbrev=False, formatter_class=_Help)
        self.prepare: Callable[[], None] = _nothing

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: Any = None,  # noqa: ANN401
    ) -> tuple[Any, list[str]]:
        """Reject unknown arguments here; argparse would print the main parser's usage for them."""
        prepare, self.prepare = self.prepare, _nothing
        prepare()
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = list(dict.fromkeys(self._near(unknown)))
            hint = f"; did you mean {' and '.join(near)}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return known, unknown

    def _near(self, unknown: Sequence[str]) -> Iterator[str]:
        import difflib

        options = [name for name in self._option_string_actions if name.startswith("--")]
        for argument in unknown:
            name = argument.partition("=")[0]
            if name.startswith("--"):
                yield from difflib.get_close_matches(name, options, 1)


def _nothing() -> None:
    """Do nothing."""


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""The object that `add_subparsers` returns, to which each command adds its parser."""


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
    """Add the parser of a command.

    Args:
        commands: The object to add it to.
        name: Name of the command.
        run: Runs the command and returns the exit code.
        summary: One line for the list of commands.
        description: Details for the command's own help, after the summary.
        example: Command lines, each with a remark, shown at the end of the help.
        usage: The usage line, if the one that argparse generates would be too long.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{description}".strip(),
        epilog=f"example:\n{example}",
        usage=usage,
    )
    parser.set_defaults(run=run)
    add_debug(parser)
    return parser


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add `--debug`, which may be given before or after the command's name."""
    # Without SUPPRESS the command's default would override an option given before its name.
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback if there is an error",
    )


def add_dataset(parser: argparse.ArgumentParser, *, cache_dir: str = _KEPT) -> None:
    """Add the argument for the dataset to read, and the options for a dataset at a URL.

    Args:
        parser: Parser of the command.
        cache_dir: The help of `--cache-dir`.
    """
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="folder with a metadata.json, or a URL such as s3://bucket/prefix",
    )
    group = parser.add_argument_group("reading from a URL")
    add_cache(group, cache_dir)
    add_options(group)


def add_cache(group: argparse._ArgumentGroup, cache_dir: str) -> None:
    """Add the options for the cache of remote datasets; `cache_dir` is the help of the first."""
    group.add_argument(
        "--cache-dir",
        metavar="DIR",
        help=cache_dir,
    )
    group.add_argument(
        "--max-cache-bytes",
        type=octets,
        metavar="SIZE",
        help="hard limit of this dataset's cache, such as 50GB (default: limited by the disk)",
    )


def add_options(
    group: argparse._ArgumentGroup, *, example: str = "anonymous=true for a public bucket"
) -> None:
    """Add `--option`, for arguments of the class that opens a URL; the help shows `example`."""
    group.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"argument of the class that opens the URL, such as {example}; may be "
        "repeated. Other settings come from the environment, as for other "
        "programs (AWS_PROFILE, AWS_ENDPOINT_URL, HF_TOKEN)",
    )


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--json`, which prints `what` in a form for programs."""
    parser.add_argument("--json", action="store_true", help=f"print {what}, for programs")


def count(text: str) -> int:
    """Parse an argument that is an integer of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return _no_larger_than_an_index(number, text)


def octets(text: str) -> int:
    """Parse an argument that is a number of bytes, such as 1000000, 500MB or 64MiB."""
    found = re.fullmatch(r"(\d+) ?([kmgt]i?)?b?", text.strip().lower())
    if found is None or int(found[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 500MB or 64MiB")
    return _no_larger_than_an_index(int(found[1]) * _UNITS[found[2] or ""], text)


def _no_larger_than_an_index(number: int, text: str) -> int:
    if number > sys.maxsize:  # nothing that is counted, iterated or allocated goes further
        raise argparse.ArgumentTypeError(f"{text!r} is more than {sys.maxsize}")
    return number
