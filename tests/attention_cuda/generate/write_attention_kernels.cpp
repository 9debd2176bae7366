// SPDX-License-Identifier: Apache-2.0
// Writes the kernels of compiled_cases() as the library writes them, and source files that compile
// them as host code:
//   write_attention_kernels DIR
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <string>

#include "attention/update_kernel.h"
#include "attention_cuda/compiled_cases.h"

namespace {

// A text as it is, for #include, and as a string, so that a test can tell whose kernels they are.
void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path + ".h") << text;
  std::ofstream(path + "_text.h") << "R\"text(" << text << ")text\"\n";
}

}  // namespace

int main(int argc, char** argv) {
  using namespace tilewright;  // NOLINT(google-build-using-namespace)
  if (argc != 2) {
    std::fputs("usage: write_attention_kernels DIR\n", stderr);
    return 2;
  }
  const std::string folder = argv[1];
  std::ofstream all(folder + "/kernels_all.cpp");
  std::ofstream plans(folder + "/plans.cpp");
  plans << "#include \"attention_cuda/generate/before_text.h\"\n";
  std::map<std::string, std::size_t> plan_of_text;
  std::string declarations;
  std::string entries;
  const auto cases = test::compiled_cases();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const AttentionSpec spec = test::CaseRun(cases[i].attention).spec();
    const bool listed = cases[i].use == KernelUse::listed_blocks;
    write_text(fmt::format("{}/attention_{}", folder, i),
               attention_source(spec, cases[i].target, cases[i].use).source);
    std::ofstream(fmt::format("{}/kernels_{}.cpp", folder, i)) << fmt::format(
        "#include \"attention_cuda/generate/before_text.h\"\n"
        "namespace tw_{0} {{\nusing namespace tw;\n}}\n"
        "#define tw tw_{0}\n"
        "#include \"attention_{0}.h\"\n"
        "#undef tw\n"
        "namespace tilewright::test {{\n"
        "void add_attention_{0}(EmulatedKernels& kernels) {{\n"
        "  kernels.attention_text =\n#include \"attention_{0}_text.h\"\n      ;\n"
        "  kernels.{1} = tilewright_attention;\n"
        "  kernels.join_levels = tilewright_join_levels;\n"
        "}}\n}}\n",
        i,
        cuda_shape(spec, cases[i].target, cases[i].use).kind == KernelKind::hopper
            ? "hopper_attention"
            : "attention");
    declarations += fmt::format("void add_attention_{0}(EmulatedKernels&);\n", i);
    entries += fmt::format("  add_attention_{0}(all[{0}]);\n", i);
    // Plans differ in the masks alone: most cases have the plan of one before them.
    const std::string plan = plan_source({mask_of(spec.variant)}, 1, listed).source;
    const auto [known, is_new] = plan_of_text.emplace(plan, i);
    entries += fmt::format("  add_plan_{}(all[{}]);\n", known->second, i);
    if (!is_new) continue;
    write_text(fmt::format("{}/plan_{}", folder, i), plan);
    declarations += fmt::format("void add_plan_{0}(EmulatedKernels&);\n", i);
    plans << fmt::format(
        "#define Mask0 Mask0Of{0}\n#define {1} {1}_{0}\n#define {2} {2}_{0}\n"
        "#include \"plan_{0}.h\"\n#undef Mask0\n#undef {1}\n#undef {2}\n"
        "namespace tilewright::test {{\n"
        "void add_plan_{0}(EmulatedKernels& kernels) {{\n"
        "  kernels.plan_text =\n#include \"plan_{0}_text.h\"\n      ;\n"
        "  kernels.update_plan = {1}_{0};\n"
        "}}\n}}\n",
        i, kUpdateKernelName, kCopyStatusName);
  }
  all << "#include \"attention_cuda/generate/emulated_kernels.h\"\nnamespace tilewright::test {\n"
      << declarations << "std::vector<EmulatedKernels> all_emulated_kernels() {\n"
      << fmt::format("  std::vector<EmulatedKernels> all({});\n", cases.size()) << entries
      << "  return all;\n}\n}\n";
  return all.good() && plans.good() ? 0 : 1;
}
