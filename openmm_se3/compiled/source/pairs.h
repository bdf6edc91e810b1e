// Pairs of atoms within the cutoff, and their radial functions.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <vector>

#include "parallel.h"
#include "vectors.h"

namespace {

// Atoms i and j and the vector from i to the image of j.
struct Neighbours {
  int i, j;
  double vector[3];
};

// All pairs of atoms and their images within the cutoff, once each.
class PairSearch {
 public:
  const std::vector<Neighbours>& without_box(const double* x, int n) {
    found_.clear();
    if (n <= FEW_ATOMS) {
      for (int i = 0; i < n; ++i)
        for (int j = i + 1; j < n; ++j) consider(x, i, j, {});
      return found_;
    }
    double low[3], high[3];
    for (int a = 0; a < 3; ++a) {
      low[a] = high[a] = x[a];
      for (int i = 1; i < n; ++i) {
        low[a] = std::min(low[a], x[3 * i + a]);
        high[a] = std::max(high[a], x[3 * i + a]);
      }
    }
    Vector places;
    for (int i = 0; i < n; ++i)
      for (int a = 0; a < 3; ++a)
        places.push_back(high[a] > low[a] ? (x[3 * i + a] - low[a]) / (high[a] - low[a]) : 0.0);
    const double lattice[9] = {},
                 heights[3] = {high[0] - low[0], high[1] - low[1], high[2] - low[2]};
    search(x, n, places, heights, lattice, false);
    return found_;
  }

  // The rows of the lattice are the box vectors.  Boxes smaller than the cutoff give
  // several images of an atom, and images of itself.
  const std::vector<Neighbours>& in_box(const double* x, int n, const double* lattice) {
    found_.clear();
    const double *a = lattice, *b = lattice + 3, *c = lattice + 6;
    const std::array<double, 3> across[3] = {cross(b, c), cross(c, a), cross(a, b)};
    const double volume = a[0] * across[0][0] + a[1] * across[0][1] + a[2] * across[0][2];
    TORCH_CHECK(std::isfinite(volume) && std::abs(volume) > 0.0, "the box has no volume");
    const double around = 4.0 / 3.0 * PI * CUTOFF * CUTOFF * CUTOFF;
    TORCH_CHECK(n * around <= MOST_NEIGHBOURS * std::abs(volume),
                "the box has collapsed: each atom would have more than 10,000 neighbours within "
                "the cutoff");
    double heights[3];
    for (int k = 0; k < 3; ++k)
      heights[k] =
          std::abs(volume) / std::sqrt(across[k][0] * across[k][0] + across[k][1] * across[k][1] +
                                       across[k][2] * across[k][2]);
    Vector places, wrapped(3 * n);
    for (int i = 0; i < n; ++i) {
      for (int d = 0; d < 3; ++d) wrapped[3 * i + d] = x[3 * i + d];
      for (int k = 0; k < 3; ++k) {
        const double place =
            (x[3 * i] * across[k][0] + x[3 * i + 1] * across[k][1] + x[3 * i + 2] * across[k][2]) /
            volume;
        const double boxes = std::floor(place);
        for (int d = 0; d < 3; ++d) wrapped[3 * i + d] -= boxes * lattice[3 * k + d];
        places.push_back(place - boxes);
      }
    }
    search(wrapped.data(), n, places, heights, lattice, true);
    return found_;
  }

 private:
  using Vector = std::vector<double>;
  static constexpr int FEW_ATOMS = 100;  // trying all pairs costs less than cells
  static constexpr double PI = 3.14159265358979323846;
  static constexpr double MOST_NEIGHBOURS = 10000.0;  // of an atom, at even density

  static std::array<double, 3> cross(const double* u, const double* v) {
    return {u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]};
  }

