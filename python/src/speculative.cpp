// SPDX-License-Identifier: Apache-2.0
// Speculative verification.
#include <nanobind/stl/optional.h>
#include <tilewright/speculative.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string_view>

#include "bindings.h"
#include "sampling_values.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

// What both functions take alike, behind their own arguments.
constexpr const char* kCommonParameters =
    "draft: tilewright._typing.Array | None = None, "
    "input: str = 'logits', "
    "threshold_single: float = 1.0, "
    "threshold_acc: float = 1.0, "
    "coins: tilewright._typing.Array | None = None, "
    "final_coins: tilewright._typing.Array | None = None, "
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
    "workspace: tilewright._typing.Array | None = None, ";

constexpr const char* kChainSignature =
    "def verify_chain(target: tilewright._typing.ArrayT, "
    "draft_tokens: tilewright._typing.Array, "
    "counts: tilewright._typing.Indices | None = None, *, {}"
    "tokens: tilewright._typing.ArrayT | None = None, "
    "emitted: tilewright._typing.ArrayT | None = None, "
    "accepted: tilewright._typing.ArrayT | None = None, "
    "stream: object | None = None) -> tuple[tilewright._typing.ArrayT, "
    "tilewright._typing.ArrayT, tilewright._typing.ArrayT]";

constexpr const char* kTreeSignature =
    "def verify_tree(target: tilewright._typing.ArrayT, "
    "tree_tokens: tilewright._typing.Array, "
    "next_token: tilewright._typing.Array, "
    "next_sibling: tilewright._typing.Array, *, "
    "length: int | None = None, {}"
    "tokens: tilewright._typing.ArrayT | None = None, "
    "nodes: tilewright._typing.ArrayT | None = None, "
    "accepted: tilewright._typing.ArrayT | None = None, "
    "stream: object | None = None) -> tuple[tilewright._typing.ArrayT, "
    "tilewright._typing.ArrayT, tilewright._typing.ArrayT]";

constexpr const char* kChainDoc =
    R"(Speculative sampling of a chain of draft tokens (Leviathan et al., arXiv 2211.17192).

target: logits [requests, positions, vocabulary] (float32, float16 or bfloat16): row i is what the target
  model says behind i draft tokens. draft_tokens: int32 or int64 [requests, positions - 1]. counts: int32
  [requests], how many of them a request has; None: all.
Each draft token is accepted with the probability min(1, p / q). Behind the first one that is not the
token is drawn from the residual max(0, p - q), behind all of them from the last row: the tokens have
the target's distribution.

draft: as target, [requests, positions - 1, vocabulary]: what the draft tokens were drawn from. None:
  they count as certain, q = 1.
input: "logits", filtered as the arguments of tilewright.sampling.sample say, both target and draft; or
  "probabilities", used as they are but for normalisation.
threshold_single: a draft token whose p is at least this is accepted whatever the coin. threshold_acc:
  probabilities of acceptance are divided by it. 1: off; below, the distribution is not the target's.
coins, final_coins: uniform numbers instead of Philox's: float32 in [0, 1), or int64, all bits of which
  are; [requests, positions - 1], and [requests] for the token behind the accepted ones.
status: int32 [requests], written: bits of SamplingStatus of the rows that decided.
workspace: CUDA: int64, at least verify_workspace_size(requests, positions) elements;
  None: a new one, of torch's current stream.
temperature to slots: as in sample, where row says request. steps: how many tokens a request has drawn
  before. allowed: of requests as there, or int32 [requests, positions, ceil(vocabulary / 32)].
tokens, emitted, accepted: arrays to be written. stream: as in Attention.run.

Returns tokens, int32 [requests, positions]: the accepted ones, the drawn one, then -1; emitted, int32
[requests]: how many were accepted in a row; accepted, int32 [requests]: how many would be, each one by
itself. Errors: InvalidArgument. Releases the GIL.)";

constexpr const char* kTreeDoc =
    R"(Speculative sampling of a tree of draft tokens.

