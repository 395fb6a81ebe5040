"""ComfyUI's Unload Models frees our HBM too.

`POST /free`, the Manager's button and ComfyUI's own out-of-memory handler all end in
`comfy.model_management.unload_all_models`, which is looked up by name each time.
"""

from __future__ import annotations

import functools
import logging
import sys
from types import ModuleType
from typing import Any
from weakref import WeakSet

logger = logging.getLogger(__name__)

_hooked: WeakSet[ModuleType] = WeakSet()


def free_hbm_on_unload(model_management: ModuleType) -> None:
    """Wraps `unload_all_models`, once however often it is called: first ComfyUI's own, then ours."""
    if model_management in _hooked:
        return
    _hooked.add(model_management)
    unload_all_models = model_management.unload_all_models

    @functools.wraps(unload_all_models)
    def unload_everything(*args: Any, **kwargs: Any) -> Any:
        try:
            return unload_all_models(*args, **kwargs)
        finally:
            _free_hbm()

    model_management.unload_all_models = unload_everything  # type: ignore[attr-defined]


def _free_hbm() -> None:
    """Where no pipeline was imported there is nothing to free. The residency logs each component."""
    residency = sys.modules.get("crystools_pipelines.runtime.residency")
    if residency is None:
        return
    try:
        residency.free_all()
    except Exception:
        logger.exception("the pipelines' HBM could not be freed")
