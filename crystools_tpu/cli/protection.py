"""What protects a server, from the options: its certificate and its token."""

from __future__ import annotations

import ssl
from pathlib import Path

from crystools_tpu.cli.errors import CommandError


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """For serving https, None where neither file was given. Both are in PEM form, the key unencrypted.

    Raises CommandError that names the option at fault.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing, given = ("--tls-key", "--tls-cert") if key is None else ("--tls-cert", "--tls-key")
        raise CommandError(f"{missing}: is needed beside {given}")
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        _read(option, path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # never ask on the terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"--tls-key: {key} is not the key of the certificate in {certificate}"
        elif not _has_certificate(certificate):
            message = f"--tls-cert: {certificate} holds no certificate in PEM form"
        else:
            message = f"--tls-key: {key} holds no private key in PEM form without a passphrase"
        raise CommandError(message) from None
    return context


def token_in(path: Path) -> str:
    """The token in a file, which may end in a line break. Raises CommandError."""
    token = _read("--token-file", path).strip()
    if not token:
        raise CommandError(f"--token-file: {path} is empty; write a secret into it")
    check_token("--token-file", token)
    return token


def check_token(option: str, token: str) -> None:
    """Raises CommandError for a token that no client could show, in a header and in an address."""
    if not token.strip():
        raise CommandError(f"{option}: is empty; give a secret, or leave the option out")
    if not token.isprintable():
        raise CommandError(f"{option}: has a character that cannot be typed; give printable text")


def _read(option: str, path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise CommandError(f"{option}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{option}: {path} is no text") from None


def _has_certificate(path: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True
