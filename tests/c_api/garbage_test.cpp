// SPDX-License-Identifier: Apache-2.0
// Calls whose numbers were overwritten at random: sizes, ranks, dtypes, enumerations, counts,
// extents and pointers that became NULL. Each must end with a code and, if that is not TW_OK, a
// message; the library must stay usable. Run it under the asan and ubsan presets.
#include "c_api/c_support.h"
#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

constexpr int kRounds = 4000;

// Structs lie before this many zero bytes, so that sizes that are a little too large stay in
// memory, as they would in a later version's caller.
constexpr std::size_t kSlack = 1280;

template <typename T>
struct Slack {
  T value;
  std::array<std::byte, kSlack> zeros{};
};

class Garbage {
 public:
  explicit Garbage(std::uint64_t seed) : random_(seed) {}

  std::int64_t number() {
    switch (random_.range(0, 5)) {
      case 0:
        return random_.range(-3, 12);
      case 1:
        return random_.range(-100000, 100000);
      case 2:
        return INT64_MAX - random_.range(0, 2);
      case 3:
        return INT64_MIN + random_.range(0, 2);
      case 4:
        return std::int64_t{1} << random_.range(0, 62);
      default:
        return static_cast<std::int64_t>(random_.bits());
    }
  }

  // One member of a tensor. Pointers and strides are only made such that memory is not left.
  void spoil(tw_tensor& tensor) {
    switch (random_.range(0, 6)) {
      case 0:
        tensor.rank = static_cast<std::int32_t>(number());
        break;
      case 1:
        tensor.dtype = static_cast<tw_dtype>(number());
        break;
      case 2:
        tensor.device = {static_cast<std::int32_t>(number()), static_cast<std::int32_t>(number())};
        break;
      case 3:
        tensor.data = nullptr;
        break;
      case 4:
        tensor.shape[random_.range(0, TW_MAX_RANK - 1)] = -std::abs(random_.range(1, 1 << 20));
        break;
      case 5:
        tensor.shape[random_.range(0, TW_MAX_RANK - 1)] = INT64_MAX - random_.range(0, 2);
        break;
      default:
        tensor = {};
        break;
    }
    // Fewer dimensions or other dtypes are views of the same memory only where they are smaller.
    if (tensor.dtype == TW_I64) tensor.dtype = TW_DEFAULT_DTYPE;
  }

  template <typename T>
  void spoil_number(T& value) {
    value = static_cast<T>(number());
  }
  void spoil_size(std::size_t& size) {
    size = random_.chance(0.5) ? size + static_cast<std::size_t>(random_.range(-16, 1200))
                               : static_cast<std::size_t>(number());
  }

  bool chance(double probability) { return random_.chance(probability); }
  std::int64_t pick(std::int64_t count) { return random_.range(0, count - 1); }

 private:
  Random random_;
};

void expect_answer(tw_status status) {
  ASSERT_GE(status, TW_OK);
  ASSERT_LT(status, TW_INTERNAL) << tw_last_error();
  if (status != TW_OK) {
    ASSERT_STRNE(tw_last_error(), "");
  }
}

class CGarbage : public testing::Test {
 protected:
  // The good call still gives the good bits.
  void expect_usable() {
    b.tensors.out.refill();
    CInput input(b.inputs(cpp)[0], attention.get());
    const tw_batch batch = to_c(b.batch());
    ASSERT_OK(tw_plan_update(plan.get(), &batch, &input.get(), 1, nullptr));
    CRunArgs args(b.tensors.args());
    ASSERT_OK(tw_attention_run(attention.get(), plan.get(), &q, &kv, 1, &args.get()));
    if (expected.empty()) expected = b.tensors.out.snapshot();
    ASSERT_TRUE(b.tensors.out.snapshot() == expected);
  }

  const Dims dims{2, 1, 16, 16};
  SimpleBatch b{dims, DType::f32, {{1, 30}, {5, 12}}, 4, 3};
  const Attention cpp{make_spec(dims, DType::f32, variants::causal())};
  const AttentionHandle attention = make_attention(cpp.spec());
  const PlanHandle plan = make_plan(attention.get(), b.limits());
  const tw_tensor q = to_c(b.tensors.q.view());
  const tw_kv_cache kv = to_c(b.cache.view());
  std::vector<std::uint8_t> expected;
};

