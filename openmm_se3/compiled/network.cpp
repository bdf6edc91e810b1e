// Energy and forces of an SE(3)-Transformer on a CPU, compiled for one shape.
//
// The same equations as openmm_se3/model, which is the reference: numbers in brackets
// are those of its docstrings.  What differs is the order of the work:
//
// * A pair of atoms is visited once for both of its directed edges, which share distance
//   and radial functions.  Radial functions come from a table (pack.py).
// * Nothing of an edge is stored but its attention weights.  The backward pass computes
//   messages again, so that memory grows with atoms, hardly with edges.
// * Channels lie next to each other and fill vector registers.  Couplings are written
//   out as straight code by generate.py (shape.h).
// * A thread adds up in arrays of its own, which are then added in a fixed order: the
//   same number of threads gives the same bits.
//
// Lengths are in A, energies in eV.  T is the precision of the network (REAL, which the
// compiler is given); positions and energies are float64 throughout.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <omp.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <numeric>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#define INLINE inline __attribute__((always_inline))

namespace {

// ---------------------------------------------------------------------- vectors

#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64;
#elif defined(__AVX__)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif

template <class T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
};

template <class V, class T>
INLINE V load(const T* from) {
  return *reinterpret_cast<const V*>(from);
}
template <class V, class T>
INLINE void store(T* to, V value) {
  *reinterpret_cast<V*>(to) = value;
}
template <class V, class T>
INLINE void add(T* to, V value) {
  *reinterpret_cast<V*>(to) += value;
}

constexpr int BLOCK = 8;  // pairs that are dealt with together
template <class T>
using PairVec = typename VectorOf<T, BLOCK>::type;

#include "shape.h"

// Channels are dealt with in groups of this many.
template <class T>
constexpr int LANES = std::min<int>(REGISTER_BYTES / sizeof(T), COMMON_DIVISOR);
template <class T>
using Vec = typename VectorOf<T, LANES<T>>::type;

template <class V>
INLINE auto sum(V value) {
  std::decay_t<decltype(value[0])> total = value[0];
  for (unsigned i = 1; i < sizeof(V) / sizeof(total); ++i) total += value[i];
  return total;
}

// exp(x) = 2^n + 2^n q(r), where q is a polynomial: both terms, to the rounding of T.
template <class T>
INLINE std::pair<T, T> exponential_terms(T x) {
  constexpr bool single = sizeof(T) == 4;
  using Integer = std::conditional_t<single, std::int32_t, std::int64_t>;
  constexpr T limit = single ? 87.0 : 708.0;
  constexpr T log2e = 1.4426950408889634, high = single ? 0.693359375 : 0.693145751953125;
  constexpr T low = single ? -2.12194440054690583e-4 : 1.42860682030941723212e-6;
  x = x < -limit ? -limit : (x > limit ? limit : x);
  const T n = std::nearbyint(x * log2e);
  const T r = (x - n * high) - n * low;
  constexpr int terms = single ? 7 : 13;
  T p = 1.0;
#pragma GCC unroll 16
  for (int i = terms; i >= 2; --i) p = T(1.0) + r * p * T(1.0 / i);
  const Integer bits = (static_cast<Integer>(n) + (single ? 127 : 1023)) << (single ? 23 : 52);
  T scale;
  __builtin_memcpy(&scale, &bits, sizeof(T));
  return {scale, scale * (r * p)};
}

template <class T>
INLINE T exponential(T x) {
  const auto [scale, rest] = exponential_terms(x);
  return scale + rest;
}

template <class T>
INLINE T hyperbolic_tangent(T x) {
  const auto [scale, rest] = exponential_terms(2 * x);
  const T less_one = (scale - T(1.0)) + rest;  // exact to its last digit near zero, too
  return less_one / (less_one + T(2.0));
}

template <class T>
INLINE T sigmoid(T x) {
  return T(1.0) / (T(1.0) + exponential(-x));
}

// ---------------------------------------------------------------------- memory