  void consider(const double* x, int i, int j, const std::array<double, 3>& shift) {
    Neighbours pair{i, j, {}};
    double square = 0.0;
    for (int a = 0; a < 3; ++a) {
      pair.vector[a] = x[3 * j + a] - x[3 * i + a] + shift[a];
      square += pair.vector[a] * pair.vector[a];
    }
    if (square < CUTOFF * CUTOFF) found_.push_back(pair);
  }

  // Divides the box into cells and looks from each at half of those around it; places
  // are positions as shares of the heights, 0 to 1.
  void search(const double* x, int n, const Vector& places, const double* heights,
              const double* lattice, bool periodic) {
    int cells[3], reach[3];
    for (int k = 0; k < 3; ++k) {
      const double limit = std::cbrt(n) + 1.0;  // more cells than atoms are of no use
      cells[k] = std::max(1, static_cast<int>(std::min(limit, heights[k] / CUTOFF)));
      reach[k] = periodic ? static_cast<int>(std::ceil(CUTOFF * cells[k] / heights[k])) : 1;
    }
    std::vector<int> next(n), head(cells[0] * cells[1] * cells[2], -1);
    for (int i = n - 1; i >= 0; --i) {
      int cell = 0;
      for (int k = 0; k < 3; ++k)
        cell = cell * cells[k] +
               std::min(static_cast<int>(places[3 * i + k] * cells[k]), cells[k] - 1);
      next[i] = head[cell];
      head[cell] = i;
    }
    int at[3], offset[3];
    for (at[0] = 0; at[0] < cells[0]; ++at[0])
      for (at[1] = 0; at[1] < cells[1]; ++at[1])
        for (at[2] = 0; at[2] < cells[2]; ++at[2])
          for (offset[0] = 0; offset[0] <= reach[0]; ++offset[0])
            for (offset[1] = offset[0] ? -reach[1] : 0; offset[1] <= reach[1]; ++offset[1])
              for (offset[2] = offset[0] || offset[1] ? -reach[2] : 0; offset[2] <= reach[2];
                   ++offset[2]) {
                std::array<double, 3> shift{};
                int mine = 0, other = 0;
                bool outside = false;
                for (int k = 0; k < 3; ++k) {
                  const int to = at[k] + offset[k];
                  const int boxes = to >= 0 ? to / cells[k] : -((cells[k] - 1 - to) / cells[k]);
                  outside |= boxes != 0;
                  for (int d = 0; d < 3; ++d) shift[d] += boxes * lattice[3 * k + d];
                  mine = mine * cells[k] + at[k];
                  other = other * cells[k] + to - boxes * cells[k];
                }
                if (outside && !periodic) continue;
                const bool here = !offset[0] && !offset[1] && !offset[2];
                for (int i = head[mine]; i >= 0; i = next[i])
                  for (int j = here ? next[i] : head[other]; j >= 0; j = next[j])
                    consider(x, i, j, shift);
              }
  }

  std::vector<Neighbours> found_;
};

// The same as arrays.  They are filled up to whole blocks with pairs
// whose envelope is zero.
template <class T>
struct Pairs {
  int n_atoms = 0, n_pairs = 0, n_blocks = 0, threads = 1;
  int intervals = 0;  // of the tables of radial functions
  Buffer<int> first_, second_, interval_;
  Buffer<T> distance_, rest_, steps_, direction_, envelope_, slope_, gradient_;
  int *first, *second;  // atoms i and j; j may be an image of i
  T* distance;          // |x_j - x_i|
  int* interval;        // where that is in the tables, and
  T *rest, *steps;      // the place there, 0 to 1, and its slope, 1/A
  T* direction[3];      // (x_j - x_i) / |x_j - x_i|
  T *envelope, *slope;  // u(r) and du/dr
  T* gradient[3];       // dE / d(x_j - x_i), added up by the layers

