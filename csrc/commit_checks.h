// What `commit_` takes, on any device; mtp_ext/ops/commit.py says the same sentences.
#pragma once

#include <algorithm>
#include <limits>

#include "cache_checks.h"
#include "commit.h"

namespace mtp_ext {

inline Commit check_commit(const std::vector<Tensor>& keys, const std::vector<Tensor>& values,
                           const Tensor& prefix_lengths, const Tensor& nodes, const Tensor& lengths,
                           const std::optional<Tensor>& page_table) {
  constexpr const char* kOp = "commit_";
  if (keys.size() != values.size()) {
    refuse(kOp, "keys and values must be of the same layers, got ", keys.size(), " and ", values.size());
  }
  check_tensor(kOp, "nodes", nodes, {{"batch"}, {"nodes"}}, {kInt64}, nodes);
  const int64_t batch = nodes.size(0);
  check_tensor(kOp, "prefix_lengths", prefix_lengths, {{"batch", batch}}, {kInt64}, nodes);
  check_tensor(kOp, "lengths", lengths, {{"batch", batch}}, {kInt64}, nodes);
  Commit commit{
      {batch, nodes.size(1), std::numeric_limits<int64_t>::max(), nodes.stride(0),
       prefix_lengths.const_data_ptr<int64_t>(), nodes.const_data_ptr<int64_t>(), lengths.const_data_ptr<int64_t>()},
      {}};
  for (size_t layer = 0; layer < keys.size(); ++layer) {
    const Tensor& key = keys[layer];
    const ScalarType dtype = key.scalar_type();
    if (dtype != ScalarType::Float && dtype != ScalarType::BFloat16 && dtype != ScalarType::Half) {
      check_tensor(kOp, "key", key, {{"batch", batch}, {"capacity"}, {"kv_heads"}, {"head_dim"}},
                   {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half}, nodes);
    }
    const int64_t capacity = check_cache(kOp, key, values[layer], batch, key, page_table).capacity;
    commit.paths.capacity = std::min(commit.paths.capacity, capacity);
    if (!same_device(key, nodes)) {
      refuse(kOp, "keys and values must be on ", device_name(nodes), ", got ", device_name(key));
    }
    commit.layers.push_back({written_rows(key), written_rows(values[layer]), cache_pages(key, page_table)});
  }
  return commit;
}

}  // namespace mtp_ext
