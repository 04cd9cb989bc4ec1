/* peak.c - the limits of one level: vector multiply-add, reading, copying. See peak.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/peak.h"

#include "kernels/cpu/level/simd.h"

/* Enough chains to fill two ports at a latency of five; with two operands all fit 16 registers. */
enum { CHAINS = 12 };

double LEVEL_NAME(peak_f32)(uint32_t rounds) {
    volatile float one = 1;
    vf a = v_set1(one), b = v_set1(one), sum[CHAINS];
    for (uint32_t i = 0; i < CHAINS; i++)
        sum[i] = v_zero();
    for (uint32_t r = 0; r < rounds; r++)
        for (uint32_t i = 0; i < CHAINS; i++)
            sum[i] = v_fma(a, b, sum[i]);
    double total = 0;
    for (uint32_t i = 0; i < CHAINS; i++) {
        float lane[LANES];
        v_store(lane, sum[i]);
        for (uint32_t k = 0; k < LANES; k++)
            total += (double)lane[k];
    }
    return total;
}

/* ---- memory ---- */

#ifdef CPU_LEVEL_avx512
typedef __m512i word;
ALWAYS_INLINE word w_zero(void) { return _mm512_setzero_si512(); }
ALWAYS_INLINE word w_load(const char *p) { return _mm512_load_si512(p); }
ALWAYS_INLINE word w_add(word a, word b) { return _mm512_add_epi64(a, b); }
ALWAYS_INLINE void w_stream(char *p, word a) { _mm512_stream_si512((void *)p, a); }
#else
typedef __m256i word;
ALWAYS_INLINE word w_zero(void) { return _mm256_setzero_si256(); }
ALWAYS_INLINE word w_load(const char *p) { return _mm256_load_si256((const void *)p); }
ALWAYS_INLINE word w_add(word a, word b) { return _mm256_add_epi64(a, b); }
ALWAYS_INLINE void w_stream(char *p, word a) { _mm256_stream_si256((void *)p, a); }
#endif

enum { WORD = sizeof(word), AHEAD_BYTES = 1536 };

/* An address ahead may lie past the buffer: a prefetch never faults. */
ALWAYS_INLINE word read_line(const char *p, word sum) {
    _mm_prefetch((const char *)((uintptr_t)p + AHEAD_BYTES), _MM_HINT_T0);
    for (uint32_t i = 0; i < PEAK_LINE; i += WORD)
        sum = w_add(sum, w_load(p + i));
    return sum;
}

static uint64_t fold(word sum) {
    _Alignas(64) uint64_t part[WORD / 8];
    memcpy(part, &sum, sizeof part);
    uint64_t total = 0;
    for (uint32_t i = 0; i < WORD / 8; i++)
        total += part[i];
    return total;
}

ALWAYS_INLINE uint64_t read_streams(const char *from, size_t lines, uint32_t streams) {
    size_t each = lines / streams;
    word sum[PEAK_STREAMS_MAX];
    for (uint32_t s = 0; s < streams; s++)
        sum[s] = w_zero();
    for (size_t i = 0; i < each; i++)
        for (uint32_t s = 0; s < streams; s++)
            sum[s] = read_line(from + (s * each + i) * PEAK_LINE, sum[s]);
    for (size_t i = each * streams; i < lines; i++)
        sum[0] = read_line(from + i * PEAK_LINE, sum[0]);
    for (uint32_t s = 1; s < streams; s++)
        sum[0] = w_add(sum[0], sum[s]);
    return fold(sum[0]);
}

uint64_t LEVEL_NAME(peak_read)(const void *from, size_t lines, uint32_t streams) {
    switch (streams) {
    case 1:
        return read_streams(from, lines, 1);
    case 2:
        return read_streams(from, lines, 2);
    case 4:
        return read_streams(from, lines, 4);
    default:
        ESP_ASSERT(streams == PEAK_STREAMS_MAX);
        return read_streams(from, lines, PEAK_STREAMS_MAX);
    }
}