target: logits [requests, nodes, vocabulary]: row i is what the target model says behind node i; node 0 is
  the root, whose token is not looked at. tree_tokens, next_token, next_sibling: all int32 or all int64
  [requests, nodes]: a node's token, its first child and the next child of its parent, or -1 (tree_links
  makes these of parents).
From the root on, children are tried in their order until one is accepted: with draft rows each by a coin
of its own against what the ones before left of the target's distribution (SpecInfer, arXiv 2305.09781);
without, by one coin against the sum of their probabilities, as SGLang does. Behind the last accepted one
the token is drawn from what is left. Both have the target's distribution exactly.

length: of tokens and nodes; at most length - 1 draft tokens are accepted. None: the number of nodes.
draft: as target: row i is what the children of node i were drawn from. coins: [requests, nodes]: that of a
  child at its own place with draft rows, and at its parent's without.
All others as in verify_chain, with nodes in the place of positions.

Returns tokens, int32 [requests, length]: the accepted ones, the drawn one, then -1; nodes, int32 [requests,
length]: those accepted from the root 0 on, then -1; accepted, int32 [requests]: how many draft tokens.
Errors: InvalidArgument. Releases the GIL.)";

using Reader = std::function<void(SamplingArgs&, nb::handle, const char* name, Keep&)>;

template <typename T>
Reader per_row(PerRow<T> SamplingArgs::*member, DType dtype) {
  return [=](SamplingArgs& args, nb::handle object, const char* name, Keep& keep) {
    args.*member = to_per_row<T>(object, name, dtype, keep);
  };
}

Reader tensor(TensorView SamplingArgs::*member) {
  return [=](SamplingArgs& args, nb::handle object, const char* name, Keep& keep) {
    args.*member = view_of(object, name, keep);
  };
}

struct NamedReader {
  const char* name;
  Reader read;
};

const std::array<NamedReader, 17>& sampling_readers() {
  // Never destroyed: the interpreter may end behind static objects.
  static const auto* const readers = new std::array<NamedReader, 17>{{
      {"temperature", per_row(&SamplingArgs::temperature, DType::f32)},
      {"top_k", per_row(&SamplingArgs::top_k, DType::i32)},
      {"top_p", per_row(&SamplingArgs::top_p, DType::f32)},
      {"min_p", per_row(&SamplingArgs::min_p, DType::f32)},
      {"typical_p", per_row(&SamplingArgs::typical_p, DType::f32)},
      {"order", [](SamplingArgs& args, nb::handle object, const char* /*name*/,
                   Keep& /*keep*/) { args.order = to_filter_order(object); }},
      {"allowed", tensor(&SamplingArgs::allowed)},
      {"bias_ids", tensor(&SamplingArgs::bias_ids)},
      {"bias_values", tensor(&SamplingArgs::bias_values)},
      {"output_counts", tensor(&SamplingArgs::output_counts)},
      {"prompt_bits", tensor(&SamplingArgs::prompt_bits)},
      {"repetition_penalty", per_row(&SamplingArgs::repetition_penalty, DType::f32)},
      {"frequency_penalty", per_row(&SamplingArgs::frequency_penalty, DType::f32)},
      {"presence_penalty", per_row(&SamplingArgs::presence_penalty, DType::f32)},
      {"seeds", per_row(&SamplingArgs::seeds, DType::i64)},
      {"steps", per_row(&SamplingArgs::steps, DType::i64)},
      {"slots", [](SamplingArgs& args, nb::handle object, const char* name,
                   Keep& keep) { args.slots = list_or_view_of(object, name, DType::i32, keep); }},
  }};
  return *readers;
}

void read_sampling(const nb::kwargs& given, SamplingArgs& args, Keep& keep) {
  for (const auto& [key, value] : given) {
    const std::string_view name = nb::str(key).c_str();
    const auto& readers = sampling_readers();
    const auto reader = std::find_if(readers.begin(), readers.end(),
                                     [&](const NamedReader& each) { return name == each.name; });
    if (reader == readers.end())
      raise_type_error(fmt::format("{} is no argument of this function", name));
    reader->read(args, value, reader->name, keep);
  }
}

