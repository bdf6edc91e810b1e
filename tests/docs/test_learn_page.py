"""docs/learn.md: its commands run one after the other, in short."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from pages import read_page
from small_campaigns import one_process

from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.settings import Settings
from openmm_se3.cli import main
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.model_file import load_model
from openmm_se3.simulation import folder as names

pytest.importorskip("rdkit")
pytest.importorskip("tblite")
pytest.importorskip("dgl")

PAGE = (Path(__file__).parents[2] / "docs/learn.md").read_text()
# Cheap labels and few steps, which do not reach the target: every budget is used up.
CHEAP = (
    "--reference gfn2 --labels 40 --members 2 --steps 80 --explore-steps 40 --target 1 "
    "--no-checks --workers 1"
)
SHORTER = {
    'learn "CCO" --out ethanol': f'learn "CCO" --out ethanol {CHEAP}',
    'learn "CC(=O)O" --with-water --minutes 125': f'learn "CO" --with-water {CHEAP}',
    "--out run": "--out run --length 0.02 --equilibration 0.01 --platform Reference",
    "ethanol --labels 500 --from run": "ethanol --labels 80 --from run",
    "ethanol --labels 500": "ethanol --labels 60",
}


def commands() -> list[str]:
    """Return the commands of the page, shortened."""
    blocks = re.findall(r"^```\n(.*?)```", PAGE, re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines()]
    found = [line.partition("  #")[0] for line in lines if "openmm-se3 " in line]
    # The reaction is run by tests/active_learning/test_reaction_campaign.py.
    found = [line for line in found if not {"--bias", "--reactive"} & set(line.split())]
    text = "\n".join(found)
    for long, short in SHORTER.items():
        assert long in text, long
        text = text.replace(long, short)
    return text.splitlines()


def test_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Two rounds of the first budget, not six; each trains a committee.
    monkeypatch.setattr(Settings, "per_round", property(lambda settings: 20))
    budgets = []
    verbs = []
    for command in commands():
        verb, *arguments = shlex.split(command)[1:]
        verbs.append(verb)
        with one_process():
            result = CliRunner().invoke(main, [verb, *arguments])
        # Networks that have hardly learned need not be trusted.
        assert result.exit_code in (0, 1), f"{command}\n{result.output}"
        assert isinstance(result.exception, SystemExit | None), result.exception
        if "--with-water" in arguments:
            frames = read_hdf5(Path("acetic-acid/data/round-00.h5")).frames
            assert set(frames.n_atoms.tolist()) == {6, 9}  # methanol, and with water
        elif verb == "learn":
            budgets.append(Campaign(Path("ethanol")).labels_spent())
            read_page(Path("ethanol/report.html"))
        else:
            assert Path("run", names.TRAJECTORY).exists()
            read_page(Path("run", names.PAGE))
    assert verbs == ["learn", "run", "learn", "learn", "learn", "learn"]
    first, same, more, most = budgets
    assert first == same <= 40 < more <= 60 < most <= 80
    assert Campaign(Path("ethanol")).find("given") is not None
    assert set(load_model("ethanol/model").config.elements) == {"C", "H", "O"}


def test_the_table_of_options_has_the_defaults_of_the_command() -> None:
    from openmm_se3.cli.learn import command

    options = {name for option in command.params for name in option.opts}
    rows = re.findall(r"^\| `--([\w-]+)` \| (.*?) \|", PAGE, re.M)
    defaults = Settings("CCO")
    assert len(rows) > 10
    for name, stated in rows:
        assert f"--{name}" in options, name
        value = getattr(defaults, name.replace("-", "_"))
        if value is None or isinstance(value, bool | tuple) or name == "start":
            continue
        written = f"{value:g}" if isinstance(value, float) else str(value)
        assert stated.strip("`") == written, name
