"""Write docs/api.md, the list of all public names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["PUBLIC", "page"]

ROOT = Path(__file__).resolve().parents[1]

PUBLIC = {
    "audiomdb-core": [
        "audiomdb.audio",
        "audiomdb.converters.base",
        "audiomdb.converters.files",
        "audiomdb.errors",
        "audiomdb.plan",
        "audiomdb.processors.base",
        "audiomdb.processors.chain",
        "audiomdb.registry",
        "audiomdb.retrievers.base",
        "audiomdb.retrievers.local",
        "audiomdb.sample",
        "audiomdb.shards",
        "audiomdb.stream",
        "audiomdb.testing",
        "audiomdb.uploaders.base",
        "audiomdb.uploaders.local",
        "audiomdb.urls",
    ],
    "audiomdb-torch": ["audiomdb.data.base", "audiomdb.data.collate", "audiomdb.data.loader"],
    "audiomdb-hf": ["audiomdb.converters.hf", "audiomdb.retrievers.hf", "audiomdb.uploaders.hf"],
    "audiomdb-s3": ["audiomdb.retrievers.s3", "audiomdb.uploaders.s3"],
    "audiomdb-whisper": ["audiomdb.processors.whisper"],
}
"""The public modules of each package; what else is importable may change in any release."""

_INTRODUCTION = """\
# Public names

These modules and the names below them, the command line and [the format](format.md) are what
AudioMDB promises: from 1.0 on, a release that breaks one of them has a new major version. Other
modules can be imported too, but may change in any release. The docstring of each name says more;
`python -c "from audiomdb.stream import open_dataset; help(open_dataset)"` prints one.

This page is written by `python docs/api.py`."""


class _Definition(NamedTuple):
    path: Path
    summary: str


def page() -> str:
    """Return the page as Markdown."""
    lines = [_INTRODUCTION]
    for package, modules in PUBLIC.items():
        lines += ["", f"## {package}"]
        for module in modules:
            lines += ["", f"### {module}", ""]
            path = _path(package, module)
            for name in _exported(path):
                found = _definition(package, path, name)
                link = Path("..") / found.path.relative_to(ROOT)
                lines.append(f"- [`{name}`]({link.as_posix()}): {found.summary}")
    return "\n".join(lines) + "\n"


def _path(package: str, module: str) -> Path:
    source = ROOT / "packages" / package / "src" / module.replace(".", "/")
    return source / "__init__.py" if source.is_dir() else source.with_suffix(".py")


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _exported(path: Path) -> list[str]:
    for node in _parsed(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value), key=str.lower)
    raise ValueError(f"{path} has no __all__")


def _definition(package: str, path: Path, name: str) -> _Definition:
    """Find where a name is defined, through any number of imports."""
    for node, following in _statements(_parsed(path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return _Definition(path, _first_line(ast.get_docstring(node)))
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == name:
                said = isinstance(following, ast.Expr) and ast.literal_eval(following.value)
                return _Definition(path, _first_line(said or f"`{ast.unparse(node)}`"))
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(package, _path(package, node.module), alias.name)
    raise ValueError(f"{path} does not define {name}")


def _statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    """Yield the statements of a module and of its `if` blocks, each with the one after it."""
    for block in [tree.body, *(node.body for node in tree.body if isinstance(node, ast.If))]:
        yield from zip(block, [*block[1:], None], strict=True)


def _first_line(docstring: str | None) -> str:
    if not docstring:
        raise ValueError("a public name has no docstring")
    return " ".join(docstring.partition("\n\n")[0].split())


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
