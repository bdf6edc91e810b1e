"""``openmm-se3 compile``: a model's network as machine code."""

from __future__ import annotations

import click

from openmm_se3.cli.shared.old_names import renamed


@click.command(cls=renamed(engine="implementation"))
@click.argument("model")
@click.option(
    "--precision",
    type=click.Choice(["single", "double"]),
    default="single",
    show_default=True,
    help="Precision of the network.",
)
@click.option(
    "--implementation",
    type=click.Choice(["compiled", "triton"]),
    default="compiled",
    show_default=True,
    help="C++ for the CPU, or Triton's kernels for the NVIDIA GPU.",
)
def command(model: str, precision: str, implementation: str) -> None:
    """Compile the network of MODEL for the CPU or the GPU of this machine.

    MODEL is a shipped model's name, a model folder or a model.pt.  The first simulation
    does this by itself; here it can be done beforehand, for instance where the machines
    that simulate have no compiler.  Models of one shape share what is compiled.
    """
    import time

    import torch

    from openmm_se3.compiled.cache import cache_folder
    from openmm_se3.compiled.library import load_library
    from openmm_se3.model_file import load_model
    from openmm_se3.triton.availability import compile_kernels

    found = load_model(model)
    start = time.perf_counter()
    if implementation == "triton":
        compile_kernels(found.network(torch.float64), precision)
        ready = "kernels in Triton's cache"
    else:
        ready = f"{cache_folder() / load_library(found.config, precision)}.so"
    click.echo(f"{ready}: ready after {time.perf_counter() - start:.0f} s")
