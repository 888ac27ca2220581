"""How a version stands at the origin: nothing, claimed, published or adopted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hotstart.wire.catalog import ListedObject
from hotstart.wire.claim import Claim, ClaimedFile
from hotstart.wire.errors import FormatError, InvalidReference
from hotstart.wire.layout import begin_key, manifest_key, version_prefix
from hotstart.wire.manifest import Manifest
from hotstart.wire.references import Reference, check_version
from hotstart_proxy.origins.base import Origin

__all__ = ["VersionState", "exact_version", "read_version_state"]


@dataclass(frozen=True, slots=True)
class VersionState:
    """What lies under a version's prefix.

    Attributes:
        claim: of ``begin.json``; None without one.
        claim_etag: of that object.
        manifest: None as long as the version is not published.
        manifest_bytes: exactly as at the origin; empty as long as there is none.
        objects: everything there, by key.
        is_adopted: plain files lie there that nobody claimed: someone else's version.
    """

    claim: Claim | None
    claim_etag: str | None
    manifest: Manifest | None
    manifest_bytes: bytes
    objects: Mapping[str, ListedObject]
    is_adopted: bool

    def contents(self) -> Claim | None:
        """Return what the version is made of or, while it is not published, claimed to be."""
        if self.manifest is None:
            return self.claim
        return Claim(
            self.manifest.model,
            self.manifest.version,
            tuple(ClaimedFile(file.path, file.size, file.sha256 or "") for file in self.manifest.files),
        )


async def read_version_state(origin: Origin, model: str, version: str) -> VersionState:
    """Read how a version stands.

    Raises:
        FormatError: its claim or manifest is malformed, or another version's.
        OriginError
    """
    # The manifest comes last in a publish, so what it names is in a listing that is made after it was read.
    manifest = await origin.read(manifest_key(model, version))
    begin = await origin.read(begin_key(model, version))
    listing = await origin.list(version_prefix(model, version), recursive=True)
    parsed = None if manifest is None or manifest.data is None else Manifest.parse(manifest.data)
    claim = None if begin is None or begin.data is None else Claim.parse(begin.data)
    for what, found in (("manifest", parsed), ("claim", claim)):
        if found is not None and (found.model, found.version) != (model, version):
            raise FormatError(
                what,
                f"that of {model}@{version} says {found.model}@{found.version}: "
                "was the folder copied or renamed by hand?",
            )
    # A console's marker of a folder is no file of anybody's.
    objects = {item.key: item for item in listing.objects if not item.key.endswith("/")}
    # The listing is asked too: between the reads and it somebody may have begun to publish.
    ours = {manifest_key(model, version), begin_key(model, version)} & objects.keys()
    return VersionState(
        claim=claim,
        claim_etag=None if begin is None else begin.etag,
        manifest=parsed,
        manifest_bytes=b"" if manifest is None or manifest.data is None else manifest.data,
        objects=objects,
        is_adopted=bool(objects) and not ours and parsed is None and claim is None,
    )


def exact_version(reference: Reference) -> tuple[str, str]:
    """Return model and version of a reference that must name a version and nothing else.

    Raises:
        InvalidReference: there is no version or a file in it, or its version cannot be given to one.
    """
    if reference.selector is None:
        raise InvalidReference(str(reference), "name the version as well, as in org/bert@7")
    if reference.file is not None:
        raise InvalidReference(str(reference), "name a version, not a file of it")
    try:
        check_version(reference.selector)
    except InvalidReference as error:
        raise InvalidReference(str(reference), error.reason) from error
    return reference.model, reference.selector
