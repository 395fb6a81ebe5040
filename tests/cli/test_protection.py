"""https and tokens of `serve`: what may be given, and what is wrong with it in one line."""

from __future__ import annotations

import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from crystools_tpu.cli import main
from crystools_tpu.cli.errors import CommandError
from crystools_tpu.cli.protection import tls_context, token_in
from crystools_tpu.cli.serve import panel


def test_with_a_certificate_page_api_and_metrics_are_https(certificate: tuple[Path, Path]) -> None:
    with panel(simulate="v6e-4", tls=tls_context(*certificate)) as shown:
        assert shown.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(certificate[0]))
        for url in (shown.url, shown.url + "api/health", shown.metrics_url):
            with urllib.request.urlopen(url, context=trusting, timeout=20) as answer:
                assert answer.status == 200
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(shown.url, context=ssl.create_default_context(), timeout=20)


def test_a_token_that_was_given_is_asked_for_on_loopback_too() -> None:
    with panel(simulate="v6e-4", token="secret") as shown:
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(shown.metrics_url, timeout=20)
        refused.value.close()
        request = urllib.request.Request(shown.metrics_url, headers={"Authorization": "Bearer secret"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200


def test_a_token_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    assert token_in(tmp_path / "token") == "secret"


def test_without_files_there_is_no_tls() -> None:
    assert tls_context(None, None) is None


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("cert.pem", None, "--tls-key: is needed beside --tls-cert"),
        (None, "key.pem", "--tls-cert: is needed beside --tls-key"),
        ("none.pem", "key.pem", "--tls-cert: cannot read {}/none.pem: No such file or directory"),
        ("cert.pem", "none.pem", "--tls-key: cannot read {}/none.pem: No such file or directory"),
        (
            "cert.pem",
            "other.pem",
            "--tls-key: {0}/other.pem is not the key of the certificate in {0}/cert.pem",
        ),
        ("text.pem", "key.pem", "--tls-cert: {}/text.pem holds no certificate in PEM form"),
        (
            "cert.pem",
            "text.pem",
            "--tls-key: {}/text.pem holds no private key in PEM form without a passphrase",
        ),
        (
            "cert.pem",
            "locked.pem",
            "--tls-key: {}/locked.pem holds no private key in PEM form without a pass",
        ),
        ("bytes.pem", "key.pem", "--tls-cert: {}/bytes.pem is no text"),
    ],
)
def test_a_bad_certificate_or_key_is_one_line_that_names_the_option(
    certificate: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cert: str | None,
    key: str | None,
    message: str,
) -> None:
    (tmp_path / "cert.pem").write_bytes(certificate[0].read_bytes())
    (tmp_path / "key.pem").write_bytes(certificate[1].read_bytes())
    (tmp_path / "text.pem").write_text("nothing\n")
    (tmp_path / "bytes.pem").write_bytes(b"\xff\xfe\x00")
    for command in (
        "openssl ecparam -genkey -name prime256v1 -out other.pem",
        "openssl ec -in key.pem -aes256 -passout pass:x -out locked.pem",
    ):
        subprocess.run(command.split(), check=True, capture_output=True, cwd=tmp_path)
    given = {"--tls-cert": cert, "--tls-key": key}
    options = [f"{option}={tmp_path / name}" for option, name in given.items() if name is not None]
    assert main(["serve", "--port", "0", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"crystools-tpu: {message.format(tmp_path)}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--token-file: cannot read {}: No such file or directory"),
        (" \n", "--token-file: {} is empty; write a secret into it"),
        ("one\ntwo\n", "--token-file: has a character that cannot be typed; give printable text"),
    ],
)
def test_a_bad_token_file_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CommandError) as error:
        token_in(path)
    assert str(error.value) == message.format(path)


def test_a_token_is_given_in_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--token", "x", "--token-file", "y"])
    assert "--token-file: not allowed with argument --token" in capsys.readouterr().err
