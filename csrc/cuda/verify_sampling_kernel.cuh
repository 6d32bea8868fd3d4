// Job: read the target's logits once after each node that is looked at, with one exponential each, and what siblings
// were drawn from once for each refusal; and again the row of the next token, up to where it lies. Nodes that are
// looked at are those of the path, for typical and traversal also others near it. A block has a request. It reads a
// target's row once; a truncated one again for each of up to six digits of the search for its end and for the mass that
// is left; for each refusal of a drawn token both rows; for the sample the row. Further readings come from the
// second-level cache. No result is kept but the numbers of each node.
#pragma once

#include "argmax.cuh"
#include "sampling_methods.cuh"

namespace mtp_ext::cuda {

// Takes visit.child, of which so much was left, out of what is left of the target. False where q is no distribution.
template <typename scalar_t>
__device__ bool refuse_child(const SamplingRequest<scalar_t>& request, Visit& visit, float child_mass) {
  const bool drawn = request.draft_rows != nullptr;
  if (drawn) visit.taken = static_cast<float>(fmin(3e38, visit.taken + visit.mass / (visit.rate * visit.draft_mass)));
  __syncthreads();
  if (threadIdx.x == 0) request.nodes[visit.child].taken = drawn ? visit.taken : kInfinity;
  __syncthreads();
  if (!drawn) {
    visit.mass -= child_mass;
    // A difference keeps the absolute error of what it was taken from: a small one is added up anew.
    if (visit.mass >= visit.whole_mass * 1e-3) return true;
  }
  const MassSums left = sum_masses(request, visit, mark_refused(request, visit));
  visit.mass = visit.whole_mass = left.target;
  if (drawn) visit.draft_mass = left.draft;
  return left.draft < static_cast<double>(kInfinity);
}

template <typename scalar_t>
__device__ Verdict verify_by_sampling(const SamplingRequest<scalar_t>& request) {
  const SamplingMethod method = request.params.method;
  const bool bottom_up = method == SamplingMethod::kTraversal;
  Visit visit = new_visit(0, 1);
  while (true) {
    const Step step = method == SamplingMethod::kTypical ? accept_typical(request, visit)
                      : bottom_up                        ? traverse(request, visit)
                                                         : descend(request, visit);
    if (step == Step::kOpen) {
      open_target(request, visit);
    } else if (step == Step::kRefuse) {
      const double mass = visit.mass;
      const float child_mass = request.draft_rows ? 0 : masses_of_child(request, visit).target;
      if (!refuse_child(request, visit, child_mass)) return {bottom_up ? 0 : visit.node, -1};
      if (bottom_up) lower_rate(request, visit, mass);
    } else {
      if (step == Step::kStop) return {visit.node, -1};
      return {visit.node, sample(request, visit, request.uniforms[request.params.drafts.nodes])};
    }
  }
}

template <typename scalar_t>
__global__ void __launch_bounds__(kRowThreads, 1) verify_sampling_kernel(const VerifySamplingParams<scalar_t> params) {
  __shared__ SamplingScratch scratch;
  const SamplingRequest<scalar_t> request = open_request(params, blockIdx.x, scratch);
  Verdict verdict{-1, -1};
  if (request.tree.count > 0) {
    if (params.temperature[blockIdx.x] == 0) {
      verdict = follow_best(
          request.tree, [&](int node) { return argmax_row(request.row(node), request.vocab, scratch.sums.integers); });
    } else {
      verdict = verify_by_sampling(request);
    }
  }
  write_verdict(params.drafts, blockIdx.x, request.tree, verdict);
}

}  // namespace mtp_ext::cuda
