from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openmm
import pytest
import torch
from rich.console import Console

from openmm_se3 import shipped
from openmm_se3.doctor import collect as evidence
from openmm_se3.doctor import diagnosis, report
from openmm_se3.doctor.collect import BackendResult, Evidence, ProbeOutcome
from openmm_se3.files import sha256
from openmm_se3.force import plugin

ROOT = Path(plugin.__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh_answer() -> Iterator[None]:
    plugin.torchforce_problem.cache_clear()
    yield
    plugin.torchforce_problem.cache_clear()


# The plugin: each fault gives its cause and its fix in one line.


def test_fit_environment_has_no_problem() -> None:
    assert plugin.torchforce_problem() is None
    assert plugin.pythonforce_problem() is None
    assert plugin.load_openmmtorch().TorchForce is not None


def test_missing_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "installed_version", lambda name: None)
    assert plugin.torchforce_problem() == (
        'the plugin openmmtorch is not installed; fix: pip install "openmmtorch==1.5"'
    )
    with pytest.raises(plugin.PluginError, match="TorchForce cannot be used: the plug"):
        plugin.load_openmmtorch()


@pytest.mark.parametrize("version", ["2.10.0+cu128", "2.8.0", "3.0"])
def test_wrong_torch(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    problem = plugin.torchforce_problem()
    assert problem is not None
    assert f"torch {version}" in problem
    assert problem.endswith('fix: pip install "torch>=2.9,<2.10"')


@pytest.mark.parametrize(
    ("version", "word"), [("8.6.1", "new"), ("9.0", "new"), ("8.3.1", "old")]
)
def test_wrong_openmm(monkeypatch: pytest.MonkeyPatch, version: str, word: str) -> None:
    monkeypatch.setattr(openmm.Platform, "getOpenMMVersion", lambda: version)
    problem = plugin.torchforce_problem()
    assert problem is not None
    assert f"openmm {version} is too {word} for openmmtorch" in problem
    assert problem.endswith('fix: pip install "openmm>=8.4,<8.6"')


def test_torch_without_cuda_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    problem = plugin.torchforce_problem()
    assert problem is not None
    assert "built without CUDA" in problem
    assert problem.endswith(f"fix: {plugin.FIX_CUDA_LIBRARIES}")


def test_linker_error_becomes_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libtorch_cuda.so: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    problem = plugin.torchforce_problem()
    assert problem is not None
    assert "libtorch_cuda.so" in problem
    assert problem.endswith(f"fix: {plugin.FIX_CUDA_LIBRARIES}")


def test_a_plugin_without_its_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.setattr(plugin, "_import_openmmtorch", missing)
    problem = plugin.load_problem()
    assert problem is not None
    assert problem.endswith(f"fix: {plugin.FIX_NVRTC}")


def test_the_compiler_of_the_plugin_is_loaded_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = tmp_path / plugin.NVRTC
    loaded: list[str] = []
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(plugin.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(plugin.ctypes, "CDLL", lambda path, mode: loaded.append(path))
    plugin._load_nvrtc()
    assert loaded == []
    library.parent.mkdir(parents=True)
    library.touch()
    plugin._load_nvrtc()
    assert loaded == [str(library)]


def test_old_openmm_has_no_python_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(openmm, "PythonForce")
    problem = plugin.pythonforce_problem()
    assert problem is not None
    assert problem.endswith('fix: pip install "openmm>=8.5,<8.6"')


def test_plugin_is_silent_about_the_old_name(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.getLogger()
    before = list(record.filters)
    plugin.load_openmmtorch()
    assert record.filters == before
    assert "simtk" not in caplog.text


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_plugin_loads_when_openmm_was_imported_first() -> None:
    # Its libraries link torch's, so OpenMM alone cannot load them.
    done = run(
        "import openmm\n"
        "reference = openmm.Platform.getPlatformByName('Reference')\n"
        "assert not reference.supportsKernels(['CalcTorchForce'])\n"
        "from openmm_se3.force.plugin import load_openmmtorch\n"
        "load_openmmtorch()\n"
        "assert reference.supportsKernels(['CalcTorchForce'])\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_plugin_directory_elsewhere(tmp_path: Path) -> None:
    done = run(
        "from openmm_se3.force.plugin import torchforce_problem\n"
        "print(torchforce_problem())\n",
        OPENMM_PLUGIN_DIR=str(tmp_path),
    )
    assert "its libraries were not found" in done.stdout
    assert "fix: unset OPENMM_PLUGIN_DIR" in done.stdout


# Evidence: a probe that ends badly is survived and reported.


def fake_package(folder: Path, name: str, code: str) -> dict[str, str]:
    (folder / f"{name}.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


def test_crash_of_torch_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in fake_package(tmp_path, "torch", "import os; os.abort()").items():
        monkeypatch.setenv(name, value)
    outcome = evidence.run_probe("environment")
    assert outcome == ProbeOutcome([], "the process was ended by SIGABRT")
    results = evidence.try_backend("pythonforce", ["Reference", "CPU"])
    assert [result.target for result in results] == ["Reference", "CPU"]
    assert {result.fault for result in results} == {outcome.fault}


def test_import_error_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "raise ImportError('no libcudart')"
    for name, value in fake_package(tmp_path, "torch", code).items():
        monkeypatch.setenv(name, value)
    assert evidence.run_probe("environment").fault == "ImportError: no libcudart"


def test_probe_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "PROBE_SECONDS", 1.0)
    code = "import time; time.sleep(60)"
    for name, value in fake_package(tmp_path, "torch", code).items():
        monkeypatch.setenv(name, value)
    assert evidence.run_probe("environment").fault == (
        "the process did not end within 1 s"
    )


def test_crash_on_one_platform_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = {"energy": 14.0, "force": [-20.0, -40.0, 60.0]}
    calls: list[tuple[str, ...]] = []

    def probe(*arguments: str) -> ProbeOutcome:
        calls.append(arguments)
        if len(calls) == 1:
            return ProbeOutcome([{"target": "Reference", **right}], "SIGSEGV")
        return ProbeOutcome([{"target": "XML", **right}], None)

    monkeypatch.setattr(evidence, "run_probe", probe)
    assert evidence.try_backend("torchforce", ["Reference", "CPU", "XML"]) == [
        BackendResult("torchforce", "Reference", None),
        BackendResult("torchforce", "CPU", "SIGSEGV"),
        BackendResult("torchforce", "XML", None),
    ]


@pytest.mark.parametrize(
    "change", [{"energy": 14.01}, {"force": [-20.0, -40.0, -60.0]}]
)
def test_wrong_numbers_are_a_fault(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    line = {"target": "CPU", "energy": 14.0, "force": [-20.0, -40.0, 60.0], **change}
    monkeypatch.setattr(evidence, "run_probe", lambda *_: ProbeOutcome([line], None))
    (result,) = evidence.try_backend("torchforce", ["CPU"])
    assert result.fault is not None
    assert result.fault.startswith("wrong energy or force")


# Diagnosis: what is wrong, and what mends it.

HEALTHY = Evidence(
    versions={"openmm": "8.5.2"},
    gpus=[],
    environment={
        "torch": "2.9.1+cu128",
        "torch_cuda": "12.8",
        "torch_sees_gpu": False,
        "openmm": "8.5.2",
        "platforms": ["Reference", "CPU"],
        "load_failures": [
            "Error loading library /p/libOpenMMOpenCL.so: libOpenCL.so.1: cannot open "
            "shared object file: No such file or directory"
        ],
        "pythonforce_problem": None,
        "version_problem": None,
        "torchforce_problem": None,
    },
    environment_fault=None,
    results=[
        BackendResult(backend, platform, None)
        for backend in ("torchforce", "pythonforce")
        for platform in ("Reference", "CPU", "XML")
    ],
    models={"water": []},
    compiler="g++",
)


def with_environment(found: Evidence, **changes: Any) -> Evidence:
    return dataclasses.replace(found, environment={**found.environment, **changes})


def with_result(backend: str, target: str, fault: str) -> Evidence:
    return dataclasses.replace(HEALTHY, results=[BackendResult(backend, target, fault)])


def test_healthy_machine_has_no_problems() -> None:
    assert diagnosis.problems(HEALTHY) == []


CRASH = "the process was ended by SIGABRT"
NO_KERNELS = "Specified a Platform for a Context which does not support all required"
FAULTS = {
    "torch does not load": (
        dataclasses.replace(HEALTHY, environment={}, environment_fault=CRASH),
        "loading torch failed: the process was ended by SIGABRT",
        diagnosis.FIX_TORCH_AND_OPENMM,
    ),
    "openmm does not load": (
        dataclasses.replace(
            HEALTHY, environment={"torch": "2.9.1"}, environment_fault=CRASH
        ),
        "loading OpenMM failed: the process was ended by SIGABRT",
        diagnosis.FIX_TORCH_AND_OPENMM,
    ),
    "plugin ends the process": (
        dataclasses.replace(HEALTHY, environment_fault=CRASH),
        "loading the plugin openmmtorch failed: the process was ended by SIGABRT",
        diagnosis.FIX_PLUGIN,
    ),
    "plugin unfit": (
        with_environment(HEALTHY, torchforce_problem="torch 2.10; fix: pip this"),
        "torch 2.10",
        "pip this",
    ),
    "GPU without driver": (
        dataclasses.replace(HEALTHY, gpus=["Tesla"]),
        "torch cannot use the GPU (Tesla)",
        diagnosis.FIX_DRIVER,
    ),
    "plugin of OpenMM broken": (
        with_environment(HEALTHY, load_failures=["Error loading library A.so: x"]),
        "Error loading library A.so: x",
        diagnosis.FIX_OPENMM,
    ),
    "wrong force": (
        with_result("pythonforce", "CPU", "wrong energy or force: 1"),
        "pythonforce on CPU: wrong energy or force: 1",
        diagnosis.FIX_OPENMM,
    ),
    "plugin crashes": (
        with_result("torchforce", "Reference", CRASH),
        f"torchforce on Reference: {CRASH}",
        diagnosis.FIX_PLUGIN,
    ),
    "crash in the XML form": (
        with_result("torchforce", "XML", CRASH),
        f"torchforce after an XML round trip of the System: {CRASH}",
        diagnosis.FIX_TORCH_AND_OPENMM,
    ),
    "no plugin for CUDA": (
        with_result("torchforce", "CUDA", f"{NO_KERNELS} kernels"),
        f"torchforce on CUDA: {NO_KERNELS} kernels",
        diagnosis.FIX_GPU_PLATFORM,
    ),
    "driver too old": (
        with_result("pythonforce", "CUDA", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222)"),
        "pythonforce on CUDA: CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222)",
        f"{diagnosis.FIX_DRIVER}, or choose --platform CPU",
    ),
    "damaged model": (
        dataclasses.replace(HEALTHY, models={"water": ["model.pt is missing"]}),
        "model water: model.pt is missing",
        diagnosis.FIX_MODEL,
    ),
    "no model": (
        dataclasses.replace(HEALTHY, models={}),
        "no shipped model was found",
        diagnosis.FIX_MODEL,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_fix(name: str) -> None:
    found, cause, fix = FAULTS[name]
    assert diagnosis.problems(found) == [diagnosis.Finding(cause, fix)]


def test_failures_of_an_unfit_plugin_are_not_repeated() -> None:
    found = with_environment(
        with_result("torchforce", "CPU", CRASH), torchforce_problem="a; fix: b"
    )
    assert diagnosis.problems(found) == [diagnosis.Finding("a", "b")]


def test_without_any_backend_both_fixes_are_named() -> None:
    found = with_environment(
        HEALTHY, torchforce_problem="a; fix: b", pythonforce_problem="c; fix: d"
    )
    assert diagnosis.problems(found) == [("a", "b"), ("c", "d")]


def test_unused_gpu_is_a_hint() -> None:
    found = with_environment(
        dataclasses.replace(HEALTHY, gpus=["Tesla"]), torch_sees_gpu=True
    )
    assert diagnosis.problems(found) == []
    assert diagnosis.hints(found)[0].fix == diagnosis.FIX_GPU_PLATFORM


def test_openmm_without_python_force_is_a_hint_beside_the_plugin() -> None:
    found = with_environment(HEALTHY, pythonforce_problem="c; fix: d")
    assert diagnosis.problems(found) == []
    assert diagnosis.Finding("c", "d") in diagnosis.hints(found)


def test_a_cache_that_cannot_be_used_is_a_hint(tmp_path: Path) -> None:
    folder = tmp_path / "openmm-se3"
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)
    code = "from openmm_se3.doctor import probe; probe.main(['environment'])"
    done = run(code, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    found = with_environment(HEALTHY, **line)
    assert diagnosis.problems(found) == []
    (hint,) = (h for h in diagnosis.hints(found) if str(folder) in h.cause)
    assert f"chmod go-w {folder}" in hint.fix


# Shipped models.


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name in ("model.pt", "config.json", "weights.safetensors"):
        (tmp_path / name).write_text(name)
    (tmp_path / shipped.CHECKSUMS).write_text(
        "".join(
            f"{sha256(tmp_path / name)}  {name}\n"
            for name in ("model.pt", "config.json", "weights.safetensors")
        )
    )
    assert shipped.damaged_files(tmp_path) == []
    (tmp_path / "model.pt").write_text("another")
    (tmp_path / "config.json").unlink()
    assert shipped.damaged_files(tmp_path) == [
        "model.pt is not the file that was shipped (its SHA-256 differs)",
        "config.json is missing",
    ]


# The whole.


def test_report_of_a_fault_is_copyable() -> None:
    fix = "pip install " + " ".join(f"package-{i}" for i in range(30))
    console = Console(width=40, record=True, file=open(os.devnull, "w"))
    with console.file:
        report.show(HEALTHY, [diagnosis.Finding("cause", fix)], [], console)
        text = console.export_text()
    assert f"fix: {fix}\n" in text
    assert "All is well" not in text


def test_doctor_on_this_machine() -> None:
    done = run("from openmm_se3.cli import main; main(['doctor'])")
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("Reference", "CPU", "torchforce", "pythonforce", "All is well."):
        assert text in done.stdout
    assert "fails" not in done.stdout


def test_doctor_reports_a_fault_in_its_exit_code(tmp_path: Path) -> None:
    fake_package(tmp_path, "openmm", "import os; os.abort()")
    done = run(
        "from openmm_se3.cli import main; main(['doctor'])",
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
    )
    assert done.returncode == 1
    assert "loading OpenMM failed: the process was ended by SIGABRT" in done.stdout
    assert f"fix: {diagnosis.FIX_TORCH_AND_OPENMM}" in done.stdout