  void fill(int atoms, const std::vector<Neighbours>& found, int table_intervals) {
    n_atoms = atoms;
    n_pairs = found.size();
    n_blocks = (n_pairs + BLOCK - 1) / BLOCK;
    intervals = table_intervals;
    reserve(n_blocks * BLOCK);
    for (int p = 0; p < n_pairs; ++p) set(p, found[p].i, found[p].j, found[p].vector);
    for (int p = n_pairs; p < n_blocks * BLOCK; ++p) {
      first[p] = second[p] = interval[p] = 0;
      distance[p] = CUTOFF;
      direction[0][p] = 1;
      rest[p] = steps[p] = direction[1][p] = direction[2][p] = envelope[p] = slope[p] = 0;
    }
  }

  void clear_gradient() {
    for (int a = 0; a < 3; ++a) std::fill_n(gradient[a], n_blocks * BLOCK, T(0));
  }

 private:
  void reserve(std::size_t padded) {
    first = first_.reserve(padded);
    second = second_.reserve(padded);
    distance = distance_.reserve(padded);
    interval = interval_.reserve(padded);
    rest = rest_.reserve(padded);
    steps = steps_.reserve(padded);
    envelope = envelope_.reserve(padded);
    slope = slope_.reserve(padded);
    T* d = direction_.reserve(3 * padded);
    T* g = gradient_.reserve(3 * padded);
    for (int a = 0; a < 3; ++a) {
      direction[a] = d + a * padded;
      gradient[a] = g + a * padded;
    }
  }

  void set(int p, int i, int j, const double* vector) {
    const double square = vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2];
    const double r = std::sqrt(square + DISTANCE_EPSILON), x = r / CUTOFF;
    const double fading = std::max(0.0, 1.0 - x * x * x * x);
    // In float64: in float32 the place in an interval would lose its last digits.
    const double per_length = intervals / (CUTOFF - TABLE_START);
    const double place = std::max(0.0, (r - TABLE_START) * per_length);
    interval[p] = std::min(static_cast<int>(place), intervals - 1);
    rest[p] = place - interval[p];
    steps[p] = place > 0.0 ? per_length : 0.0;
    first[p] = i;
    second[p] = j;
    distance[p] = r;
    for (int a = 0; a < 3; ++a) direction[a][p] = vector[a] / r;
    envelope[p] = fading * fading * fading;
    slope[p] = -12.0 / CUTOFF * x * x * x * fading * fading;
  }
};

// Radial functions psi(r) and their slopes from a table of polynomials of degree 5, one an
// interval, which meet with two continuous derivatives.  Table [intervals][6][FUNCTIONS].
template <class T, int FUNCTIONS, bool SLOPE>
INLINE void radial(const T* table, const Pairs<T>& pairs, int p, T* psi, T* slope) {
  using V = Vec<T>;
  const T t = pairs.rest[p];
  const T* row = table + static_cast<std::size_t>(pairs.interval[p]) * 6 * FUNCTIONS;
  for (int c = 0; c < FUNCTIONS; c += LANES<T>) {
    V value = load<V>(row + 5 * FUNCTIONS + c), change{};
    for (int k = 4; k >= 0; --k) {
      if constexpr (SLOPE) change = value + t * change;
      value = load<V>(row + k * FUNCTIONS + c) + t * value;
    }
    store<V>(psi + c, value);
    if constexpr (SLOPE) store<V>(slope + c, change * pairs.steps[p]);
  }
}

// Adds dE/d(table) from dE/d(psi).
template <class T, int FUNCTIONS>
INLINE void radial_backward(T* table, const Pairs<T>& pairs, int p, const T* psi) {
  using V = Vec<T>;
  const T t = pairs.rest[p];
  T* row = table + static_cast<std::size_t>(pairs.interval[p]) * 6 * FUNCTIONS;
  for (int c = 0; c < FUNCTIONS; c += LANES<T>) {
    V value = load<V>(psi + c);
    for (int k = 0; k < 6; ++k) {
      add<V>(row + k * FUNCTIONS + c, value);
      value *= t;
    }
  }
}

}  // namespace
