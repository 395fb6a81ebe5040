"""A package that is missing, broken or of another version is named, with the reason and what helps.

Each case is real packages in a folder, imported by a Python of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIP = f"{sys.executable} -m pip install"

PROBE = """
from crystools_tpu.imports import import_failure
try:
    {statement}
except Exception as error:
    failure = import_failure(error)
    print(failure and f"{{failure.reason}}: {{failure.cure('pip install US')}}")
"""


class Site:
    """A folder of packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def module(self, name: str, code: str = "") -> Path:
        """`name` with dots; what it is in becomes a package."""
        *parents, last = name.split(".")
        folder = self.folder
        for parent in parents:
            folder /= parent
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        path = folder / f"{last}.py"
        path.write_text(code)
        return path

    def package(self, name: str, code: str = "") -> Path:
        path = self.module(f"{name}.__init__", code)
        path.write_text(code)
        return path

    def installed(self, name: str, version: str, *requires: str, package: str | None = None) -> None:
        """As pip would note it."""
        folder = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires), ""]))
        (folder / "RECORD").write_text(f"{package or name}/__init__.py,,\n")

    def says(self, statement: str) -> str:
        """What is said of this statement, after all else that it prints."""
        path = f"import sys; sys.path[:0] = {[str(self.folder), str(ROOT)]!r}\n"
        command = [sys.executable, "-c", path + PROBE.format(statement=statement)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip("\n")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_missing_package_is_named_with_what_needs_it(site: Site) -> None:
    assert site.says("import nowhere_at_all.deeper") == "nowhere_at_all is not installed: pip install US"
    site.package("reader", "import nowhere_at_all")
    said = "nowhere_at_all is not installed (reader needs it): pip install US"
    assert site.says("import reader") == said


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            "RuntimeError('operator vision::nms does not exist')",
            "RuntimeError: operator vision::nms does not",
        ),
        ("ImportError('operator vision::nms does not exist')", "ImportError: operator vision::nms does not"),
        ("AttributeError('aten has no cholesky')", "AttributeError: aten has no cholesky"),
        ("OSError('libcudart.so.12: cannot open\\nat all')", "OSError: libcudart.so.12: cannot open)"),
        ("TypeError()", "TypeError)"),
    ],
)
def test_one_that_raises_while_it_is_imported_is_named_with_the_error(
    site: Site, raised: str, said: str
) -> None:
    site.package("vision", "from vision import operators")
    site.module("vision.operators", f"raise {raised}")
    site.installed("vision", "0.20.1+cpu")
    line = site.says("import vision")
    assert line.startswith(f"vision 0.20.1+cpu is there, but cannot be imported ({said}")
    assert line.endswith(
        f"): pip install US (if that changes nothing: {PIP} --force-reinstall --no-deps vision==0.20.1)"
    )


def test_one_that_is_made_for_another_torch_is_changed_and_torch_stays(site: Site) -> None:
    site.package("torch")
    site.installed("torch", "2.9.1")
    site.package("vision", "raise RuntimeError('operator vision::nms does not exist')")
    site.installed("vision", "0.20.1", "numpy", "torch (==2.5.1)", "torch==1.0; extra == 'old'")
    assert site.says("import vision") == (
        "vision 0.20.1 is there, but cannot be imported (RuntimeError: operator vision::nms does not exist): "
        f"it wants torch==2.5.1, and torch is 2.9.1: {PIP} --upgrade vision torch==2.9.1"
    )


def test_one_that_lacks_a_name_is_named_and_so_is_who_wants_another_version_of_it(site: Site) -> None:
    path = site.package("hub")
    site.installed("hub", "0.3")
    line = site.says("from hub import Newer")
    assert line.startswith(
        "hub 0.3 is there, but cannot be imported (ImportError: cannot import name 'Newer'"
    )
    assert f"({path})): pip install US (if that changes nothing: " in line
    site.package("reader", "from hub import Newer")
    site.installed("reader", "5.0", "hub>=1.0")
    line = site.says("import reader")
    assert line.startswith(
        "hub 0.3 is there, but cannot be imported (ImportError: cannot import name 'Newer'"
    )
    assert line.endswith(f": reader 5.0 wants hub>=1.0, and hub is 0.3: {PIP} --upgrade reader")


