"""Uploads, verifies, pulls and reads, each interrupted wherever a signal could be handled.

An interrupt hits between two calls, so it is raised at each entry and each end of a call that the
main thread makes in modules with locks: those of the standard library, and ours. Not at the end of
the `__enter__` of a lock, which profilers see since Python 3.14: no signal is handled there, except
by 3.14 itself, which then leaves the lock locked, whatever a program does (python/cpython#148874).
"""

import sys
import threading
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from types import FrameType
from typing import Any

from audiomdb.sample import Sample
from audiomdb.shards import DatasetWriter, verify_dataset
from audiomdb.stream import SampleStream
from audiomdb.testing import MemoryRetriever, MemoryServer, MemoryStore
from audiomdb.threads import Check, each
from audiomdb.uploaders.base import BaseUploader

WATCHED = ("threading.py", "thread.py", "_base.py", "threads.py", "_sending.py", "course.py")


class Store(BaseUploader):
    def __init__(self) -> None:
        super().__init__(workers=2, progress=False)
        self.files: dict[str, tuple[int, str]] = {}

    def upload_file(self, full_path: str, rel_path: str) -> None:
        self.files[rel_path] = Path(full_path).stat().st_size, self.sha256(full_path)

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        return self.files.get(rel_path)


def pulled(number: int, check: Check) -> int:
    check()
    return number


def processed(sample: Sample) -> Sample:
    return sample


def read(url: str, cache: Path) -> None:
    with closing(MemoryRetriever(url, cache_dir=cache)) as retriever:
        stream = SampleStream(retriever, num_threads=1, processor=processed)
        with closing(stream.samples()) as samples:
            list(islice(samples, 2))


def interrupted(work: Any, at: int) -> bool:
    """Run `work` and interrupt it at the `at`-th point; return whether there is such a point."""
    seen = 0

    def profile(frame: FrameType, event: str, called: object) -> None:
        nonlocal seen
        if getattr(called, "__name__", "") == "__enter__" != frame.f_code.co_name:
            return  # that of a `with` statement, not one that `Condition.__enter__` calls
        if event in ("call", "c_return") and frame.f_code.co_filename.endswith(WATCHED):
            seen += 1
            if seen == at + 1:
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        work()
    except (KeyboardInterrupt, RuntimeError):
        return True  # an interrupted start of a thread may end in "release unlocked lock"
    finally:
        sys.setprofile(None)
    return seen > at  # it hit where Python ignores it, such as a callback of the collector


def main(folder: Path) -> None:
    with DatasetWriter(folder, samples_per_shard=1) as writer:
        for number in range(3):
            writer.write(f"clip-{number}", {"number": number})
    server, caches = MemoryServer(), count()
    MemoryStore(server, "clips").fill(folder)
    for name, work in (
        ("uploads", lambda: Store().upload_dir(folder)),
        ("checks", lambda: verify_dataset(folder)),
        ("pulls", lambda: list(each(pulled, range(8), workers=2, name="pull"))),
        ("reads", lambda: read(server.url("clips"), folder.with_name(f"cache-{next(caches)}"))),
    ):
        work()  # imports what it needs: an interrupt could leave half a module
        at = 0
        while interrupted(work, at):
            at += 1
        assert at > 20, "it passes through few of the modules that are watched"
        assert threading.active_count() < at, "threads end"
        sys.stdout.write(f"{name} end wherever they are interrupted\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
