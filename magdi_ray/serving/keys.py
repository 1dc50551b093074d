"""API keys: who may ask. Only their SHA-256 is kept, in a file or an environment variable.

    keys:
      - {name: alice, sha256: 2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683, rpm: 60, tpm: 20000}

A file is read again when it changes, so keys come and go without a restart. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from magdi_ray.config.base import Section
from magdi_ray.config.sections import Name
from magdi_ray.config.serving import Endpoint, KeyLimits
from magdi_ray.errors import ConfigError

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""A key file is looked at at most so often."""

PREFIX = "sk-magdi-"

SHA256 = r"^[0-9a-f]{64}$"


class Key(Section):
    """One key. Without limits of its own it has the endpoint's."""

    name: Name
    sha256: str = Field(pattern=SHA256)
    """Of the key, in hexadecimal."""
    rpm: int | None = Field(None, ge=1)
    """Requests a minute."""
    tpm: int | None = Field(None, ge=1)
    """Tokens a minute, prompt and reply together."""

    def limits(self, default: KeyLimits) -> KeyLimits:
        """What this key may use."""
        return KeyLimits(
            rpm=default.rpm if self.rpm is None else self.rpm,
            tpm=default.tpm if self.tpm is None else self.tpm,
        )


class KeyFile(Section):
    """What a key file holds."""

    keys: tuple[Key, ...] = ()


def new_key() -> str:
    """A key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str | bytes) -> str:
    """SHA-256 in hexadecimal. Keys are random, so they need no salt and no slow hash."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def read_keys(text: str, source: str) -> tuple[Key, ...]:
    """The keys of a file's text.

    Raises:
        ConfigError: it is no key file, or names a key twice; no part of the text is repeated in the message.
    """
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ConfigError(f"{source}: a YAML file of API keys is required; found text that is no YAML.") from None
    if not isinstance(found, dict) or not isinstance(found.get("keys") or [], list):
        raise ConfigError(f"{source}: `keys:` with a list of {{name, sha256}} is required. `magdi keys new` writes such a file.")
    try:
        keys = KeyFile.model_validate({**found, "keys": tuple(found.get("keys") or ())}).keys
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise ConfigError(f"{source}: these are no API keys: {lines}") from None
    return _distinct(keys, source)


def read_variable(text: str, source: str) -> tuple[Key, ...]:
    """The keys of `NAME:SHA256,NAME:SHA256`.

    Raises:
        ConfigError: it is not written so, or names a key twice; no part of the text is repeated in the message.
    """
    keys = []
    for number, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        name, _, sha256 = entry.partition(":")
        try:
            keys.append(Key(name=name, sha256=sha256))
        except ValidationError:
            raise ConfigError(
                f"${source}: NAME:SHA256, separated by commas, is required (the SHA-256 as `magdi keys hash` prints it); "
                f"entry {number} is not written so."
            ) from None
    return _distinct(tuple(keys), f"${source}")


def _distinct(keys: tuple[Key, ...], source: str) -> tuple[Key, ...]:
    names = [key.name for key in keys]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ConfigError(f"{source}: every key needs a name of its own; found more than one called {', '.join(doubled)}.")
    return keys


class KeyRing:
    """All keys that are valid now."""

    def __init__(
        self, *, file: Path | None = None, fixed: Sequence[Key] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`fixed` keys hold until the end; those of `file` as long as they stand there.

        Raises:
            ConfigError: the file cannot be read, is malformed, or there is no key at all.
        """
        self._file = file
        self._fixed = tuple(fixed)
        self._clock = clock
        self._looked = clock()
        self._seen = self._signature()
        """Of the file whose keys these are."""
        self._complaint: tuple[object, str] | None = None
        """The state that was logged last, and what is wrong with it; None where all is well."""
        self._keys = self._read()
        if not self._keys:
            raise ConfigError(
                f"{file or 'The API keys'}: at least one API key is required, found none; `magdi keys new` makes one."
            )

    def find(self, presented: bytes) -> Key | None:
        """The key that was presented, or None. All are compared, in the same time whichever it is."""
        self._refresh()
        given = digest(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(given, key.sha256):
                found = key
        return found

    def _refresh(self) -> None:
        now = self._clock()
        if self._file is None or now - self._looked < LOOK_S:
            return
        self._looked = now
        signature = self._signature()
        if signature == self._seen:
            self._complaint = None
            return
        try:
            self._keys = self._read()
        except ConfigError as error:
            # Not seen yet: what could not be read for once is read at the next look, though the file stays as it is.
            if (signature, str(error)) != self._complaint:
                logger.error("The API keys stay as they were: %s", error)
            self._complaint = signature, str(error)
        else:
            self._seen, self._complaint = signature, None
            logger.info("API keys read again: %d", len(self._keys))

    def _signature(self) -> tuple[int, int, int] | None:
        """What tells that a file is another one than before; None where there is none."""
        try:
            found = os.stat(self._file) if self._file is not None else None
        except OSError:
            return None
        return None if found is None else (found.st_mtime_ns, found.st_ino, found.st_size)

    def _read(self) -> tuple[Key, ...]:
        if self._file is None:
            return self._fixed
        try:
            if os.stat(self._file).st_mode & stat.S_IWOTH:
                raise ConfigError(f"{self._file}: everybody on this machine may write to it and add a key: chmod o-w FILE")
            text = self._file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise ConfigError(f"{self._file}: a readable file of API keys is required: {reason}.") from None
        return _distinct((*self._fixed, *read_keys(text, str(self._file))), str(self._file))


def open_keys(endpoint: Endpoint) -> KeyRing | None:
    """The keys an endpoint asks for; None where it asks for none.

    Raises:
        ConfigError: they cannot be read, or there is none.
    """
    if endpoint.api_keys_file is None and endpoint.api_keys_env is None:
        return None
    fixed: tuple[Key, ...] = ()
    if endpoint.api_keys_env is not None:
        if endpoint.api_keys_env not in os.environ:
            raise ConfigError(f"api_keys_env: the environment variable {endpoint.api_keys_env} is required, and not set.")
        fixed = read_variable(os.environ[endpoint.api_keys_env], endpoint.api_keys_env)
    return KeyRing(file=Path(endpoint.api_keys_file) if endpoint.api_keys_file else None, fixed=fixed)
