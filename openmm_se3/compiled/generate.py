"""The part of the C++ source that depends on the shape of the network.

Spherical harmonics and couplings have constants only, most of them zero: they are
written out as straight code, so that nothing is multiplied by zero and no index is
looked up.  Names are those of ``source``.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from openmm_se3.config import ModelConfig
from openmm_se3.model.attention import LOGIT_BOUND
from openmm_se3.model.kernel import KernelBasis, SphericalHarmonics
from openmm_se3.model.transformer import DISTANCE_EPSILON, SE3Transformer

# Radial functions are tabulated from here, A, and constant below: nuclei stay away.
TABLE_START = 0.02
TINY = 1e-12  # a coefficient below this is the rounding of zero


def shape_header(network: SE3Transformer) -> str:
    """Return the text of ``shape.h`` for a network.

    Args:
        network: A network that :func:`openmm_se3.compiled.library.reason_against` has
            nothing against.
    """
    config = network.config
    bases = [cast(KernelBasis, layer.basis) for layer in network.attention]
    kernels = {_name(basis): basis for basis in bases}
    parts = [
        _constants(config, network.harmonics.jmax),
        _spherical_harmonics(network.harmonics),
        *(_kernel(name, basis) for name, basis in kernels.items()),
        "// Of each layer.",
        f"using Kernels = std::tuple<{', '.join(map(_name, bases))}>;",
    ]
    return "\n".join(parts) + "\n"


def _constants(config: ModelConfig, jmax: int) -> str:
    attentive = config.self_interaction == "attentive"
    width = config.self_interaction_width if attentive else 0
    products = config.channels * (config.channels + 1) // 2
    divisor = math.gcd(config.channels, config.key_channels, width, products)
    integers = {
        "SPECIES": len(config.elements),
        "CHANNELS": config.channels,
        "KEYS": config.key_channels,
        "HEADS": config.heads,
        "J_MAX": jmax,
        "WIDTH": width,
        # The largest power of two that divides all numbers of channels.
        "COMMON_DIVISOR": divisor & -divisor,
    }
    numbers = {
        "CUTOFF": config.cutoff,
        "ENERGY_SCALE": config.energy_scale,
        "LOGIT_BOUND": LOGIT_BOUND,
        "DISTANCE_EPSILON": DISTANCE_EPSILON,
        "TABLE_START": TABLE_START,
    }
    lines = [f"constexpr int {name} = {value};" for name, value in integers.items()]
    lines += [
        f"constexpr double {name} = {value!r};" for name, value in numbers.items()
    ]
    lines.append(f"constexpr bool WALL = {'true' if config.wall else 'false'};")
    return "\n".join(lines)


def _spherical_harmonics(harmonics: SphericalHarmonics) -> str:
    """Return Y(u) and the backward pass, degree by degree as in the network."""
    forward = ["Y[0] = V{} + T(1);"]
    backward: list[str] = []
    root = math.sqrt(3.0)
    if harmonics.jmax > 0:
        forward += [f"Y[{1 + a}] = T({root!r}) * u[{a}];" for a in range(3)]
    for step, J in zip(harmonics.steps, range(1, harmonics.jmax), strict=True):
        matrix = cast(Tensor, step.matrix).double().unflatten(0, (2 * J + 1, 3))
        back = []
        for c in range(2 * J + 3):
            terms = []
            for a, b in _nonzero(matrix[:, :, c]):
                value, low, one = float(matrix[a, b, c]), J * J + int(a), 1 + int(b)
                out = (J + 1) ** 2 + c
                terms.append(f"T({value!r}) * Y[{low}] * Y[{one}]")
                back.append(f"gY[{low}] += T({value!r}) * gY[{out}] * Y[{one}];")
                back.append(f"gY[{one}] += T({value!r}) * gY[{out}] * Y[{low}];")
            forward.append(f"Y[{(J + 1) ** 2 + c}] = {' + '.join(terms)};")
        backward = back + backward
    if harmonics.jmax > 0:
        backward += [f"gu[{a}] += T({root!r}) * gY[{1 + a}];" for a in range(3)]
    return "\n".join(
        [
            "template <class T, class V>",
            "INLINE void spherical_harmonics(const V* u, V* Y) {",
            *_indented(forward),
            "}",
            "// Adds dE/du; uses dE/dY up.",
            "template <class T, class V>",
            "INLINE void spherical_harmonics_backward(",
            "    const V* u, const V* Y, V* gY, V* gu) {",
            *_indented(backward),
            "}",
        ]
    )


def _kernel(name: str, basis: KernelBasis) -> str:
    """Return the struct of one kernel: (2.1), messages by (2.2), and both backwards."""
    coupling = basis.coupling.double().unflatten(1, (basis.n_rows, basis.dim_in))
    entries: list[str] = []
    message: list[str] = []
    backward: list[str] = []
    rows = iter(range(basis.n_rows))
    for number, path in enumerate(basis.paths):
        begin = f"if constexpr (TOP >= {path.l}) {{  // {path}"
        psi = f"  const V s = load<V>(psi + {number} * ROW);"
        message += [begin, psi]
        backward += [begin, psi, "  const V h = w * s;", "  V g{};"]
        for m in range(path.l**2, (path.l + 1) ** 2):
            row = next(rows)
            terms: list[str] = []
            back: list[str] = []
            for k in range(path.k**2, (path.k + 1) ** 2):
                column = {
                    a: float(coupling[a, row, k])
                    for (a,) in _nonzero(coupling[:, row, k])
                }
                if not column:
                    continue
                if path.J == 0:
                    factor = f"T({column[0]!r})"
                else:
                    factor = f"basis[{len(entries)} * BLOCK]"
                    sum_ = " + ".join(f"T({q!r}) * Y[{a}]" for a, q in column.items())
                    entries.append(f"B[{len(entries)}] = {sum_};")
                    back.append(f"const V d{k} = p * x{k};")
                    back += [f"gY[{a}] += T({q!r}) * d{k};" for a, q in column.items()]
                terms.append(f"{factor} * x{k}")
                back.append(f"gx[{k}] += {factor} * p;")
            message.append(f"  m[{m}] += s * ({' + '.join(terms)});")
            backward += [
                "  {",
                f"    const V p = h * slope[{m}];",
                f"    g += slope[{m}] * ({' + '.join(terms)});",
                *_indented(back, "    "),
                "  }",
            ]
        message.append("}")
        backward += [
            f"  add<V>(psi_back + {number} * ROW, w * g);",
            "  product += s * g;",
            "}",
        ]
    row_size = "constexpr int ROW = STRIDE * (sizeof(V) / sizeof(T));"
    loads = [f"const V x{k} = load<V>(x + {k} * ROW);" for k in range(basis.dim_in)]
    return "\n".join(
        [
            f"struct {name} {{",
            *_indented(
                [
                    f"static constexpr int K_MAX = {math.isqrt(basis.dim_in) - 1};",
                    f"static constexpr int L_MAX = {max(p.l for p in basis.paths)};",
                    f"static constexpr int PATHS = {len(basis.paths)};",
                    f"static constexpr int ENTRIES = {len(entries)};",
                    "template <class T, class V>",
                    "static INLINE void entries(const V* Y, V* B) {",
                    *_indented(entries),
                    "}",
                    "template <int TOP, int STRIDE, class V, class T>",
                    "static INLINE void message(",
                    "    const T* basis, const T* psi, const T* x, V* m) {",
                    *_indented([row_size, *loads]),
                    "  for (int d = 0; d < (TOP + 1) * (TOP + 1); ++d) m[d] = V{};",
                    *_indented(message),
                    "}",
                    "// From slope = dE/dm / w; returns the sum of m * slope.",
                    "template <int TOP, int STRIDE, class V, class T>",
                    "static INLINE V backward(",
                    "    V w, const T* basis, const T* psi, const T* x,",
                    "    const V* slope, T* psi_back, T* x_back, V* gY) {",
                    *_indented([row_size, *loads]),
                    f"  V gx[{basis.dim_in}] = {{}}, product{{}};",
                    *_indented(backward),
                    f"  for (int k = 0; k < {basis.dim_in}; ++k)",
                    "    add<V>(x_back + k * ROW, gx[k]);",
                    "  return product;",
                    "}",
                ]
            ),
            "};",
        ]
    )


def _name(basis: KernelBasis) -> str:
    k_max = math.isqrt(basis.dim_in) - 1
    l_max = max(path.l for path in basis.paths)
    return f"Kernel_{k_max}_{l_max}"


def _nonzero(values: Tensor) -> list[list[int]]:
    found: list[list[int]] = torch.nonzero(values.abs() > TINY).tolist()
    return found


def _indented(lines: list[str], by: str = "  ") -> list[str]:
    return [by + line for line in lines]
