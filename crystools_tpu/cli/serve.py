"""`crystools-tpu serve`: the monitor, its page, its API and its metrics, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crystools_tpu.cli.errors import CommandError
from crystools_tpu.cli.exports import check_textfile
from crystools_tpu.cli.help import add_command
from crystools_tpu.cli.outputs import check_distinct
from crystools_tpu.cli.price import price_given
from crystools_tpu.cli.protection import check_token, tls_context, token_in
from crystools_tpu.cli.tunnel import tunnel_command
from crystools_tpu.open_pages import announced

if TYPE_CHECKING:
    from crystools_tpu.page import Address

DEFAULT_PORT = 8189


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "serve",
        "show this machine and its chips on a live page",
        ("for this machine alone, or through the ssh tunnel that it prints", "serve"),
        ("for others, who must show a token", "serve --host 0.0.0.0 --token-file token.txt"),
        ("without a TPU: as it would look", "serve --simulate v6e-8"),
        usage="crystools-tpu serve [OPTION ...]",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    about = "0 takes a free one, which is printed (default: %(default)s)"
    add("--port", type=int, default=DEFAULT_PORT, help=about)
    about = "time between two samples (default: %(default)s)"
    add("--rate", type=float, default=0.5, metavar="SECONDS", help=about)
    token = parser.add_mutually_exclusive_group().add_argument
    about = "what clients must show (default: none on loopback, elsewhere a random one that is printed)"
    token("--token", help=about)
    token("--token-file", type=Path, metavar="FILE", help="the token is in this file, and is not printed")
    add("--tls-cert", type=Path, metavar="FILE", help="serve https with this certificate (PEM)")
    add("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    about = "also write the metrics there, for node_exporter (.prom), every 15 seconds and at the end"
    add("--textfile", type=Path, metavar="FILE", help=about)
    about = (
        "show a simulated machine such as v6e-8, of up to 256 chips (v6e-256); every surface and sample is "
        "marked as simulated"
    )
    add("--simulate", metavar="TOPOLOGY", help=about)
    about = "what one chip costs for one hour, in your own currency: runs then have a cost"
    add("--price-per-chip-hour", metavar="PRICE", help=about)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Serves until Ctrl-C, SIGTERM or SIGHUP."""
    secrets_given = {
        "--tls-cert": arguments.tls_cert,
        "--tls-key": arguments.tls_key,
        "--token-file": arguments.token_file,
    }
    check_distinct({"--textfile": arguments.textfile}, secrets_given.items())
    token = arguments.token
    if token is not None:
        check_token("--token", token)
    if arguments.token_file is not None:
        token = token_in(arguments.token_file)
    shown = panel(
        host=arguments.host,
        port=arguments.port,
        rate_seconds=arguments.rate,
        token=token,
        tls=tls_context(arguments.tls_cert, arguments.tls_key),
        textfile=arguments.textfile,
        simulate=arguments.simulate,
        price_per_chip_hour=price_given(arguments.price_per_chip_hour),
    )
    with shown as page, announced(page.url):
        if arguments.token_file is not None:  # it is kept there so as not to be read elsewhere
            page = dataclasses.replace(page, token=None)
        print(f"page:    {page.url}")
        print(f"metrics: {page.metrics_url}", flush=True)
        if page.is_everywhere:
            print("for other machines, put this one's name in place of localhost", flush=True)
        if (tunnel := tunnel_command(page)) is not None:
            print(f"tunnel:  {tunnel}")
            print(
                "         typed where your browser is, if that is elsewhere; then open the page there",
                flush=True,
            )
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it, not a failure
            signal.pause()


@contextlib.contextmanager
def panel(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    rate_seconds: float = 0.5,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    textfile: Path | None = None,
    simulate: str | None = None,
    profiles: Path | None = None,
    price_per_chip_hour: float | None = None,
) -> Iterator[Address]:
    """A monitor and a server in threads of their own, for as long as the block lasts.

    `profiles` is where captures of this process's pipelines go, if it runs any.

    Raises CommandError for a port that is taken, a rate out of range, an unknown topology, or a textfile that
    cannot be.
    """
    from crystools_exporters.textfile import TextfileWriter
    from crystools_tpu.monitor import Monitor
    from crystools_tpu.page import serving
    from crystools_tpu.server import ServerError
    from crystools_tpu.watching import machine

    if textfile is not None:
        check_textfile(textfile)
    with contextlib.ExitStack() as stack:
        try:
            sources = machine(simulate, stack)
        except ValueError as error:
            raise CommandError(f"--simulate: {error}") from None
        try:
            monitor = Monitor(sources, interval_seconds=rate_seconds, simulated=simulate is not None)
        except ValueError as error:
            raise CommandError(f"--rate: {error}") from None
        page = serving(
            monitor,
            host=host,
            port=port,
            token=token,
            tls=tls,
            simulated=simulate,
            profiles=profiles,
            price_per_chip_hour=price_per_chip_hour,
        )
        try:
            address, exporter = stack.enter_context(page)
        except ServerError as error:
            raise CommandError(f"--host, --port: {error}") from None
        if textfile is not None:
            stack.enter_context(TextfileWriter(textfile, exporter.registry))
        yield address
