"""Judges the evidence: what is wrong, and one line of fix for each."""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

from openmm_se3.compiled.library import NO_COMPILER
from openmm_se3.doctor.collect import BackendResult, Evidence
from openmm_se3.doctor.probe import XML

FIX_GPU_PLATFORM = 'pip install "openmm[cuda12]>=8.4,<8.6" "openmmtorch[cuda12]==1.5"'
FIX_DRIVER = "install an NVIDIA driver that serves CUDA 12.8 or later"
FIX_TORCH_AND_OPENMM = (
    'pip install --force-reinstall "torch>=2.9,<2.10" "openmm>=8.4,<8.6"'
)
FIX_OPENMM = 'pip install --force-reinstall --no-deps "openmm>=8.4,<8.6"'
FIX_PLUGIN = 'pip install --force-reinstall --no-deps "openmmtorch==1.5"'
FIX_MODEL = "install openmm-se3 again (in a source folder: git checkout -- models)"


class Finding(NamedTuple):
    """Something wrong or worth knowing, and what to do about it."""

    cause: str
    fix: str

    @classmethod
    def from_line(cls, line: str) -> Finding:
        """Split the one-line form "cause; fix: what to do"."""
        cause, _, fix = line.partition("; fix: ")
        return cls(cause, fix)


def problems(evidence: Evidence) -> list[Finding]:
    """Return what is wrong."""
    found = evidence.environment
    findings = []
    if evidence.environment_fault is not None:
        findings.append(_broken_environment(evidence))
    torchforce = found.get("torchforce_problem")
    if torchforce is not None:
        findings.append(Finding.from_line(torchforce))
    if found.get("pythonforce_problem") and torchforce is not None:
        findings.append(Finding.from_line(found["pythonforce_problem"]))
    if evidence.gpus and found.get("torch_cuda") and not found.get("torch_sees_gpu"):
        findings.append(
            Finding(f"torch cannot use the GPU ({evidence.gpus[0]})", FIX_DRIVER)
        )
    for text in found.get("load_failures", []):
        if not concerns_other_hardware(text) and "OpenMMTorch" not in text:
            findings.append(Finding(text, FIX_OPENMM))
    broken = torchforce is not None or evidence.environment_fault is not None
    for result in evidence.results:
        explained = result.backend == "torchforce" and broken
        if result.fault is not None and not explained:
            findings.append(_failed_backend(result, result.fault))
    for name, faults in evidence.models.items():
        findings += [Finding(f"model {name}: {fault}", FIX_MODEL) for fault in faults]
    if not evidence.models:
        findings.append(Finding("no shipped model was found", FIX_MODEL))
    return findings


def hints(evidence: Evidence) -> list[Finding]:
    """Return what is not wrong but may be worth a change."""
    found = evidence.environment
    findings = []
    if evidence.gpus and "CUDA" not in found.get("platforms", ["CUDA"]):
        cause = f"OpenMM has no CUDA platform here to use the GPU ({evidence.gpus[0]})"
        findings.append(Finding(cause, FIX_GPU_PLATFORM))
    if found.get("pythonforce_problem") and found.get("torchforce_problem") is None:
        findings.append(Finding.from_line(found["pythonforce_problem"]))
    if evidence.compiler is None:
        finding = Finding.from_line(NO_COMPILER)
        cause = f"{finding.cause}: without a GPU models run several times slower"
        findings.append(Finding(cause, finding.fix))
    if found.get("cache_problem"):
        findings.append(Finding.from_line(found["cache_problem"]))
    if sys.version_info >= (3, 12):
        cause = "training needs DGL 1.1.3, which Python 3.12 and later do not have"
        findings.append(Finding(cause, "train with Python 3.11; MD runs with this one"))
    return findings


def _broken_environment(evidence: Evidence) -> Finding:
    found, fault = evidence.environment, evidence.environment_fault
    if "torch" not in found:
        return Finding(f"loading torch failed: {fault}", FIX_TORCH_AND_OPENMM)
    if "openmm" not in found:
        return Finding(f"loading OpenMM failed: {fault}", FIX_TORCH_AND_OPENMM)
    return Finding(f"loading the plugin openmmtorch failed: {fault}", FIX_PLUGIN)


def concerns_other_hardware(failure: str) -> bool:
    """True if a plugin failed only because this machine has not got its kind of GPU.

    Every OpenMM wheel carries the OpenCL plugins, also where nothing offers OpenCL.
    """
    return re.search(r": lib(OpenCL|cuda|OpenMM(OpenCL|CUDA))\.so", failure) is not None


def _failed_backend(result: BackendResult, fault: str) -> Finding:
    if result.target == XML:
        cause = f"{result.backend} after an XML round trip of the System: {fault}"
        return Finding(cause, FIX_TORCH_AND_OPENMM)
    cause = f"{result.backend} on {result.target}: {fault}"
    if result.target in ("CUDA", "OpenCL"):
        if "does not support all required kernels" in fault:
            return Finding(cause, FIX_GPU_PLATFORM)
        return Finding(cause, f"{FIX_DRIVER}, or choose --platform CPU")
    if result.backend == "torchforce":
        return Finding(cause, FIX_PLUGIN)
    return Finding(cause, FIX_OPENMM)
