/* jinja_methods.c - methods of strings, lists and dicts. None changes its value. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/text/jinja/jinja_value.h"

/* ---- stripping ---- */

static const jtext *set_or_space(jrun *run, const jargs *args, const char *name) {
    jvalue slots[1];
    jinja_bind(run, name, "chars", args, slots);
    if (slots[0].kind == J_NONE || slots[0].kind == J_MISSING) return NULL;
    if (slots[0].kind == J_UNDEFINED) jinja_fail(run, "%s arg must be None or str", name);
    return jinja_text_or(run, slots[0], NULL);
}

static jvalue strip(jrun *run, jvalue self, const jargs *args) {
    return jvalue_text(jtext_strip(run, self.text, set_or_space(run, args, "strip"), true, true));
}
static jvalue lstrip(jrun *run, jvalue self, const jargs *args) {
    return jvalue_text(jtext_strip(run, self.text, set_or_space(run, args, "lstrip"), true, false));
}
static jvalue rstrip(jrun *run, jvalue self, const jargs *args) {
    return jvalue_text(jtext_strip(run, self.text, set_or_space(run, args, "rstrip"), false, true));
}

/* ---- ends ---- */

static bool has_prefix(jrun *run, const jtext *text, const jtext *prefix) {
    jinja_charge(run, prefix->bytes / 64);
    return text->bytes >= prefix->bytes &&
           (prefix->bytes == 0 || memcmp(text->at, prefix->at, prefix->bytes) == 0);
}

static bool has_suffix(jrun *run, const jtext *text, const jtext *suffix) {
    jinja_charge(run, suffix->bytes / 64);
    return text->bytes >= suffix->bytes &&
           (suffix->bytes == 0 ||
            memcmp(text->at + text->bytes - suffix->bytes, suffix->at, suffix->bytes) == 0);
}

typedef bool ends_with(jrun *run, const jtext *text, const jtext *part);

static jvalue has_end(jrun *run, jvalue self, const jargs *args, const char *name,
                      ends_with *compare) {
    jvalue slots[1];
    jinja_bind(run, name, "prefix", args, slots);
    bool tuple = slots[0].kind == J_LIST && slots[0].list->flavour == JF_TUPLE;
    for (uint32_t i = 0; tuple && i < slots[0].list->count; i++)
        if (compare(run, self.text, jinja_text_or(run, slots[0].list->at[i], NULL)))
            return jvalue_bool(true);
    if (tuple) return jvalue_bool(false);
    if (slots[0].kind != J_STRING)
        jinja_fail(run, "%s first arg must be str or a tuple of str, not %s", name,
                   jvalue_type(slots[0]));
    return jvalue_bool(compare(run, self.text, slots[0].text));
}

static jvalue startswith(jrun *run, jvalue self, const jargs *args) {
    return has_end(run, self, args, "startswith", has_prefix);
}
static jvalue endswith(jrun *run, jvalue self, const jargs *args) {
    return has_end(run, self, args, "endswith", has_suffix);
}

static jvalue removeprefix(jrun *run, jvalue self, const jargs *args) {
    jvalue slots[1];
    jinja_bind(run, "removeprefix", "prefix", args, slots);
    const jtext *part = jinja_text_or(run, slots[0], NULL);
    uint32_t begin = has_prefix(run, self.text, part) ? part->bytes : 0;
    return jvalue_text(jtext_cut(run, self.text, begin, self.text->bytes));
}

static jvalue removesuffix(jrun *run, jvalue self, const jargs *args) {
    jvalue slots[1];
    jinja_bind(run, "removesuffix", "suffix", args, slots);
    const jtext *part = jinja_text_or(run, slots[0], NULL);
    uint32_t end = self.text->bytes - (has_suffix(run, self.text, part) ? part->bytes : 0);
    return jvalue_text(jtext_cut(run, self.text, 0, end));
}

/* ---- splitting ---- */

