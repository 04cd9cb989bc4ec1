/* jinja_sequence.c - filters of sequences. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja_value.h"

/* ---- attributes by path: "function.name", "0.text" ---- */

static jvalue path_key(jrun *run, const jtext *part) {
    bool digits = part->bytes > 0 && part->bytes < 10;
    int64_t number = 0;
    for (uint32_t i = 0; i < part->bytes && digits; i++) {
        digits = jinja_is_digit(part->at[i]);
        number = number * 10 + (part->at[i] - '0');
    }
    (void)run;
    return digits ? jvalue_int(number) : jvalue_text(part);
}

static jvalue by_path(jrun *run, jvalue item, jvalue path, jvalue otherwise) {
    if (path.kind == J_MISSING || path.kind == J_NONE) return item;
    if (path.kind != J_STRING) return jinja_getitem(run, item, path);
    const jtext *dot = jtext_literal(run, ".");
    for (uint64_t begin = 0, end; begin <= path.text->bytes; begin = end + 1) {
        int64_t found = jtext_find(run, path.text, dot, begin);
        end = found < 0 ? path.text->bytes : (uint64_t)found;
        item = jinja_getitem(run, item, path_key(run, jtext_cut(run, path.text, begin, end)));
        if (item.kind == J_UNDEFINED && otherwise.kind != J_MISSING) item = otherwise;
    }
    return item;
}

/* What sorting, unique, min and max look at: strings without regard to case, unless asked. */
static jvalue sort_key(jrun *run, jvalue item, jvalue path, bool case_sensitive) {
    jvalue key = by_path(run, item, path, (jvalue){0});
    if (key.kind != J_STRING || case_sensitive) return key;
    return jvalue_text(jtext_lower(run, key.text));
}

/* ---- choosing ---- */

/* Arguments behind the first `skip` positions. */
static jargs rest_of(const jargs *args, uint32_t skip) {
    if (skip >= args->count) return (jargs){.named = args->named, .named_count = args->named_count};
    return (jargs){args->at + skip, args->named, args->count - skip, args->named_count};
}

typedef struct chooser {
    jvalue path;       /* J_MISSING: the item itself */
    const jtest *test; /* NULL: its truth */
    jargs args;
    bool wanted;
} chooser;

static bool chosen(jrun *run, const chooser *c, jvalue item) {
    jinja_charge(run, 1);
    jvalue value = by_path(run, item, c->path, (jvalue){0});
    bool passes = c->test ? c->test->call(run, value, &c->args) : jvalue_truth(value);
    return passes == c->wanted;
}

static jvalue choose(jrun *run, jvalue value, const jargs *args, bool wanted, bool by_attribute) {
    chooser c = {.wanted = wanted};
    if (!jvalue_truth(value)) return jvalue_list(jlist_new(run, JF_GENERATOR)); /* none, too */
    jargs rest = *args;
    if (by_attribute) {
        if (args->count == 0) jinja_fail(run, "Missing parameter for attribute name");
        c.path = args->at[0];
        rest = rest_of(&rest, 1);
    }
    if (rest.count) {
        const jtext *name = jinja_text_or(run, rest.at[0], NULL);
        c.test = jinja_test(name);
        if (!c.test) jinja_fail(run, "No test named '%s'.", jtext_chars_of(run, name));
        c.args = rest_of(&rest, 1);
    }
    jlist *out = jlist_new(run, JF_GENERATOR);
    const jlist *all = jvalue_iterate(run, value);
    for (uint32_t i = 0; i < all->count; i++)
        if (chosen(run, &c, all->at[i])) jlist_push(run, out, all->at[i]);
    return jvalue_list(out);
}

static jvalue select_(jrun *run, jvalue value, const jargs *args) {
    return choose(run, value, args, true, false);
}
static jvalue reject(jrun *run, jvalue value, const jargs *args) {
    return choose(run, value, args, false, false);
}
static jvalue selectattr(jrun *run, jvalue value, const jargs *args) {
    return choose(run, value, args, true, true);
}
static jvalue rejectattr(jrun *run, jvalue value, const jargs *args) {
    return choose(run, value, args, false, true);
}

