// SPDX-License-Identifier: Apache-2.0
// Writes the device code of all cases, and source files that compile it as host code:
//   write_cuda_variants DIR PARTS
// Each part defines one function, which fills a table of what the variants compute.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "cuda_text/cases.h"
#include "variant/cuda_text.h"

int main(int argc, char** argv) {
  using namespace tilewright;  // NOLINT(google-build-using-namespace)
  if (argc != 3) {
    std::fputs("usage: write_cuda_variants DIR PARTS\n", stderr);
    return 2;
  }
  const std::string folder = argv[1];
  const auto parts = static_cast<std::size_t>(std::atoi(argv[2]));
  const std::vector<test::CudaCase> cases = test::cuda_cases();
  for (std::size_t part = 0; part < parts; ++part) {
    std::ofstream file(fmt::format("{}/variants_{}.cpp", folder, part));
    file << "#include \"cuda_text/table.h\"\n";
    std::string entries;
    for (std::size_t i = part; i < cases.size(); i += parts) {
      std::ofstream(fmt::format("{}/variant_{}.h", folder, i))
          << cuda_variant(cases[i].variant, test::kCudaHeadDim);
      file << fmt::format(
          "// {1}\n#define Variant Variant{0}\n#define kRopeTurns kRopeTurns{0}\n"
          "#include \"variant_{0}.h\"\n#undef Variant\n#undef kRopeTurns\n",
          i, cases[i].name);
      entries += fmt::format("  table[{0}] = entry_of<tw::Variant{0}>();\n", i);
    }
    file << fmt::format(
        "namespace tilewright::test {{\nvoid fill_part_{}(CudaEntry* table) {{\n{}}}\n}}\n", part,
        entries);
  }
  std::ofstream all(folder + "/variants_all.cpp");
  all << "#include \"cuda_text/table.h\"\nnamespace tilewright::test {\n";
  for (std::size_t part = 0; part < parts; ++part) {
    all << fmt::format("void fill_part_{}(CudaEntry* table);\n", part);
  }
  all << fmt::format(
      "std::vector<CudaEntry> cuda_table() {{\n  std::vector<CudaEntry> table({});\n",
      cases.size());
  for (std::size_t part = 0; part < parts; ++part) {
    all << fmt::format("  fill_part_{}(table.data());\n", part);
  }
  all << "  return table;\n}\n}\n";
  return all.good() ? 0 : 1;
}