static void push_cut(jrun *run, jlist *out, const jtext *text, uint64_t begin, uint64_t end) {
    jlist_push(run, out, jvalue_text(jtext_cut(run, text, begin, end)));
}

/* The last needle that ends at or before end, or -1. */
static int64_t find_last(jrun *run, const jtext *text, const jtext *needle, uint64_t end) {
    for (uint64_t at = end; at-- > 0;) {
        if (at + needle->bytes > end) continue;
        if (text->at[at] != needle->at[0]) continue;
        jinja_charge(run, needle->bytes / 64);
        if (memcmp(text->at + at, needle->at, needle->bytes) == 0) return (int64_t)at;
    }
    return -1;
}

static jlist *split_at(jrun *run, const jtext *text, const jtext *by, int64_t limit) {
    jlist *out = jlist_new(run, JF_LIST);
    uint64_t begin = 0;
    for (int64_t done = 0; limit < 0 || done < limit; done++) {
        int64_t found = jtext_find(run, text, by, begin);
        if (found < 0) break;
        push_cut(run, out, text, begin, (uint64_t)found);
        begin = (uint64_t)found + by->bytes;
    }
    push_cut(run, out, text, begin, text->bytes);
    return out;
}

static void turn_round(jlist *list) {
    for (uint32_t i = 0; i < list->count / 2; i++) {
        jvalue other = list->at[list->count - 1 - i];
        list->at[list->count - 1 - i] = list->at[i];
        list->at[i] = other;
    }
}

static jlist *split_at_from_right(jrun *run, const jtext *text, const jtext *by, int64_t limit) {
    jlist *out = jlist_new(run, JF_LIST);
    uint64_t end = text->bytes;
    jinja_charge(run, text->bytes / 8);
    for (int64_t done = 0; limit < 0 || done < limit; done++) {
        int64_t found = find_last(run, text, by, end);
        if (found < 0) break;
        push_cut(run, out, text, (uint64_t)found + by->bytes, end);
        end = (uint64_t)found;
    }
    push_cut(run, out, text, 0, end);
    turn_round(out);
    return out;
}

/* Words between white space; behind `limit` of them the rest is one. */
static jlist *split_words(jrun *run, const jtext *text, int64_t limit) {
    jlist *out = jlist_new(run, JF_LIST);
    uint32_t point, i = 0;
    for (;;) {
        while (i < text->bytes) {
            uint32_t bytes = jtext_char(text, i, &point);
            if (!jinja_is_space(point)) break;
            i += bytes;
        }
        if (i == text->bytes) return out;
        uint32_t begin = i;
        if (limit >= 0 && out->count == limit) {
            push_cut(run, out, text, begin, text->bytes);
            return out;
        }
        while (i < text->bytes) {
            uint32_t bytes = jtext_char(text, i, &point);
            if (jinja_is_space(point)) break;
            i += bytes;
        }
        push_cut(run, out, text, begin, i);
    }
}

static jlist *split_words_from_right(jrun *run, const jtext *text, int64_t limit) {
    jlist *out = jlist_new(run, JF_LIST);
    uint32_t end = text->bytes, point, bytes;
    for (;;) {
        while (end && (bytes = jtext_char_before(text, end, &point), jinja_is_space(point)))
            end -= bytes;
        if (end == 0) break;
        uint32_t begin = end;
        if (limit >= 0 && out->count == limit) {
            push_cut(run, out, text, 0, end);
            break;
        }
        while (begin && (bytes = jtext_char_before(text, begin, &point), !jinja_is_space(point)))
            begin -= bytes;
        push_cut(run, out, text, begin, end);
        end = begin;
    }
    turn_round(out);
    return out;
}

