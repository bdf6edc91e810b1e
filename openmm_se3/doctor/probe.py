"""What the doctor runs in processes of its own, because it may end them.

``python -m openmm_se3.doctor.probe environment`` or ``... probe torchforce CPU
Reference`` writes one JSON object a line, as soon as it is known: what a crash leaves
behind says where it happened.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

# One atom at this position, nm, in the potential STIFFNESS |r|^2.
POSITION = (0.1, 0.2, -0.3)
STIFFNESS = 100.0  # kJ/mol/nm^2
EXPECTED_ENERGY = STIFFNESS * sum(x * x for x in POSITION)  # kJ/mol
EXPECTED_FORCE = tuple(-2.0 * STIFFNESS * x for x in POSITION)  # kJ/mol/nm

XML = "XML"


def _emit(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def environment() -> None:
    """Write what torch, OpenMM and its plugin say about themselves."""
    import torch

    _emit(torch=torch.__version__, torch_cuda=torch.version.cuda)
    _emit(torch_sees_gpu=torch.cuda.is_available())
    from openmm_se3.triton.kernels import problem

    _emit(triton_problem=problem())
    import openmm

    count = openmm.Platform.getNumPlatforms()
    _emit(
        openmm=openmm.Platform.getOpenMMVersion(),
        platforms=[openmm.Platform.getPlatform(i).getName() for i in range(count)],
        load_failures=list(openmm.Platform.getPluginLoadFailures()),
    )
    from openmm_se3.force import plugin

    _emit(
        pythonforce_problem=plugin.pythonforce_problem(),
        version_problem=plugin.version_problem(),
    )
    _emit(torchforce_problem=plugin.torchforce_problem())
    from openmm_se3.compiled import cache

    _emit(cache=str(cache.cache_folder()), cache_problem=cache.cache_problem())


def _harmonic_well(state: Any) -> tuple[float, Any]:
    import openmm.unit as unit

    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return STIFFNESS * (positions**2).sum(), -2.0 * STIFFNESS * positions


def _python_force() -> Any:
    import openmm

    return openmm.PythonForce(_harmonic_well)


def _torch_force() -> Any:
    import torch

    from openmm_se3.force import plugin

    # Versions that do not fit are tried all the same: this process is there to find
    # out.
    problem = plugin.load_problem()
    if problem is not None:
        raise plugin.PluginError(problem)
    import openmmtorch

    class HarmonicWell(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stiffness = STIFFNESS

        def forward(self, positions: torch.Tensor) -> torch.Tensor:
            return self.stiffness * (positions * positions).sum()

    return openmmtorch.TorchForce(torch.jit.script(HarmonicWell()))


FORCES: dict[str, Callable[[], Any]] = {
    "torchforce": _torch_force,
    "pythonforce": _python_force,
}


def backend(name: str, targets: list[str]) -> None:
    """Write energy and force of the one atom through a backend on each platform.

    Args:
        name: "torchforce" or "pythonforce".
        targets: Names of platforms; "XML" stands for Reference after a round trip of
            the System through its XML form.
    """
    import torch  # noqa: F401  (before openmm, whose plugin needs torch's libraries)
    import openmm  # isort: skip
    import openmm.unit as unit

    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(FORCES[name]())
    for target in targets:
        try:
            used = system
            if target == XML:
                text = openmm.XmlSerializer.serialize(system)
                used = openmm.XmlSerializer.deserialize(text)
            platform = openmm.Platform.getPlatformByName(
                "Reference" if target == XML else target
            )
            context = openmm.Context(used, openmm.VerletIntegrator(0.001), platform)
            context.setPositions([POSITION])
            state = context.getState(getEnergy=True, getForces=True)
            energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            force = state.getForces(asNumpy=True)._value[0].tolist()
            _emit(target=target, energy=energy, force=force)
        except Exception as error:
            # Whatever a platform raises is the finding.
            _emit(target=target, error=str(error).strip().splitlines()[0])


def main(arguments: list[str]) -> None:
    """Run the probe that the arguments name."""
    if arguments[0] == "environment":
        environment()
    else:
        backend(arguments[0], arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
