// One request of verify_sampling as its block sees it, and the checks of those of its values that only the device
// knows.
#pragma once

#include "draft_tree.cuh"
#include "threshold_search.cuh"
#include "verify_sampling.h"

namespace mtp_ext::cuda {

inline constexpr int kMarkWords = 1024;

// Shared memory of a block.
struct SamplingScratch {
  RowScratch sums;
  ThresholdScratch threshold;
  uint32_t marks[kMarkWords];  // of groups of columns that hold a refused token, or seem to
  unsigned votes[kRowWarps];
};

struct SamplingLimits {
  float scale;    // octaves in a logit: log2(e) / temperature; infinite at temperature 0
  int64_t top_k;  // the vocabulary or more: no limit
  float top_p;    // 1: no limit
  float min_p;    // 0: no limit
};

template <typename scalar_t>
struct SamplingRequest {
  const VerifySamplingParams<scalar_t> params;
  SamplingScratch& scratch;
  int64_t index;
  DraftTree tree;
  SamplingLimits limits;
  SamplingNode* nodes;        // [nodes]
  const scalar_t* logits;     // [nodes, vocab]
  const float* uniforms;      // [nodes + 1]
  const int64_t* draft_rows;  // [nodes], or null
  int vocab;

  __device__ const scalar_t* row(int node) const { return logits + node * params.node_stride; }
  __device__ const float* draft(const Visit& visit) const {
    return visit.draft_row < 0 ? nullptr : params.draft_log_probs + visit.draft_row * params.draft_stride;
  }
  __device__ void report_at(Fault fault, int64_t place) const { report(params.drafts.status, fault, place); }
};

// False where a setting is out of its range.
template <typename scalar_t>
__device__ bool read_limits(const VerifySamplingParams<scalar_t>& params, int64_t request, SamplingLimits& limits) {
  const float temperature = params.temperature[request];
  limits.scale = static_cast<float>(1 / (temperature * kLn2));
  limits.top_k = params.top_k ? params.top_k[request] : params.vocab;
  limits.top_p = params.top_p ? params.top_p[request] : 1.0f;
  limits.min_p = params.min_p ? params.min_p[request] : 0.0f;
  Fault fault = Fault::kNone;
  if (!(temperature == 0 || (temperature >= 1e-30f && temperature <= 1e30f))) fault = Fault::kTemperature;
  if (limits.top_k < 1) fault = Fault::kTopK;
  if (!(limits.top_p > 0 && limits.top_p <= 1)) fault = Fault::kTopP;
  if (!(limits.min_p >= 0 && limits.min_p <= 1)) fault = Fault::kMinP;
  if (fault != Fault::kNone && threadIdx.x == 0) report(params.drafts.status, fault, request);
  return fault == Fault::kNone;
}

// A request with a setting out of its range has no nodes.
template <typename scalar_t>
__device__ SamplingRequest<scalar_t> open_request(const VerifySamplingParams<scalar_t>& params, int64_t index,
                                                  SamplingScratch& scratch) {
  SamplingRequest<scalar_t> request{params, scratch,
                                    index,  open_tree(params.drafts, index, scratch.votes),
                                    {},     {},
                                    {},     {},
                                    {},     static_cast<int>(params.vocab)};
  const int64_t nodes = params.drafts.nodes;
  request.nodes = params.workspace + index * nodes;
  request.logits = params.logits + index * params.request_stride;
  request.uniforms = params.uniforms + index * params.uniform_stride;
  request.draft_rows = params.draft_rows ? params.draft_rows + index * params.row_stride : nullptr;
  if (!read_limits(params, index, request.limits)) request.tree.count = 0;
  for (int64_t i = threadIdx.x; i <= nodes; i += kRowThreads) {
    const float uniform = request.uniforms[i];
    if (!(uniform >= 0 && uniform < 1)) request.report_at(Fault::kUniform, index * (nodes + 1) + i);
  }
  for (int i = threadIdx.x; i < request.tree.count; i += kRowThreads) {
    request.nodes[i].depth = i == 0 ? 0 : -1;
    request.nodes[i].log_prob = 0;
    request.nodes[i].taken = -1;
  }
  __syncthreads();
  return request;
}

}  // namespace mtp_ext::cuda
