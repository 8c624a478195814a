"""Models in blob storage: versions that never change, and one pointer that says which of them is the champion.

    {name}/{version}/model.onnx       written first
    {name}/{version}/manifest.json    written last: a version without one is not there
    {name}/champion.json              moved under an ETag condition; previous champions stay listed
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from types import EllipsisType
from typing import Any, overload

from shared.blobs import NOT_MODIFIED, Blobs, NotModified
from shared.errors import Conflict, InvalidRequest, ModelNotFound, ModelUnavailable, PayloadTooLarge
from shared.ids import check_model_name
from shared.settings import Settings

MAX_ARTEFACT_BYTES = 64 * 1024 * 1024
MAX_RECORD_BYTES = 4 * 1024 * 1024
MAX_PREVIOUS = 50
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class CorruptArtefact(ModelUnavailable):
    """What is stored is not what was published: truncated, tampered with, or another model's file."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One published version. `size` in bytes, `created_at` ISO 8601 UTC."""

    name: str
    version: str
    sha256: str
    size: int
    created_at: str
    card: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Promotion:
    version: str
    sha256: str
    promoted_at: str
    reason: str


@dataclass(frozen=True, slots=True)
class Champion:
    """The version that answers. `previous` are the champions before it, latest first; `etag` names this state of it."""

    name: str
    current: Promotion
    previous: tuple[Promotion, ...]
    etag: str

    @property
    def version(self) -> str:
        return self.current.version


