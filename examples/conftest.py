"""Lets the packages of this folder be tested where they lie, as if they were installed."""

from __future__ import annotations

import atexit
import importlib.metadata
import shutil
import sys
import tempfile
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _put_on_path(package: Path, metadata: Path) -> None:
    """Make a package importable, and its entry points known."""
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    try:
        importlib.metadata.distribution(project["name"])
    except importlib.metadata.PackageNotFoundError:
        name = project["name"].replace("-", "_")
        folder = metadata / f"{name}-{project['version']}.dist-info"
        folder.mkdir()
        lines = [f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"]
        (folder / "METADATA").write_text("".join(lines), encoding="utf-8")
        groups = project.get("entry-points", {})
        text = "".join(
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
            for group, points in groups.items()
        )
        (folder / "entry_points.txt").write_text(text, encoding="utf-8")
        sys.path.insert(0, str(package / "src"))


_METADATA = Path(tempfile.mkdtemp(prefix="audiomdb-examples-"))
atexit.register(shutil.rmtree, _METADATA, ignore_errors=True)
sys.path.insert(0, str(_METADATA))
for _package in sorted(Path(__file__).parent.glob("*/pyproject.toml")):
    _put_on_path(_package.parent, _METADATA)
