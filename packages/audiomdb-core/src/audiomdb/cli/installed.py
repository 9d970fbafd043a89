"""`audiomdb convert NAME`: convert what an installed package reads.

The options of the command are those of the converter's constructor, and their help is what its
docstring says of them.
"""

from __future__ import annotations

import argparse
import inspect
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from audiomdb.cli.arguments import Parser, UsageError, add_command
from audiomdb.cli.converting import ABOUT_RUNS, add_options, add_output, convert, options_of
from audiomdb.cli.values import is_list, metavar, parsed
from audiomdb.errors import AudioMDBError, BackendError
from audiomdb.signatures import option_types, signature_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audiomdb.cli.arguments import Commands
    from audiomdb.converters.base import BaseConverter

__all__ = ["add"]

_SUMMARIES = {"hf": "a dataset on the Hugging Face Hub, or any other that `datasets` can load"}
"""Kinds of sources of this project's packages, also for whoever has not installed them."""

_OWN = "own option "
"""Prefix of the arguments that are a converter's own; no other argument's name has spaces."""


def add(sources: Commands) -> None:
    """Add a subcommand for each converter that a package registers; imports none of them."""
    from audiomdb.registry import converter_packages

    installed = converter_packages()
    for name in sorted({*installed, *_SUMMARIES} - sources.choices.keys()):
        summary = _SUMMARIES.get(name)
        if name not in installed:
            _add_missing(sources, name)
            continue
        parser = add_command(
            sources,
            name,
            partial(_run, name),
            summary=summary or f"what the package {installed[name]} reads",
            example=f"  audiomdb convert {name} SOURCE OUTPUT",
            usage=f"audiomdb convert {name} [options] SOURCE OUTPUT",
        )
        parser.prepare = partial(_complete, parser, name)


def _add_missing(sources: Commands, name: str) -> None:
    from audiomdb.registry import PACKAGES

    package, summary = PACKAGES[name], _SUMMARIES[name]

    def refuse() -> None:
        raise UsageError(f"to convert {summary}: pip install {package}")

    sources.add_parser(name, help=f"{summary} (pip install {package})").prepare = refuse


def _complete(parser: Parser, name: str) -> None:
    """Add the arguments of a converter, which imports it."""
    from audiomdb.converters.base import BaseConverter
    from audiomdb.registry import converter_class

    kind = converter_class(name)
    summary, described = _read(kind)
    parser.description = "\n\n".join(filter(None, [summary, ABOUT_RUNS]))
    parameters = signature_of(kind).parameters
    own_way = kind.from_source.__func__ is not BaseConverter.from_source.__func__  # type: ignore[attr-defined]
    source = "" if own_way else next(iter(parameters), "")
    if source == "output_dir":
        raise BackendError(
            f"the first argument of {kind.__name__} is output_dir, expected the source; if it "
            "needs none, or it is another argument, define the classmethod from_source"
        )
    parser.add_argument("input", metavar="SOURCE", help=described.get(source, "the source"))
    add_output(parser)
    group = parser.add_argument_group(f"options of {kind.__name__}")
    add_options(parser, parser.add_argument_group("reading the source"))
    common = {source, *signature_of(BaseConverter.__init__).parameters}
    for option, types in option_types(kind, "from_source").items():
        if option not in common:
            default = parameters[option].default if option in parameters else None
            needed = default is inspect.Parameter.empty
            text = described.get(option, "")
            if default is not None and not needed:
                shown = str(default).lower() if isinstance(default, bool) else default
                text += f" (default: {shown})".replace("%", "%%")
            required = needed and not own_way  # else from_source may know it
            _add_option(parser, group, option, types, text, required=required)


def _add_option(
    parser: Parser,
    group: argparse._ArgumentGroup,
    option: str,
    types: Sequence[str],
    text: str,
    *,
    required: bool,
) -> None:
    def value(given: str) -> Any:  # noqa: ANN401
        try:
            return parsed(given, types)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(f"{given!r}: {exc}") from exc

    flag = f"--{option.replace('_', '-')}"
    if flag in parser._option_string_actions:
        flag = f"--source{flag[1:]}"
    if is_list(types):
        text += " May be repeated."
    group.add_argument(
        flag,
        dest=f"{_OWN}{option}",
        action="extend" if is_list(types) else "store",
        type=value,
        default=argparse.SUPPRESS,
        required=required,
        metavar=metavar(types),
        help=text.strip(),
    )


def _run(name: str, args: argparse.Namespace) -> int:
    from audiomdb.registry import converter_class

    given = vars(args).items()
    own = {key.removeprefix(_OWN): value for key, value in given if key.startswith(_OWN)}
    common = {option: value for option, value in options_of(args).items() if value is not None}
    try:
        converter = converter_class(name).from_source(args.input, args.output, **common, **own)
    except AudioMDBError:
        raise
    except (TypeError, ValueError) as exc:
        raise UsageError(str(exc)) from exc
    return convert(converter, args)


def _read(kind: type[BaseConverter]) -> tuple[str, dict[str, str]]:
    """Return the first line of a class's docstring, and the help text of each argument."""
    text = inspect.getdoc(kind) or ""
    if vars(kind).get("__doc__") is None:  # inherited: it is about another class
        return "", {}
    summary, _, rest = text.partition("\n")
    found = re.search(r"^Args:\n((?:(?: .*)?\n)*)", f"{rest}\n", re.MULTILINE)
    described: dict[str, str] = {}
    for name, line in re.findall(
        r"^ {4}(\w+)(?: \(.*?\))?:((?:.*\n)(?: {5,}.*\n)*)", found[1] if found else "", re.MULTILINE
    ):
        described[name] = " ".join(line.split()).replace("%", "%%")
    return summary, described
