"""A repository of the Hugging Face hub: what it has, what of that is here, and what is downloaded.

The hub is asked once for the list of files. Where it cannot be asked, what its cache holds is what there is.
"""

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import cast

from huggingface_hub import HfApi, constants, get_token, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # it exports them by a list made at import
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.weights.location import folders_beside

logger = logging.getLogger(__name__)

_REVISION = "main"
INDEX = "model_index.json"
"""The file that every checkpoint has."""
_ANSWER_SECONDS = 10.0
_WORKERS = 4
_PROGRESS_SECONDS = 0.5

# The hub's errors and those of its client for http, which is another one from version to version, have a base
# in common; of the file system's are those of the cache.
_FAILURES: tuple[type[Exception], ...] = (
    *cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__),
    OSError,
)


@dataclass(frozen=True)
class RepositoryFile:
    """A file of a repository. `blob` is its name in the cache's folder of contents, where the hub says it."""

    repository: str
    name: str
    size_bytes: int | None
    blob: str | None


@dataclass(frozen=True)
class Listing:
    """The files of a repository; those in the cache where `offline_reason` says why the hub was not asked."""

    revision: str
    files: dict[str, RepositoryFile]
    offline_reason: str | None = None


class Repository:
    """The newest state of a repository's main branch.

    `index` is the file that every repository of its kind has, None where there is no such. `instead` is what
    could be given in place of the repository.
    """

    def __init__(self, name: str, index: str | None = INDEX, instead: str = "give a folder") -> None:
        self.name = name
        self._index = index
        self._instead = instead

    @cached_property
    def root(self) -> Path:
        """The folder in the cache that holds its files under their names."""
        self.fetch([INDEX])
        for name in self.listing.files:
            if cached := self.cached(name):
                return cached.parents[name.count("/")]
        raise CheckpointError(f"{self.name} has no {INDEX}: it is not in diffusers' format")

    def fetch(self, names: Iterable[str]) -> None:
        """Downloads those of these small files that the repository has and the cache has not."""
        for file in self.missing(names):
            try:
                self._download(file)
            except _FAILURES as error:
                raise CheckpointError(describe_failure(self.name, error, self._instead)) from error

    def missing(self, names: Iterable[str]) -> list[RepositoryFile]:
        """The files with these names that the repository has and the cache has not."""
        files = self.listing.files
        return [files[name] for name in dict.fromkeys(names) if name in files and not self.cached(name)]

    def download(self, files: Sequence[RepositoryFile], progressed: Callable[[int], None]) -> None:
        """Downloads these files; `progressed` hears now and then how many of their bytes are there.

        What it raises ends the download. Raises CheckpointError where the files cannot be had.
        """
        blobs = self._folder / "blobs"
        waiting, outcomes = SimpleQueue[RepositoryFile](), SimpleQueue[Exception | None]()
        for file in files:
            waiting.put(file)
        with _no_bars(), _workers(waiting, outcomes, self._download):
            remaining = len(files)
            while remaining:
                with suppress(Empty):
                    error = outcomes.get(timeout=_PROGRESS_SECONDS)
                    remaining -= 1
                    if error is not None:
                        raise CheckpointError(describe_failure(self.name, error, self._instead)) from error
                progressed(sum(_bytes_there(blobs, file) for file in files))

    @cached_property
    def listing(self) -> Listing:
        """Its files, as the hub says once, or the cache. Raises CheckpointError where neither has any."""
        try:
            info = HfApi().model_info(
                self.name, revision=_REVISION, files_metadata=True, timeout=_ANSWER_SECONDS
            )
        except _FAILURES as error:
            return self._cache_listing(error)
        files = [
            RepositoryFile(
                self.name, each.rfilename, each.size, each.lfs.sha256 if each.lfs else each.blob_id
            )
            for each in info.siblings or ()
        ]
        return Listing(info.sha or _REVISION, {file.name: file for file in files})

    def _cache_listing(self, error: Exception) -> Listing:
        """The files that are in the cache. Raises CheckpointError where that is nothing."""
        why = describe_failure(self.name, error, self._instead)
        root = self._cached_root()
        if root is None:
            raise CheckpointError(f"{why}{folders_beside(self.name)}") from error
        if not isinstance(error, OfflineModeIsEnabled):
            logger.warning("%s; what is in the cache is used", why)
        names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        return Listing(root.name, {name: RepositoryFile(self.name, name, None, None) for name in names}, why)

    def _cached_root(self) -> Path | None:
        """The folder in the cache with what the branch was when it was last asked for."""
        try:
            revision = (self._folder / "refs" / _REVISION).read_text()
        except OSError:
            return None
        root = self._folder / "snapshots" / revision
        there = root.is_dir() if self._index is None else (root / self._index).is_file()
        return root if there else None

    @property
    def _folder(self) -> Path:
        """What the cache has of this repository."""
        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.name, repo_type="model")

    def cached(self, name: str) -> Path | None:
        """Where in the cache the file of this name is, if it is there."""
        path = try_to_load_from_cache(self.name, name, revision=self.listing.revision)
        return Path(path) if isinstance(path, str) else None

    def _download(self, file: RepositoryFile) -> None:
        # By the branch's name the cache keeps which revision that is, for when the hub cannot be asked.
        by_branch = self._index is None or file.name == self._index
        hf_hub_download(self.name, file.name, revision=_REVISION if by_branch else self.listing.revision)