// Numbers that are not given back until the thread ends.
template <class T>
class Buffer {
 public:
  T* reserve(std::size_t size) {
    if (size > size_) {
      std::free(data_);
      size_ = size + size / 8;
      data_ = static_cast<T*>(std::aligned_alloc(64, (size_ * sizeof(T) + 63) / 64 * 64));
      if (!data_) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    return data_;
  }
  ~Buffer() { std::free(data_); }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

// ---------------------------------------------------------------------- parameters

constexpr int dimension(int degree) { return (degree + 1) * (degree + 1); }
constexpr int MESSAGE = KEYS + CHANNELS;  // channels of a message: of its key and value
constexpr int HARMONICS = dimension(J_MAX);

// In the order in which pack.py writes them.  A name that ends in _t is the transpose,
// which the backward pass needs.
template <class T, class Kernel>
struct LayerWeights {
  static constexpr int Q = std::min(Kernel::L_MAX, Kernel::K_MAX) + 1;
  static constexpr int PRODUCTS = Q * CHANNELS * (CHANNELS + 1) / 2;
  static constexpr int MIXING = Q * CHANNELS * CHANNELS;
  static constexpr int GATES = (Kernel::L_MAX + 1) * CHANNELS;
  T query[Q * CHANNELS * KEYS], query_t[Q * KEYS * CHANNELS];
  T mix[(Kernel::K_MAX + 1) * CHANNELS * MESSAGE], mix_t[(Kernel::K_MAX + 1) * MESSAGE * CHANNELS];
  T output[(Kernel::L_MAX + 1) * CHANNELS * CHANNELS],
      output_t[(Kernel::L_MAX + 1) * CHANNELS * CHANNELS];
  // Self-interaction: attentive, or without a width linear.
  T hidden[PRODUCTS * WIDTH], hidden_t[WIDTH * PRODUCTS], hidden_bias[WIDTH];
  T mixing[WIDTH * MIXING], mixing_t[MIXING * WIDTH], mixing_bias[WIDTH ? MIXING : 0];
  T linear[WIDTH ? 0 : MIXING], linear_t[WIDTH ? 0 : MIXING];
  T gate[GATES * GATES], gate_t[GATES * GATES], gate_bias[GATES];
};

// Derivatives of an energy by what can be learnt: the same without transposes.
template <class T, class Kernel>
struct LayerGradient {
  using Of = LayerWeights<T, Kernel>;
  T query[Of::Q * CHANNELS * KEYS];
  T mix[(Kernel::K_MAX + 1) * CHANNELS * MESSAGE];
  T output[(Kernel::L_MAX + 1) * CHANNELS * CHANNELS];
  T hidden[Of::PRODUCTS * WIDTH], hidden_bias[WIDTH];
  T mixing[WIDTH * Of::MIXING], mixing_bias[WIDTH ? Of::MIXING : 0];
  T linear[WIDTH ? 0 : Of::MIXING];
  T gate[Of::GATES * Of::GATES], gate_bias[Of::GATES];
};

// ---------------------------------------------------------------------- linear layers

// Calls work(size, start) for all rows in groups of up to 8; size is a constant.
template <class Work>
INLINE void in_groups(int rows, Work work) {
  int r = 0;
  for (; rows - r >= 8; r += 8) work(std::integral_constant<int, 8>(), r);
  if (rows - r >= 4) {
    work(std::integral_constant<int, 4>(), r);
    r += 4;
  }
  if (rows - r == 3) work(std::integral_constant<int, 3>(), r);
  if (rows - r == 2) work(std::integral_constant<int, 2>(), r);
  if (rows - r == 1) work(std::integral_constant<int, 1>(), r);
}

// y[r] (+)= x[r] W + bias for R rows at once; W [IN][OUT].
template <int R, int IN, int OUT, bool ADD, class T>
INLINE void multiply_rows(const T* const* x, const T* weight, const T* bias, T* const* y) {
  using V = Vec<T>;
  for (int o = 0; o < OUT; o += LANES<T>) {
    V total[R];
    for (int r = 0; r < R; ++r) {
      if constexpr (ADD) total[r] = load<V>(y[r] + o);
      else total[r] = bias ? load<V>(bias + o) : V{};
    }
    for (int i = 0; i < IN; ++i) {
      const V w = load<V>(weight + i * OUT + o);
      for (int r = 0; r < R; ++r) total[r] += x[r][i] * w;
    }
    for (int r = 0; r < R; ++r) store<V>(y[r] + o, total[r]);
  }
}

// The same for any number of rows; x and y give the address of a row.
template <int IN, int OUT, bool ADD = false, class T, class X, class Y>
void multiply(int rows, X x, const T* weight, const T* bias, Y y) {
  in_groups(rows, [&](auto size, int start) {
    const T* from[size];
    T* to[size];
    for (int k = 0; k < size; ++k) {
      from[k] = x(start + k);
      to[k] = y(start + k);
    }
    multiply_rows<size, IN, OUT, ADD>(from, weight, bias, to);
  });
}

// Adds the sum over rows of x[i] y[o] to dE/dW [IN][OUT], and of y[o] to dE/d(bias).
template <int IN, int OUT, class T, class X, class Y>
void multiply_gradient(int rows, X x, Y y, T* weight, T* bias) {
  using V = Vec<T>;
  in_groups(rows, [&](auto size, int start) {
    const T *from[size], *slope[size];
    for (int k = 0; k < size; ++k) {
      from[k] = x(start + k);
      slope[k] = y(start + k);
    }
    for (int o = 0; o < OUT; o += LANES<T>) {
      V s[size];
      for (int k = 0; k < size; ++k) s[k] = load<V>(slope[k] + o);
      for (int i = 0; i < IN; ++i) {
        V total = load<V>(weight + i * OUT + o);
        for (int k = 0; k < size; ++k) total += from[k][i] * s[k];
        store<V>(weight + i * OUT + o, total);
      }
      if (bias)
        for (int k = 0; k < size; ++k) add<V>(bias + o, s[k]);
    }
  });
}

// Addresses of the rows (atom, m) of degree l in an array [n_atoms][DIM][WIDE].
template <int DIM, int WIDE, class T>
struct RowsOfDegree {
  T* data;
  int l;
  T* operator()(int row) const {
    return data + ((row / (2 * l + 1)) * DIM + l * l + row % (2 * l + 1)) * WIDE;
  }
};

// EquivariantLinear: channels mixed within each degree up to L.
template <int L, int IN, int DIM_IN, int OUT, int DIM_OUT, bool ADD = false, class T>
void mix_channels(int n_atoms, const T* x, const T* weight, T* y) {
  for (int l = 0; l <= L; ++l)
    multiply<IN, OUT, ADD>(n_atoms * (2 * l + 1), RowsOfDegree<DIM_IN, IN, const T>{x, l},
                           weight + l * IN * OUT, static_cast<const T*>(nullptr),
                           RowsOfDegree<DIM_OUT, OUT, T>{y, l});
}

template <int L, int IN, int DIM_IN, int OUT, int DIM_OUT, class T>
void mix_channels_gradient(int n_atoms, const T* x, const T* slope, T* weight) {
  for (int l = 0; l <= L; ++l)
    multiply_gradient<IN, OUT>(n_atoms * (2 * l + 1), RowsOfDegree<DIM_IN, IN, const T>{x, l},
                               RowsOfDegree<DIM_OUT, OUT, const T>{slope, l}, weight + l * IN * OUT,
                               static_cast<T*>(nullptr));
}

// Calls work(begin, end) for ranges of 0 to n - 1, one a thread.
template <class Work>
void in_parallel(int n, int threads, Work work) {
  if (threads <= 1 || n < 2) {
    work(0, n);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t count = omp_get_num_threads(), mine = omp_get_thread_num();
    work(static_cast<int>(n * mine / count), static_cast<int>(n * (mine + 1) / count));
  }
}

// Calls work(begin, end, accumulator) likewise, and returns the sum of the accumulators,
// which are arrays of `size` numbers.
template <class T, class Work>
T* sum_in_parallel(Buffer<T>& memory, std::size_t size, int n, int threads, Work work) {
  threads = std::max(1, std::min(threads, n));
  T* sums = memory.reserve(size * threads);
  if (threads == 1) {
    std::fill_n(sums, size, T(0));
    work(0, n, sums);
    return sums;
  }
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t mine = omp_get_thread_num();
    std::fill_n(sums + mine * size, size, T(0));
    work(static_cast<int>(n * mine / threads), static_cast<int>(n * (mine + 1) / threads),
         sums + mine * size);
#pragma omp barrier
    const std::size_t end = size * (mine + 1) / threads;
    for (std::size_t k = size * mine / threads; k < end; ++k)
      for (int other = 1; other < threads; ++other) sums[k] += sums[k + other * size];
  }
  return sums;
}

// Adds up likewise, to what `sums` holds.
template <class T, class Work>
void add_in_parallel(T* sums, std::size_t size, int n, int threads, Work work) {
  if (threads <= 1 || n < 2) {
    work(0, n, sums);
    return;
  }
  static thread_local Buffer<T> memory;
  const T* more = sum_in_parallel(memory, size, n, threads, work);
  for (std::size_t k = 0; k < size; ++k) sums[k] += more[k];
}

// ---------------------------------------------------------------------- pairs

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

// ---------------------------------------------------------------------- attention layer

template <class T, class Kernel>
class Layer {
 public:
  using V = Vec<T>;
  using P = PairVec<T>;
  using Parameters = LayerWeights<T, Kernel>;
  using Gradient = LayerGradient<T, Kernel>;
  static constexpr int K_MAX = Kernel::K_MAX, L_MAX = Kernel::L_MAX;
  static constexpr int L_QUERY = std::min(K_MAX, L_MAX);
  static constexpr int D_IN = dimension(K_MAX), D_OUT = dimension(L_MAX);
  static constexpr int D_QUERY = dimension(L_QUERY);
  static constexpr int N = LANES<T>;
  static constexpr int KEY_GROUPS = KEYS / N, VALUE_GROUPS = CHANNELS / N;
  static constexpr int STRIDE = MESSAGE / N;  // groups of channels in a row of a message
  static constexpr int FUNCTIONS = Kernel::PATHS * MESSAGE;
  static constexpr int SENDER = D_IN * MESSAGE, QUERY = D_QUERY * KEYS, HEAD = D_OUT * CHANNELS;
  static constexpr int GATES = (L_MAX + 1) * CHANNELS;
  static constexpr int IN = D_IN * CHANNELS, OUT = D_OUT * CHANNELS;

