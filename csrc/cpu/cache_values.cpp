#include "cache_values.h"

namespace mtp_ext {

void check_page_values(const char* op, const CachePages& pages, int64_t batch) {
  if (!pages.page_table) return;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < pages.columns; ++i) {
      const int64_t page = pages.page_table[b * pages.page_table_stride + i];
      if (page < 0 || page >= pages.pages) {
        refuse(op, "page_table must be from 0 to ", pages.pages - 1, ", got page_table[", b, ", ", i, "]=", page);
      }
    }
  }
}

void check_length_values(const char* op, const int64_t* prefix_lengths, const int64_t* node_counts, int64_t batch,
                         int64_t nodes, int64_t capacity) {
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t prefix = prefix_lengths[b];
    const int64_t count = node_counts ? node_counts[b] : nodes;
    if (count < 0 || count > nodes) {
      refuse(op, "node_counts must be from 0 to ", nodes, ", got node_counts[", b, "]=", count);
    }
    if (prefix < 0) refuse(op, "prefix_lengths must be at least 0, got prefix_lengths[", b, "]=", prefix);
    if (prefix > capacity - count) {
      refuse(op, "the cache must hold prefix and nodes, got capacity ", capacity, " for prefix_lengths[", b,
             "]=", prefix, " and ", count, " nodes");
    }
  }
}

}  // namespace mtp_ext
