/* jinja_functions.c - the global functions, and what a for loop's `loop` offers. */
// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine/text/jinja/jinja_value.h"

enum { RANGE_MAX = 100000 }; /* as the reference's sandbox has it */

/* ---- functions ---- */

static int64_t range_count(int64_t begin, int64_t end, int64_t step) {
    if (step > 0 ? begin >= end : begin <= end) return 0;
    uint64_t distance =
        step > 0 ? (uint64_t)end - (uint64_t)begin : (uint64_t)begin - (uint64_t)end;
    uint64_t stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    uint64_t count = (distance - 1) / stride + 1;
    return count > RANGE_MAX ? RANGE_MAX + 1 : (int64_t)count;
}

static jvalue range(jrun *run, const jargs *args) {
    jvalue slots[3];
    jinja_bind(run, "range", "start stop step", args, slots);
    if (slots[0].kind == J_MISSING) jinja_fail(run, "range expected at least 1 argument, got 0");
    bool one = slots[1].kind == J_MISSING;
    int64_t begin = one ? 0 : jinja_int_or(run, slots[0], 0);
    int64_t end = jinja_int_or(run, one ? slots[0] : slots[1], 0);
    int64_t step = jinja_int_or(run, slots[2], 1);
    if (step == 0) jinja_fail(run, "range() arg 3 must not be zero");
    int64_t count = range_count(begin, end, step);
    if (count > RANGE_MAX)
        jinja_fail(run, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
                   RANGE_MAX);
    jlist *list = jlist_new(run, JF_RANGE);
    for (int64_t i = 0; i < count; i++)
        jlist_push(run, list, jvalue_int(begin + i * step));
    return jvalue_list(list);
}

/* dict(mapping or pairs, name=value, ...), also what namespace() holds. */
static jdict *dict_of(jrun *run, const char *name, const jargs *args) {
    jdict *dict = jdict_new(run);
    if (args->count > 1)
        jinja_fail(run, "%s expected at most 1 argument, got %u", name, args->count);
    if (args->count && args->at[0].kind == J_DICT) {
        const jdict *from = args->at[0].dict;
        for (uint32_t i = 0; i < from->count; i++)
            jdict_set(run, dict, from->at[i].key, from->at[i].value);
    } else if (args->count) {
        const jlist *pairs = jvalue_iterate(run, args->at[0]);
        for (uint32_t i = 0; i < pairs->count; i++) {
            const jlist *pair = jvalue_iterate(run, pairs->at[i]);
            if (pair->count != 2)
                jinja_fail(run,
                           "dictionary update sequence element #%u has length %u; 2 is required", i,
                           pair->count);
            jdict_set(run, dict, pair->at[0], pair->at[1]);
        }
    }
    for (uint32_t i = 0; i < args->named_count; i++)
        jdict_set(run, dict, jvalue_text(args->named[i].name), args->named[i].value);
    return dict;
}

static jvalue dict(jrun *run, const jargs *args) {
    return (jvalue){.kind = J_DICT, .dict = dict_of(run, "dict", args)};
}

static jvalue namespace_(jrun *run, const jargs *args) {
    return (jvalue){.kind = J_NAMESPACE, .dict = dict_of(run, "namespace", args)};
}

static jvalue raise_exception(jrun *run, const jargs *args) {
    jvalue slots[1];
    jinja_bind(run, "raise_exception", "message", args, slots);
    if (slots[0].kind == J_MISSING) jinja_fail(run, "raise_exception() wants a message");
    jinja_raise(run, jvalue_string(run, slots[0]));
}

/* As Python does before it asks the C library: %f is microseconds, %z and %Z nothing, since its now()
 * has no time zone. */
static const char *python_format(jrun *run, const char *format, int64_t us) {
    size_t bytes = strlen(format);
    char *out = jinja_take(run, bytes * 3u + 1, 1), *to = out;
    for (const char *at = format; *at; at++) {
        bool is_field = *at == '%' && at[1];
        if (is_field && at[1] == 'f') {
            to += snprintf(to, 7, "%06" PRId64, us);
            at++;
        } else if (is_field && (at[1] == 'z' || at[1] == 'Z')) {
            at++;
        } else {
            *to++ = *at;
            if (is_field) *to++ = *++at;
        }
    }
    return out;
}

