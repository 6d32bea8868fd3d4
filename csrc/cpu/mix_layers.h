// Mixtures of the outputs of a model's layers, and the gradient of their weights:
//   out[h, i] = sum_l weights[h, l] layers[l, i]        products[h, l] = sum_i grad[h, i] layers[l, i]
// One run of `count` consecutive numbers of each layer and head. Arithmetic is float32, sums over runs are double.
// Source: "weighted hidden states" of arXiv 2502.09419.
#pragma once

#include <cstdint>

#include "../number_types.h"

namespace mtp_ext {

inline constexpr int64_t kMixRun = 4096;  // numbers that are worth a task

template <typename scalar_t>
void mix_layers(const scalar_t* const* layers,  // [layers][count]
                const float* weights,           // [heads, layers]
                scalar_t* const* out,           // [heads][count]
                int64_t layer_count, int64_t heads, int64_t count);

template <typename scalar_t>
void add_layer_products(const scalar_t* const* grad,    // [heads][count]
                        const scalar_t* const* layers,  // [layers][count]
                        double* products,               // [heads, layers], added to
                        int64_t layer_count, int64_t heads, int64_t count);

}  // namespace mtp_ext
