"""Runs as traces and the catalogue as metrics, to an OpenTelemetry collector.

Started where OpenTelemetry's own environment variables name a receiver; they also say how it is reached
(`OTEL_EXPORTER_OTLP_ENDPOINT`, `_PROTOCOL`, `_HEADERS`, `_TIMEOUT`, ..., each also for one signal alone).

    exporter = otlp_exporter(monitor, environ=os.environ)
    ...
    if exporter is not None:
        exporter.close()

A receiver that hangs, refuses or is not there delays nobody: events are taken from the bus by a thread that
never talks to it, queues are bounded, and `close` waits for it less than a second.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import pkgutil
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from crystools_exporters.otlp_receiver import Address, Receiver, watched
from crystools_exporters.samples import Sampler
from crystools_tpu import __version__
from crystools_tpu.imports import import_failure
from crystools_tpu.telemetry import Bus, Event, Subscription, bus
from crystools_tpu.telemetry.guard import Guard

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

logger = logging.getLogger(__name__)

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"

_SIGNALS: Final = ("TRACES", "METRICS")
_PACKAGES: Final = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
}
_INSTALL: Final = "pip install 'crystools-tpu[otel]'"
_DEFAULT_PROTOCOL: Final = "http/protobuf"  # OpenTelemetry's specification has it so

_CLOSE_SECONDS: Final = 0.9


class Signal(Protocol):
    """What the exporter does with events: spans, or metrics."""

    def observe(self, event: Event) -> None:
        """Takes one event, at once."""

    def shutdown(self) -> None:
        """Hands on what is left. May wait for the receiver."""


class OtlpExporter:
    """Hands events to the signals, to each in a thread of its own, from its making until `close`.

    Each signal is with the receiver that it goes to. Its thread hands on what is left, too: a process that is
    about to end has no new ones.
    """

    def __init__(self, signals: Sequence[tuple[Signal, Receiver]], *, bus: Bus = bus) -> None:
        self._exports = [_Export(signal, receiver, bus.subscribe()) for signal, receiver in signals]
        for export in self._exports:
            export.thread.start()

    def close(self, timeout_seconds: float = _CLOSE_SECONDS) -> None:
        """Exports what is left. A receiver that takes longer than this does not get it."""
        deadline = time.monotonic() + timeout_seconds
        for export in self._exports:
            export.subscription.close()
        for export in self._exports:
            export.thread.join(max(0.0, deadline - time.monotonic()))
        unanswered = {export.receiver for export in self._exports if export.thread.is_alive()}
        for receiver in {export.receiver for export in self._exports}:
            receiver.close(unanswered=receiver in unanswered)


class _Export:
    """One signal and its thread, which ends when the subscription does."""

    def __init__(self, signal: Signal, receiver: Receiver, subscription: Subscription) -> None:
        self.receiver, self.subscription = receiver, subscription
        self.thread = threading.Thread(
            target=self._run, args=(signal,), name="crystools-tpu-otlp", daemon=True
        )

    def _run(self, signal: Signal) -> None:
        guard = Guard(logger)
        while (event := self.subscription.get()) is not None:
            with guard(f"{event.type} could not be exported"):
                signal.observe(event)
        if self.subscription.dropped:
            logger.warning("%d events were not exported: there were too many", self.subscription.dropped)
        with guard("the last of it could not be exported over OTLP"):
            signal.shutdown()


def otlp_exporter(
    monitor: Sampler | None,
    *,
    bus: Bus = bus,
    simulated: str | None = None,
    environ: Mapping[str, str] = os.environ,
    version: str = __version__,
) -> OtlpExporter | None:
    """An exporter of the signals that have an endpoint in the environment; None where none has.

    What keeps a signal from being exported (a package that is not installed, a protocol that does not exist)
    is logged in one line. Without a monitor there are no metrics of the machine, but those of the runs.
    `simulated` names the simulated machine, if it is one.
    """
    signals: list[tuple[Signal, Receiver]] = []
    receivers: dict[str, Receiver] = {}
    for signal in _SIGNALS:
        address = _address(signal, environ)
        if address is None or not _can_export(signal, address.protocol):
            continue
        # Both signals to one receiver are one that is there or not.
        receiver = receivers.setdefault(f"{address.protocol} {address.endpoint}", Receiver(address))
        try:
            if signal == "TRACES":
                made = _traces(receiver, address.protocol, version)
            else:
                made = _metrics(receiver, address.protocol, version, monitor, simulated)
            signals.append((made, receiver))
        except Exception as error:  # noqa: BLE001 - a variable that OpenTelemetry cannot read stops no run
            failure = import_failure(error)
            said = f"{failure.reason}: {failure.cure(_INSTALL)}" if failure else error
            logger.warning("no %s over OTLP: %s", signal.lower(), said)
    return OtlpExporter(signals, bus=bus) if signals else None


def _traces(receiver: Receiver, protocol: str, version: str) -> Signal:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

    from crystools_exporters.otlp_spans import RunSpans

    exporter_class = pkgutil.resolve_name(f"{_PACKAGES[protocol]}.trace_exporter:OTLPSpanExporter")
    exporter = watched(exporter_class, receiver, "traces", SpanExportResult.FAILURE)
    return RunSpans(BatchSpanProcessor(exporter), _resource(version), version)


def _metrics(
    receiver: Receiver, protocol: str, version: str, monitor: Sampler | None, simulated: str | None
) -> Signal:
    from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader

    from crystools_exporters.otlp_metrics import OtelMetrics

    exporter_class = pkgutil.resolve_name(f"{_PACKAGES[protocol]}.metric_exporter:OTLPMetricExporter")
    exporter = watched(exporter_class, receiver, "metrics", MetricExportResult.FAILURE)
    reader = PeriodicExportingMetricReader(exporter)
    return OtelMetrics(monitor, reader, _resource(version), simulated=simulated, version=version)


def _address(signal: str, environ: Mapping[str, str]) -> Address | None:
    """Where the signal goes, and by which of the variables; None where none says so."""
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    endpoint, protocol = (
        own if environ.get(own := f"OTEL_EXPORTER_OTLP_{signal}_{word}") else f"OTEL_EXPORTER_OTLP_{word}"
        for word in ("ENDPOINT", "PROTOCOL")
    )
    if disabled or environ.get(f"OTEL_{signal}_EXPORTER", "otlp") != "otlp" or not environ.get(endpoint):
        return None
    scheme, colon, _ = environ[endpoint].partition("://")
    # An address without a scheme, which gRPC alone takes, is one with TLS unless it is said to be without.
    insecure = environ.get("OTEL_EXPORTER_OTLP_INSECURE", "").lower() == "true"
    secure = scheme.lower() == "https" if colon else not insecure
    return Address(environ[endpoint], environ.get(protocol) or _DEFAULT_PROTOCOL, secure, endpoint, protocol)


def _can_export(signal: str, protocol: str) -> bool:
    name = signal.lower()
    if protocol not in _PACKAGES:
        known = " and ".join(_PACKAGES)
        logger.warning("no %s over OTLP: %s is %r; there are %s", name, PROTOCOL, protocol, known)
        return False
    try:
        found = importlib.util.find_spec(_PACKAGES[protocol])
    except ModuleNotFoundError:  # not even a package above it
        found = None
    if found is None:
        logger.warning("no %s over OTLP although %s is set: %s", name, ENDPOINT, _INSTALL)
    return found is not None


def _resource(version: str) -> Resource:
    """This process, with what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say besides or instead."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = {"service.name": "crystools-tpu", "service.version": version, "host.name": socket.gethostname()}
    return Resource.create(ours).merge(OTELResourceDetector().detect())
