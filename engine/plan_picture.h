// SPDX-License-Identifier: Apache-2.0
// A plan as a picture: a timeline for each worker, coloured by request.
#pragma once

#include <tilewright/plan.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tilewright::engine {

// How even the work of a plan's pieces is; they are sorted by worker.
struct PlanBalance {
  std::int64_t busy = 0;     // workers that have anything to do
  std::int64_t total = 0;    // cost of all pieces
  std::int64_t longest = 0;  // of one worker
  // Mean over all workers, over the longest: 1 when all finish together. 1 for no work.
  double balance = 1;
};

PlanBalance balance_of(const std::vector<PlanPiece>& pieces, int workers);

struct PictureRequest {
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
};

// SVG: `pieces` by worker and start, as Plan::pieces() gives them. Pieces of `levels - 1` (the
// requests' own KV) have the colour of their request, those of shared levels a paler one, of the
// first request that shares; tiles that several workers compute have dark edges. Neighbours too
// narrow to be seen are drawn as one.
std::string plan_picture(const std::vector<PlanPiece>& pieces, int workers, int levels,
                         const std::vector<PictureRequest>& requests);

}  // namespace tilewright::engine
