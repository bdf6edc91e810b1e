"""Where each network runs: virtual environments of the peers, and NVIDIA's files.

    python benchmarks/accuracy/environments.py

makes what is missing; compare.py does the same before its first run.  torch is that of
the environment that runs the script, so that all networks compute with the same: a
peer's environment holds only what it needs beside our packages or in place of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import click
import torch

from openmm_se3.files import atomic_write

# MACE needs e3nn 0.4.4; NequIP e3nn 0.6, as we do, and TorchMD-Net none.
REQUIREMENTS = {
    "mace": ("mace-torch==0.3.16",),
    "nequip-torchmd": ("nequip==0.19.1", "torchmd-net==3.1.0"),
    # These are timed only.
    "symmetrix": ("mace-torch==0.3.16", "symmetrix-xl==0.1.1"),
    "ani": ("torchani==2.9.0",),
}
# Environment of each network that is trained; None is the one that runs the script.
ENVIRONMENTS = {
    "ours": None,
    "mace": "mace",
    "nequip": "nequip-torchmd",
    "tensornet": "nequip-torchmd",
    "nvidia": None,
}
ROOT = Path(__file__).parents[2]
MADE = "requirements.txt"  # written when everything is installed

LIBRARIES = ("OMP", "MKL", "OPENBLAS")

NVIDIA_REPOSITORY = "https://github.com/NVIDIA/DeepLearningExamples"
NVIDIA_COMMIT = "729963dd47e7c8bd462ad10bfac7a7b0b604e6dd"
NVIDIA_FOLDER = "DGLPyTorch/DrugDiscovery/SE3Transformer"


def python_of(network: str, folder: Path) -> Path:
    """Return the interpreter that a network runs with, made ready if need be.

    Args:
        network: Name of the network, or of an environment.
        folder: Folder of the environments.

    Raises:
        subprocess.CalledProcessError: A package cannot be installed.
    """
    name = ENVIRONMENTS.get(network, network)
    return Path(sys.executable) if name is None else make_environment(name, folder)


def variables(
    threads: int, gpu: bool = False, packages: Path | None = None
) -> dict[str, str]:
    """Return the environment variables of a process of any network.

    Args:
        threads: Threads of its numerical libraries.
        gpu: Let it see GPUs.
        packages: Folder of packages that come before all others, which are then those
            of this process.
    """
    places = [str(ROOT)]
    if packages is not None:
        places = [str(packages.resolve()), *places, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, places))
    limits = {f"{name}_NUM_THREADS": str(threads) for name in LIBRARIES}
    hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, "PYTHONPATH": path, **hidden, **limits}


def make_environment(name: str, folder: Path) -> Path:
    """Make an environment that is missing or has other packages; return its Python."""
    place = folder.resolve() / name
    python = place / "bin/python"
    wanted = "\n".join([*REQUIREMENTS[name], f"torch=={torch.__version__}", ""])
    if (place / MADE).is_file() and (place / MADE).read_text() == wanted:
        return python
    click.echo(f"making {place}")
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, with_pip=True)
    # Looked at after the environment's own packages.  The parent may be one that looks
    # into another environment itself.
    link = Path(_site_packages(python)) / "parent.pth"
    parents = [path for path in sys.path if path.endswith("-packages")]
    link.write_text("\n".join([*parents, ""]))
    install = [python, "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]]
    subprocess.run(install, check=True)
    with atomic_write(place / MADE) as temporary:
        temporary.write_text(wanted)
    return python


def _site_packages(python: Path) -> str:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    shown = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True
    )
    return shown.stdout.strip()


def nvidia_source(folder: Path, repository: str = NVIDIA_REPOSITORY) -> Path:
    """Return the folder of NVIDIA's files, fetched at one commit if need be.

    Args:
        folder: Folder of the environments.
        repository: Address or path of a clone of its repository.

    Raises:
        subprocess.CalledProcessError: The commit cannot be fetched.
    """
    place = folder.resolve() / "nvidia"
    if not (place / NVIDIA_FOLDER).is_dir():
        click.echo(f"fetching {NVIDIA_FOLDER} from {repository}")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for command in (
            ["init", "--quiet"],
            ["sparse-checkout", "set", NVIDIA_FOLDER],
            ["fetch", "--quiet", "--depth=1", "--filter=blob:none", repository]
            + [NVIDIA_COMMIT],
            ["checkout", "--quiet", NVIDIA_COMMIT],
        ):
            subprocess.run(["git", "-C", str(place), *command], check=True)
    return place / NVIDIA_FOLDER


# Of every benchmark that runs others.
environments_option = click.option(
    "--environments",
    type=click.Path(path_type=Path),
    default=Path("peers-run/environments"),
    show_default=True,
    help="Folder of the others' environments and of NVIDIA's files.",
)
nvidia_option = click.option(
    "--nvidia-repository", default=NVIDIA_REPOSITORY, show_default=True
)


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("peers-run/environments"),
    show_default=True,
)
@nvidia_option
def main(folder: Path, nvidia_repository: str) -> None:
    """Make all environments and fetch NVIDIA's files."""
    for network in ENVIRONMENTS:
        click.echo(f"{network}: {python_of(network, folder)}")
    click.echo(f"NVIDIA's files: {nvidia_source(folder, nvidia_repository)}")


if __name__ == "__main__":
    main()
