// SPDX-License-Identifier: Apache-2.0
#include "engine/linear.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#include <vector>

#include "engine/checks.h"
#include "engine/few_rows.h"
#include "engine/numeric.h"
#include "engine/parallel.h"
#include "engine/weight_memory.h"

namespace tilewright::engine {
namespace {

constexpr std::int64_t kExactRows = 64;  // every row count up to here has a product of its own
constexpr std::int64_t kBlockRows = 256;
// From this many rows on, f32 products save more than it costs to widen the weights for them.
constexpr std::int64_t kWidenedRows = 64;
constexpr std::int64_t kMostWidened = 1 << 26;  // elements
// The order in which oneDNN sums up f32 (measured with 2.6, tested): rows that multiply_few_rows
// multiplies get the bits that they would get among more rows.
std::int64_t summed_apart(std::int64_t inputs) {
  return inputs <= 1024 ? 512 : 1024;
}
// multiply_few_rows is the faster one for fewer than kExactRows rows where the arithmetic is f32
// anyhow, and up to this many where oneDNN's would be bf16 and fast.
constexpr std::int64_t kFewBf16Rows = 8;

dnnl::memory::data_type to_dnnl(DType dtype) {
  return dtype == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

// The products of one shape and its packed layout of the weights, which is chosen for 64 rows and
// serves every row count. W is seen as the column-major [in, out].
class ShapeProducts {
 public:
  ShapeProducts(const dnnl::engine& engine, std::int64_t in, std::int64_t out, DType weight_dtype,
                DType out_dtype)
      : engine_(engine),
        in_(in),
        out_(out),
        x_type_(to_dnnl(weight_dtype)),
        y_type_(to_dnnl(out_dtype)) {
    const dnnl::memory::desc any({in, out}, x_type_, dnnl::memory::format_tag::any);
    weight_ = description(kExactRows, any).weights_desc();
  }

  const dnnl::memory::desc& weight() const { return weight_; }

  // Whether the layout is PackedWeight's.
  bool is_packed() const {
    using Tag = dnnl::memory::format_tag;
    const Tag tag = x_type_ == dnnl::memory::data_type::f32 ? Tag::BA16a64b : Tag::BA16a64b2a;
    return weight_ == dnnl::memory::desc({in_, out_}, x_type_, tag);
  }

  // Weights of another layout and dtype in this one's, in memory that all layers of the shape
  // share.
  const dnnl::memory& converted(dnnl::stream& stream, const dnnl::memory& weight) {
    if (!converted_) converted_ = dnnl::memory(weight_, engine_);
    dnnl::reorder(weight, converted_)
        .execute(stream, const_cast<dnnl::memory&>(weight), converted_);
    stream.wait();
    return converted_;
  }

  void run(dnnl::stream& stream, std::int64_t rows, const void* x, const dnnl::memory& weight,
           void* y) {
    // A product is compiled for a number of threads.
    if (omp_get_max_threads() != threads_) {
      products_.fill({});
      threads_ = omp_get_max_threads();
    }
    dnnl::matmul& product = products_[rows <= kExactRows ? rows - 1 : kExactRows];
    if (!product) product = dnnl::matmul(description(rows, weight_));
    const dnnl::memory x_memory(rows_of(rows, in_, x_type_), engine_, const_cast<void*>(x));
    const dnnl::memory y_memory(rows_of(rows, out_, y_type_), engine_, y);
    product.execute(
        stream, {{DNNL_ARG_SRC, x_memory}, {DNNL_ARG_WEIGHTS, weight}, {DNNL_ARG_DST, y_memory}});
    stream.wait();
  }

 private:
  static dnnl::memory::desc rows_of(std::int64_t rows, std::int64_t columns,
                                    dnnl::memory::data_type type) {
    return {{rows, columns}, type, dnnl::memory::dims{columns, 1}};
  }

  dnnl::matmul::primitive_desc description(std::int64_t rows,
                                           const dnnl::memory::desc& weight) const {
    return {{rows_of(rows, in_, x_type_), weight, rows_of(rows, out_, y_type_)}, engine_};
  }

  dnnl::engine engine_;
  std::int64_t in_, out_;
  dnnl::memory::data_type x_type_, y_type_;
  dnnl::memory::desc weight_;
  dnnl::memory converted_{};
  int threads_ = 0;
  std::array<dnnl::matmul, kExactRows + 1> products_;  // by rows - 1; the last is kBlockRows
};

bool has_isa(dnnl::cpu_isa isa) {
  // The values of cpu_isa are sets of bits: each instruction set includes those before it.
  const auto needed = static_cast<unsigned>(isa);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & needed) == needed;
}

// Intel's cores since Sapphire Rapids, the first with AVX512_FP16, leave bf16 to AMX: their AVX512
// dot products reach half of what f32 does. Virtual machines may hide AMX.
bool bf16_is_slow() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  return has_bf16_matmul() && !has_isa(dnnl::cpu_isa::avx512_core_amx) &&
         __builtin_cpu_is("intel") != 0 && __builtin_cpu_supports("avx512fp16") != 0;
#else
  return false;
#endif
}

// How many rows a product of RowBlocks::fixed has. oneDNN's products for AVX2 treat some rows of a
// block differently from others, so there it can only be one.
std::int64_t fixed_rows() {
  return has_isa(dnnl::cpu_isa::avx512_core) ? 32 : 1;
}

// oneDNN's errors say only which call failed.
template <typename Call>
auto with_dnnl_errors(const char* what, const Call& call) {
  try {
    return call();
  } catch (const dnnl::error& error) {
    raise(error.status == dnnl_out_of_memory ? ErrorCode::out_of_memory : ErrorCode::internal,
          "oneDNN failed to {}: {}", what, error.what());
  }
}

}  // namespace