/* ---- changing each ---- */

static jvalue map_attribute(jrun *run, const jlist *all, const jargs *args) {
    jvalue slots[2];
    jinja_bind(run, "map", "attribute default", args, slots);
    jlist *out = jlist_new(run, JF_GENERATOR);
    for (uint32_t i = 0; i < all->count; i++)
        jlist_push(run, out, by_path(run, all->at[i], slots[0], slots[1]));
    return jvalue_list(out);
}

static jvalue map(jrun *run, jvalue value, const jargs *args) {
    if (!jvalue_truth(value)) return jvalue_list(jlist_new(run, JF_GENERATOR));
    const jlist *all = jvalue_iterate(run, value);
    if (args->count == 0) {
        if (args->named_count == 0) jinja_fail(run, "map requires a filter argument");
        return map_attribute(run, all, args);
    }
    const jtext *name = jinja_text_or(run, args->at[0], NULL);
    const jfilter *filter = jinja_filter(name);
    if (!filter) jinja_fail(run, "No filter named '%s'.", jtext_chars_of(run, name));
    jargs rest = rest_of(args, 1);
    jlist *out = jlist_new(run, JF_GENERATOR);
    jinja_enter(run);
    for (uint32_t i = 0; i < all->count; i++)
        jlist_push(run, out, filter->call(run, all->at[i], &rest));
    jinja_leave(run);
    return jvalue_list(out);
}

static jvalue items(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "items", "", args, NULL);
    jlist *out = jlist_new(run, JF_GENERATOR);
    if (value.kind == J_UNDEFINED) return jvalue_list(out);
    if (value.kind != J_DICT) jinja_fail(run, "Can only get item pairs from a mapping.");
    for (uint32_t i = 0; i < value.dict->count; i++) {
        jlist *pair = jlist_new(run, JF_TUPLE);
        jlist_push(run, pair, value.dict->at[i].key);
        jlist_push(run, pair, value.dict->at[i].value);
        jlist_push(run, out, jvalue_list(pair));
    }
    return jvalue_list(out);
}

static jvalue join(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[2];
    jinja_bind(run, "join", "d attribute", args, slots);
    const jlist *all = jvalue_iterate(run, value);
    jbuffer *out = jbuffer_new(run);
    jinja_charge(run, all->count);
    for (uint32_t i = 0; i < all->count; i++) {
        if (i && slots[0].kind != J_MISSING) jinja_print(run, out, slots[0]);
        jinja_print(run, out, by_path(run, all->at[i], slots[1], (jvalue){0}));
    }
    return jvalue_text(jbuffer_text(run, out));
}

/* ---- one of them ---- */

static jvalue first(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "first", "", args, NULL);
    if (value.kind == J_LIST && value.list->flavour == JF_GENERATOR &&
        value.list->taken < value.list->count)
        return value.list->at[value.list->taken++];
    const jlist *all = jvalue_iterate(run, value);
    return all->count ? all->at[0]
                      : jvalue_undefined_hint(run, "No first item, sequence was empty.");
}

static jvalue last(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "last", "", args, NULL);
    bool generator = value.kind == J_LIST && value.list->flavour == JF_GENERATOR;
    if (generator || value.kind == J_UNDEFINED || !jvalue_is_iterable(value)) {
        if (value.kind == J_UNDEFINED)
            return jvalue_undefined_hint(run, "No last item, sequence was empty.");
        jinja_fail(run, "'%s' object is not reversible", jvalue_type(value));
    }
    const jlist *all = jvalue_iterate(run, value);
    return all->count ? all->at[all->count - 1]
                      : jvalue_undefined_hint(run, "No last item, sequence was empty.");
}

static jvalue extreme(jrun *run, jvalue value, const jargs *args, const char *name, int wanted) {
    jvalue slots[2];
    jinja_bind(run, name, "case_sensitive attribute", args, slots);
    bool sensitive = jinja_truth_or(slots[0], false);
    const jlist *all = jvalue_iterate(run, value);
    if (all->count == 0)
        return jvalue_undefined_hint(run, "No aggregated item, sequence was empty.");
    uint32_t best = 0;
    jvalue best_key = sort_key(run, all->at[0], slots[1], sensitive);
    for (uint32_t i = 1; i < all->count; i++) {
        jvalue key = sort_key(run, all->at[i], slots[1], sensitive);
        if (jvalue_order(run, key, best_key, wanted < 0 ? "<" : ">") != wanted) continue;
        best = i;
        best_key = key;
    }
    return all->at[best];
}