TEST_F(CGarbage, Specs) {
  Garbage garbage(1);
  for (int i = 0; i < kRounds; ++i) {
    Slack<tw_attention_spec> spec = {to_c(cpp.spec(), nullptr)};
    const std::array<std::int32_t*, 8> members = {
        &spec.value.num_qo_heads, &spec.value.num_kv_heads, &spec.value.head_dim,
        &spec.value.head_dim_vo,  &spec.value.q_dtype,      &spec.value.kv_dtype,
        &spec.value.v_dtype,      &spec.value.out_dtype};
    const std::int64_t which = garbage.pick(10);
    if (which < 8) garbage.spoil_number(*members[which]);
    if (which == 8) garbage.spoil_size(spec.value.size);
    tw_device device{};
    if (which == 9) garbage.spoil_number(garbage.chance(0.5) ? device.type : device.index);
    std::int32_t ok = 0;
    const char* reason = nullptr;
    expect_answer(tw_supports(device, &spec.value, &ok, &reason));
  }
}

TEST_F(CGarbage, Updates) {
  Garbage garbage(2);
  expect_usable();
  int good = 0;
  for (int i = 0; i < kRounds; ++i) {
    Slack<tw_batch> batch = {to_c(b.batch())};
    Slack<tw_page_table> table = {to_c(b.table.table)};
    Slack<tw_kv_level> level = {sized<tw_kv_level>()};
    level.value.table = &table.value;
    Slack<tw_plan_input> input = {sized<tw_plan_input>()};
    input.value.attention = attention.get();
    input.value.levels = &level.value;
    input.value.num_levels = 1;
    std::size_t num_inputs = 1;
    switch (garbage.pick(14)) {
      case 0:
        garbage.spoil_size(batch.value.size);
        break;
      case 1:
        garbage.spoil_size(table.value.size);
        break;
      case 2:
        garbage.spoil_size(level.value.size);
        break;
      case 3:
        garbage.spoil_size(input.value.size);
        break;
      case 4:
        garbage.spoil(batch.value.qo_indptr);
        break;
      case 5:
        garbage.spoil(batch.value.kv_lens);
        break;
      case 6:
        garbage.spoil(table.value.indices);
        break;
      case 7:
        garbage.spoil_number(table.value.form);
        break;
      case 8:
        garbage.spoil_number(table.value.page_size);
        break;
      case 9:
        garbage.spoil_number(batch.value.interleave_size);
        garbage.spoil_number(batch.value.interleave_world);
        garbage.spoil_number(batch.value.interleave_rank);
        break;
      case 10:
        // A list of more than there are is not to be told from one: only what no list has.
        input.value.num_levels = garbage.chance(0.5) ? 0 : static_cast<std::size_t>(-1);
        break;
      case 11:
        input.value.num_params = static_cast<std::size_t>(garbage.number()) | 1U;
        break;
      case 12:
        num_inputs = garbage.chance(0.5) ? 0 : static_cast<std::size_t>(garbage.number()) | 2U;
        break;
      default:
        garbage.spoil(level.value.kv_pos);
        break;
    }
    const tw_status status =
        tw_plan_update(plan.get(), &batch.value, &input.value, num_inputs, nullptr);
    expect_answer(status);
    good += status == TW_OK ? 1 : 0;
    if (i % 500 == 0) expect_usable();
  }
  // Some garbage is harmless (a larger size before zeros), most is not.
  EXPECT_GT(good, 0);
  EXPECT_LT(good, kRounds / 2);
  expect_usable();
}

TEST_F(CGarbage, Runs) {
  Garbage garbage(3);
  expect_usable();
  for (int i = 0; i < kRounds; ++i) {
    CRunArgs good(b.tensors.args());
    Slack<tw_run_args> args = {good.get()};
    Slack<tw_kv_cache> cache = {kv};
    tw_tensor queries = q;
    tw_real scale = {1, {}};
    std::size_t levels = 1;
    switch (garbage.pick(11)) {
      case 0:
        garbage.spoil_size(args.value.size);
        break;
      case 1:
        garbage.spoil_size(cache.value.size);
        break;
      case 2:
        garbage.spoil(args.value.out);
        break;
      case 3:
        garbage.spoil(args.value.lse);
        break;
      case 4:
        garbage.spoil(args.value.sinks);
        break;
      case 5:
        garbage.spoil(cache.value.k);
        break;
      case 6:
        garbage.spoil(cache.value.v);
        break;
      case 7:
        garbage.spoil(queries);
        break;
      case 8:
        garbage.spoil_number(args.value.padding);
        break;
      case 9:
        garbage.spoil(scale.tensor);
        args.value.v_scale = &scale;
        break;
      default:
        levels = garbage.chance(0.5) ? 0 : static_cast<std::size_t>(-1);
        break;
    }
    expect_answer(
        tw_attention_run(attention.get(), plan.get(), &queries, &cache.value, levels, &args.value));
    if (i % 500 == 0) expect_usable();
  }
  expect_usable();
}

