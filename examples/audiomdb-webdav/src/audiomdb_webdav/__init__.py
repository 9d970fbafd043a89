"""Datasets on WebDAV servers: Nextcloud, Apache, nginx, a NAS."""

from __future__ import annotations

from audiomdb_webdav.retriever import WebDAVRetriever
from audiomdb_webdav.uploader import WebDAVUploader

__all__ = ["WebDAVRetriever", "WebDAVUploader"]
