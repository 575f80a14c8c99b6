"""Where a store lies: a folder, or a URL such as `s3://bucket/name.zarr`."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import posixpath
import re
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from i2pmae.atomic_write import atomic_write
from i2pmae.errors import StoreError
from i2pmae.progress import warn
from i2pmae.urls import as_typed, is_hub_name

if TYPE_CHECKING:
    import zarr

METADATA = "zarr.json"

_COLLAPSED_FILE = re.compile(r"^file:/(?!/)")  # what pathlib makes of file:///folder
_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs")}  # scheme: its package, and our extra

# Where a package logs, and what it says when it is about to ask again; else such lines, and the
# tracebacks that Google's adds, are kept from the terminal.
_RETRY_LOGS = {
    "s3": ("botocore.retries.standard", "Retry needed, retrying"),
    "gs": ("gcsfs", "retrying after exception"),
}
_KEY = "AWS_ACCESS_KEY_ID"
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
    folder: Path | None  # its real path, so that links to one store are one place; None: remote

    @classmethod
    def of(cls, path: str | Path) -> Location:
        """Parse a path, a `file://` URL or the URL of an object store."""
        text = as_typed(_COLLAPSED_FILE.sub("file:///", str(path)))
        scheme, is_url, rest = text.partition("://")
        if not is_url:
            return cls(text, _real(text))
        bucket, _, key = rest.partition("/")
        if ":" in bucket or "@" in bucket:
            raise StoreError(
                f"{scheme}://…: this URL holds a key or a password, which would be stored and "
                "printed. Leave it out; the environment says as whom a bucket is opened."
            )
        if scheme == "file" and bucket not in ("", "localhost"):
            raise StoreError(
                f"{text}: after file:// comes a path from the root, as in file:///data/NAME.zarr"
            )
        if scheme == "file":
            return cls(text.rstrip("/"), _real(f"/{unquote(key)}"))
        if is_hub_name(text):
            raise StoreError(
                f"{text}: a store on the Hub is not read in place. Copy it first: i2pmae copy "
                f"{shlex.quote(text)} cache/NAME.zarr"
            )
        if scheme not in _EXTRAS:
            raise StoreError(
                f"{text}: stores lie in folders, or at {', '.join(f'{s}://' for s in _EXTRAS)} URLs"
            )
        key = posixpath.normpath(f"/{key}").strip("/")
        return cls(f"{scheme}://{bucket}/{key}".rstrip("/"), None)

    @property
    def _parts(self) -> tuple[str, str, str]:
        """Scheme, bucket and key of a URL; the latter holds any characters, also ? and #."""
        scheme, _, rest = self.text.partition("://")
        bucket, _, key = rest.partition("/")
        return scheme, bucket, key

    def exists(self) -> bool:
        """Whether anything exists here."""
        if self.folder is not None:
            return self.folder.exists()
        return self.read(METADATA) is not None

    def free_bytes(self) -> int | None:
        """Free space where it would be written; None for object stores, which do not say."""
        if self.folder is None:
            return None
        there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        return shutil.disk_usage(there).free

    def key_value_store(self, name: str = "") -> dict[str, Any]:
        """TensorStore's description of the files below `name`."""
        tail = f"{name}/" if name else ""
        if self.folder is not None:
            return {"driver": "file", "path": f"{_plain(self.folder)}/{tail}"}
        scheme, bucket, key = self._parts
        place: dict[str, Any] = {"bucket": bucket, "path": f"{key}/{tail}"}
        if scheme == "gs":
            return {"driver": "gcs", **place}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if is_anonymous():
            place["aws_credentials"] = {"type": "anonymous"}
        elif _KEY in os.environ:  # else it looks for files first, and logs that there are none
            place["aws_credentials"] = {"type": "environment"}
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

        scheme = self._parts[0]
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

    def write(self, key: str, content: bytes) -> None:
        """Write one file, whole or not at all."""
        if self.folder is None:
            self.files().pipe_file(f"{self.text}/{key}", content)
            return
        with atomic_write(self.folder / key, is_mine=True) as temporary:
            temporary.write_bytes(content)

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
            return [
                (Path(at) / name).relative_to(self.folder).as_posix()
                for at, _, names in os.walk(self.folder / prefix, onerror=_unless_missing)
                for name in names
            ]
        files = self.files()
        files.invalidate_cache()
        start = len("/".join(self._parts[1:])) + 1
        return [found[start:] for found in files.find(f"{self.text}/{prefix}")]

    def sizes(self) -> dict[str, int]:
        """Bytes of all files, by name."""
        if self.folder is not None:
            return {key: (self.folder / key).stat().st_size for key in self.keys("")}
        files = self.files()
        files.invalidate_cache()
        start = len("/".join(self._parts[1:])) + 1
        found = files.find(self.text, detail=True)
        return {name[start:]: entry["size"] for name, entry in found.items() if name[start:]}

    def zarr_store(self, mode: Any) -> Any:
        """What zarr-python takes for this place."""
        if self.folder is None:
            from zarr.storage import FsspecStore

            self.files()  # says what is not installed
            options = {**_options(self._parts[0]), "asynchronous": True}
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


