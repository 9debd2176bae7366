// SPDX-License-Identifier: Apache-2.0
// Requests that share prefixes: one of all, one of each of a few groups, and keys of their own.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "support/batch.h"
#include "support/kv_forms.h"

namespace tilewright::test {

// Keys and values [begin, begin + count) of `from` become those of `to` from `at` on.
inline void copy_keys(const Dims& dims, const Request& from, std::int64_t begin, std::int64_t count,
                      Request& to, std::int64_t at) {
  const std::int64_t k = dims.kv_heads * dims.head_dim;
  const std::int64_t v = dims.kv_heads * dims.value_dim;
  std::copy_n(from.k.begin() + begin * k, count * k, to.k.begin() + at * k);
  std::copy_n(from.v.begin() + begin * v, count * v, to.v.begin() + at * v);
}

// One level: its rows as requests without queries, stored in a cache of its own.
struct PrefixLevel {
  std::vector<Request> rows;
  Table table;
  std::optional<Cache> cache;
  Tensor kv_lens, qo_indptr, kv_pos;
  KvLevel level;

  void store(const Dims& dims, DType dtype, Random& random, const std::vector<CacheForm>& forms) {
    const auto form =
        static_cast<TableForm>(random.range(0, static_cast<int>(TableForm::count) - 1));
    table = make_table(form, kv_lengths(rows), random.range(1, 9), random);
    const CacheForm cache_form = forms[random.below(forms.size())];
    cache.emplace(cache_form, table.num_pages, table.page_size, dims, dtype, dtype);
    fill_cache(*cache, table, rows);
    kv_lens = int_tensor(kv_lengths(rows));
    level.table = table.table;
    level.kv_lens = kv_lens.view();
  }
};

struct PrefixTree {
  std::vector<PrefixLevel> levels;
  std::vector<Request> requests;  // with all their keys
};

// A level 0 for all, a level 1 for consecutive groups, a level 2 for each request.
inline PrefixTree random_prefix_tree(const Dims& dims, DType dtype, Random& random,
                                     const std::vector<CacheForm>& forms) {
  const std::int64_t shared = random.range(0, 600);
  PrefixTree tree;
  tree.levels.resize(3);
  PrefixLevel& all = tree.levels[0];
  PrefixLevel& groups = tree.levels[1];
  PrefixLevel& owns = tree.levels[2];
  const auto draw = [&](std::int64_t q, std::int64_t kv) {
    return random_request(random, dims, q, kv, dtype, dtype, dtype);
  };
  all.rows.push_back(draw(0, shared));
  Extents group_indptr = {0};
  std::int64_t tokens = 0;
  for (std::int64_t g = random.range(1, 3); g > 0; --g) {
    const std::int64_t group_len = random.range(0, 150);
    groups.rows.push_back(draw(0, group_len));
    for (std::int64_t members = random.range(1, 3); members > 0; --members) {
      const std::int64_t q = random.range(0, 5);
      const std::int64_t own_len = random.range(0, 40);
      Request whole = draw(q, shared + group_len + own_len);
      copy_keys(dims, all.rows[0], 0, shared, whole, 0);
      copy_keys(dims, groups.rows.back(), 0, group_len, whole, shared);
      Request own = draw(0, own_len);
      copy_keys(dims, whole, shared + group_len, own_len, own, 0);
      whole.batch = static_cast<std::int64_t>(tree.requests.size());
      owns.rows.push_back(own);
      tree.requests.push_back(whole);
      tokens += q;
    }
    group_indptr.push_back(tokens);
  }
  for (PrefixLevel& level : tree.levels) level.store(dims, dtype, random, forms);
  all.qo_indptr = int_tensor({0, tokens});
  groups.qo_indptr = int_tensor(group_indptr);
  all.level.qo_indptr = all.qo_indptr.view();
  groups.level.qo_indptr = groups.qo_indptr.view();
  if (random.chance(0.5)) {  // the default, said aloud
    groups.kv_pos = int_tensor(Extents(groups.rows.size(), shared));
    groups.level.kv_pos = groups.kv_pos.view();
  }
  return tree;
}

}  // namespace tilewright::test