def test_one_that_lacks_a_module_is_not_called_missing(site: Site) -> None:
    site.package("models")
    site.installed("models", "0.30.0")
    assert site.says("import models.newest.parts").startswith(
        "models 0.30.0 is there, but cannot be imported "
        "(ModuleNotFoundError: No module named 'models.newest'): pip install US (if that changes nothing: "
    )


LAZY = """
import importlib
def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return importlib.import_module("lazy." + name)
    except Exception as e:
        raise {wrapped} from e
"""


@pytest.mark.parametrize(
    "wrapped",
    [
        'RuntimeError(f"Failed to import lazy.{name} because of the following error:\\n{e}")',
        'ModuleNotFoundError(f"Could not import module {name!r}. Are its requirements defined correctly?")',
    ],
)
def test_a_package_that_imports_lazily_is_not_taken_for_the_broken_one(site: Site, wrapped: str) -> None:
    site.package("lazy", LAZY.format(wrapped=wrapped))
    site.module("lazy.outer", "from lazy import inner")
    site.module("lazy.inner", "import vision")
    site.package("vision", "raise RuntimeError('operator vision::nms does not exist')")
    site.installed("vision", "0.20.1")
    assert site.says("from lazy import outer").startswith(
        "vision 0.20.1 is there, but cannot be imported (RuntimeError: operator vision::nms does not exist): "
    )
    site.module("lazy.inner", "import nowhere_at_all")
    assert site.says("from lazy import outer") == (
        "nowhere_at_all is not installed (lazy needs it): pip install US"
    )


def test_what_pip_calls_otherwise_has_pips_name_and_what_nobody_installed_its_place(site: Site) -> None:
    site.package("imaging", "raise ValueError('broken')")
    site.installed("pillow-like", "11.0", package="imaging")
    line = site.says("import imaging")
    assert line.startswith("pillow-like 11.0 is there, but cannot be imported (ValueError: broken): ")
    assert line.endswith("--no-deps pillow-like==11.0)")
    path = site.module("stray", "raise ValueError('broken')")
    assert site.says("import stray") == (
        f"stray ({path}) is there, but cannot be imported (ValueError: broken): pip install US"
    )


def test_an_import_that_a_library_refuses_by_itself_is_told_in_its_words(site: Site) -> None:
    refusal = "import json; raise ImportError('\\nThe tokenizer requires SentencePiece')"
    assert site.says(refusal) == (
        "an import failed (ImportError: The tokenizer requires SentencePiece): pip install US"
    )


def test_what_is_of_no_import_is_left_as_it_is(site: Site) -> None:
    site.module("working", "def work(): raise RuntimeError('of its own')")
    assert site.says("import working; working.work()") == "None"
    assert site.says("raise ValueError('of ours')") == "None"


def test_the_real_libraries_are_seen_through_to_a_torchvision_of_another_torch(site: Site) -> None:
    """transformers and diffusers import lazily, and name neither it nor its error."""
    site.package("torchvision", "from torchvision import _meta_registrations")
    site.module("torchvision._meta_registrations", "raise RuntimeError('no operator torchvision::nms')")
    site.installed("torchvision", "0.1.0", "torch==1.0.0")
    line = site.says("from diffusers import AutoencoderKLWan")
    assert line.startswith(
        "torchvision 0.1.0 is there, but cannot be imported (RuntimeError: no operator torchvision::nms): "
        "it wants torch==1.0.0, and torch is "
    )
    assert f": {PIP} --upgrade torchvision torch==" in line


def test_a_command_says_it_in_one_line(site: Site) -> None:
    site.package("jax", "raise AttributeError('it is broken')")
    site.installed("jax", "0.11.0")
    path = [str(site.folder), *(str(ROOT / part) for part in (".", "pipelines", "exporters"))]
    out = site.folder / "out.npy"
    command = ["generate", "flux.2", "--checkpoint", ".", "--prompt", "a boat", "--out", str(out)]
    code = (
        f"import sys; sys.path[:0] = {path!r}; from crystools_tpu.cli import main; sys.exit(main({command}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stderr == (
        "crystools-tpu: jax 0.11.0 is there, but cannot be imported (AttributeError: it is broken): "
        "pip install 'crystools-tpu[pipelines]' (if that changes nothing: "
        f"{PIP} --force-reinstall --no-deps jax==0.11.0)\n"
    )
