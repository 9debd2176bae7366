// SPDX-License-Identifier: Apache-2.0
// Limits, Batch, PlanStats, PlanPiece and Plan.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <tilewright/error.h>
#include <tilewright/plan.h>

#include "bindings.h"
#include "held.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

std::vector<Attention> to_attentions(nb::handle attentions) {
  if (!PyList_Check(attentions.ptr()) && !PyTuple_Check(attentions.ptr())) {
    raise_type_error(
        fmt::format("attentions is {}: it must be a list of Attention", describe_type(attentions)));
  }
  std::vector<Attention> all;
  for (const nb::handle item : attentions) {
    if (!nb::isinstance<Attention>(item)) {
      raise_type_error(fmt::format("attentions has an item that is {}: it must be an Attention",
                                   describe_type(item)));
    }
    all.push_back(nb::cast<const Attention&>(item));
  }
  return all;
}

TensorView workspace_view(nb::handle workspace, Keep& keep) {
  const TensorView view = view_of(workspace, "workspace", keep, Access::write);
  if (!workspace.is_none()) keep.push_back(nb::borrow(workspace));
  return view;
}

KvLevel to_level(nb::handle object, Keep& keep) {
  if (nb::isinstance<HeldTable>(object)) {
    const auto& held = nb::cast<const HeldTable&>(object);
    keep.insert(keep.end(), held.keep.begin(), held.keep.end());
    return {held.table, {}, {}, {}, {}};
  }
  if (!nb::isinstance<HeldLevel>(object)) {
    raise_type_error(
        fmt::format("tables has a value that is {}: it must be a PageTable or a list of "
                    "Level",
                    describe_type(object)));
  }
  const auto& held = nb::cast<const HeldLevel&>(object);
  keep.insert(keep.end(), held.keep.begin(), held.keep.end());
  return held.level;
}

std::vector<KvLevel> to_levels(nb::handle object, Keep& keep) {
  std::vector<KvLevel> levels;
  if (PyList_Check(object.ptr()) || PyTuple_Check(object.ptr())) {
    for (const nb::handle level : object) levels.push_back(to_level(level, keep));
  } else {
    levels.push_back(to_level(object, keep));
  }
  return levels;
}

nb::dict to_dict(nb::handle object, const char* name) {
  if (!PyDict_Check(object.ptr())) {
    raise_type_error(
        fmt::format("{} is {}: it must be a dict by Attention", name, describe_type(object)));
  }
  return nb::borrow<nb::dict>(object);
}

const Attention& to_attention_key(nb::handle key, const char* name) {
  if (!nb::isinstance<Attention>(key)) {
    raise_type_error(fmt::format("{} has a key that is {}: it must be an Attention of the plan",
                                 name, describe_type(key)));
  }
  return nb::cast<const Attention&>(key);
}

// The input of an attention that `name` has for a key.
PlanInput& input_of(std::vector<PlanInput>& inputs, nb::handle key, const char* name) {
  const Attention& attention = to_attention_key(key, name);
  const auto input = std::find_if(inputs.begin(), inputs.end(), [&](const PlanInput& known) {
    return known.attention == attention;
  });
  if (input == inputs.end()) {
    raise_invalid(fmt::format("{} has an attention that tables does not have", name));
  }
  return *input;
}

void add_blocks(std::vector<PlanInput>& inputs, nb::handle blocks, Keep& keep) {
  for (const auto [key, value] : to_dict(blocks, "blocks")) {
    PlanInput& input = input_of(inputs, key, "blocks");
    if (!nb::isinstance<HeldBlocks>(value)) {
      raise_type_error(fmt::format("blocks has a value that is {}: it must be a BlockStructure",
                                   describe_type(value)));
    }
    const auto& held = nb::cast<const HeldBlocks&>(value);
    keep.push_back(nb::borrow(value));
    input.blocks = held.blocks;
  }
}