  // Features [n_atoms][D_OUT][CHANNELS] from those before [n_atoms][D_IN][CHANNELS].
  const T* forward(const Pairs<T>& pairs, const Parameters& w, const T* table, const T* features) {
    const int n = pairs.n_atoms;
    features_ = features;
    T* queries = queries_.reserve(n * QUERY);
    T* senders = senders_.reserve(n * SENDER);
    in_parallel(n, pairs.threads, [&](int begin, int end) {
      const T* x = features + begin * IN;
      mix_channels<L_QUERY, CHANNELS, D_IN, KEYS, D_QUERY>(end - begin, x, w.query,
                                                           queries + begin * QUERY);  // (2.3)
      mix_channels<K_MAX, CHANNELS, D_IN, MESSAGE, D_IN>(end - begin, x, w.mix,
                                                         senders + begin * SENDER);
    });
    attend(pairs, table);
    T* update = update_.reserve(n * OUT);
    T* gates = gates_.reserve(n * GATES);
    T* result = result_.reserve(n * OUT);
    reserve_self_interaction(n);
    in_parallel(n, pairs.threads, [&](int begin, int end) {
      mix_channels<L_MAX, CHANNELS, D_OUT, CHANNELS, D_OUT>(end - begin, heads_ + begin * OUT,
                                                            w.output, update + begin * OUT);
      for (int a = begin; a < end; a += ATOMS) self_interaction(a, std::min(a + ATOMS, end), w);
      for (int a = begin; a < end; a += ATOMS)
        gate(a, std::min(a + ATOMS, end), w, update, gates, result);
    });
    return result;
  }

  // dE/d(features before) from dE/d(result); adds dE/d(x_j - x_i) to the pairs.
  const T* backward(Pairs<T>& pairs, const Parameters& w, const T* table, const T* slope,
                    bool first) {
    const int n = pairs.n_atoms;
    T* back = back_.reserve(n * IN);
    heads_slope_.reserve(n * HEAD);
    dots_.reserve(n * HEADS);
    in_parallel(n, pairs.threads, [&](int begin, int end) {
      atoms_backward(begin, end, w, slope, first ? nullptr : back, nullptr);
    });
    const T* sums = attend_backward<false>(pairs, table, first);
    if (!first)
      in_parallel(n, pairs.threads,
                  [&](int begin, int end) { senders_backward(n, begin, end, w, sums, back); });
    return back;
  }

  // The same by weights and table instead of positions; adds to the gradients.
  const T* learn(Pairs<T>& pairs, const Parameters& w, const T* table, const T* slope,
                 Gradient& gradient, T* table_gradient) {
    const int n = pairs.n_atoms;
    T* back = back_.reserve(n * IN);
    heads_slope_.reserve(n * HEAD);
    dots_.reserve(n * HEADS);
    constexpr std::size_t size = sizeof(Gradient) / sizeof(T);
    add_in_parallel(reinterpret_cast<T*>(&gradient), size, n, pairs.threads,
                    [&](int begin, int end, T* mine) {
                      atoms_backward(begin, end, w, slope, back, reinterpret_cast<Gradient*>(mine));
                    });
    const T* sums = attend_backward<true>(pairs, table, false);
    const std::size_t table_size = static_cast<std::size_t>(pairs.intervals) * 6 * FUNCTIONS;
    const T* table_sums = sums + static_cast<std::size_t>(n) * (SENDER + QUERY);
    for (std::size_t k = 0; k < table_size; ++k) table_gradient[k] += table_sums[k];
    add_in_parallel(
        reinterpret_cast<T*>(&gradient), size, n, pairs.threads, [&](int begin, int end, T* mine) {
          Gradient& g = *reinterpret_cast<Gradient*>(mine);
          const T *senders = sums, *queries = sums + static_cast<std::size_t>(n) * SENDER;
          const T* x = features_ + begin * IN;
          mix_channels_gradient<K_MAX, CHANNELS, D_IN, MESSAGE, D_IN>(
              end - begin, x, senders + begin * SENDER, g.mix);
          mix_channels_gradient<L_QUERY, CHANNELS, D_IN, KEYS, D_QUERY>(
              end - begin, x, queries + begin * QUERY, g.query);
          senders_backward(n, begin, end, w, sums, back);
        });
    return back;
  }

 private:
  // dE/d(sum of values) and, where `back` is given, the self-interaction's part of
  // dE/d(features before) of atoms begin to end - 1; adds to the gradient if there is one.
  void atoms_backward(int begin, int end, const Parameters& w, const T* slope, T* back,
                      Gradient* gradient) {
    T *heads_slope = heads_slope_.reserve(0), *dots = dots_.reserve(0);
    for (int a = begin; a < end; a += ATOMS) {
      const int stop = std::min(a + ATOMS, end);
      T* update_slope = scratch_.reserve(ATOMS * OUT);
      gate_backward(a, stop, w, slope, update_slope, gradient);
      if (back) self_interaction_backward(a, stop, w, update_slope, back, gradient);
      mix_channels<L_MAX, CHANNELS, D_OUT, CHANNELS, D_OUT>(stop - a, update_slope, w.output_t,
                                                            heads_slope + a * HEAD);
      if (gradient)
        mix_channels_gradient<L_MAX, CHANNELS, D_OUT, CHANNELS, D_OUT>(
            stop - a, heads_ + a * HEAD, update_slope, gradient->output);
      normalise_backward(a, stop, heads_slope, dots);
    }
  }

  void senders_backward(int n, int begin, int end, const Parameters& w, const T* sums, T* back) {
    const T *senders = sums, *queries = sums + static_cast<std::size_t>(n) * SENDER;
    mix_channels<K_MAX, MESSAGE, D_IN, CHANNELS, D_IN, true>(end - begin, senders + begin * SENDER,
                                                             w.mix_t, back + begin * IN);
    mix_channels<L_QUERY, KEYS, D_QUERY, CHANNELS, D_IN, true>(end - begin, queries + begin * QUERY,
                                                               w.query_t, back + begin * IN);
  }

  static constexpr int ATOMS = 8;  // atoms that share one reading of the weights

  // What a block of pairs needs of its directions: for i <- j, and for j <- i, where
  // the vector points the other way.
  struct Directions {
    P u[3], harmonics[2][HARMONICS], basis[2][Kernel::ENTRIES];
    Directions(const Pairs<T>& pairs, int block) {
      for (int a = 0; a < 3; ++a) u[a] = load<P>(pairs.direction[a] + block * BLOCK);
      spherical_harmonics<T>(u, harmonics[0]);
      for (int J = 0; J <= J_MAX; ++J)
        for (int m = J * J; m < dimension(J); ++m)
          harmonics[1][m] = J % 2 ? -harmonics[0][m] : harmonics[0][m];
      for (int way = 0; way < 2; ++way)
        Kernel::template entries<T>(harmonics[way], basis[way]);  // (2.1)
    }
    const T* of(int way, int p) const { return reinterpret_cast<const T*>(basis[way]) + p; }
  };

  // Sums over the channels of each head of numbers [CHANNELS_OF_ALL].
  template <int WIDE>
  static INLINE void sum_heads(const T* numbers, T* sums) {
    for (int h = 0; h < HEADS; ++h) {
      T total = 0;
      for (int c = 0; c < WIDE / HEADS; ++c) total += numbers[h * (WIDE / HEADS) + c];
      sums[h] = total;
    }
  }

