"""Keys in hardware tokens, through PKCS#11: the token signs, and the key never leaves it.

Ed25519 only (CKM_EDDSA over the whole message, RFC 8032). A key is found by its public key, so it does not matter what
the token calls it, and it is believed only after a test signature. Sessions are opened once and kept; a lock makes one
session good for several threads. python-pkcs11 is imported when a token is first asked for.

The PIN comes from a callback, is used to open the session, and is kept nowhere. Specified in docs/spec/keystore.md,
section "Keys in tokens".
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from identity.contexts import TOKEN_CHECK
from identity.errors import (
    ConfigurationError,
    MalformedError,
    RefusedError,
    TransportError,
    WrongPin,
)
from identity.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, TokenKey, verify_signature

__all__ = ["Pkcs11Signer", "TokenModule", "parse_ec_point"]

_ED25519_OID: Final = "1.3.101.112"
_OCTET_STRING: Final = b"\x04\x20"
"""DER tag and length of an OCTET STRING of 32 bytes."""

_ID_BYTES: Final = 16


def parse_ec_point(point: bytes) -> bytes:
    """The 32-byte public key in a CKA_EC_POINT.

    PKCS#11 3.0 wraps it in a DER OCTET STRING; tokens that follow 3.1 drafts, or none, give it bare. Raises
    ``MalformedError`` for anything else.
    """
    if len(point) == PUBLIC_KEY_BYTES:
        return point
    if len(point) == PUBLIC_KEY_BYTES + 2 and point.startswith(_OCTET_STRING):
        return point[2:]
    raise MalformedError(f"token: an Ed25519 point of {len(point)} bytes")


class _Session:
    """An open, logged-in session with one token, for one thread at a time."""

    def __init__(self, session: Any, label: str) -> None:
        self.session = session
        self.label = label
        self.lock = threading.Lock()

    def sign(self, private_key: Any, message: bytes) -> bytes:
        from pkcs11 import Mechanism

        with self.lock, _translated(self.label):
            return bytes(private_key.sign(message, mechanism=Mechanism.EDDSA))

    def pairs(self) -> Iterator[tuple[bytes, Any]]:
        """Every Ed25519 key of the token, as (public key, handle of the private key)."""
        from pkcs11 import Attribute, KeyType, ObjectClass

        def search(**of: Any) -> list[Any]:
            wanted = {Attribute[name.upper()]: value for name, value in of.items()}
            return list(self.session.get_objects({Attribute.KEY_TYPE: KeyType.EC_EDWARDS, **wanted}))

        with self.lock, _translated(self.label):
            found = []
            for public in search(**{"class": ObjectClass.PUBLIC_KEY}):
                with suppress(MalformedError):  # an Ed448 key is of the same type, and none of ours
                    point = parse_ec_point(bytes(public[Attribute.EC_POINT]))
                    privates = search(**{"class": ObjectClass.PRIVATE_KEY, "id": public[Attribute.ID]})
                    found += [(point, private) for private in privates]
        yield from found


class Pkcs11Signer:
    """A ``Signer`` whose key is in a token. Threads may share it."""

    __slots__ = ("_private_key", "_public_key", "_session")

    def __init__(self, session: _Session, public_key: bytes, private_key: Any) -> None:
        """Makes a test signature. Raises ``SignatureMismatch`` when the private key is not that of ``public_key``."""
        self._session = session
        self._public_key = public_key
        self._private_key = private_key
        challenge = TOKEN_CHECK + secrets.token_bytes(32)
        verify_signature(public_key, challenge, self.sign(challenge))

    @property
    def public_key(self) -> bytes:
        """The 32-byte public key."""
        return self._public_key

    @property
    def key(self) -> TokenKey:
        """What a keystore keeps of it."""
        return TokenKey(self._public_key, self._session.label)

    def sign(self, message: bytes) -> bytes:
        """The token's 64-byte signature. Raises ``TransportError`` when the token is gone or refuses."""
        signature = self._session.sign(self._private_key, message)
        if len(signature) != SIGNATURE_BYTES:
            raise TransportError(f"token {self._session.label!r} made a signature of {len(signature)} bytes")
        return signature

    def __repr__(self) -> str:
        return f"Pkcs11Signer(public_key={self._public_key.hex()}, token={self._session.label!r})"