static jvalue split_with(jrun *run, jvalue self, const jargs *args, bool right) {
    jvalue slots[2];
    jinja_bind(run, right ? "rsplit" : "split", "sep maxsplit", args, slots);
    int64_t limit = jinja_int_or(run, slots[1], -1);
    jinja_charge_walk(run, self.text->bytes);
    if (slots[0].kind == J_MISSING || slots[0].kind == J_NONE)
        return jvalue_list(right && limit >= 0 ? split_words_from_right(run, self.text, limit)
                                               : split_words(run, self.text, limit));
    const jtext *by = jinja_text_or(run, slots[0], NULL);
    if (by->bytes == 0) jinja_fail(run, "empty separator");
    return jvalue_list(right && limit >= 0 ? split_at_from_right(run, self.text, by, limit)
                                           : split_at(run, self.text, by, limit));
}

static jvalue split(jrun *run, jvalue self, const jargs *args) {
    return split_with(run, self, args, false);
}
/* Without a limit the direction makes no difference, but for separators that overlap themselves. */
static jvalue rsplit(jrun *run, jvalue self, const jargs *args) {
    jargs all = *args;
    jvalue at[2] = {{0}};
    if (args->count == 1 && args->named_count == 0) {
        at[0] = args->at[0];
        at[1] = jvalue_int(INT64_MAX);
        all = (jargs){at, NULL, 2, 0};
    }
    return split_with(run, self, &all, true);
}

static bool ends_line(uint32_t point) {
    return (point >= 0x0A && point <= 0x0D) || (point >= 0x1C && point <= 0x1E) || point == 0x85 ||
           point == 0x2028 || point == 0x2029;
}

const jlist *jinja_lines(jrun *run, const jtext *text, bool keep_ends) {
    jlist *out = jlist_new(run, JF_LIST);
    uint32_t begin = 0, point;
    jinja_charge_walk(run, text->bytes);
    for (uint32_t i = 0; i < text->bytes;) {
        uint32_t end = i;
        i += jtext_char(text, i, &point);
        if (!ends_line(point)) continue;
        if (point == '\r' && i < text->bytes && text->at[i] == '\n') i++;
        push_cut(run, out, text, begin, keep_ends ? i : end);
        begin = i;
    }
    if (begin < text->bytes) push_cut(run, out, text, begin, text->bytes);
    return out;
}

static jvalue splitlines(jrun *run, jvalue self, const jargs *args) {
    jvalue slots[1];
    jinja_bind(run, "splitlines", "keepends", args, slots);
    const jlist *lines = jinja_lines(run, self.text, jinja_truth_or(slots[0], false));
    return jvalue_list((jlist *)(uintptr_t)lines); /* values do not change: no copy is needed */
}

static jvalue partition_at(jrun *run, jvalue self, const jargs *args, bool right) {
    jvalue slots[1];
    jinja_bind(run, right ? "rpartition" : "partition", "sep", args, slots);
    const jtext *by = jinja_text_or(run, slots[0], NULL), *text = self.text;
    if (by->bytes == 0) jinja_fail(run, "empty separator");
    jinja_charge(run, text->bytes / 8);
    int64_t found = right ? find_last(run, text, by, text->bytes) : jtext_find(run, text, by, 0);
    jlist *out = jlist_new(run, JF_TUPLE);
    uint64_t at = found >= 0 ? (uint64_t)found : right ? 0 : text->bytes;
    uint64_t behind = found >= 0 ? at + by->bytes : at;
    push_cut(run, out, text, 0, at);
    push_cut(run, out, text, at, behind);
    push_cut(run, out, text, behind, text->bytes);
    return jvalue_list(out);
}

static jvalue partition(jrun *run, jvalue self, const jargs *args) {
    return partition_at(run, self, args, false);
}
static jvalue rpartition(jrun *run, jvalue self, const jargs *args) {
    return partition_at(run, self, args, true);
}

/* ---- looking ---- */

