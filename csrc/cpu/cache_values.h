// The values that the ops on a KV cache check where they can read them; mtp_ext/ops/cache_checks.py says the same
// sentences.
#pragma once

#include "../cache_checks.h"

namespace mtp_ext {

// Every entry of the table is one of the cache's pages.
void check_page_values(const char* op, const CachePages& pages, int64_t batch);

// Every request's prefix and nodes fit into its cache.
void check_length_values(const char* op, const int64_t* prefix_lengths, const int64_t* node_counts, int64_t batch,
                         int64_t nodes, int64_t capacity);

}  // namespace mtp_ext
