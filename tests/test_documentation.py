"""Every command, setting, node and stage is documented, and nothing that is not there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from crystools_pipelines.planning.topologies import TOPOLOGIES
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS
from crystools_tpu.environment import VARIABLES
from crystools_tpu.telemetry import StageName
from docs import make_reference
from docs.make_reference import commands

ROOT = Path(__file__).parent.parent
DOCS = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}


def test_every_command_is_documented_and_no_other() -> None:
    documented = re.findall(r"^## `crystools-tpu ([\w-]+)", DOCS["commands.md"], re.MULTILINE)
    assert set(documented) == set(commands())


def test_every_option_action_preset_setting_variable_and_metric_is_in_a_table_that_is_generated() -> None:
    wanted = {f"options {name}" for name in commands()} - {"options comfyui", "options tiny-checkpoint"}
    wanted |= {"actions runs", "settings", "page-settings", "metrics", "variables", "presets"}
    assert wanted <= {block for text in DOCS.values() for block in make_reference.blocks(text)}


@pytest.mark.parametrize("name", ["comfyui", "tiny-checkpoint"])
def test_a_command_without_options_needs_no_table(name: str) -> None:
    assert make_reference.options(name).count("\n") == 2


@pytest.mark.parametrize("name", DOCS)
def test_what_is_generated_is_as_the_code_has_it(name: str) -> None:
    assert DOCS[name] == make_reference.written(DOCS[name]), "run `make schemas`"


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


def test_no_document_names_an_environment_variable_of_ours_that_there_is_not() -> None:
    named = {name for text in DOCS.values() for name in re.findall(r"\bCRYSTOOLS_TPU_[A-Z_]+", text)}
    assert named == set(VARIABLES)


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