/* Arguments of find and count: what, and the range of characters to look in as bytes. */
static const jtext *searched(jrun *run, jvalue self, const jargs *args, const char *name,
                             const jtext **part, uint32_t *offset) {
    jvalue slots[3];
    jinja_bind(run, name, "sub start end", args, slots);
    *part = jinja_text_or(run, slots[0], NULL);
    jinja_charge_walk(run, self.text->bytes);
    jvalue bounds[3] = {slots[1], slots[2], {0}};
    int64_t length = jtext_chars(run, self.text), start = jinja_int_or(run, slots[1], 0);
    if (start > length) return NULL;
    if (start < 0) start = start < -length ? 0 : start + length;
    *offset = jtext_offset(run, self.text, (uint32_t)start);
    return jinja_slice(run, self, bounds).text;
}

static jvalue find_in(jrun *run, jvalue self, const jargs *args, const char *name, bool right) {
    const jtext *part;
    uint32_t offset = 0;
    const jtext *range = searched(run, self, args, name, &part, &offset);
    int64_t found = -1;
    if (range) {
        jinja_charge(run, right ? range->bytes / 8 : 0);
        found = !right        ? jtext_find(run, range, part, 0)
                : part->bytes ? find_last(run, range, part, range->bytes)
                              : range->bytes;
    }
    if (found < 0) return jvalue_int(-1);
    const jtext *before = jtext_cut(run, self.text, 0, offset + (uint64_t)found);
    return jvalue_int(jtext_chars(run, before));
}

static jvalue find(jrun *run, jvalue self, const jargs *args) {
    return find_in(run, self, args, "find", false);
}
static jvalue rfind(jrun *run, jvalue self, const jargs *args) {
    return find_in(run, self, args, "rfind", true);
}

static jvalue must_be_found(jrun *run, jvalue where) {
    if (where.integer < 0) jinja_fail(run, "substring not found");
    return where;
}
static jvalue index_(jrun *run, jvalue self, const jargs *args) {
    return must_be_found(run, find_in(run, self, args, "index", false));
}
static jvalue rindex_(jrun *run, jvalue self, const jargs *args) {
    return must_be_found(run, find_in(run, self, args, "rindex", true));
}

static jvalue count(jrun *run, jvalue self, const jargs *args) {
    const jtext *part;
    uint32_t offset = 0;
    const jtext *range = searched(run, self, args, "count", &part, &offset);
    if (!range) return jvalue_int(0);
    if (part->bytes == 0) return jvalue_int((int64_t)jtext_chars(run, range) + 1);
    int64_t many = 0, at = 0;
    for (; (at = jtext_find(run, range, part, (uint64_t)at)) >= 0; at += part->bytes)
        many++;
    return jvalue_int(many);
}

typedef bool accepts(uint32_t point);

static bool is_ascii_digit(uint32_t point) { return point - '0' < 10; }
static bool is_ascii_letter(uint32_t point) { return (point | 32) - 'a' < 26; }
static bool is_ascii_both(uint32_t point) {
    return is_ascii_digit(point) || is_ascii_letter(point);
}

/* Every character is accepted, and there is one. Other scripts' letters and digits are refused
 * rather than answered wrongly. */
static jvalue all_are(jrun *run, jvalue self, const jargs *args, const char *name,
                      accepts *accept) {
    jinja_bind(run, name, "", args, NULL);
    bool all = self.text->bytes > 0;
    uint32_t point;
    jinja_charge_walk(run, self.text->bytes);
    for (uint32_t i = 0; i < self.text->bytes;) {
        i += jtext_char(self.text, i, &point);
        if (point >= 0x80 && accept != jinja_is_space && jinja_is_letter_or_number(point))
            jinja_fail(run, "%s() of other than ASCII letters and digits is not supported", name);
        all = all && accept(point);
    }
    return jvalue_bool(all);
}

