"""Damaged, foreign and oversized model files are refused."""

from __future__ import annotations

import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from model_files import change, description_of, write_weights
from torch import Tensor, nn

from openmm_se3.description import UNITS, ModelFileError
from openmm_se3.model_file import load_model


def change_model(folder: Path, **fields: Any) -> None:
    change(folder, model={**description_of(folder)["model"], **fields})


def change_reference(folder: Path, **fields: Any) -> None:
    change(folder, reference={**description_of(folder)["reference"], **fields})


def change_weights(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = safetensors.torch.load((folder / "weights.safetensors").read_bytes())
    edit(weights)
    write_weights(folder, safetensors.torch.save(weights))


def flip_byte_of_weights(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-3] ^= 0x10
    (folder / "weights.safetensors").write_bytes(bytes(content))


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no description": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no weights": (
        lambda f: (f / "weights.safetensors").unlink(),
        "has no weights.safetensors",
    ),
    "not JSON": (
        lambda f: (f / "config.json").write_text("<html>Not found</html>"),
        "config.json is not JSON",
    ),
    "not text": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00\x80"),
        "config.json is not JSON",
    ),
    "deep JSON": (
        lambda f: (f / "config.json").write_text("[" * 100_000),
        "config.json is not JSON",
    ),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "does not describe"),
    "of another program": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
        "does not describe an openmm-se3 model",
    ),
    "newer": (lambda f: change(f, format_version=3), "version 3.*upgrade openmm-se3"),
    "no version": (lambda f: change(f, format_version=None), "format version None"),
    "no units": (lambda f: change(f, units=None), r"lacks \['units'\]"),
    "other units": (
        lambda f: change(f, units={**UNITS, "energy": "hartree"}),
        "units are .*hartree.*expected",
    ),
    "no network": (lambda f: change(f, model=None), r"lacks \['model'\]"),
    "no elements": (
        lambda f: change(f, model={"cutoff": 4.0}),
        r"needs \['elements'\]",
    ),
    "network of another kind": (lambda f: change(f, model=[1, 2]), "model"),
    "unknown key": (lambda f: change_model(f, chanels=4), "did you mean 'channels'"),
    "wrong type": (lambda f: change_model(f, layers="three"), "layers must be int"),
    "other cutoff": (lambda f: change_model(f, cutoff=4.5), "gives other energies"),
    "other elements": (
        lambda f: change_model(f, elements=["O", "H"]),
        "gives other energies",
    ),
    "other shape": (
        lambda f: change_model(f, channels=4),
        "weights and config disagree.*size mismatch",
    ),
    "other layers": (
        lambda f: change_model(f, layers=2),
        r"weights and config disagree.*attention\.1",
    ),
    "no self-energies": (
        lambda f: change(f, self_energies={"H": -13.5}),
        r"no self-energies of \['O'\]",
    ),
    "self-energy not a number": (
        lambda f: change(f, self_energies={"H": -13.5, "O": "NaN"}),
        "self-energ",
    ),
    "self-energy NaN": (
        lambda f: change(f, self_energies={"H": -13.5, "O": float("nan")}),
        "self-energ",
    ),
    "other hash": (
        lambda f: change(f, weights_sha256="0" * 64),
        "does not match its SHA-256",
    ),
    "no hash": (lambda f: change(f, weights_sha256=None), "SHA-256"),
    "one bit": (flip_byte_of_weights, "does not match its SHA-256"),
    "empty weights": (lambda f: write_weights(f, b""), "cannot be read"),
    "pickled weights": (
        lambda f: write_weights(f, pickle.dumps({"weight": [1.0]})),
        "cannot be read",
    ),
    "NaN weights": (
        lambda f: change_weights(
            f, lambda w: w["energy_head.0.weight"].fill_(float("nan"))
        ),
        r"NaN or infinite weights in \['energy_head.0.weight'\]",
    ),
    "other weights": (
        lambda f: change_weights(f, lambda w: w["energy_head.2.weight"].mul_(1.01)),
        "gives other energies",
    ),
    "weight missing": (
        lambda f: change_weights(f, lambda w: w.pop("energy_head.0.weight")),
        "weights and config disagree.*Missing key.*energy_head.0.weight",
    ),
    "weight too many": (
        lambda f: change_weights(f, lambda w: w.update(more=torch.zeros(1))),
        "weights and config disagree.*Unexpected key.*more",
    ),
    "no reference": (lambda f: change(f, reference=None), r"lacks \['reference'\]"),
    "empty reference": (lambda f: change(f, reference={}), "reference"),
    "reference of nothing": (
        lambda f: change_reference(f, symbols=[], positions=[], forces=[]),
        "reference",
    ),
    "reference of other elements": (
        lambda f: change_reference(f, symbols=["C", "H", "H"]),
        "reference",
    ),
    "reference NaN": (
        lambda f: change_reference(f, energy=float("nan")),
        "gives other energies",
    ),
}


def in_archive(folder: Path) -> Path:
    """Put a folder's description and weights into its model.pt as they are."""
    source, target = folder / "model.pt", folder / "spoilt.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            replacement = folder / Path(info.filename).name
            if "/extra/" in info.filename:
                if not replacement.exists():
                    continue
                content = replacement.read_bytes()
            new.writestr(info.filename, content)
    return target


