"""Where compiled networks are kept, who may write there, and what a failure costs."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openmm_se3.compiled import cache, library
from openmm_se3.compiled.library import CompileError, load_library
from openmm_se3.config import ModelConfig
from openmm_se3.implementation import choose_implementation, compile_implementation
from openmm_se3.model_file import load_model

# Writes its last argument, the library, and counts its calls.
COMPILER = """#!/bin/sh
echo called >> "$(dirname "$0")/calls"
for last; do :; done
{body}
"""


@pytest.fixture
def config() -> ModelConfig:
    return load_model("water").config


@pytest.fixture
def compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Callable[[], int]]:
    """Install a compiler that runs a shell command, with an empty cache.

    Returns a function that counts its calls.
    """

    def install(body: str) -> Callable[[], int]:
        path = tmp_path / "compiler"
        path.write_text(COMPILER.format(body=body))
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        calls = tmp_path / "calls"
        return lambda: len(calls.read_text().split()) if calls.exists() else 0

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENMM_SE3_IMPLEMENTATION", "auto")
    monkeypatch.setattr(library, "_loaded", set())
    monkeypatch.setattr(library, "_failed", {})
    monkeypatch.setattr(cache, "_warned", set())
    return install


@pytest.fixture
def folder(compiler: Any) -> Path:
    """The folder of libraries, made."""
    cache.make_folder(cache.cache_folder())
    return cache.cache_folder()


def warnings_of(caplog: pytest.LogCaptureFixture, word: str) -> int:
    return sum(
        word in record.getMessage() and record.levelno == logging.WARNING
        for record in caplog.records
    )


def test_choosing_compiles_nothing(compiler: Any, config: ModelConfig) -> None:
    calls = compiler("exit 1")
    assert choose_implementation("auto", config) == "compiled"
    assert choose_implementation("torchscript", config) == "torchscript"
    assert calls() == 0
    with pytest.raises(ValueError, match="'fortran'"):
        choose_implementation("fortran", config)


def test_a_compiler_that_fails_is_tried_once(
    compiler: Any, config: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    calls = compiler("echo no headers >&2; exit 1")
    for _ in range(3):
        assert compile_implementation("auto", config, "single") == "torchscript"
    assert calls() == 1
    assert warnings_of(caplog, "no headers") == 1
    with pytest.raises(CompileError, match="no headers"):
        compile_implementation("compiled", config, "single")
    assert calls() == 1
    assert compile_implementation("auto", config, "double") == "torchscript"
    assert calls() == 2  # another library


def test_a_full_disk_costs_only_speed(
    compiler: Any,
    config: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = compiler('echo library > "$last"')

    def copyfile(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    for _ in range(2):
        assert compile_implementation("auto", config, "single") == "torchscript"
    assert calls() == 1
    assert warnings_of(caplog, "No space left") == 1
    assert not list(cache.cache_folder().glob("*.so"))


def test_without_a_home_the_cache_is_elsewhere(
    compiler: Any,
    config: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert tmp_path in cache.cache_folder().parents
    assert str(tmp_path) in str(cache.cache_problem())
    library.load_compiled_networks()
    compiler("exit 1")
    compile_implementation("auto", config, "single")
    assert warnings_of(caplog, "no home") == 1
    assert cache.cache_folder().is_dir()


def test_a_user_without_an_account_can_make_systems(
    smallest_model: Path, tmp_path: Path
) -> None:
    """As in containers that run under a number, without HOME."""
    code = (
        "import os, pwd, sys\n"
        "def nobody(number): raise KeyError(number)\n"
        "pwd.getpwuid = nobody\n"
        "from openmm_se3 import SE3Potential\n"
        "from openmm_se3.simulation import water_topology\n"
        "SE3Potential(sys.argv[1]).createSystem(water_topology(1))"
    )
    without = ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    variables = {k: v for k, v in os.environ.items() if k not in without}
    done = subprocess.run(
        [sys.executable, "-c", code, str(smallest_model)],
        env={**variables, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
@pytest.mark.parametrize("above", [False, True])
def test_a_folder_that_others_can_write_to_is_refused(
    folder: Path, config: ModelConfig, mode: int, above: bool, monkeypatch: Any
) -> None:
    assert cache.cache_problem() is None
    opened = folder.parent if above else folder
    opened.chmod(mode)
    assert f"chmod go-w {opened}" in str(cache.cache_problem())
    with pytest.raises(CompileError, match="others can write"):
        load_library(config, "single")
    assert compile_implementation("auto", config, "single") == "torchscript"
    path = folder / "openmm_se3_0.so"
    path.write_text("evil")
    cache.hash_file(path).write_text(cache.sha256(path))
    monkeypatch.setattr(library.torch.ops, "load_library", lambda _: pytest.fail("no"))
    library.load_compiled_networks()


def test_a_root_where_everybody_can_put_a_folder_is_refused(folder: Path) -> None:
    root = folder.parent.parent
    root.chmod(0o1777)  # as /tmp: others cannot rename what is ours
    assert cache.cache_problem() is None
    root.chmod(0o777)
    assert f"chmod o-w {root}" in str(cache.cache_problem())


def test_a_library_that_others_can_write_to_is_refused(folder: Path) -> None:
    path = folder / "openmm_se3_0.so"
    path.write_text("library")
    path.chmod(0o644)
    cache.require_private(path)
    path.chmod(0o666)
    with pytest.raises(CompileError, match="others can write"):
        library._load(path)


def test_a_folder_of_another_user_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(folder, 54321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(CompileError, match="belongs to user"):
        cache.require_private(folder)


def test_what_is_compiled_is_private(
    compiler: Any, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler('echo library > "$last"')
    monkeypatch.setattr(library.torch.ops, "load_library", lambda _: None)
    before = os.umask(0)
    try:
        name = load_library(config, "single")
    finally:
        os.umask(before)
    path = cache.cache_folder() / f"{name}.so"
    cache.require_private(path)
    assert cache.is_whole(path)


def test_importing_loads_nothing() -> None:
    code = (
        "import sys\n"
        "from openmm_se3.compiled import library\n"
        "library._load = lambda path: sys.exit('loaded')\n"
        "import openmm_se3.force\n"
        "assert 'openmmtorch' not in sys.modules\n"
        "openmm_se3.register_plugins()\n"
        "assert 'vesin_torch' in sys.modules"
    )
    folder = cache.cache_folder()
    kept = any(cache.hash_file(path).is_file() for path in folder.glob("*.so"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # What is there is loaded by register_plugins, and not before.
    assert done.stderr.strip() == ("loaded" if kept else "")
