// SPDX-License-Identifier: Apache-2.0
#include "engine/device_matmul.h"

#include <algorithm>
#include <utility>

#include "engine/checks.h"

namespace tilewright::engine {
namespace {

int cuda_type(DType dtype) {
  return dtype == DType::f32 ? CublasLt::kF32 : CublasLt::kBf16;
}

template <typename Object>
using Owned = std::unique_ptr<Object, int (*)(Object*)>;

// The creating functions hand out their object as the first argument.
template <typename Object, typename... Params, typename... Args>
Owned<Object> make(const MatmulContext& context, const char* call,
                   int (*create)(Object**, Params...), int (*destroy)(Object*), Args... args) {
  Object* object = nullptr;
  context.check(create(&object, args...), call);
  return {object, destroy};
}

}  // namespace

MatmulContext::MatmulContext(CublasLt api, void* workspace, std::size_t workspace_bytes)
    : api_(std::move(api)),
      context_(nullptr, api_.destroy),
      workspace_(workspace),
      workspace_bytes_(workspace_bytes) {
  CublasLt::Context* context = nullptr;
  check(api_.create(&context), "cublasLtCreate");
  context_.reset(context);
}

void MatmulContext::check(int status, const char* call) const {
  if (status == 0) return;
  raise(ErrorCode::device_error, "{} of {} failed: {} ({})", call, api_.path,
        api_.get_status_name(status), status);
}

// cuBLASLt's matrices are column-major: row-major x [rows, in] is its [in, rows]. So y^T = W x^T is
// asked for, where W is what lies there as [in, out], transposed.
struct DeviceMatmul::Product {
  Product(const MatmulContext& context, const MatmulShape& shape, std::int64_t row_count)
      : rows(row_count),
        desc(make(context, "cublasLtMatmulDescCreate", context.api().matmul_desc_create,
                  context.api().matmul_desc_destroy, CublasLt::kComputeF32, CublasLt::kF32)),
        weight(layout(context, shape.dtype, shape.in_features, shape.out_features)),
        x(layout(context, shape.dtype, shape.in_features, row_count)),
        y(layout(context, shape.out_dtype, shape.out_features, row_count)) {
    const CublasLt& api = context.api();
    const int transposed = CublasLt::kTransposed;
    context.check(api.matmul_desc_set_attribute(desc.get(), CublasLt::kDescTransposeA, &transposed,
                                                sizeof transposed),
                  "cublasLtMatmulDescSetAttribute");
    const auto preference = make(context, "cublasLtMatmulPreferenceCreate", api.preference_create,
                                 api.preference_destroy);
    const std::size_t bytes = context.workspace_bytes();
    context.check(api.preference_set_attribute(
                      preference.get(), CublasLt::kPreferenceWorkspaceBytes, &bytes, sizeof bytes),
                  "cublasLtMatmulPreferenceSetAttribute");
    CublasLt::Heuristic best{};
    int count = 0;
    const int status = api.get_heuristic(context.context(), desc.get(), weight.get(), x.get(),
                                         y.get(), y.get(), preference.get(), 1, &best, &count);
    if (status != 0 || count == 0 || best.state != 0) {
      raise(ErrorCode::not_supported,
            "cuBLASLt {}.{} has no product of [{}, {}] with [{}, {}] in {} bytes of workspace: {}",
            api.major, api.minor, rows, shape.in_features, shape.in_features, shape.out_features,
            bytes, api.get_status_name(status != 0 ? status : best.state));
    }
    algorithm = best.algorithm;
  }

  static Owned<CublasLt::MatrixLayout> layout(const MatmulContext& context, DType dtype,
                                              std::int64_t rows, std::int64_t columns) {
    return make(context, "cublasLtMatrixLayoutCreate", context.api().matrix_layout_create,
                context.api().matrix_layout_destroy, cuda_type(dtype),
                static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns), rows);
  }

  std::int64_t rows;
  Owned<CublasLt::MatmulDesc> desc;
  Owned<CublasLt::MatrixLayout> weight, x, y;
  CublasLt::Algorithm algorithm{};
};

DeviceMatmul::DeviceMatmul(const MatmulContext& context, const MatmulShape& shape)
    : context_(&context), shape_(shape) {
  require(shape.out_features >= 1 && shape.in_features >= 1,
          "shape is [{}, {}]: both must be at least 1", shape.out_features, shape.in_features);
  require(shape.dtype == DType::f32 || shape.dtype == DType::bf16,
          "dtype is {}: it must be f32 or bf16", dtype_name(shape.dtype));
  require(shape.out_dtype == DType::f32 || shape.out_dtype == shape.dtype,
          "out_dtype is {}: it must be f32 or dtype, {}", dtype_name(shape.out_dtype),
          dtype_name(shape.dtype));
}

DeviceMatmul::~DeviceMatmul() = default;
DeviceMatmul::DeviceMatmul(DeviceMatmul&&) noexcept = default;
DeviceMatmul& DeviceMatmul::operator=(DeviceMatmul&&) noexcept = default;

const DeviceMatmul::Product& DeviceMatmul::product(std::int64_t rows) {
  auto place = std::ranges::lower_bound(products_, rows, {}, &Product::rows);
  if (place == products_.end() || place->rows != rows) {
    place = products_.emplace(place, *context_, shape_, rows);
  }
  return *place;
}

void DeviceMatmul::prepare(std::int64_t rows) {
  require(rows >= 0, "rows is {}: it must not be negative", rows);
  if (rows > 0) product(rows);
}

void DeviceMatmul::run(std::int64_t rows, const void* x, const void* weight, void* y,
                       Stream stream) {
  require(rows >= 0, "rows is {}: it must not be negative", rows);
  if (rows == 0) return;
  const Product& p = product(rows);
  const float one = 1, zero = 0;
  const CublasLt& api = context_->api();
  context_->check(api.matmul(context_->context(), p.desc.get(), &one, weight, p.weight.get(), x,
                             p.x.get(), &zero, y, p.y.get(), y, p.y.get(), &p.algorithm,
                             context_->workspace(), context_->workspace_bytes(), stream.handle),
                  "cublasLtMatmul");
}

}  // namespace tilewright::engine
