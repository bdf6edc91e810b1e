"""The thesis's equations (2.1) to (2.9) in plain NumPy loops, one function each.

Nothing here is shared with ``openmm_se3.nn``: this is what its networks are compared
with.  An atom's features f are a list over degrees l of arrays [2l+1, channels].
Spherical harmonics come from associated Legendre functions, Clebsch-Gordan coefficients
from Racah's formula for complex harmonics and a change of basis.

Weights are those of a network, by the names of its ``state_dict``.  Where a network
departs from the thesis, the function says so; all of it is described in
``openmm_se3.nn``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import constants
from scipy.special import lpmv

from openmm_se3.config import ModelConfig

Features = list[np.ndarray]  # [2l+1, channels] for each degree l
Weights = Mapping[str, np.ndarray]
# A neighbor j of an atom and the vector x_j - x_i to it (or to an image of it), A.
Neighbor = tuple[int, np.ndarray]

NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8}
COVALENT_RADII = {"H": 0.31, "C": 0.76, "N": 0.71, "O": 0.66}  # A, Cordero 2008
# e^2 / (4 pi eps0), eV A
COULOMB = constants.e / (4.0 * math.pi * constants.epsilon_0) * 1e10


# --- harmonics and Clebsch-Gordan matrices -------------------------------------------


def Y(J: int, m: int, x: np.ndarray) -> float:  # noqa: N802
    """Return the real spherical harmonic Y_{Jm} of the direction of x.

    The polar axis is y, the azimuth is counted from z to x.  Sum over m of Y_{Jm}^2 is
    2J + 1.
    """
    size = (2 * J + 1) * math.factorial(J - abs(m)) / math.factorial(J + abs(m))
    # lpmv has the Condon-Shortley phase, real harmonics do not.
    legendre = (-1) ** m * lpmv(abs(m), J, x[1] / np.linalg.norm(x))
    azimuth = math.atan2(x[0], x[2])
    if m == 0:
        angular = 1.0
    elif m > 0:
        angular = math.sqrt(2.0) * math.cos(m * azimuth)
    else:
        angular = math.sqrt(2.0) * math.sin(-m * azimuth)
    return float(math.sqrt(size) * legendre * angular)


def clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j: int, m: int) -> float:
    """Return <j1 m1 j2 m2 | j m> for complex harmonics, by Racah's formula."""
    if m1 + m2 != m or not abs(j1 - j2) <= j <= j1 + j2:
        return 0.0
    f = math.factorial
    size = (2 * j + 1) / f(j1 + j2 + j + 1)
    size *= f(j + j1 - j2) * f(j - j1 + j2) * f(j1 + j2 - j)
    size *= f(j + m) * f(j - m) * f(j1 - m1) * f(j1 + m1) * f(j2 - m2) * f(j2 + m2)
    total = 0.0
    for k in range(j1 + j2 + j + 1):
        terms = [
            k,
            j1 + j2 - j - k,
            j1 - m1 - k,
            j2 + m2 - k,
            j - j2 + m1 + k,
            j - j1 - m2 + k,
        ]
        if min(terms) >= 0:
            total += (-1) ** k / math.prod(f(term) for term in terms)
    return math.sqrt(size) * total


def real_from_complex(l: int) -> np.ndarray:
    """Return U [2l+1, 2l+1] with Y_real = U Y_complex, times the phase i^l."""
    u = np.zeros((2 * l + 1, 2 * l + 1), dtype=complex)
    u[l, l] = 1.0
    for m in range(1, l + 1):
        u[l + m, l + m] = (-1) ** m / math.sqrt(2.0)
        u[l + m, l - m] = 1.0 / math.sqrt(2.0)
        u[l - m, l + m] = (-1) ** m / (1j * math.sqrt(2.0))
        u[l - m, l - m] = -1.0 / (1j * math.sqrt(2.0))
    return u * 1j**l  # makes the coefficients real for odd J + l + k, too


