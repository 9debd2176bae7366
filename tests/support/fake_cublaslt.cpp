// SPDX-License-Identifier: Apache-2.0
// A test double of libcublasLt.so.13 beside that of the driver (fake_cuda.cpp): products are zeros.
// The file in FAKE_CUBLASLT_LOG gets a line for each: how many rows it has, and for how many its
// algorithm was chosen.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>

#define FAKE extern "C" __attribute__((visibility("default")))

namespace {

struct Layout {
  int type;
  std::uint64_t rows, columns;
};
struct Algorithm {
  std::uint64_t rows;
  std::uint64_t others[7];
};
struct Heuristic {
  Algorithm algorithm;
  std::size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};
struct Nothing {};

std::size_t bytes(const Layout& layout) {
  return layout.rows * layout.columns * (layout.type == 0 ? sizeof(float) : sizeof(std::uint16_t));
}

template <typename Object>
int destroy(Object* object) {
  delete object;
  return 0;
}

std::ofstream& log() {
  static std::ofstream file;
  const char* const path = std::getenv("FAKE_CUBLASLT_LOG");
  if (!file.is_open() && path != nullptr) file.open(path);
  return file;
}

}  // namespace

FAKE std::size_t cublasLtGetVersion() {
  return 130000;
}
FAKE const char* cublasLtGetStatusName(int) {
  return "STATUS";
}
FAKE int cublasLtCreate(Nothing** out) {
  *out = new Nothing;
  return 0;
}
FAKE int cublasLtDestroy(Nothing* context) {
  return destroy(context);
}
FAKE int cublasLtMatmulDescCreate(Nothing** out, int, int) {
  *out = new Nothing;
  return 0;
}
FAKE int cublasLtMatmulDescDestroy(Nothing* desc) {
  return destroy(desc);
}
FAKE int cublasLtMatmulDescSetAttribute(Nothing*, int, const void*, std::size_t) {
  return 0;
}
FAKE int cublasLtMatrixLayoutCreate(Layout** out, int type, std::uint64_t rows,
                                    std::uint64_t columns, std::int64_t) {
  *out = new Layout{type, rows, columns};
  return 0;
}
FAKE int cublasLtMatrixLayoutDestroy(Layout* layout) {
  return destroy(layout);
}
FAKE int cublasLtMatmulPreferenceCreate(Nothing** out) {
  *out = new Nothing;
  return 0;
}
FAKE int cublasLtMatmulPreferenceDestroy(Nothing* preference) {
  return destroy(preference);
}
FAKE int cublasLtMatmulPreferenceSetAttribute(Nothing*, int, const void*, std::size_t) {
  return 0;
}
FAKE int cublasLtMatmulAlgoGetHeuristic(Nothing*, Nothing*, Layout*, Layout* x, Layout*, Layout*,
                                        Nothing*, int, Heuristic* results, int* count) {
  results[0] = {};
  results[0].algorithm.rows = x->columns;
  *count = 1;
  return 0;
}
FAKE int cublasLtMatmulAlgoCheck(Nothing*, Nothing*, Layout*, Layout*, Layout*, Layout*,
                                 const Algorithm*, Heuristic* result) {
  *result = {};
  return 0;
}
FAKE int cublasLtMatmul(Nothing*, Nothing*, const void*, const void*, Layout*, const void*,
                        Layout* x, const void*, const void*, Layout*, void* y, Layout* y_layout,
                        const Algorithm* algorithm, void*, std::size_t, void*) {
  std::memset(y, 0, bytes(*y_layout));
  if (log().is_open()) log() << x->columns << " " << algorithm->rows << "\n";
  return 0;
}
