"""The Hugging Face Hub: names such as `hf://owner/name@v1`, weights fetched and folders sent.

Of a repository with a network only a `.safetensors` file is fetched, which holds nothing that could
run. `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean elsewhere.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from i2pmae.errors import HubError, reason
from i2pmae.progress import note
from i2pmae.urls import HUB, as_typed

WEIGHTS = "model.safetensors"

_NAME = re.compile(r"hf://(datasets/)?([\w.-]+/[\w.-]+?)(?:@([^@\s]+))?/?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PROBE_SECONDS = 5.0
_LOG_IN = "hf auth login, or set HF_TOKEN"


class HubName(NamedTuple):
    """A repository of the Hub.

    Attributes:
        kind: whether it holds a network or a data set.
        repo: `owner/name`.
        revision: branch, tag or commit; None: the default branch.
    """

    kind: Literal["model", "dataset"]
    repo: str
    revision: str | None

    def __str__(self) -> str:
        folder = "datasets/" if self.kind == "dataset" else ""
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{HUB}://{folder}{self.repo}{revision}"

    @property
    def is_pinned(self) -> bool:
        """Whether it names a commit, which never changes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    @classmethod
    def of(cls, text: str | Path, kind: Literal["model", "dataset"] = "model") -> HubName:
        """Parse a name.

        Args:
            text: `hf://owner/name[@revision]`, also as a path.
            kind: what is expected there. A data set may be written `hf://datasets/owner/name`.

        Raises:
            HubError: if it is no name of a repository, or one of another kind.
        """
        found = _NAME.fullmatch(as_typed(text))
        if found is None or (found[1] and kind == "model"):
            what = "hf://owner/name" if kind == "model" else "hf://datasets/owner/name"
            raise HubError(
                f"{as_typed(text)}: expected {what}, with @revision behind it if need be"
            )
        return cls(kind, found[2], found[3])


def fetch_weights(name: HubName) -> tuple[Path, HubName]:
    """The weights of a repository as a file of the local cache, and the commit they are of.

    The file is `model.safetensors`, or the only one of that ending. A commit that was fetched
    before needs no network; without network a branch is as it was when it was fetched last.

    Raises:
        HubError: if there is no such repository, revision or file, it cannot be read with the
            user's token, the Hub cannot be reached, or the file is damaged.
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if name.is_pinned:
        cached = try_to_load_from_cache(name.repo, WEIGHTS, revision=name.revision)
        if isinstance(cached, str):
            return _sound(name, Path(cached)), name
    file_name = WEIGHTS
    with _plain_errors(name), failing_at_once(), _quietly():
        try:
            file = hf_hub_download(name.repo, file_name, revision=name.revision)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            files = HfApi().list_repo_files(name.repo, revision=name.revision)
            file_name = _only_weights(name, files)
            file = hf_hub_download(name.repo, file_name, revision=name.revision)
    commit = Path(file).parents[file_name.count("/")].name  # snapshots/COMMIT/FILE
    pinned = name._replace(revision=commit)
    if pinned != name:
        note(f"{name} is {pinned}")
    return _sound(name, Path(file)), pinned


def fetch_folder(name: HubName, patterns: list[str]) -> tuple[Path, HubName]:
    """The files of a repository as a folder of the local cache, and the commit they are of.

    The same call again continues an interrupted one.

    Args:
        name: of the repository.
        patterns: which files; `*` stands for any characters, also slashes.

    Raises:
        HubError: as `fetch_weights`.
    """
    from huggingface_hub import snapshot_download

    with _plain_errors(name), failing_at_once(), _quietly():
        folder = snapshot_download(
            name.repo, repo_type=name.kind, revision=name.revision, allow_patterns=patterns
        )
    pinned = name._replace(revision=Path(folder).name)
    if pinned != name:
        note(f"{name} is {pinned}")
    return Path(folder), pinned


def send_folder(name: HubName, folder: Path, message: str, *, private: bool = False) -> HubName:
    """Upload all files of a folder as one commit; the repository is made if need be.

    Args:
        name: where to; a revision is the branch.
        folder: its files go to the root of the repository.
        message: of the commit.
        private: whether a repository that is made now is.

    Returns:
        The name with the commit.

    Raises:
        HubError: if the Hub cannot be reached, or refuses it.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _plain_errors(name), failing_at_once(), _quietly():
        api.create_repo(name.repo, repo_type=name.kind, private=private or None, exist_ok=True)
        done = api.upload_folder(
            repo_id=name.repo,
            repo_type=name.kind,
            folder_path=folder,
            revision=name.revision,
            commit_message=message,
            ignore_patterns=[".*", "*/.*"],  # half-written ones
        )
    return name._replace(revision=done.oid)


