"""The part of the C++ source that depends on the shape of the network.

Spherical harmonics and couplings have constants only, most of them zero: they are
written out as straight code, so that nothing is multiplied by zero and no index is
looked up.  Names are those of ``source``.
"""

from __future__ import annotations

import functools
import math
from typing import cast

import torch
from e3nn import o3
from torch import Tensor

from openmm_se3.config import ModelConfig
from openmm_se3.nn.attention import LOGIT_BOUND
from openmm_se3.nn.kernel import KernelBasis, SphericalHarmonics
from openmm_se3.nn.transformer import DISTANCE_EPSILON, SE3Transformer
from openmm_se3.nn.zbl import EXPONENTS, WEIGHTS

# Radial functions are tabulated from here, A, and constant below: nuclei stay away.
TABLE_START = 0.02
TORQUE_COMMENT = (
    "// The message m, and from v = dE/dm the derivatives by psi and x.  E does not",
    "// change when direction, x and v turn together, so that the torque on the",
    "// direction is the opposite of those on x and v.  Paths of J = 0 do not see the",
    "// direction: they come after it.",
)
TINY = 1e-12  # a coefficient below this is the rounding of zero


@functools.cache
def shape_header(config: ModelConfig) -> str:
    """Return the text of ``shape.h`` for a shape of network.

    Args:
        config: A shape that :func:`openmm_se3.compiled.library.reason_against` has
            nothing against.
    """
    network = SE3Transformer(config)
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
    lines.append(f"constexpr bool WALL = {'true' if config.zbl else 'false'};")
    arrays = {"WALL_WEIGHTS": WEIGHTS, "WALL_EXPONENTS": EXPONENTS}
    lines += [
        f"constexpr double {name}[] = {{{', '.join(map(repr, values))}}};"
        for name, values in arrays.items()
    ]
    return "\n".join(lines)


def _spherical_harmonics(harmonics: SphericalHarmonics) -> str:
    """Return Y(u), degree by degree as in the network."""
    lines = ["Y[0] = V{} + T(1);"]
    if harmonics.jmax > 0:
        root = math.sqrt(3.0)
        lines += [f"Y[{1 + a}] = T({root!r}) * u[{a}];" for a in range(3)]
    for step, J in zip(harmonics.steps, range(1, harmonics.jmax), strict=True):
        matrix = cast(Tensor, step.matrix).double().unflatten(0, (2 * J + 1, 3))
        for c in range(2 * J + 3):
            terms = " + ".join(
                f"T({float(matrix[a, b, c])!r}) * Y[{J * J + a}] * Y[{1 + b}]"
                for a, b in _nonzero(matrix[:, :, c])
            )
            lines.append(f"Y[{(J + 1) ** 2 + c}] = {terms};")
    return "\n".join(
        [
            "template <class T, class V>",
            "INLINE void spherical_harmonics(const V* u, V* Y) {",
            *_indented(lines),
            "}",
        ]
    )


def rotation_generators(degree: int) -> Tensor:
    """Return how components of a degree l change when space turns [3, 2l+1, 2l+1].

    For a turn by a small angle t about axis a, f becomes f + t G_a f; for l = 1 that is
    f + t e_a x f.
    """
    if degree == 0:
        return torch.zeros(3, 1, 1, dtype=torch.float64)
    # (e_a x f)_i = sum_j epsilon_{iaj} f_j
    vector = torch.zeros(3, 3, 3, dtype=torch.float64)
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        vector[a, c, b], vector[a, b, c] = 1.0, -1.0
    generators = vector
    for low in range(1, degree):
        coupling = o3.wigner_3j(low, 1, low + 1, dtype=torch.float64)
        # A coupling stays as it is when all of its three indices turn: its generator
        # on c is minus those on a and b, and the transpose of one is minus that.
        turned = torch.einsum("xai,abc->xibc", generators, coupling)
        turned = turned + torch.einsum("xbi,abc->xaic", vector, coupling)
        square = 2 * low + 3
        generators = square * torch.einsum("xabc,abd->xcd", turned, coupling)
    return generators


