"""Where a store lies: a folder, or a URL such as `s3://bucket/name.zarr`."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from i2pmae.errors import StoreError
from i2pmae.progress import warn

if TYPE_CHECKING:
    import zarr

METADATA = "zarr.json"

_COLLAPSED = re.compile(r"^([a-z][a-z0-9]+):/(?!/)")  # what pathlib makes of s3://bucket ...
_COLLAPSED_FILE = re.compile(r"^file:/(?!/)")  # ... and of file:///folder
_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs")}  # scheme: its package, and our extra

# Where a package logs, and what it says when it is about to ask again; else such lines, and the
# tracebacks that Google's adds, are kept from the terminal.
_RETRY_LOGS = {
    "s3": ("botocore.retries.standard", "Retry needed, retrying"),
    "gs": ("gcsfs", "retrying after exception"),
}
_SECONDS_PER_LINE = 10.0  # between two lines about retries

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose another folder or change its permissions",
    errno.EPERM: "permission denied; choose another folder or change its permissions",
    errno.ENOTDIR: "a file lies where a folder is needed; choose another folder",
}


@dataclass(frozen=True)
class Location:
    """A folder or a URL; `text` is what the user typed."""

    text: str
    folder: Path | None  # absolute; None: remote

    @classmethod
    def of(cls, path: str | Path) -> Location:
        """Understand a path, a `file://` URL or the URL of an object store."""
        text = _COLLAPSED.sub(r"\1://", _COLLAPSED_FILE.sub("file:///", str(path)))
        if "://" not in text:
            return cls(text, Path(text).absolute())
        url = urlsplit(text)
        if url.scheme not in ("file", *_EXTRAS):
            raise StoreError(
                f"{text}: stores lie in folders, or at {', '.join(f'{s}://' for s in _EXTRAS)} URLs"
            )
        if url.scheme == "file" and url.netloc not in ("", "localhost"):
            raise StoreError(
                f"{text}: after file:// comes a path from the root, as in file:///data/NAME.zarr"
            )
        return cls(
            text.rstrip("/"), Path(unquote(url.path)).absolute() if url.scheme == "file" else None
        )

    def exists(self) -> bool:
        """Whether anything lies here."""
        if self.folder is not None:
            return self.folder.exists()
        return self.read(METADATA) is not None

    def key_value_store(self, name: str = "") -> dict[str, Any]:
        """TensorStore's description of the files below `name`."""
        tail = f"{name}/" if name else ""
        if self.folder is not None:
            return {"driver": "file", "path": f"{self.folder}/{tail}"}
        url = urlsplit(self.text)
        place = {"bucket": url.netloc, "path": f"{url.path.strip('/')}/{tail}"}
        if url.scheme == "gs":
            return {"driver": "gcs", **place}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint is None:
            return {"driver": "s3", **place}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
        return {"driver": "s3", **place, "endpoint": endpoint, "aws_region": region}

    def files(self) -> Any:
        """The object store as a file system of fsspec.

        Raises:
            StoreError: if its package is not installed.
        """
        import fsspec

        scheme = urlsplit(self.text).scheme
        package, extra = _EXTRAS[scheme]
        if find_spec(package) is None:
            raise StoreError(f"{self.text} needs {package}: pip install 'i2pmae[{extra}]'")
        if scheme == "gs":  # kinds of buckets that need rights beyond those on objects
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        _report_retries(scheme)
        return fsspec.filesystem(scheme, **_options(scheme))

    def read(self, key: str) -> bytes | None:
        """Content of one small file, None where there is none."""
        try:
            if self.folder is not None:
                return (self.folder / key).read_bytes()
            return bytes(self.files().cat_file(f"{self.text}/{key}"))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def has(self, key: str) -> bool:
        """Whether there is a file of this name."""
        if self.folder is not None:
            return (self.folder / key).exists()
        return bool(self.files().exists(f"{self.text}/{key}"))

    def delete(self, key: str) -> None:
        """Remove one file, if it is there."""
        if self.folder is not None:
            (self.folder / key).unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError):
            self.files().rm_file(f"{self.text}/{key}")

    def keys(self, prefix: str) -> list[str]:
        """Names of all files below the folder `prefix`, relative to the store."""
        if self.folder is not None:
            found = (self.folder / prefix).rglob("*")
            return [str(file.relative_to(self.folder)) for file in found if file.is_file()]
        files = self.files()
        files.invalidate_cache()
        start = len(urlsplit(self.text).netloc + urlsplit(self.text).path) + 1
        return [found[start:] for found in files.find(f"{self.text}/{prefix}")]

    def group(self, mode: Any) -> zarr.Group:
        """The store as a Zarr group, metadata read afresh."""
        import zarr

        store = self.zarr_store(mode)
        return zarr.open_group(store, mode=mode, zarr_format=3, use_consolidated=False)

    def zarr_store(self, mode: Any) -> Any:
        """What zarr-python takes for this place."""
        if self.folder is None:
            from zarr.storage import FsspecStore

            self.files()  # says what is not installed
            scheme = urlsplit(self.text).scheme
            options = {**_options(scheme), "asynchronous": True}
            return FsspecStore.from_url(self.text, options, read_only=mode == "r")
        from zarr.storage import LocalStore

        return LocalStore(self.folder, read_only=mode == "r")

    def metadata(self, name: str = "") -> dict[str, Any] | None:
        """The metadata document of an array, or of the group itself; None where there is none.

        Raises:
            StoreError: if it is not the JSON object it should be.
        """
        key = f"{name}/{METADATA}" if name else METADATA
        with plain_errors(self, f"read {key}"):
            content = self.read(key)
        if content is None:
            return None
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{self.text}: {key} is damaged, it is not JSON ({error}).") from error
        if not isinstance(document, Mapping):
            raise StoreError(f"{self.text}: {key} is damaged, it holds no JSON object.")
        return dict(document)