static jvalue min(jrun *run, jvalue value, const jargs *args) {
    return extreme(run, value, args, "min", -1);
}
static jvalue max(jrun *run, jvalue value, const jargs *args) {
    return extreme(run, value, args, "max", 1);
}

static jvalue sum(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[2];
    jinja_bind(run, "sum", "attribute start", args, slots);
    jvalue total = slots[1].kind == J_MISSING ? jvalue_int(0) : slots[1];
    const jlist *all = jvalue_iterate(run, value);
    if (total.kind == J_STRING)
        jinja_fail(run, "sum() can't sum strings [use ''.join(seq) instead]");
    jinja_charge(run, all->count);
    for (uint32_t i = 0; i < all->count; i++)
        total = jinja_binary(run, JO_ADD, total, by_path(run, all->at[i], slots[0], (jvalue){0}));
    return total;
}

/* ---- the whole ---- */

static jvalue length(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "length", "", args, NULL);
    return jvalue_int(jvalue_length(run, value));
}

static jlist *copy_list(jrun *run, const jlist *from, jflavour flavour) {
    jlist *list = jlist_new(run, flavour);
    for (uint32_t i = 0; i < from->count; i++)
        jlist_push(run, list, from->at[i]);
    return list;
}

static jvalue list(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "list", "", args, NULL);
    return jvalue_list(copy_list(run, jvalue_iterate(run, value), JF_LIST));
}

static jvalue reverse(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "reverse", "", args, NULL);
    if (!jvalue_is_iterable(value)) jinja_fail(run, "argument must be iterable");
    const jlist *all = jvalue_iterate(run, value);
    if (value.kind == J_STRING) {
        jbuffer *out = jbuffer_new(run);
        for (uint32_t i = all->count; i-- > 0;)
            jbuffer_put_text(run, out, all->at[i].text);
        return jvalue_text(jbuffer_text(run, out));
    }
    jlist *out = jlist_new(run, JF_GENERATOR);
    for (uint32_t i = all->count; i-- > 0;)
        jlist_push(run, out, all->at[i]);
    return jvalue_list(out);
}

typedef struct sorter {
    jrun *run;
    jpair *at, *spare; /* key: what is compared */
    bool reverse;
} sorter;

/* Merge sort; equal ones keep their order, in reverse too. */
static void sort_range(const sorter *s, uint32_t begin, uint32_t end) {
    if (end - begin < 2) return;
    uint32_t middle = begin + (end - begin) / 2, i = begin, j = middle;
    sort_range(s, begin, middle);
    sort_range(s, middle, end);
    for (uint32_t k = begin; k < end; k++) {
        bool right = i == middle;
        if (!right && j < end) {
            jvalue a = s->at[i].key, b = s->at[j].key;
            right = jvalue_order(s->run, s->reverse ? a : b, s->reverse ? b : a, "<") == -1;
        }
        s->spare[k] = right ? s->at[j++] : s->at[i++];
    }
    memcpy(s->at + begin, s->spare + begin, (end - begin) * sizeof *s->at);
}

static jvalue sort_pairs(jrun *run, jpair *at, uint32_t count, bool reverse) {
    sorter s = {run, at, jinja_take(run, count, sizeof *at), reverse};
    sort_range(&s, 0, count);
    jlist *out = jlist_new(run, JF_LIST);
    for (uint32_t i = 0; i < count; i++)
        jlist_push(run, out, at[i].value);
    return jvalue_list(out);
}

/* Sorting compares lists of the attributes, so two that are equal need have no order: none and none,
 * undefined and undefined. */
static jvalue in_list(jrun *run, jvalue key) {
    jlist *list = jlist_new(run, JF_LIST);
    jlist_push(run, list, key);
    return jvalue_list(list);
}