class Registry:
    """Every method raises StorageUnavailable when the account does not answer, InvalidRequest for a bad name or version."""

    def __init__(self, blobs: Blobs, settings: Settings) -> None:
        self._blobs, self.container = blobs, settings.models_container

    def publish(self, name: str, payload: bytes, card: Mapping[str, Any]) -> Manifest:
        """Keeps a new version, numbered after the latest one. Of two publishers at once each gets its own.

        Raises PayloadTooLarge.
        """
        check_model_name(name)
        if len(payload) > MAX_ARTEFACT_BYTES:
            raise PayloadTooLarge(f"The model has {len(payload):,} bytes, more than {MAX_ARTEFACT_BYTES:,}.")
        number = max(self._numbers(name), default=0) + 1
        while True:
            try:
                self._blobs.put(self.container, f"{name}/{number}/model.onnx", payload, if_absent=True)
                break
            except Conflict:
                number += 1
        manifest = Manifest(name, str(number), hashlib.sha256(payload).hexdigest(), len(payload), _now(), card)
        # Nobody else writes under a number whose file this call has put there.
        self._blobs.put(self.container, f"{name}/{number}/manifest.json", _json(asdict(manifest)))
        return manifest

    def promote(self, name: str, version: str, *, reason: str,
                expected: str | EllipsisType | None = ...) -> Champion:
        """Makes a version the champion; the one before it stays listed. Nothing changes where it is the champion already.

        `expected` is the champion that the decision was made against, None for no champion, left out for whatever there
        is. Raises ModelNotFound for a version that is not there, Conflict where the champion is not the expected one.
        """
        manifest = self.manifest(name, version)
        while True:
            now = self.champion(name)
            if now is not None and now.version == version:
                return now
            found = now.version if now else None
            if expected is not ... and found != expected:
                raise Conflict(f"The champion of {name} is version {found or 'none'}, not {expected or 'none'}.")
            previous = (now.current, *now.previous) if now else ()
            try:
                return self._move(name, Promotion(version, manifest.sha256, _now(), reason), previous, now)
            except Conflict:
                continue  # somebody moved it: look again

    def rollback(self, name: str, *, reason: str | None = None) -> Champion:
        """Makes the champion before this one the champion again.

        Raises ModelNotFound where there is no champion, Conflict where there was none before, or somebody moved the
        pointer meanwhile.
        """
        now = self.champion(name)
        if now is None:
            raise ModelNotFound(f"There is no champion of {name}.", "name")
        if not now.previous:
            raise Conflict(f"Version {now.version} is the first champion of {name}: there is none to go back to.")
        back = replace(now.previous[0], promoted_at=_now(), reason=reason or f"Rolled back from version {now.version}.")
        return self._move(name, back, now.previous[1:], now)

    @overload
    def champion(self, name: str) -> Champion | None: ...
    @overload
    def champion(self, name: str, etag: str | None) -> Champion | NotModified | None: ...

    def champion(self, name: str, etag: str | None = None) -> Champion | NotModified | None:
        """The champion, None where there is none, NOT_MODIFIED where it still has `etag`. Raises CorruptArtefact."""
        path = f"{check_model_name(name)}/champion.json"
        found = self._blobs.get(self.container, path, etag, longest=MAX_RECORD_BYTES)
        if found is None or found is NOT_MODIFIED:
            return found
        record = _parsed(found.data, path)
        try:
            previous = tuple(Promotion(**p) for p in record.pop("previous"))
            return Champion(name, Promotion(**record), previous, found.etag)
        except (KeyError, TypeError) as error:
            raise CorruptArtefact(f"{path} cannot be read: {error!r}.") from error

    def manifest(self, name: str, version: str) -> Manifest:
        """Raises ModelNotFound, CorruptArtefact."""
        path = f"{_folder(name, version)}/manifest.json"
        found = self._blobs.get(self.container, path, longest=MAX_RECORD_BYTES)
        if found is None:
            raise ModelNotFound(f"There is no version {version} of {name}.", "version")
        try:
            manifest = Manifest(**_parsed(found.data, path))
        except TypeError as error:
            raise CorruptArtefact(f"{path} cannot be read: {error}.") from error
        if (manifest.name, manifest.version) != (name, version):
            raise CorruptArtefact(f"{path} is that of {manifest.name} {manifest.version}.")
        return manifest

    def fetch(self, name: str, version: str) -> bytes:
        """The model's file, verified. Raises ModelNotFound, CorruptArtefact."""
        return self.payload(self.manifest(name, version))

    def payload(self, manifest: Manifest) -> bytes:
        """The file that a manifest speaks of, verified. Raises CorruptArtefact."""
        path = f"{_folder(manifest.name, manifest.version)}/model.onnx"
        if manifest.size > MAX_ARTEFACT_BYTES:
            raise CorruptArtefact(f"{path} claims {manifest.size:,} bytes, more than {MAX_ARTEFACT_BYTES:,}.")
        data = self._file(path, manifest.size)
        if len(data) != manifest.size:
            raise CorruptArtefact(f"{path} has {len(data):,} bytes instead of {manifest.size:,}.")
        if hashlib.sha256(data).hexdigest() != manifest.sha256:
            raise CorruptArtefact(f"{path} does not have the SHA-256 it was published with.")
        return data

    def promoted(self, name: str, promotion: Promotion) -> bytes:
        """The file of a champion, as it was promoted: what answers needs no manifest. Raises CorruptArtefact."""
        path = f"{_folder(name, promotion.version)}/model.onnx"
        data = self._file(path, MAX_ARTEFACT_BYTES)
        if hashlib.sha256(data).hexdigest() != promotion.sha256:
            raise CorruptArtefact(f"{path} does not have the SHA-256 it was promoted with.")
        return data

    def _file(self, path: str, longest: int) -> bytes:
        try:
            found = self._blobs.get(self.container, path, longest=longest)
        except PayloadTooLarge as error:
            raise CorruptArtefact(error.message) from error
        if found is None:
            raise CorruptArtefact(f"{path} is missing.")
        return found.data

    def versions(self, name: str) -> list[str]:
        """The versions that can be promoted, oldest first."""
        return [str(number) for number in self._numbers(name, "/manifest.json")]

    def names(self, prefix: str = "") -> Iterator[str]:
        """The names of the models there are, in the order of their text."""
        return self._blobs.folders(self.container, prefix)

    def _numbers(self, name: str, ending: str = "") -> list[int]:
        """The versions that hold a file with this ending, as numbers, ascending."""
        paths = self._blobs.names(self.container, f"{check_model_name(name)}/")
        folders = {path.split("/")[1] for path in paths if path.endswith(ending)}
        return sorted(int(folder) for folder in folders if _VERSION.fullmatch(folder))

    def _move(self, name: str, to: Promotion, previous: tuple[Promotion, ...], now: Champion | None) -> Champion:
        """Writes the pointer on condition that it is as `now`. Raises Conflict."""
        previous = previous[:MAX_PREVIOUS]
        data = _json({**asdict(to), "previous": [asdict(p) for p in previous]})
        path = f"{name}/champion.json"
        try:
            etag = self._blobs.put(self.container, path, data, if_absent=now is None, if_match=now.etag if now else None)
        except Conflict:
            # Perhaps by this very write: where its answer was lost, the client sent it once more.
            found = self.champion(name)
            if found is None or (found.current, found.previous) != (to, previous):
                raise
            return found
        return Champion(name, to, previous, etag)


def _folder(name: str, version: str) -> str:
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise InvalidRequest("A version is a whole number from 1 on, as text.", "version")
    return f"{check_model_name(name)}/{version}"


def _parsed(data: bytes, path: str) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except ValueError as error:
        raise CorruptArtefact(f"{path} is not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise CorruptArtefact(f"{path} is not a JSON object.")
    return record


def _json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
