"""Every command, option, setting and metric is documented, and nothing that is not there."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from crystools_exporters.catalogue import CATALOGUE
from crystools_exporters.exporting import HISTORY
from crystools_pipelines.planning.topologies import TOPOLOGIES
from crystools_tpu.cli.main import build_parser
from crystools_tpu.comfyui.attach import SIMULATE
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS
from crystools_tpu.data_dir import DATA_DIR
from crystools_tpu.server.settings import Settings
from crystools_tpu.sources.disks import DISKS
from crystools_tpu.telemetry import StageName

ROOT = Path(__file__).parent.parent
DOCS = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}


def commands() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(subparsers.choices)


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Those of its actions, too."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for choice in action.choices.values():
                yield from options_of(choice)


def section(name: str) -> str:
    text = DOCS["commands.md"]
    start = text.index(f"## `crystools-tpu {name}")
    return text[start : text.find("\n## ", start + 1)]


def test_every_command_and_option_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"^## `crystools-tpu ([\w-]+)", DOCS["commands.md"], re.MULTILINE))
    assert documented == set(commands())
    for name, parser in commands().items():
        options = set(options_of(parser))
        rows = "\n".join(line for line in section(name).splitlines() if line.startswith("| `-"))
        named = {cell for row in rows.splitlines() for cell in re.findall(r"--[\w-]+", row.split(" | ")[0])}
        assert named == options - {"-h", "--help"}, name


def test_every_action_on_runs_is_documented_and_no_other() -> None:
    (actions,) = (a for a in commands()["runs"]._actions if isinstance(a, argparse._SubParsersAction))
    assert re.findall(r"^\| `([a-z]+)", section("runs"), re.MULTILINE) == list(actions.choices)


def test_every_metric_is_documented_with_its_labels_and_no_other() -> None:
    rows = re.findall(r"^\| `(crystools_tpu_\w+)` \| (\w+) \| (.*?) \|", DOCS["metrics.md"], re.MULTILINE)
    documented = {name: (type_, tuple(re.findall(r"\w+", labels))) for name, type_, labels in rows}
    assert documented == {metric.name: (metric.type, metric.labels) for metric in CATALOGUE}


def test_every_setting_is_documented() -> None:
    for field in dataclasses.fields(Settings):
        assert f"| `{field.name}` |" in DOCS["server.md"]


def test_every_node_is_documented_with_its_inputs_and_outputs_and_no_other() -> None:
    documented = {}
    for line in DOCS["nodes.md"].splitlines():
        if line.startswith("| `"):
            names, inputs, outputs = line.strip("|").split("|")
            for name in re.findall(r"`(\w+)`", names):
                documented[name] = (set(re.findall(r"`(\w+)`", inputs)), tuple(outputs.strip().split(", ")))
    nodes = {}
    for name, node in NODE_CLASS_MAPPINGS.items():
        types = node.INPUT_TYPES()
        nodes[name] = ({*types["required"], *types.get("optional", {})}, tuple(node.RETURN_NAMES))
    assert documented == nodes


def test_every_setting_in_comfyui_is_documented_and_no_other() -> None:
    source = (ROOT / "crystools_tpu/web/comfyui/settings.js").read_text()
    names = re.findall(r'\bsetting\(\s*"\w+",\s*"([^"]+)"', source)
    text = DOCS["comfyui.md"]
    table = text[text.index("## Settings") : text.index("## Sidebar")]
    assert re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE) == names


def test_the_environment_variables_are_documented() -> None:
    assert f"`{SIMULATE}=" in DOCS["comfyui.md"]
    for variable in (DATA_DIR, HISTORY):
        assert f"| `{variable}` |" in DOCS["history.md"]
    assert f"| `{DISKS}` |" in DOCS["server.md"]


def test_every_stage_is_documented() -> None:
    for stage in StageName:
        assert f"`{stage}`" in DOCS["telemetry.md"]


def test_every_link_between_documents_leads_somewhere() -> None:
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_file_that_contributing_names_exists() -> None:
    folders = [ROOT, ROOT / "crystools_tpu", ROOT / "pipelines/crystools_pipelines"]
    text = re.sub(r"```.*?```", "", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    quoted = " ".join(re.findall(r"`([^`]+)`", text))
    files = re.findall(r"(?<![\w./~-])[\w-]+/[\w./-]*(?:\.\w+|/)(?=\s|$)", quoted)
    assert len(files) > 50
    assert [name for name in files if not any((folder / name).exists() for folder in folders)] == []


def test_every_topology_is_documented_and_no_other() -> None:
    (names,) = re.findall(r"The topologies are (.*?), as Google Cloud names them", DOCS["plan.md"], re.DOTALL)
    assert set(re.findall(r"`([\w-]+)`", names)) == set(TOPOLOGIES)


@dataclasses.dataclass(frozen=True)
class Section:
    """What a translation has in common with the original: `cells` counts those of each row of its tables."""

    level: int
    code: list[str]
    blocks: list[str]
    targets: list[str]
    numbers: list[str]
    cells: list[int]


def sections(text: str) -> list[Section]:
    """Of each heading and what is below it."""
    found = []
    for level, body in re.findall(r"^(#+) (.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL):
        blocks = re.findall(r"^```.*?^```", body, re.MULTILINE | re.DOTALL)
        prose = re.sub(r"^```.*?^```", "", body, flags=re.MULTILINE | re.DOTALL)
        targets = [target.replace(".zh.md", ".md") for target in re.findall(r"\]\((.*?)\)", prose)]
        code, rows = re.findall(r"`([^`]+)`", prose), re.findall(r"^\|.*\|$", prose, re.MULTILINE)
        cells = [row.count(" | ") for row in rows]
        numbers = re.findall(r"\d+(?:\.\d+)?", prose)
        found.append(Section(len(level), sorted(code), blocks, sorted(targets), sorted(numbers), cells))
    return found


@pytest.mark.parametrize("name", ["comfyui", "nodes"])
def test_the_chinese_document_has_the_sections_commands_settings_and_nodes_of_the_english_one(
    name: str,
) -> None:
    english, chinese = DOCS[f"{name}.md"], DOCS[f"{name}.zh.md"]
    assert sections(chinese) == sections(english)
    assert f"[简体中文]({name}.zh.md)" in english.splitlines()[2]
    assert f"[English]({name}.md)" in chinese.splitlines()[2]
    readme = (ROOT / "README.md").read_text()
    assert f"(docs/{name}.md)" in readme
    assert f"(docs/{name}.zh.md)" in readme
