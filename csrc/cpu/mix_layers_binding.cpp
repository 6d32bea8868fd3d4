#include <vector>

#include "../dispatch.h"
#include "mix_layers.h"
#include "parallel.h"

namespace mtp_ext {
namespace {

// Layers of one shape and dtype, on the device of `like`.
void check_layers(const char* op, const std::vector<Tensor>& layers, const Tensor& like) {
  if (layers.empty()) refuse(op, "layers must hold at least one layer, got none");
  check_tensor(op, "layers[0]", layers[0], {{"rows"}, {"hidden"}},
               {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half}, like);
  for (size_t i = 1; i < layers.size(); ++i) {
    const std::string argument = "layers[" + std::to_string(i) + "]";
    check_tensor(op, argument.c_str(), layers[i], {{"rows", layers[0].size(0)}, {"hidden", layers[0].size(1)}},
                 {layers[0].scalar_type()}, like);
  }
}

// Consecutive numbers of a row.
struct Run {
  int64_t row, begin, count;
};

// How matrices [rows, hidden] are cut into runs: by their shape alone, and across rows where each is one piece.
class Cut {
 public:
  Cut(int64_t rows, int64_t hidden, bool in_one_piece)
      : rows_(in_one_piece ? 1 : rows),
        columns_(in_one_piece ? rows * hidden : hidden),
        runs_per_row_(ceil_div(columns_, kMixRun)) {}

  int64_t runs() const { return rows_ * runs_per_row_; }
  Run run(int64_t i) const {
    const int64_t begin = i % runs_per_row_ * kMixRun;
    return {i / runs_per_row_, begin, std::min(kMixRun, columns_ - begin)};
  }

 private:
  int64_t rows_, columns_, runs_per_row_;
};

template <typename number_t>
struct Matrix {
  number_t* data;
  int64_t row_stride;

  number_t* at(const Run& run) const { return data + run.row * row_stride + run.begin; }
};

template <typename number_t>
std::vector<number_t*> at(const Run& run, const std::vector<Matrix<number_t>>& matrices) {
  std::vector<number_t*> places;
  for (const Matrix<number_t>& matrix : matrices) places.push_back(matrix.at(run));
  return places;
}

template <typename scalar_t>
std::vector<Matrix<const scalar_t>> read(const std::vector<Tensor>& layers) {
  std::vector<Matrix<const scalar_t>> matrices;
  for (const Tensor& x : layers) matrices.push_back({static_cast<const scalar_t*>(x.const_data_ptr()), x.stride(0)});
  return matrices;
}

bool in_one_piece(const std::vector<Tensor>& layers) {
  const int64_t hidden = layers[0].size(1);
  return std::all_of(layers.begin(), layers.end(), [&](const Tensor& layer) { return layer.stride(0) == hidden; });
}

Tensor mix_layers_cpu(const std::vector<Tensor>& layers, const Tensor& weights) {
  const char* op = "mix_layers";
  const int64_t layer_count = static_cast<int64_t>(layers.size());
  check_tensor(op, "weights", weights, {{"heads"}, {"layers", layer_count}}, {kFloat32}, weights);
  check_layers(op, layers, weights);
  const int64_t heads = weights.size(0), rows = layers[0].size(0), hidden = layers[0].size(1);
  std::vector<float> shares;
  for (int64_t h = 0; h < heads; ++h) {
    const float* row = weights.const_data_ptr<float>() + h * weights.stride(0);
    shares.insert(shares.end(), row, row + layer_count);
  }
  const Tensor out = new_empty(layers[0], {heads, rows, hidden}, layers[0].scalar_type());
  dispatch_logits(op, layers[0], [&](const auto* first) {
    using scalar_t = std::remove_const_t<std::remove_pointer_t<decltype(first)>>;
    const auto inputs = read<scalar_t>(layers);
    std::vector<Matrix<scalar_t>> mixtures;
    for (int64_t h = 0; h < heads; ++h) {
      mixtures.push_back({static_cast<scalar_t*>(out.mutable_data_ptr()) + h * rows * hidden, hidden});
    }
    const Cut cut(rows, hidden, in_one_piece(layers));
    parallel_items(cut.runs(), kMixRun * layer_count, [&](int64_t i) {
      const Run run = cut.run(i);
      mix_layers(at(run, inputs).data(), shares.data(), at(run, mixtures).data(), layer_count, heads, run.count);
    });
  });
  return out;
}

Tensor mix_layers_weights_cpu(const Tensor& grad, const std::vector<Tensor>& layers) {
  const char* op = "mix_layers_weights";
  check_layers(op, layers, grad);
  const int64_t rows = layers[0].size(0), hidden = layers[0].size(1);
  check_tensor(op, "grad", grad, {{"heads"}, {"rows", rows}, {"hidden", hidden}}, {layers[0].scalar_type()}, grad);
  const int64_t heads = grad.size(0), layer_count = static_cast<int64_t>(layers.size());
  const Cut cut(rows, hidden, in_one_piece(layers) && grad.stride(1) == hidden);
  const int64_t size = heads * layer_count;
  std::vector<double> products(cut.runs() * size);  // of each run, so that their sum does not depend on the threads
  dispatch_logits(op, grad, [&](const auto* data) {
    using scalar_t = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    const auto inputs = read<scalar_t>(layers);
    std::vector<Matrix<const scalar_t>> gradients;
    for (int64_t h = 0; h < heads; ++h) gradients.push_back({data + h * grad.stride(0), grad.stride(1)});
    parallel_items(cut.runs(), kMixRun * layer_count, [&](int64_t i) {
      const Run run = cut.run(i);
      add_layer_products(at(run, gradients).data(), at(run, inputs).data(), products.data() + i * size, layer_count,
                         heads, run.count);
    });
  });
  const Tensor out = new_empty(grad, {heads, layer_count}, kFloat32);
  for (int64_t i = 0; i < size; ++i) {
    double total = 0;
    for (int64_t run = 0; run < cut.runs(); ++run) total += products[run * size + i];
    out.mutable_data_ptr<float>()[i] = static_cast<float>(total);
  }
  return out;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) {
  m.impl("mix_layers", TORCH_BOX(&mtp_ext::mix_layers_cpu));
  m.impl("mix_layers_weights", TORCH_BOX(&mtp_ext::mix_layers_weights_cpu));
}