def _only_weights(name: HubName, files: list[str]) -> str:
    found = [file for file in files if file.endswith(".safetensors")]
    if len(found) == 1:
        return found[0]
    others = [file for file in files if file.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    held = f"{len(found)} of them, none called {WEIGHTS}" if found else "none"
    also = f"; {others[0]} and the like are not read, they could run code" if others else ""
    raise HubError(
        f"{name}: expected {WEIGHTS} or one other .safetensors file, found {held}{also}. Ask its "
        "owner for i2pmae export --push, or pass a file that you downloaded"
    )


def _sound(name: HubName, file: Path) -> Path:
    """A file of the cache whose name there, if it is its SHA-256, is right."""
    import hashlib

    blob = file.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        with blob.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != blob.name:
                raise HubError(
                    f"{name}: {blob} is damaged: its SHA-256 does not match. Remove the file and "
                    "run the same command again"
                )
    return file


@contextmanager
def _plain_errors(name: HubName) -> Iterator[None]:
    """One line on why the Hub refused a request.

    Raises:
        HubError: instead of what huggingface_hub raises.
    """
    from huggingface_hub import constants, errors

    try:
        yield
    except (HubError, KeyboardInterrupt):
        raise
    except errors.GatedRepoError as error:
        raise HubError(f"{name} is gated: ask for access on its page, then {_LOG_IN}") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{constants.ENDPOINT} has no {name.kind} {name.repo}, or it is private: check the "
            f"name; for a private one {_LOG_IN}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{name.repo} has no revision {name.revision}; after @ comes a branch, a tag or a "
            "commit of 40 digits"
        ) from error
    except errors.HFValidationError as error:
        raise HubError(f"{name} is no name of a repository: {reason(error)}") from error
    except errors.OfflineModeIsEnabled as error:
        raise HubError(
            f"{constants.ENDPOINT} cannot be reached, or HF_HUB_OFFLINE is set: {name} needs it"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.FileMetadataError):
            raise HubError(
                f"{name}: {constants.ENDPOINT} does not answer as a Hub does; check HF_ENDPOINT "
                "and the proxy"
            ) from error
        raise HubError(
            f"{constants.ENDPOINT} cannot be reached, and {name} is not in the local cache: "
            "connect once, or pass a file"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"{constants.ENDPOINT} refuses it ({status}): {name} needs a token with "
                f"this permission; {_LOG_IN}"
            ) from error
        raise HubError(f"{name}: {constants.ENDPOINT} answers {reason(error)}") from error
    except Exception as error:  # the kinds of network errors changed with the library's versions
        problem = reason(error.__cause__ or error)
        if not _hub_answers():
            problem = f"{constants.ENDPOINT} cannot be reached any more"
        raise HubError(f"{name}: {problem}; run the same command again") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's own progress bars, which know no `--quiet`, and notes about retries."""
    import logging

    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level, had_bars = logger.level, not are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if had_bars:
            enable_progress_bars()


@contextmanager
def failing_at_once() -> Iterator[None]:
    """Downloads inside the block fail within seconds without a network, instead of retrying.

    Files in the hub's local cache are found as before.
    """
    from huggingface_hub import constants

    offline, timeout = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    constants.HF_HUB_OFFLINE = offline or not _hub_answers()
    socket.setdefaulttimeout(4 * _PROBE_SECONDS)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(timeout)


def _hub_answers() -> bool:
    """Whether the Hub can be reached, whatever it answers."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception:  # the kinds changed with the library's versions; all mean no
        return False
    return True
