/* emu_atomic.h - atomics on integers; real ones, so that ThreadSanitizer does not report them.
 *
 * None on floats: their sum would depend on the order of threads. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_ATOMIC_H
#define EMU_ATOMIC_H

#include <type_traits>

namespace cuemu {

template <class T> struct Same { using type = T; };
/* A parameter of type T that takes no part in deducing T. */
template <class T> using Value = typename Same<T>::type;

template <class T> constexpr bool is_word() {
    return std::is_integral<T>::value && (sizeof(T) == 4 || sizeof(T) == 8);
}

/* *p = change(*p); returns what was there. */
template <class T, class Change> inline T atomic_change(T *p, Change change) {
    static_assert(is_word<T>(), "atomics are on 32 or 64 bit integers");
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, change(old), false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
    return old;
}

} // namespace cuemu

#define EMU_ATOMIC(name, builtin)                                                                  \
    template <class T> inline T name(T *p, cuemu::Value<T> v) {                                    \
        static_assert(cuemu::is_word<T>(), "atomics are on 32 or 64 bit integers");                \
        return builtin(p, v, __ATOMIC_RELAXED);                                                    \
    }
EMU_ATOMIC(atomicAdd, __atomic_fetch_add)
EMU_ATOMIC(atomicSub, __atomic_fetch_sub)
EMU_ATOMIC(atomicAnd, __atomic_fetch_and)
EMU_ATOMIC(atomicOr, __atomic_fetch_or)
EMU_ATOMIC(atomicXor, __atomic_fetch_xor)
EMU_ATOMIC(atomicExch, __atomic_exchange_n)
#undef EMU_ATOMIC

template <class T> inline T atomicMin(T *p, cuemu::Value<T> v) {
    return cuemu::atomic_change(p, [v](T old) { return v < old ? v : old; });
}
template <class T> inline T atomicMax(T *p, cuemu::Value<T> v) {
    return cuemu::atomic_change(p, [v](T old) { return v > old ? v : old; });
}
inline unsigned atomicInc(unsigned *p, unsigned limit) {
    return cuemu::atomic_change(p, [limit](unsigned old) { return old >= limit ? 0 : old + 1; });
}
template <class T> inline T atomicCAS(T *p, cuemu::Value<T> expected, cuemu::Value<T> v) {
    static_assert(cuemu::is_word<T>(), "atomics are on 32 or 64 bit integers");
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

#endif
