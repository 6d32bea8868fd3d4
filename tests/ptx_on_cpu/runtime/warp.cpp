// Warp collectives: shuffles, votes, matches, reductions, __syncwarp.
#include <algorithm>
#include <cstdio>

#include "collectives.h"
#include "fault.h"
#include "here.h"
#include "meetings.h"

namespace ptx_on_cpu {
namespace {

std::string hex(uint32_t mask) {
  char text[16];
  snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

void check_mask(const Site& site, uint32_t mask, uint32_t alive) {
  if (!(mask >> here.lane() & 1)) {
    fail(site, "bad lane mask: " + hex(mask) + " does not name the calling lane " + std::to_string(here.lane()));
  }
  if (mask & ~alive) {
    fail(site,
         "bad lane mask: " + hex(mask) + " names lanes that have exited or do not exist; alive are " + hex(alive));
  }
}

template <typename Argument>
Argument& of_lane(void* const* arguments, uint32_t lane) {
  return *static_cast<Argument*>(arguments[lane]);
}

template <typename Body>
void for_each_lane(uint32_t mask, Body body) {
  for (; mask; mask &= mask - 1) body(uint32_t(__builtin_ctz(mask)));
}

}  // namespace

void meet(Site& site, uint32_t mask, void* argument, Compute compute) {
  Warp& warp = block.warps[here.warp()];
  check_mask(site, mask, warp.alive);
  Meeting* meeting = nullptr;
  for (Meeting& open : warp.meetings) {
    if (!open.arrived) {
      if (!meeting) meeting = &open;
    } else if (open.mask == mask && open.site == &site) {
      meeting = &open;
      break;
    } else if (open.arrived & mask) {
      fail(site, "divergent warp: mask " + hex(mask) + " names lanes that wait at " + where(*open.site));
    }
  }
  if (!meeting) meeting = &warp.meetings.emplace_back();
  if (!meeting->arrived) meeting->mask = mask, meeting->site = &site;
  const uint32_t lane = here.lane();
  meeting->arguments[lane] = argument;
  meeting->arrived |= 1u << lane;
  if (meeting->arrived != mask) return wait_at(site);
  if (compute) compute(meeting->arguments, mask);
  meeting->arrived = 0;
  for_each_lane(mask & ~(1u << lane), [&](uint32_t other) { block.make_ready(here.warp() * 32 + other); });
}

namespace {

struct ShuffleArgument {
  Site* site;
  ShuffleMode mode;
  uint32_t value, lane, clamp;
  Shuffled result;
};

// The source lane of `lane`, after the pseudo-code of the PTX ISA; false where it lies outside the segment.
bool source_lane(const ShuffleArgument& argument, uint32_t lane, uint32_t* source) {
  const int offset = int(argument.lane & 31), clamp = int(argument.clamp & 31), segment = int(argument.clamp >> 8 & 31);
  const int at = int(lane), highest = (at & segment) | (clamp & ~segment), lowest = at & segment;
  int from = at;
  bool in_range = false;
  switch (argument.mode) {
    case ShuffleMode::kUp:
      from = at - offset, in_range = from >= highest;
      break;
    case ShuffleMode::kDown:
      from = at + offset, in_range = from <= highest;
      break;
    case ShuffleMode::kButterfly:
      from = at ^ offset, in_range = from <= highest;
      break;
    case ShuffleMode::kIndex:
      from = lowest | (offset & ~segment), in_range = from <= highest;
      break;
  }
  *source = uint32_t(in_range ? from : at);
  return in_range;
}

void compute_shuffle(void* const* arguments, uint32_t mask) {
  for_each_lane(mask, [&](uint32_t lane) {
    auto& argument = of_lane<ShuffleArgument>(arguments, lane);
    uint32_t source = 0;
    const bool in_range = source_lane(argument, lane, &source);
    if (!(mask >> source & 1)) {
      fail(*argument.site, "bad lane mask: lane " + std::to_string(lane) + " reads lane " + std::to_string(source) +
                               ", which is not in " + hex(mask));
    }
    argument.result = {of_lane<ShuffleArgument>(arguments, source).value, in_range};
  });
}

struct BallotArgument {
  bool predicate;
  uint32_t result;
};
void compute_ballot(void* const* arguments, uint32_t mask) {
  uint32_t votes = 0;
  for_each_lane(mask,
                [&](uint32_t lane) { votes |= uint32_t(of_lane<BallotArgument>(arguments, lane).predicate) << lane; });
  for_each_lane(mask, [&](uint32_t lane) { of_lane<BallotArgument>(arguments, lane).result = votes; });
}

struct MatchArgument {
  uint64_t value;
  uint32_t result;
};
void compute_match(void* const* arguments, uint32_t mask) {
  for_each_lane(mask, [&](uint32_t lane) {
    auto& argument = of_lane<MatchArgument>(arguments, lane);
    argument.result = 0;
    for_each_lane(mask, [&](uint32_t other) {
      argument.result |= uint32_t(of_lane<MatchArgument>(arguments, other).value == argument.value) << other;
    });
  });
}

struct ReduceArgument {
  Reduction reduction;
  uint32_t value, result;
};
uint32_t combine(Reduction reduction, uint32_t a, uint32_t b) {
  switch (reduction) {
    case Reduction::kAdd:
      return a + b;
    case Reduction::kMinSigned:
      return int32_t(a) < int32_t(b) ? a : b;
    case Reduction::kMaxSigned:
      return int32_t(a) > int32_t(b) ? a : b;
    case Reduction::kMinUnsigned:
      return a < b ? a : b;
    case Reduction::kMaxUnsigned:
      return a > b ? a : b;
    case Reduction::kAnd:
      return a & b;
    case Reduction::kOr:
      return a | b;
    default:
      return a ^ b;
  }
}
void compute_reduction(void* const* arguments, uint32_t mask) {
  const uint32_t first = uint32_t(__builtin_ctz(mask));
  uint32_t result = of_lane<ReduceArgument>(arguments, first).value;
  for_each_lane(mask & (mask - 1), [&](uint32_t lane) {
    const auto& argument = of_lane<ReduceArgument>(arguments, lane);
    result = combine(argument.reduction, result, argument.value);
  });
  for_each_lane(mask, [&](uint32_t lane) { of_lane<ReduceArgument>(arguments, lane).result = result; });
}

void note_warp_sync(void* const*, uint32_t) {
  timeline.warp_met(here.warp());
  const uint32_t first = here.warp() * 32;
  share_acquired(first, std::min(first + 32, block.threads_in_all));
}

}  // namespace

Shuffled shuffle(Site& site, ShuffleMode mode, uint32_t value, uint32_t lane, uint32_t clamp, uint32_t mask) {
  ShuffleArgument argument{&site, mode, value, lane, clamp, {}};
  meet(site, mask, &argument, compute_shuffle);
  return argument.result;
}

uint32_t ballot(Site& site, bool predicate, uint32_t mask) {
  BallotArgument argument{predicate, 0};
  meet(site, mask, &argument, compute_ballot);
  return argument.result;
}

Matched match_any(Site& site, uint64_t value, uint32_t mask) {
  MatchArgument argument{value, 0};
  meet(site, mask, &argument, compute_match);
  return {argument.result, argument.result == mask};
}

Matched match_all(Site& site, uint64_t value, uint32_t mask) {
  const Matched matched = match_any(site, value, mask);
  return {matched.all_equal ? mask : 0, matched.all_equal};
}

uint32_t reduce(Site& site, Reduction reduction, uint32_t value, uint32_t mask) {
  ReduceArgument argument{reduction, value, 0};
  meet(site, mask, &argument, compute_reduction);
  return argument.result;
}

void sync_warp(Site& site, uint32_t mask) { meet(site, mask, nullptr, note_warp_sync); }

}  // namespace ptx_on_cpu