static jvalue isdigit_(jrun *run, jvalue self, const jargs *args) {
    return all_are(run, self, args, "isdigit", is_ascii_digit);
}
static jvalue isalpha_(jrun *run, jvalue self, const jargs *args) {
    return all_are(run, self, args, "isalpha", is_ascii_letter);
}
static jvalue isalnum_(jrun *run, jvalue self, const jargs *args) {
    return all_are(run, self, args, "isalnum", is_ascii_both);
}
static jvalue isspace_(jrun *run, jvalue self, const jargs *args) {
    return all_are(run, self, args, "isspace", jinja_is_space);
}
static jvalue isupper_(jrun *run, jvalue self, const jargs *args) {
    jinja_bind(run, "isupper", "", args, NULL);
    jinja_charge_walk(run, self.text->bytes);
    return jvalue_bool(jtext_has_case(self.text, true));
}
static jvalue islower_(jrun *run, jvalue self, const jargs *args) {
    jinja_bind(run, "islower", "", args, NULL);
    jinja_charge_walk(run, self.text->bytes);
    return jvalue_bool(jtext_has_case(self.text, false));
}

/* ---- changing ---- */

static jvalue upper(jrun *run, jvalue self, const jargs *args) {
    jinja_bind(run, "upper", "", args, NULL);
    return jvalue_text(jtext_upper(run, self.text));
}
static jvalue lower(jrun *run, jvalue self, const jargs *args) {
    jinja_bind(run, "lower", "", args, NULL);
    return jvalue_text(jtext_lower(run, self.text));
}
static jvalue capitalize(jrun *run, jvalue self, const jargs *args) {
    jinja_bind(run, "capitalize", "", args, NULL);
    return jvalue_text(jtext_capitalize(run, self.text));
}

/* str.title: a letter behind what is no letter begins a word. */
static jvalue title(jrun *run, jvalue self, const jargs *args) {
    jinja_bind(run, "title", "", args, NULL);
    const jtext *text = self.text;
    jbuffer *out = jbuffer_new(run);
    uint32_t point;
    for (uint32_t i = 0; i < text->bytes;) {
        uint32_t end = i + jtext_char(text, i, &point);
        bool word = jinja_is_cased(point);
        while (end < text->bytes) {
            uint32_t bytes = jtext_char(text, end, &point);
            if (jinja_is_cased(point) != word) break;
            end += bytes;
        }
        const jtext *part = jtext_cut(run, text, i, end);
        jbuffer_put_text(run, out, word ? jtext_capitalize(run, part) : part);
        i = end;
    }
    return jvalue_text(jbuffer_text(run, out));
}

static jvalue replace(jrun *run, jvalue self, const jargs *args) {
    jvalue slots[3];
    jinja_bind(run, "replace", "old new count", args, slots);
    const jtext *from = jinja_text_or(run, slots[0], NULL),
                *to = jinja_text_or(run, slots[1], NULL);
    return jvalue_text(jtext_replace(run, self.text, from, to, jinja_int_or(run, slots[2], -1)));
}

static jvalue join(jrun *run, jvalue self, const jargs *args) {
    jvalue slots[1];
    jinja_bind(run, "join", "iterable", args, slots);
    if (!jvalue_is_iterable(slots[0])) jinja_fail(run, "can only join an iterable");
    const jlist *all = jvalue_iterate(run, slots[0]);
    jbuffer *out = jbuffer_new(run);
    for (uint32_t i = 0; i < all->count; i++) {
        if (all->at[i].kind != J_STRING)
            jinja_fail(run, "sequence item %u: expected str instance, %s found", i,
                       jvalue_type(all->at[i]));
        if (i) jbuffer_put_text(run, out, self.text);
        jbuffer_put_text(run, out, all->at[i].text);
    }
    return jvalue_text(jbuffer_text(run, out));
}

typedef enum side { LEFT, RIGHT, BOTH } side;

