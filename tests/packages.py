"""Packages of somebody else's, as an installer leaves them behind."""

from __future__ import annotations

from pathlib import Path


def install(folder: Path, name: str, module: str, entry_points: str) -> Path:
    """What an installed distribution leaves on the path: a module, and what is known of it."""
    module_name = name.replace("-", "_")
    register(folder, name, "1.5", entry_points.format(module=module_name))
    (folder / f"{module_name}.py").write_text(module)
    return folder


def register(folder: Path, name: str, version: str, entry_points: str) -> None:
    """Make the entry points of a distribution known where `folder` is on the path."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