  template <int WIDE>
  static INLINE void spread_heads(const T* of_head, T* numbers) {
    for (int h = 0; h < HEADS; ++h)
      for (int c = 0; c < WIDE / HEADS; ++c) numbers[h * (WIDE / HEADS) + c] = of_head[h];
  }

  // Equations (2.2), (2.4), (2.5) and the sum of (2.8).
  void attend(const Pairs<T>& pairs, const T* table) {
    const int n = pairs.n_atoms;
    const std::size_t n_weights = static_cast<std::size_t>(pairs.n_blocks) * BLOCK * 2 * HEADS;
    T* exponents = exponents_.reserve(n_weights);  // exp(a_ij)
    T* bounded = bounded_.reserve(n_weights);      // tanh
    const T* queries = queries_.reserve(0);
    const T* senders = senders_.reserve(0);
    const std::size_t row = HEAD + HEADS;  // sums of weighted values, of weights
    T* sums = sum_in_parallel(
        sums_, n * row, pairs.n_blocks, pairs.threads, [&](int begin, int end, T* mine) {
          alignas(64) T psi[BLOCK][FUNCTIONS];
          for (int block = begin; block < end; ++block) {
            const Directions directions(pairs, block);
            const int start = block * BLOCK, count = std::min(BLOCK, pairs.n_pairs - start);
            T* logits = bounded + start * 2 * HEADS;
            for (int p = 0; p < count; ++p) {
              radial<T, FUNCTIONS, false>(table, pairs, start + p, psi[p], nullptr);
              for (int way = 0; way < 2; ++way) {
                const int centre = (way ? pairs.second : pairs.first)[start + p];
                const int neighbour = (way ? pairs.first : pairs.second)[start + p];
                alignas(64) T products[KEYS];
                for (int g = 0; g < KEY_GROUPS; ++g) {
                  V key[D_QUERY];
                  Kernel::template message<L_QUERY, STRIDE, V>(
                      directions.of(way, p), psi[p] + g * N, senders + neighbour * SENDER + g * N,
                      key);
                  V product{};
                  for (int d = 0; d < D_QUERY; ++d)
                    product += key[d] * load<V>(queries + centre * QUERY + d * KEYS + g * N);
                  store<V>(products + g * N, product);
                }
                sum_heads<KEYS>(products, logits + (p * 2 + way) * HEADS);
              }
            }
            T* weights = exponents + start * 2 * HEADS;
            for (int e = 0; e < count * 2 * HEADS; ++e) {
              logits[e] = hyperbolic_tangent(logits[e]);
              weights[e] = exponential(T(LOGIT_BOUND) * logits[e]);
            }
            for (int p = 0; p < count; ++p) {
              for (int way = 0; way < 2; ++way) {
                const int centre = (way ? pairs.second : pairs.first)[start + p];
                const int neighbour = (way ? pairs.first : pairs.second)[start + p];
                T* sum_of_values = mine + centre * row;
                T weight[HEADS];
                for (int h = 0; h < HEADS; ++h) {
                  weight[h] = pairs.envelope[start + p] * weights[(p * 2 + way) * HEADS + h];
                  sum_of_values[HEAD + h] += weight[h];
                }
                alignas(64) T of_channel[CHANNELS];
                spread_heads<CHANNELS>(weight, of_channel);
                for (int g = 0; g < VALUE_GROUPS; ++g) {
                  V value[D_OUT];
                  Kernel::template message<L_MAX, STRIDE, V>(
                      directions.of(way, p), psi[p] + KEYS + g * N,
                      senders + neighbour * SENDER + KEYS + g * N, value);
                  const V alpha = load<V>(of_channel + g * N);
                  for (int d = 0; d < D_OUT; ++d)
                    add<V>(sum_of_values + d * CHANNELS + g * N, alpha * value[d]);
                }
              }
            }
          }
        });
    T* heads = heads_ = heads_memory_.reserve(n * HEAD);
    T* inverse = inverse_.reserve(n * HEADS);  // 1 / (1 + sum of weights)
    in_parallel(n, pairs.threads, [&](int begin, int end) {
      for (int a = begin; a < end; ++a) {
        alignas(64) T of_channel[CHANNELS];
        for (int h = 0; h < HEADS; ++h)
          inverse[a * HEADS + h] = T(1) / (T(1) + sums[a * row + HEAD + h]);
        spread_heads<CHANNELS>(inverse + a * HEADS, of_channel);
        for (int d = 0; d < D_OUT; ++d)
          for (int c = 0; c < CHANNELS; ++c)
            heads[a * HEAD + d * CHANNELS + c] = sums[a * row + d * CHANNELS + c] * of_channel[c];
      }
    });
  }

  // dE/d(sum of values) in place of dE/d(heads), and its product with heads, per head.
  void normalise_backward(int begin, int end, T* slope, T* dots) {
    for (int a = begin; a < end; ++a) {
      alignas(64) T of_channel[CHANNELS], product[CHANNELS] = {};
      spread_heads<CHANNELS>(inverse_.reserve(0) + a * HEADS, of_channel);
      for (int d = 0; d < D_OUT; ++d)
        for (int c = 0; c < CHANNELS; ++c) {
          T& g = slope[a * HEAD + d * CHANNELS + c];
          g *= of_channel[c];
          product[c] += g * heads_[a * HEAD + d * CHANNELS + c];
        }
      sum_heads<CHANNELS>(product, dots + a * HEADS);
    }
  }

