"""Modules can be imported by the names that they had before."""

import importlib
import subprocess
import sys

import pytest

from openmm_se3._moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_warns_and_gives_the_new_module(old):
    # A package warns too, if its module is the first one asked for.
    for name in [name for name in MOVED if f"{old}.".startswith(f"{name}.")]:
        sys.modules.pop(f"openmm_se3.{name}", None)
    with pytest.warns(DeprecationWarning) as caught:
        module = importlib.import_module(f"openmm_se3.{old}")
    assert module is importlib.import_module(f"openmm_se3.{MOVED[old]}")
    assert any(f"openmm_se3.{MOVED[old]}" in str(one.message) for one in caught)


def test_new_names_do_not_warn():
    code = "import openmm_se3.data.frames, openmm_se3.nn.transformer"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