TEST_F(CGarbage, LimitsRopesAndSampling) {
  Garbage garbage(4);
  const tw_attention* list = attention.get();
  std::vector<float> logits(40);
  std::vector<std::int32_t> tokens(4);
  const tw_tensor c_logits = to_c(TensorView(logits.data(), DType::f32, {4, 10}));
  const tw_tensor c_tokens = to_c(TensorView(tokens.data(), DType::i32, {4}));
  std::vector<std::int32_t> status(4);
  const tw_tensor c_status = to_c(TensorView(status.data(), DType::i32, {4}));
  for (int i = 0; i < kRounds; ++i) {
    Slack<tw_limits> limits = {to_c(b.limits())};
    switch (garbage.pick(4)) {
      case 0:
        garbage.spoil_size(limits.value.size);
        break;
      case 1:
        garbage.spoil_number(limits.value.levels);
        garbage.spoil_number(limits.value.block_structures);
        break;
      case 2:
        garbage.spoil_number(limits.value.determinism);
        garbage.spoil_number(limits.value.workers);
        break;
      default:
        garbage.spoil_number(limits.value.requests);
        garbage.spoil_number(limits.value.kv_len);
        break;
    }
    std::size_t bytes = 0;
    expect_answer(tw_plan_workspace_bytes(&list, 1, &limits.value, &bytes));

    Slack<tw_rope_spec> spec = {sized<tw_rope_spec>()};
    if (garbage.chance(0.3)) garbage.spoil_size(spec.value.size);
    spec.value.scaling = static_cast<std::int32_t>(garbage.pick(6));
    if (garbage.chance(0.5)) garbage.spoil_number(spec.value.dim);
    if (garbage.chance(0.5)) garbage.spoil_number(spec.value.theta);
    if (garbage.chance(0.5)) garbage.spoil_number(spec.value.factor);
    if (garbage.chance(0.2)) garbage.spoil_number(spec.value.num_factors);
    if (garbage.chance(0.2)) garbage.spoil_number(spec.value.interleaved);
    RopeHandle rope;
    expect_answer(tw_rope_create(&spec.value, rope.target()));

    Slack<tw_sampling_args> args = {sized<tw_sampling_args>()};
    tw_real real = {0.5F, {}};
    tw_integer integer = {3, {}};
    args.value.top_p = &real;
    args.value.top_k = &integer;
    switch (garbage.pick(8)) {
      case 0:
        garbage.spoil_size(args.value.size);
        break;
      case 1:
        garbage.spoil(real.tensor);
        break;
      case 2:
        garbage.spoil(integer.tensor);
        break;
      case 3:
        args.value.slots = c_tokens;
        garbage.spoil(args.value.slots);
        break;
      case 4:
        args.value.status = c_status;
        garbage.spoil(args.value.status);
        break;
      case 5:
        args.value.allowed = args.value.prompt_bits = args.value.output_counts = c_logits;
        garbage.spoil(garbage.chance(0.5) ? args.value.allowed : args.value.output_counts);
        break;
      case 6:
        args.value.repetition_penalty = args.value.presence_penalty = &real;
        real.value = static_cast<float>(garbage.number());
        garbage.spoil_number(args.value.order);
        break;
      default:
        integer.value = garbage.number();
        real.value = static_cast<float>(garbage.number());
        break;
    }
    expect_answer(tw_sample(&c_logits, &args.value, &c_tokens));
  }
}

