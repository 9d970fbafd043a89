"""Packages of somebody else's, as an installer leaves them behind."""

from __future__ import annotations

from pathlib import Path


def install(folder: Path, name: str, module: str, entry_points: str) -> Path:
    """What an installed distribution leaves on the path: a module, and what is known of it."""
    module_name = name.replace("-", "_")
    info = folder / f"{module_name}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(entry_points.format(module=module_name))
    (folder / f"{module_name}.py").write_text(module)
    return folder
