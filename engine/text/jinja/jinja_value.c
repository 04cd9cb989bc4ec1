/* jinja_value.c - values: made from JSON, compared, counted and gone through as Python does. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/jinja/jinja_value.h"

#include <math.h>
#include <string.h>

/* ---- making ---- */

jvalue jvalue_literal(jrun *run, const char *literal) {
    return jvalue_text(jtext_literal(run, literal));
}

static jvalue new_undefined(jrun *run, const jundefined *why) {
    jundefined *undefined = jinja_take(run, 1, sizeof *undefined);
    *undefined = *why;
    return (jvalue){.kind = J_UNDEFINED, .undefined = undefined};
}

jvalue jvalue_undefined(jrun *run, jvalue object, jvalue name) {
    return new_undefined(run, &(jundefined){.object = object, .name = name});
}

jvalue jvalue_undefined_hint(jrun *run, const char *hint) {
    return new_undefined(run, &(jundefined){.hint = hint});
}

static jvalue list_from_json(jrun *run, const json_t *json, bool plain) {
    jlist *list = jlist_new(run, JF_LIST);
    for (size_t i = 0; i < json_array_size(json); i++)
        jlist_push(run, list, jvalue_from_json(run, json_array_get(json, i), plain));
    return jvalue_list(list);
}

/* The keys of a JSON object differ from each other: nothing to look up. */
static jvalue dict_from_json(jrun *run, const json_t *json, bool plain) {
    jdict *dict = jdict_new(run);
    dict->room = (uint32_t)json_object_size(json);
    dict->at = jinja_take(run, dict->room, sizeof *dict->at);
    json_t *object = (json_t *)(uintptr_t)json; /* jansson iterates what is not const; only read */
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        const char *key = json_object_iter_key(at);
        size_t bytes = json_object_iter_key_len(at);
        dict->at[dict->count++] = (jpair){jvalue_text(jtext_new(run, key, bytes, plain)),
                                          jvalue_from_json(run, json_object_iter_value(at), plain)};
    }
    return (jvalue){.kind = J_DICT, .dict = dict};
}

jvalue jvalue_from_json(jrun *run, const json_t *json, bool plain) {
    jvalue value = jvalue_none();
    jinja_enter(run);
    jinja_charge(run, 1);
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        value = dict_from_json(run, json, plain);
        break;
    case JSON_ARRAY:
        value = list_from_json(run, json, plain);
        break;
    case JSON_STRING:
        value =
            jvalue_text(jtext_new(run, json_string_value(json), json_string_length(json), plain));
        break;
    case JSON_INTEGER:
        value = jvalue_int(json_integer_value(json));
        break;
    case JSON_REAL:
        value = jvalue_float(json_real_value(json));
        break;
    case JSON_TRUE:
        value = jvalue_bool(true);
        break;
    case JSON_FALSE:
        value = jvalue_bool(false);
        break;
    case JSON_NULL:
        break;
    }
    jinja_leave(run);
    value.plain = plain;
    return value;
}

/* ---- lists and dicts ---- */

jlist *jlist_new(jrun *run, jflavour flavour) {
    jlist *list = jinja_take(run, 1, sizeof *list);
    list->flavour = (uint8_t)flavour;
    return list;
}

void jlist_push(jrun *run, jlist *list, jvalue value) {
    jinja_charge(run, 1);
    if (list->count == list->room) {
        uint32_t room = list->room ? list->room * 2 : 4;
        jvalue *at = jinja_take(run, room, sizeof *at);
        if (list->count) memcpy(at, list->at, list->count * sizeof *at);
        list->at = at;
        list->room = room;
    }
    list->at[list->count++] = value;
}

jdict *jdict_new(jrun *run) { return jinja_take(run, 1, sizeof(jdict)); }

jvalue *jdict_find(jrun *run, const jdict *dict, jvalue key) {
    bool is_list = key.kind == J_LIST && key.list->flavour == JF_LIST;
    if (is_list || key.kind == J_DICT) jinja_fail(run, "unhashable type: '%s'", jvalue_type(key));
    jinja_charge(run, 1 + dict->count / 4);
    for (uint32_t i = 0; i < dict->count; i++)
        if (jvalue_equal(run, dict->at[i].key, key)) return &dict->at[i].value;
    return NULL;
}

void jdict_set(jrun *run, jdict *dict, jvalue key, jvalue value) {
    jvalue *found = jdict_find(run, dict, key);
    if (found) {
        *found = value;
        return;
    }
    if (dict->count == dict->room) {
        uint32_t room = dict->room ? dict->room * 2 : 4;
        jpair *at = jinja_take(run, room, sizeof *at);
        if (dict->count) memcpy(at, dict->at, dict->count * sizeof *at);
        dict->at = at;
        dict->room = room;
    }
    dict->at[dict->count++] = (jpair){key, value};
}

/* ---- names of types ---- */

