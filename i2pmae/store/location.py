"""Where a store lies: a folder, or a URL such as `s3://bucket/name.zarr`."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from i2pmae.errors import StoreError

if TYPE_CHECKING:
    import tensorstore
    import zarr

METADATA = "zarr.json"

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
        text = str(path)
        if "://" not in text:
            return cls(text, Path(text).absolute())
        url = urlsplit(text)
        return cls(
            text.rstrip("/"), Path(unquote(url.path)).absolute() if url.scheme == "file" else None
        )

    def exists(self) -> bool:
        """Whether anything lies here."""
        if self.folder is not None:
            return self.folder.exists()
        return self.read(METADATA) is not None

    def key_value_store(self, name: str = "") -> dict[str, str] | str:
        """TensorStore's description of the files below `name`."""
        tail = f"{name}/" if name else ""
        if self.folder is not None:
            return {"driver": "file", "path": f"{self.folder}/{tail}"}
        return f"{self.text}/{tail}"

    def read(self, key: str) -> bytes | None:
        """Content of one small file, None where there is none."""
        import tensorstore

        if self.folder is not None:
            try:
                return (self.folder / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        found = tensorstore.KvStore.open(self.key_value_store()).result().read(key).result()
        return bytes(found.value) if found.state == "value" else None

    def has(self, key: str) -> bool:
        """Whether there is a file of this name."""
        return (self.folder / key).exists() if self.folder is not None else key in self.keys(key)

    def delete(self, key: str) -> None:
        """Remove one file, if it is there."""
        import tensorstore

        if self.folder is not None:
            (self.folder / key).unlink(missing_ok=True)
        else:
            tensorstore.KvStore.open(self.key_value_store()).result().write(key, None).result()

    def keys(self, prefix: str) -> list[str]:
        """Names of all files below `prefix`, relative to the store."""
        import tensorstore

        files: tensorstore.KvStore = tensorstore.KvStore.open(self.key_value_store()).result()
        span = tensorstore.KvStore.KeyRange(prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))
        return [key.decode() for key in files.list(span).result()]

    def group(self, mode: Any) -> zarr.Group:
        """The store as a Zarr group, metadata read afresh."""
        import zarr

        return zarr.open_group(self.zarr_store(mode), mode=mode, use_consolidated=False)

    def zarr_store(self, mode: Any) -> Any:
        """What zarr-python takes for this place."""
        if self.folder is None:
            return self.text
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
    if not stores:
        raise StoreError(
            f"{path} holds no store. Make one with "
            f"`i2pmae extract-2d DATA --cache {location.folder / 'NAME.zarr'}`."
        )
    if len(stores) > 1:
        raise StoreError(
            f"{path} holds {len(stores)} stores: {', '.join(map(str, stores))}. "
            "Pass the one you mean with --cache."
        )
    return stores[0]


@contextmanager
def plain_errors(location: Location, action: str) -> Iterator[None]:
    """Turn errors of the operating system into one clear line."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or f"{type(error).__name__}: {error}"
        raise StoreError(f"cannot {action} in {location.text}: {reason}.") from error
