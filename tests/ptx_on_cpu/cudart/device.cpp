#include "device.h"

namespace ptx_on_cpu {
namespace {

constexpr Device kDevices[] = {
    {7, 5, "T4 (stand-in)", 40, 1024, 16, 65536, 65536, 65536, 4 << 20},
    {8, 0, "A100 (stand-in)", 108, 2048, 32, 167936, 166912, 65536, 40 << 20},
    {8, 6, "A40 (stand-in)", 84, 1536, 16, 102400, 101376, 65536, 6 << 20},
    {8, 9, "L40 (stand-in)", 142, 1536, 24, 102400, 101376, 65536, 96 << 20},
    {9, 0, "H100 (stand-in)", 132, 2048, 32, 233472, 232448, 65536, 50 << 20},
    {10, 0, "B200 (stand-in)", 148, 2048, 32, 233472, 232448, 65536, 126 << 20},
    {12, 0, "RTX PRO 6000 (stand-in)", 188, 1536, 24, 102400, 101376, 65536, 128 << 20},
};
const Device* chosen = &kDevices[1];

}  // namespace

const Device& device() { return *chosen; }

bool choose_device(int capability) {
  for (const Device& device : kDevices) {
    if (device.major * 10 + device.minor == capability) return chosen = &device, true;
  }
  return false;
}

}  // namespace ptx_on_cpu
