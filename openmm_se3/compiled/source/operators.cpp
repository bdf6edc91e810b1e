// Energy and forces of an SE(3)-Transformer on a CPU, compiled for one shape.
//
// The same equations as openmm_se3/model, which is the reference: numbers in brackets
// are those of its docstrings.  What differs is the order of the work:
//
// * A pair of atoms is visited once for both of its directed edges, which share distance
//   and radial functions.  Radial functions come from a table (weights.py).
// * Nothing of an edge is stored but its attention weights.  The backward pass computes
//   messages again, so that memory grows with atoms, hardly with edges.
// * Channels lie next to each other and fill vector registers.  Couplings are written
//   out as straight code by generate.py (shape.h).
// * A thread adds up in arrays of its own, which are then added in a fixed order: the
//   same number of threads gives the same bits.
//
// Lengths are in A, energies in eV, but where an operator says so.  T is the precision of
// the network (REAL, which the compiler is given); positions and energies are float64
// throughout.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <vector>

#include "network.h"

namespace {

using T = REAL;

constexpr int PAIRS_OF_A_THREAD = 400;  // fewer give a thread less work than it costs

// Kept from call to call with the memory they hold.
struct Workspace {
  PairSearch search;
  Pairs<T> pairs;
  Network<T> network;
  Buffer<double> positions, energies, forces, mean;
};
thread_local Workspace workspace;

void check_finite(const double* x, std::int64_t count) {
  TORCH_CHECK(std::all_of(x, x + count, [](double v) { return std::isfinite(v); }),
              "a position is NaN or infinite");
}

constexpr std::int64_t WEIGHTS = Network<T>::WEIGHTS, FUNCTIONS = Network<T>::FUNCTIONS;

// Number of intervals of the tables of `members` networks.
std::int64_t check_network(const at::Tensor& weights, const at::Tensor& tables,
                           std::int64_t members = 1) {
  TORCH_CHECK(members > 0 && weights.numel() == members * WEIGHTS,
              "this is not the network that the operator was compiled for");
  const std::int64_t intervals = tables.numel() / (members * 6 * FUNCTIONS);
  TORCH_CHECK(intervals > 0 && tables.numel() == members * intervals * 6 * FUNCTIONS,
              "this is not the network that the operator was compiled for");
  TORCH_CHECK(weights.is_cpu() && tables.is_cpu(), "the operator reads the processor's memory only");
  return intervals;
}

// Of one network after the other [members].
const Constants* constants_in(const at::Tensor& constants, std::int64_t members = 1) {
  TORCH_CHECK(constants.numel() * sizeof(double) == members * sizeof(Constants),
              "this is not the network that the operator was compiled for");
  return reinterpret_cast<const Constants*>(constants.const_data_ptr<double>());
}

void fill_pairs(int n, const std::vector<Neighbours>& found, std::int64_t intervals) {
  Pairs<T>& pairs = workspace.pairs;
  pairs.fill(n, found, intervals);
  pairs.threads = std::min(at::get_num_threads(), 1 + pairs.n_pairs / PAIRS_OF_A_THREAD);
}

#ifdef TRAINING

const double* checked_positions(const at::Tensor& positions) {
  const double* x = positions.const_data_ptr<double>();
  check_finite(x, positions.numel());
  return x;
}

// The pairs of a batch, given as edges in both directions.
const std::vector<Neighbours>& pairs_of(const double* x, const at::Tensor& centre,
                                        const at::Tensor& neighbour, const at::Tensor& shifts) {
  static thread_local std::vector<Neighbours> found;
  found.clear();
  const std::int64_t *i = centre.const_data_ptr<std::int64_t>(),
                     *j = neighbour.const_data_ptr<std::int64_t>();
  const double* shift = shifts.numel() ? shifts.const_data_ptr<double>() : nullptr;
  constexpr double none[3] = {};
  for (std::int64_t e = 0; e < centre.numel(); ++e) {
    const double* s = shift ? shift + 3 * e : none;
    // Of an atom and its own images one of two.
    const bool kept =
        i[e] != j[e] ? i[e] < j[e] : std::lexicographical_compare(none, none + 3, s, s + 3);
    if (!kept) continue;
    Neighbours pair{static_cast<int>(i[e]), static_cast<int>(j[e]), {}};
    for (int a = 0; a < 3; ++a) pair.vector[a] = x[3 * j[e] + a] - x[3 * i[e] + a] + s[a];
    found.push_back(pair);
  }
  return found;
}

// Energies of atoms [n_atoms] and forces [n_atoms][3] of a batch of molecules.
std::tuple<at::Tensor, at::Tensor> atomic_energies_and_forces(
    const at::Tensor& positions, const at::Tensor& centre, const at::Tensor& neighbour,
    const at::Tensor& shifts, const at::Tensor& species, const at::Tensor& weights,
    const at::Tensor& tables, const at::Tensor& constants) {
  const int n = positions.size(0);
  const double* x = checked_positions(positions);
  fill_pairs(n, pairs_of(x, centre, neighbour, shifts), check_network(weights, tables));
  at::Tensor energies = at::empty({n}, positions.options()),
             forces = at::empty({n, 3}, positions.options());
  workspace.network.energies_and_forces(
      workspace.pairs, species.const_data_ptr<std::int64_t>(), weights.const_data_ptr<T>(),
      tables.const_data_ptr<T>(), *constants_in(constants), energies.mutable_data_ptr<double>(),
      forces.mutable_data_ptr<double>());
  return {energies, forces};
}

// Derivatives of sum_a seeds[a] energies[a] by the weights, without transposes, and the tables.
std::tuple<at::Tensor, at::Tensor> energy_gradient(
    const at::Tensor& positions, const at::Tensor& centre, const at::Tensor& neighbour,
    const at::Tensor& shifts, const at::Tensor& species, const at::Tensor& seeds,
    const at::Tensor& weights, const at::Tensor& tables) {
  const double* x = checked_positions(positions);
  fill_pairs(positions.size(0), pairs_of(x, centre, neighbour, shifts),
             check_network(weights, tables));
  at::Tensor by_weights =
                 at::zeros({static_cast<std::int64_t>(Network<T>::LEARNT)}, weights.options()),
             by_tables = at::zeros({tables.numel()}, tables.options());
  workspace.network.learn(workspace.pairs, species.const_data_ptr<std::int64_t>(),
                          seeds.const_data_ptr<double>(), weights.const_data_ptr<T>(),
                          tables.const_data_ptr<T>(), by_weights.mutable_data_ptr<T>(),
                          by_tables.mutable_data_ptr<T>());
  return {by_weights, by_tables};
}

#else

at::Tensor in_memory(const at::Tensor& numbers) {
  return numbers.detach().to(at::kCPU, at::kDouble).contiguous();
}

// As OpenMM calls it: positions of all particles [n_particles][3], of which `atoms`
// [n_atoms] are the network's, and box vectors as rows [3][3], or an empty tensor without a
// box, in lengths of `length` A.  Energies are in units of which there are `unit` in 1 eV,
// with `offset` eV added.  Weights, tables and constants may be those of several networks, one
// behind the other [members][...]: results are then the mean of theirs.
std::tuple<at::Tensor, at::Tensor> energy_and_forces(
    const at::Tensor& positions, const at::Tensor& box, const at::Tensor& species,
    const at::Tensor& atoms, const at::Tensor& weights, const at::Tensor& tables,
    const at::Tensor& constants, double length, double unit, double offset) {
  const int n = atoms.numel();
  TORCH_CHECK(n > 0 && species.numel() == n,
              "this model does not know its atoms: call set_atoms with a species for each");
  TORCH_CHECK(positions.dim() == 2 && positions.size(1) == 3, "positions must be [n_particles, 3]");
  TORCH_CHECK(box.numel() == 0 || box.numel() == 9, "the box must be [3, 3]");
  const std::int64_t members = weights.numel() / WEIGHTS;
  const std::int64_t intervals = check_network(weights, tables, members);
  const Constants* own = constants_in(constants, members);
  const std::int64_t* kinds = species.const_data_ptr<std::int64_t>();
  TORCH_CHECK(std::all_of(kinds, kinds + n, [](auto kind) { return 0 <= kind && kind < SPECIES; }),
              "a species is none of the model's");
  const std::int64_t* index = atoms.const_data_ptr<std::int64_t>();
  const at::Tensor particles = in_memory(positions);
  const double* from = particles.const_data_ptr<double>();
  double* x = workspace.positions.reserve(3 * n);
  for (int i = 0; i < n; ++i) {
    TORCH_CHECK(0 <= index[i] && index[i] < particles.size(0), "there are fewer particles than atoms of the force");
    for (int a = 0; a < 3; ++a) x[3 * i + a] = length * from[3 * index[i] + a];
  }
  check_finite(x, 3 * n);
  PairSearch& search = workspace.search;
  if (box.numel()) {
    const at::Tensor rows = in_memory(box);
    double lattice[9];
    for (int k = 0; k < 9; ++k) lattice[k] = length * rows.const_data_ptr<double>()[k];
    fill_pairs(n, search.in_box(x, n, lattice), intervals);
  } else {
    fill_pairs(n, search.without_box(x, n), intervals);
  }
  double *energies = workspace.energies.reserve(n), *forces = workspace.forces.reserve(3 * n),
         *mean = workspace.mean.reserve(3 * n), sum = 0.0;
  std::fill_n(mean, 3 * n, 0.0);
  const T *w = weights.const_data_ptr<T>(), *t = tables.const_data_ptr<T>();
  for (std::int64_t m = 0; m < members; ++m) {
    workspace.network.energies_and_forces(workspace.pairs, kinds, w + m * WEIGHTS,
                                          t + m * intervals * 6 * FUNCTIONS, own[m], energies,
                                          forces);
    sum = std::accumulate(energies, energies + n, sum);
    for (int k = 0; k < 3 * n; ++k) mean[k] += forces[k] / members;
  }
  at::Tensor energy = at::empty({1}, particles.options()), result = at::zeros_like(particles);
  *energy.mutable_data_ptr<double>() = unit * (sum / members + offset);
  double* to = result.mutable_data_ptr<double>();
  for (int i = 0; i < n; ++i)
    for (int a = 0; a < 3; ++a) to[3 * index[i] + a] = unit * length * mean[3 * i + a];
  return {energy.to(positions.options()), result.to(positions.options())};
}

#endif

}  // namespace

// OPERATORS is the namespace of this build, given to the compiler.
#define REGISTER_IN(name) TORCH_LIBRARY(name, library)
REGISTER_IN(OPERATORS) {
#ifdef TRAINING
  library.def(
      "atomic_energies_and_forces(Tensor positions, Tensor centre, Tensor neighbour, Tensor "
      "shifts, Tensor species, Tensor weights, Tensor tables, Tensor constants) -> (Tensor, "
      "Tensor)",
      atomic_energies_and_forces);
  library.def(
      "energy_gradient(Tensor positions, Tensor centre, Tensor neighbour, Tensor shifts, Tensor "
      "species, Tensor seeds, Tensor weights, Tensor tables) -> (Tensor, Tensor)",
      energy_gradient);
#else
  library.def(
      "energy_and_forces(Tensor positions, Tensor box, Tensor species, Tensor atoms, Tensor "
      "weights, Tensor tables, Tensor constants, float length, float unit, float offset) -> "
      "(Tensor, Tensor)",
      energy_and_forces);
#endif
}