static jvalue sort(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[3];
    jinja_bind(run, "sort", "reverse case_sensitive attribute", args, slots);
    if (slots[2].kind == J_STRING && memchr(slots[2].text->at, ',', slots[2].text->bytes))
        jinja_fail(run, "sort: several attributes are not supported");
    const jlist *all = jvalue_iterate(run, value);
    jpair *at = jinja_take(run, all->count, sizeof *at);
    for (uint32_t i = 0; i < all->count; i++) {
        jvalue key = sort_key(run, all->at[i], slots[2], jinja_truth_or(slots[1], false));
        at[i] = (jpair){in_list(run, key), all->at[i]};
    }
    return sort_pairs(run, at, all->count, jinja_truth_or(slots[0], false));
}

static jvalue dictsort(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[3];
    jinja_bind(run, "dictsort", "case_sensitive by reverse", args, slots);
    const jtext *by = jinja_text_or(run, slots[1], "key");
    if (!jtext_is(by, "key") && !jtext_is(by, "value"))
        jinja_fail(run, "You can only sort by either \"key\" or \"value\"");
    if (value.kind == J_UNDEFINED) jinja_fail_undefined(run, value.undefined);
    if (value.kind != J_DICT)
        jinja_fail(run, "dictsort wants a mapping, not %s", jvalue_type(value));
    const jlist *pairs = items(run, value, &(jargs){0}).list;
    jpair *at = jinja_take(run, pairs->count, sizeof *at);
    for (uint32_t i = 0; i < pairs->count; i++) {
        jvalue key = pairs->at[i].list->at[jtext_is(by, "value")];
        at[i] =
            (jpair){sort_key(run, key, (jvalue){0}, jinja_truth_or(slots[0], false)), pairs->at[i]};
    }
    return sort_pairs(run, at, pairs->count, jinja_truth_or(slots[2], false));
}

static jvalue unique(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[2];
    jinja_bind(run, "unique", "case_sensitive attribute", args, slots);
    const jlist *all = jvalue_iterate(run, value);
    jdict *seen = jdict_new(run);
    jlist *out = jlist_new(run, JF_GENERATOR);
    for (uint32_t i = 0; i < all->count; i++) {
        jvalue key = sort_key(run, all->at[i], slots[1], jinja_truth_or(slots[0], false));
        if (jdict_find(run, seen, key)) continue;
        jdict_set(run, seen, key, jvalue_none());
        jlist_push(run, out, all->at[i]);
    }
    return jvalue_list(out);
}

static jvalue batch(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[2];
    jinja_bind(run, "batch", "linecount fill_with", args, slots);
    int64_t size = jinja_int_or(run, slots[0], 0);
    if (size < 1) jinja_fail(run, "batch: the size is at least 1");
    const jlist *all = jvalue_iterate(run, value);
    jlist *out = jlist_new(run, JF_GENERATOR), *line = NULL;
    for (uint32_t i = 0; i < all->count; i++) {
        if (i % size == 0) jlist_push(run, out, jvalue_list(line = jlist_new(run, JF_LIST)));
        jlist_push(run, line, all->at[i]);
    }
    bool fills = line && slots[1].kind != J_MISSING && slots[1].kind != J_NONE;
    while (fills && line->count < size)
        jlist_push(run, line, slots[1]);
    return jvalue_list(out);
}

/* ---- table ---- */

const jfilter *jinja_sequence_filter(const jtext *name) {
    static const jfilter all[] = {{"batch", batch},
                                  {"count", length},
                                  {"dictsort", dictsort},
                                  {"first", first},
                                  {"items", items},
                                  {"join", join},
                                  {"last", last},
                                  {"length", length},
                                  {"list", list},
                                  {"map", map},
                                  {"max", max},
                                  {"min", min},
                                  {"reject", reject},
                                  {"rejectattr", rejectattr},
                                  {"reverse", reverse},
                                  {"select", select_},
                                  {"selectattr", selectattr},
                                  {"sort", sort},
                                  {"sum", sum},
                                  {"unique", unique}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (jtext_is(name, all[i].name)) return &all[i];
    return NULL;
}