@pytest.mark.parametrize("place", ["folder", "archive"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_model_is_refused(fault: str, place: str, model_copy: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(model_copy)
    if place == "archive":
        model_copy = in_archive(model_copy)
        message = message.replace("has no ", "holds no ")
    with pytest.raises(ModelFileError, match=f"(?s){message}"):
        load_model(model_copy)


def test_the_spoilt_archives_are_whole_otherwise(model_copy: Path) -> None:
    """The control of the test above."""
    assert load_model(in_archive(model_copy)).metadata == description_of(model_copy)


def test_weights_cut_short_are_refused(model_copy: Path) -> None:
    content = (model_copy / "weights.safetensors").read_bytes()
    for share in (0.25, 0.5, 0.99):
        write_weights(model_copy, content[: int(share * len(content))])
        with pytest.raises(ModelFileError, match="weights.safetensors cannot be read"):
            load_model(model_copy)


def not_ours(folder: Path) -> dict[str, Path]:
    """Write files of other kinds under the name of a model."""
    whole = (folder / "model.pt").read_bytes()
    contents = {
        "empty": b"",
        "page": b"<!DOCTYPE html><html>404</html>",
        "xyz": b"1\n\nH 0.0 0.0 0.0\n",
        "pickle": pickle.dumps({"weight": [1.0]}),
        "safetensors": (folder / "weights.safetensors").read_bytes(),
        "cut at 25 %": whole[: len(whole) // 4],
        "cut at 50 %": whole[: len(whole) // 2],
        "cut at 99 %": whole[: 99 * len(whole) // 100],
    }
    files = {}
    for name, content in contents.items():
        files[name] = folder / f"{name}.pt"
        files[name].write_bytes(content)
    files["state_dict"] = folder / "state_dict.pt"
    torch.save({"weight": torch.zeros(3)}, files["state_dict"])
    files["foreign zip"] = folder / "foreign.zip"
    with zipfile.ZipFile(files["foreign zip"], "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("weights.safetensors", b"")
    files["script of another program"] = folder / "foreign.pt"
    torch.jit.save(
        torch.jit.script(nn.Linear(2, 2)), files["script of another program"]
    )
    return files


def test_files_of_other_kinds_are_refused(model_copy: Path) -> None:
    for name, path in not_ours(model_copy).items():
        with pytest.raises(ModelFileError) as error:
            load_model(path)
        message = str(error.value)
        assert str(path) in message, name
        assert "openmm-se3 export" in message, name


def test_folders_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not a model folder"):
        load_model(tmp_path)
    (tmp_path / "best.pt").touch()
    with pytest.raises(ModelFileError, match="checkpoint to 'openmm-se3 export' first"):
        load_model(tmp_path)


def test_what_does_not_exist_names_what_does(tmp_path: Path) -> None:
    for name in (
        "watre",
        "../water",
        "https://example.org/model.pt",
        tmp_path / "no.pt",
    ):
        with pytest.raises(FileNotFoundError, match="no model .*shipped models are"):
            load_model(name)


def test_a_model_of_the_users_own_comes_before_the_shipped_one(
    smallest_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = load_model("water").metadata["weights_sha256"]
    (tmp_path / "water").mkdir()  # a folder of anything
    assert load_model("water").metadata["weights_sha256"] == shipped
    (tmp_path / "water" / "best.pt").write_bytes(b"")  # a training run
    with pytest.warns(UserWarning, match="shipped model water is taken"):
        assert load_model("water").metadata["weights_sha256"] == shipped
    shutil.rmtree(tmp_path / "water")
    shutil.copytree(smallest_model, tmp_path / "water")
    own = load_model(smallest_model).metadata["weights_sha256"]
    with pytest.warns(UserWarning, match=re.escape(str(tmp_path / "water"))):
        assert load_model("water").metadata["weights_sha256"] == own
    assert load_model("./water").metadata["weights_sha256"] == own  # no warning


def test_weights_are_in_the_order_of_their_names(smallest_model: Path) -> None:
    names = list(load_model(smallest_model).weights)
    assert len(names) > 10
    assert names == sorted(names)


def test_any_damaged_byte_is_refused_or_harmless(model_copy: Path) -> None:
    """Bytes changed anywhere in model.pt: the right weights, or a ModelFileError."""
    path = model_copy / "model.pt"
    whole = path.read_bytes()
    expected = load_model(path)
    rng = np.random.default_rng(0)
    # The directory at the end is where a reader of archives is led astray.
    end = range(len(whole) - 600, len(whole), 7)
    for position in [*rng.integers(0, len(whole), 60).tolist(), *end]:
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(damaged))
        try:
            loaded = load_model(path)
        except ModelFileError:
            continue
        assert loaded.metadata == expected.metadata, position
        for name, tensor in loaded.weights.items():
            assert torch.equal(tensor, expected.weights[name]), position


def test_compressed_and_oversized_contents_are_refused(model_copy: Path) -> None:
    """A small file must not be able to fill the memory."""
    bomb = model_copy / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "m/extra/config.json", (model_copy / "config.json").read_bytes()
        )
        archive.writestr("m/extra/weights.safetensors", b"\0" * (1 << 24))
    with pytest.raises(ModelFileError, match="compressed or too large"):
        load_model(bomb)
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr(
            "m/extra/config.json", (model_copy / "config.json").read_bytes()
        )
        archive.writestr("m/extra/weights.safetensors", b"\0" * 100)
    content = bytearray(bomb.read_bytes())
    # Sizes in the directory's last entry: 2 GiB, or 1 GB which is read no further.
    entry = content.rindex(b"PK\x01\x02")
    for size, message in ((1 << 31, "compressed or too large"), (10**9, "damaged")):
        content[entry + 20 : entry + 28] = struct.pack("<II", size, size)
        bomb.write_bytes(bytes(content))
        with pytest.raises(ModelFileError, match=message):
            load_model(bomb)
