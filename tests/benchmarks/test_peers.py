"""The comparison with other networks: the same frames, batches and time."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import budget
import compare
import devices
import environments
import frames
import h5py
import numpy as np
import pytest
import torch
from analytic_water import water_positions
from click.testing import CliRunner
from errors import errors
from graphs import labels_of, read_graphs
from labels import Labels
from train_ours import Ours

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import SPLITS, Frame, Frames
from openmm_se3.data.level_of_theory import PublishedLevel

KCAL = 23.060548

BOX = np.array([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])

WATER = np.array([8, 1, 1])


def some_frames(split: str, box: np.ndarray | None, rng: np.random.Generator) -> Frames:
    """Return one, two and one molecules, distorted, with arbitrary labels."""
    return Frames.of(
        Frame(
            numbers=np.tile(WATER, n),
            positions=(
                x := water_positions(n, seed=1)
                + rng.normal(scale=0.05, size=(3 * n, 3))
            ),
            energy=-2000.0 * n + rng.normal(),
            forces=rng.normal(size=x.shape),
            trajectory=f"{split}-{index}",
            split=split,
            box=box,
        )
        for index, n in enumerate((1, 2, 1))
    )


def dataset(box: np.ndarray | None) -> Dataset:
    rng = np.random.default_rng(0)
    parts = [some_frames(split, box, rng) for split in SPLITS]
    return Dataset(Frames.of([f for p in parts for f in p]), PublishedLevel("none"), {})


@pytest.fixture(scope="module", params=["molecules", "box"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    frames.export(dataset(BOX if request.param == "box" else None), folder)
    return folder


def make_job(folder: Path, out: Path) -> budget.Job:
    return budget.Job(
        data=folder,
        out=out,
        elements=("H", "O"),
        cutoff=4.0,
        batch_atoms=9,
        seconds=6.0,
        curve_points=2,
        test_atoms=None,
        seed=0,
        source=None,
        device="cpu",
    )


def test_written_labels_are_those_of_the_frames(exported: Path) -> None:
    whole = dataset(None)
    written = Labels.load(exported / "test.npz")
    originals = list(whole.select("test"))
    assert len(written) == len(originals)
    for index, original in enumerate(originals):
        one = written.take(np.array([index]))
        assert np.array_equal(one.numbers, original.numbers)
        assert one.positions == pytest.approx(original.positions)
        assert one.forces == pytest.approx(original.forces)
    # Least squares on water alone: one number a molecule, from the training frames.
    train = list(whole.select("train"))
    molecules = np.array([len(f.numbers) / 3 for f in train])
    energy = np.array([f.energy for f in train])
    per_molecule = (energy @ molecules) / (molecules @ molecules)
    expected = [f.energy - per_molecule * len(f.numbers) / 3 for f in originals]
    # The fit weights the mean of each composition by its frames: the same here.
    assert written.energies == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("split", SPLITS)
def test_extended_xyz_read_as_mace_and_nequip_read_it(
    exported: Path, split: str
) -> None:
    structures = ase.io.read(exported / f"{split}.xyz", index=":")
    assert all(atoms.calc is None for atoms in structures)
    assert len({bool(atoms.pbc.all()) for atoms in structures}) == 1
    read = Labels(
        n_atoms=np.array([len(atoms) for atoms in structures]),
        numbers=np.concatenate([atoms.numbers for atoms in structures]),
        positions=np.concatenate([atoms.positions for atoms in structures]),
        boxes=np.array([np.asarray(atoms.cell) for atoms in structures]),
        energies=np.array([atoms.info["REF_energy"] for atoms in structures]),
        forces=np.concatenate([atoms.arrays["REF_forces"] for atoms in structures]),
    )
    Labels.load(exported / f"{split}.npz").require_equal(read, "ASE")


@pytest.mark.parametrize("split", SPLITS)
def test_hdf5_read_as_torchmd_net_reads_it(exported: Path, split: str) -> None:
    written = Labels.load(exported / f"{split}.npz")
    with h5py.File(exported / f"{split}.h5") as file:
        groups = [{k: v[()] for k, v in group.items()} for group in file.values()]
    for group in groups:
        n = group["types"].shape[1]
        assert n > 1  # a single number would be taken for one a frame
        assert group["pos"].shape == group["forces"].shape == (1, n, 3)
        assert group["energy"].shape == (1, 1)
    read = Labels(
        n_atoms=np.array([group["types"].shape[1] for group in groups]),
        numbers=np.concatenate([group["types"][0] for group in groups]),
        positions=np.concatenate([np.float32(group["pos"][0]) for group in groups]),
        boxes=written.boxes,
        energies=np.concatenate([np.float32(g["energy"][0]) for g in groups]) / KCAL,
        forces=np.concatenate([np.float32(g["forces"][0]) for g in groups]) / KCAL,
    )
    written.require_equal(read, "TorchMD-Net")


def test_our_own_reader_gets_the_same(exported: Path, tmp_path: Path) -> None:
    graphs = read_graphs(make_job(exported, tmp_path))
    for split in SPLITS:
        read = labels_of(graphs[split])
        Labels.load(exported / f"{split}.npz").require_equal(read, "ours")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forces": lambda x: -x}, "forces that differ"),
        ({"forces": lambda x: x * KCAL}, "forces that differ"),
        ({"energies": lambda x: x * KCAL}, "energies that differ"),
        ({"energies": lambda x: np.where(x == x[1], np.nan, x)}, "energies"),
        ({"positions": lambda x: x + 1e-4}, "positions"),
        ({"boxes": lambda x: x + 1.0}, "boxes"),
        ({"forces": lambda x: x[:-1]}, "shape"),
        ({"numbers": lambda x: x[::-1]}, "other frames: numbers"),
        ({"n_atoms": lambda x: x[[1, 0, 2]]}, "other frames: n_atoms"),
    ],
)
def test_another_sign_unit_or_order_is_refused(
    exported: Path, change: dict[str, object], message: str
) -> None:
    written = Labels.load(exported / "train.npz")
    ((name, function),) = change.items()
    wrong = dataclasses.replace(written, **{name: function(getattr(written, name))})
    with pytest.raises(ValueError, match=message):
        written.require_equal(wrong, "a peer")


def test_errors_are_those_of_the_definition(exported: Path) -> None:
    labels = Labels.load(exported / "test.npz")
    # Compositions: frames 0 and 2 of one molecule, frame 1 of two.  An offset of each
    # composition is no error; what remains of the first is -+ 0.2 eV.
    energies = labels.energies + np.array([1.0, 7.0, 1.4])
    forces = labels.forces.copy()
    forces[:3] += 0.2
    forces[3:9] -= 0.1
    found = errors(energies, forces, labels, molecule_atoms=3)
    assert found.energy_mae == pytest.approx(KCAL * 0.4 / 3, rel=1e-6)
    assert found.force_mae == pytest.approx(KCAL * 0.1, rel=1e-6)
    rms = np.sqrt((3 * 0.04 + 6 * 0.01) / 12)
    assert found.force_rmse == pytest.approx(KCAL * rms, rel=1e-6)
    # Half of the error for each of two molecules.
    twice = dataclasses.replace(
        labels.take(np.array([1, 1])), energies=labels.energies[[1, 1]] + [0.0, 0.4]
    )
    predicted = labels.energies[[1, 1]]
    found = errors(predicted, twice.forces, twice, molecule_atoms=3)
    assert found.energy_mae == pytest.approx(KCAL * 0.1, rel=1e-6)
    whole = errors(predicted, twice.forces, twice, molecule_atoms=None)
    assert whole.energy_mae == pytest.approx(KCAL * 0.2, rel=1e-6)
    with pytest.raises(ValueError, match="predicted forces have shape"):
        errors(energies, forces[1:], labels, 3)


def test_course_of_the_learning_rate() -> None:
    assert budget.learning_rate(0.0) == 0.0
    assert budget.learning_rate(0.025) == pytest.approx(0.5, rel=0.01)
    assert budget.learning_rate(0.05) == pytest.approx(1.0, rel=0.01)
    assert budget.learning_rate(0.525) == pytest.approx(0.5, rel=0.1)
    assert budget.learning_rate(1.0) == pytest.approx(0.01)


class Recorder(budget.Trainee):
    """Remembers what it is asked for, and predicts the labels."""

    name = "recorder"
    packages = ("numpy",)

    def __init__(self, folder: Path) -> None:
        self.network = torch.nn.Linear(2, 3)
        self.read = {s: Labels.load(folder / f"{s}.npz") for s in SPLITS}
        self.steps: list[tuple[list[int], float]] = []

    def labels(self, split: str) -> Labels:
        return self.read[split]

    def step(self, frames: np.ndarray, rate: float, progress: float) -> None:
        self.steps.append((frames.tolist(), rate))

    def predict(self, split: str, frames: np.ndarray) -> budget.Predictions:
        taken = self.read[split].take(frames)
        return taken.energies, taken.forces


def test_every_network_gets_the_same_batches_for_the_same_time(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every look at the clock is a second later: a step takes one.
    clock = itertools.count()
    monkeypatch.setattr(time, "process_time", lambda: float(next(clock)))
    job = make_job(exported, tmp_path)
    first, second = Recorder(exported), Recorder(exported)
    facts, predictions = budget.train(first, job, first.read, devices.Processor())
    budget.train(second, job, second.read, devices.Processor())
    assert first.steps == second.steps
    assert facts["steps"] == facts["training_seconds"] == job.seconds
    assert len(first.steps) == budget.FIRST_STEPS + facts["steps"]
    assert all(rate == 0.0 for _, rate in first.steps[: budget.FIRST_STEPS])
    sizes = first.read["train"].n_atoms
    trained = [batch for batch, _ in first.steps[budget.FIRST_STEPS :]]
    assert all(sizes[batch].sum() <= job.batch_atoms for batch in trained)
    assert facts["frames"] == sum(map(len, trained))
    assert facts["atoms"] == sum(sizes[batch].sum() for batch in trained)
    assert facts["parameters"] == 9
    assert predictions["curve_seconds"].tolist() == [0.0, 3.0, 6.0]
    test = first.read["test"]
    assert np.array_equal(predictions["test_forces"], test.forces)
    assert np.array_equal(predictions["test_frames"], np.arange(len(test)))


def test_averaged_weights_are_used_for_a_while() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    descent = budget.Descent(network, optimizer, clip_norm=1.0, average_decay=0.5)
    for _ in range(2):  # the gradient is -9, clipped to -1; half of the rate
        descent.step(lambda: -9.0 * network.weight.sum(), 0.5)
    assert network.weight.item() == pytest.approx(1.0)
    # Decays 2/11 and 3/12 at first.
    mean = 0.25 * (0.5 * (1 - 2 / 11)) + 0.75 * 1.0
    with descent.averaged():
        assert network.weight.item() == pytest.approx(mean)
    assert network.weight.item() == pytest.approx(1.0)


def test_our_network_trains_and_predicts_in_a_job(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "process_time", lambda: float(next(clock)))
    job = make_job(exported, tmp_path / "job")
    job.out.mkdir()
    job.write(job.out / "job.json")
    assert budget.Job.read(job.out / "job.json") == job
    monkeypatch.setattr(sys, "argv", ["train_ours.py", str(job.out / "job.json")])
    before = torch.get_num_threads()
    try:
        budget.main(Ours)
    finally:
        torch.set_num_threads(before)
    row = compare.result("ours", job, molecule_atoms=3)
    assert row["steps"] == 6
    assert row["ms_per_step"] == pytest.approx(1000.0)
    assert np.isfinite([row["force_mae"], row["force_rmse"], row["energy_mae"]]).all()
    assert [point["seconds"] for point in row["curve"]] == [0.0, 3.0, 6.0]
    monkeypatch.setattr(
        Ours,
        "labels",
        lambda self, split: dataclasses.replace(
            (read := Labels.load(exported / f"{split}.npz")), forces=-read.forces
        ),
    )
    with pytest.raises(ValueError, match="forces that differ"):
        budget.main(Ours)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let jobs end at once with the labels as predictions; names of those run."""
    made: list[str] = []

    def run_job(network: str, job: budget.Job, python: Path) -> None:
        made.append(network)
        if network == "mace":
            job.out.mkdir(parents=True)
            (job.out / "log.txt").write_text("Traceback\nImportError: no [mace]\n")
            raise subprocess.CalledProcessError(1, "train_mace.py")
        trainee = Recorder(job.data)
        job.out.mkdir(parents=True)
        clock = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(time, "process_time", lambda: float(next(clock)))
            facts, predictions = budget.train(
                trainee, job, trainee.read, devices.Processor()
            )
        predictions["curve_forces"] += 0.1  # the figure shows logarithms
        np.savez(job.out / budget.PREDICTIONS, **predictions)
        (job.out / budget.RUN).write_text(json.dumps(facts))

    small = frames.FrameSet(lambda shared: dataset(None), ("H", "O"), 4.0, 9, 3)
    monkeypatch.setitem(compare.SETS, "water", small)
    monkeypatch.setattr(compare, "run_job", run_job)
    monkeypatch.setattr(compare, "python_of", lambda *_: Path(sys.executable))
    return made


