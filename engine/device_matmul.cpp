// SPDX-License-Identifier: Apache-2.0
#include "engine/device_matmul.h"

#include <algorithm>
#include <utility>

#include "engine/checks.h"

namespace tilewright::engine {
namespace {

// For how many rows the algorithm of MatmulChoice::fixed is chosen: tiles of this many rows leave
// decoding, which reads the weights, enough blocks, and are not too small for prefill.
constexpr std::int64_t kFixedAlgorithmRows = 64;
// Too little for sums over parts of the inner dimension, whose parts would depend on the number of
// tiles and so of rows.
constexpr std::size_t kFixedWorkspaceBytes = 1024;

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
  Product(const MatmulContext& context, const MatmulShape& shape, std::int64_t row_count,
          MatmulChoice chosen)
      : choice(chosen),
        rows(row_count),
        desc(make(context, "cublasLtMatmulDescCreate", context.api().matmul_desc_create,
                  context.api().matmul_desc_destroy, CublasLt::kComputeF32, CublasLt::kF32)),
        weight(layout(context, shape.dtype, shape.in_features, shape.out_features)),
        x(layout(context, shape.dtype, shape.in_features, row_count)),
        y(layout(context, shape.out_dtype, shape.out_features, row_count)) {
    const int transposed = CublasLt::kTransposed;
    context.check(context.api().matmul_desc_set_attribute(desc.get(), CublasLt::kDescTransposeA,
                                                          &transposed, sizeof transposed),
                  "cublasLtMatmulDescSetAttribute");
  }

  static Owned<CublasLt::MatrixLayout> layout(const MatmulContext& context, DType dtype,
                                              std::int64_t rows, std::int64_t columns) {
    return make(context, "cublasLtMatrixLayoutCreate", context.api().matrix_layout_create,
                context.api().matrix_layout_destroy, cuda_type(dtype),
                static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns), rows);
  }

  std::pair<MatmulChoice, std::int64_t> key() const { return {choice, rows}; }

  MatmulChoice choice;
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

CublasLt::Algorithm DeviceMatmul::choose(const Product& product, MatmulChoice choice) const {
  const CublasLt& api = context_->api();
  const auto preference = make(*context_, "cublasLtMatmulPreferenceCreate", api.preference_create,
                               api.preference_destroy);
  const auto prefer = [&](int attribute, const auto& value) {
    context_->check(api.preference_set_attribute(preference.get(), attribute, &value, sizeof value),
                    "cublasLtMatmulPreferenceSetAttribute");
  };
  std::size_t bytes = context_->workspace_bytes();
  if (choice == MatmulChoice::fixed) {
    bytes = std::min(bytes, kFixedWorkspaceBytes);
    prefer(CublasLt::kPreferenceReductionSchemes, std::uint32_t{0});
  }
  prefer(CublasLt::kPreferenceWorkspaceBytes, bytes);
  CublasLt::Heuristic best{};
  int count = 0;
  const int status = api.get_heuristic(context_->context(), product.desc.get(),
                                       product.weight.get(), product.x.get(), product.y.get(),
                                       product.y.get(), preference.get(), 1, &best, &count);
  if (status != 0 || count == 0 || best.state != 0) {
    raise(ErrorCode::not_supported,
          "cuBLASLt {}.{} has no product of [{}, {}] with [{}, {}] in {} bytes of workspace: {}",
          api.major, api.minor, product.rows, shape_.in_features, shape_.in_features,
          shape_.out_features, bytes, api.get_status_name(status != 0 ? status : best.state));
  }
  return best.algorithm;
}

const CublasLt::Algorithm& DeviceMatmul::fixed_algorithm() {
  if (!fixed_) {
    const Product product(*context_, shape_, kFixedAlgorithmRows, MatmulChoice::fixed);
    fixed_ = choose(product, MatmulChoice::fixed);
  }
  return *fixed_;
}

void DeviceMatmul::check_fixed(const Product& product) const {
  const CublasLt& api = context_->api();
  CublasLt::Heuristic result{};
  const int status = api.check_algorithm(context_->context(), product.desc.get(),
                                         product.weight.get(), product.x.get(), product.y.get(),
                                         product.y.get(), &product.algorithm, &result);
  if (status == 0 && result.workspace_bytes <= context_->workspace_bytes()) return;
  raise(ErrorCode::not_supported,
        "the algorithm of cuBLASLt {}.{} for [{}, {}] with [{}, {}] does not take {} rows in {} "
        "bytes of workspace: {}",
        api.major, api.minor, kFixedAlgorithmRows, shape_.in_features, shape_.in_features,
        shape_.out_features, product.rows, context_->workspace_bytes(),
        api.get_status_name(status));
}

const DeviceMatmul::Product& DeviceMatmul::product(std::int64_t rows, MatmulChoice choice) {
  const std::pair key{choice, rows};
  auto place = std::ranges::lower_bound(products_, key, {}, &Product::key);
  if (place == products_.end() || place->key() != key) {
    Product made(*context_, shape_, rows, choice);
    if (choice == MatmulChoice::by_rows) {
      made.algorithm = choose(made, choice);
    } else {
      made.algorithm = fixed_algorithm();
      check_fixed(made);
    }
    place = products_.insert(place, std::move(made));
  }
  return *place;
}

void DeviceMatmul::prepare(std::int64_t rows, MatmulChoice choice) {
  require(rows >= 0, "rows is {}: it must not be negative", rows);
  if (rows > 0) product(rows, choice);
}

void DeviceMatmul::run(std::int64_t rows, const void* x, const void* weight, void* y, Stream stream,
                       MatmulChoice choice) {
  require(rows >= 0, "rows is {}: it must not be negative", rows);
  if (rows == 0) return;
  const Product& p = product(rows, choice);
  const float one = 1, zero = 0;
  const CublasLt& api = context_->api();
  context_->check(api.matmul(context_->context(), p.desc.get(), &one, weight, p.weight.get(), x,
                             p.x.get(), &zero, y, p.y.get(), y, p.y.get(), &p.algorithm,
                             context_->workspace(), context_->workspace_bytes(), stream.handle),
                  "cublasLtMatmul");
}

}  // namespace tilewright::engine
