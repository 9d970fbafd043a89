"""The parser of every command: whole names of options only, and help with a misspelt one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """Takes no option by the beginning of its name, and says which one a misspelt one is near to.

    Args:
        options: Of `argparse.ArgumentParser`.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: Any = None,  # noqa: ANN401
    ) -> tuple[Any, list[str]]:
        """Refuse here what nothing takes: argparse would do so with the main parser's usage."""
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
