"""Where a cache may lie."""

from __future__ import annotations

from pathlib import Path

import pytest

import audiomdb.cache.place
from audiomdb.cache.place import _from_mount, _from_mountinfo, check_place
from audiomdb.errors import CachePlaceError


def test_a_network_file_system_is_refused_with_an_explanation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("nfs4", "cifs", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph-fuse", "fuse.s3fs"):
        monkeypatch.setattr(audiomdb.cache.place, "file_system", lambda _, kind=kind: kind)
        with pytest.raises(CachePlaceError, match=rf"network file system \({kind}\).*cache_dir="):
            check_place(tmp_path)


def test_a_file_system_of_this_machine_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_place(tmp_path)
    for kind in ("ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuse.fuse-overlayfs", None):
        monkeypatch.setattr(audiomdb.cache.place, "file_system", lambda _, kind=kind: kind)
        check_place(tmp_path)


def test_file_systems_are_read_from_what_linux_and_macos_print() -> None:
    linux = (
        "22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        "97 22 0:55 / /data rw,relatime shared:40 - nfs4 server:/export rw,vers=4.2\n"
    )
    assert _from_mountinfo(linux, "0:55") == "nfs4"
    assert _from_mountinfo(linux, "259:1") == "ext4"
    assert _from_mountinfo(linux, "1:1") is None
    macos = (
        "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n"
        "server:/export on /Volumes/data (nfs, nodev, nosuid)\n"
    )
    assert _from_mount(macos, "/Volumes/data/cache") == "nfs"
    assert _from_mount(macos, "/Volumes/database") == "apfs"