std::vector<PlanInput> to_inputs(nb::handle tables, nb::handle params, nb::handle blocks,
                                 Keep& keep) {
  std::vector<PlanInput> inputs;
  for (const auto [key, value] : to_dict(tables, "tables")) {
    inputs.emplace_back(to_attention_key(key, "tables"), to_levels(value, keep));
  }
  if (!blocks.is_none()) add_blocks(inputs, blocks, keep);
  if (params.is_none()) return inputs;
  for (const auto [key, value] : to_dict(params, "params")) {
    input_of(inputs, key, "params").params = to_params(value, "params", keep);
    for (const auto [name, array] : nb::borrow<nb::dict>(value)) keep.push_back(nb::borrow(array));
  }
  return inputs;
}

Limits make_limits(std::int64_t requests, std::int64_t q_tokens, std::int64_t q_len,
                   std::int64_t kv_len, int levels, nb::handle determinism, int workers,
                   bool block_structures) {
  Limits limits;
  limits.requests = requests;
  limits.q_tokens = q_tokens;
  limits.q_len = q_len;
  limits.kv_len = kv_len;
  limits.levels = levels;
  limits.determinism = to_choice<Determinism>(
      determinism, "determinism",
      {{"repeatable", Determinism::repeatable}, {"batch_invariant", Determinism::batch_invariant}});
  limits.workers = workers;
  limits.block_structures = block_structures;
  return limits;
}

HeldBatch make_batch(nb::handle qo_indptr, nb::handle kv_lens, nb::handle num_requests,
                     nb::handle q_pos, nb::handle q_pos_offset, nb::handle interleave) {
  HeldBatch held;
  Batch& batch = held.batch;
  batch.qo_indptr = kept_view_of(qo_indptr, "qo_indptr", DType::i32, held.keep);
  batch.kv_lens = kept_view_of(kv_lens, "kv_lens", DType::i32, held.keep);
  const nb::object live = PyLong_Check(num_requests.ptr())
                              ? nb::object(nb::make_tuple(num_requests))
                              : nb::borrow(num_requests);
  batch.num_requests = kept_view_of(live, "num_requests", DType::i32, held.keep);
  batch.q_pos = kept_view_of(q_pos, "q_pos", DType::i32, held.keep);
  batch.q_pos_offset = kept_view_of(q_pos_offset, "q_pos_offset", DType::i32, held.keep);
  if (!interleave.is_none()) {
    if (!PyTuple_Check(interleave.ptr()) || nb::len(interleave) != 3) {
      raise_type_error(fmt::format("interleave is {}: it must be a tuple (size, world, rank)",
                                   describe_type(interleave)));
    }
    batch.interleave = {nb::cast<std::int64_t>(interleave[0]),
                        nb::cast<std::int64_t>(interleave[1]),
                        nb::cast<std::int64_t>(interleave[2])};
  }
  return held;
}

