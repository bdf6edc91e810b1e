// Linear layers on atoms, and their derivatives.
#pragma once

#include "vectors.h"

namespace {

// Rows that share one reading of the weights.  With 16 registers 6 rows have room for 12
// sums, whose multiplications need 8 readings, where 8 rows have 8 sums, which need 9.
constexpr int ROWS = REGISTER_BYTES == 64 ? 8 : 6;

// So many atoms at most wait longer for large weights than they multiply with them.
constexpr int FEW = 7;

// Calls work(size, start) for all rows in groups of up to ROWS; size is a constant.
template <class Work>
INLINE void in_groups(int rows, Work work) {
  int r = 0;
  for (; rows - r >= ROWS; r += ROWS) work(std::integral_constant<int, ROWS>(), r);
  if (rows - r == 6) {
    work(std::integral_constant<int, 6>(), r);
    r += 6;
  }
  if (rows - r >= 4) {
    work(std::integral_constant<int, 4>(), r);
    r += 4;
  }
  if (rows - r == 3) work(std::integral_constant<int, 3>(), r);
  if (rows - r == 2) work(std::integral_constant<int, 2>(), r);
  if (rows - r == 1) work(std::integral_constant<int, 1>(), r);
}

// Sums that are in registers at once: as many as hide the delay of one multiplication.
constexpr int SUMS = REGISTER_BYTES == 64 ? 24 : 12;

// Columns start to start + COUNT LANES of y[r] (+)= x[r] W + bias, for R rows at once.  More
// than OUT columns are those of the next matrices [IN][OUT] behind W.
template <int R, int COUNT, int IN, int OUT, bool ADD, class T>
INLINE void multiply_columns(const T* const* x, const T* weight, const T* bias, T* const* y,
                             int start) {
  using V = Vec<T>;
  V total[R][COUNT];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < COUNT; ++c) {
      const int o = start + c * LANES<T>;
      if constexpr (ADD) total[r][c] = load<V>(y[r] + o);
      else total[r][c] = bias ? load<V>(bias + o) : V{};
    }
  for (int i = 0; i < IN; ++i) {
    V w[COUNT];
    for (int c = 0; c < COUNT; ++c) {
      const int matrix = c * LANES<T> / OUT, column = start + c * LANES<T> % OUT;
      w[c] = load<V>(weight + (matrix * IN + i) * OUT + column);
    }
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < COUNT; ++c) total[r][c] += x[r][i] * w[c];
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < COUNT; ++c) store<V>(y[r] + start + c * LANES<T>, total[r][c]);
}

// All columns from start on: as many at once as registers hold, then half as many, ...
template <int R, int COUNT, int IN, int OUT, bool ADD, class T>
INLINE void multiply_rows(const T* const* x, const T* weight, const T* bias, T* const* y,
                          int start = 0) {
  if constexpr (R * COUNT <= SUMS && COUNT * LANES<T> <= OUT)
    for (; start + COUNT * LANES<T> <= OUT; start += COUNT * LANES<T>)
      multiply_columns<R, COUNT, IN, OUT, ADD>(x, weight, bias, y, start);
  if constexpr (COUNT > 1)
    multiply_rows<R, COUNT / 2, IN, OUT, ADD>(x, weight, bias, y, start);
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
    multiply_rows<size, 16, IN, OUT, ADD>(from, weight, bias, to);
  });
}

// Matrices of OUT columns, of as many as there are, that fill the registers with R rows.
template <int R, int MATRICES, int OUT, class T>
constexpr int matrices_at_once() {
  int count = 1;
  while (2 * count * R * OUT <= SUMS * LANES<T> && MATRICES % (2 * count) == 0) count *= 2;
  return count;
}

// y[r][k] = x[r] W[k] + bias[k] for matrices W [MATRICES][IN][OUT] and y[r] [MATRICES][OUT].
template <int MATRICES, int IN, int OUT, class T, class X, class Y>
void multiply_each(int rows, X x, const T* weight, const T* bias, Y y) {
  in_groups(rows, [&](auto size, int start) {
    constexpr int COUNT = matrices_at_once<size, MATRICES, OUT, T>();
    const T* from[size];
    T* to[size];
    for (int r = 0; r < size; ++r) from[r] = x(start + r);
    for (int k = 0; k < MATRICES; k += COUNT) {
      const T *first = weight + k * IN * OUT, *offset = bias + k * OUT;
      for (int r = 0; r < size; ++r) to[r] = y(start + r) + k * OUT;
      if constexpr (COUNT == 1)
        multiply_rows<size, 16, IN, OUT, false>(from, first, offset, to);
      else
        multiply_columns<size, COUNT * (OUT / LANES<T>), IN, OUT, false>(from, first, offset, to,
                                                                         0);
    }
  });
}

// The largest power of two that divides the outputs and fits into registers for R rows.
template <int R, class T>
constexpr int outputs_at_once() {
  int count = LANES<T>;
  while (count > 1 && R * count > SUMS) count /= 2;
  return count;
}

// y[r] = x[r] W^T + bias, where x[r] is [PARTS][IN], and W [PARTS][OUT][IN] as multiply
// reads it part by part.  For few atoms forward and backward pass so share one copy of
// large weights, which then stays in the cache that is next to the core.
template <int PARTS, int IN, int OUT, class T, class X, class Y>
void multiply_transposed(int rows, X x, const T* weight, const T* bias, Y y) {
  using V = Vec<T>;
  // So much of a row at once that its weights for all outputs stay in the first cache.
  constexpr int WHOLE = 512 / sizeof(T), PIECE = std::min(IN, WHOLE);
  constexpr int TOGETHER = std::max(1, WHOLE / IN);
  in_groups(rows, [&](auto size, int start) {
    constexpr int R = size, COUNT = outputs_at_once<R, T>();
    const T* from[R];
    for (int r = 0; r < R; ++r) from[r] = x(start + r);
    V total[R][OUT] = {};
    for (int part = 0; part < PARTS; part += TOGETHER)
      for (int piece = 0; piece < IN; piece += PIECE)
        for (int o = 0; o < OUT; o += COUNT) {
          V now[R][COUNT];
          for (int r = 0; r < R; ++r)
            for (int c = 0; c < COUNT; ++c) now[r][c] = total[r][o + c];
          for (int p = part; p < std::min(part + TOGETHER, PARTS); ++p)
            for (int i = piece; i < std::min(piece + PIECE, IN); i += LANES<T>) {
              V w[COUNT];
              for (int c = 0; c < COUNT; ++c) w[c] = load<V>(weight + (p * OUT + o + c) * IN + i);
              for (int r = 0; r < R; ++r) {
                const V value = load<V>(from[r] + p * IN + i);
                for (int c = 0; c < COUNT; ++c) now[r][c] += value * w[c];
              }
            }
          for (int r = 0; r < R; ++r)
            for (int c = 0; c < COUNT; ++c) total[r][o + c] = now[r][c];
        }
    for (int r = 0; r < R; ++r)
      for (int o = 0; o < OUT; o += LANES<T>) {
        const V before = bias ? load<V>(bias + o) : V{};
        store<V>(y(start + r) + o, before + sums(total[r] + o));
      }
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

}  // namespace