class TokenModule:
    """A PKCS#11 library (``path``, a shared object) and the tokens that were opened through it.

    ``pin`` is asked for the PIN of a token, by its label, once for each token. Nothing is loaded before it is needed.
    """

    _in_use: Counter[str] = Counter()
    """Sessions of this process by library. A library is loaded once a process, whoever asks."""

    def __init__(self, path: Path | None, pin: Callable[[str], str]) -> None:
        self._path = path
        self._pin = pin
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def signer(self, key: TokenKey) -> Pkcs11Signer:
        """The signer of a key that a keystore names.

        Raises ``ConfigurationError`` when there is no library, ``TransportError`` when the token is not there,
        ``WrongPin``, ``RefusedError`` when the token doesn't hold the key, ``SignatureMismatch`` when what it holds
        under that public key signs with another one.
        """
        session = self._open(key.token)
        for public_key, private_key in session.pairs():
            if public_key == key.public_key:
                return Pkcs11Signer(session, public_key, private_key)
        raise RefusedError(f"token {key.token!r} does not hold the key {key.public_key.hex()}")

    def signers(self, token: str) -> list[Pkcs11Signer]:
        """The signers of all Ed25519 keys in a token. Raises as ``signer``."""
        session = self._open(token)
        return [Pkcs11Signer(session, public_key, private_key) for public_key, private_key in session.pairs()]

    def generate(self, token: str, label: str) -> Pkcs11Signer:
        """A new key, made in the token and never to leave it; ``label`` is what the token calls it."""
        from pkcs11 import Attribute, KeyType, Mechanism
        from pkcs11.util.ec import encode_named_curve_parameters

        session = self._open(token)
        with session.lock, _translated(token):
            curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(_ED25519_OID)}
            parameters = session.session.create_domain_parameters(KeyType.EC_EDWARDS, curve, local=True)
            public, private = parameters.generate_keypair(
                mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
                store=True,
                label=label,
                id=secrets.token_bytes(_ID_BYTES),
                private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
            )
            point = parse_ec_point(bytes(public[Attribute.EC_POINT]))
        return Pkcs11Signer(session, point, private)

    def discard(self, key: TokenKey) -> None:
        """Destroy a key for good, both halves: one that was generated for something that then failed."""
        from pkcs11 import Attribute, KeyType

        session = self._open(key.token)
        doomed = [private for public_key, private in session.pairs() if public_key == key.public_key]
        with session.lock, _translated(key.token):
            for private in doomed:
                halves = {Attribute.KEY_TYPE: KeyType.EC_EDWARDS, Attribute.ID: private[Attribute.ID]}
                for half in list(session.session.get_objects(halves)):
                    half.destroy()

    def close(self) -> None:
        """End all sessions. Idempotent; a token that is gone is no error."""
        with self._lock:
            for session in self._sessions.values():
                with suppress(TransportError, RefusedError), _translated(session.label):
                    session.session.close()
                self._in_use[str(self._path)] -= 1
            self._sessions.clear()

    def _open(self, label: str) -> _Session:
        with self._lock:
            if label not in self._sessions:
                self._sessions[label] = _Session(self._log_in(label), label)
                self._in_use[str(self._path)] += 1
            return self._sessions[label]

    def _log_in(self, label: str) -> Any:
        from pkcs11.exceptions import PinIncorrect, PinInvalid, PinLenRange, PinLocked, UserAlreadyLoggedIn

        library = self._library()
        token = self._find(library, label)
        pin = self._pin(label)
        try:
            with _translated(label, PinIncorrect, PinInvalid, PinLenRange, PinLocked, UserAlreadyLoggedIn):
                return token.open(user_pin=pin, rw=True)
        except UserAlreadyLoggedIn:
            # Logging in is once a process: another session of ours has done it.
            with _translated(label):
                return token.open(rw=True)
        except PinLocked as exc:
            raise WrongPin(label, "is locked", hint="its security officer can set a new PIN") from exc
        except (PinIncorrect, PinInvalid, PinLenRange) as exc:
            raise WrongPin(label, _tries_left(self._find(library, label))) from exc

    def _library(self) -> Any:
        if self._path is None:
            raise ConfigurationError(
                "a key is in a token, and no PKCS#11 library is named",
                hint="set token_module in holdfast.toml, or HOLDFAST_TOKEN_MODULE, to the library of the token's maker",
            )
        try:
            import pkcs11
        except ImportError as exc:
            raise ConfigurationError("python-pkcs11 is not installed") from exc
        if not self._path.is_file():
            raise ConfigurationError(f"there is no PKCS#11 library at {self._path}")
        try:
            return pkcs11.lib(str(self._path))
        except (pkcs11.PKCS11Error, RuntimeError, OSError) as exc:
            raise ConfigurationError(f"{self._path} is no PKCS#11 library that can be used: {_named(exc)}") from exc

    def _find(self, library: Any, label: str) -> Any:
        """The one token of that label. Raises ``TransportError``."""
        with _translated(label):
            found = [token for token in library.get_tokens() if token.label == label]
            if not found and not self._in_use[str(self._path)]:
                # A token that came after the library was loaded is seen by some libraries only when they start anew.
                library.reinitialize()
                found = [token for token in library.get_tokens() if token.label == label]
        if len(found) != 1:
            counted = "there is no token" if not found else f"there are {len(found)} tokens"
            raise TransportError(f"{counted} {label!r}", hint="plug it in; its label is shown by its maker's tool")
        return found[0]


def _tries_left(token: Any) -> str:
    from pkcs11 import TokenFlag

    if token.flags & TokenFlag.USER_PIN_LOCKED:
        return "was refused, and the token is locked now"
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        return "was refused; one try is left before the token locks itself"
    return "was refused; a few wrong ones lock the token"


@contextmanager
def _translated(label: str, *let: type[Exception]) -> Iterator[None]:
    """Errors of the library as ours, but those in ``let``."""
    from pkcs11.exceptions import PKCS11Error

    try:
        yield
    except let:
        raise
    except PKCS11Error as exc:
        raise TransportError(
            f"token {label!r} did not do what it was asked: {_named(exc)}", hint="is it still plugged in?"
        ) from exc


def _named(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