void bind_limits(nb::module_& m) {
  nb::class_<Limits>(m, "Limits",
                     "The largest batch a plan is for; its workspace follows from it, and no batch "
                     "under the limits "
                     "can overflow it.\n\nq_tokens: of all requests together. q_len, kv_len: of "
                     "one request, all levels "
                     "together. determinism:\n\"repeatable\" (the same bits for the same call, "
                     "whatever the number of "
                     "threads) or \"batch_invariant\" (a\nrequest's bits depend on nothing but "
                     "itself). workers: virtual "
                     "workers; 0: what suits the device. block_structures: whether updates may "
                     "give one; only plans on CUDA ask.")
      .def(
          "__init__",
          [](Limits* self, std::int64_t requests, std::int64_t q_tokens, std::int64_t q_len,
             std::int64_t kv_len, int levels, nb::handle determinism, int workers,
             bool block_structures) {
            new (self) Limits(make_limits(requests, q_tokens, q_len, kv_len, levels, determinism,
                                          workers, block_structures));
          },
          nb::kw_only(), "requests"_a, "q_tokens"_a, "q_len"_a, "kv_len"_a, "levels"_a = 1,
          "determinism"_a = "repeatable", "workers"_a = 0, "block_structures"_a = false,
          nb::sig("def __init__(self, *, requests: int, q_tokens: int, q_len: int, kv_len: int, "
                  "levels: "
                  "int = 1, determinism: str = \"repeatable\", workers: int = 0, block_structures: "
                  "bool = False) -> None"))
      .def_ro("requests", &Limits::requests)
      .def_ro("q_tokens", &Limits::q_tokens)
      .def_ro("q_len", &Limits::q_len)
      .def_ro("kv_len", &Limits::kv_len)
      .def_ro("levels", &Limits::levels)
      .def_prop_ro("determinism",
                   [](const Limits& limits) {
                     return limits.determinism == Determinism::repeatable ? "repeatable"
                                                                          : "batch_invariant";
                   })
      .def_ro("workers", &Limits::workers)
      .def_ro("block_structures", &Limits::block_structures)
      .def("__repr__", [](const Limits& l) {
        return fmt::format(
            "Limits(requests={}, q_tokens={}, q_len={}, kv_len={}, levels={}, workers={}{})",
            l.requests, l.q_tokens, l.q_len, l.kv_len, l.levels, l.workers,
            l.block_structures ? ", block_structures=True" : "");
      });
}

void bind_batch(nb::module_& m) {
  nb::class_<HeldBatch>(
      m, "Batch",
      "What a step's requests look like, the same for all attentions of a plan. Arrays are int32 "
      "(TypeError for\nothers: nothing is converted behind your back); lists of ints are "
      "copied.\n\n"
      "qo_indptr [requests + 1], from 0: request r has the query tokens [qo_indptr[r], qo_indptr[r "
      "+ "
      "1]). kv_lens\n[requests]: KV tokens; not needed where the tables tell them. num_requests: "
      "live "
      "requests, an int or an array\n[1]; the rest of qo_indptr is padding. q_pos [tokens]: "
      "positions of "
      "the query tokens, read until the last run;\nq_pos_offset [requests]: of each request's "
      "first one; "
      "neither: the queries are the last tokens. interleave\n(size, world, rank): a "
      "context-parallel shard "
      "that holds the keys whose position p has (p // size) % world ==\nrank.")
      .def(
          "__init__",
          [](HeldBatch* self, nb::handle qo_indptr, nb::handle kv_lens, nb::handle num_requests,
             nb::handle q_pos, nb::handle q_pos_offset, nb::handle interleave) {
            new (self) HeldBatch(
                make_batch(qo_indptr, kv_lens, num_requests, q_pos, q_pos_offset, interleave));
          },
          nb::kw_only(), "qo_indptr"_a.none(), "kv_lens"_a = nb::none(),
          "num_requests"_a = nb::none(), "q_pos"_a = nb::none(), "q_pos_offset"_a = nb::none(),
          "interleave"_a = nb::none(),
          nb::sig(
              "def __init__(self, *, qo_indptr: tilewright._typing.Indices, kv_lens: "
              "tilewright._typing.Indices | None = None, num_requests: int | "
              "tilewright._typing.Array | None = None, q_pos: tilewright._typing.Indices | None = "
              "None, q_pos_offset: tilewright._typing.Indices | None = None, interleave: "
              "tuple[int, "
              "int, int] | None = None) -> None"));
}

