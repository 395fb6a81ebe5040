"""A real Prometheus scrapes the server over https with a token, and finds the run behind a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crystools_tpu import telemetry
from crystools_tpu.cli.protection import tls_context
from crystools_tpu.cli.serve import panel

from .programs import prometheus, until


def test_prometheus_scrapes_over_https_with_a_token_and_keeps_the_runs_id_as_exemplar(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "wrong").write_text("guessed\n")
    with panel(simulate="v6e-8", token="secret", tls=tls_context(*certificate)) as shown:

        def job(name: str, token_file: str) -> dict[str, Any]:
            return {
                "job_name": name,
                "scheme": "https",
                "tls_config": {"ca_file": str(certificate[0])},
                "authorization": {"credentials_file": token_file},
                "static_configs": [{"targets": [f"{shown.host}:{shown.port}"]}],
            }

        with telemetry.run("scraped") as run, run.stage("denoise") as stage:
            for _ in range(3):
                stage.step(None)
        with prometheus(tmp_path, [job("ours", "token"), job("stranger", "wrong")]) as ask:

            def query(expression: str) -> Any:
                return ask("query", query=expression)["result"]

            until(lambda: query('count(up{job="ours"}) == 1'), "a scrape")
            until(lambda: query('count(up{job="stranger"} == 0) == 1'), "a scrape that is refused")
            assert [one["value"][1] for one in query('up{job="ours"}')] == ["1"]
            steps = 'crystools_tpu_step_duration_seconds_count{pipeline="scraped",simulated="v6e-8"}'
            assert query(steps)[0]["value"][1] == "3"
            hlo = (
                "histogram_quantile(0.5, sum by (le, chip) (crystools_tpu_chip_hlo_execution_seconds_bucket))"
            )
            programs = until(lambda: query(hlo), "the distributions")
            assert {one["metric"]["chip"] for one in programs} == {f"tpu{number}" for number in range(8)}
            assert {0.001 <= float(one["value"][1]) <= 0.00196 for one in programs} == {True}

            (series, *_) = until(
                lambda: ask(
                    "query_exemplars",
                    query='crystools_tpu_run_duration_seconds_bucket{pipeline="scraped"}',
                    start=run.report.started_unix_seconds,
                    end=run.report.started_unix_seconds + 600,
                ),
                "an exemplar",
            )
    (exemplar,) = series["exemplars"]
    assert exemplar["labels"] == {"run_id": run.run_id}
    assert float(exemplar["value"]) == run.report.total_seconds
    assert series["seriesLabels"]["job"] == "ours"
    assert "run_id" not in series["seriesLabels"]
