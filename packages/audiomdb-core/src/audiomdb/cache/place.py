"""Check that a file system can hold a cache."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from audiomdb.errors import CachePlaceError

__all__ = ["check_place", "file_system"]

_REMOTE = (
    r"nfs\d*|cifs|smb\w*|afs|afpfs|webdav|9p|ceph|lustre|gpfs|beegfs\w*|panfs|wekafs|pvfs2|orangefs"
    r"|fuse\.(sshfs|ceph.*|gluster.*|juicefs.*|beegfs.*|mfs|lizardfs|seaweedfs|davfs2?|rclone"
    r"|s3fs|goofys|gcsfuse|geesefs|mount-s3|mountpoint-s3|blobfuse2?|hf-mount|objectivefs|alluxio.*)"
)


def check_place(directory: Path) -> None:
    """Refuse a directory on a network file system, and any on Windows.

    Raises:
        CachePlaceError: locks there do not work reliably, and a mapped file may change or vanish.
    """
    if sys.platform == "win32":
        raise CachePlaceError(
            f"there can be no cache at {directory}: a cache is shared through flock(2), which "
            "Windows does not have. Use WSL, or copy the dataset and read it in place"
        )
    kind = file_system(directory)
    if kind is not None and re.fullmatch(_REMOTE, kind):
        raise CachePlaceError(
            f"the cache directory {directory} is on a network file system ({kind}), whose locks "
            "and mappings cannot be relied on; give cache_dir= a directory on a local disk"
        )


def file_system(directory: Path) -> str | None:
    """Return the type of a directory's file system, such as "ext4"; None if it is unknown."""
    if sys.platform == "darwin":
        listing = subprocess.run(["/sbin/mount"], capture_output=True, text=True, check=False)
        return _from_mount(listing.stdout, os.path.realpath(directory))
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    device = directory.stat().st_dev
    return _from_mountinfo(text, f"{os.major(device)}:{os.minor(device)}")


def _from_mountinfo(text: str, device: str) -> str | None:
    """Parse Linux's `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw` (proc(5))."""
    for line in text.splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2:3] == [device] and source:
            return source.split()[0]
    return None


def _from_mount(text: str, path: str) -> str | None:
    """Parse macOS's `/dev/disk3s1 on / (apfs, sealed, local)`; the longest mount point wins."""
    best, kind = -1, None
    for line in text.splitlines():
        found = re.fullmatch(r".* on (/.*) \(([^,)]+).*\)", line)
        if found is None:
            continue
        point = found[1].rstrip("/")
        if len(point) > best and (path == point or path.startswith(point + "/")):
            best, kind = len(point), found[2]
    return kind
