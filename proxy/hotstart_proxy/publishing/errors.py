"""What publishing refuses, and why. Everything here leaves the origin as it was, or resumable."""

from __future__ import annotations

from collections.abc import Sequence

from hotstart.wire.errors import HotstartError

__all__ = [
    "CannotPresign",
    "CannotWrite",
    "ConversionRefused",
    "FileChanged",
    "FolderRefused",
    "IndexContended",
    "NoRoom",
    "PublishingError",
    "Stopped",
    "UnknownVersion",
    "UnreadableFile",
    "VersionGone",
    "VersionRefused",
    "VersionTaken",
    "first_few",
]

# Enough to see the pattern; a folder may hold ten thousand files that are wrong in one way.
_MAX_NAMED = 5


def first_few(items: Sequence[str]) -> str:
    """Join the first items for a message and say how many more there are."""
    more = len(items) - _MAX_NAMED
    return "; ".join(items[:_MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")


class PublishingError(HotstartError):
    """Root of what publishing, unpublishing, moving aliases and pre-signing raise themselves."""


class FolderRefused(PublishingError):
    """A folder cannot be published as it is. Nothing was written.

    Attributes:
        folder: as it was given.
        problems: all that were found, a phrase each.
    """

    def __init__(self, folder: str, problems: Sequence[str]) -> None:
        self.folder = folder
        self.problems = tuple(problems)
        super().__init__(f"{folder} cannot be published: {first_few(problems)}")


class FileChanged(PublishingError):
    """A file is no longer what it was when the publish began. The version stays invisible.

    Attributes:
        path: of the file inside the folder.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path} changed while it was being published: publish again when nobody writes to the folder; "
            "if its bytes are no longer those of the first attempt, unpublish the version before that"
        )


class UnreadableFile(PublishingError):
    """A file of the folder cannot be read.

    Attributes:
        path: of the file inside the folder.
        reason: what the system says.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"cannot read {path}: {reason}")


class VersionTaken(PublishingError):
    """The version is there, or claimed, with other bytes.

    Attributes:
        model, version: what was to be published.
        differences: what differs, a phrase a file.
        published: whether it is published; otherwise only claimed by a publish that has not finished.
    """

    def __init__(self, model: str, version: str, differences: Sequence[str], *, published: bool) -> None:
        self.model = model
        self.version = version
        self.differences = tuple(differences)
        self.published = published
        name = f"{model}@{version}"
        reason = (
            f"{name} is published already, with other bytes, and a version never changes: "
            "choose another version id"
            if published
            else f"{name} is being published with other bytes, or such a publish was interrupted: choose "
            f"another version id, or clear it with hotstart unpublish {name}"
        )
        super().__init__(f"{reason} (here {first_few(differences)})")


class VersionRefused(PublishingError):
    """A version is not in the state that the command needs.

    Attributes:
        model, version: what was asked for.
        reason: what was found, and what to do.
    """

    def __init__(self, model: str, version: str, reason: str) -> None:
        self.model = model
        self.version = version
        self.reason = reason
        super().__init__(f"{model}@{version} {reason}")


class VersionGone(VersionRefused):
    """Somebody unpublished a version while it was being published."""

    def __init__(self, model: str, version: str) -> None:
        super().__init__(model, version, "was unpublished while it was being published: publish it again")


class UnknownVersion(PublishingError):
    """The origin was asked, and there is no such model or version.

    Attributes:
        name: what was asked for.
        known: names there are instead; may be empty.
    """

    def __init__(self, origin: str, name: str, known: Sequence[str] = ()) -> None:
        self.origin = origin
        self.name = name
        self.known = tuple(known)
        there_is = f"; there is {first_few(known)}" if known else ""
        super().__init__(f"{origin} has no {name}{there_is}")


class IndexContended(PublishingError):
    """The index was moved by others each time that we tried.

    Attributes:
        model: whose index.
        attempts: how often.
    """

    def __init__(self, model: str, attempts: int) -> None:
        self.model = model
        self.attempts = attempts
        super().__init__(
            f"the index of {model} was changed by others {attempts} times in a row: run the command again"
        )


class NoRoom(PublishingError):
    """Temporary files do not fit.

    Attributes:
        folder: where they were to lie.
    """

    def __init__(self, folder: str, reason: str) -> None:
        self.folder = folder
        super().__init__(
            f"cannot keep temporary files in {folder}: {reason}; set TMPDIR to a folder with room for the "
            "largest few files of the model"
        )


class CannotPresign(PublishingError):
    """The origin has no pre-signed URLs."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        super().__init__(
            f"{origin} cannot pre-sign URLs: a fallback manifest needs an s3:// origin (a reader of a "
            "directory sets HOTSTART_ORIGIN instead)"
        )


class Stopped(PublishingError):
    """A worker thread was told to stop; whoever told it has a better error."""

    def __init__(self) -> None:
        super().__init__("stopped")


class ConversionRefused(PublishingError):
    """A checkpoint cannot be converted as it is. Nothing was written.

    Attributes:
        path: of the file or folder.
        problems: what is wrong with it and what to do, a phrase each.
    """

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        self.path = path
        self.problems = tuple(problems)
        super().__init__(f"cannot convert {path}: {first_few(problems)}")


class CannotWrite(PublishingError):
    """What a conversion makes cannot be written. Nothing is left of it.

    Attributes:
        path: of the folder to be.
        reason: what the system says, or what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"cannot write {path}: {reason}")
