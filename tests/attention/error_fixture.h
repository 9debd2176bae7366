// SPDX-License-Identifier: Apache-2.0
// A good call of the attention API, to be changed in one place at a time, and the check of the
// error that follows.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <functional>
#include <string>
#include <vector>

#include "support/batch.h"
#include "support/kv_forms.h"

namespace tilewright::test {

using testing::HasSubstr;

inline void expect_error(ErrorCode code, const std::vector<std::string>& words,
                         const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    for (const std::string& word : words) EXPECT_THAT(error.what(), HasSubstr(word));
    return;
  }
  ADD_FAILURE() << "no error; expected one that names " << testing::PrintToString(words);
}

inline constexpr ErrorCode kInvalid = ErrorCode::invalid_argument;

// A call in which all is well: 3 requests, 4 query heads over 2 KV heads, pages of 4 tokens.
class AttentionErrors : public testing::Test {
 protected:
  AttentionErrors() : attention(make_spec(dims, DType::bf16, variants::causal())) {
    set_batch();
    set_run();
  }

  void set_batch() {
    batch.qo_indptr = qo_indptr.view();
    batch.kv_lens = kv_lens.view();
    table = PageTable::padded(pages.view(), 4);
  }

  void set_run() {
    args.out = out.view();
    args.lse = lse.view();
    kv = KvCache::separate(k.view(), v.view());
    query = q.view();
  }

  void update() { plan.update(batch, {PlanInput(attention, {level()}, plan_params)}); }
  void run() { attention.run(plan, query, kv, args); }
  void update_and_run() {
    update();
    run();
  }
  KvLevel level() const { return {table, {}, {}, {}, {}}; }

  static Tensor filled_pages() {
    Tensor t = int_matrix(3, 4);
    for (int r = 0; r < 3; ++r) {
      for (int c = 0; c < 4; ++c) t.set({r, c}, (r * 4 + c) % 10);
    }
    return t;
  }

  static Tensor zeros(DType dtype, const Extents& shape) {
    return {dtype, shape, row_major(shape), 0};
  }

  const Dims dims{4, 2, 16, 16};
  Tensor qo_indptr = int_tensor({0, 1, 4, 5});
  Tensor kv_lens = int_tensor({7, 9, 4});
  Tensor pages = filled_pages();
  Tensor q = zeros(DType::bf16, {5, 4, 16});
  Tensor k = zeros(DType::bf16, {10, 4, 2, 16});
  Tensor v = zeros(DType::bf16, {10, 4, 2, 16});
  Tensor out = zeros(DType::bf16, {5, 4, 16});
  Tensor lse = zeros(DType::f32, {5, 4});
  Attention attention;
  Limits limits{3, 8, 4, 16};
  Plan plan{{attention}, limits};
  Batch batch;
  PageTable table;
  std::vector<ParamValue> plan_params;
  KvCache kv;
  TensorView query;
  RunArgs args;
};

}  // namespace tilewright::test