  // dE/d(senders) [n_atoms][SENDER] and dE/d(queries) [n_atoms][QUERY] behind it; then, to
  // learn, dE/d(table), and otherwise dE/d(x_j - x_i) in the pairs.
  template <bool LEARN>
  const T* attend_backward(Pairs<T>& pairs, const T* table, bool first) {
    const std::size_t n = pairs.n_atoms;
    const std::size_t table_size = static_cast<std::size_t>(pairs.intervals) * 6 * FUNCTIONS;
    const T *heads_slope = heads_slope_.reserve(0), *dots = dots_.reserve(0);
    const T *exponents = exponents_.reserve(0), *bounded = bounded_.reserve(0);
    const T *queries = queries_.reserve(0), *senders = senders_.reserve(0);
    return sum_in_parallel(
        sums_, n * (SENDER + QUERY) + (LEARN ? table_size : 0), pairs.n_blocks, pairs.threads,
        [&](int begin, int end, T* mine) {
          alignas(64) T psi[FUNCTIONS], psi_slope[FUNCTIONS], psi_back[FUNCTIONS];
          for (int block = begin; block < end; ++block) {
            const Directions directions(pairs, block);
            const int start = block * BLOCK, count = std::min(BLOCK, pairs.n_pairs - start);
            P harmonics_back[HARMONICS] = {};
            alignas(64) T distance_back[BLOCK] = {};
            for (int p = 0; p < count; ++p) {
              radial<T, FUNCTIONS, !LEARN>(table, pairs, start + p, psi, psi_slope);
              std::fill_n(psi_back, FUNCTIONS, T(0));
              const T envelope = pairs.envelope[start + p];
              for (int way = 0; way < 2; ++way) {
                const int centre = (way ? pairs.second : pairs.first)[start + p];
                const int neighbour = (way ? pairs.first : pairs.second)[start + p];
                const T* basis = directions.of(way, p);
                const T* sender = senders + neighbour * SENDER;
                T* sender_back = mine + neighbour * SENDER;
                const T* exponent = exponents + ((start + p) * 2 + way) * HEADS;
                const T* tanh = bounded + ((start + p) * 2 + way) * HEADS;
                V back[HARMONICS] = {};
                T weight[HEADS], weight_back[HEADS], logit_back[HEADS];
                alignas(64) T of_channel[CHANNELS], product[CHANNELS], of_key[KEYS];
                for (int h = 0; h < HEADS; ++h) weight[h] = envelope * exponent[h];
                spread_heads<CHANNELS>(weight, of_channel);
                for (int g = 0; g < VALUE_GROUPS; ++g) {
                  V slope[D_OUT];
                  for (int d = 0; d < D_OUT; ++d)
                    slope[d] = load<V>(heads_slope + centre * HEAD + d * CHANNELS + g * N);
                  const V value = Kernel::template backward<L_MAX, STRIDE, V>(
                      load<V>(of_channel + g * N), basis, psi + KEYS + g * N, sender + KEYS + g * N,
                      slope, psi_back + KEYS + g * N, sender_back + KEYS + g * N, back);
                  store<V>(product + g * N, value);
                }
                sum_heads<CHANNELS>(product, weight_back);
                for (int h = 0; h < HEADS; ++h) {
                  weight_back[h] -= dots[centre * HEADS + h];
                  distance_back[p] += weight_back[h] * exponent[h] * pairs.slope[start + p];
                  logit_back[h] =
                      weight_back[h] * weight[h] * T(LOGIT_BOUND) * (T(1) - tanh[h] * tanh[h]);
                }
                spread_heads<KEYS>(logit_back, of_key);
                for (int g = 0; g < KEY_GROUPS; ++g) {
                  const V factor = load<V>(of_key + g * N);
                  V query[D_QUERY], key[D_QUERY];
                  for (int d = 0; d < D_QUERY; ++d)
                    query[d] = load<V>(queries + centre * QUERY + d * KEYS + g * N);
                  Kernel::template backward<L_QUERY, STRIDE, V>(
                      factor, basis, psi + g * N, sender + g * N, query, psi_back + g * N,
                      sender_back + g * N, back);
                  if (first) continue;
                  Kernel::template message<L_QUERY, STRIDE, V>(basis, psi + g * N, sender + g * N,
                                                               key);
                  T* query_back = mine + n * SENDER + centre * QUERY + g * N;
                  for (int d = 0; d < D_QUERY; ++d) add<V>(query_back + d * KEYS, factor * key[d]);
                }
                for (int J = 1; !LEARN && J <= J_MAX; ++J)
                  for (int m = J * J; m < dimension(J); ++m)
                    harmonics_back[m][p] += J % 2 && way ? -sum(back[m]) : sum(back[m]);
              }
              if constexpr (LEARN) {
                radial_backward<T, FUNCTIONS>(mine + n * (SENDER + QUERY), pairs, start + p,
                                              psi_back);
              } else {
                V along{};
                for (int c = 0; c < FUNCTIONS; c += N)
                  along += load<V>(psi_back + c) * load<V>(psi_slope + c);
                distance_back[p] += sum(along);
              }
            }
            if constexpr (LEARN) continue;
            P direction_back[3] = {};
            spherical_harmonics_backward<T>(directions.u, directions.harmonics[0], harmonics_back,
                                            direction_back);
            const P radius = load<P>(pairs.distance + start), stretch = load<P>(distance_back);
            const P* u = directions.u;
            const P inward =
                u[0] * direction_back[0] + u[1] * direction_back[1] + u[2] * direction_back[2];
            for (int a = 0; a < 3; ++a)
              add<P>(pairs.gradient[a] + start,
                     (direction_back[a] - inward * u[a]) / radius + stretch * u[a]);
          }
        });
  }

  // -------------------------------------------------- self-interaction, (2.6) and (2.7)

  void reserve_self_interaction(int n) {
    if constexpr (WIDTH > 0) {
      mixing_.reserve(static_cast<std::size_t>(n) * Parameters::MIXING);
      hidden_.reserve(n * WIDTH);
    }
  }

  // f_c . f_c' for c <= c' of each degree.
  static void multiply_channels(int count, const T* x, T* products) {
    for (int a = 0; a < count; ++a) {
      T* product = products + a * Parameters::PRODUCTS;
      for (int l = 0; l <= L_QUERY; ++l)
        for (int c = 0; c < CHANNELS; ++c) {
          for (int e = c; e < CHANNELS; ++e) product[e - c] = 0;
          for (int m = l * l; m < dimension(l); ++m) {
            const T* f = x + a * IN + m * CHANNELS;
            for (int e = c; e < CHANNELS; ++e) product[e - c] += f[c] * f[e];
          }
          product += CHANNELS - c;
        }
    }
  }

  // Adds to the update of atoms begin to end - 1.
  void self_interaction(int begin, int end, const Parameters& w) {
    const int count = end - begin;
    const T* x = features_ + begin * IN;
    T* y = update_.reserve(0) + begin * OUT;
    if constexpr (WIDTH == 0) {
      mix_channels<L_QUERY, CHANNELS, D_IN, CHANNELS, D_OUT, true>(count, x, w.linear, y);
    } else {
      T* products = products_.reserve(ATOMS * Parameters::PRODUCTS);
      multiply_channels(count, x, products);
      T* hidden = hidden_.reserve(0) + begin * WIDTH;  // before the activation
      multiply<Parameters::PRODUCTS, WIDTH>(
          count, [=](int a) { return products + a * Parameters::PRODUCTS; }, w.hidden,
          w.hidden_bias, [=](int a) { return hidden + a * WIDTH; });
      alignas(64) T active[ATOMS * WIDTH];
      for (int k = 0; k < count * WIDTH; ++k) active[k] = hidden[k] * sigmoid(hidden[k]);
      T* mixing = mixing_.reserve(0) + static_cast<std::size_t>(begin) * Parameters::MIXING;
      multiply<WIDTH, Parameters::MIXING>(
          count, [&](int a) { return active + a * WIDTH; }, w.mixing, w.mixing_bias,
          [=](int a) { return mixing + a * Parameters::MIXING; });  // (2.6)
      for (int a = 0; a < count; ++a)
        mix_channels<L_QUERY, CHANNELS, D_IN, CHANNELS, D_OUT, true>(
            1, x + a * IN, mixing + a * Parameters::MIXING, y + a * OUT);  // (2.7)
    }
  }

