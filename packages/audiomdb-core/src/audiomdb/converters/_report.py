"""Summary of a finished conversion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from audiomdb.quantities import counted, duration, size
from audiomdb.shards.journal import Journal
from audiomdb.shards.layout import REJECTED_FILE
from audiomdb.shards.metadata import Metadata

__all__ = ["ConversionReport"]


class ConversionReport(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of a finished conversion. `str()` formats it as a few lines of text.

    Attributes:
        output_dir: Folder of the dataset.
        samples: Number of samples in the dataset.
        rejected: Number of source samples that could not be stored; `rejected.jsonl` has the
            reasons.
        shards: Number of shards.
        reused_shards: Number of shards that an earlier run had already finished.
        duration_s: Seconds of audio.
        source_bytes: Size of the samples as the source gave them.
        stored_bytes: Size of the dataset's shards and index on disk.
        contradictions: For each field, the number of samples whose source was wrong about the
            audio. The dataset has the correct values, and the log names the first samples.
        not_finite: Number of samples in the dataset whose audio holds NaN or infinite values. The
            log names the first.
        elapsed_s: Wall-clock seconds of this run, without uploading.
    """

    output_dir: Path
    samples: int
    rejected: int
    shards: int
    reused_shards: int
    duration_s: float
    source_bytes: int
    stored_bytes: int
    contradictions: Mapping[str, int]
    not_finite: int
    elapsed_s: float

    @classmethod
    def of(
        cls,
        output_dir: Path,
        metadata: Metadata,
        journals: Sequence[Journal],
        *,
        reused_shards: int,
        elapsed_s: float,
    ) -> ConversionReport:
        """Make a report from the metadata and journals of the writer."""
        contradictions: Counter[str] = Counter()
        for journal in journals:
            contradictions.update(journal.contradictions)
        return cls(
            output_dir=output_dir,
            samples=metadata.samples,
            rejected=metadata.rejected,
            shards=len(metadata.shards),
            reused_shards=reused_shards,
            duration_s=metadata.duration,
            source_bytes=sum(journal.bytes for journal in journals),
            stored_bytes=metadata.bytes + metadata.index.bytes,
            contradictions=dict(sorted(contradictions.items())),
            not_finite=sum(journal.not_finite for journal in journals),
            elapsed_s=elapsed_s,
        )

    @property
    def hours(self) -> float:
        """Hours of audio."""
        return self.duration_s / 3600

    def __str__(self) -> str:
        held = f"{counted(self.samples, 'sample')}, {duration(self.duration_s)} of audio"
        stored = f"{size(self.stored_bytes)} in {counted(self.shards, 'shard')}"
        made = f"made from {size(self.source_bytes)} in {self.elapsed_s:.1f} s"
        if self.reused_shards:
            made += f"; {counted(self.reused_shards, 'shard')} of an earlier run kept"
        lines = [f"{self.output_dir}: {held}, {stored}", made]
        if self.rejected:
            place = self.output_dir / REJECTED_FILE
            lines.append(f"{counted(self.rejected, 'sample')} rejected: see {place}")
        for field, samples in self.contradictions.items():
            lines.append(
                f"the source was wrong about {field} in {counted(samples, 'sample')}; "
                "what the audio says was stored"
            )
        if self.not_finite:
            odd = counted(self.not_finite, "sample")
            lines.append(f"stored as it is, with NaN or infinite values: {odd}")
        return "\n".join(lines)
