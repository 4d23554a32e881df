"""Owns the cache folder and the downloads into it: checked, and whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import zlib
from pathlib import Path
from typing import cast

from ..arguments import file_path
from ..io import write_atomically

_TIMEOUT = 30.0
_CHUNK = 1 << 16


def cache_folder() -> Path:
    r"""Where downloads and the demo's model are kept.

    Returns
    -------
    Path
        ``$FASTCNN_CACHE`` where that is set, else the platform's cache folder for fastcnn:
        ``~/.cache/fastcnn`` (or under ``$XDG_CACHE_HOME``), ``~/Library/Caches/fastcnn`` on
        macOS, ``%LOCALAPPDATA%\fastcnn`` on Windows. It need not exist.

    Examples
    --------
    >>> cache_folder().is_absolute()
    True
    """
    if chosen := os.environ.get("FASTCNN_CACHE"):
        return file_path(chosen, "FASTCNN_CACHE").absolute()
    variable, usual = {"win32": ("LOCALAPPDATA", "~/AppData/Local"), "darwin": ("", "~/Library/Caches")}.get(
        sys.platform, ("XDG_CACHE_HOME", "~/.cache")
    )
    return file_path(os.environ.get(variable) or usual, variable).absolute() / "fastcnn"


def fetch(url: str, target: Path, sha256: str) -> None:
    """Download a gzipped file, check it and put it in its place in one step.

    Parameters
    ----------
    url : str
        The gzipped file.
    target : Path
        Where it is to stand; its folder is made where it is missing.
    sha256 : str
        Checksum of the decompressed content: a mirror may have packed it anew.

    Raises
    ------
    OSError
        No network, no such file, or a folder that can't be written.
    ValueError
        What came is not what the checksum was made of.
    """
    from http.client import HTTPException  # slow to import, and only a download needs it

    try:
        content = _download(url)
    except HTTPException as error:
        raise ConnectionError(f"{url} broke off: {error!r}") from error
    found = _content_sha256(content, url)
    if found != sha256:
        raise ValueError(f"{url} has the SHA-256 checksum {found} instead of {sha256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)


def _download(url: str) -> bytes:
    import urllib.request

    from tqdm import tqdm

    chunks = []
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
        length = response.headers.get("Content-Length")
        name = url.rsplit("/", 1)[-1]
        total = int(length) if length else None
        # disable=None: no bar where the output is not a terminal.
        with tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None) as bar:
            while chunk := cast(bytes, response.read(_CHUNK)):
                chunks.append(chunk)
                bar.update(len(chunk))
    return b"".join(chunks)


def _content_sha256(content: bytes, url: str) -> str:
    digest = hashlib.sha256()
    try:
        with gzip.open(io.BytesIO(content)) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{url} did not give a whole gzip file: {error}") from error
    return digest.hexdigest()
