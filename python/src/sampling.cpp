// SPDX-License-Identifier: Apache-2.0
// Sampling tokens from logits.
#include <tilewright/sampling.h>

#include <cmath>

#include "bindings.h"
#include "sampling_values.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

constexpr const char* kSignature =
    "def sample(logits: tilewright._typing.ArrayT, *, "
    "temperature: tilewright._typing.PerRow = 1.0, "
    "top_k: tilewright._typing.PerRow = 0, "
    "top_p: tilewright._typing.PerRow = 1.0, "
    "min_p: tilewright._typing.PerRow = 0.0, "
    "typical_p: tilewright._typing.PerRow = 1.0, "
    "order: str = 'hf', "
    "allowed: tilewright._typing.Array | None = None, "
    "bias_ids: tilewright._typing.Array | None = None, "
    "bias_values: tilewright._typing.Array | None = None, "
    "output_counts: tilewright._typing.Array | None = None, "
    "prompt_bits: tilewright._typing.Array | None = None, "
    "repetition_penalty: tilewright._typing.PerRow = 1.0, "
    "frequency_penalty: tilewright._typing.PerRow = 0.0, "
    "presence_penalty: tilewright._typing.PerRow = 0.0, "
    "seeds: tilewright._typing.PerRow = 0, "
    "steps: tilewright._typing.PerRow = 0, "
    "slots: tilewright._typing.Indices | None = None, "
    "status: tilewright._typing.Array | None = None, "
    "input: str = 'logits', "
    "outputs: tilewright.sampling.SamplingOutputs | None = None, "
    "out: tilewright._typing.ArrayT | None = None, "
    "stream: object | None = None) -> tilewright._typing.ArrayT";

constexpr const char* kDoc =
    R"(Draws a token from each row of logits [rows, vocabulary] (float32, float16 or bfloat16).

Every argument is a number for all rows, a list, or an array [rows] of the dtype said here. Filters
apply to the softmax of logits / temperature in the order that is said; ties at a threshold go to the
lowest token id.

temperature: float32, >= 0; 0 is greedy: the arg max, lowest id among equals.
top_k: int32; <= 0: off. top_p: float32; >= 1: off. min_p: float32 in [0, 1]; 0: off; tokens below min_p
  times the largest probability are dropped.
typical_p: float32; >= 1 or <= 0: off; the tokens whose -log p is nearest to the entropy are kept, until
  their mass reaches it.
order: "hf": top-k, top-p on what it kept, min-p, typical-p; "joint": top-k and top-p of the whole
  distribution, min-p, typical-p; "vllm": min-p, top-k, top-p on what these kept, typical-p; "llamacpp":
  top-k, typical-p, top-p, min-p at temperature 1, and the temperature shapes the draw alone.
Logits are processed before, each step where it is given: mask, biases, repetition, frequency, presence.

allowed: int32 [rows, ceil(vocabulary / 32)]: bits of the tokens that may be drawn, as xgrammar has them.
bias_ids, bias_values: int32 and float32 [rows, n]: added to the logits of these tokens; -1 is unused.
output_counts: int32 [rows, vocabulary]: how often a token was generated. prompt_bits: int32, as allowed:
  the tokens of the prompt.
repetition_penalty: float32, > 0; 1: off; logits of tokens of output and prompt are divided by it where
  positive, else multiplied. frequency_penalty, presence_penalty: float32; logits of generated tokens are
  lowered by frequency_penalty * count and presence_penalty.
seeds, steps: int64; the random number of a row is Philox4x32-10 of its seed and its step (how many
  tokens the request has drawn before) and nothing else: the same seed, step and logits give the same
  token in any batch.
slots: int32 [rows]; every array of parameters, seeds and steps among them, then has one extent,
  [slots], and row r reads entry slots[r].
status: int32 [rows], written: bits of SamplingStatus for each row.
input: "logits", or "probabilities": then what rows have is a probability, >= 0 and not necessarily
  normalised; temperature is 1 or 0, nothing is processed, and the order is not "llamacpp".
outputs: a SamplingOutputs: arrays that are written beside the tokens.
out: int32 or int64 [rows], written. stream: as in Attention.run.

Returns the tokens, int32 [rows] of logits' kind, or out. Errors: InvalidArgument, also for a
temperature below 0. Releases the GIL.)";