struct MatmulCache::Impl {
  using Key = std::tuple<std::int64_t, std::int64_t, DType, DType>;

  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<Key, ShapeProducts> shapes;
  WeightMemory weights;
};

MatmulCache::MatmulCache()
    : impl_(with_dnnl_errors("start", [] { return std::make_unique<Impl>(); })) {}
MatmulCache::~MatmulCache() = default;

struct Linear::Impl {
  MatmulCache::Impl& cache;
  std::int64_t in, out;
  DType x_dtype, y_dtype;  // what the caller sees; both f32 inside when `emulated`
  bool emulated;
  ShapeProducts* products = nullptr;
  dnnl::memory weight{};
  ShapeProducts* f32_products = nullptr;          // for many rows, where bf16 is slow
  PackedWeight packed{};                          // the weights, if they are packed so
  std::int64_t few_rows = 0;                      // the most for multiply_few_rows
  bool few_rows_when_fixed = false;               // then all row counts, in blocks
  std::vector<float> x_f32{}, y_f32{};            // one block of rows, when emulated
  std::vector<std::byte> x_filled{}, y_filled{};  // a block of fixed rows that are not all there

  std::int64_t x_bytes(std::int64_t rows) const { return rows * in * dtype_bytes(x_dtype); }
  std::int64_t y_bytes(std::int64_t rows) const { return rows * out * dtype_bytes(y_dtype); }

  void run_few(std::int64_t rows, const std::byte* x, std::byte* y) {
    multiply_few_rows(rows, x, x_dtype, packed, y, y_dtype, x_f32);
  }

  // `widened`: the weights in f32, or null.
  void run(std::int64_t rows, const std::byte* x, std::byte* y, const dnnl::memory* widened) {
    if (widened != nullptr) {
      run_in_f32(*f32_products, *widened, rows, x, y);
    } else if (emulated) {
      run_in_f32(*products, weight, rows, x, y);
    } else {
      products->run(cache.stream, rows, x, weight, y);
    }
  }

  void run_filled_up(std::int64_t block, std::int64_t rows, const std::byte* x, std::byte* y) {
    x_filled.assign(static_cast<std::size_t>(x_bytes(block)), std::byte{});
    y_filled.resize(static_cast<std::size_t>(y_bytes(block)));
    std::copy_n(x, x_bytes(rows), x_filled.begin());
    run(block, x_filled.data(), y_filled.data(), nullptr);
    std::copy_n(y_filled.begin(), y_bytes(rows), y);
  }

  void run_in_f32(ShapeProducts& f32, const dnnl::memory& f32_weight, std::int64_t rows,
                  const void* x, void* y) {
    const auto* x_bits = static_cast<const std::uint16_t*>(x);
    x_f32.resize(static_cast<std::size_t>(rows * in));
    parallel_shares(rows * in, [&](std::int64_t begin, std::int64_t end) {
      std::transform(x_bits + begin, x_bits + end, x_f32.begin() + begin, bf16_to_f32);
    });
    if (y_dtype == DType::f32) {
      f32.run(cache.stream, rows, x_f32.data(), f32_weight, y);
      return;
    }
    y_f32.resize(static_cast<std::size_t>(rows * out));
    f32.run(cache.stream, rows, x_f32.data(), f32_weight, y_f32.data());
    parallel_shares(rows * out, [&](std::int64_t begin, std::int64_t end) {
      std::transform(y_f32.begin() + begin, y_f32.begin() + end,
                     static_cast<std::uint16_t*>(y) + begin, f32_to_bf16);
    });
  }
};

