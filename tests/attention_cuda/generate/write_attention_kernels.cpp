// SPDX-License-Identifier: Apache-2.0
// Writes the kernels of compiled_cases() as the library writes them, and source files that compile
// them as host code:
//   write_attention_kernels DIR
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
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
  std::string declarations;
  std::string entries;
  const auto cases = test::compiled_cases();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const AttentionSpec spec = test::CaseRun(cases[i].attention).spec();
    write_text(fmt::format("{}/attention_{}", folder, i),
               attention_source(spec, cases[i].target).source);
    write_text(fmt::format("{}/plan_{}", folder, i),
               plan_source({mask_of(spec.variant)}, 1).source);
    std::ofstream(fmt::format("{}/kernels_{}.cpp", folder, i)) << fmt::format(
        "#include \"attention_cuda/generate/before_text.h\"\n"
        "namespace tw_{0} {{\nusing namespace tw;\n}}\n"
        "#define tw tw_{0}\n"
        "#include \"attention_{0}.h\"\n"
        "#include \"plan_{0}.h\"\n"
        "#undef tw\n"
        "namespace tilewright::test {{\n"
        "EmulatedKernels emulated_kernels_{0}() {{\n"
        "  return {{\n"
        "#include \"attention_{0}_text.h\"\n      ,\n"
        "#include \"plan_{0}_text.h\"\n      ,\n"
        "      tilewright_attention, tilewright_join_levels, {1}}};\n"
        "}}\n}}\n",
        i, kUpdateKernelName);
    declarations += fmt::format("EmulatedKernels emulated_kernels_{}();\n", i);
    entries += fmt::format("emulated_kernels_{}(), ", i);
  }
  all << "#include \"attention_cuda/generate/emulated_kernels.h\"\nnamespace tilewright::test {\n"
      << declarations << "std::vector<EmulatedKernels> all_emulated_kernels() {\n  return {"
      << entries << "};\n}\n}\n";
  return all.good() ? 0 : 1;
}
