"""The part of the Triton source that depends on the shape of the network.

Spherical harmonics and couplings have constants only, most of them zero: they are
written out as straight code, as for processors (:mod:`openmm_se3.compiled.codegen`).
Components of features are tuples of blocks [edges, channels], harmonics tuples of
blocks [edges, 1].  Names are those of ``source``.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, cast

from torch import Tensor

from openmm_se3.compiled.codegen import TABLE_START, TINY, rotation_generators
from openmm_se3.config import ModelConfig
from openmm_se3.nn.attention import LOGIT_BOUND, AttentionLayer
from openmm_se3.nn.kernel import KernelBasis, SphericalHarmonics
from openmm_se3.nn.transformer import DISTANCE_EPSILON, SE3Transformer
from openmm_se3.nn.zbl import EXPONENTS, WEIGHTS

# Of kernels, other than the functions that they call.
LAUNCHED = """# One machine code serves all numbers of atoms.
launched = triton.jit(do_not_specialize=("n_atoms", "room"))
"""

# Channels of keys, which queries have too, or of values.
Part = Literal["key", "value"]


@functools.cache
def network_source(config: ModelConfig) -> str:
    """Return constants that all kernels of a network share."""
    numbers = {
        "N_SPECIES": len(config.elements),
        "CHANNELS": config.channels,
        "KEYS": config.key_channels,
        "HEADS": config.heads,
        "WIDTH": config.self_interaction_width,
        "CUTOFF": config.cutoff,
        "TABLE_START": TABLE_START,
        "LOGIT_BOUND": LOGIT_BOUND,
        "DISTANCE_EPSILON": DISTANCE_EPSILON,
        "ENERGY_SCALE": config.energy_scale,
        "WALL": config.zbl,
    }
    for name, values in (("WALL_WEIGHT", WEIGHTS), ("WALL_EXPONENT", EXPONENTS)):
        numbers |= {f"{name}_{k}": value for k, value in enumerate(values)}
    lines = [LAUNCHED]
    lines += [f"{name} = tl.constexpr({value!r})" for name, value in numbers.items()]
    return "\n".join(lines) + "\n"


@functools.cache
def layer_source(config: ModelConfig, layer: int) -> str:
    """Return constants and couplings of one layer, which its kernels need."""
    network = _network(config)
    attention = cast(AttentionLayer, network.attention[layer])
    basis = attention.basis
    k_max = math.isqrt(basis.dim_in) - 1
    l_max = math.isqrt(attention.dim_out) - 1
    numbers = {
        "K_MAX": k_max,
        "L_MAX": l_max,
        "L_QUERY": min(k_max, l_max),
        "FUNCTIONS": radial_functions(config)[layer],
    }
    lines = [f"{name} = tl.constexpr({value})" for name, value in numbers.items()]
    lines += _harmonics(network.harmonics)
    parts: tuple[Part, ...] = ("key", "value")
    for part in parts:
        lines += _couplings(config, basis, part, l_max)
    torques = {"value": l_max, "key": min(k_max, l_max), "in": k_max}
    for name, degree in torques.items():
        lines += _torque(f"torque_{name}", degree)
    return "\n".join(lines) + "\n"


@functools.cache
def path_source(config: ModelConfig, layer: int) -> str:
    """Return what the derivatives by the radial tables of one layer need beside it."""
    attention = cast(AttentionLayer, _network(config).attention[layer])
    parts: tuple[Part, ...] = ("key", "value")
    lines = [line for part in parts for line in _by_path(attention.basis, part)]
    return "\n".join(lines) + "\n"


@functools.cache
def n_paths(config: ModelConfig) -> list[int]:
    """Return the number of paths of each layer."""
    layers = map(_as_attention, _network(config).attention)
    return [len(layer.basis.paths) for layer in layers]


@functools.cache
def kernel_shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """Return the highest degrees (k_max, l_max) of each layer."""
    return [
        (math.isqrt(layer.basis.dim_in) - 1, math.isqrt(layer.dim_out) - 1)
        for layer in map(_as_attention, _network(config).attention)
    ]


@functools.cache
def radial_functions(config: ModelConfig) -> list[int]:
    """Return the number of radial functions of each layer."""
    channels = config.key_channels + config.channels
    return [
        channels * len(layer.basis.paths)
        for layer in map(_as_attention, _network(config).attention)
    ]


@functools.cache
def _network(config: ModelConfig) -> SE3Transformer:
    return SE3Transformer(config)


def _as_attention(layer: object) -> AttentionLayer:
    return cast(AttentionLayer, layer)


def _function(name: str, arguments: str, body: list[str]) -> list[str]:
    return [
        "",
        "",
        "@triton.jit",
        f"def {name}({arguments}):",
        *(f"    {line}" for line in body),
    ]


def _names(letter: str, count: int) -> str:
    """Return the names of the parts of a tuple."""
    return ", ".join(f"{letter}{n}" for n in range(count)) + ","


def _harmonics(harmonics: SphericalHarmonics) -> list[str]:
    """Return Y(u), degree by degree as in the network."""
    body = ["Y0 = u0 * 0.0 + 1.0"]
    if harmonics.jmax > 0:
        body += [f"Y{1 + a} = {math.sqrt(3.0)!r} * u{a}" for a in range(3)]
    for step, J in zip(harmonics.steps, range(1, harmonics.jmax), strict=True):
        matrix = cast(Tensor, step.matrix).double().unflatten(0, (2 * J + 1, 3))
        for c in range(2 * J + 3):
            terms = [
                f"{float(matrix[a, b, c])!r} * Y{J * J + a} * Y{1 + b}"
                for a in range(2 * J + 1)
                for b in range(3)
                if abs(float(matrix[a, b, c])) > TINY
            ]
            body.append(f"Y{(J + 1) ** 2 + c} = {' + '.join(terms)}")
    body.append(f"return ({_names('Y', (harmonics.jmax + 1) ** 2)})")
    return _function("harmonics", "u0, u1, u2", body)


def _couplings(
    config: ModelConfig, basis: KernelBasis, part: Part, l_max: int
) -> list[str]:
    """Return messages by (2.2) and their derivatives, of keys or of values."""
    k_max = math.isqrt(basis.dim_in) - 1
    top = l_max if part == "value" else min(k_max, l_max)
    dim_out = (top + 1) ** 2
    width = config.key_channels + config.channels
    coupling = basis.coupling.double().unflatten(1, (basis.n_rows, basis.dim_in))
    n_harmonics = coupling.shape[0]

    start = [
        f"({_names('Y', n_harmonics)}) = Y",
        f"({_names('x', basis.dim_in)}) = x",
    ]
    message, sloped, back = list(start), list(start), [start[0]]
    sloped += [f"({_names('v', dim_out)}) = v", "along = x0 * 0.0"]
    back.append(f"({_names('v', dim_out)}) = v")
    set_out: set[int] = set()
    set_in: set[int] = set()
    row = 0
    for number, path in enumerate(basis.paths):
        rows = range(row, row + 2 * path.l + 1)
        row += 2 * path.l + 1
        if path.l > top:
            continue
        place = f"table + {number * width}"
        message += [f"# {path}", f"s = radial({place}, t)"]
        sloped += [f"# {path}", f"s, ds = radial_and_slope({place}, t)"]
        back += [f"# {path}", f"s = radial({place}, t)"]
        pushes: dict[int, list[str]] = {}
        for m, r in enumerate(rows, start=path.l**2):
            terms: list[str] = []
            for k in range(path.k**2, (path.k + 1) ** 2):
                factor = _factor(coupling[:, r, k], path.J == 0)
                if factor is None:
                    continue
                terms.append(f"{factor} * x{k}")
                pushes.setdefault(k, []).append(f"{factor} * v{m}")
            assign = "+=" if m in set_out else "="
            set_out.add(m)
            message.append(f"m{m} {assign} s * ({' + '.join(terms)})")
            sloped += [f"w = {' + '.join(terms)}", f"m{m} {assign} s * w"]
            sloped.append(f"d {'=' if m == path.l**2 else '+='} w * v{m}")
        sloped.append("along += ds * d")
        for k, terms in pushes.items():
            assign = "+=" if k in set_in else "="
            set_in.add(k)
            back.append(f"g{k} {assign} s * ({' + '.join(terms)})")
    out = f"({_names('m', dim_out)})"
    message.append(f"return {out}")
    sloped.append(f"return {out}, along")
    back.append(f"return ({_names('g', basis.dim_in)})")
    lines = _function(f"{part}_message", "Y, table, t, x", message)
    lines += _function(f"{part}_message_and_slope", "Y, table, t, x, v", sloped)
    lines += _function(f"{part}_message_back", "Y, table, t, v", back)
    return lines


def _by_path(basis: KernelBasis, part: Part) -> list[str]:
    """Return the derivative of (left . message) by the radial function of one path.

    Rows of what is sent, x, and of what the message is multiplied by, v, are read where
    the path has them, ``x_stride`` and ``v_stride`` apart.
    """
    k_max = math.isqrt(basis.dim_in) - 1
    l_max = max(path.l for path in basis.paths)
    top = l_max if part == "value" else min(k_max, l_max)
    coupling = basis.coupling.double().unflatten(1, (basis.n_rows, basis.dim_in))
    body = [f"({_names('Y', coupling.shape[0])}) = Y", "d = tl.load(x) * 0.0"]
    row = 0
    for number, path in enumerate(basis.paths):
        rows = range(row, row + 2 * path.l + 1)
        row += 2 * path.l + 1
        if path.l > top:
            continue
        body.append(f"if path == {number}:  # {path}")
        components = range(path.k**2, (path.k + 1) ** 2)
        body += [f"    x{k} = tl.load(x + {k} * x_stride)" for k in components]
        terms = []
        for m, r in enumerate(rows, start=path.l**2):
            body.append(f"    v{m} = tl.load(v + {m} * v_stride)")
            for k in components:
                factor = _factor(coupling[:, r, k], path.J == 0)
                if factor is not None:
                    terms.append(f"{factor} * x{k} * v{m}")
        body.append(f"    d = {' + '.join(terms)}")
    body.append("return d")
    return _function(f"{part}_by_path", "path, Y, x, v, x_stride, v_stride", body)


def _factor(column: Tensor, fixed: bool) -> str | None:
    """Return a sum of harmonics with these coefficients as text, None for zero."""
    terms = [(a, float(q)) for a, q in enumerate(column) if abs(float(q)) > TINY]
    if not terms:
        return None
    if fixed:
        return repr(terms[0][1])
    return f"({' + '.join(f'{q!r} * Y{a}' for a, q in terms)})"


def _torque(name: str, l_max: int) -> list[str]:
    """Return minus left . G_a right, which a turn about axis a changes.

    Blocks [edges, channels] of three axes, not yet added up over channels.
    """
    count = (l_max + 1) ** 2
    body = [f"({_names('p', count)}) = left", f"({_names('q', count)}) = right"]
    sums: list[list[str]] = [[], [], []]
    number = 0
    for degree in range(1, l_max + 1):
        generators = rotation_generators(degree)
        first = degree**2
        for i in range(2 * degree + 1):
            for j in range(i):
                axes = [(a, float(generators[a, i, j])) for a in range(3)]
                turned = [(a, g) for a, g in axes if abs(g) > TINY]
                if not turned:
                    continue
                one, two = first + i, first + j
                body.append(f"c{number} = p{one} * q{two} - p{two} * q{one}")
                for a, g in turned:
                    sums[a].append(f"{-g!r} * c{number}")
                number += 1
    if l_max == 0:
        body += ["nothing = p0 * 0.0", "return nothing, nothing, nothing"]
    else:
        body.append(f"return {', '.join(' + '.join(terms) for terms in sums)}")
    return _function(name, "left, right", body)
