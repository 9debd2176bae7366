// SPDX-License-Identifier: Apache-2.0
// Kernels through the C API: compiled ahead, listed, packed and loaded; GPUs are a test double's.
#include <tilewright/jit.h>

#include "c_api/c_support.h"
#include "jit/disk_cache.h"
#include "support/use_fake_cuda.h"
#include "support/use_nvrtc.h"

namespace tilewright::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class CKernels : public NvrtcFixture {
 protected:
  CKernels() { EXPECT_OK(tw_set_kernel_cache_path(cache_.path().c_str())); }

  KernelCacheHandle read_cache() const {
    KernelCacheHandle cache;
    EXPECT_OK(tw_kernel_cache_read(cache.target()));
    return cache;
  }
  static std::size_t count_of(const KernelCacheHandle& cache) {
    std::size_t count = 0;
    EXPECT_OK(tw_kernel_cache_count(cache.get(), &count));
    return count;
  }
};

// What compile_kernels() tells of the same kernels.
void expect_like(const tw_kernel_report& c, const KernelReport& report) {
  EXPECT_EQ(c.kernel, report.kernel);
  EXPECT_EQ(c.arch, report.arch);
  EXPECT_EQ(c.registers, report.registers);
  EXPECT_EQ(c.spill_bytes, report.spill_bytes);
  EXPECT_EQ(c.shared_bytes, report.shared_bytes);
  EXPECT_EQ(c.error, report.error);
}

TEST_F(CKernels, AreCompiledListedPackedAndLoaded) {
  AttentionSpec spec;
  spec.num_qo_heads = spec.num_kv_heads = 2;
  spec.head_dim = 64;
  const tw_attention_spec c_spec = to_c(spec, nullptr);
  auto shared = sized<tw_shared_plan>();
  const std::array<tw_attention_spec, 2> twice = {c_spec, c_spec};
  shared.specs = twice.data();
  shared.num_specs = 2;
  const char* const arch = "sm_80";
  const std::string pack = (cache_.path() / "kernels.pack").string();
  auto options = sized<tw_compile_options>();
  options.archs = &arch;
  options.num_archs = 1;
  options.plans = &shared;
  options.num_plans = 1;
  options.without_ops = 1;
  options.jobs = 1;
  options.pack = pack.c_str();
  std::vector<std::string> told;
  options.progress = [](const tw_kernel_report* report, std::size_t done, std::size_t total,
                        void* context) {
    auto& names = *static_cast<std::vector<std::string>*>(context);
    names.emplace_back(report->kernel);
    EXPECT_EQ(done, names.size());
    EXPECT_LE(done, total);
  };
  options.context = &told;
  ReportsHandle reports;
  ASSERT_OK(tw_compile_kernels(&c_spec, 1, &options, reports.target()));

  CompileOptions same;
  same.archs = {"sm_80"};
  same.ops = false;
  same.plans = {{spec, spec}};
  const std::vector<KernelReport> expected = compile_kernels({spec}, same);
  std::size_t count = 0;
  ASSERT_OK(tw_kernel_reports_count(reports.get(), &count));
  ASSERT_EQ(count, expected.size());
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) {
    auto report = sized<tw_kernel_report>();
    ASSERT_OK(tw_kernel_reports_get(reports.get(), i, &report));
    expect_like(report, expected[i]);
    EXPECT_EQ(report.from_cache, 0);
    EXPECT_GT(report.seconds, 0);
    EXPECT_TRUE(expected[i].from_cache);
    names.emplace_back(report.kernel);
  }
  EXPECT_THAT(names, testing::Contains("plan_2"));
  EXPECT_EQ(told, names);
  auto report = sized<tw_kernel_report>();
  expect_invalid(tw_kernel_reports_get(reports.get(), count, &report), {"index is", "reports"});

  const KernelCacheHandle cache = read_cache();
  ASSERT_EQ(count_of(cache), count);
  for (std::size_t i = 0; i < count; ++i) {
    auto entry = sized<tw_kernel_cache_entry>();
    ASSERT_OK(tw_kernel_cache_get(cache.get(), i, &entry));
    EXPECT_THAT(names, testing::Contains(std::string(entry.kernel)));
    EXPECT_STREQ(entry.arch, "sm_80");
    EXPECT_STREQ(entry.damage, "");
    EXPECT_EQ(entry.bytes, std::filesystem::file_size(entry.file));
  }

  std::size_t kernels = 0;
  ASSERT_OK(tw_load_kernel_pack(pack.c_str(), &kernels));
  EXPECT_EQ(kernels, count);
  write_file(pack, file_contents(pack).substr(0, 100));
  expect_invalid(tw_load_kernel_pack(pack.c_str(), nullptr), {"kernels.pack"});
}

TEST_F(CKernels, CompileOptionsAreChecked) {
  const char* const arch = "sm_75";
  auto options = sized<tw_compile_options>();
  options.archs = &arch;
  options.num_archs = 1;
  ReportsHandle reports;
  const auto compile = [&] { return tw_compile_kernels(nullptr, 0, &options, reports.target()); };
  expect_invalid(compile(), {"archs has sm_75", "oldest"});
  options.without_ops = 2;
  expect_invalid(compile(), {"options.without_ops is 2"});
  options.without_ops = 0;
  options.reserved = 1;
  expect_invalid(compile(), {"options.reserved is 1"});
  options.reserved = 0;
  auto empty = sized<tw_shared_plan>();
  options.plans = &empty;
  options.num_plans = 1;
  const char* const good = "sm_80";
  options.archs = &good;
  expect_invalid(compile(), {"plans has an empty list"});
  auto bad = sized<tw_attention_spec>();
  bad.q_dtype = 99;
  empty.specs = &bad;
  empty.num_specs = 1;
  expect_invalid(compile(), {"options.plans[0].specs[0].q_dtype is 99"});
  EXPECT_EQ(reports.get(), nullptr);
}

