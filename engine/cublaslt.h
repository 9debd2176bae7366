// SPDX-License-Identifier: Apache-2.0
// cuBLASLt, opened at run time: nothing of it is linked or included, so the engine builds and runs
// where there is no toolkit. Names and layouts are those of libcublasLt.so.12 and .13.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tilewright::engine {

// A table of the library's functions, none of them null. Results are cublasStatus_t; 0 is success.
struct CublasLt {
  // What the library's handles point to is its own.
  struct Context;
  struct MatmulDesc;
  struct MatrixLayout;
  struct Preference;

  // cublasLtMatmulAlgo_t.
  struct Algorithm {
    std::uint64_t data[8];
  };
  // cublasLtMatmulHeuristicResult_t.
  struct Heuristic {
    Algorithm algorithm;
    std::size_t workspace_bytes;
    int state;  // 0: the others are valid
    float waves;
    int reserved[4];
  };

  static constexpr int kF32 = 0, kBf16 = 14;  // cudaDataType
  static constexpr int kComputeF32 = 68;      // true f32: no TF32
  static constexpr int kTransposed = 1;
  static constexpr int kDescTransposeA = 3;
  static constexpr int kPreferenceWorkspaceBytes = 1;
  // std::uint32_t: the ways in which sums over parts of the inner dimension may be joined. 0: none,
  // a product is one sum.
  static constexpr int kPreferenceReductionSchemes = 3;

  std::string path;
  int major = 0, minor = 0;

  std::size_t (*get_version)() = nullptr;
  const char* (*get_status_name)(int status) = nullptr;
  int (*create)(Context** context) = nullptr;
  int (*destroy)(Context* context) = nullptr;
  int (*matmul_desc_create)(MatmulDesc** desc, int compute_type, int scale_type) = nullptr;
  int (*matmul_desc_destroy)(MatmulDesc* desc) = nullptr;
  int (*matmul_desc_set_attribute)(MatmulDesc* desc, int attribute, const void* value,
                                   std::size_t bytes) = nullptr;
  int (*matrix_layout_create)(MatrixLayout** layout, int type, std::uint64_t rows,
                              std::uint64_t columns, std::int64_t stride) = nullptr;
  int (*matrix_layout_destroy)(MatrixLayout* layout) = nullptr;
  int (*preference_create)(Preference** preference) = nullptr;
  int (*preference_destroy)(Preference* preference) = nullptr;
  int (*preference_set_attribute)(Preference* preference, int attribute, const void* value,
                                  std::size_t bytes) = nullptr;
  int (*get_heuristic)(Context* context, MatmulDesc* desc, MatrixLayout* a, MatrixLayout* b,
                       MatrixLayout* c, MatrixLayout* d, Preference* preference, int requested,
                       Heuristic* results, int* count) = nullptr;
  // Fills in all of `result` but the algorithm.
  int (*check_algorithm)(Context* context, MatmulDesc* desc, MatrixLayout* a, MatrixLayout* b,
                         MatrixLayout* c, MatrixLayout* d, const Algorithm* algorithm,
                         Heuristic* result) = nullptr;
  int (*matmul)(Context* context, MatmulDesc* desc, const void* alpha, const void* a,
                MatrixLayout* a_layout, const void* b, MatrixLayout* b_layout, const void* beta,
                const void* c, MatrixLayout* c_layout, void* d, MatrixLayout* d_layout,
                const Algorithm* algorithm, void* workspace, std::size_t workspace_bytes,
                void* stream) = nullptr;
};
static_assert(sizeof(CublasLt::Heuristic) == 96);

// Where the library may be, in the order in which it is looked for: `path` or the environment's
// TILEWRIGHT_CUBLASLT alone where one is set; else Python packages of VIRTUAL_ENV and CONDA_PREFIX,
// toolkits (CUDA_HOME, CUDA_PATH, /usr/local/cuda*), the system's library path. The newest version
// of a folder comes first, of CUDA `most_major` (the driver's) at most; 0: any.
std::vector<std::string> cublaslt_candidates(const std::string& path, int most_major);

// Opens the first that can be, which is never closed. Error (not_supported) that says what was
// tried and how to mend it.
CublasLt open_cublaslt(const std::vector<std::string>& candidates);

}  // namespace tilewright::engine
