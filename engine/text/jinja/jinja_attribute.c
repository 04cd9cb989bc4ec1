/* jinja_attribute.c - a.b, a[b] and a[b:c:d]: the only ways from one value to another.
 *
 * As in the sandbox of the reference: a.b is a method of a's type or else the element "b", a[b] the
 * element or else the method. Names of Python's machinery and methods that would change a value
 * give an undefined value whose use says so. */
// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/text/jinja/jinja_value.h"

static jvalue unsafe(jrun *run, jvalue object, const jtext *name) {
    static const char format[] = "access to attribute '%s' of '%s' object is unsafe.";
    const char *type = jvalue_type(object), *attribute = jtext_chars_of(run, name);
    size_t bytes = sizeof format + strlen(type) + strlen(attribute);
    char *sentence = jinja_take(run, bytes, 1);
    snprintf(sentence, bytes, format, attribute, type);
    return jvalue_undefined_hint(run, sentence);
}

static bool is_internal(const jtext *name) {
    return name->bytes > 4 && memcmp(name->at, "__", 2) == 0 &&
           memcmp(name->at + name->bytes - 2, "__", 2) == 0;
}

static const jmethod *find_method(jvalue object, const jtext *name) {
    return object.kind == J_STRING ? jinja_string_method(name)
                                   : jinja_container_method(object, name);
}

/* What the type itself has under that name; J_MISSING when nothing. */
static jvalue own_attribute(jrun *run, jvalue object, const jtext *name) {
    if (is_internal(name) || jinja_is_mutator(object, name)) return unsafe(run, object, name);
    if (object.kind == J_LOOP) return jinja_loop_attribute(run, object, name);
    if (object.kind == J_NAMESPACE) {
        const jvalue *value = jdict_find(run, object.dict, jvalue_text(name));
        return value ? *value : (jvalue){0};
    }
    const jmethod *method = find_method(object, name);
    if (!method) return (jvalue){0};
    if (object.markup) jinja_fail(run, "methods of a string of `safe` are not supported");
    jbound *bound = jinja_take(run, 1, sizeof *bound);
    *bound = (jbound){object, method};
    return (jvalue){.kind = J_METHOD, .bound = bound};
}

jvalue jinja_getattr(jrun *run, jvalue object, const jtext *name) {
    if (object.kind == J_UNDEFINED) jinja_fail_undefined(run, object.undefined);
    jvalue own = own_attribute(run, object, name);
    if (own.kind != J_MISSING) return own;
    if (object.kind == J_DICT) {
        const jvalue *value = jdict_find(run, object.dict, jvalue_text(name));
        if (value) return *value;
    }
    return jvalue_undefined(run, object, jvalue_text(name));
}

static bool has_elements(jvalue object) {
    return object.kind == J_STRING || (object.kind == J_LIST && object.list->flavour <= JF_RANGE);
}

/* Element number index, counted from the end when negative; J_MISSING outside. */
static jvalue element(jrun *run, jvalue object, int64_t index) {
    int64_t length = jvalue_length(run, object);
    if (index < 0) index += length;
    if (index < 0 || index >= length) return (jvalue){0};
    if (object.kind == J_LIST) return object.list->at[index];
    uint32_t begin = jtext_offset(run, object.text, (uint32_t)index), point;
    uint32_t end = begin + jtext_char(object.text, begin, &point);
    return jvalue_text(jtext_cut(run, object.text, begin, end));
}

static jvalue find_element(jrun *run, jvalue object, jvalue key) {
    bool is_index = key.kind == J_INT || key.kind == J_BOOL;
    if (has_elements(object) && is_index) return element(run, object, jvalue_integer(key));
    bool no_key = key.kind == J_DICT || (key.kind == J_LIST && key.list->flavour != JF_TUPLE);
    if (object.kind != J_DICT || no_key) return (jvalue){0};
    const jvalue *value = jdict_find(run, object.dict, key);
    return value ? *value : (jvalue){0};
}

jvalue jinja_getitem(jrun *run, jvalue object, jvalue key) {
    if (object.kind == J_UNDEFINED) jinja_fail_undefined(run, object.undefined);
    jvalue value = find_element(run, object, key);
    if (value.kind == J_MISSING && key.kind == J_STRING)
        value = own_attribute(run, object, key.text);
    return value.kind == J_MISSING ? jvalue_undefined(run, object, key) : value;
}

/* ---- slices ---- */

static bool has_bound(jvalue bound) { return bound.kind != J_MISSING && bound.kind != J_NONE; }

static int64_t bound_integer(jrun *run, jvalue bound) {
    if (bound.kind != J_INT && bound.kind != J_BOOL)
        jinja_fail(run, "slice indices must be integers or None or have an __index__ method");
    return jvalue_integer(bound);
}

/* A bound as a place in 0..length; going backwards, in -1..length-1. */
static int64_t place(jrun *run, jvalue bound, int64_t length, int64_t step, int64_t otherwise) {
    if (!has_bound(bound)) return otherwise;
    int64_t at = bound_integer(run, bound), low = step < 0 ? -1 : 0, high = length + low;
    if (at < 0) at = at < -length ? low : at + length;
    return at < low ? low : at > high ? high : at;
}

typedef struct slice {
    int64_t begin, end, step;
} slice;

static slice slice_places(jrun *run, int64_t length, const jvalue bounds[3]) {
    int64_t step = has_bound(bounds[2]) ? bound_integer(run, bounds[2]) : 1;
    if (step == 0) jinja_fail(run, "slice step cannot be zero");
    if (step < -length - 1) step = -length - 1; /* further than anything; keeps sums small */
    if (step > length + 1) step = length + 1;
    return (slice){.begin = place(run, bounds[0], length, step, step < 0 ? length - 1 : 0),
                   .end = place(run, bounds[1], length, step, step < 0 ? -1 : length),
                   .step = step};
}

static const jtext *slice_text(jrun *run, const jtext *text, slice s) {
    if (s.step == 1) {
        if (s.begin >= s.end) return jtext_literal(run, "");
        uint32_t begin = jtext_offset(run, text, (uint32_t)s.begin);
        const jtext *rest = jtext_cut(run, text, begin, text->bytes);
        return jtext_cut(run, rest, 0, jtext_offset(run, rest, (uint32_t)(s.end - s.begin)));
    }
    const jlist *chars = jvalue_iterate(run, jvalue_text(text));
    jbuffer *out = jbuffer_new(run);
    for (int64_t i = s.begin; s.step < 0 ? i > s.end : i < s.end; i += s.step)
        jbuffer_put_text(run, out, chars->at[i].text);
    return jbuffer_text(run, out);
}

static jlist *slice_list(jrun *run, const jlist *list, slice s) {
    jlist *part = jlist_new(run, (jflavour)list->flavour);
    for (int64_t i = s.begin; s.step < 0 ? i > s.end : i < s.end; i += s.step)
        jlist_push(run, part, list->at[i]);
    return part;
}

jvalue jinja_slice(jrun *run, jvalue object, const jvalue bounds[3]) {
    if (object.kind == J_UNDEFINED) jinja_fail_undefined(run, object.undefined);
    if (object.kind == J_DICT) jinja_fail(run, "unhashable type: 'slice'");
    if (!has_elements(object))
        jinja_fail(run, "'%s' object is not subscriptable", jvalue_type(object));
    slice s = slice_places(run, jvalue_length(run, object), bounds);
    if (object.kind == J_STRING) return jvalue_text(slice_text(run, object.text, s));
    return jvalue_list(slice_list(run, object.list, s));
}
