"""The metrics of a short job to a pushgateway, which keeps them for Prometheus once the job is gone."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Final

from prometheus_client import pushadd_to_gateway
from prometheus_client.registry import Collector

from crystools_tpu.telemetry.text import safe_text

logger = logging.getLogger(__name__)

JOB: Final = "crystools-tpu"

PATIENCE_SECONDS: Final = 5.0


def push(
    url: str, registry: Collector, *, instance: str | None = None, patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """Pushes `registry` under the job `crystools-tpu` and the instance, which is this host unless given.

    What an earlier push of the same job and instance said under the same names is replaced. A gateway that
    is down, refuses, or has not taken it within `patience_seconds` is one warning.
    """
    failure: list[str] = []

    def send() -> None:
        try:
            key = {"instance": instance or socket.gethostname()}
            pushadd_to_gateway(url, JOB, registry, key, timeout=patience_seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason
            failure.append(safe_text(error))

    # In a thread: the timeout is of each read from the socket, and there may be many.
    thread = threading.Thread(target=send, name="crystools-tpu-push", daemon=True)
    try:
        thread.start()
        thread.join(patience_seconds)
    except RuntimeError as error:  # there is no thread to be had
        failure.append(str(error))
    if thread.is_alive():
        failure.append(f"no answer within {patience_seconds:g} s")
    for reason in failure[:1]:
        logger.warning("the metrics could not be pushed to %s: %s", url, reason)
