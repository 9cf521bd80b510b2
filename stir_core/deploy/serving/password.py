"""The password of a shared workbench: only its argon2 hash is kept."""

import math
import threading
import time
import unicodedata
from collections.abc import Callable

from stir_core.errors import DeployError

HASH = "STIR_PASSWORD_HASH"
"""Environment variable in which ``stir workbench --share`` hands the hash to the server."""
LEAST_CHARS = 8
MOST_CHARS = 200
LONGEST_WAIT = 16.0
"""Seconds between two tries after five wrong ones or more; the first wrong one costs one second, and each further one twice as much."""


def password_hash(password: str) -> str:
    """The argon2id hash of a password, with a salt of its own (RFC 9106, the library's parameters).

    Raises:
        DeployError: too short or too long.
    """
    if not LEAST_CHARS <= len(password) <= MOST_CHARS:
        raise DeployError(f"the password has {len(password)} characters: take {LEAST_CHARS} to {MOST_CHARS}")
    from argon2 import PasswordHasher  # here, since only a shared workbench needs it

    return PasswordHasher().hash(_normal(password))


class PasswordCheck:
    """Compares passwords with a hash, one at a time for the whole process; after a wrong one nobody may try for a while.

    Args:
        hash: of :func:`password_hash`.
        now: a monotonic clock in seconds.

    Raises:
        DeployError: not an argon2 hash.
    """

    def __init__(self, hash: str, now: Callable[[], float] = time.monotonic):
        from argon2 import PasswordHasher, extract_parameters
        from argon2.exceptions import InvalidHashError

        try:
            extract_parameters(hash)
        except InvalidHashError:
            raise DeployError(f"{HASH} is not an argon2 hash: start the workbench with `stir workbench --share`, which sets it") from None
        self._hash, self._now, self._hasher = hash, now, PasswordHasher()
        self._lock = threading.Lock()
        self._wrong, self._closed_until = 0, -math.inf

    def fits(self, password: str) -> bool:
        """Whether it is the password, compared in constant time by the library.

        Raises:
            DeployError: a wrong one was given too short a time ago.
        """
        from argon2.exceptions import VerificationError

        with self._lock:
            if (left := self._closed_until - self._now()) > 0:
                raise DeployError(f"a wrong password was given just now: try again in {math.ceil(left)} s")
            try:
                right = self._hasher.verify(self._hash, _normal(password[: MOST_CHARS + 1]))
            except VerificationError:
                right = False
            self._wrong = 0 if right else self._wrong + 1
            if not right:
                self._closed_until = self._now() + min(LONGEST_WAIT, 2.0 ** min(self._wrong - 1, 10))
            return right


def _normal(password: str) -> bytes:
    """One spelling of a letter with its accent, whichever keyboard it was typed on."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
