"""ComfyUI's door: this repository, cloned into `custom_nodes/` under any name, is a node pack.

The three packages are registered under their own names where they are not installed. Nothing is put on
`sys.path`: ComfyUI loads other packs into the same process, and they would find our folders there. Where the
package is installed too, it is the one that is used, so that everybody shares one telemetry registry.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent
_PACKAGES = {
    "crystools_tpu": _ROOT / "crystools_tpu",
    "crystools_pipelines": _ROOT / "pipelines" / "crystools_pipelines",
    "crystools_exporters": _ROOT / "exporters" / "crystools_exporters",
}


def _make_importable(name: str, folder: Path) -> None:
    installed = importlib.util.find_spec(name)
    if installed is not None and installed.origin is not None:  # a folder without code has no origin
        return
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _warn_of_another_version() -> None:
    import crystools_tpu

    source = (_PACKAGES["crystools_tpu"] / "__init__.py").read_text()
    here = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if here != [crystools_tpu.__version__]:
        logging.getLogger(__name__).warning(
            "crystools-tpu %s is installed and is used instead of the %s in %s: upgrade the one "
            "(%s -m pip install --upgrade crystools-tpu) or remove the other",
            crystools_tpu.__version__,
            *here,
            _ROOT,
            sys.executable,
        )


for _name, _folder in _PACKAGES.items():
    _make_importable(_name, _folder)
_warn_of_another_version()

try:
    from crystools_tpu import comfyui
except Exception as _error:
    from crystools_tpu.imports import import_failure

    if (_failure := import_failure(_error)) is None:
        raise
    _cure = _failure.cure(f"{sys.executable} -m pip install -r {_ROOT / 'requirements.txt'}")
    raise ImportError(f"crystools-tpu cannot be loaded: {_failure.reason}: {_cure}") from _error

NODE_CLASS_MAPPINGS = comfyui.NODE_CLASS_MAPPINGS
NODE_DISPLAY_NAME_MAPPINGS = comfyui.NODE_DISPLAY_NAME_MAPPINGS
WEB_DIRECTORY = comfyui.attach(Path(__file__).parent)

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
