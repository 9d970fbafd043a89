"""Turn what goes wrong with the disk of an output folder into one error that says how to go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from audiomdb.errors import AudioMDBError, OutputWriteError

__all__ = ["disk_errors"]


@contextmanager
def disk_errors(folder: Path, *, job: str = "conversion") -> Iterator[None]:
    """Turn disk and LMDB errors into an OutputWriteError that says how to continue.

    Args:
        folder: The output folder.
        job: What is to be run again, for the message.
    """
    try:
        yield
    except AudioMDBError:  # such as OutputExistsError, which is an OSError
        raise
    except (OSError, lmdb.Error) as exc:  # LMDB reports a short write as an I/O error
        if isinstance(exc, lmdb.MemoryError):
            why = ", which is no lack of disk: the process may not map so much memory"
            advice = "raise its limit (ulimit -v) or give a smaller map_size,"
        else:
            why = f" ({shutil.disk_usage(folder).free} bytes are free there)"
            advice = "make room"
        raise OutputWriteError(
            f"cannot write to {folder}: {exc}{why}. Finished shards are kept; {advice} and run "
            f"the same {job} again"
        ) from exc
