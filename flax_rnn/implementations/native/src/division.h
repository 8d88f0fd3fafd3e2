// How the work of a layer is divided among threads.

#ifndef FLAX_RNN_DIVISION_H_
#define FLAX_RNN_DIVISION_H_

#include "layer.h"
#include "threads.h"

namespace flax_rnn {

// Into how many parts rows and units are divided.
struct Division {
  int64_t rows = 1, units = 1;
  std::chrono::microseconds patience{0};  // of threads with those that are to come
};

// What a pass is made of: at each step a product (rows, depth) @ (depth, columns), so many more multiplications for
// each row that wait for no step, and so many floats of a row that threads read of one another where they divide the
// units.
struct Work {
  int64_t steps, rows, depth, columns, ahead, exchanged;
};

// Nanoseconds of a multiplication, and of waking threads up.
constexpr double kProduct = kTileSums == 24 ? 0.012 : 0.024, kWake = 20000;

// How many of these threads are worth waking up for so many multiplications.
inline int64_t Useful(int64_t threads, int64_t multiplications) {
  return std::clamp<int64_t>(1 + multiplications * kProduct / kWake, 1, std::max<int64_t>(1, threads));
}

// About how many nanoseconds a pass takes. The constants were measured on processors with 2 MB of cache a core, and are
// good to some half: which division is best hangs on ratios of them.
//
// Rows need nothing of one another, but each thread reads all weights for its rows. Threads that divide the units read
// a part of them, and wait for one another at each step; they have to save more than they would otherwise, since a step
// takes as long as the slowest of them, which may be kept waiting by something else that runs on the machine.
inline double Cost(const Work& work, const Division& division) {
  constexpr double kNear = 0.04, kFar = 0.16, kExchange = 6, kWait = 500, kRisk = 1.25;
  const double rows = (work.rows + division.rows - 1) / division.rows,
               weights = 1.0 * work.depth * work.columns / division.units;
  const double products = rows * (weights + 1.0 * work.ahead / division.units) * kProduct;
  double step = products + weights * (weights > kNearFloats ? kFar : kNear);
  if (division.units > 1) step += kWait + rows * work.exchanged * (division.units - 1) / division.units * kExchange;
  return work.steps * step * (division.units > 1 ? kRisk : 1) + (division.rows * division.units > 1 ? kWake : 0);
}

// The best one for so many threads.
inline Division Divide(const Work& work, int64_t panels, int64_t threads) {
  Division best;
  double least = Cost(work, best);
  for (int64_t rows = 1; rows <= std::min(threads, work.rows); ++rows) {
    Division division;
    division.rows = rows;
    division.units = std::max<int64_t>(1, std::min(threads / rows, panels));
    if (const double cost = Cost(work, division); cost < least) least = cost, best = division;
  }
  best.patience = std::chrono::microseconds(static_cast<int64_t>(least / 4000));
  return best;
}

// Once `packs` panels are packed, function(rows) for some groups of rows, of about one size.
template <typename Pool, typename Pack, typename F>
void ForRows(Pool& pool, int64_t groups, int64_t packs, const Pack& pack, int64_t rows, const F& function) {
  ForEach(pool, packs, pack, groups, [&](int64_t group) { function(Range{0, rows}.Part(group, groups)); });
}

// Once `packs` panels are packed, function(group, part, barrier) for parts of about one size: a group of rows, and some
// of `panels` panels.
template <typename Group, typename Pool, typename Arrays, typename Pack, typename F>
void ForParts(Pool& pool, const Division& division, const Layer& layer, const Arrays& arrays, int64_t packs,
              const Pack& pack, int64_t panels, const F& function) {
  const int64_t rows = division.rows, parts = division.units;
  const auto alone = [&](Range some) {
    Group group(layer, arrays, some);
    Barrier nobody;
    function(group, Range{0, panels}, nobody);
  };
  if (rows * parts == 1) {
    for (int64_t panel = 0; panel < packs; ++panel) pack(panel);
    return alone({0, layer.batch});
  }
  if (parts == 1) return ForRows(pool, rows, packs, pack, layer.batch, alone);

  std::vector<Group> groups;
  groups.reserve(rows);
  for (int64_t group = 0; group < rows; ++group)
    groups.emplace_back(layer, arrays, Range{0, layer.batch}.Part(group, rows));
  std::vector<Meeting> meetings(rows + 1);
  Together(pool, rows * parts, division.patience,
           [&](int64_t index, int64_t threads, const std::atomic<bool>& abandoned) {
             for (int64_t panel = index; panel < packs; panel += threads) pack(panel);
             Barrier(meetings[rows], threads, abandoned).Wait();
             // Where there are fewer threads than groups, each has several, one after the other.
             const int64_t each = std::max<int64_t>(1, threads / rows), at_once = threads / each;
             for (int64_t group = index / each; group < rows; group += at_once) {
               Barrier barrier(meetings[group], each, abandoned);
               function(groups[group], Range{0, panels}.Part(index % each, each), barrier);
             }
           });
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_DIVISION_H_
