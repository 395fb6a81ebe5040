"""Why a package cannot be imported, in one line, and what would help.

A package may be missing, or be there and broken: made for another torch, cut off, older than what imports it.
Then any exception comes out of its modules, often wrapped by packages that import lazily and name nobody.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
import traceback
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from crystools_tpu.bounds import OutOfBounds

_OURS: Final = {"__main__", "crystools_tpu", "crystools_pipelines", "crystools_exporters"}


@dataclass(frozen=True)
class ImportFailure:
    """An import that failed, in words, and pip's arguments that mend a package which is there but broken.

    `repair` is sure to concern what is wrong, `again` only puts the same files there once more.
    """

    reason: str
    repair: tuple[str, ...] = ()
    again: tuple[str, ...] = ()

    def cure(self, install: str) -> str:
        """The command that would help, where `install` is the one that installs all that is needed."""
        if self.repair:
            return _pip_install(self.repair)
        return f"{install} (if that changes nothing: {_pip_install(self.again)})" if self.again else install


def import_failure(error: BaseException) -> ImportFailure | None:
    """What kept a package from being imported; None where `error`, just caught, is not of an import.

    It is of one where it is an ImportError, or came out of another package's module while that was executed.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][1:]  # without who caught it
    while error.__cause__ is not None:  # packages that import lazily raise an error of their own from it
        error = error.__cause__
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    executed = (str(f.f_globals.get("__name__")) for f in frames if f.f_code.co_name == "<module>")
    packages = [package for package in map(_top, executed) if package not in _OURS]  # innermost last
    if isinstance(error, ImportError) and error.name and (named := _top(error.name)) not in _OURS:
        if isinstance(error, ModuleNotFoundError) and not _is_there(named):
            return ImportFailure(
                f"{named} is not installed" + (f" ({packages[-1]} needs it)" if packages else "")
            )
        packages.append(named)
    if packages:
        return _broken(packages, error)
    return ImportFailure(f"an import failed ({_said(error)})") if isinstance(error, ImportError) else None


def _broken(packages: list[str], error: BaseException) -> ImportFailure:
    """The last of these is to blame, unless one of them wants another version of something than is there."""
    reason = f"{_title(packages[-1])} is there, but cannot be imported ({_said(error)})"
    for package in dict.fromkeys(reversed(packages)):
        if (conflict := _conflict(package)) is not None:
            wanted, found = conflict.requirement, conflict.installed
            # What is compiled for a torch has a release for each: torch stays, and the other one changes.
            kept = (f"torch=={found}",) if wanted.name == "torch" else ()
            who = "it" if package == packages[-1] else _title(package)
            return ImportFailure(
                f"{reason}: {who} wants {wanted.name}{wanted.specifier}, and {wanted.name} is {found}",
                repair=("--upgrade", _distribution(package), *kept),
            )
    version = _version(packages[-1])
    if version is None:
        return ImportFailure(reason)
    same = f"{_distribution(packages[-1])}=={version.partition('+')[0]}"
    return ImportFailure(reason, again=("--force-reinstall", "--no-deps", same))


def _conflict(package: str) -> OutOfBounds | None:
    """A requirement of the package that is not met; None where there is none."""
    try:
        from crystools_tpu.bounds import out_of_bounds, requirements_in
    except ImportError:  # a clone may be loaded before `packaging` is installed
        return None
    try:
        lines = metadata.requires(_distribution(package)) or []
    except metadata.PackageNotFoundError:
        return None
    return next(out_of_bounds(requirements_in(lines)), None)


def _said(error: BaseException) -> str:
    """The error's kind and first line."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it is in sys.modules, and was made by hand
        return True


def _title(package: str) -> str:
    """`torchvision 0.20.1`; what nobody has installed is where it lies."""
    if (version := _version(package)) is not None:
        return f"{_distribution(package)} {version}"
    spec = importlib.util.find_spec(package) if package not in sys.modules else None
    origin = spec.origin if spec is not None else getattr(sys.modules.get(package), "__file__", None)
    return f"{package} ({origin})" if origin else package


def _version(package: str) -> str | None:
    try:
        return metadata.version(_distribution(package))
    except metadata.PackageNotFoundError:
        return None


def _distribution(package: str) -> str:
    """What pip calls the package, such as `pillow` for `PIL`."""
    try:
        return metadata.distribution(package).name
    except metadata.PackageNotFoundError:
        return next(iter(metadata.packages_distributions().get(package, [package])))


def _pip_install(arguments: tuple[str, ...]) -> str:
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])
