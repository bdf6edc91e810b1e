"""``openmm-se3 compile``: a model's network as machine code."""

from __future__ import annotations

import click


@click.command()
@click.argument("model")
@click.option(
    "--precision",
    type=click.Choice(["single", "double"]),
    default="single",
    show_default=True,
    help="Precision of the network.",
)
def command(model: str, precision: str) -> None:
    """Compile the network of MODEL for the CPU of this machine.

    MODEL is a shipped model's name, a model folder or a model.pt.  The first simulation
    does this by itself; here it can be done beforehand, for instance where the machines
    that simulate have no compiler.  Models of one shape share what is compiled.
    """
    import time

    from openmm_se3.compiled.cache import cache_folder
    from openmm_se3.compiled.library import load_library
    from openmm_se3.model_file import load_model

    config = load_model(model).config
    start = time.perf_counter()
    name = load_library(config, precision)
    click.echo(
        f"{cache_folder() / name}.so: ready after {time.perf_counter() - start:.0f} s"
    )