LogProbs to_log_probs(nb::handle object, Keep& keep) {
  LogProbs result;
  if (object.is_none()) return result;
  const auto read = [&](const char* name) {
    return view_of(keep.emplace_back(object.attr(name)), name, keep, Access::write);
  };
  result.chosen = read("chosen");
  result.ranks = read("ranks");
  result.best = read("best");
  result.best_ids = read("best_ids");
  return result;
}

SamplingOutputs to_outputs(nb::handle object, Keep& keep) {
  SamplingOutputs result;
  if (object.is_none()) return result;
  const auto read = [&](const char* name) {
    return view_of(keep.emplace_back(object.attr(name)), name, keep, Access::write);
  };
  result.kept = read("kept");
  result.probabilities = read("probabilities");
  result.masked_logits = read("masked_logits");
  result.raw = to_log_probs(keep.emplace_back(object.attr("raw")), keep);
  result.processed = to_log_probs(keep.emplace_back(object.attr("processed")), keep);
  return result;
}

constexpr const char* kTopKSignature =
    "def top_k(logits: tilewright._typing.ArrayT, k: int, *, "
    "values: tilewright._typing.ArrayT | None = None, "
    "indices: tilewright._typing.ArrayT | None = None, "
    "stream: object | None = None) -> "
    "tuple[tilewright._typing.ArrayT, tilewright._typing.ArrayT]";

constexpr const char* kTopKDoc =
    R"(The k largest entries of each row of logits [rows, vocabulary] (float32, float16 or bfloat16).

They are sorted: by falling value, and among equal ones by rising index. NaN counts as -inf; behind the
last entry of a row there is -inf with index -1. 1 <= k <= 2048.

values: [rows, k] of the dtype of logits, written. indices: int32 or int64 [rows, k], written.
stream: as in Attention.run.

Returns values and indices (int32), of logits' kind, or the arrays given. Errors: InvalidArgument.
Releases the GIL.)";

nb::object top_k_entries(nb::handle logits, std::int64_t k, nb::object values, nb::object indices,
                         nb::handle stream) {
  Keep keep;
  const TensorView view = view_of(logits, "logits", keep);
  if (view.rank != 2) {
    raise_invalid(fmt::format("logits is {}: it must be [rows, vocabulary]",
                              view.defined() ? view.describe() : "None"));
  }
  if (k < 1 || k > 2048) raise_invalid(fmt::format("k is {}: it must be in [1, 2048]", k));
  const std::int64_t shape[] = {view.shape[0], k};
  Output values_out(std::move(values), logits, view.dtype, shape);
  Output indices_out(std::move(indices), logits, DType::i32, shape);
  const TensorView values_view = values_out.view("values", keep);
  const TensorView indices_view = indices_out.view("indices", keep);
  const Stream on = to_stream(stream, view.device);
  {
    const nb::gil_scoped_release release;
    top_k(view, values_view, indices_view, on);
  }
  return nb::make_tuple(values_out.result(), indices_out.result());
}

