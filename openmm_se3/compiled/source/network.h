// The whole network: embedding, layers, energy head, wall.
#pragma once

#include <array>
#include <iterator>
#include <tuple>

#include "layer.h"

namespace {

template <class T>
struct Head {
  T hidden[CHANNELS * CHANNELS], hidden_t[CHANNELS * CHANNELS], hidden_bias[CHANNELS],
      output[CHANNELS];
};

template <class T>
struct HeadGradient {
  T hidden[CHANNELS * CHANNELS], hidden_bias[CHANNELS], output[CHANNELS];
};

// What a network needs beside weights and tables, in float64 as in weights.py.
struct Constants {
  double isolated[SPECIES];
  // Of each pair of species: charge (eV A), 1 / screening length, 1 / reach (1/A).
  double wall[SPECIES * SPECIES][3];
  FirstLayer first[SPECIES];
};

// Weights that are learnt change from call to call.
#ifdef TRAINING
constexpr bool WEIGHTS_STAY = false;
#else
constexpr bool WEIGHTS_STAY = true;
#endif

template <class T>
class Network {
 public:
  // Atomic energies relative to isolated atoms, to energies [n_atoms], and -dE/dx, to
  // forces [n_atoms][3].
  void energies_and_forces(Pairs<T>& pairs, const std::int64_t* species, const T* weights,
                           const T* tables, const Constants& constants, double* energies,
                           double* forces) {
    const int n = pairs.n_atoms;
    const T* features =
        forward(pairs, species, weights, tables, WEIGHTS_STAY ? constants.first : nullptr);
    const Head<T>& head = head_of(weights);
    T* slope = slope_.reserve(n * CHANNELS);
    for (int a = 0; a < n; ++a)
      energies[a] =
          atomic_energy(head, features + a * CHANNELS, T(1), slope + a * CHANNELS, nullptr) -
          constants.isolated[species[a]];
    pairs.clear_gradient();
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
    const T* features = forward(pairs, species, weights, tables, nullptr);
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
  const T* forward(Pairs<T>& pairs, const std::int64_t* species, const T* weights, const T* tables,
                   const FirstLayer* known) {
    const int n = pairs.n_atoms;
    T* features = embedded_.reserve(n * CHANNELS);
    for (int a = 0; a < n; ++a)
      std::copy_n(weights + species[a] * CHANNELS, CHANNELS, features + a * CHANNELS);
    return layers_forward(std::make_index_sequence<LAYERS>(), pairs, weights + SPECIES * CHANNELS,
                          tables, features, species, known);
  }

  static const Head<T>& head_of(const T* weights) {
    return *reinterpret_cast<const Head<T>*>(weights + SPECIES * CHANNELS + LAYER_WEIGHTS);
  }

  template <std::size_t... I>
  const T* layers_forward(std::index_sequence<I...>, Pairs<T>& pairs, const T* weights,
                          const T* tables, const T* features, const std::int64_t* species,
                          const FirstLayer* known) {
    (..., [&](auto& layer) {
      using Parameters = typename std::decay_t<decltype(layer)>::Parameters;
      weights_of_[I] = weights;
      tables_of_[I] = tables;
      features = layer.forward(pairs, *reinterpret_cast<const Parameters*>(weights), tables, features,
                               species, I == 0 ? known : nullptr);
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
    const double rest = 1.0 - x * x * x * x, envelope = rest * rest * rest;
    double screened = 0.0, change = 0.0;
    for (std::size_t k = 0; k < std::size(WALL_WEIGHTS); ++k) {
      const double term = WALL_WEIGHTS[k] * std::exp(-WALL_EXPONENTS[k] * r * pair[1]);
      screened += term;
      change -= WALL_EXPONENTS[k] * pair[1] * term;
    }
    energy += pair[0] / r * screened * envelope;
    const double slope = -12.0 * x * x * x * rest * rest * pair[2];
    return pair[0] / r * ((change - screened / r) * envelope + screened * slope);
  }

  Buffer<T> embedded_, slope_;
  std::array<const T*, LAYERS> weights_of_, tables_of_;
  decltype(make_layers(std::make_index_sequence<LAYERS>())) layers_;
};

}  // namespace