static jvalue justify(jrun *run, jvalue self, const jargs *args, const char *name, side text_side) {
    jvalue slots[2];
    jinja_bind(run, name, "width fillchar", args, slots);
    const jtext *fill = jinja_text_or(run, slots[1], " ");
    if (jtext_chars(run, fill) != 1)
        jinja_fail(run, "The fill character must be exactly one character long");
    int64_t width = jinja_int_or(run, slots[0], 0), more = width - jtext_chars(run, self.text);
    if (more <= 0) return self;
    int64_t before = text_side == LEFT    ? 0
                     : text_side == RIGHT ? more
                                          : more / 2 + (more & width & 1);
    jbuffer *out = jbuffer_new(run);
    for (int64_t i = 0; i < before; i++)
        jbuffer_put_text(run, out, fill);
    jbuffer_put_text(run, out, self.text);
    for (int64_t i = before; i < more; i++)
        jbuffer_put_text(run, out, fill);
    return jvalue_text(jbuffer_text(run, out));
}

static jvalue ljust(jrun *run, jvalue self, const jargs *args) {
    return justify(run, self, args, "ljust", LEFT);
}
static jvalue rjust(jrun *run, jvalue self, const jargs *args) {
    return justify(run, self, args, "rjust", RIGHT);
}
static jvalue center(jrun *run, jvalue self, const jargs *args) {
    return justify(run, self, args, "center", BOTH);
}

static jvalue zfill(jrun *run, jvalue self, const jargs *args) {
    jvalue slots[1];
    jinja_bind(run, "zfill", "width", args, slots);
    int64_t more = jinja_int_or(run, slots[0], 0) - jtext_chars(run, self.text);
    uint32_t sign = self.text->bytes && (self.text->at[0] == '-' || self.text->at[0] == '+');
    if (more <= 0) return self;
    jbuffer *out = jbuffer_new(run);
    jbuffer_put_text(run, out, jtext_cut(run, self.text, 0, sign));
    for (int64_t i = 0; i < more; i++)
        jbuffer_put_literal(run, out, "0");
    jbuffer_put_text(run, out, jtext_cut(run, self.text, sign, self.text->bytes));
    return jvalue_text(jbuffer_text(run, out));
}