@functools.cache
def Q(J: int, l: int, k: int) -> np.ndarray:  # noqa: N802
    """Return the Clebsch-Gordan matrices Q_{Jm}^{lk} [2J+1, 2l+1, 2k+1], |Q| = 1."""
    q = np.zeros((2 * J + 1, 2 * l + 1, 2 * k + 1), dtype=complex)
    for m in range(-J, J + 1):
        for a in range(-l, l + 1):
            for b in range(-k, k + 1):
                q[J + m, l + a, k + b] = clebsch_gordan(J, m, l, a, k, b)
    bases = real_from_complex(J).conj(), real_from_complex(l).conj()
    q = np.einsum("ma,lb,kc,abc->mlk", *bases, real_from_complex(k), q)
    assert np.abs(q.imag).max() < 1e-12
    return np.asarray(q.real / math.sqrt(2 * k + 1))


# --- kernels --------------------------------------------------------------------------


def paths(config: ModelConfig, l_max: int, k_max: int) -> list[tuple[int, int, int]]:
    """Return the (l, k, J) of a layer: the sums of (2.2) and (2.8).

    ``jmax`` limits J, and ``symmetry: O(3)`` keeps even k + l + J.
    """
    return [
        (l, k, J)
        for l in range(l_max + 1)
        for k in range(k_max + 1)
        for J in range(abs(k - l), k + l + 1)
        if (config.jmax is None or J <= config.jmax)
        and (config.symmetry == "SO(3)" or (k + l + J) % 2 == 0)
    ]


def equation_2_1(l: int, k: int, J: int, x: np.ndarray) -> np.ndarray:
    """Return W_J^{lk}(x) = sum_m Y_{Jm}(x/|x|) Q_{Jm}^{lk} [2l+1, 2k+1]."""
    W_J = np.zeros((2 * l + 1, 2 * k + 1))
    for m in range(-J, J + 1):
        W_J += Y(J, m, x) * Q(J, l, k)[J + m]
    return W_J


def u(r: float, cutoff: float) -> float:
    """Return the envelope (1 - (r / cutoff)^4)^3."""
    return (1.0 - (r / cutoff) ** 4) ** 3 if r < cutoff else 0.0


def option(config: ModelConfig, name: str, default: str) -> str:
    """Return an option that older configurations lack."""
    value: str = getattr(config, name, default)
    return value


def act(config: ModelConfig, x: np.ndarray) -> np.ndarray:
    """Return the activation of the MLPs: SiLU, or ReLU as in the thesis."""
    if option(config, "activation", "silu") == "relu":
        return np.maximum(x, 0.0)
    return np.asarray(x / (1.0 + np.exp(-x)))


def radial_basis(config: ModelConfig, r: float) -> np.ndarray:
    """Return what psi is a function of: the distance, or Bessel functions of it."""
    if config.radial_basis == "distance":
        return np.array([r / config.cutoff])
    n = np.arange(1, config.radial_functions + 1)
    size = math.sqrt(2.0 / config.cutoff)
    return np.asarray(size * np.sin(n * math.pi * r / config.cutoff) / r)


def psi(config: ModelConfig, layer: Weights, r: float) -> np.ndarray:
    """Return all radial functions psi_J^{lk}(r), one after another.

    An MLP, times the envelope where the network is smooth.
    """
    hidden = layer["radial.hidden.weight"] @ radial_basis(config, r)
    hidden = act(config, hidden + layer["radial.hidden.bias"])
    values = layer["radial.output.weight"] @ hidden + layer["radial.output.bias"]
    return values * (u(r, config.cutoff) if config.envelope == "smooth" else 1.0)


