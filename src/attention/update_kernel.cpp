// SPDX-License-Identifier: Apache-2.0
#include "attention/update_kernel.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "variant/cuda_text.h"

namespace tilewright {
namespace {

constexpr std::string_view kOnce = "#pragma once\n";

// Without what compilers warn of in a file that is not included.
std::string without_guard(std::string text) {
  const std::size_t at = text.find(kOnce);
  if (at != std::string::npos) text.erase(at, kOnce.size());
  return text;
}

}  // namespace

Variant mask_of(const Variant& variant) {
  Variant mask;
  mask.mask = variant.mask;
  return mask;
}

std::int32_t add_mask(std::vector<Variant>& masks, const Variant& variant) {
  Variant mask = mask_of(variant);
  const std::string text = mask.serialize();
  const auto same = std::find_if(masks.begin(), masks.end(),
                                 [&](const Variant& known) { return known.serialize() == text; });
  const auto place = static_cast<std::int32_t>(same - masks.begin());
  if (same == masks.end()) masks.push_back(std::move(mask));
  return place;
}

std::string update_kernel_text(const std::vector<Variant>& masks, std::size_t parts,
                               bool lists_blocks) {
  std::string text =
      "// The kernels of a plan on the device, written by the library.\n"
      "#include \"attention/math.h\"\n"
      "#include \"plan/copy_status.h\"\n"
      "#include \"plan/update.h\"\n"
      "#include \"plan/variant_mask.h\"\n\n";
  std::string list;
  for (std::size_t i = 0; i < masks.size(); ++i) {
    // Headers are included already: only the variant's own name is changed.
    text += fmt::format("#define Variant Mask{}\n{}#undef Variant\n\n", i,
                        without_guard(cuda_variant(masks[i])));
    list += fmt::format("{}tw::VariantMask<tw::Mask{}>", i > 0 ? ", " : "", i);
  }
  text += fmt::format(
      "TW_KERNEL TW_LAUNCH_BOUNDS(512, 1)\n"
      "{}(TW_PARAMETER tilewright::plan::UpdateParams<{}> params) {{\n"
      "  tw::{}<{}>(params);\n"
      "}}\n",
      kUpdateKernelName, parts, lists_blocks ? "update_listed_plan" : "update_plan", list);
  text += fmt::format(
      "TW_KERNEL TW_LAUNCH_BOUNDS(256, 1)\n"
      "{}(TW_PARAMETER tilewright::plan::StatusCopy copy) {{\n"
      "  tw::copy_status(copy);\n"
      "}}\n",
      kCopyStatusName);
  return text;
}

}  // namespace tilewright
