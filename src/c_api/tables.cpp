// SPDX-License-Identifier: Apache-2.0
// The helpers that make the tables of ready-made variants' parameters.
#include <tilewright/c_variant.h>
#include <tilewright/variants.h>

#include <algorithm>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;
using variants::TreeMask;

namespace {

// Lists here are as long as a batch has tokens, or pairs of them.
template <typename T>
std::vector<T> read_list(const Path& path, const T* values, std::size_t count) {
  require(count <= static_cast<std::size_t>(INT64_MAX) / 64, "{} has {} entries: memory has fewer",
          path, count);
  if (count == 0) return {};
  required(path, values);
  return {values, values + count};
}

std::vector<std::int32_t> read_indptr(const std::int32_t* qo_indptr, std::size_t requests) {
  require(requests < std::size_t{1} << 31, "requests is {}: it must be below 2^31", requests);
  return read_list("qo_indptr", qo_indptr, requests + 1);
}

}  // namespace

tw_status tw_alibi_slopes(int32_t num_heads, float* slopes) {
  return guarded([&] {
    const std::vector<float> made = variants::alibi_slopes(num_heads);
    std::copy(made.begin(), made.end(), &required("slopes", slopes));
  });
}

tw_status tw_document_bounds(const int32_t* document, size_t length, int32_t* begin, int32_t* end) {
  return guarded([&] {
    required("begin", begin);
    required("end", end);
    const variants::RowBounds bounds =
        variants::document_bounds(read_list("document", document, length));
    std::copy(bounds.begin.begin(), bounds.begin.end(), begin);
    std::copy(bounds.end.begin(), bounds.end.end(), end);
  });
}

tw_status tw_span_ends(const int32_t* span, size_t length, int32_t* ends) {
  return guarded([&] {
    const std::vector<std::int32_t> made = variants::span_ends(read_list("span", span, length));
    std::copy(made.begin(), made.end(), &required("ends", ends));
  });
}

tw_status tw_tree_mask_from_parents(const int32_t* qo_indptr, size_t requests,
                                    const int32_t* parents, size_t num_nodes, tw_tree_mask** mask) {
  return guarded([&] {
    hand_out("mask", mask,
             tw_tree_mask{TreeMask::from_parents(read_indptr(qo_indptr, requests),
                                                 read_list("parents", parents, num_nodes))});
  });
}

tw_status tw_tree_mask_from_links(const int32_t* qo_indptr, size_t requests,
                                  const int32_t* next_token, const int32_t* next_sibling,
                                  size_t num_nodes, tw_tree_mask** mask) {
  return guarded([&] {
    hand_out("mask", mask,
             tw_tree_mask{TreeMask::from_links(
                 read_indptr(qo_indptr, requests), read_list("next_token", next_token, num_nodes),
                 read_list("next_sibling", next_sibling, num_nodes))});
  });
}

tw_status tw_tree_mask_from_matrices(const int32_t* qo_indptr, size_t requests, const uint8_t* seen,
                                     size_t num_pairs, tw_tree_mask** mask) {
  return guarded([&] {
    hand_out("mask", mask,
             tw_tree_mask{TreeMask::from_matrices(read_indptr(qo_indptr, requests),
                                                  read_list("seen", seen, num_pairs))});
  });
}

tw_status tw_tree_mask_view(const tw_tree_mask* mask, tw_tensor* view) {
  return guarded([&] { required("view", view) = c_tensor(required("mask", mask).mask.view()); });
}

void tw_tree_mask_destroy(tw_tree_mask* mask) {
  give_back(mask);
}