void bind_stats(nb::module_& m) {
  nb::class_<PlanStats>(m, "PlanStats", "Counts of a plan's last update, for one attention.")
      .def_ro("tiles", &PlanStats::tiles, "Query tiles x KV heads.")
      .def_ro("blocks", &PlanStats::blocks, "(Query tile, KV block) pairs computed.")
      .def_ro("full_blocks", &PlanStats::full_blocks, "Of these, without any masking.")
      .def_ro("skipped_blocks", &PlanStats::skipped_blocks,
              "Under the lengths, but proven empty by the mask.")
      .def_ro("split_tiles", &PlanStats::split_tiles, "Computed by several workers and merged.")
      .def_ro("kv_bytes", &PlanStats::kv_bytes, "Bytes of K and V that a run reads.")
      .def_ro("balance", &PlanStats::balance, "Mean over largest worker's cost.")
      .def_ro("folded_rows", &PlanStats::folded_rows,
              "Rows of outer levels that were not worth being computed for all their requests at "
              "once: they were read with\neach of the rows below them.");
}

void bind_status(nb::module_& m) {
  nb::enum_<RequestStatus>(m, "RequestStatus", nb::is_arithmetic(), nb::is_flag(),
                           "Bits of a status word: what is wrong with a request (docs/cuda.md).")
      .value("Q_RANGE", RequestStatus::q_range)
      .value("KV_LEN", RequestStatus::kv_len)
      .value("PAGE", RequestStatus::page)
      .value("POSITION", RequestStatus::position)
      .value("LEVEL_ROWS", RequestStatus::level_rows)
      .value("NUM_REQUESTS", RequestStatus::num_requests)
      .value("BLOCKS", RequestStatus::blocks);
  m.def("describe_status", &describe_status, "word"_a,
        "A status word in words: its bits by name, each with what must be. \"well\" for 0.");
}

void bind_piece(nb::module_& m) {
  nb::class_<PlanPiece>(m, "PlanPiece",
                        "A tile, or a part of one, that a worker computes. Costs are in the plan's "
                        "own unit, in which it\nbalances its workers.")
      .def_ro("worker", &PlanPiece::worker)
      .def_ro("level", &PlanPiece::level)
      .def_ro("row", &PlanPiece::row, "Of the level; with one level: the request.")
      .def_ro("request", &PlanPiece::request, "The first one of the row.")
      .def_ro("kv_head", &PlanPiece::kv_head)
      .def_ro("tile", &PlanPiece::tile, "Of the row's query tokens x group size.")
      .def_ro("first_block", &PlanPiece::first_block,
              "Among the KV blocks that the tile needs, not those it skips.")
      .def_ro("num_blocks", &PlanPiece::num_blocks)
      .def_ro("start", &PlanPiece::start, "Cost of what the worker does before it.")
      .def_ro("cost", &PlanPiece::cost)
      .def("__repr__", [](const PlanPiece& p) {
        return fmt::format(
            "PlanPiece(worker={}, level={}, row={}, request={}, kv_head={}, tile={}, "
            "first_block={}, num_blocks={}, start={}, cost={})",
            p.worker, p.level, p.row, p.request, p.kv_head, p.tile, p.first_block, p.num_blocks,
            p.start, p.cost);
      });
}