  // Sets dE/d(features) of atoms begin to end - 1 from dE/d(update) of these.
  void self_interaction_backward(int begin, int end, const Parameters& w, const T* slope, T* back,
                                 Gradient* gradient) {
    const int count = end - begin;
    const T* x = features_ + begin * IN;
    back += begin * IN;
    std::fill_n(back, count * IN, T(0));
    if constexpr (WIDTH == 0) {
      mix_channels<L_QUERY, CHANNELS, D_OUT, CHANNELS, D_IN, true>(count, slope, w.linear_t, back);
      if (gradient)
        mix_channels_gradient<L_QUERY, CHANNELS, D_IN, CHANNELS, D_OUT>(count, x, slope,
                                                                        gradient->linear);
    } else {
      const T* mixing = mixing_.reserve(0) + static_cast<std::size_t>(begin) * Parameters::MIXING;
      T* mixing_back = mixing_back_.reserve(ATOMS * Parameters::MIXING);
      for (int a = 0; a < count; ++a)
        for (int l = 0; l <= L_QUERY; ++l)
          for (int c = 0; c < CHANNELS; ++c) {
            T* to = mixing_back + a * Parameters::MIXING + (l * CHANNELS + c) * CHANNELS;
            const T* row = mixing + a * Parameters::MIXING + (l * CHANNELS + c) * CHANNELS;
            V outer[VALUE_GROUPS] = {};
            for (int m = l * l; m < dimension(l); ++m) {
              V inner{};
              for (int g = 0; g < VALUE_GROUPS; ++g) {
                const V s = load<V>(slope + a * OUT + m * CHANNELS + g * N);
                outer[g] += x[a * IN + m * CHANNELS + c] * s;
                inner += load<V>(row + g * N) * s;
              }
              back[a * IN + m * CHANNELS + c] += sum(inner);
            }
            for (int g = 0; g < VALUE_GROUPS; ++g) store<V>(to + g * N, outer[g]);
          }
      alignas(64) T hidden_back[ATOMS * WIDTH];
      multiply<Parameters::MIXING, WIDTH>(
          count, [=](int a) { return mixing_back + a * Parameters::MIXING; }, w.mixing_t,
          static_cast<const T*>(nullptr), [&](int a) { return hidden_back + a * WIDTH; });
      const T* hidden = hidden_.reserve(0) + begin * WIDTH;
      alignas(64) T active[ATOMS * WIDTH];
      for (int k = 0; k < count * WIDTH; ++k) {
        const T s = sigmoid(hidden[k]);
        active[k] = hidden[k] * s;
        hidden_back[k] *= s * (T(1) + hidden[k] * (T(1) - s));
      }
      T* products_back = products_.reserve(ATOMS * Parameters::PRODUCTS);
      if (gradient) {
        multiply_gradient<WIDTH, Parameters::MIXING>(
            count, [&](int a) { return active + a * WIDTH; },
            [=](int a) { return mixing_back + a * Parameters::MIXING; }, gradient->mixing,
            gradient->mixing_bias);
        multiply_channels(count, x, products_back);
        multiply_gradient<Parameters::PRODUCTS, WIDTH>(
            count, [=](int a) { return products_back + a * Parameters::PRODUCTS; },
            [&](int a) { return hidden_back + a * WIDTH; }, gradient->hidden,
            gradient->hidden_bias);
      }
      multiply<WIDTH, Parameters::PRODUCTS>(
          count, [&](int a) { return hidden_back + a * WIDTH; }, w.hidden_t,
          static_cast<const T*>(nullptr),
          [=](int a) { return products_back + a * Parameters::PRODUCTS; });
      for (int a = 0; a < count; ++a) {
        const T* from = products_back + a * Parameters::PRODUCTS;
        for (int l = 0; l <= L_QUERY; ++l)
          for (int c = 0; c < CHANNELS; ++c) {
            for (int m = l * l; m < dimension(l); ++m) {
              const T* f = x + a * IN + m * CHANNELS;
              T* g = back + a * IN + m * CHANNELS;
              T total = 0;
              for (int e = c; e < CHANNELS; ++e) {
                total += from[e - c] * f[e];
                g[e] += from[e - c] * f[c];
              }
              g[c] += total;
            }
            from += CHANNELS - c;
          }
      }
    }
  }

  // -------------------------------------------------- gate

  // What opens the gates: f^0 and |f^l|^2 / (2l + 1).
  static void measure(int count, const T* update, T (*invariants)[GATES]) {
    for (int a = 0; a < count; ++a) {
      const T* f = update + a * OUT;
      for (int c = 0; c < CHANNELS; ++c) invariants[a][c] = f[c];
      for (int l = 1; l <= L_MAX; ++l) {
        T* square = invariants[a] + l * CHANNELS;
        for (int c = 0; c < CHANNELS; ++c) square[c] = 0;
        for (int m = l * l; m < dimension(l); ++m)
          for (int c = 0; c < CHANNELS; ++c) square[c] += f[m * CHANNELS + c] * f[m * CHANNELS + c];
        for (int c = 0; c < CHANNELS; ++c) square[c] *= T(1.0 / (2 * l + 1));
      }
    }
  }

  void gate(int begin, int end, const Parameters& w, const T* update, T* gates, T* result) {
    const int count = end - begin;
    alignas(64) T invariants[ATOMS][GATES];
    measure(count, update + begin * OUT, invariants);
    T* open = gates + begin * GATES;
    multiply<GATES, GATES>(
        count, [&](int a) { return invariants[a]; }, w.gate, w.gate_bias,
        [=](int a) { return open + a * GATES; });
    for (int k = 0; k < count * GATES; ++k) open[k] = sigmoid(open[k]);
    for (int a = 0; a < count; ++a)
      for (int l = 0; l <= L_MAX; ++l)
        for (int m = l * l; m < dimension(l); ++m)
          for (int c = 0; c < CHANNELS; ++c) {
            const int k = (begin + a) * OUT + m * CHANNELS + c;
            result[k] = update[k] * open[a * GATES + l * CHANNELS + c];
          }
  }

  // dE/d(update) of atoms begin to end - 1, the first of them in front.
  void gate_backward(int begin, int end, const Parameters& w, const T* slope, T* back,
                     Gradient* gradient) {
    const int count = end - begin;
    const T *update = update_.reserve(0) + begin * OUT, *gates = gates_.reserve(0) + begin * GATES;
    slope += begin * OUT;
    alignas(64) T gates_back[ATOMS][GATES] = {}, invariants_back[ATOMS][GATES];
    for (int a = 0; a < count; ++a)
      for (int l = 0; l <= L_MAX; ++l) {
        const T* open = gates + a * GATES + l * CHANNELS;
        T* to = gates_back[a] + l * CHANNELS;
        for (int m = l * l; m < dimension(l); ++m)
          for (int c = 0; c < CHANNELS; ++c) {
            const int k = a * OUT + m * CHANNELS + c;
            to[c] += slope[k] * update[k];
            back[k] = slope[k] * open[c];
          }
        for (int c = 0; c < CHANNELS; ++c) to[c] *= open[c] * (T(1) - open[c]);
      }
    if (gradient) {
      alignas(64) T invariants[ATOMS][GATES];
      measure(count, update, invariants);
      multiply_gradient<GATES, GATES>(
          count, [&](int a) { return invariants[a]; }, [&](int a) { return gates_back[a]; },
          gradient->gate, gradient->gate_bias);
    }
    multiply<GATES, GATES>(
        count, [&](int a) { return gates_back[a]; }, w.gate_t, static_cast<const T*>(nullptr),
        [&](int a) { return invariants_back[a]; });
    for (int a = 0; a < count; ++a) {
      for (int c = 0; c < CHANNELS; ++c) back[a * OUT + c] += invariants_back[a][c];
      for (int l = 1; l <= L_MAX; ++l)
        for (int m = l * l; m < dimension(l); ++m)
          for (int c = 0; c < CHANNELS; ++c) {
            const int k = a * OUT + m * CHANNELS + c;
            back[k] += T(2.0 / (2 * l + 1)) * update[k] * invariants_back[a][l * CHANNELS + c];
          }
    }
  }