static const char *flavour_type(uint8_t flavour) {
    static const char *const names[] = {
        [JF_LIST] = "list",           [JF_TUPLE] = "tuple",      [JF_RANGE] = "range",
        [JF_GENERATOR] = "generator", [JF_ITEMS] = "dict_items", [JF_KEYS] = "dict_keys",
        [JF_VALUES] = "dict_values"};
    return names[flavour];
}

const char *jvalue_type(jvalue value) {
    static const char *const names[] = {[J_MISSING] = "missing",
                                        [J_UNDEFINED] = "Undefined",
                                        [J_NONE] = "NoneType",
                                        [J_BOOL] = "bool",
                                        [J_INT] = "int",
                                        [J_FLOAT] = "float",
                                        [J_STRING] = "str",
                                        [J_DICT] = "dict",
                                        [J_NAMESPACE] = "Namespace",
                                        [J_LOOP] = "LoopContext",
                                        [J_MACRO] = "Macro",
                                        [J_METHOD] = "builtin_function_or_method",
                                        [J_FUNCTION] = "function"};
    return value.kind == J_LIST ? flavour_type(value.list->flavour) : names[value.kind];
}

const char *jvalue_object(jvalue value) {
    switch (value.kind) {
    case J_NONE:
        return "None";
    case J_BOOL:
        return "bool object";
    case J_INT:
        return "int object";
    case J_FLOAT:
        return "float object";
    case J_STRING:
        return "str object";
    case J_DICT:
        return "dict object";
    case J_NAMESPACE:
        return "jinja2.utils.Namespace object";
    case J_LOOP:
        return "jinja2.runtime.LoopContext object";
    case J_MACRO:
        return "jinja2.runtime.Macro object";
    case J_METHOD:
        return "builtin_function_or_method object";
    case J_FUNCTION:
        return "function object";
    default:
        break;
    }
    if (value.kind != J_LIST) return "jinja2.runtime.Undefined object";
    static const char *const names[] = {
        [JF_LIST] = "list object",         [JF_TUPLE] = "tuple object",
        [JF_RANGE] = "range object",       [JF_GENERATOR] = "generator object",
        [JF_ITEMS] = "dict_items object",  [JF_KEYS] = "dict_keys object",
        [JF_VALUES] = "dict_values object"};
    return names[value.list->flavour];
}

/* ---- truth, length, elements ---- */

static bool has_count(jvalue value) {
    return value.kind == J_LIST && value.list->flavour != JF_GENERATOR;
}

bool jvalue_truth(jvalue value) {
    switch (value.kind) {
    case J_MISSING:
    case J_UNDEFINED:
    case J_NONE:
        return false;
    case J_BOOL:
        return value.truth;
    case J_INT:
        return value.integer != 0;
    case J_FLOAT:
        return value.real != 0;
    case J_STRING:
        return value.text->bytes > 0;
    case J_LIST:
        return !has_count(value) || value.list->count > 0;
    case J_DICT:
        return value.dict->count > 0;
    case J_LOOP:
        return value.loop->items->count > 0;
    default:
        return true;
    }
}

bool jvalue_has_length(jvalue value) {
    return value.kind == J_UNDEFINED || value.kind == J_STRING || value.kind == J_DICT ||
           value.kind == J_LOOP || has_count(value);
}

int64_t jvalue_length(jrun *run, jvalue value) {
    if (!jvalue_has_length(value))
        jinja_fail(run, "object of type '%s' has no len()", jvalue_type(value));
    if (value.kind == J_UNDEFINED) return 0;
    if (value.kind == J_DICT) return value.dict->count;
    if (value.kind == J_LOOP) return value.loop->items->count;
    if (value.kind == J_LIST) return value.list->count;
    return jtext_chars(run, value.text);
}

bool jvalue_is_iterable(jvalue value) {
    return value.kind == J_UNDEFINED || value.kind == J_STRING || value.kind == J_DICT ||
           value.kind == J_LIST || value.kind == J_LOOP;
}

static const jlist *characters(jrun *run, const jtext *text) {
    jlist *list = jlist_new(run, JF_LIST);
    uint32_t point;
    for (uint32_t i = 0, bytes; i < text->bytes; i += bytes) {
        bytes = jtext_char(text, i, &point);
        jlist_push(run, list, jvalue_text(jtext_cut(run, text, i, i + bytes)));
    }
    return list;
}

static const jlist *keys(jrun *run, const jdict *dict) {
    jlist *list = jlist_new(run, JF_LIST);
    for (uint32_t i = 0; i < dict->count; i++)
        jlist_push(run, list, dict->at[i].key);
    return list;
}

static const jlist *rest_of_generator(jrun *run, jlist *generator) {
    jlist *list = jlist_new(run, JF_LIST);
    list->at = generator->count ? generator->at + generator->taken : NULL;
    list->room = list->count = generator->count - generator->taken;
    generator->taken = generator->count;
    return list;
}

const jlist *jvalue_iterate(jrun *run, jvalue value) {
    switch (value.kind) {
    case J_UNDEFINED:
        return jlist_new(run, JF_LIST);
    case J_STRING:
        return characters(run, value.text);
    case J_DICT:
        return keys(run, value.dict);
    case J_LIST:
        if (value.list->flavour == JF_GENERATOR) return rest_of_generator(run, value.list);
        return value.list;
    default:
        jinja_fail(run, "'%s' object is not iterable", jvalue_type(value));
    }
}

