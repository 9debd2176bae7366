// SPDX-License-Identifier: Apache-2.0
#include <tilewright/c_base.h>
#include <tilewright/threads.h>
#include <tilewright/version.h>

#include <string>

#include "c_api/guard.h"
#include "c_api/read.h"

using namespace tilewright;
using namespace tilewright::c_api;

const char* tw_status_name(tw_status status) {
  switch (status) {
    case TW_OK:
      return "ok";
    case TW_INVALID_ARGUMENT:
      return "invalid argument";
    case TW_LIMIT_EXCEEDED:
      return "limit exceeded";
    case TW_NOT_SUPPORTED:
      return "not supported";
    case TW_INVALID_STATE:
      return "invalid state";
    case TW_OUT_OF_MEMORY:
      return "out of memory";
    case TW_DEVICE_ERROR:
      return "device error";
    case TW_COMPILE_ERROR:
      return "compile error";
    case TW_INTERNAL:
      return "internal error";
    default:
      return "unknown status";
  }
}

const char* tw_version() {
  return version();
}

tw_status tw_cpu_features(const char** features) {
  return guarded([&] {
    required("features", features);
    static const std::string text = cpu_features();
    *features = text.c_str();
  });
}

tw_status tw_set_num_threads(int32_t threads) {
  return guarded([&] { set_num_threads(threads); });
}

tw_status tw_num_threads(int32_t* threads) {
  return guarded([&] { required("threads", threads) = num_threads(); });
}