def _torque(up_to: int, left: str, right: str, condition: str) -> list[str]:
    """Return lines that take left . G_a right from the torque, degree by degree."""
    lines: list[str] = []
    for degree in range(1, up_to + 1):
        generators = rotation_generators(degree)
        first = degree**2
        own: list[str] = []
        for i in range(2 * degree + 1):
            for j in range(i):
                axes = [(a, float(generators[a, i, j])) for a in range(3)]
                turned = [(a, g) for a, g in axes if abs(g) > TINY]
                if turned:
                    one, two = f"[{first + i}]", f"[{first + j}]"
                    product = f"{left}{one} * {right}{two} - {left}{two} * {right}{one}"
                    own.append("{")
                    own.append(f"  const V t = {product};")
                    own += [f"  torque[{a}] -= T({g!r}) * t;" for a, g in turned]
                    own.append("}")
        lines += [condition.format(degree), *_indented(own), "}"] if condition else own
    return lines


def _kernel(name: str, basis: KernelBasis) -> str:
    """Return the struct of one kernel: (2.1), messages by (2.2), and their backward."""
    coupling = basis.coupling.double().unflatten(1, (basis.n_rows, basis.dim_in))
    k_max = math.isqrt(basis.dim_in) - 1
    l_max = max(path.l for path in basis.paths)
    entries: list[str] = []
    message: list[str] = []
    backward: dict[bool, list[str]] = {True: [], False: []}  # by whether J = 0
    rows = iter(range(basis.n_rows))
    for number, path in enumerate(basis.paths):
        begin = f"if constexpr (TOP >= {path.l}) {{  // {path}"
        psi = f"  const V s = load<V>(psi + {number} * ROW);"
        message += [begin, psi]
        back = backward[path.J == 0]
        back += [begin, psi, "  V g{};"]
        for m in range(path.l**2, (path.l + 1) ** 2):
            row = next(rows)
            terms: list[str] = []
            slopes: list[str] = []
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
                terms.append(f"{factor} * x{k}")
                slopes.append(f"gx[{k}] += {factor} * p;")
            message.append(f"  m[{m}] += s * ({' + '.join(terms)});")
            back += [
                "  {",
                f"    const V t = {' + '.join(terms)}, p = s * v[{m}];",
                f"    g += v[{m}] * t;",
                f"    m[{m}] += s * t;",
                *_indented(slopes, "    "),
                "  }",
            ]
        message.append("}")
        back += [f"  add<V>(psi_back + {number} * ROW, g);", "}"]
    row_size = "constexpr int ROW = STRIDE * (sizeof(V) / sizeof(T));"
    dim_in = basis.dim_in
    loads = [f"const V x{k} = load<V>(x + {k} * ROW);" for k in range(dim_in)]
    features = ", ".join(f"x{k}" for k in range(dim_in))
    return "\n".join(
        [
            f"struct {name} {{",
            *_indented(
                [
                    f"static constexpr int K_MAX = {k_max};",
                    f"static constexpr int L_MAX = {l_max};",
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
                    *TORQUE_COMMENT,
                    "template <int TOP, int STRIDE, class V, class T>",
                    "static INLINE void backward(",
                    "    const T* basis, const T* psi, const T* x, const V* v, V* m,",
                    "    T* psi_back, T* x_back, V* torque) {",
                    *_indented([row_size, *loads]),
                    f"  const V f[{dim_in}] = {{{features}}};",
                    f"  V gx[{dim_in}] = {{}};",
                    "  for (int d = 0; d < (TOP + 1) * (TOP + 1); ++d) m[d] = V{};",
                    *_indented(backward[False]),
                    *_indented(_torque(k_max, "gx", "f", "")),
                    *_indented(_torque(l_max, "m", "v", "if constexpr (TOP >= {}) {{")),
                    *_indented(backward[True]),
                    f"  for (int k = 0; k < {dim_in}; ++k)",
                    "    add<V>(x_back + k * ROW, gx[k]);",
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
