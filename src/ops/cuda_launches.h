// SPDX-License-Identifier: Apache-2.0
// Launches of the operators' CUDA kernels, from arguments that have been checked. Made here, and
// run by cuda_run.h on a GPU or by the tests' emulator.
#pragma once

#include <tilewright/ops.h>

#include <array>
#include <cstdint>
#include <span>

#include "base/cuda_launch.h"
#include "ops/cuda_kernels.h"
#include "ops/params.h"

namespace tilewright {

template <typename Params>
struct CudaOpLaunch : CudaLaunch<Params> {
  CudaOpKernel kernel;
};

// `residual` is undefined but for the fused form.
CudaOpLaunch<tw::RmsNormParams> rms_norm_launch(const TensorView& x, const TensorView& residual,
                                                const TensorView& weight, const TensorView& out,
                                                float eps, float weight_offset,
                                                const Scale& out_scale);

// `bias` may be undefined.
CudaOpLaunch<tw::LayerNormParams> layer_norm_launch(const TensorView& x, const TensorView& weight,
                                                    const TensorView& bias, const TensorView& out,
                                                    float eps, const Scale& out_scale);

CudaOpLaunch<tw::ActivationParams> activation_launch(const TensorView& x, const TensorView& out,
                                                     Activation activation);

CudaOpLaunch<tw::GatherRowsParams> gather_rows_launch(const TensorView& x,
                                                      const TensorView& indices,
                                                      const TensorView& out);

CudaOpLaunch<tw::PackBitsParams> pack_bits_launch(const TensorView& x, const TensorView& out,
                                                  BitOrder order);
CudaOpLaunch<tw::SegmentPackBitsParams> segment_pack_bits_launch(const TensorView& x,
                                                                 const TensorView& indptr,
                                                                 const TensorView& out,
                                                                 const TensorView& out_indptr,
                                                                 BitOrder order);

CudaOpLaunch<tw::MergeParams> merge_launch(const TensorView& values, const TensorView& lse,
                                           const TensorView& out, const TensorView& lse_out);

// How pairs turn: radians a position (or a table, which is undefined else), and their axes.
struct RopeTurns {
  std::span<const double> frequencies;
  float amplitude = 1;
  TensorView table;
  std::span<const std::uint8_t> axis_of_pair;
  bool interleaved = false;
};
// positions [axes, tokens].
CudaOpLaunch<tw::RopeParams> rope_launch(const TensorView& x, const TensorView& positions,
                                         const TensorView& out, const RopeTurns& turns);

CudaOpLaunch<tw::CacheWriteParams> cache_write_launch(const TensorView& k, const TensorView& v,
                                                      const KvCache& cache,
                                                      const TensorView& slot_mapping,
                                                      const Scale& k_scale, const Scale& v_scale,
                                                      const TensorView& token_indptr);

// Of a block: as many as leave enough blocks for all SMs, in several turns. Results do not depend
// on it.
std::int32_t rope_and_cache_block_tokens(std::int64_t tokens);

// k and v have q's dtype, the norm's weights one dtype.
CudaOpLaunch<tw::RopeAndCacheParams> rope_and_cache_launch(
    const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& positions,
    const TensorView& q_out, const KvCache& cache, const TensorView& slot_mapping,
    const RopeTurns& turns, const RopeAndCacheArgs& args, std::int32_t block_tokens);

}  // namespace tilewright