TEST_F(CKernels, TheCacheIsVerifiedAndCleared) {
  const char* path = nullptr;
  ASSERT_OK(tw_kernel_cache_path(&path));
  EXPECT_EQ(path, cache_.path().string());
  EXPECT_EQ(count_of(read_cache()), 0);
  write_file(cache_.path() / "x.kernel", "nonsense");
  const KernelCacheHandle cache = read_cache();
  ASSERT_EQ(count_of(cache), 1);
  auto entry = sized<tw_kernel_cache_entry>();
  ASSERT_OK(tw_kernel_cache_get(cache.get(), 0, &entry));
  EXPECT_EQ(entry.file, (cache_.path() / "x.kernel").string());
  EXPECT_STREQ(entry.kernel, "");
  EXPECT_STRNE(entry.damage, "");
  std::size_t removed = 0;
  expect_invalid(tw_clear_kernel_cache(-1, &removed), {"damaged_only is -1"});
  ASSERT_OK(tw_clear_kernel_cache(1, &removed));
  EXPECT_EQ(removed, 1);
  ASSERT_OK(tw_clear_kernel_cache(0, nullptr));
  EXPECT_EQ(count_of(read_cache()), 0);
  EXPECT_EQ(count_of(cache), 1);  // as it was read
}

TEST_F(CKernels, WarningsComeWithTheirContext) {
  std::vector<std::string> messages;
  ASSERT_OK(tw_set_warning_handler(
      [](const char* message, void* context) {
        static_cast<std::vector<std::string>*>(context)->emplace_back(message);
      },
      &messages));
  write_file(cache_.path() / "file", "");
  const std::string below = (cache_.path() / "file" / "kernels").string();
  ASSERT_OK(tw_set_kernel_cache_path(below.c_str()));
  jit::store_entry({});
  EXPECT_THAT(messages, ElementsAre(HasSubstr(below)));
  ASSERT_OK(tw_set_warning_handler(nullptr, nullptr));
  const std::string other = (cache_.path() / "file" / "other").string();
  ASSERT_OK(tw_set_kernel_cache_path(other.c_str()));
  jit::store_entry({});
  EXPECT_EQ(messages.size(), 1);
}

TEST_F(CKernels, SpecsOfModels) {
  const char* const* names = nullptr;
  std::size_t count = 0;
  ASSERT_OK(tw_model_names(&names, &count));
  EXPECT_EQ(std::vector<std::string>(names, names + count), model_names());

  SpecsHandle specs;
  ASSERT_OK(tw_model_attention_specs("gemma-3-12b", TW_F8E4M3, specs.target()));
  const std::vector<AttentionSpec> expected = model_attention_specs("gemma-3-12b", DType::f8e4m3);
  ASSERT_OK(tw_attention_specs_count(specs.get(), &count));
  ASSERT_EQ(count, 2);
  for (std::size_t i = 0; i < count; ++i) {
    auto spec = sized<tw_attention_spec>();
    ASSERT_OK(tw_attention_specs_get(specs.get(), i, &spec));
    EXPECT_EQ(spec.num_qo_heads, expected[i].num_qo_heads);
    EXPECT_EQ(spec.kv_dtype, TW_F8E4M3);
    const char* text = nullptr;
    ASSERT_OK(tw_variant_text(spec.variant, &text));
    EXPECT_EQ(text, expected[i].variant.serialize());
    // As it is, the spec of an attention.
    AttentionHandle attention;
    EXPECT_OK(tw_attention_create(&spec, {}, attention.target()));
  }
  auto spec = sized<tw_attention_spec>();
  expect_invalid(tw_attention_specs_get(specs.get(), 2, &spec), {"index is 2", "2 specs"});
  SpecsHandle none;
  expect_invalid(tw_model_attention_specs("llama-9", TW_DEFAULT_DTYPE, none.target()),
                 {"model is llama-9"});
  ASSERT_OK(tw_common_attention_specs(none.target()));
  ASSERT_OK(tw_attention_specs_count(none.get(), &count));
  EXPECT_EQ(count, common_attention_specs().size());
}

TEST_F(CKernels, NvrtcAndGpus) {
  const FakeCuda& fake = fake_cuda();
  auto nvrtc = sized<tw_nvrtc_info>();
  ASSERT_OK(tw_get_nvrtc_info(&nvrtc));
  EXPECT_EQ(nvrtc.path, nvrtc_info().path);
  EXPECT_EQ(nvrtc.major, nvrtc_info().major);
  EXPECT_EQ(nvrtc.minor, nvrtc_info().minor);

  auto info = sized<tw_cuda_info>();
  ASSERT_OK(tw_get_cuda_info(&info));
  EXPECT_THAT(info.driver_path, HasSubstr("libcuda.so.1"));
  EXPECT_EQ(info.driver_major, 13);
  EXPECT_EQ(info.driver_minor, 0);
  ASSERT_EQ(info.num_devices, static_cast<std::size_t>(fake.devices));
  auto device = sized<tw_cuda_device>();
  ASSERT_OK(tw_get_cuda_device(1, &device));
  EXPECT_EQ(device.index, 1);
  EXPECT_STREQ(device.name, "Fake GPU");
  EXPECT_STREQ(device.arch, "sm_90a");
  EXPECT_EQ(device.num_sms, 132);
  EXPECT_EQ(device.memory_bytes, std::uint64_t{80} << 30);
  expect_invalid(tw_get_cuda_device(2, &device), {"index is 2", "2 GPUs"});
}

}  // namespace
}  // namespace tilewright::test
