// SPDX-License-Identifier: Apache-2.0
// fmt's code, for the library and for what links it statically: in its header-only form every file
// that makes a text compiles it anew. Only built where fmt is of version 9 (see
// src/CMakeLists.txt).
#include <fmt/format.h>

// Weak, as the header-only form is: a program may have fmt's own library as well.
#undef FMT_FUNC
#define FMT_FUNC [[gnu::weak]]
#include <fmt/format-inl.h>

FMT_BEGIN_NAMESPACE
namespace detail {

// Those that fmt's headers declare and its own library instantiates.
template auto dragonbox::to_decimal(float x) noexcept -> dragonbox::decimal_fp<float>;
template auto dragonbox::to_decimal(double x) noexcept -> dragonbox::decimal_fp<double>;
template locale_ref::locale_ref(const std::locale& loc);
template auto locale_ref::get<std::locale>() const -> std::locale;
template auto thousands_sep_impl(locale_ref) -> thousands_sep_result<char>;
template auto decimal_point_impl(locale_ref) -> char;
template void buffer<char>::append(const char*, const char*);
template void vformat_to(buffer<char>&, string_view, basic_format_args<buffer_context<char>>,
                         locale_ref);

}  // namespace detail
FMT_END_NAMESPACE
