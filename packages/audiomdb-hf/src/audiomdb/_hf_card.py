"""Write a generated part into the card of a dataset on the Hub, and keep the rest unchanged."""

from __future__ import annotations

import json
import re

from audiomdb._hf_url import HubFolder, hf_url
from audiomdb.shards import Feature, Metadata

__all__ = ["merge_card"]

_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


_READING = """
With PyTorch (`pip install audiomdb-hf audiomdb-torch`):

```python
from torch.utils.data import DataLoader

from audiomdb.data.base import StreamingDataset
from audiomdb.retrievers.hf import HFRetriever

dataset = StreamingDataset(HFRetriever({arguments}), shuffle=True)
for batch in DataLoader(dataset, batch_size=32, num_workers=2):
    ...
```

Without (`pip install audiomdb-hf`):

```python
from audiomdb.stream import open_dataset

with open_dataset({url}) as samples:
    for sample in samples:
        ...
```
"""


def merge_card(card: str | None, metadata: Metadata, folder: HubFolder) -> str:
    """Return the card with an updated part about a dataset.

    The part is delimited by two comments. If the card has none yet, it is added at the end;
    everything outside it stays unchanged.

    Args:
        card: Text of the existing card; None if there is none.
        metadata: Metadata of the dataset.
        folder: Folder of the dataset; each has a part of its own. The last part of the
            repository's name is the title of a new card.
    """
    name = folder.subdir or "."
    begin = f"<!-- audiomdb {name}: written at each upload, edit outside of it -->"
    end = f"<!-- /audiomdb {name} -->"
    reading = _READING.format(
        arguments=", ".join(_arguments(folder)),
        url=f'"{hf_url(folder.repo_id, folder.revision, folder.subdir)}"',
    )
    part = f"{begin}\n{_describe(metadata, folder.subdir)}\n{reading}{end}"
    if card is None:
        return f"{_front_matter(metadata)}\n# {folder.repo_id.rpartition('/')[2]}\n\n{part}\n"
    ours = re.compile(rf"<!-- audiomdb {re.escape(name)}:.*?{re.escape(end)}", re.DOTALL)
    if ours.search(card):
        return ours.sub(lambda _: part, card, count=1)
    return f"{card.rstrip()}\n\n{part}\n"


def _front_matter(metadata: Metadata) -> str:
    # JSON strings are valid YAML if all characters are printable. The Hub's dataset viewer cannot
    # read LMDB.
    return (
        "---\n"
        f"pretty_name: {json.dumps(_one_line(metadata.name), ensure_ascii=False)}\n"
        f"size_categories: [{_size_category(metadata.samples)}]\n"
        "tags: [audio, audiomdb]\n"
        "viewer: false\n"
        "---\n"
    )


def _size_category(samples: int) -> str:
    """Return the Hub's size category for a number of samples: n<1K, 1K<n<10K, ... n>1T."""
    for exponent, size in enumerate(_SIZES):
        if samples < 1000 * 10**exponent:
            return f"{_SIZES[exponent - 1]}<n<{size}" if exponent else f"n<{size}"
    return f"n>{_SIZES[-1]}"


def _arguments(folder: HubFolder) -> list[str]:
    """Return the arguments of `HFRetriever` as Python source."""
    options = {"revision": folder.revision, "subdir": folder.subdir}
    given = [f"{name}={json.dumps(value)}" for name, value in options.items() if value]
    return [json.dumps(folder.repo_id), *given]


def _describe(metadata: Metadata, subdir: str) -> str:
    where = f"In `{subdir}/`: " if subdir else ""
    summary = (
        f"{where}{_escape(metadata.name)}, {metadata.samples:,} samples, "
        f"{metadata.duration / 3600:,.2f} hours of audio, {len(metadata.shards):,} shards of "
        f"{metadata.bytes / 1e6:,.1f} MB in all. AudioMDB format {metadata.format_version}: LMDB "
        "files that are read in place."
    )
    lines = [summary, "", "| field | holds |", "| --- | --- |"]
    features = metadata.features.items()
    lines += [f"| {_escape(name)} | {_escape(_holds(feature))} |" for name, feature in features]
    if metadata.processors:
        lines += ["", f"Made by {', '.join(map(_code, metadata.processors))}."]
    if metadata.rejected:
        lines += ["", f"Samples of the source that could not be used: {metadata.rejected:,}."]
    return "\n".join(lines)


def _holds(feature: Feature) -> str:
    text = ", ".join(feature.types)
    if feature.shape is not None:
        text += f" ({', '.join('any' if axis is None else str(axis) for axis in feature.shape)})"
    return f"{text} {feature.dtype}" if feature.dtype else text


def _escape(text: str) -> str:
    """Escape text so that it stays in one table cell and cannot open a comment or a tag."""
    return _one_line(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;"))


def _code(text: str) -> str:
    """Format text as code that ends where it should, and looks like none of the comments."""
    return f"`{_one_line(text).replace('`', chr(39)).replace('<!--', '< !--')}`"


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
