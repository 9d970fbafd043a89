"""Converters for audio files on disk."""

from __future__ import annotations

from audiomdb.converters._folder import FolderConverter
from audiomdb.converters._manifest import ManifestConverter

__all__ = ["FolderConverter", "ManifestConverter"]
