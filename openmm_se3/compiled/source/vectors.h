// Vector registers, and elementary functions of what is in them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#define INLINE inline __attribute__((always_inline))

namespace {

#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64;
#elif defined(__AVX__)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif

template <class T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};

// A register in memory that begins at any number.  (Said of the vector type itself, clang
// forgets it where that is the argument of a template.)
template <class V>
struct __attribute__((packed, may_alias)) InMemory {
  V value;
};

template <class V, class T>
INLINE V load(const T* from) {
  return reinterpret_cast<const InMemory<V>*>(from)->value;
}
template <class V, class T>
INLINE void store(T* to, V value) {
  reinterpret_cast<InMemory<V>*>(to)->value = value;
}
template <class V, class T>
INLINE void add(T* to, V value) {
  store(to, load<V>(to) + value);
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

// The sum of each of as many registers as they have numbers, in one.
#if defined(__clang__)  // has no __builtin_shuffle
template <class V>
INLINE V sums(V* values) {
  V total;
  for (unsigned i = 0; i < sizeof(V) / sizeof(total[0]); ++i) total[i] = sum(values[i]);
  return total;
}
#else
template <class V>
INLINE V sums(V* values) {
  using T = std::decay_t<decltype(values[0][0])>;
  using Integer = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  constexpr int N = sizeof(V) / sizeof(T);
  using Indices = typename VectorOf<Integer, N>::type;
  // Two registers become one with half as many terms of each, side by side.
#pragma GCC unroll 4
  for (int half = 1; half < N; half *= 2) {
    Indices even, odd;
    for (int i = 0; i < N; ++i) {
      const int from = i & half ? N : 0;
      even[i] = from + (i & ~half);
      odd[i] = from + (i | half);
    }
#pragma GCC unroll 8
    for (int k = 0; k < N; k += 2 * half)
      values[k] = __builtin_shuffle(values[k], values[k + half], even) +
                  __builtin_shuffle(values[k], values[k + half], odd);
  }
  return values[0];
}
#endif

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

}  // namespace
