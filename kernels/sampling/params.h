// SPDX-License-Identifier: Apache-2.0
// Parameters of the sampling kernel: a plain struct that host and device share. Strides are in elements.
#pragma once

#include "arch/types.h"

namespace tw {

// A number for all rows, or where `data` is given, one for each.
template <typename T>
struct RowValues {
  const void* data;
  i64 stride;
  T value;
};

struct SampleParams {
  const void* logits;  // [rows, vocabulary]
  i64 logits_stride;
  void* tokens;  // [rows]
  i64 tokens_stride;
  RowValues<float> temperature;
  RowValues<i32> top_k;
  RowValues<float> top_p;
  RowValues<float> min_p;
  RowValues<i64> seeds;
  RowValues<i64> steps;
  i32 tokens_64;  // i64, not i32
  i32 vocabulary;
  i32 aligned;  // all rows are aligned to runs
};

}  // namespace tw
