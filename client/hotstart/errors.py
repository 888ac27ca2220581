"""All errors that a user of the client may want to tell apart. Every one is a ``HotstartError``."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from hotstart.devices.base import DeviceFailed
from hotstart.engine.planning import InvalidOption
from hotstart.engine.transfer import ForkedProcess, TransferAborted
from hotstart.frameworks.choice import MissingPackage, UnsupportedDtype, UnsupportedHost
from hotstart.sources.base import AllSourcesFailed, SourceError
from hotstart.sources.environment import InvalidEnvironment
from hotstart.wire.errors import FormatError, HotstartError, IntegrityError, InvalidReference
from hotstart.wire.selection import ShardMismatch, WeightsNotFound

__all__ = [
    "AllSourcesFailed",
    "CannotVerify",
    "DeviceFailed",
    "DownloadFailed",
    "FileNotInVersion",
    "ForkedProcess",
    "FormatError",
    "HotstartError",
    "IntegrityError",
    "InvalidEnvironment",
    "InvalidOption",
    "InvalidReference",
    "InvalidSlice",
    "MissingPackage",
    "ModuleMismatch",
    "PrefetchTimeout",
    "ShardMismatch",
    "SourceError",
    "TensorNotFound",
    "TransferAborted",
    "Unreadable",
    "UnsupportedDtype",
    "UnsupportedHost",
    "WeightsNotFound",
]


class TensorNotFound(HotstartError):
    """A tensor was asked for by a name that the weights do not have.

    Attributes:
        reference: of the weights.
        name: that was asked for.
        alike: names that it could have been.
    """

    def __init__(self, reference: str, name: str, names: list[str]) -> None:
        self.reference = reference
        self.name = name
        self.alike = tuple(get_close_matches(name, names, 3))
        hint = f"; is it {' or '.join(map(repr, self.alike))}?" if self.alike else ""
        super().__init__(f"{reference} has no tensor {name!r} among its {len(names)}{hint}")


class FileNotInVersion(HotstartError):
    """A file was asked for that the version does not have.

    Attributes:
        reference: of the version.
        path: that was asked for.
        files: paths that there are.
    """

    def __init__(self, reference: str, path: str, files: list[str]) -> None:
        self.reference = reference
        self.path = path
        self.files = tuple(files)
        super().__init__(f"{reference} has no file {path!r}; it has {', '.join(files) or 'none'}")


class CannotVerify(HotstartError):
    """A verification was asked for that takes digests which nobody has.

    Attributes:
        reference: of the version.
        path: of the file whose digests are missing.
        verify: what was asked for.
    """

    def __init__(self, reference: str, path: str, verify: str) -> None:
        self.reference = reference
        self.path = path
        self.verify = verify
        super().__init__(
            f"verify={verify!r} cannot be done for {path} of {reference}: it was adopted rather than "
            f"published, so its digests are unknown; publish it, or load it with verify=None"
        )


class ModuleMismatch(HotstartError):
    """A module and the version that was to be loaded into it do not fit; nothing was changed.

    Attributes:
        reference: of the version.
        module: name of the module's class.
        missing: names of the module that the version lacks.
        unexpected: names of the version that the module lacks.
        misfits: what of other tensors does not fit, one sentence each.
    """

    def __init__(
        self,
        reference: str,
        module: str,
        missing: tuple[str, ...],
        unexpected: tuple[str, ...],
        misfits: tuple[str, ...],
    ) -> None:
        self.reference = reference
        self.module = module
        self.missing = missing
        self.unexpected = unexpected
        self.misfits = misfits
        lines = [f"{reference} does not fit {module}, which is unchanged"]
        if missing:
            lines.append(f"it lacks {', '.join(missing)}")
        if unexpected:
            lines.append(f"the module lacks {', '.join(unexpected)}")
        lines += misfits
        if not misfits:
            lines.append("with strict=False, what both have is loaded")
        super().__init__("\n  ".join(lines))


class PrefetchTimeout(HotstartError, TimeoutError):
    """A prefetch is not done within the time that was given; it goes on, and can be asked again.

    Attributes:
        reference: what is loaded.
        timeout: seconds.
    """

    def __init__(self, reference: str, timeout: float) -> None:
        self.reference = reference
        self.timeout = timeout
        super().__init__(
            f"{reference} is not loaded after {timeout:g} s; call result() again to go on waiting"
        )


class InvalidSlice(HotstartError, IndexError):
    """A slice of a tensor cannot be taken.

    Attributes:
        name: of the tensor.
        index: that was asked for.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, index: object, reason: str) -> None:
        self.name = name
        self.index = index
        self.reason = reason
        super().__init__(f"tensor {name!r}[{index!r}]: {reason}")


class DownloadFailed(HotstartError):
    """A file could not be written.

    Attributes:
        path: of the file.
        reason: what the system said.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"writing {path}: {reason}")


class Unreadable(HotstartError):
    """A local file cannot be read.

    Attributes:
        path: of the file.
        reason: what the system said.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"reading {path}: {reason}")