def equation_2_2(
    config: ModelConfig, layer: Weights, l_max: int, x: np.ndarray, f_j: Features
) -> Features:
    """Return W^{lk}(x) f_j^k for keys and values, summed over k, for each degree l.

        W^{lk}(x) = sum_J psi_J^{lk}(|x|) W_J^{lk}(x)

    Keys and values are channels of one kernel, keys first.  Channels c of the input
    meet channels c' of the output in psi ("full"), or in a linear layer before the
    kernel, and psi is diagonal in them ("depthwise").  Sizes are such that outputs vary
    about as much as inputs.
    """
    n_out = config.key_channels + config.channels
    depthwise = config.kernel == "depthwise"
    if depthwise:
        f_j = linear(layer["mix.weight"], f_j)
    n_in = f_j[0].shape[1]
    all_paths = paths(config, l_max, len(f_j) - 1)
    radial = psi(config, layer, float(np.linalg.norm(x)))
    radial = radial.reshape(len(all_paths), *([n_out] if depthwise else [n_in, n_out]))
    messages = [np.zeros((2 * l + 1, n_out)) for l in range(l_max + 1)]
    for (l, k, J), psi_J in zip(all_paths, radial, strict=True):
        n_paths = sum(path[0] == l for path in all_paths)
        W_J = math.sqrt((2 * l + 1) / n_paths) * equation_2_1(l, k, J, x)
        if depthwise:
            messages[l] += (W_J @ f_j[k]) * psi_J
        else:
            messages[l] += (W_J @ f_j[k]) @ psi_J / math.sqrt(n_in)
    return messages


# --- attention ------------------------------------------------------------------------


def linear(W: np.ndarray, f: Features) -> Features:
    """Return sum_c W_{c c'}^l f_c^l for each degree; W is [n_degrees, c, c']."""
    return [f[l] @ W[l] / math.sqrt(W.shape[1]) for l in range(len(W))]


def equation_2_3(layer: Weights, f_i: Features) -> Features:
    """Return the query q_i; no k but l passes through a matrix without a direction."""
    return linear(layer["query.weight"], f_i)


def equation_2_4(config: ModelConfig, messages: Features, n_degrees: int) -> Features:
    """Return the key k_ij: the first channels of the messages."""
    return [message[:, : config.key_channels] for message in messages[:n_degrees]]


def equation_2_5(
    config: ModelConfig, q_i: Features, k_ij: Sequence[Features], r_ij: Sequence[float]
) -> np.ndarray:
    """Return the attention weights alpha_ij [n_neighbors, heads].

    For q.k of d products logits are 10 tanh(q.k / (10 sqrt(d))), or q.k / sqrt(d).
    Smooth networks multiply exp by the envelope and add 1 to the sum.
    """
    width = config.key_channels // config.heads
    d = width * sum(len(q) for q in q_i)
    alpha = np.zeros((len(k_ij), config.heads))
    for h in range(config.heads):
        channels = slice(h * width, (h + 1) * width)
        for n, k in enumerate(k_ij):
            q_k = sum(
                (q[:, channels] * k_l[:, channels]).sum()
                for q, k_l in zip(q_i, k, strict=True)
            )
            logit = q_k / math.sqrt(d)
            if option(config, "attention", "bounded") == "bounded":
                logit = 10.0 * math.tanh(logit / 10.0)
            alpha[n, h] = math.exp(logit)
            if config.envelope == "smooth":
                alpha[n, h] *= u(r_ij[n], config.cutoff)
        rest = 1.0 if config.envelope == "smooth" else 0.0
        alpha[:, h] /= rest + alpha[:, h].sum()
    return alpha


# --- self-interaction -----------------------------------------------------------------


def equation_2_6(config: ModelConfig, layer: Weights, f_i: Features) -> np.ndarray:
    """Return w_{i,c c'}^{ll} [n_degrees, channels_in, channels_out].

    Products are divided by 2l + 1.
    """
    products = []
    for l, f in enumerate(f_i):
        for c in range(f.shape[1]):
            for c_prime in range(f.shape[1]):
                products.append(f[:, c] @ f[:, c_prime] / (2 * l + 1))
    hidden = layer["self_interaction.hidden.weight"] @ products
    hidden = act(config, hidden + layer["self_interaction.hidden.bias"])
    w = layer["self_interaction.output.weight"] @ hidden
    w = w + layer["self_interaction.output.bias"]
    n_in = f_i[0].shape[1]
    return np.asarray(w.reshape(len(f_i), n_in, -1) / math.sqrt(n_in))


def equation_2_7(w: np.ndarray, f_i: Features) -> Features:
    """Return f_out,c'^l = sum_c w_{c c'}^{ll} f_c^l."""
    out = [np.zeros((len(f), w.shape[2])) for f in f_i]
    for l, f in enumerate(f_i):
        for c in range(w.shape[1]):
            for c_prime in range(w.shape[2]):
                out[l][:, c_prime] += w[l, c, c_prime] * f[:, c]
    return out


