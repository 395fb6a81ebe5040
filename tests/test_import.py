"""What `import crystools_tpu` costs: nothing heavy, no thread, next to no time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

PROBE = """
import json, sys, threading
{imports}
print(json.dumps({{"modules": sorted(sys.modules), "threads": threading.active_count()}}))
"""


def probe(imports: str) -> tuple[set[str], int]:
    path = [str(ROOT), str(ROOT / "pipelines"), str(ROOT / "exporters")]
    code = f"import sys; sys.path[:0] = {path!r}\n" + PROBE.format(imports=imports)
    answer = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    return set(answer["modules"]), answer["threads"]


def test_importing_the_package_loads_nothing_heavy_and_starts_no_thread() -> None:
    modules, threads = probe("import crystools_tpu, crystools_tpu.telemetry")
    assert not modules & {"jax", "jaxlib", "torch", "grpc", "diffusers", "numpy", "aiohttp", "asyncio"}
    assert threads == 1


def test_the_first_run_loads_what_writes_the_history_and_nothing_heavier() -> None:
    modules, threads = probe("from crystools_tpu import telemetry\nwith telemetry.run('first'): pass")
    assert "crystools_exporters.run_log_writer" in modules
    heavy = {"jax", "torch", "grpc", "numpy", "aiohttp", "asyncio", "opentelemetry", "urllib.request"}
    assert not modules & {*heavy, "crystools_exporters.otlp"}
    assert threads == 2


def test_importing_every_layer_of_the_monitor_leaves_jax_torch_and_grpc_alone() -> None:
    modules, threads = probe(
        "import crystools_tpu.sources, crystools_tpu.monitor, crystools_tpu.server, crystools_tpu.cli, "
        "crystools_tpu.comfyui, crystools_exporters, crystools_pipelines"
    )
    assert not modules & {
        "jax",
        "jaxlib",
        "torch",
        "torchax",
        "grpc",
        "diffusers",
        "transformers",
        "matplotlib",
    }
    assert threads == 1


def test_importing_every_models_request_loads_neither_numpy_nor_anything_heavier() -> None:
    modules, _ = probe(
        "from crystools_pipelines.models import MODELS; [each.request_class() for each in MODELS.values()]"
    )
    assert "crystools_pipelines.wan.wan22_i2v.request" in modules
    assert not modules & {"jax", "torch", "diffusers", "transformers", "numpy"}


def test_telemetry_imports_the_standard_library_only() -> None:
    modules, _ = probe("before = set(sys.modules); import crystools_tpu.telemetry")
    bare, _ = probe("pass")
    outside = {name.partition(".")[0] for name in modules - bare} - set(sys.stdlib_module_names)
    assert outside == {"crystools_tpu"}


ALONE = """
import sys
for name in {absent!r}:
    sys.modules[name] = None
import importlib.util, urllib.request
from crystools_tpu.cli import main
from crystools_tpu.cli.serve import panel

assert main(["runs", "list"]) == 0
assert main(["generate", "wan2.1-t2v", "--checkpoint", ".", "--prompt", "a", "--out", "a.mp4"]) == 2
with panel(simulate="v5e-4") as shown:
    for path in ("", "api/devices", "api/runs", "api/health"):
        assert urllib.request.urlopen(shown.url + path).status == 200
spec = importlib.util.spec_from_file_location("a_pack", {door!r})
pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
assert len(pack.NODE_CLASS_MAPPINGS) > 10
"""


def test_the_monitor_alone_needs_nothing_of_what_the_pipelines_need(tmp_path: Path) -> None:
    """Served, read and put into ComfyUI where only what `pip install crystools-tpu` brings is installed."""
    absent = [
        *("diffusers", "ftfy", "huggingface_hub", "imageio", "imageio_ffmpeg", "jax", "jaxlib", "libtpu"),
        *("matplotlib", "numpy", "PIL", "safetensors", "scipy", "sentencepiece", "tokamax", "tokenizers"),
        *("torch", "torchax", "transformers"),
    ]
    path = os.pathsep.join(str(ROOT / part) for part in (".", "pipelines", "exporters"))
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(absent=absent, door=str(ROOT / "__init__.py"))],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("crystools-tpu:")]
    assert len(said) == 1, done.stderr
    assert said[0].endswith("is not installed: pip install 'crystools-tpu[pipelines]'")
