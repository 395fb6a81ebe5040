"""One module out of many, made when it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from crystools_tpu.server.bundle import BundleError, bundle
from crystools_tpu.server.static import WEB_ROOT

from .conftest import Serve

MODULES = {
    "comfyui/extension.js": """\
import { double as twice } from "../parts/double.js";
import "../parts/count.js";
const name = "entry";
export const six = twice(3);
export async function ten() {
  return twice(5);
}
export class Named {
  name = name;
}
""",
    "parts/double.js": """\
import {
  ONE,
} from "./one.js";
const name = "a name that others have too";
export function double(x) {
  return (ONE + ONE) * x;
}
""",
    "parts/count.js": """\
import { ONE } from "./one.js";
globalThis.counted = (globalThis.counted ?? 0) + ONE;
""",
    "parts/one.js": "export const ONE = 1;\n",
}


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    for name, text in MODULES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path / "comfyui" / "extension.js"


def test_the_bundle_does_what_the_modules_do_and_each_runs_once(entry: Path, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("SKIPPED: node is missing; the bundle is not run")
    text, files = bundle(entry)
    assert {path.name for path in files} == {"extension.js", "double.js", "count.js", "one.js"}
    (tmp_path / "bundle.mjs").write_text(text)
    (tmp_path / "main.mjs").write_text(
        'import { six, ten, Named } from "./bundle.mjs";\n'
        "console.log(six, await ten(), new Named().name, globalThis.counted);\n"
    )
    ran = subprocess.run(
        [node, tmp_path / "main.mjs"], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "6 10 entry 1\n"


def test_a_stylesheet_becomes_a_sheet_with_its_text_as_it_is(entry: Path) -> None:
    (entry.parent / "a.css").write_text('b { content: "`${c}\\\\"; }\n')
    entry.write_text('import sheet from "./a.css" with { type: "css" };\nexport const a = sheet;\n')
    text, _ = bundle(entry)
    assert r'.replaceSync("b { content: \"`${c}\\\\\"; }\n");' in text


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('import * as all from "./one.js";', "extension.js: cannot bundle the line: import * as all"),
        ("export default 1;", "extension.js: cannot bundle the line: export default 1;"),
        ('export { ONE } from "./one.js";', "extension.js: cannot bundle the line: export { ONE }"),
        ('import "./extension.js";', "extension.js imports itself through extension.js"),
    ],
)
def test_what_it_cannot_bundle_is_named(entry: Path, line: str, complaint: str) -> None:
    entry.write_text(f"{line}\n")
    with pytest.raises(BundleError) as raised:
        bundle(entry)
    assert str(raised.value).startswith(complaint)


def test_the_extensions_own_modules_can_be_bundled() -> None:
    text, _ = bundle(WEB_ROOT / "comfyui" / "extension.js")
    assert text.endswith("export const { start } = $module" + text.rsplit("$module", 1)[1])


async def test_the_server_sends_it_again_only_when_a_module_has_changed(serve: Serve, entry: Path) -> None:
    client = await serve(web_root=entry.parents[1])
    answer = await client.get("/crystools-tpu/comfyui.js")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    known = {"If-None-Match": answer.headers["ETag"]}
    assert (await client.get("/crystools-tpu/comfyui.js", headers=known)).status == 304

    one = entry.parents[1] / "parts" / "one.js"
    one.write_text("export const ONE = 2;\n")
    os.utime(one, ns=(0, 1))
    again = await client.get("/crystools-tpu/comfyui.js", headers=known)
    assert (again.status, "const ONE = 2;" in await again.text()) == (200, True)


async def test_without_the_extension_there_is_no_bundle(serve: Serve, tmp_path: Path) -> None:
    client = await serve(web_root=tmp_path)
    assert (await client.get("/crystools-tpu/comfyui.js")).status == 404