def check_room(files: Iterable[RepositoryFile]) -> None:
    """Raises CheckpointError where the cache's disk has no room for these files."""
    files = list(files)
    needed = sum(file.size_bytes or 0 for file in files)
    cache = Path(constants.HF_HUB_CACHE)
    folder = next(path for path in (cache, *cache.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        names = " and ".join(dict.fromkeys(file.repository for file in files))
        raise CheckpointError(
            f"{names}: {needed / 1e9:.1f} GB are still to be downloaded, and {folder} has room for "
            f"{free / 1e9:.1f} GB; make room, or set HF_HOME to a folder on a larger disk"
        )


@contextmanager
def _workers(
    waiting: SimpleQueue[RepositoryFile],
    outcomes: SimpleQueue[Exception | None],
    work: Callable[[RepositoryFile], None],
) -> Iterator[None]:
    """Threads that work on what is waiting, until the block ends.

    What one is in the middle of then, nobody waits for: it may be a file of gigabytes.
    """
    ended = threading.Event()

    def run() -> None:
        with suppress(Empty):
            while not ended.is_set():
                file = waiting.get_nowait()
                try:
                    work(file)
                    outcomes.put(None)
                except Exception as error:  # noqa: BLE001 - whoever waits for the outcome raises it
                    outcomes.put(error)

    for number in range(_WORKERS):
        threading.Thread(target=run, name=f"crystools-tpu-download-{number}", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _bytes_there(blobs: Path, file: RepositoryFile) -> int:
    """Bytes of the file that are in the cache; while it is downloaded, under its blob's name and a suffix."""
    if file.blob is None:
        return 0
    unfinished = blobs.glob(f"{file.blob}*.incomplete")
    return _size_bytes(blobs / file.blob) or max(map(_size_bytes, unfinished), default=0)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it is not there yet, or was renamed just now
        return 0


@contextmanager
def _no_bars() -> Iterator[None]:
    """The hub's own bars are off: a run shows its downloads as it shows its other stages."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def describe_failure(name: str, error: Exception, instead: str = "give a folder") -> str:
    """What keeps us from a repository, and the remedy, in one line."""
    endpoint = constants.ENDPOINT
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return f"{name} is not whole in the cache, and HF_HUB_OFFLINE is set; unset it, or {instead}"
    if isinstance(error, GatedRepoError):
        return (
            f"{name} is gated: accept its terms at {endpoint}/{name}, then log in with `hf auth login` "
            "or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {_REVISION!r}; {instead}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RepositoryNotFoundError) or (status == 401 and get_token() is None):
        token = "the token may not read it" if get_token() else "it is private: log in with `hf auth login`"
        return f"{endpoint} has no repository {name}, or {token}; check the name, or {instead}"
    if status == 401:
        return f"{endpoint} refuses the token: log in with `hf auth login`, or set HF_TOKEN to a valid one"
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if is_full or "No space left on device" in str(error):
        return (
            f"{name}: no room is left in {constants.HF_HUB_CACHE}; make some, or set HF_HOME to a folder "
            "on a larger disk"
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{name}: {error.filename}: {os.strerror(error.errno)}; set HF_HOME to a folder of your own"
    reason = str(error).strip().partition("\n")[0]
    return (
        f"{name}: {endpoint} cannot be reached ({type(error).__name__}: {reason}); "
        f"check the network and its proxy, or {instead}"
    )
