"""What `import crystools_tpu` costs: nothing heavy, no thread, next to no time."""

from __future__ import annotations

import json
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


def test_telemetry_imports_the_standard_library_only() -> None:
    modules, _ = probe("before = set(sys.modules); import crystools_tpu.telemetry")
    bare, _ = probe("pass")
    outside = {name.partition(".")[0] for name in modules - bare} - set(sys.stdlib_module_names)
    assert outside == {"crystools_tpu"}
