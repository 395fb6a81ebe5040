"""Eight virtual CPU devices for every test that uses jax, tiny checkpoints; no skipped test is overlooked."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from crystools_tpu.telemetry.keeping import keeper

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads spin, and the workers share the cores
# XLA's newer emitters take most of the time of a compile. Later versions of jaxlib have no others.
if version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
# jax allocates so much that looking for cycles, in a million objects each time, took half of the tests' time.
gc.set_threshold(100_000)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """On CI every program that a test needs is there: a skip is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI"):
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped:
        reporter.write_line(f"\n{len(skipped)} tests were skipped, which CI does not allow", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def _no_history_in_the_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For the commands that the tests start, too. This process keeps no run of which no test says so."""
    with pytest.MonkeyPatch.context() as patch, keeper.replaced(in_progress=tuple):
        patch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C comes, also in the children: a shell ignores it in what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiles are quick, kept for the session, and not in the home."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("jax-cache")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: https is NOT tested")
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test"
    )
    options = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    return certificate, key


def tiny(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from crystools_pipelines.tiny import write_tiny_checkpoint

    return write_tiny_checkpoint(model, tmp_path_factory.mktemp("checkpoints") / model)


@pytest.fixture(scope="session")
def tiny_wan21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny Wan2.1 checkpoint."""
    return tiny("wan2.1-t2v", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_wan22_t2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny Wan2.2 text-to-video checkpoint."""
    return tiny("wan2.2-t2v", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_wan22_i2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny Wan2.2 image-to-video checkpoint."""
    return tiny("wan2.2-i2v", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_cogvideox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny CogVideoX checkpoint."""
    return tiny("cogvideox-t2v", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_flux2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny FLUX.2 checkpoint."""
    return tiny("flux.2", tmp_path_factory)
