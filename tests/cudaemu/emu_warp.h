/* emu_warp.h - shuffles, votes and reductions of a warp.
 *
 * The lanes of a mask meet; the last one to come does the work for all of them. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_WARP_H
#define EMU_WARP_H

#include <cstring>
#include <type_traits>

#include "emu_core.h"

namespace cuemu {

/* `ordered`: memory accesses before it happen before those after it, as __syncwarp promises; a
 * shuffle does not, and ThreadSanitizer is not told so. */
void warp_operation(unsigned mask, Complete complete, void *arg, const char *what, Place place,
                    bool ordered);

/* One lane's part in a shuffle, vote or reduction; values travel as 64 bits. */
struct Exchange {
    uint64_t value, result;
    int operand, width;
};

void shuffle_xor(void **lanes, unsigned mask);
void shuffle_index(void **lanes, unsigned mask);
void shuffle_down(void **lanes, unsigned mask);
void shuffle_up(void **lanes, unsigned mask);
void vote_ballot(void **lanes, unsigned mask);
void vote_match(void **lanes, unsigned mask);

template <class T>
inline T exchange(Complete complete, unsigned mask, T value, int operand, int width,
                  const char *what, Place place) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "a word or two");
    Exchange e = {0, 0, operand, width};
    memcpy(&e.value, &value, sizeof value);
    warp_operation(mask, complete, &e, what, place, false);
    memcpy(&value, &e.result, sizeof value);
    return value;
}

enum class Reduce { add, min, max, bit_and, bit_or, bit_xor };

template <Reduce op, class T> void reduce_lanes(void **lanes, unsigned mask);

} // namespace cuemu

#define EMU_SHUFFLE(name, how, operand_type)                                                       \
    template <class T>                                                                             \
    inline T name(unsigned mask, T value, operand_type operand, int width = 32,                    \
                  cuemu::Place place = EMU_HERE) {                                                 \
        return cuemu::exchange(how, mask, value, static_cast<int>(operand), width, #name, place);  \
    }
EMU_SHUFFLE(__shfl_sync, cuemu::shuffle_index, int)
EMU_SHUFFLE(__shfl_xor_sync, cuemu::shuffle_xor, int)
EMU_SHUFFLE(__shfl_down_sync, cuemu::shuffle_down, unsigned)
EMU_SHUFFLE(__shfl_up_sync, cuemu::shuffle_up, unsigned)
#undef EMU_SHUFFLE

inline void __syncwarp(unsigned mask = ~0u, cuemu::Place place = EMU_HERE) {
    cuemu::warp_operation(mask, nullptr, nullptr, "__syncwarp", place, true);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, cuemu::Place place = EMU_HERE) {
    return cuemu::exchange(cuemu::vote_ballot, mask, predicate != 0 ? 1u : 0u, 0, 32,
                           "__ballot_sync", place);
}
inline int __any_sync(unsigned mask, int predicate, cuemu::Place place = EMU_HERE) {
    return __ballot_sync(mask, predicate, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate, cuemu::Place place = EMU_HERE) {
    return __ballot_sync(mask, predicate, place) == mask;
}
inline unsigned __match_any_sync(unsigned mask, unsigned value, cuemu::Place place = EMU_HERE) {
    return cuemu::exchange(cuemu::vote_match, mask, value, 0, 32, "__match_any_sync", place);
}

#define EMU_REDUCE(name, op, T)                                                                    \
    inline T name(unsigned mask, T value, cuemu::Place place = EMU_HERE) {                         \
        return cuemu::exchange(cuemu::reduce_lanes<cuemu::Reduce::op, T>, mask, value, 0, 32,      \
                               #name, place);                                                      \
    }
EMU_REDUCE(__reduce_add_sync, add, unsigned)
EMU_REDUCE(__reduce_add_sync, add, int)
EMU_REDUCE(__reduce_min_sync, min, unsigned)
EMU_REDUCE(__reduce_min_sync, min, int)
EMU_REDUCE(__reduce_max_sync, max, unsigned)
EMU_REDUCE(__reduce_max_sync, max, int)
EMU_REDUCE(__reduce_and_sync, bit_and, unsigned)
EMU_REDUCE(__reduce_or_sync, bit_or, unsigned)
EMU_REDUCE(__reduce_xor_sync, bit_xor, unsigned)
#undef EMU_REDUCE

#endif
