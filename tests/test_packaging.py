from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
import yaml

from openmm_se3.doctor import diagnosis
from openmm_se3.force import plugin
from openmm_se3.version import __version__, installed_version

ROOT = Path(__file__).parents[1]
MODEL_FILES = (
    "model.pt",
    "weights.safetensors",
    "config.json",
    "card.md",
    "SHA256SUMS",
)
# Where the name to import is not the name to install.
DISTRIBUTIONS = {
    "lightning_fabric": "lightning-fabric",
    "vesin_torch": "vesin-torch",
    "yaml": "pyyaml",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from a copy of the source folder with one more model in it."""
    folder = tmp_path_factory.mktemp("source")
    source = folder / "copy"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "openmm_se3", source / "openmm_se3", ignore=unwanted)
    unwanted = shutil.ignore_patterns("__pycache__", "data")
    shutil.copytree(ROOT / "models", source / "models", ignore=unwanted)
    model = source / "models/extra"
    (model / "data").mkdir(parents=True)
    for name in (*MODEL_FILES, "train.log", "data/labels.h5"):
        (model / name).write_text(name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    name = f"openmm_se3-{__version__}.dist-info/METADATA"
    return message_from_string(wheel.read(name).decode())


def test_wheel_holds_every_model_and_no_training_data(wheel: zipfile.ZipFile) -> None:
    inside = {
        name.removeprefix("openmm_se3/models/")
        for name in wheel.namelist()
        if name.startswith("openmm_se3/models/")
    }
    models = [path.parent for path in (ROOT / "models").glob("*/SHA256SUMS")]
    assert inside == {f"extra/{name}" for name in MODEL_FILES} | {
        f"{model.name}/{name}"
        for model in models
        for name in MODEL_FILES
        if (model / name).exists()
    }


def test_wheel_holds_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("openmm_se3/**/*.py")}
    names = set(wheel.namelist())
    assert modules <= names
    assert "openmm_se3/py.typed" in names
    assert {name.split("/")[0] for name in names} == {
        "openmm_se3",
        f"openmm_se3-{__version__}.dist-info",
    }


def test_console_script(wheel: zipfile.ZipFile) -> None:
    name = f"openmm_se3-{__version__}.dist-info/entry_points.txt"
    assert "openmm-se3 = openmm_se3.cli:main" in wheel.read(name).decode()


def test_versions_agree(metadata: Message) -> None:
    assert metadata["Version"] == __version__
    assert installed_version("openmm-se3") in (None, __version__)
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] == __version__


def test_python_versions_agree(metadata: Message) -> None:
    assert metadata["Requires-Python"] == ">=3.10"
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert "python=3.11" in environment["dependencies"]
    assert {"pip": ["-e .[dev]"]} in environment["dependencies"]


def pins(requirement: str) -> tuple[str, set[str]]:
    """Return name and version limits of a requirement without extras and markers."""
    requirement = requirement.partition(";")[0].replace(" ", "")
    match = re.match(r"([\w.-]+)(?:\[\w+\])?(.*)", requirement)
    assert match is not None
    return match[1].lower(), set(match[2].split(",")) - {""}


@pytest.mark.parametrize(
    "fix",
    [
        plugin.FIX_TORCH,
        plugin.FIX_OPENMM,
        plugin.FIX_PLUGIN,
        plugin.FIX_CUDA_LIBRARIES,
        plugin.FIX_NVRTC,
        diagnosis.FIX_TORCH_AND_OPENMM,
        diagnosis.FIX_GPU_PLATFORM,
    ],
)
def test_fixes_install_what_the_package_asks_for(metadata: Message, fix: str) -> None:
    required = metadata.get_all("Requires-Dist", [])
    base = dict(pins(text) for text in required if "extra ==" not in text)
    named = [pins(text) for text in re.findall(r'"(.+?)"', fix)]
    assert named
    for name, limits in named:
        assert base[name] == limits


def third_party_imports() -> set[str]:
    names = set()
    for path in (ROOT / "openmm_se3").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"openmm_se3", "__future__"}


def test_every_import_is_a_declared_dependency(metadata: Message) -> None:
    required = metadata.get_all("Requires-Dist", [])
    declared = {pins(text)[0] for text in required if 'extra == "dev"' not in text}
    imported = {DISTRIBUTIONS.get(name, name) for name in third_party_imports()}
    # Triton comes with torch, in the version that it needs.
    assert imported - declared == {"triton"}


def test_the_test_extra_holds_every_other(metadata: Message) -> None:
    required = metadata.get_all("Requires-Dist", [])

    def extra(name: str) -> set[str]:
        return {pins(text)[0] for text in required if f'extra == "{name}"' in text}

    assert extra("train") | extra("dft") | extra("openmm-ml") <= extra("test")
    assert extra("test") <= extra("dev")


def test_the_check_runs_the_commands_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert "pip install . && openmm-se3 water" in readme
    assert 'pip install ".[test]" && pytest -n auto' in readme
    order = [
        "pip install -qq .",
        '(cd "$scratch" && openmm-se3 water)',
        'pip install -qq ".[test]"',
        "pytest -n auto",
    ]
    positions = [lines.index(line) for line in order]
    assert positions == sorted(positions)
