"""Attaches the panel to the ComfyUI that runs in this process, once, whoever asks."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from aiohttp import web

from crystools_tpu.comfyui.expected import Expecting
from crystools_tpu.comfyui.faults import say_faults_once
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS
from crystools_tpu.comfyui.prompts import follow_prompts
from crystools_tpu.comfyui.unload import free_hbm_on_unload
from crystools_tpu.comfyui.workflow_names import take_workflow_names
from crystools_tpu.data_dir import PROFILES, data_dir
from crystools_tpu.environment import PRICE, SIMULATE, price_in
from crystools_tpu.monitor import Monitor
from crystools_tpu.open_pages import announced
from crystools_tpu.server import PREFIX, mount
from crystools_tpu.watching import machine, watching

logger = logging.getLogger(__name__)

WEB_DIRECTORY: Final = str(Path(__file__).with_name("extension"))
"""ComfyUI imports every .js below it into its page: there is exactly one, which loads the rest."""

_ATTACHED_FROM: Final[web.AppKey[Path]] = web.AppKey("crystools_tpu_attached_from")


def attach(
    folder: Path, modules: Mapping[str, ModuleType] = sys.modules, environ: Mapping[str, str] = os.environ
) -> str | None:
    """Puts the panel on ComfyUI's server, follows its prompts and hooks Unload Models.

    Returns what to export as `WEB_DIRECTORY`. `folder` is the node pack's, in `custom_nodes/`. ComfyUI's own
    modules are looked up in `modules`, never imported: where there is no running ComfyUI nothing happens. A
    second folder (a clone beside what `crystools-tpu comfyui install` wrote) changes nothing and gets None,
    for the page must load us once.
    """
    prompt_server = getattr(getattr(modules.get("server"), "PromptServer", None), "instance", None)
    if prompt_server is None:
        return WEB_DIRECTORY
    first = prompt_server.app.get(_ATTACHED_FROM)
    if first is not None:
        logger.warning("crystools-tpu is here twice: remove one of %s and %s", first, folder)
        return None
    comfyui_options = getattr(modules.get("comfy.cli_args"), "args", None)
    allowed_origin = getattr(comfyui_options, "enable_cors_header", None)
    take_workflow_names(prompt_server)
    url = _page_url(comfyui_options)
    _mount_panel(prompt_server.app, modules, allowed_origin=allowed_origin, url=url, environ=environ)
    prompt_server.app[_ATTACHED_FROM] = folder
    follow_prompts(modules)
    say_faults_once(modules, NODE_CLASS_MAPPINGS)
    if (model_management := modules.get("comfy.model_management")) is not None:
        free_hbm_on_unload(model_management)
    for path in sorted(folder.parent.iterdir()):
        if path.name.lower() == "comfyui-crystools" and not path.samefile(folder):
            said = "crystools-tpu: %s is here too, and both work; remove it to have one monitor"
            logger.info(said, path.name)
    return WEB_DIRECTORY


def _page_url(comfyui_options: Any) -> str | None:
    """Where ComfyUI is about to listen; None where its options do not say."""
    listen, port = (getattr(comfyui_options, name, None) for name in ("listen", "port"))
    if not isinstance(listen, str) or not isinstance(port, int):
        return None
    secure = all(getattr(comfyui_options, name, None) for name in ("tls_keyfile", "tls_certfile"))
    host = listen.partition(",")[0].strip()
    host = "localhost" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    scheme = "https" if secure else "http"
    return f"{scheme}://{host}:{port}{PREFIX}/"


def _mount_panel(
    app: web.Application,
    modules: Mapping[str, ModuleType],
    *,
    allowed_origin: str | None,
    url: str | None,
    environ: Mapping[str, str],
) -> None:
    """ComfyUI answers under /api too. Nothing is sampled until a browser listens."""
    closing = contextlib.ExitStack()
    simulated = environ.get(SIMULATE) or None
    try:
        sources = machine(simulated, closing)
    except ValueError as error:
        logger.error("%s: %s; this machine is shown instead", SIMULATE, error)
        simulated, sources = None, machine(None, closing)
    monitor = Monitor(sources, simulated=simulated is not None)
    profiles = data_dir(environ) / PROFILES
    shown = watching(
        monitor, simulated=simulated, profiles=profiles, price_per_chip_hour=_price(environ), environ=environ
    )
    served, _ = closing.enter_context(shown)
    expecting = Expecting(modules, monitor, served.history, served.kept)
    if url is not None:
        closing.enter_context(announced(url, environ))

    async def stop(app: web.Application) -> None:
        closing.close()

    app.on_cleanup.append(stop)
    served = dataclasses.replace(served, expect=expecting)
    mount(app, (PREFIX, f"/api{PREFIX}"), served, allowed_origin=allowed_origin)


def _price(environ: Mapping[str, str]) -> float | None:
    """What the environment says, None where that is nothing or no price."""
    try:
        return price_in(environ)
    except ValueError as error:
        logger.error("%s: %s; nothing is said of costs", PRICE, error)
        return None