// What both functions take alike.
struct CommonObjects {
  nb::handle draft;
  nb::handle input;
  double threshold_single;
  double threshold_acc;
  nb::handle coins;
  nb::handle final_coins;
  nb::handle status;
  nb::object workspace;
  nb::handle stream;
};

TensorView target_view(nb::handle target, Keep& keep) {
  const TensorView view = required(target, "target", keep);
  if (view.rank != 3)
    raise_invalid(
        fmt::format("target is {}: it must be [requests, positions, vocabulary]", view.describe()));
  return view;
}

VerifyArgs to_args(nb::handle target, const TensorView& target_view, const CommonObjects& objects,
                   const nb::kwargs& sampling, Keep& keep) {
  VerifyArgs args;
  read_sampling(sampling, args.sampling, keep);
  // Masks of positions go by the same name.
  if (args.sampling.allowed.rank == 3) std::swap(args.allowed, args.sampling.allowed);
  args.sampling.stream = to_stream(objects.stream, target_view.device);
  args.input = to_choice<VerifyInput>(
      objects.input, "input",
      {{"logits", VerifyInput::logits}, {"probabilities", VerifyInput::probabilities}});
  args.draft = view_of(objects.draft, "draft", keep);
  args.threshold_single = static_cast<float>(objects.threshold_single);
  args.threshold_acc = static_cast<float>(objects.threshold_acc);
  args.coins = view_of(objects.coins, "coins", keep);
  args.final_coins = view_of(objects.final_coins, "final_coins", keep);
  args.status = view_of(objects.status, "status", keep, Access::write);
  if (target_view.device.type == DeviceType::cuda) {
    const std::array<std::int64_t, 1> words{
        verify_workspace_size(target_view.shape[0], target_view.shape[1])};
    Output workspace(objects.workspace, target, DType::i64, words);
    args.workspace = workspace.view("workspace", keep);
    keep.push_back(workspace.result());
  }
  return args;
}

nb::object chain(nb::handle target, nb::handle draft_tokens, nb::handle counts, nb::handle draft,
                 nb::handle input, double threshold_single, double threshold_acc, nb::handle coins,
                 nb::handle final_coins, nb::handle status, nb::object workspace, nb::object tokens,
                 nb::object emitted, nb::object accepted, nb::handle stream,
                 const nb::kwargs& sampling) {
  Keep keep;
  const TensorView view = target_view(target, keep);
  const VerifyArgs args = to_args(target, view,
                                  {draft, input, threshold_single, threshold_acc, coins,
                                   final_coins, status, std::move(workspace), stream},
                                  sampling, keep);
  const TensorView drafts = required(draft_tokens, "draft_tokens", keep);
  const TensorView lengths = list_or_view_of(counts, "counts", DType::i32, keep);
  const auto requests = std::span(view.shape).first(1);
  Output token_output(std::move(tokens), target, DType::i32, std::span(view.shape).first(2));
  Output emitted_output(std::move(emitted), target, DType::i32, requests);
  Output accepted_output(std::move(accepted), target, DType::i32, requests);
  const TensorView token_view = token_output.view("tokens", keep);
  const TensorView emitted_view = emitted_output.view("emitted", keep);
  const TensorView accepted_view = accepted_output.view("accepted", keep);
  {
    const nb::gil_scoped_release release;
    verify_chain(view, drafts, lengths, args, token_view, emitted_view, accepted_view);
  }
  return nb::make_tuple(token_output.result(), emitted_output.result(), accepted_output.result());
}

