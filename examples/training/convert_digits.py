"""Converts recordings of spoken digits, named as the Free Spoken Digit Dataset names them.

    python convert_digits.py recordings digits

Clips to be held out come first, and lie in the same few shards: who evaluates reads no others. The
others follow in random order. Files are named by digit and speaker, and a stream mixes over a few
shards at a time, so that in the order of their names a batch would have one or two digits only.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiomdb.converters.base import BaseConverter

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

HELD_OUT_TAKES = 5
"""The dataset's own rule: of each speaker and digit, takes 0 to 4 are for testing."""


class DigitConverter(BaseConverter):
    """Files named `{digit}_{speaker}_{take}` with any audio suffix."""

    def __init__(self, recordings: Path, **options: Any) -> None:  # noqa: ANN401
        self.recordings = recordings
        super().__init__(**options)

    def sample_iterator(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each clip under the name of its file."""
        held_out: list[tuple[str, dict[str, Any]]] = []
        others: list[tuple[str, dict[str, Any]]] = []
        for path in sorted(self.recordings.iterdir()):
            digit, _, rest = path.stem.partition("_")
            speaker, _, take = rest.rpartition("_")
            if not (digit.isdigit() and take.isdigit()):
                continue  # the licence, a table
            fields = {"digit": int(digit), "speaker": speaker, "take": int(take)}
            fields["text"] = WORDS[int(digit)]
            clips = held_out if int(take) < HELD_OUT_TAKES else others
            clips.append((path.stem, {"audio": path, **fields}))
        # The same order each time, so that a conversion that was stopped can go on.
        random.Random(0).shuffle(others)  # noqa: S311
        yield from held_out + others


def main() -> None:
    """Convert a folder."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", type=Path, help="folder of audio files")
    parser.add_argument("output", type=Path, help="folder of the dataset")
    parser.add_argument("--samples-per-shard", type=int, default=64, help="(%(default)s)")
    args = parser.parse_args()
    DigitConverter(
        args.recordings,
        output_dir=args.output,
        samples_per_shard=args.samples_per_shard,
        audio_format="flac",  # half the size of WAV, and the same samples
    ).run()


if __name__ == "__main__":
    main()
