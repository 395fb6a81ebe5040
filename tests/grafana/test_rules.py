"""Rules, configuration, runbooks and what stands around them, by promtool and by reading."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GRAFANA = ROOT / "grafana"
CASES = sorted(HERE.glob("*_test.yml"))
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((GRAFANA / "rules/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}


def promtool(*arguments: str | Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian package `prometheus`): the rules are NOT checked")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr


def test_promtool_finds_no_fault_in_the_rules() -> None:
    promtool("check", "rules", "--lint-fatal", *sorted((GRAFANA / "rules").glob("*.yml")))


def test_promtool_finds_no_fault_in_the_configuration(tmp_path: Path) -> None:
    """With the token and the targets that docs/grafana.md has one write."""
    shutil.copytree(GRAFANA, tmp_path / "grafana")
    targets = tmp_path / "grafana/targets"
    (targets / "token").write_text("secret")
    shutil.copy(targets / "slice.yml.example", targets / "slice.yml")
    promtool("check", "config", "--lint-fatal", tmp_path / "grafana/prometheus.yml")


def test_every_case_of_every_alert_is_as_expected() -> None:
    promtool("test", "rules", *CASES)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [
        case for path in CASES for test in yaml.safe_load(path.read_text())["tests"] for case in alerts(test)
    ]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if bool(case["exp_alerts"]) is fires} == set(ALERTS)


def alerts(test: dict[str, Any]) -> list[dict[str, Any]]:
    return list(test.get("alert_rule_test", ()))


def test_every_alert_says_what_it_is_about_and_what_to_do() -> None:
    for name, rule in ALERTS.items():
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, name
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert f"`{name}`" in (ROOT / rule["annotations"]["runbook"]).read_text(), name


def test_every_runbook_is_some_alerts() -> None:
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/runbooks").iterdir()}
    assert pages == {rule["annotations"]["runbook"] for rule in ALERTS.values()}


def test_every_alert_and_recorded_series_is_documented_and_no_other() -> None:
    text = (ROOT / "docs/grafana.md").read_text()
    documented = set(re.findall(r"^\| \[`(\w+)`\]\(runbooks/", text, re.MULTILINE))
    assert documented == set(ALERTS)
    groups = yaml.safe_load((GRAFANA / "rules/recording.yml").read_text())["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"]}
    assert set(re.findall(r"^\| `(\w+:\w+:\w+)` \|", text, re.MULTILINE)) == recorded


def test_the_compose_file_mounts_what_is_there_where_it_is_looked_for() -> None:
    services = yaml.safe_load((GRAFANA / "compose.yaml").read_text())["services"]
    mounts = {
        target: GRAFANA / source
        for service in services.values()
        for source, target, *_ in (volume.split(":") for volume in service["volumes"])
        if source.startswith("./")
    }
    assert all(source.exists() for source in mounts.values())
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/crystools-tpu.yaml").read_text())[
        "providers"
    ]
    assert mounts[provider["options"]["path"]] == GRAFANA / "dashboards"
    config = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    assert config["rule_files"] == ["rules/*.yml"]
    assert mounts["/etc/prometheus/rules"] == GRAFANA / "rules"


def test_grafanas_interval_is_prometheus() -> None:
    """Grafana makes $__rate_interval of it."""
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    config = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
