// SPDX-License-Identifier: Apache-2.0
// Compiling ahead: specs of models, and the reports of their kernels.
#include <tilewright/c_jit.h>
#include <tilewright/jit.h>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

// NOLINTBEGIN(readability-identifier-naming)

struct tw_attention_specs {
  explicit tw_attention_specs(std::vector<AttentionSpec> list) : specs(std::move(list)) {
    for (const AttentionSpec& spec : specs) variants.emplace_back(spec.variant);
  }

  std::vector<AttentionSpec> specs;
  std::vector<tw_variant> variants;  // of specs
};

struct tw_kernel_reports {
  std::vector<KernelReport> reports;
};

// NOLINTEND(readability-identifier-naming)

namespace {

std::vector<AttentionSpec> read_specs(const Path& path, const tw_attention_spec* specs,
                                      std::size_t count) {
  require(count <= kMaxCount, "{} has {} entries: at most {} are taken", path, count, kMaxCount);
  const StructList<const tw_attention_spec> list(path, specs, count);
  std::vector<AttentionSpec> result;
  for (std::size_t i = 0; i < count; ++i) {
    result.push_back(read_attention_spec({path, i}, list.read(i)));
  }
  return result;
}

tw_kernel_report c_report(const KernelReport& report) {
  tw_kernel_report result{};
  result.size = sizeof(result);
  result.kernel = report.kernel.c_str();
  result.arch = report.arch.c_str();
  result.seconds = report.seconds;
  result.registers = report.registers;
  result.spill_bytes = report.spill_bytes;
  result.shared_bytes = report.shared_bytes;
  result.from_cache = report.from_cache ? 1 : 0;
  result.error = report.error.c_str();
  return result;
}

CompileOptions read_options(const tw_compile_options* options) {
  CompileOptions result;
  if (options == nullptr) return result;
  const Path path("options");
  const tw_compile_options given = read_struct(path, options);
  check_reserved({path, "reserved"}, given.reserved);
  result.archs = read_strings({path, "archs"}, given.archs, given.num_archs);
  result.jobs = given.jobs;
  result.ops = !read_flag({path, "without_ops"}, given.without_ops);
  result.block_structures = read_flag({path, "block_structures"}, given.block_structures);
  if (given.limits != nullptr) result.limits = read_limits({path, "limits"}, given.limits);
  if (given.pack != nullptr) result.pack = given.pack;
  check_count({path, "num_plans"}, given.num_plans);
  const Path plans(path, "plans");
  const StructList<const tw_shared_plan> list(plans, given.plans, given.num_plans);
  for (std::size_t i = 0; i < given.num_plans; ++i) {
    const Path plan(plans, i);
    const tw_shared_plan shared = list.read(i);
    result.plans.push_back(read_specs({plan, "specs"}, shared.specs, shared.num_specs));
  }
  if (given.progress != nullptr) {
    result.progress = [given](const KernelReport& report, std::size_t done, std::size_t total) {
      const tw_kernel_report told = c_report(report);
      given.progress(&told, done, total, given.context);
    };
  }
  return result;
}

}  // namespace

tw_status tw_model_names(const char* const** names, size_t* count) {
  return guarded([&] {
    required("names", names);
    required("count", count);
    static const std::vector<std::string> texts = model_names();
    static const std::vector<const char*> pointers = [] {
      std::vector<const char*> list;
      list.reserve(texts.size());
      for (const std::string& text : texts) list.push_back(text.c_str());
      return list;
    }();
    *names = pointers.data();
    *count = pointers.size();
  });
}

tw_status tw_model_attention_specs(const char* model, tw_dtype kv_dtype,
                                   tw_attention_specs** specs) {
  return guarded([&] {
    const DType dtype =
        kv_dtype == TW_DEFAULT_DTYPE ? DType::bf16 : read_dtype("kv_dtype", kv_dtype);
    hand_out("specs", specs, model_attention_specs(&required("model", model), dtype));
  });
}

tw_status tw_common_attention_specs(tw_attention_specs** specs) {
  return guarded([&] { hand_out("specs", specs, common_attention_specs()); });
}

tw_status tw_attention_specs_count(const tw_attention_specs* specs, size_t* count) {
  return guarded([&] { required("count", count) = required("specs", specs).specs.size(); });
}

tw_status tw_attention_specs_get(const tw_attention_specs* specs, size_t index,
                                 tw_attention_spec* spec) {
  return guarded([&] {
    const tw_attention_specs& list = required("specs", specs);
    check_index("index", index, list.specs.size(), "specs");
    write_struct("spec", spec, c_spec(list.specs[index], list.variants[index]));
  });
}

void tw_attention_specs_destroy(tw_attention_specs* specs) {
  give_back(specs);
}

tw_status tw_compile_kernels(const tw_attention_spec* specs, size_t num_specs,
                             const tw_compile_options* options, tw_kernel_reports** reports) {
  return guarded([&] {
    required("reports", reports);  // before minutes of work
    const std::vector<AttentionSpec> list = read_specs("specs", specs, num_specs);
    hand_out("reports", reports, tw_kernel_reports{compile_kernels(list, read_options(options))});
  });
}

tw_status tw_kernel_reports_count(const tw_kernel_reports* reports, size_t* count) {
  return guarded([&] { required("count", count) = required("reports", reports).reports.size(); });
}

tw_status tw_kernel_reports_get(const tw_kernel_reports* reports, size_t index,
                                tw_kernel_report* report) {
  return guarded([&] {
    const std::vector<KernelReport>& list = required("reports", reports).reports;
    check_index("index", index, list.size(), "reports");
    write_struct("report", report, c_report(list[index]));
  });
}

void tw_kernel_reports_destroy(tw_kernel_reports* reports) {
  give_back(reports);
}
