"""Grafana's dashboards, generated: `python grafana/generate.py` writes `grafana/dashboards`."""
