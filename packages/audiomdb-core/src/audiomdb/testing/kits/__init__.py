"""Conformance kits: test classes to subclass. They need pytest."""

from __future__ import annotations

from audiomdb.testing.kits.converters import ConverterConformance
from audiomdb.testing.kits.processors import ProcessorConformance
from audiomdb.testing.kits.retrievers import RetrieverConformance
from audiomdb.testing.kits.uploaders import UploaderConformance

__all__ = [
    "ConverterConformance",
    "ProcessorConformance",
    "RetrieverConformance",
    "UploaderConformance",
]
