#include "statistics.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <vector>

#include "block.h"

namespace ptx_on_cpu {

bool counting = false;

namespace {

// What the lanes of one warp touched in one execution of an instruction.
struct Request {
  uint32_t bytes = 0;
  std::map<uint32_t, uint64_t> addresses;  // by lane: lanes arrive in any order
};
struct Counts {
  const char* kernel = nullptr;
  bool shared = false;
  uint32_t bytes = 0;
  uint64_t requests = 0, transactions = 0, ideal = 0;
  std::map<std::pair<uint32_t, uint32_t>, Request> open;  // by warp and how many times its lane was here before
  std::unordered_map<uint32_t, uint32_t> times;           // by thread
};
std::map<const Site*, Counts> counts;

uint64_t distinct(std::vector<uint64_t> numbers) {
  std::sort(numbers.begin(), numbers.end());
  return uint64_t(std::unique(numbers.begin(), numbers.end()) - numbers.begin());
}

uint64_t sectors(const Request& request) {
  std::vector<uint64_t> touched;
  for (const auto& [lane, address] : request.addresses) {
    for (uint64_t at = address / 32; at <= (address + request.bytes - 1) / 32; ++at) touched.push_back(at);
  }
  return distinct(touched);
}

// 32 banks of 4 bytes. Wide accesses are served in parts: half a warp for 8 bytes a lane, a quarter for 16. A part
// takes as many wavefronts as different words meet in one bank, and at least as many as all its words fill.
struct Wavefronts {
  uint64_t taken = 0, least = 0;
};
Wavefronts wavefronts(const Request& request) {
  const uint32_t lanes_at_once = request.bytes <= 4 ? 32 : 128 / request.bytes;
  Wavefronts all;
  for (uint32_t first = 0; first < 32; first += lanes_at_once) {
    std::vector<uint64_t> banks[32];
    const auto end = request.addresses.lower_bound(first + lanes_at_once);
    for (auto lane = request.addresses.lower_bound(first); lane != end; ++lane) {
      const uint64_t address = lane->second;
      for (uint64_t word = address / 4; word <= (address + request.bytes - 1) / 4; ++word)
        banks[word % 32].push_back(word);
    }
    uint64_t worst = 0, words = 0;
    for (const auto& bank : banks) {
      const uint64_t different = distinct(bank);
      worst = std::max(worst, different);
      words += different;
    }
    all.taken += worst;
    all.least += (words + 31) / 32;
  }
  return all;
}

void close(Counts& count, const Request& request) {
  ++count.requests;
  if (count.shared) {
    const Wavefronts all = wavefronts(request);
    count.transactions += all.taken;
    count.ideal += all.least;
    return;
  }
  count.transactions += sectors(request);
  std::vector<uint64_t> addresses;
  for (const auto& [lane, address] : request.addresses) addresses.push_back(address);
  const uint64_t needed = distinct(addresses) * request.bytes;
  count.ideal += (needed + 31) / 32;
}

void record(const Site& site, uint64_t address, uint32_t bytes, bool shared) {
  Counts& count = counts[&site];
  count.kernel = block.kernel->name, count.shared = shared;
  count.bytes = bytes;
  Request& request = count.open[{here.warp(), count.times[here.index]++}];
  request.bytes = bytes;
  request.addresses[here.lane()] = address;
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

}  // namespace

void count_global(const Site& site, uint64_t address, uint32_t bytes) { record(site, address, bytes, false); }
void count_shared(const Site& site, uint64_t address, uint32_t bytes) { record(site, address, bytes, true); }

void finish_counting_block() {
  for (auto& entry : counts) {
    for (const auto& open : entry.second.open) close(entry.second, open.second);
    entry.second.open.clear();
    entry.second.times.clear();
  }
}

std::string statistics_json() {
  std::string rows;
  for (const auto& [site, count] : counts) {
    rows += rows.empty() ? "\n" : ",\n";
    rows += "{\"kernel\": " + quoted(count.kernel) + ", \"instruction\": " + quoted(site->text) +
            ", \"line\": " + std::to_string(site->line) + ", \"source\": " + quoted(site->source) +
            ", \"memory\": " + (count.shared ? "\"shared\"" : "\"global\"") +
            ", \"bytes\": " + std::to_string(count.bytes) + ", \"requests\": " + std::to_string(count.requests) +
            ", \"transactions\": " + std::to_string(count.transactions) +
            ", \"ideal\": " + std::to_string(count.ideal) + "}";
  }
  return "[" + rows + "]\n";
}

void clear_statistics() { counts.clear(); }

}  // namespace ptx_on_cpu
