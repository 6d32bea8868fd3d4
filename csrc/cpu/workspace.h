// Memory that a thread keeps from one task or call to the next: a fresh block is unmapped pages, and touching those
// first took a third of the time of short calls. Numbers are not initialised, and start on a cache line.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace mtp_ext {

class Workspace {
 public:
  // Room for `count` numbers; what was there before is gone.
  template <typename number_t>
  number_t* get(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(number_t));
    if (bytes > bytes_) {
      memory_.reset(static_cast<char*>(::operator new(bytes, kAlignment)));
      bytes_ = bytes;
    }
    return reinterpret_cast<number_t*>(memory_.get());
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(char* memory) const { ::operator delete(memory, kAlignment); }
  };

  std::unique_ptr<char, Free> memory_;
  int64_t bytes_ = 0;
};

}  // namespace mtp_ext
