// One attention layer with its self-interaction and gate, and both backward passes.
#pragma once

#include "linear.h"
#include "pairs.h"

namespace {

constexpr int dimension(int degree) { return (degree + 1) * (degree + 1); }
constexpr int MESSAGE = KEYS + CHANNELS;  // channels of a message: of its key and value
constexpr int HARMONICS = dimension(J_MAX);

// What the first layer makes of an atom of a species before it looks at neighbours.
struct FirstLayer {
  double query[KEYS], sender[MESSAGE], kept[CHANNELS];
};

// In the order in which weights.py writes them.  A name that ends in _t is the transpose,
// which the backward pass needs.
template <class T, class Kernel>
struct LayerWeights {
  static constexpr int Q = std::min(Kernel::L_MAX, Kernel::K_MAX) + 1;
  static constexpr int PRODUCTS = Q * CHANNELS * (CHANNELS + 1) / 2;
  static constexpr int BLOCKS = Q * CHANNELS, MIXING = BLOCKS * CHANNELS;
  static constexpr int GATES = (Kernel::L_MAX + 1) * CHANNELS;
  T query[Q * CHANNELS * KEYS], query_t[Q * KEYS * CHANNELS];
  T mix[(Kernel::K_MAX + 1) * CHANNELS * MESSAGE], mix_t[(Kernel::K_MAX + 1) * MESSAGE * CHANNELS];
  T output[(Kernel::L_MAX + 1) * CHANNELS * CHANNELS],
      output_t[(Kernel::L_MAX + 1) * CHANNELS * CHANNELS];
  // Self-interaction: attentive, or without a width linear.
  T hidden[PRODUCTS * WIDTH], hidden_t[WIDTH * PRODUCTS], hidden_bias[WIDTH];
  // A block [WIDTH][CHANNELS] for each degree and channel mixed: read in one piece.
  T mixing[BLOCKS * WIDTH * CHANNELS], mixing_t[MIXING * WIDTH], mixing_bias[WIDTH ? MIXING : 0];
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