def _real(path: str) -> Path:
    """A path without links and `..`, whether it exists or not."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:
        raise StoreError(f"{path!r} cannot be a path ({error})") from error


def _plain(folder: Path) -> str:
    """A path of this folder that TensorStore takes.

    It reads backslashes as slashes, refuses names that end like its locks, and knows UTF-8 only.
    """
    text = folder.as_posix()
    if os.name == "posix" and (
        "\\" in text
        or any(part.endswith(".__lock") for part in folder.parts)
        or os.fsencode(text).decode(errors="replace") != text
    ):
        return _link_to(folder)
    return text


@cache
def _link_to(folder: Path) -> str:
    """A link of this process's own, as long as it runs."""
    link = Path(_links().name) / uuid.uuid4().hex
    link.symlink_to(folder)
    return str(link)


@cache
def _links() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="i2pmae-links-")


def _unless_missing(error: OSError) -> None:
    """What cannot be listed is not empty, unless it is not there."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


class _Retries(logging.Handler):
    """Says, not too often, that an object store is asked again; its package only logs it."""

    def __init__(self, sign: str) -> None:
        super().__init__()
        self._sign, self._n, self._said = sign, 0, -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        """Count a retried request."""
        if self._sign not in str(record.msg):
            return
        self._n += 1
        if time.monotonic() - self._said >= _SECONDS_PER_LINE:
            self._said = time.monotonic()
            warn(
                "the object store throttles or cuts off requests; they are retried "
                f"({self._n} so far)"
            )


@cache
def _report_retries(scheme: str) -> None:
    """Report retried requests from now on."""
    name, sign = _RETRY_LOGS[scheme]
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # a program that logs itself asked neither for this nor for tracebacks
    logger.addHandler(_Retries(sign))


def is_anonymous() -> bool:
    """Whether requests to S3 are not signed: as asked for, or with nothing to sign them with."""
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes"):
        return True
    return _KEY not in os.environ and _finds_no_credentials()


@cache
def _finds_no_credentials() -> bool:
    """Whether neither files nor the machine's role name anybody."""
    if find_spec("botocore") is None:
        return False
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        return Session().get_credentials() is None
    except BotoCoreError:  # a profile that is not there: the request says so
        return False


def _options(scheme: str) -> dict[str, Any]:
    """How fsspec is to open an object store; the environment says where and as whom."""
    if scheme == "s3":
        # botocore retries each request, with growing waits, before a whole shard is
        retries = {"max_attempts": 5, "mode": "standard"}
        return {
            "anon": is_anonymous(),
            "use_listings_cache": False,
            "max_concurrency": 1,  # per file; with more, each read first asks for its size
            "config_kwargs": {"retries": retries},
        }
    return {"use_listings_cache": False}


def open_arrays(location: Location, names: Iterable[str]) -> dict[str, zarr.Array[Any]]:
    """Arrays of a store to be written through zarr-python, also where all values are zeros.

    Raises:
        StoreError: if their metadata hold what zarr-python does not take.
    """
    import zarr

    store = location.zarr_store("r+")
    try:
        return {
            name: zarr.open_array(store, path=name, mode="r+", zarr_format=3).with_config(
                {"write_empty_chunks": True}
            )
            for name in names
        }
    except OSError:
        raise
    except Exception as error:  # of any kind: it was made for metadata that are sound
        raise StoreError(
            f"{location.text}: the metadata of its arrays cannot be used ({error!r})."
        ) from error


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
            f"there is no store at {path}. Make one with "
            f"`i2pmae extract-2d DATA --cache {shlex.quote(str(path))}`."
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
            f"`i2pmae extract-2d DATA --cache {shlex.quote(str(location.folder / 'NAME.zarr'))}`."
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
        if isinstance(error, FileNotFoundError) and location.folder is None:
            raise StoreError(
                f"cannot {action}: there is no bucket for {location.text} ({error}). Create it, or "
                "check its name."
            ) from error
        number = error.errno if isinstance(error, OSError) else None
        reason = _REASONS.get(number or 0) or f"{type(error).__name__}: {error}"
        raise StoreError(f"cannot {action} in {location.text}: {reason}.") from error
