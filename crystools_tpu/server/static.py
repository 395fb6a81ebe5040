"""The page's files. The folder is walked once, at start: what is not on that list does not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from crystools_tpu.server.bundle import bundle_handler

WEB_ROOT: Final = Path(__file__).parents[1] / "web"

_CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


def allowed_files(root: Path) -> dict[str, Path]:
    """The files under `root` that a browser has a use for, by their path relative to it. No links."""
    return {
        path.relative_to(root).as_posix(): path
        for path in sorted(root.rglob("*"))
        if path.suffix in _CONTENT_TYPES and path.is_file() and not path.is_symlink()
    }


def file_handler(root: Path) -> Handler:
    """Answers the route's `name` (default `index.html`) from the list, else 404.

    `comfyui.js` is the extension for ComfyUI with all its modules in one.
    """
    files = allowed_files(root)
    serve_extension = bundle_handler(root / "comfyui" / "extension.js")

    async def serve_file(request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("name", "index.html")
        if name == "comfyui.js":
            return await serve_extension(request)
        path = files.get(name)
        if path is None:
            raise web.HTTPNotFound
        headers = {hdrs.CONTENT_TYPE: _CONTENT_TYPES[path.suffix], hdrs.CACHE_CONTROL: "no-cache"}
        return web.FileResponse(path, headers=headers)

    return serve_file