nb::object tree(nb::handle target, nb::handle tree_tokens, nb::handle next_token,
                nb::handle next_sibling, std::optional<std::int64_t> length, nb::handle draft,
                nb::handle input, double threshold_single, double threshold_acc, nb::handle coins,
                nb::handle final_coins, nb::handle status, nb::object workspace, nb::object tokens,
                nb::object nodes, nb::object accepted, nb::handle stream,
                const nb::kwargs& sampling) {
  Keep keep;
  const TensorView view = target_view(target, keep);
  const VerifyArgs args = to_args(target, view,
                                  {draft, input, threshold_single, threshold_acc, coins,
                                   final_coins, status, std::move(workspace), stream},
                                  sampling, keep);
  const VerifyTree trees = {required(tree_tokens, "tree_tokens", keep),
                            required(next_token, "next_token", keep),
                            required(next_sibling, "next_sibling", keep)};
  if (length && *length < 1)
    raise_invalid(fmt::format("length is {}: it must be at least 1", *length));
  const std::array<std::int64_t, 2> shape{view.shape[0], length.value_or(view.shape[1])};
  Output token_output(std::move(tokens), target, DType::i32, shape);
  Output node_output(std::move(nodes), target, DType::i32, shape);
  Output accepted_output(std::move(accepted), target, DType::i32, std::span(view.shape).first(1));
  const TensorView token_view = token_output.view("tokens", keep);
  const TensorView node_view = node_output.view("nodes", keep);
  const TensorView accepted_view = accepted_output.view("accepted", keep);
  {
    const nb::gil_scoped_release release;
    verify_tree(view, trees, args, token_view, node_view, accepted_view);
  }
  return nb::make_tuple(token_output.result(), node_output.result(), accepted_output.result());
}

nb::object links(nb::handle parents) {
  Keep keep;
  const TensorView view = required(parents, "parents", keep);
  const auto shape = std::span(view.shape).first(static_cast<std::size_t>(view.rank));
  const DType dtype = view.dtype == DType::i64 ? DType::i64 : DType::i32;
  Output next_token(nb::none(), parents, dtype, shape);
  Output next_sibling(nb::none(), parents, dtype, shape);
  tree_links(view, next_token.view("next_token", keep), next_sibling.view("next_sibling", keep));
  return nb::make_tuple(next_token.result(), next_sibling.result());
}

}  // namespace

void bind_speculative(nb::module_& m) {
  const std::string chain_signature = fmt::format(fmt::runtime(kChainSignature), kCommonParameters);
  const std::string tree_signature = fmt::format(fmt::runtime(kTreeSignature), kCommonParameters);
  m.def("verify_chain", &chain, "target"_a.none(), "draft_tokens"_a.none(), "counts"_a = nb::none(),
        nb::kw_only(), "draft"_a = nb::none(), "input"_a = "logits", "threshold_single"_a = 1.0,
        "threshold_acc"_a = 1.0, "coins"_a = nb::none(), "final_coins"_a = nb::none(),
        "status"_a = nb::none(), "workspace"_a = nb::none(), "tokens"_a = nb::none(),
        "emitted"_a = nb::none(), "accepted"_a = nb::none(), "stream"_a = nb::none(), "sampling"_a,
        nb::sig(chain_signature.c_str()), kChainDoc);
  m.def("verify_tree", &tree, "target"_a.none(), "tree_tokens"_a.none(), "next_token"_a.none(),
        "next_sibling"_a.none(), nb::kw_only(), "length"_a = nb::none(), "draft"_a = nb::none(),
        "input"_a = "logits", "threshold_single"_a = 1.0, "threshold_acc"_a = 1.0,
        "coins"_a = nb::none(), "final_coins"_a = nb::none(), "status"_a = nb::none(),
        "workspace"_a = nb::none(), "tokens"_a = nb::none(), "nodes"_a = nb::none(),
        "accepted"_a = nb::none(), "stream"_a = nb::none(), "sampling"_a,
        nb::sig(tree_signature.c_str()), kTreeDoc);
  m.def("verify_workspace_size", &verify_workspace_size, "requests"_a, "positions"_a,
        "Elements of the workspace that verify_chain and verify_tree need on CUDA.");
  m.def(
      "tree_links", &links, "parents"_a.none(),
      nb::sig("def tree_links(parents: tilewright._typing.ArrayT) -> "
              "tuple[tilewright._typing.ArrayT, tilewright._typing.ArrayT]"),
      "Next tokens and next siblings of trees, for verify_tree, of the parents of their nodes.\n\n"
      "parents: int32 or int64 [requests, nodes] in host memory: the root's is -1, others are\n"
      "earlier nodes; a node behind the root whose parent is -1 belongs to no tree. Returns\n"
      "(next_token, next_sibling), as parents.");
}

}  // namespace tilewright::python