class _Retries(logging.Handler):
    """Says, not too often, that an object store is asked again; its package only logs it."""

    def __init__(self, sign: str) -> None:
        super().__init__()
        self._sign, self._n, self._said = sign, 0, -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        """Count a request that is tried again."""
        if self._sign not in str(record.msg):
            return
        self._n += 1
        if time.monotonic() - self._said >= _SECONDS_PER_LINE:
            self._said = time.monotonic()
            warn(
                "the object store throttles or cuts off requests; they are tried again "
                f"({self._n} so far)"
            )


@cache
def _report_retries(scheme: str) -> None:
    """Have requests that are tried again reported, from now on."""
    name, sign = _RETRY_LOGS[scheme]
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # a program that logs itself asked neither for this nor for tracebacks
    logger.addHandler(_Retries(sign))


def _options(scheme: str) -> dict[str, Any]:
    """How fsspec is to open an object store; the environment says where and as whom."""
    if scheme == "s3":
        # each request is tried again by botocore, with growing waits, before a whole shard is
        retries = {"max_attempts": 5, "mode": "standard"}
        return {
            "use_listings_cache": False,
            "max_concurrency": 1,  # per file; with more, each read first asks for its size
            "config_kwargs": {"retries": retries},
        }
    return {"use_listings_cache": False}


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """One array of a store."""
    import zarr

    array = group[name]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{name} in {group.store_path} is a group, expected an array.")
    return array


def resolve_store(path: str | Path) -> str | Path:
    """The store that a user means by a path: the store itself, or the only one in a folder.

    Args:
        path: a store or a folder that holds exactly one; URLs are taken as they are.

    Raises:
        StoreError: if there is none, or more than one.
    """
    location = Location.of(path)
    if location.folder is None or (location.folder / METADATA).exists():
        return path
    if not location.folder.is_dir():
        raise StoreError(
            f"there is no store at {path}. Make one with `i2pmae extract-2d DATA --cache {path}`."
        )
    stores = sorted(found.parent for found in location.folder.glob(f"*/{METADATA}"))
    if any((found / "c").is_dir() for found in stores):  # arrays
        raise StoreError(
            f"{path} is a store without its {METADATA}: it was damaged or copied in part. Restore "
            "the file from a copy."
        )
    if not stores:
        raise StoreError(
            f"{path} holds no store. Make one with "
            f"`i2pmae extract-2d DATA --cache {location.folder / 'NAME.zarr'}`."
        )
    if len(stores) > 1:
        raise StoreError(
            f"{path} holds {len(stores)} stores: {', '.join(map(str, stores))}. "
            "Give the one you mean."
        )
    return stores[0]


def _errors() -> tuple[type[Exception], ...]:
    """Errors of the system, and those of the libraries for object stores that are loaded."""
    bases = (
        ("botocore.exceptions", "BotoCoreError"),
        ("aiohttp", "ClientError"),
        ("gcsfs.retry", "HttpError"),
        ("google.auth.exceptions", "GoogleAuthError"),
    )
    loaded = (getattr(sys.modules[name], base) for name, base in bases if name in sys.modules)
    return (OSError, *loaded)


@contextmanager
def plain_errors(location: Location, action: str) -> Iterator[None]:
    """Turn errors of the operating system into one clear line."""
    try:
        yield
    except _errors() as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = _REASONS.get(number or 0) or f"{type(error).__name__}: {error}"
        raise StoreError(f"cannot {action} in {location.text}: {reason}.") from error