void bind_plan_class(nb::module_& m) {
  nb::class_<HeldPlan>(m, "Plan",
                       "Who computes which tile of a batch, for one or several attentions on one "
                       "device. Made for limits "
                       "once, updated\nfor every batch. workspace: uint8 [at least "
                       "Plan.workspace_bytes(...)], 256-byte "
                       "aligned, kept alive; None: the\nplan allocates its own. One update or run "
                       "at a time: a plan that "
                       "another thread is using raises Error\n(invalid_state).")
      .def(
          "__init__",
          [](HeldPlan* self, nb::handle attentions, const Limits& limits, nb::handle workspace) {
            to_attentions(attentions);  // a list or tuple of them
            new (self) HeldPlan(nb::steal<nb::tuple>(PySequence_Tuple(attentions.ptr())), limits,
                                workspace);
          },
          "attentions"_a.none(), "limits"_a, "workspace"_a = nb::none(),
          nb::sig(
              "def __init__(self, attentions: collections.abc.Sequence[Attention], limits: Limits, "
              "workspace: tilewright._typing.Array | None = None) -> None"))
      .def_static(
          "workspace_bytes",
          [](nb::handle attentions, const Limits& limits) {
            return Plan::workspace_bytes(to_attentions(attentions), limits);
          },
          "attentions"_a.none(), "limits"_a,
          nb::sig("def workspace_bytes(attentions: collections.abc.Sequence[Attention], limits: "
                  "Limits) "
                  "-> int"),
          "Bytes of the workspace that a plan of these attentions and limits needs.")
      .def(
          "prepare",
          [](nb::object self) {
            nb::cast<HeldPlan&>(self).prepare();
            return self;
          },
          nb::sig("def prepare(self) -> Plan"),
          "Compiles and loads all that update and run can reach: after it they never compile, load "
          "or "
          "allocate. Returns\nthe plan.")
      .def("update", &HeldPlan::update, "batch"_a, nb::kw_only(), "tables"_a.none(),
           "params"_a = nb::none(), "blocks"_a = nb::none(), "stream"_a = nb::none(),
           nb::sig(
               "def update(self, batch: Batch, *, tables: collections.abc.Mapping[Attention, "
               "PageTable | collections.abc.Sequence[Level | PageTable]], params: "
               "collections.abc.Mapping[Attention, collections.abc.Mapping[str, "
               "tilewright._typing.Scalar]] | None = None, blocks: "
               "collections.abc.Mapping[Attention, BlockStructure] | None = None, stream: object | "
               "None = None) -> None"),
           "Makes the schedules of this batch. tables: each attention of the plan with its "
           "PageTable, or "
           "a list of Level,\noutermost (shared by most) first. params: the variant parameters "
           "that bind at "
           "plan, by attention. blocks: block structures of elementwise masks; on CUDA the limits "
           "must say so. stream: as in "
           "Attention.run; on CUDA\nall arrays are on the GPU and nothing waits for "
           "them.\n\nErrors: "
           "InvalidArgument for arrays or values that are "
           "malformed, Error "
           "(limit_exceeded) for a batch over the\nlimits. Releases the GIL.")
      .def(
          "stats",
          [](HeldPlan& self, const Attention& attention) {
            const HeldPlan::Use use(self);
            return self.plan().stats(attention);
          },
          "attention"_a, "Counts of the last update for one of the plan's attentions.")
      .def(
          "pieces",
          [](HeldPlan& self, const Attention& attention) {
            const HeldPlan::Use use(self);
            return self.plan().pieces(attention);
          },
          "attention"_a,
          "Who computes what of the last update, by worker and start: every (tile, block) once. "
          "What no worker owns\nin advance is listed with the one that would be free first.")
      .def(
          "status",
          [](HeldPlan& self) {
            const HeldPlan::Use use(self);
            return self.plan().status();
          },
          "A word for each request of the last update: 0 when it is well. On the CPU, where bad "
          "values "
          "raise, always 0.\nOn CUDA bits of RequestStatus; waits for the update.")
      .def("copy_status", &HeldPlan::copy_status, "words"_a.none(), "stream"_a = nb::none(),
           nb::sig("def copy_status(self, words: tilewright._typing.Array, stream: object | None = "
                   "None) -> None"),
           "The words of status() without waiting: into `words`, int32 [at least as many as the "
           "last update's qo_indptr has\nrequests] in host memory, behind what the stream has been "
           "given. On CUDA that memory must be page-locked\n(torch.empty(..., pin_memory=True)); "
           "the call may be captured into a graph behind the update. Read them when the\nstream "
           "has come so far. The plan keeps `words` alive until the next copy; for a graph keep it "
           "yourself.")
      .def_prop_rw(
          "debug", [](HeldPlan& self) { return self.plan().debug(); },
          [](HeldPlan& self, bool on) {
            const HeldPlan::Use use(self);
            self.plan().set_debug(on);
          },
          nb::for_getter(nb::sig("def debug(self) -> bool")),
          nb::for_setter(nb::sig("def debug(self, on: bool, /) -> None")),
          "Whether an update or run first waits for the last update, and raises InvalidArgument "
          "where that has marked\nrequests: which ones and why. The plan has no batch then. Not "
          "under capture. On the CPU there is nothing to look\nat. A new plan is in debug mode "
          "where the environment's TILEWRIGHT_DEBUG is neither empty nor 0.")
      .def_prop_ro("limits", [](HeldPlan& self) { return self.plan().limits(); })
      .def_prop_ro("attentions", &HeldPlan::attentions,
                   nb::sig("def attentions(self) -> tuple[Attention, ...]"));
}

}  // namespace

