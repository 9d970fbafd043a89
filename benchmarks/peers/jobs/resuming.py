"""Stopping in the middle of an epoch and going on in another process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import now
from benchmarks.corpus import Corpus
from benchmarks.peers.registry import make
from benchmarks.peers.system import Loader, Settings, Wish, clip_name

__all__ = ["interrupt", "resume"]

_WISH = Wish(batch_size=8, stateful=True)


def interrupt(
    system: str, folder: str, settings: dict[str, Any], batches: int, kept: str
) -> dict[str, Any]:
    """Take some batches, keep the state and what was seen, and see how the epoch goes on."""
    loader = _loader(system, folder, settings)
    running = iter(loader)
    seen = [clip_name(key) for _ in range(batches) for key in next(running).keys]
    state = loader.state()
    rest = [clip_name(key) for batch in running for key in batch.keys]
    # What a state holds is each library's own affair, so it is kept as a checkpoint would be.
    torch.save({"state": state, "seen": seen, "rest": rest}, kept)
    return {"seen": len(seen), "rest": len(rest)}


def resume(
    system: str, corpus: str, folder: str, settings: dict[str, Any], kept: str
) -> dict[str, Any]:
    """Go on from the state. The clock starts when torch has been imported.

    Returns:
        Seconds to the first batch; clips of the epoch that never came, that came again, and
        whether the rest came in the order of the run that was not stopped. Or what was raised.
    """
    before = torch.load(kept, weights_only=False)
    begin = now()
    rest: list[str] = []
    first_s = None
    try:
        loader = _loader(system, folder, settings)
        loader.resume(before["state"])
        for batch in loader:
            if first_s is None:
                first_s = now().since(begin).wall_s
            rest += map(clip_name, batch.keys)
    except Exception as error:  # noqa: BLE001 (that it does not go on is the finding)
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    all_keys = {path.stem for path in Corpus(Path(corpus)).paths}
    counts = Counter([*before["seen"], *rest])
    return {
        "first_batch_s": first_s,
        "lost": len(all_keys - set(counts)),
        "repeated": sum(count - 1 for count in counts.values()),
        "same_order": rest == before["rest"],
        "same_clips": sorted(rest) == sorted(before["rest"]),
        "seen": len(before["seen"]),
        "clips": len(all_keys),
    }


def _loader(system: str, folder: str, settings: dict[str, Any]) -> Loader:
    return make(system).loader(Path(folder), Settings(**settings), _WISH)