  // Features [n_atoms][D_OUT][CHANNELS] from those before [n_atoms][D_IN][CHANNELS].  In the
  // first layer what depends on the species alone may be known [SPECIES].
  const T* forward(const Pairs<T>& pairs, const Parameters& w, const T* table, const T* features,
                   const std::int64_t* species, const FirstLayer* known) {
    const int n = pairs.n_atoms;
    features_ = features;
    few_ = n <= FEW;
    T* queries = queries_.reserve(n * QUERY);
    T* senders = senders_.reserve(n * SENDER);
    in_parallel(n, pairs.threads, [&](int begin, int end) {
      if (known) {
        for (int a = begin; a < end; ++a) {
          const FirstLayer& of = known[species[a]];
          std::copy_n(of.query, KEYS, queries + a * QUERY);
          std::copy_n(of.sender, MESSAGE, senders + a * SENDER);
        }
        return;
      }
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
    if (!known) reserve_self_interaction(n);
    in_parallel(n, pairs.threads, [&](int begin, int end) {
      mix_channels<L_MAX, CHANNELS, D_OUT, CHANNELS, D_OUT>(end - begin, heads_ + begin * OUT,
                                                            w.output, update + begin * OUT);
      if (known)
        for (int a = begin; a < end; ++a)
          for (int c = 0; c < CHANNELS; ++c) update[a * OUT + c] += T(known[species[a]].kept[c]);
      else
        for (int a = begin; a < end; a += ROWS) self_interaction(a, std::min(a + ROWS, end), w);
      for (int a = begin; a < end; a += ROWS)
        gate(a, std::min(a + ROWS, end), w, update, gates, result);
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
    for (int a = begin; a < end; a += ROWS) {
      const int stop = std::min(a + ROWS, end);
      T* update_slope = scratch_.reserve(ROWS * OUT);
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

  // What a block of pairs needs of its directions: for i <- j, and for j <- i, where
  // the vector points the other way.
  struct Directions {
    P u[3], basis[2][Kernel::ENTRIES];
    Directions(const Pairs<T>& pairs, int block) {
      P harmonics[2][HARMONICS];
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
            alignas(64) T distance_back[BLOCK] = {}, torques[3][BLOCK] = {};
            for (int p = 0; p < count; ++p) {
              radial<T, FUNCTIONS, !LEARN>(table, pairs, start + p, psi, psi_slope);
              std::fill_n(psi_back, FUNCTIONS, T(0));
              V torque[3] = {};
              const T envelope = pairs.envelope[start + p];
              for (int way = 0; way < 2; ++way) {
                const int centre = (way ? pairs.second : pairs.first)[start + p];
                const int neighbour = (way ? pairs.first : pairs.second)[start + p];
                const T* basis = directions.of(way, p);
                const T* sender = senders + neighbour * SENDER;
                T* sender_back = mine + neighbour * SENDER;
                const T* exponent = exponents + ((start + p) * 2 + way) * HEADS;
                const T* tanh = bounded + ((start + p) * 2 + way) * HEADS;
                T weight[HEADS], weight_back[HEADS], logit_back[HEADS];
                alignas(64) T of_channel[CHANNELS], product[CHANNELS], of_key[KEYS];
                for (int h = 0; h < HEADS; ++h) weight[h] = envelope * exponent[h];
                spread_heads<CHANNELS>(weight, of_channel);
                for (int g = 0; g < VALUE_GROUPS; ++g) {
                  const V alpha = load<V>(of_channel + g * N);
                  const T* slope = heads_slope + centre * HEAD + g * N;
                  V value[D_OUT], value_back[D_OUT], total{};
                  for (int d = 0; d < D_OUT; ++d)
                    value_back[d] = alpha * load<V>(slope + d * CHANNELS);
                  Kernel::template backward<L_MAX, STRIDE, V>(
                      basis, psi + KEYS + g * N, sender + KEYS + g * N, value_back, value,
                      psi_back + KEYS + g * N, sender_back + KEYS + g * N, torque);
                  for (int d = 0; d < D_OUT; ++d) total += value[d] * load<V>(slope + d * CHANNELS);
                  store<V>(product + g * N, total);
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
                  V key[D_QUERY], key_back[D_QUERY];
                  for (int d = 0; d < D_QUERY; ++d)
                    key_back[d] = factor * load<V>(queries + centre * QUERY + d * KEYS + g * N);
                  Kernel::template backward<L_QUERY, STRIDE, V>(
                      basis, psi + g * N, sender + g * N, key_back, key, psi_back + g * N,
                      sender_back + g * N, torque);
                  if (first) continue;
                  T* query_back = mine + n * SENDER + centre * QUERY + g * N;
                  for (int d = 0; d < D_QUERY; ++d) add<V>(query_back + d * KEYS, factor * key[d]);
                }
              }
              if constexpr (LEARN) {
                radial_backward<T, FUNCTIONS>(mine + n * (SENDER + QUERY), pairs, start + p,
                                              psi_back);
              } else {
                V along{};
                for (int c = 0; c < FUNCTIONS; c += N)
                  along += load<V>(psi_back + c) * load<V>(psi_slope + c);
                distance_back[p] += sum(along);
                for (int a = 0; a < 3; ++a) torques[a][p] = sum(torque[a]);
              }
            }
            if constexpr (LEARN) continue;
            const P radius = load<P>(pairs.distance + start), stretch = load<P>(distance_back);
            const P* u = directions.u;
            const P torque[3] = {load<P>(torques[0]), load<P>(torques[1]), load<P>(torques[2])};
            for (int a = 0; a < 3; ++a) {
              const int b = (a + 1) % 3, c = (a + 2) % 3;
              add<P>(pairs.gradient[a] + start,
                     (torque[b] * u[c] - torque[c] * u[b]) / radius + stretch * u[a]);
            }
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

  // f_c . f_c' for c <= c' of each degree, for each c in whole registers: the next c
  // overwrites what sticks out, and the last one's is no part of the result.
  static void multiply_channels(int count, const T* x, T* products) {
    for (int a = 0; a < count; ++a) {
      T* product = products + a * Parameters::PRODUCTS;
      for (int l = 0; l <= L_QUERY; ++l)
        for (int c = 0; c < CHANNELS; ++c) {
          for (int e = c; e < CHANNELS; e += N) {
            V total{};
            for (int m = l * l; m < dimension(l); ++m) {
              const T* f = x + a * IN + m * CHANNELS;
              total += f[c] * load<V>(f + e);
            }
            store<V>(product + e - c, total);
          }
          product += CHANNELS - c;
        }
    }
  }

  // Adds dE/d(features) from that by the products, as a symmetric matrix of each degree.
  static void multiply_channels_backward(int count, const T* x, const T* products, T* back) {
    alignas(64) T square[CHANNELS * CHANNELS + N];
    for (int a = 0; a < count; ++a) {
      const T* end = products + a * Parameters::PRODUCTS;
      for (int l = 0; l <= L_QUERY; ++l) {
        end += CHANNELS * (CHANNELS + 1) / 2;
        const T* from = end;
        for (int c = CHANNELS - 1; c >= 0; --c) {  // so that what sticks out is overwritten
          from -= CHANNELS - c;
          for (int e = c; e < CHANNELS; e += N)
            store<V>(square + c * CHANNELS + e, load<V>(from + e - c));
          square[c * CHANNELS + c] *= 2;
          for (int e = c + 1; e < CHANNELS; ++e) square[e * CHANNELS + c] = from[e - c];
        }
        multiply<CHANNELS, CHANNELS, true>(
            2 * l + 1, [=](int m) { return x + a * IN + (l * l + m) * CHANNELS; }, square,
            static_cast<const T*>(nullptr),
            [=](int m) { return back + a * IN + (l * l + m) * CHANNELS; });
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
      T* products = products_.reserve(ROWS * Parameters::PRODUCTS + N);
      multiply_channels(count, x, products);
      T* hidden = hidden_.reserve(0) + begin * WIDTH;  // before the activation
      const auto of_atom = [=](int a) { return products + a * Parameters::PRODUCTS; };
      const auto to = [=](int a) { return hidden + a * WIDTH; };
      if (few_)
        multiply_transposed<1, Parameters::PRODUCTS, WIDTH>(count, of_atom, w.hidden_t,
                                                            w.hidden_bias, to);
      else
        multiply<Parameters::PRODUCTS, WIDTH>(count, of_atom, w.hidden, w.hidden_bias, to);
      alignas(64) T active[ROWS * WIDTH];
      for (int k = 0; k < count * WIDTH; ++k) active[k] = hidden[k] * sigmoid(hidden[k]);
      T* mixing = mixing_.reserve(0) + static_cast<std::size_t>(begin) * Parameters::MIXING;
      multiply_each<Parameters::BLOCKS, WIDTH, CHANNELS>(
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
      T* mixing_back = mixing_back_.reserve(ROWS * Parameters::MIXING);
      for (int a = 0; a < count; ++a)
        for (int l = 0; l <= L_QUERY; ++l)
          for (int c = 0; c < CHANNELS; c += N) {
            const int block = a * Parameters::MIXING + (l * CHANNELS + c) * CHANNELS;
            const T *f = x + a * IN + c, *s = slope + a * OUT;
            for (int k = 0; k < N; ++k)
              for (int g = 0; g < VALUE_GROUPS; ++g) {
                V outer{};
                for (int m = l * l; m < dimension(l); ++m)
                  outer += f[m * CHANNELS + k] * load<V>(s + m * CHANNELS + g * N);
                store<V>(mixing_back + block + k * CHANNELS + g * N, outer);
              }
            for (int m = l * l; m < dimension(l); ++m) {
              V inner[N] = {};
              for (int k = 0; k < N; ++k)
                for (int g = 0; g < VALUE_GROUPS; ++g)
                  inner[k] += load<V>(mixing + block + k * CHANNELS + g * N) *
                              load<V>(s + m * CHANNELS + g * N);
              store<V>(back + a * IN + m * CHANNELS + c, sums(inner));
            }
          }
      alignas(64) T hidden_back[ROWS * WIDTH];
      const auto of_atom = [=](int a) { return mixing_back + a * Parameters::MIXING; };
      const auto to = [&](int a) { return hidden_back + a * WIDTH; };
      if (few_)
        multiply_transposed<Parameters::BLOCKS, CHANNELS, WIDTH>(
            count, of_atom, w.mixing, static_cast<const T*>(nullptr), to);
      else
        multiply<Parameters::MIXING, WIDTH>(count, of_atom, w.mixing_t,
                                            static_cast<const T*>(nullptr), to);
      const T* hidden = hidden_.reserve(0) + begin * WIDTH;
      alignas(64) T active[ROWS * WIDTH];
      for (int k = 0; k < count * WIDTH; ++k) {
        const T s = sigmoid(hidden[k]);
        active[k] = hidden[k] * s;
        hidden_back[k] *= s * (T(1) + hidden[k] * (T(1) - s));
      }
      T* products_back = products_.reserve(ROWS * Parameters::PRODUCTS + N);
      if (gradient) {
        for (int k = 0; k < Parameters::BLOCKS; ++k)
          multiply_gradient<WIDTH, CHANNELS>(
              count, [&](int a) { return active + a * WIDTH; },
              [=](int a) { return mixing_back + a * Parameters::MIXING + k * CHANNELS; },
              gradient->mixing + k * WIDTH * CHANNELS, gradient->mixing_bias + k * CHANNELS);
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
      multiply_channels_backward(count, x, products_back, back);
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
    alignas(64) T invariants[ROWS][GATES];
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
    alignas(64) T gates_back[ROWS][GATES] = {}, invariants_back[ROWS][GATES];
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
      alignas(64) T invariants[ROWS][GATES];
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
  bool few_ = false;
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

}  // namespace
