"""One ES module out of many: a host that counts its requests loads the whole graph with one.

Nothing is built or stored: the modules are read when the bundle is asked for and one of them has changed.
They may use what this project's style allows: named imports and stylesheets at the top, `export` before a
declaration, no cycles, no binding that changes after its module ran.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

_IMPORT: Final = re.compile(
    r'^import (?:(?P<names>\{[^}]*\}|\w+) from )?"(?P<path>\.[^"]+)"(?: with \{ type: "css" \})?;\n',
    re.MULTILINE,
)
_EXPORT: Final = re.compile(r"^export (?=(?:async )?(?:class|const|function) (\w+))", re.MULTILINE)
_LEFT_OVER: Final = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)
_STYLESHEET: Final = """\
const {name} = new CSSStyleSheet();
{name}.replaceSync({text});
"""


class BundleError(ValueError):
    """The modules cannot be made into one. The message names the module and the line."""


def bundle(entry: Path) -> tuple[str, list[Path]]:
    """The module `entry` with all that it imports, as one module with its exports; and the files read.

    Raises `BundleError` for a cycle and for an import or export in another form.
    """
    bundler = _Bundler(entry.parent)
    bundler.add(entry, ())
    exported = ", ".join(bundler.exports[entry])
    text = "".join(bundler.parts) + f"export const {{ {exported} }} = {bundler.names[entry]};\n"
    return text, list(bundler.names)


class _Bundler:
    def __init__(self, root: Path) -> None:
        self.parts: list[str] = []
        self.names: dict[Path, str] = {}
        self.exports: dict[Path, list[str]] = {}
        self._root = root

    def add(self, path: Path, importers: tuple[Path, ...]) -> str:
        """Appends the module, after those that it imports; the name that it has in the bundle."""
        if path in importers:
            raise BundleError(f"{path.name} imports itself through {importers[-1].name}")
        if path in self.names:
            return self.names[path]
        text = path.read_text()
        if path.suffix != ".css":
            text = _IMPORT.sub(lambda found: self._binding(found, path, importers), text)
        name = self.names[path] = f"$module{len(self.names)}"
        self.parts.append(f"// {path.name}\n{self._wrap(name, path, text)}\n")
        return name

    def _binding(self, found: re.Match[str], path: Path, importers: tuple[Path, ...]) -> str:
        module = self.add((path.parent / found["path"]).resolve(), (*importers, path))
        names = (found["names"] or "").replace(" as ", ": ")
        return f"const {names} = {module};\n" if names else ""

    def _wrap(self, name: str, path: Path, text: str) -> str:
        if path.suffix == ".css":
            return _STYLESHEET.format(name=name, text=json.dumps(text))
        self.exports[path] = _EXPORT.findall(text)
        text = _EXPORT.sub("", text)
        if left := _LEFT_OVER.search(text):
            raise BundleError(f"{path.name}: cannot bundle the line: {left[0]}")
        return f"const {name} = (() => {{\n{text}return {{ {', '.join(self.exports[path])} }};\n}})();"


def bundle_handler(entry: Path) -> Handler:
    """Answers with the bundle of `entry`: 304 where the browser has it, 404 where there is no such file."""
    cached: dict[str, int] = {}
    text = etag = ""

    def changed() -> bool:
        return not cached or any(Path(path).stat().st_mtime_ns != time for path, time in cached.items())

    async def serve_bundle(request: web.Request) -> web.StreamResponse:
        nonlocal text, etag
        if not entry.is_file():
            raise web.HTTPNotFound
        if changed():
            text, files = bundle(entry)
            etag = hashlib.sha256(text.encode()).hexdigest()[:32]
            cached.clear()
            cached.update({str(path): path.stat().st_mtime_ns for path in files})
        response = web.Response(text=text, content_type="text/javascript", charset="utf-8")
        if any(known.value == etag for known in request.if_none_match or ()):
            response = web.Response(status=304)
        response.etag = etag
        response.headers[hdrs.CACHE_CONTROL] = "no-cache"
        return response

    return serve_bundle
