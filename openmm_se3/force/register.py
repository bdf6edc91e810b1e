"""What OpenMM must have loaded before it opens a System with a model from XML."""

from __future__ import annotations

from openmm_se3.compiled.library import load_compiled_networks
from openmm_se3.force import plugin


def register_plugins() -> None:
    """Load everything that a serialized System with a model may name.

    These are OpenMM's TorchForce where it works here, the neighbor list that modules
    hold, and the networks that were compiled here before.  SE3Potential calls it; call
    it yourself before ``XmlSerializer.deserialize`` in a process that makes no
    SE3Potential.
    """
    import vesin_torch  # noqa: F401  (registers the neighbor list)

    plugin.torchforce_problem()
    load_compiled_networks()