const jmethod *jinja_string_method(const jtext *name) {
    static const jmethod all[] = {{"capitalize", capitalize},
                                  {"center", center},
                                  {"count", count},
                                  {"endswith", endswith},
                                  {"find", find},
                                  {"format", jinja_fill_format},
                                  {"index", index_},
                                  {"isalnum", isalnum_},
                                  {"isalpha", isalpha_},
                                  {"isdigit", isdigit_},
                                  {"islower", islower_},
                                  {"isspace", isspace_},
                                  {"isupper", isupper_},
                                  {"join", join},
                                  {"ljust", ljust},
                                  {"lower", lower},
                                  {"lstrip", lstrip},
                                  {"partition", partition},
                                  {"removeprefix", removeprefix},
                                  {"removesuffix", removesuffix},
                                  {"replace", replace},
                                  {"rfind", rfind},
                                  {"rindex", rindex_},
                                  {"rjust", rjust},
                                  {"rpartition", rpartition},
                                  {"rsplit", rsplit},
                                  {"rstrip", rstrip},
                                  {"split", split},
                                  {"splitlines", splitlines},
                                  {"startswith", startswith},
                                  {"strip", strip},
                                  {"title", title},
                                  {"upper", upper},
                                  {"zfill", zfill}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (jtext_is(name, all[i].name)) return &all[i];
    return NULL;
}

/* ---- lists and dicts ---- */

static jvalue list_index(jrun *run, jvalue self, const jargs *args) {
    jvalue slots[1];
    jinja_bind(run, "index", "value", args, slots);
    for (uint32_t i = 0; i < self.list->count; i++)
        if (jvalue_equal_item(run, self.list->at[i], slots[0])) return jvalue_int(i);
    if (self.list->flavour == JF_TUPLE) jinja_fail(run, "tuple.index(x): x not in tuple");
    jinja_fail(run, "%s is not in list", jinja_repr_chars(run, slots[0]));
}

static jvalue list_count(jrun *run, jvalue self, const jargs *args) {
    jvalue slots[1];
    int64_t many = 0;
    jinja_bind(run, "count", "value", args, slots);
    for (uint32_t i = 0; i < self.list->count; i++)
        many += jvalue_equal_item(run, self.list->at[i], slots[0]);
    return jvalue_int(many);
}

static jvalue list_copy(jrun *run, jvalue self, const jargs *args) {
    jinja_bind(run, "copy", "", args, NULL);
    return self; /* lists do not change */
}

static jvalue dict_view(jrun *run, const jdict *dict, jflavour flavour) {
    jlist *out = jlist_new(run, flavour);
    for (uint32_t i = 0; i < dict->count; i++) {
        jpair pair = dict->at[i];
        jvalue item = flavour == JF_KEYS ? pair.key : pair.value;
        if (flavour == JF_ITEMS) {
            jlist *both = jlist_new(run, JF_TUPLE);
            jlist_push(run, both, pair.key);
            jlist_push(run, both, pair.value);
            item = jvalue_list(both);
        }
        jlist_push(run, out, item);
    }
    return jvalue_list(out);
}

static jvalue dict_items(jrun *run, jvalue self, const jargs *args) {
    jinja_bind(run, "items", "", args, NULL);
    return dict_view(run, self.dict, JF_ITEMS);
}
static jvalue dict_keys(jrun *run, jvalue self, const jargs *args) {
    jinja_bind(run, "keys", "", args, NULL);
    return dict_view(run, self.dict, JF_KEYS);
}
static jvalue dict_values(jrun *run, jvalue self, const jargs *args) {
    jinja_bind(run, "values", "", args, NULL);
    return dict_view(run, self.dict, JF_VALUES);
}
static jvalue dict_copy(jrun *run, jvalue self, const jargs *args) {
    jinja_bind(run, "copy", "", args, NULL);
    return self;
}

static jvalue dict_get(jrun *run, jvalue self, const jargs *args) {
    jvalue slots[2];
    jinja_bind(run, "get", "key default", args, slots);
    if (slots[0].kind == J_MISSING) jinja_fail(run, "get expected at least 1 argument, got 0");
    const jvalue *found = jdict_find(run, self.dict, slots[0]);
    if (found) return *found;
    return slots[1].kind == J_MISSING ? jvalue_none() : slots[1];
}

const jmethod *jinja_container_method(jvalue self, const jtext *name) {
    static const jmethod of_list[] = {
        {"index", list_index}, {"count", list_count}, {"copy", list_copy}};
    static const jmethod of_dict[] = {{"items", dict_items},
                                      {"keys", dict_keys},
                                      {"values", dict_values},
                                      {"get", dict_get},
                                      {"copy", dict_copy}};
    bool list = self.kind == J_LIST && self.list->flavour <= JF_TUPLE;
    if (!list && self.kind != J_DICT) return NULL;
    const jmethod *all = list ? of_list : of_dict;
    size_t methods = list ? 3 : 5;
    if (list && self.list->flavour == JF_TUPLE) methods = 2;
    for (size_t i = 0; i < methods; i++)
        if (jtext_is(name, all[i].name)) return &all[i];
    return NULL;
}

bool jinja_is_mutator(jvalue self, const jtext *name) {
    static const char *const of_list[] = {"append", "clear",  "extend",  "insert",
                                          "pop",    "remove", "reverse", "sort"};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    bool list = self.kind == J_LIST && self.list->flavour == JF_LIST;
    if (!list && self.kind != J_DICT) return false;
    const char *const *all = list ? of_list : of_dict;
    for (size_t i = 0; i < (list ? 8 : 5); i++)
        if (jtext_is(name, all[i])) return true;
    return false;
}