std::int64_t largest(const TensorView& array) {
  if (array.device.type != DeviceType::cpu) return -1;
  if (array.numel() == 0) return 0;
  const auto* values = static_cast<const std::int32_t*>(array.data);
  std::int64_t value = 0;
  for (std::int64_t i = 0; i < array.shape[0]; ++i) {
    value = std::max<std::int64_t>(value, values[i * array.strides[0]]);
  }
  return value;
}

std::int64_t longest_row(const PageTable& table) {
  if (table.form == PageTable::Form::contiguous) return table.page_size;
  if (table.form == PageTable::Form::padded || table.indptr.numel() == 0) return -1;
  if (table.indptr.device.type != DeviceType::cpu) return -1;
  const bool csr = table.form == PageTable::Form::csr;
  if (csr && !table.last_page_len.defined()) return -1;
  const auto* indptr = static_cast<const std::int32_t*>(table.indptr.data);
  std::int64_t longest = 0;
  for (std::int64_t row = 0; row + 1 < table.indptr.shape[0]; ++row) {
    const std::int64_t step = table.indptr.strides[0];
    const std::int64_t entries = std::int64_t{indptr[(row + 1) * step]} - indptr[row * step];
    longest = std::max(longest, entries * (csr ? table.page_size : 1));
  }
  return longest;
}

HeldPlan::HeldPlan(nb::tuple attentions, const Limits& limits, nb::handle workspace)
    : attentions_(std::move(attentions)),
      plan_(to_attentions(attentions_), limits, workspace_view(workspace, workspace_keep_)) {}

void HeldPlan::prepare() {
  const Use use(*this);
  const nb::gil_scoped_release release;
  plan_.prepare();
}

void HeldPlan::update(const HeldBatch& batch, nb::handle tables, nb::handle params,
                      nb::handle blocks, nb::handle stream) {
  Keep keep = batch.keep;
  const Stream on = to_stream(stream, plan_.attentions().front().device());
  const std::vector<PlanInput> inputs = to_inputs(tables, params, blocks, keep);
  const Use use(*this);
  try {
    const nb::gil_scoped_release release;
    plan_.update(batch.batch, inputs, on);
  } catch (...) {
    failed_ = std::move(keep);
    throw;
  }
  updated_ = std::move(keep);
  failed_.clear();
}

void HeldPlan::copy_status(nb::handle words, nb::handle stream) {
  Keep keep;
  const TensorView view = required(words, "words", keep, Access::write);
  keep.push_back(nb::borrow(words));
  const Stream on = to_stream(stream, plan_.attentions().front().device());
  const Use use(*this);
  plan_.copy_status(view, on);
  copied_ = std::move(keep);
}

HeldPlan::Use::Use(HeldPlan& plan) : plan_(plan) {
  if (plan.busy_.exchange(true, std::memory_order_acquire)) {
    throw Error(ErrorCode::invalid_state,
                "plan is in use by another thread: it takes one update or run at a time");
  }
}

void bind_plan(nb::module_& m) {
  bind_status(m);
  bind_limits(m);
  bind_batch(m);
  bind_stats(m);
  bind_piece(m);
  bind_plan_class(m);
}

}  // namespace tilewright::python
