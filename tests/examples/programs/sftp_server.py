"""An SSH server for one account and one folder, with paramiko's own server side."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paramiko


class SFTPServer:
    """Serves a folder to whoever knows the password, until it is closed.

    `stored` has the paths of the files that clients have written, in the order they were closed.
    """

    def __init__(self, listener: socket.socket, folder: Path, user: str, password: str) -> None:
        self.stored: list[str] = []
        self._listener = listener
        self._folder = folder
        self._account = _Account(user, password)
        self._key = paramiko.RSAKey.generate(2048)
        self._transports: list[paramiko.Transport] = []
        listener.listen()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for transport in self._transports:
            transport.close()
            transport.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(client)
            transport.add_server_key(self._key)
            interface = _folder_interface(self._folder, self.stored.append)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, interface)
            self._transports.append(transport)
            transport.start_server(threading.Event(), self._account)


class _Account(paramiko.ServerInterface):  # type: ignore[misc]
    def __init__(self, user: str, password: str) -> None:
        self._known = (user, password)

    def check_auth_password(self, username: str, password: str) -> Any:
        right = (username, password) == self._known
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> Any:  # noqa: ARG002
        return paramiko.OPEN_SUCCEEDED


def _folder_interface(folder: Path, stored: Callable[[str], None]) -> type[Any]:
    class Folder(paramiko.SFTPServerInterface):  # type: ignore[misc]
        def stat(self, path: str) -> Any:
            try:
                return paramiko.SFTPAttributes.from_stat(self._path(path).stat())
            except OSError as exc:
                return paramiko.SFTPServer.convert_errno(exc.errno)

        lstat = stat

        def mkdir(self, path: str, attr: Any) -> Any:  # noqa: ARG002
            try:
                self._path(path).mkdir()
            except OSError as exc:
                return paramiko.SFTPServer.convert_errno(exc.errno)
            return paramiko.SFTP_OK

        def open(self, path: str, flags: int, attr: Any) -> Any:  # noqa: ARG002
            try:
                file = os.fdopen(os.open(self._path(path), flags, 0o644), "wb", buffering=0)
            except OSError as exc:
                return paramiko.SFTPServer.convert_errno(exc.errno)
            handle = Handle(flags)
            handle.path = path
            handle.writefile = file
            return handle

        def _path(self, path: str) -> Path:
            return folder / str(self.canonicalize(path)).lstrip("/")

    class Handle(paramiko.SFTPHandle):  # type: ignore[misc]
        path = ""

        def close(self) -> None:
            super().close()
            stored(self.path)

    return Folder