  const T* features_ = nullptr;
  T* heads_ = nullptr;
  Buffer<T> queries_, senders_, exponents_, bounded_, sums_, heads_memory_, inverse_, update_,
      gates_, result_;
  Buffer<T> mixing_, hidden_, back_, heads_slope_, dots_;
  static thread_local Buffer<T> scratch_, products_, mixing_back_;
};

template <class T, class Kernel>
thread_local Buffer<T> Layer<T, Kernel>::scratch_;
template <class T, class Kernel>
thread_local Buffer<T> Layer<T, Kernel>::products_;
template <class T, class Kernel>
thread_local Buffer<T> Layer<T, Kernel>::mixing_back_;

// ---------------------------------------------------------------------- network

template <class T>
struct Head {
  T hidden[CHANNELS * CHANNELS], hidden_t[CHANNELS * CHANNELS], hidden_bias[CHANNELS],
      output[CHANNELS];
};

template <class T>
struct HeadGradient {
  T hidden[CHANNELS * CHANNELS], hidden_bias[CHANNELS], output[CHANNELS];
};

// What a network needs beside weights and tables, in float64 as in pack.py.
struct Constants {
  double isolated[SPECIES];
  // Of each pair of species: charge (eV A), 1 / screening length, 1 / reach (1/A).
  double wall[SPECIES * SPECIES][3];
};

template <class T>
class Network {
 public:
  // Atomic energies relative to isolated atoms, to energies [n_atoms], and -dE/dx, to
  // forces [n_atoms][3].
  void energies_and_forces(Pairs<T>& pairs, const std::int64_t* species, const T* weights,
                           const T* tables, const Constants& constants, double* energies,
                           double* forces) {
    const int n = pairs.n_atoms;
    const T* features = forward(pairs, species, weights, tables);
    const Head<T>& head = head_of(weights);
    T* slope = slope_.reserve(n * CHANNELS);
    for (int a = 0; a < n; ++a)
      energies[a] =
          atomic_energy(head, features + a * CHANNELS, T(1), slope + a * CHANNELS, nullptr) -
          constants.isolated[species[a]];
    layers_backward(std::make_index_sequence<LAYERS>(), pairs, slope);

    std::fill_n(forces, 3 * n, 0.0);
    for (int p = 0; p < pairs.n_pairs; ++p) {
      const int i = pairs.first[p], j = pairs.second[p];
      double energy = 0.0;
      const double push =
          wall(constants.wall[species[i] * SPECIES + species[j]], pairs.distance[p], energy);
      energies[i] += 0.5 * energy;
      energies[j] += 0.5 * energy;
      for (int a = 0; a < 3; ++a) {
        const double gradient = pairs.gradient[a][p] + push * pairs.direction[a][p];
        forces[3 * i + a] += gradient;
        forces[3 * j + a] -= gradient;
      }
    }
  }

  // Adds the derivatives of sum_a seeds[a] energies[a], without isolated atoms and walls.
  void learn(Pairs<T>& pairs, const std::int64_t* species, const double* seeds, const T* weights,
             const T* tables, T* weights_gradient, T* tables_gradient) {
    const int n = pairs.n_atoms;
    const T* features = forward(pairs, species, weights, tables);
    T* slope = slope_.reserve(n * CHANNELS);
    auto* head = reinterpret_cast<HeadGradient<T>*>(weights_gradient + LEARNT -
                                                    sizeof(HeadGradient<T>) / sizeof(T));
    for (int a = 0; a < n; ++a)
      atomic_energy(head_of(weights), features + a * CHANNELS, static_cast<T>(seeds[a]),
                    slope + a * CHANNELS, head);
    const T* back = layers_learn(std::make_index_sequence<LAYERS>(), pairs, slope, weights_gradient,
                                 tables_gradient);
    for (int a = 0; a < n; ++a)
      for (int c = 0; c < CHANNELS; ++c)
        weights_gradient[species[a] * CHANNELS + c] += back[a * CHANNELS + c];
  }

 private:
  template <std::size_t... I>
  static constexpr std::size_t count_weights(std::index_sequence<I...>) {
    return (... + (sizeof(LayerWeights<T, std::tuple_element_t<I, Kernels>>) / sizeof(T)));
  }
  template <std::size_t... I>
  static constexpr std::size_t count_learnt(std::index_sequence<I...>) {
    return (... + (sizeof(LayerGradient<T, std::tuple_element_t<I, Kernels>>) / sizeof(T)));
  }
  template <std::size_t... I>
  static std::tuple<Layer<T, std::tuple_element_t<I, Kernels>>...> make_layers(
      std::index_sequence<I...>);

 public:
  static constexpr int LAYERS = std::tuple_size_v<Kernels>;
  static constexpr std::size_t LAYER_WEIGHTS = count_weights(std::make_index_sequence<LAYERS>());
  static constexpr std::size_t WEIGHTS =
      SPECIES * CHANNELS + LAYER_WEIGHTS + sizeof(Head<T>) / sizeof(T);
  static constexpr std::size_t LEARNT = SPECIES * CHANNELS +
                                        count_learnt(std::make_index_sequence<LAYERS>()) +
                                        sizeof(HeadGradient<T>) / sizeof(T);
  template <std::size_t... I>
  static constexpr std::size_t count_functions(std::index_sequence<I...>) {
    return (... + (std::tuple_element_t<I, Kernels>::PATHS * MESSAGE));
  }
  static constexpr std::size_t FUNCTIONS = count_functions(std::make_index_sequence<LAYERS>());

 private:
  // Features after the last layer [n_atoms][CHANNELS].
  const T* forward(Pairs<T>& pairs, const std::int64_t* species, const T* weights,
                   const T* tables) {
    const int n = pairs.n_atoms;
    T* features = embedded_.reserve(n * CHANNELS);
    for (int a = 0; a < n; ++a)
      std::copy_n(weights + species[a] * CHANNELS, CHANNELS, features + a * CHANNELS);
    return layers_forward(std::make_index_sequence<LAYERS>(), pairs, weights + SPECIES * CHANNELS,
                          tables, features);
  }

  static const Head<T>& head_of(const T* weights) {
    return *reinterpret_cast<const Head<T>*>(weights + SPECIES * CHANNELS + LAYER_WEIGHTS);
  }

  template <std::size_t... I>
  const T* layers_forward(std::index_sequence<I...>, Pairs<T>& pairs, const T* weights,
                          const T* tables, const T* features) {
    (..., [&](auto& layer) {
      using Parameters = typename std::decay_t<decltype(layer)>::Parameters;
      weights_of_[I] = weights;
      tables_of_[I] = tables;
      features =
          layer.forward(pairs, *reinterpret_cast<const Parameters*>(weights), tables, features);
      weights += sizeof(Parameters) / sizeof(T);
      tables +=
          static_cast<std::size_t>(pairs.intervals) * 6 * std::decay_t<decltype(layer)>::FUNCTIONS;
    }(std::get<I>(layers_)));
    return features;
  }