def equation_2_8(
    config: ModelConfig,
    layer: Weights,
    l_max: int,
    f: Sequence[Features],
    neighbors: Sequence[Sequence[Neighbor]],
) -> list[Features]:
    """Return a layer's output: self-interaction + sum_k sum_j alpha_ij W_V^{lk} f_j^k.

    Heads are blocks of channels, and an equivariant linear layer follows them.
    """
    shared = min(len(f[0]) - 1, l_max) + 1  # degrees that are both in and out
    out = []
    for f_i, neighbors_of_i in zip(f, neighbors, strict=True):
        messages = [
            equation_2_2(config, layer, l_max, x, f[j]) for j, x in neighbors_of_i
        ]
        alpha = equation_2_5(
            config,
            equation_2_3(layer, f_i[:shared]),
            [equation_2_4(config, message, shared) for message in messages],
            [float(np.linalg.norm(x)) for _, x in neighbors_of_i],
        )
        attended = [np.zeros((2 * l + 1, config.channels)) for l in range(l_max + 1)]
        alpha_of_channel = np.repeat(alpha, config.channels // config.heads, axis=1)
        for a, message in zip(alpha_of_channel, messages, strict=True):
            for l in range(l_max + 1):
                attended[l] += a * message[l][:, config.key_channels :]
        out_i = linear(layer["output.weight"], attended)
        if config.self_interaction == "attentive":
            w = equation_2_6(config, layer, f_i[:shared])
            kept = equation_2_7(w, f_i[:shared])
        else:
            kept = linear(layer["self_interaction.weight"], f_i[:shared])
        for l in range(shared):
            out_i[l] += kept[l]
        out.append(out_i)
    return out


# --- nonlinearities -------------------------------------------------------------------


def equation_2_9(layer: Weights, f_i: Features) -> Features:
    """Return ReLU(LN(|f^l|)) f^l / |f^l|, normalized over channels."""
    out = []
    for l, f in enumerate(f_i):
        size = np.sqrt((f**2).sum(0))
        ln = (size - size.mean()) / np.sqrt(size.var() + 1e-5)
        ln = ln * layer[f"norms.{l}.weight"] + layer[f"norms.{l}.bias"]
        direction = np.divide(f, size, out=np.zeros_like(f), where=size > 0.0)
        out.append(np.maximum(ln, 0.0) * direction)
    return out


def gate(layer: Weights, f_i: Features) -> Features:
    """Return f^l sigma(g^l), g linear in f^0 and the mean squares of f^l."""
    invariants = np.concatenate([f_i[0][0], *[(f**2).mean(0) for f in f_i[1:]]])
    g = layer["gate.weight"] @ invariants + layer["gate.bias"]
    g = g.reshape(len(f_i), -1)
    return [f / (1.0 + np.exp(-g[l])) for l, f in enumerate(f_i)]


# --- the network ----------------------------------------------------------------------


def part(weights: Weights, prefix: str) -> Weights:
    """Return the weights of one layer."""
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def layers_of(
    config: ModelConfig,
    weights: Weights,
    species: Sequence[int],
    neighbors: Sequence[Sequence[Neighbor]],
) -> tuple[list[Features], list[Features]]:
    """Return the last features of the energy and of the direct forces.

    With a linear readout no nonlinearity follows the last layer.
    """
    nonlinearity = gate if config.nonlinearity == "gate" else equation_2_9
    linear_readout = option(config, "readout", "mlp") == "linear"

    def layer(
        prefix: tuple[str, str], l_max: int, f: list[Features], is_last: bool
    ) -> list[Features]:
        attended = equation_2_8(config, part(weights, prefix[0]), l_max, f, neighbors)
        if is_last and linear_readout:
            return attended
        return [nonlinearity(part(weights, prefix[1]), f_i) for f_i in attended]

    if config.embedding == "one-hot":
        f = [[np.eye(len(config.elements))[[s]]] for s in species]
    else:
        f = [[weights["embedding.weight"][[s]]] for s in species]
    before = f
    for n in range(config.layers):
        before = f
        is_last = n == config.layers - 1
        last = 1 if config.force_mode == "direct" else 0
        l_max = last if is_last else config.lmax
        f = layer((f"attention.{n}.", f"nonlinearities.{n}."), l_max, f, is_last)
    if config.force_mode == "both":
        return f, layer(("head_attention.", "head_nonlinearity."), 1, before, True)
    return f, f


def zbl(
    config: ModelConfig, species: Sequence[int], neighbors: Sequence[Sequence[Neighbor]]
) -> float:
    """Return the repulsion of nuclei (Ziegler, Biersack, Littmark 1985), eV.

    Switched off by the envelope at 0.8 times the sum of covalent radii.
    """
    symbols = [config.elements[s] for s in species]
    energy = 0.0
    for i, neighbors_of_i in enumerate(neighbors):
        for j, x in neighbors_of_i:
            r = float(np.linalg.norm(x))
            z_i, z_j = NUMBERS[symbols[i]], NUMBERS[symbols[j]]
            a = 0.46850 / (z_i**0.23 + z_j**0.23)
            phi = (
                0.18175 * math.exp(-3.19980 * r / a)
                + 0.50986 * math.exp(-0.94229 * r / a)
                + 0.28022 * math.exp(-0.40290 * r / a)
                + 0.02817 * math.exp(-0.20162 * r / a)
            )
            reach = 0.8 * (COVALENT_RADII[symbols[i]] + COVALENT_RADII[symbols[j]])
            # Every pair is met twice.
            energy += 0.5 * COULOMB * z_i * z_j / r * phi * u(r, reach)
    return energy


def energy_and_direct_forces(
    config: ModelConfig,
    weights: Weights,
    species: Sequence[int],
    neighbors: Sequence[Sequence[Neighbor]],
) -> tuple[float, np.ndarray]:
    """Return the energy, eV, and the type-1 outputs [n_atoms, 3], eV/A (or empty).

    The energy is the sum over atoms of a weighted sum, or of a small network, of the
    type-0 outputs; by default less what an atom without neighbors has.
    """

    def head(f_i: Features) -> float:
        if option(config, "readout", "mlp") == "linear":
            return float((weights["energy_head.weight"] @ f_i[0][0]).item())
        hidden = weights["energy_head.0.weight"] @ f_i[0][0]
        hidden = act(config, hidden + weights["energy_head.0.bias"])
        return float((weights["energy_head.2.weight"] @ hidden).item())

    f, directed = layers_of(config, weights, species, neighbors)
    energy = sum(head(f_i) for f_i in f)
    if option(config, "isolated_atoms", "zero") == "zero":
        isolated, _ = layers_of(config, weights, species, [[] for _ in species])
        energy -= sum(head(f_i) for f_i in isolated)
    energy *= config.energy_scale
    if config.zbl:
        energy += zbl(config, species, neighbors)
    if config.force_mode == "conservative":
        return energy, np.zeros((0, 3))
    forces = [f_i[1] @ weights["force_head.weight"][0] for f_i in directed]
    return energy, config.energy_scale * np.array(forces)


def neighbors_of(
    positions: np.ndarray, cutoff: float, cell: np.ndarray | None = None
) -> list[list[Neighbor]]:
    """Return the neighbors of every atom within the cutoff, with images in a box."""
    images = [np.zeros(3)]
    if cell is not None:
        steps = range(-3, 4)
        images = [
            np.array([a, b, c]) @ cell for a in steps for b in steps for c in steps
        ]
    return [
        [
            (j, x_j + image - x_i)
            for j, x_j in enumerate(positions)
            for image in images
            if 0.0 < np.linalg.norm(x_j + image - x_i) < cutoff
        ]
        for x_i in positions
    ]


def force_along(
    energy: Callable[[np.ndarray], float], positions: np.ndarray, direction: np.ndarray
) -> float:
    """Return -dE/ds of positions + s direction, by a difference of fourth order."""
    h = 1e-4  # A; smaller than the distance to a kink of ReLU, most likely
    e = [energy(positions + n * h * direction) for n in (-2, -1, 1, 2)]
    return -(e[0] - 8.0 * e[1] + 8.0 * e[2] - e[3]) / (12.0 * h)