nb::object sample_tokens(nb::handle logits, nb::handle temperature, nb::handle top_k,
                         nb::handle top_p, nb::handle min_p, nb::handle typical_p, nb::handle order,
                         nb::handle allowed, nb::handle bias_ids, nb::handle bias_values,
                         nb::handle output_counts, nb::handle prompt_bits,
                         nb::handle repetition_penalty, nb::handle frequency_penalty,
                         nb::handle presence_penalty, nb::handle seeds, nb::handle steps,
                         nb::handle slots, nb::handle status, nb::handle input, nb::handle outputs,
                         nb::object out, nb::handle stream) {
  Keep keep;
  const TensorView view = view_of(logits, "logits", keep);
  if (view.rank != 2) {
    raise_invalid(fmt::format("logits is {}: it must be [rows, vocabulary]",
                              view.defined() ? view.describe() : "None"));
  }
  SamplingArgs args;
  args.temperature = to_per_row<float>(temperature, "temperature", DType::f32, keep);
  args.top_k = to_per_row<std::int32_t>(top_k, "top_k", DType::i32, keep);
  args.top_p = to_per_row<float>(top_p, "top_p", DType::f32, keep);
  args.min_p = to_per_row<float>(min_p, "min_p", DType::f32, keep);
  args.typical_p = to_per_row<float>(typical_p, "typical_p", DType::f32, keep);
  args.order = to_filter_order(order);
  args.allowed = view_of(allowed, "allowed", keep);
  args.bias_ids = view_of(bias_ids, "bias_ids", keep);
  args.bias_values = view_of(bias_values, "bias_values", keep);
  args.output_counts = view_of(output_counts, "output_counts", keep);
  args.prompt_bits = view_of(prompt_bits, "prompt_bits", keep);
  args.repetition_penalty =
      to_per_row<float>(repetition_penalty, "repetition_penalty", DType::f32, keep);
  args.frequency_penalty =
      to_per_row<float>(frequency_penalty, "frequency_penalty", DType::f32, keep);
  args.presence_penalty = to_per_row<float>(presence_penalty, "presence_penalty", DType::f32, keep);
  args.seeds = to_per_row<std::int64_t>(seeds, "seeds", DType::i64, keep);
  args.steps = to_per_row<std::int64_t>(steps, "steps", DType::i64, keep);
  args.slots = list_or_view_of(slots, "slots", DType::i32, keep);
  args.status = view_of(status, "status", keep, Access::write);
  args.input = to_choice<SamplingInput>(
      input, "input",
      {{"logits", SamplingInput::logits}, {"probabilities", SamplingInput::probabilities}});
  args.outputs = to_outputs(outputs, keep);
  Output output(std::move(out), logits, DType::i32, std::span(view.shape).first(1));
  const TensorView tokens = output.view("out", keep);
  args.stream = to_stream(stream, view.device);
  {
    const nb::gil_scoped_release release;
    sample(view, args, tokens);
  }
  return output.result();
}

}  // namespace

std::int64_t to_integer(nb::handle object, const char* name) {
  const nb::object integer = nb::steal(PyNumber_Index(object.ptr()));
  if (!integer.is_valid()) {
    PyErr_Clear();
    raise_type_error(fmt::format("{} is {}: it must be an integer, or an array of them", name,
                                 describe_type(object)));
  }
  const std::int64_t value = PyLong_AsLongLong(integer.ptr());
  if (value == -1 && PyErr_Occurred()) throw nb::python_error();
  return value;
}

FilterOrder to_filter_order(nb::handle object) {
  return to_choice<FilterOrder>(object, "order",
                                {{"hf", FilterOrder::hf},
                                 {"joint", FilterOrder::joint},
                                 {"vllm", FilterOrder::vllm},
                                 {"llamacpp", FilterOrder::llamacpp}});
}

void bind_sampling(nb::module_& m) {
  nb::enum_<SamplingStatus>(m, "SamplingStatus", nb::is_arithmetic(), nb::is_flag(),
                            "Bits of sample's status: what it found in a row.")
      .value("NAN", SamplingStatus::nan)
      .value("INFINITY", SamplingStatus::infinity)
      .value("NO_CANDIDATE", SamplingStatus::no_candidate)
      .value("BAD_PARAMETER", SamplingStatus::bad_parameter)
      .value("SLOT", SamplingStatus::slot)
      .value("NEGATIVE", SamplingStatus::negative);
  m.def("sample", &sample_tokens, "logits"_a.none(), nb::kw_only(), "temperature"_a.none() = 1.0,
        "top_k"_a.none() = 0, "top_p"_a.none() = 1.0, "min_p"_a.none() = 0.0,
        "typical_p"_a.none() = 1.0, "order"_a = "hf", "allowed"_a = nb::none(),
        "bias_ids"_a = nb::none(), "bias_values"_a = nb::none(), "output_counts"_a = nb::none(),
        "prompt_bits"_a = nb::none(), "repetition_penalty"_a.none() = 1.0,
        "frequency_penalty"_a.none() = 0.0, "presence_penalty"_a.none() = 0.0, "seeds"_a.none() = 0,
        "steps"_a.none() = 0, "slots"_a = nb::none(), "status"_a = nb::none(), "input"_a = "logits",
        "outputs"_a = nb::none(), "out"_a = nb::none(), "stream"_a = nb::none(),
        nb::sig(kSignature), kDoc);
  m.def("top_k", &top_k_entries, "logits"_a.none(), "k"_a, nb::kw_only(), "values"_a = nb::none(),
        "indices"_a = nb::none(), "stream"_a = nb::none(), nb::sig(kTopKSignature), kTopKDoc);
}

}  // namespace tilewright::python