void LEVEL_NAME(peak_copy)(void *to, const void *from, size_t lines) {
    for (size_t at = 0; at < lines * PEAK_LINE; at += PEAK_LINE) {
        const char *p = (const char *)from + at;
        _mm_prefetch((const char *)((uintptr_t)p + AHEAD_BYTES), _MM_HINT_T0);
        for (uint32_t i = 0; i < PEAK_LINE; i += WORD)
            w_stream((char *)to + at + i, w_load(p + i));
    }
    _mm_sfence();
}

/* ---- dot products, some of younger parts that a level as a whole does without ---- */

#ifdef CPU_LEVEL_avx512

/* sum with a * b added. In assembler: gcc 12 copies the sum before and after these intrinsics, on the very ports that
 * multiply. */
#define SUM_OF(name, type, instruction)                                                            \
    ALWAYS_INLINE type name(type sum, __m512i a, __m512i b) {                                      \
        __asm__(instruction " %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));                           \
        return sum;                                                                                \
    }
SUM_OF(sum_bf16, __m512, "vdpbf16ps")
SUM_OF(sum_int8, __m512i, "vpdpbusd")
SUM_OF(sum_int16, __m512i, "vpdpwssd")

/* Operands a and b are all ones, two of 16 bits or four of 8 in each lane. */
#define PEAK_DOTS(name, all_ones, type, zero, multiply, add_up)                                    \
    double name(uint32_t rounds) {                                                                 \
        volatile int32_t ones = all_ones;                                                          \
        __m512i a = _mm512_set1_epi32(ones), b = _mm512_set1_epi32(ones);                          \
        type sum[CHAINS];                                                                          \
        for (uint32_t i = 0; i < CHAINS; i++)                                                      \
            sum[i] = zero();                                                                       \
        for (uint32_t r = 0; r < rounds; r++)                                                      \
            for (uint32_t i = 0; i < CHAINS; i++)                                                  \
                sum[i] = multiply(sum[i], a, b);                                                   \
        double total = 0;                                                                          \
        for (uint32_t i = 0; i < CHAINS; i++)                                                      \
            total += (double)add_up(sum[i]);                                                       \
        return total;                                                                              \
    }
PEAK_DOTS(peak_bf16_avx512, 0x3f803f80, __m512, _mm512_setzero_ps, sum_bf16, _mm512_reduce_add_ps)
PEAK_DOTS(peak_int8_avx512, 0x01010101, __m512i, _mm512_setzero_si512, sum_int8,
          _mm512_reduce_add_epi32)
PEAK_DOTS(peak_int16_avx512, 0x00010001, __m512i, _mm512_setzero_si512, sum_int16,
          _mm512_reduce_add_epi32)

#else

/* A product is anew each time: left alone, it would be taken out of the loop. */
ALWAYS_INLINE __m256i sum_words(__m256i sum, __m256i a, __m256i b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
ALWAYS_INLINE __m256i sum_words_vnni(__m256i sum, __m256i a, __m256i b) {
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    return sum;
}
#define PEAK_WORDS(name, multiply)                                                                 \
    double name(uint32_t rounds) {                                                                 \
        volatile int32_t ones = 0x00010001;                                                        \
        __m256i a = _mm256_set1_epi32(ones), b = _mm256_set1_epi32(ones), sum[CHAINS];             \
        for (uint32_t i = 0; i < CHAINS; i++)                                                      \
            sum[i] = _mm256_setzero_si256();                                                       \
        for (uint32_t r = 0; r < rounds; r++)                                                      \
            for (uint32_t i = 0; i < CHAINS; i++) {                                                \
                __asm__("" : "+x"(a));                                                             \
                sum[i] = multiply(sum[i], a, b);                                                   \
            }                                                                                      \
        double total = 0;                                                                          \
        for (uint32_t i = 0; i < CHAINS; i++)                                                      \
            for (uint32_t k = 0; k < LANES; k++)                                                   \
                total += (double)((const int32_t *)&sum[i])[k];                                    \
        return total;                                                                              \
    }
PEAK_WORDS(peak_int16_avx2, sum_words)
PEAK_WORDS(peak_int16_avx2_vnni, sum_words_vnni) /* in assembler as above */

#endif