TEST_F(CGarbage, SamplingOutputsAndTopK) {
  Garbage garbage(7);
  std::vector<float> logits(40);
  std::vector<float> floats(40);
  std::vector<std::int32_t> words(12);
  std::vector<std::int32_t> tokens(4);
  const tw_tensor c_logits = to_c(TensorView(logits.data(), DType::f32, {4, 10}));
  const tw_tensor rows = to_c(TensorView(floats.data(), DType::f32, {4, 10}));
  const tw_tensor bits = to_c(TensorView(words.data(), DType::i32, {4, 1}));
  const tw_tensor best = to_c(TensorView(floats.data(), DType::f32, {4, 3}));
  const tw_tensor best_ids = to_c(TensorView(words.data(), DType::i32, {4, 3}));
  const tw_tensor numbers = to_c(TensorView(floats.data(), DType::f32, {4}));
  const tw_tensor c_tokens = to_c(TensorView(tokens.data(), DType::i32, {4}));
  for (int i = 0; i < kRounds; ++i) {
    Slack<tw_sampling_outputs> outputs = {sized<tw_sampling_outputs>()};
    Slack<tw_sampling_args> args = {sized<tw_sampling_args>()};
    args.value.outputs = &outputs.value;
    outputs.value.kept = bits;
    outputs.value.probabilities = rows;
    outputs.value.masked_logits = rows;
    outputs.value.raw = outputs.value.processed = {numbers, c_tokens, best, best_ids};
    tw_log_probs& log_probs = garbage.chance(0.5) ? outputs.value.raw : outputs.value.processed;
    tw_tensor* const members[] = {&outputs.value.kept,
                                  &outputs.value.probabilities,
                                  &outputs.value.masked_logits,
                                  &log_probs.chosen,
                                  &log_probs.ranks,
                                  &log_probs.best,
                                  &log_probs.best_ids};
    const std::int64_t which = garbage.pick(9);
    if (which < 7) garbage.spoil(*members[which]);
    if (which == 7) garbage.spoil_size(outputs.value.size);
    if (which == 8) garbage.spoil_number(args.value.input);
    expect_answer(tw_sample(&c_logits, &args.value, &c_tokens));

    tw_tensor given = c_logits, values = best, indices = best_ids;
    tw_tensor* const of_top_k[] = {&given, &values, &indices};
    garbage.spoil(*of_top_k[garbage.pick(3)]);
    expect_answer(tw_top_k(&given, &values, &indices, nullptr));
  }
  expect_usable();
}

TEST_F(CGarbage, RopeAndCache) {
  Garbage garbage(6);
  RopeHandle rope;
  const tw_rope_spec spec = sized<tw_rope_spec>();
  ASSERT_EQ(tw_rope_create(&spec, rope.target()), TW_OK);
  std::vector<float> values(64);
  std::vector<std::int32_t> slots(2);
  const tw_tensor heads = to_c(TensorView(values.data(), DType::f32, {2, 1, 8}));
  const tw_tensor list = to_c(TensorView(slots.data(), DType::i32, {2}));
  const tw_tensor weights = to_c(TensorView(values.data(), DType::f32, {8}));
  tw_kv_cache cache = sized<tw_kv_cache>();
  cache.k = cache.v = to_c(TensorView(values.data(), DType::f32, {1, 4, 1, 8}));
  for (int i = 0; i < kRounds; ++i) {
    Slack<tw_rope_and_cache_args> args = {sized<tw_rope_and_cache_args>()};
    tw_tensor norm = weights, table = heads, indptr = list;
    tw_real scale = {0.5F, {}};
    args.value.rope = rope.get();
    args.value.q_norm_weight = &norm;
    switch (garbage.pick(6)) {
      case 0:
        garbage.spoil_size(args.value.size);
        break;
      case 1:
        garbage.spoil(norm);
        break;
      case 2:
        args.value.rope = garbage.chance(0.5) ? rope.get() : nullptr;
        args.value.cos_sin_cache = &table;
        garbage.spoil(table);
        break;
      case 3:
        args.value.token_indptr = &indptr;
        garbage.spoil(indptr);
        break;
      case 4:
        args.value.k_scale = &scale;
        garbage.spoil(scale.tensor);
        break;
      default:
        garbage.spoil_number(args.value.interleaved);
        garbage.spoil_number(args.value.norm_eps);
        break;
    }
    expect_answer(tw_apply_rope_and_write_kv_cache(&heads, &heads, &heads, &list, &heads, &cache,
                                                   &list, &args.value));
  }
  expect_usable();
}

// Texts and names that are no variants.
TEST_F(CGarbage, Variants) {
  Garbage garbage(5);
  const std::string text = variants::t5_relative_bias(true).serialize();
  for (int i = 0; i < kRounds; ++i) {
    std::string spoilt = text;
    for (std::int64_t n = garbage.pick(4); n >= 0; --n) {
      spoilt[static_cast<std::size_t>(garbage.pick(static_cast<std::int64_t>(text.size())))] =
          static_cast<char>(garbage.pick(255) + 1);
    }
    VariantHandle variant;
    expect_answer(tw_variant_parse(spoilt.c_str(), variant.target()));
    const tw_variant_arg arg = {"chunk_size", static_cast<double>(garbage.number())};
    VariantHandle chunked;
    expect_answer(tw_variant_create("chunked_local", &arg, 1, chunked.target()));
  }
}

}  // namespace
}  // namespace tilewright::test