  template <std::size_t... I>
  void layers_backward(std::index_sequence<I...>, Pairs<T>& pairs, const T* slope) {
    (..., [&](auto& layer, std::size_t index) {
      using Parameters = typename std::decay_t<decltype(layer)>::Parameters;
      slope = layer.backward(pairs, *reinterpret_cast<const Parameters*>(weights_of_[index]),
                             tables_of_[index], slope, index == 0);
    }(std::get<LAYERS - 1 - I>(layers_), LAYERS - 1 - I));
  }

  template <std::size_t... I>
  const T* layers_learn(std::index_sequence<I...>, Pairs<T>& pairs, const T* slope, T* weights,
                        T* tables) {
    weights += LEARNT - sizeof(HeadGradient<T>) / sizeof(T);
    tables += static_cast<std::size_t>(pairs.intervals) * 6 * FUNCTIONS;
    (..., [&](auto& layer, std::size_t index) {
      using Of = std::decay_t<decltype(layer)>;
      weights -= sizeof(typename Of::Gradient) / sizeof(T);
      tables -= static_cast<std::size_t>(pairs.intervals) * 6 * Of::FUNCTIONS;
      slope = layer.learn(
          pairs, *reinterpret_cast<const typename Of::Parameters*>(weights_of_[index]),
          tables_of_[index], slope, *reinterpret_cast<typename Of::Gradient*>(weights), tables);
    }(std::get<LAYERS - 1 - I>(layers_), LAYERS - 1 - I));
    return slope;
  }

  // Energy of one atom, and `seed` times dE/d(features); adds to the gradient if there is
  // one.
  static double atomic_energy(const Head<T>& head, const T* features, T seed, T* slope,
                              HeadGradient<T>* gradient) {
    alignas(64) T hidden[CHANNELS];
    multiply<CHANNELS, CHANNELS>(
        1, [=](int) { return features; }, head.hidden, head.hidden_bias,
        [&](int) { return hidden; });
    double energy = 0.0;
    for (int c = 0; c < CHANNELS; ++c) {
      const T s = sigmoid(hidden[c]);
      energy += head.output[c] * hidden[c] * s;
      if (gradient) gradient->output[c] += T(ENERGY_SCALE) * seed * hidden[c] * s;
      hidden[c] = T(ENERGY_SCALE) * seed * head.output[c] * s * (T(1) + hidden[c] * (T(1) - s));
    }
    if (gradient)
      multiply_gradient<CHANNELS, CHANNELS>(
          1, [=](int) { return features; }, [&](int) { return hidden; }, gradient->hidden,
          gradient->hidden_bias);
    multiply<CHANNELS, CHANNELS>(
        1, [&](int) { return hidden; }, head.hidden_t, static_cast<const T*>(nullptr),
        [=](int) { return slope; });
    return ENERGY_SCALE * energy;
  }

  // Adds the ZBL energy of a pair and returns dE/dr.
  static double wall(const double* pair, double r, double& energy) {
    const double x = r * pair[2];
    if (!WALL || x >= 1.0) return 0.0;
    constexpr double weight[4] = {0.18175, 0.50986, 0.28022, 0.02817};
    constexpr double exponent[4] = {3.19980, 0.94229, 0.40290, 0.20162};
    const double rest = 1.0 - x * x * x * x, envelope = rest * rest * rest;
    double screened = 0.0, change = 0.0;
    for (int k = 0; k < 4; ++k) {
      const double term = weight[k] * std::exp(-exponent[k] * r * pair[1]);
      screened += term;
      change -= exponent[k] * pair[1] * term;
    }
    energy += pair[0] / r * screened * envelope;
    const double slope = -12.0 * x * x * x * rest * rest * pair[2];
    return pair[0] / r * ((change - screened / r) * envelope + screened * slope);
  }

  Buffer<T> embedded_, slope_;
  std::array<const T*, LAYERS> weights_of_, tables_of_;
  decltype(make_layers(std::make_index_sequence<LAYERS>())) layers_;
};

// ---------------------------------------------------------------------- operators

using T = REAL;

constexpr int PAIRS_OF_A_THREAD = 400;  // fewer give a thread less work than it costs

// Kept from call to call with the memory they hold.
struct Workspace {
  PairSearch search;
  Pairs<T> pairs;
  Network<T> network;
  Buffer<double> energies;
};
thread_local Workspace workspace;

const double* checked_positions(const at::Tensor& positions) {
  const double* x = positions.const_data_ptr<double>();
  TORCH_CHECK(std::all_of(x, x + positions.numel(), [](double v) { return std::isfinite(v); }),
              "a position is NaN or infinite");
  return x;
}

// Number of intervals of the tables.
std::int64_t check_network(const at::Tensor& weights, const at::Tensor& tables) {
  const std::int64_t intervals =
      tables.numel() / (6 * static_cast<std::int64_t>(Network<T>::FUNCTIONS));
  TORCH_CHECK(weights.numel() == static_cast<std::int64_t>(Network<T>::WEIGHTS) && intervals > 0,
              "this is not the network that the operator was compiled for");
  return intervals;
}

const Constants& constants_in(const at::Tensor& constants) {
  TORCH_CHECK(constants.numel() * sizeof(double) == sizeof(Constants),
              "this is not the network that the operator was compiled for");
  return *reinterpret_cast<const Constants*>(constants.const_data_ptr<double>());
}

void fill_pairs(int n, const std::vector<Neighbours>& found, std::int64_t intervals) {
  Pairs<T>& pairs = workspace.pairs;
  pairs.fill(n, found, intervals);
  pairs.threads = std::min(at::get_num_threads(), 1 + pairs.n_pairs / PAIRS_OF_A_THREAD);
}

#ifdef TRAINING

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
      tables.const_data_ptr<T>(), constants_in(constants), energies.mutable_data_ptr<double>(),
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

// Positions [n_atoms][3]; box vectors as rows [3][3], or an empty tensor without a box.
std::tuple<at::Tensor, at::Tensor> energy_and_forces(
    const at::Tensor& positions, const at::Tensor& box, const at::Tensor& species,
    const at::Tensor& weights, const at::Tensor& tables, const at::Tensor& constants) {
  const int n = positions.size(0);
  TORCH_CHECK(species.numel() == n, "this is not the network that the operator was compiled for");
  const std::int64_t intervals = check_network(weights, tables);
  const at::Tensor in_order = positions.contiguous(), box_in_order = box.contiguous();
  const double* x = checked_positions(in_order);
  PairSearch& search = workspace.search;
  fill_pairs(n,
             box.numel() ? search.in_box(x, n, box_in_order.const_data_ptr<double>())
                         : search.without_box(x, n),
             intervals);
  at::Tensor energy = at::empty({1}, positions.options()),
             forces = at::empty({n, 3}, positions.options());
  double* energies = workspace.energies.reserve(n);
  workspace.network.energies_and_forces(workspace.pairs, species.const_data_ptr<std::int64_t>(),
                                        weights.const_data_ptr<T>(), tables.const_data_ptr<T>(),
                                        constants_in(constants), energies,
                                        forces.mutable_data_ptr<double>());
  *energy.mutable_data_ptr<double>() = std::accumulate(energies, energies + n, 0.0);
  return {energy, forces};
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
      "energy_and_forces(Tensor positions, Tensor box, Tensor species, Tensor weights, Tensor "
      "tables, Tensor constants) -> (Tensor, Tensor)",
      energy_and_forces);
#endif
}