def test_finished_runs_are_kept(runs: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    arguments = ["--short", "--set", "water", "--network", "ours", "--out", out]
    first = CliRunner().invoke(compare.main, arguments)
    assert first.exit_code == 0, first.output
    kept = json.loads((tmp_path / "out/water-ours-seed0.json").read_text())
    assert kept["force_mae"] == 0.0
    again = CliRunner().invoke(
        compare.main, [*arguments, "--network", "mace", "--network", "tensornet"]
    )
    assert runs == ["ours", "mace", "tensornet"]  # what failed does not stop the rest
    assert again.exit_code == 1
    assert "failed: water-mace-seed0" in again.output
    assert "failed: ImportError: no [mace]; see" in again.output
    table = (tmp_path / "out/accuracy.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in table[1:]] == [
        ["water", "0", "ours"],
        ["water", "0", "tensornet"],
    ]
    assert "| tensornet | 1 | 9 | 1000 |" in (tmp_path / "out/accuracy.md").read_text()
    assert (tmp_path / "out/accuracy.png").stat().st_size > 1000
    longer = CliRunner().invoke(compare.main, [*arguments[1:], "--minutes", "1"])
    assert longer.exit_code == 1
    assert "was made with other seconds" in longer.output


def test_seeds_are_runs_of_their_own(runs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--short", "--set", "water", "--network", "ours", "--out", str(out)]
    seeds = ["--seed", "0", "--seed", "2"]
    assert CliRunner().invoke(compare.main, [*arguments, *seeds]).exit_code == 0
    assert runs == ["ours", "ours"]
    path = out / "water-ours-seed2.json"
    kept = json.loads(path.read_text())
    assert kept["settings"]["seed"] == 2
    path.write_text(json.dumps({**kept, "force_mae": 0.5}))
    # Seeds that are finished are in the table of a command that names another one.
    arguments[arguments.index("ours")] = "tensornet"
    assert CliRunner().invoke(compare.main, [*arguments, "--seed", "2"]).exit_code == 0
    assert runs == ["ours", "ours", "tensornet"]
    lines = (out / "accuracy.md").read_text().splitlines()
    (ours,) = [line for line in lines if line.startswith("| ours ")]
    cells = [cell.strip() for cell in ours.split("|")]
    assert cells[2] == "2" and cells[7] == "0.250 (0.000 to 0.500)"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(tmp_path: Path) -> None:
    arguments = ["--short", "--device", "cuda", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(compare.main, arguments)
    assert done.exit_code == 1
    assert "PyTorch finds no GPU; take --device cpu" in done.output
    assert not (tmp_path / "out").exists()


def test_clock_of_a_gpu_waits_until_its_work_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    for name, value in {
        "is_available": True,
        "get_device_name": "a GPU",
        "synchronize": None,
        "memory_allocated": 3 << 20,
        "max_memory_allocated": 5 << 20,
        "reset_peak_memory_stats": None,
    }.items():
        monkeypatch.setattr(
            torch.cuda, name, lambda name=name, value=value: asked.append(name) or value
        )
    monkeypatch.setattr(time, "monotonic", lambda: asked.append("clock") or 7.0)
    gpu = devices.device_of("cuda")
    asked.clear()
    assert gpu.seconds() == 7.0
    assert asked == ["synchronize", "clock"]
    assert (gpu.reset_peak_memory(), gpu.peak_memory()) == (3.0, 5.0)
    assert asked[2] == "reset_peak_memory_stats"


def test_gpus_are_hidden_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert environments.variables(threads=1)["CUDA_VISIBLE_DEVICES"] == ""
    assert environments.variables(threads=1, gpu=True)["CUDA_VISIBLE_DEVICES"] == "1"
