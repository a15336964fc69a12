// What tch doesn't bind: precision of matrix products, and giving cached device memory back.

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>

extern "C" int wattfarm_allow_tf32(int allowed) {
  try {
    at::globalContext().setAllowTF32CuBLAS(allowed != 0);
    at::globalContext().setAllowTF32CuDNN(allowed != 0);
    return 0;
  } catch (...) {
    return 1;
  }
}

extern "C" int wattfarm_empty_device_cache() {
  try {
    at::accelerator::emptyCache();
    return 0;
  } catch (...) {
    return 1;
  }
}