Linear::Linear(MatmulCache& cache, std::span<const float> weight, std::int64_t out_features,
               std::int64_t in_features, DType weight_dtype, DType out_dtype) {
  require(out_features >= 1 && in_features >= 1 &&
              static_cast<std::int64_t>(weight.size()) / out_features == in_features &&
              static_cast<std::int64_t>(weight.size()) % out_features == 0,
          "weight has {} elements: it must be [out_features {}, in_features {}]", weight.size(),
          out_features, in_features);
  const auto known = [](DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; };
  require(known(weight_dtype) && known(out_dtype),
          "weight_dtype and out_dtype must be f32 or bf16");
  require(weight_dtype == DType::bf16 || out_dtype == DType::f32,
          "out_dtype is bf16: it must be f32 when weight_dtype is f32");
  const bool emulated = weight_dtype == DType::bf16 && !has_bf16_matmul();
  impl_ = std::make_unique<Impl>(
      Impl{cache.impl(), in_features, out_features, weight_dtype, out_dtype, emulated});
  std::vector<float> rounded;
  if (emulated) {
    rounded.resize(weight.size());
    std::ranges::transform(weight, rounded.begin(),
                           [](float value) { return bf16_to_f32(f32_to_bf16(value)); });
    weight = rounded;
  }
  const DType inner_weight = emulated ? DType::f32 : weight_dtype;
  const DType inner_out = emulated ? DType::f32 : out_dtype;
  with_dnnl_errors("pack the weights of a linear layer", [&] {
    MatmulCache::Impl& shared = impl_->cache;
    const auto products_of = [&](DType x, DType y) {
      return &shared.shapes
                  .try_emplace({in_features, out_features, x, y}, shared.engine, in_features,
                               out_features, x, y)
                  .first->second;
    };
    impl_->products = products_of(inner_weight, inner_out);
    if (inner_weight == DType::bf16 && bf16_is_slow() &&
        in_features * out_features <= kMostWidened) {
      impl_->f32_products = products_of(DType::f32, DType::f32);
    }
    dnnl::memory plain({{in_features, out_features},
                        dnnl::memory::data_type::f32,
                        dnnl::memory::dims{1, in_features}},
                       shared.engine, const_cast<float*>(weight.data()));
    const dnnl::memory::desc& layout = impl_->products->weight();
    impl_->weight = dnnl::memory(layout, shared.engine, shared.weights.allocate(layout.get_size()));
    dnnl::reorder(plain, impl_->weight).execute(shared.stream, plain, impl_->weight);
    shared.stream.wait();
    if (impl_->products->is_packed()) {
      const bool in_f32 = inner_weight == DType::f32 || bf16_is_slow();
      const std::int64_t blocks =
          (out_features + PackedWeight::kColumns - 1) / PackedWeight::kColumns;
      impl_->packed = {impl_->weight.get_data_handle(),
                       inner_weight,
                       static_cast<std::int64_t>(layout.get_size()) / blocks,
                       in_features,
                       out_features,
                       summed_apart(in_features)};
      impl_->few_rows = in_f32 ? kExactRows - 1 : kFewBf16Rows;
      impl_->few_rows_when_fixed = in_f32;
    }
  });
}

Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;

void Linear::run(std::int64_t rows, const void* x, void* y, RowBlocks blocks) const {
  require(rows >= 0, "rows is {}: it must not be negative", rows);
  require(rows == 0 || (x != nullptr && y != nullptr), "x or y is null: {} rows need both", rows);
  const auto* from = static_cast<const std::byte*>(x);
  auto* to = static_cast<std::byte*>(y);
  with_dnnl_errors("run a linear layer", [&] {
    const std::int64_t block = fixed_rows();
    const dnnl::memory* widened = nullptr;
    if (impl_->f32_products != nullptr && blocks == RowBlocks::any && rows >= kWidenedRows) {
      widened = &impl_->f32_products->converted(impl_->cache.stream, impl_->weight);
    }
    const bool fixed_few = blocks == RowBlocks::fixed && impl_->few_rows_when_fixed;
    for (std::int64_t count = 0; rows > 0; rows -= count) {
      if (blocks == RowBlocks::any) {
        count = rows >= kBlockRows ? kBlockRows : std::min(rows, kExactRows);
      } else {
        count = std::min(rows, fixed_few ? kMostFewRows : block);
      }
      if (fixed_few ||
          (blocks == RowBlocks::any && widened == nullptr && count <= impl_->few_rows)) {
        impl_->run_few(count, from, to);
      } else if (blocks == RowBlocks::any || count == block) {
        impl_->run(count, from, to, widened);
      } else {
        impl_->run_filled_up(block, count, from, to);
      }
      from += impl_->x_bytes(count);
      to += impl_->y_bytes(count);
    }
  });
}

bool has_bf16_matmul() {
  return has_isa(dnnl::cpu_isa::avx512_core_bf16);
}

}  // namespace tilewright::engine
