"""Converters for audio files on disk."""

from __future__ import annotations

from audiomdb.converters.folder import FolderConverter
from audiomdb.converters.manifest import ManifestConverter

__all__ = ["FolderConverter", "ManifestConverter"]