static jvalue strftime_now(jrun *run, const jargs *args) {
    jvalue slots[1];
    char text[512];
    jinja_bind(run, "strftime_now", "format", args, slots);
    const jtext *format = jinja_text_or(run, slots[0], NULL);
    int64_t us = (run->now_us % 1000000 + 1000000) % 1000000;
    time_t seconds = (run->now_us - us) / 1000000;
    struct tm now;
    const char *chars = python_format(run, jtext_chars_of(run, format), us);
    if (!localtime_r(&seconds, &now)) jinja_fail(run, "strftime_now: there is no such time");
    size_t bytes = *chars ? strftime(text, sizeof text, chars, &now) : 0;
    if (*chars && !bytes)
        jinja_fail(run, "strftime_now: the format makes too long a text, or none");
    char *kept = jinja_take(run, bytes + 1, 1);
    memcpy(kept, text, bytes);
    return jvalue_text(jtext_new(run, kept, bytes, jtext_any_plain(format)));
}

const jfunction *jinja_function(const jtext *name) {
    static const jfunction all[] = {{"range", range},
                                    {"dict", dict},
                                    {"namespace", namespace_},
                                    {"raise_exception", raise_exception},
                                    {"strftime_now", strftime_now}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (jtext_is(name, all[i].name)) return &all[i];
    return NULL;
}

/* ---- loop ---- */

static jvalue loop_cycle(jrun *run, jvalue self, const jargs *args) {
    if (args->count == 0) jinja_fail(run, "no items for cycling given");
    return args->at[self.loop->index0 % args->count];
}

static jvalue loop_changed(jrun *run, jvalue self, const jargs *args) {
    jlist *now = jlist_new(run, JF_TUPLE);
    for (uint32_t i = 0; i < args->count; i++)
        jlist_push(run, now, args->at[i]);
    jvalue before = self.loop->changed;
    self.loop->changed = jvalue_list(now);
    return jvalue_bool(before.kind == J_MISSING || !jvalue_equal(run, before, jvalue_list(now)));
}

static jvalue loop_method(jrun *run, jvalue loop, const jtext *name) {
    static const jmethod all[] = {{"cycle", loop_cycle}, {"changed", loop_changed}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!jtext_is(name, all[i].name)) continue;
        jbound *bound = jinja_take(run, 1, sizeof *bound);
        *bound = (jbound){loop, &all[i]};
        return (jvalue){.kind = J_METHOD, .bound = bound};
    }
    return (jvalue){0};
}

jvalue jinja_loop_attribute(jrun *run, jvalue value, const jtext *name) {
    const jloop *loop = value.loop;
    int64_t index0 = loop->index0, length = loop->items->count;
    if (jtext_is(name, "index0")) return jvalue_int(index0);
    if (jtext_is(name, "index")) return jvalue_int(index0 + 1);
    if (jtext_is(name, "first")) return jvalue_bool(index0 == 0);
    if (jtext_is(name, "last")) return jvalue_bool(index0 + 1 == length);
    if (jtext_is(name, "length")) return jvalue_int(length);
    if (jtext_is(name, "revindex")) return jvalue_int(length - index0);
    if (jtext_is(name, "revindex0")) return jvalue_int(length - index0 - 1);
    if (jtext_is(name, "depth")) return jvalue_int(1);
    if (jtext_is(name, "depth0")) return jvalue_int(0);
    if (jtext_is(name, "previtem"))
        return index0 > 0 ? loop->items->at[index0 - 1]
                          : jvalue_undefined_hint(run, "there is no previous item");
    if (jtext_is(name, "nextitem"))
        return index0 + 1 < length ? loop->items->at[index0 + 1]
                                   : jvalue_undefined_hint(run, "there is no next item");
    return loop_method(run, value, name);
}
