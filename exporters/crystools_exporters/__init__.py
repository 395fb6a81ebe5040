"""Exporters of what the monitor and the telemetry layer know; `catalogue` names every metric."""