static bool list_contains(jrun *run, const jlist *list, jvalue value) {
    for (uint32_t i = 0; i < list->count; i++)
        if (jvalue_equal_item(run, list->at[i], value)) return true;
    return false;
}

bool jvalue_contains(jrun *run, jvalue container, jvalue value) {
    if (container.kind == J_STRING) {
        if (value.kind != J_STRING)
            jinja_fail(run, "'in <string>' requires string as left operand, not %s",
                       jvalue_type(value));
        jinja_charge(run, 1);
        return jtext_find(run, container.text, value.text, 0) >= 0;
    }
    if (container.kind == J_DICT) return jdict_find(run, container.dict, value) != NULL;
    if (!jvalue_is_iterable(container))
        jinja_fail(run, "argument of type '%s' is not iterable", jvalue_type(container));
    return list_contains(run, jvalue_iterate(run, container), value);
}

/* ---- equality and order ---- */

/* An integer equals a float only when the float is that integer exactly. */
static int number_order(jvalue a, jvalue b) {
    if (a.kind != J_FLOAT && b.kind != J_FLOAT) {
        int64_t x = jvalue_integer(a), y = jvalue_integer(b);
        return x < y ? -1 : x > y;
    }
    long double x = a.kind == J_FLOAT ? (long double)a.real : (long double)jvalue_integer(a);
    long double y = b.kind == J_FLOAT ? (long double)b.real : (long double)jvalue_integer(b);
    return isnan(x) || isnan(y) ? 2 : x < y ? -1 : x > y;
}

static bool list_equal(jrun *run, const jlist *a, const jlist *b) {
    if (a == b) return true;
    if (a->flavour != b->flavour || a->flavour == JF_GENERATOR || a->count != b->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (!jvalue_equal_item(run, a->at[i], b->at[i])) return false;
    return true;
}

static bool dict_equal(jrun *run, const jdict *a, const jdict *b) {
    if (a == b) return true;
    if (a->count != b->count) return false;
    for (uint32_t i = 0; i < a->count; i++) {
        const jvalue *other = jdict_find(run, b, a->at[i].key);
        if (!other || !jvalue_equal(run, a->at[i].value, *other)) return false;
    }
    return true;
}

static bool nested_equal(jrun *run, jvalue a, jvalue b) {
    jinja_enter(run);
    bool equal =
        a.kind == J_LIST ? list_equal(run, a.list, b.list) : dict_equal(run, a.dict, b.dict);
    jinja_leave(run);
    return equal;
}

bool jvalue_equal(jrun *run, jvalue a, jvalue b) {
    if (jvalue_is_number(a) && jvalue_is_number(b)) return number_order(a, b) == 0;
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case J_UNDEFINED:
    case J_NONE:
        return true;
    case J_STRING:
        if (a.text->bytes != b.text->bytes) return false;
        jinja_charge(run, a.text->bytes / 64);
        return jtext_equal(a.text, b.text);
    case J_LIST:
    case J_DICT:
        jinja_charge(run, 1);
        return nested_equal(run, a, b);
    default:
        return a.text == b.text; /* the same object; all are pointers */
    }
}

bool jvalue_equal_item(jrun *run, jvalue a, jvalue b) {
    jinja_charge(run, 1);
    return jvalue_equal(run, a, b);
}

static int list_order(jrun *run, const jlist *a, const jlist *b, const char *operator_text) {
    for (uint32_t i = 0; i < a->count && i < b->count; i++) {
        if (jvalue_equal_item(run, a->at[i], b->at[i])) continue;
        jinja_enter(run);
        int order = jvalue_order(run, a->at[i], b->at[i], operator_text);
        jinja_leave(run);
        return order;
    }
    return a->count < b->count ? -1 : a->count > b->count;
}

int jvalue_order(jrun *run, jvalue a, jvalue b, const char *operator_text) {
    jinja_charge(run, 1);
    if (jvalue_is_number(a) && jvalue_is_number(b)) return number_order(a, b);
    if (a.kind == J_STRING && b.kind == J_STRING) {
        uint32_t common = a.text->bytes < b.text->bytes ? a.text->bytes : b.text->bytes;
        jinja_charge(run, common / 64);
        int order = jtext_compare(a.text, b.text);
        return order < 0 ? -1 : order > 0;
    }
    if (a.kind == J_LIST && b.kind == J_LIST && a.list->flavour == b.list->flavour &&
        a.list->flavour <= JF_TUPLE)
        return list_order(run, a.list, b.list, operator_text);
    if (a.kind == J_UNDEFINED) jinja_fail_undefined(run, a.undefined);
    if (b.kind == J_UNDEFINED) jinja_fail_undefined(run, b.undefined);
    jinja_fail(run, "'%s' not supported between instances of '%s' and '%s'", operator_text,
               jvalue_type(a), jvalue_type(b));
}
