/* jinja_is.c - the tests behind `is`. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/jinja/jinja_value.h"

static jvalue one(jrun *run, const char *name, const jargs *args) {
    jvalue slot;
    jinja_bind(run, name, "other", args, &slot);
    if (slot.kind == J_MISSING) jinja_fail(run, "the test %s wants an argument", name);
    return slot;
}

static void none_wanted(jrun *run, const char *name, const jargs *args) {
    jinja_bind(run, name, "", args, NULL);
}

/* ---- what it is ---- */

#define PLAIN_TEST(name, condition)                                                                \
    static bool is_##name(jrun *run, jvalue v, const jargs *args) {                                \
        none_wanted(run, #name, args);                                                             \
        return condition;                                                                          \
    }

PLAIN_TEST(defined, v.kind != J_UNDEFINED)
PLAIN_TEST(undefined, v.kind == J_UNDEFINED)
PLAIN_TEST(none, v.kind == J_NONE)
PLAIN_TEST(boolean, v.kind == J_BOOL)
PLAIN_TEST(true, v.kind == J_BOOL && v.truth)
PLAIN_TEST(false, v.kind == J_BOOL && !v.truth)
PLAIN_TEST(integer, v.kind == J_INT)
PLAIN_TEST(float, v.kind == J_FLOAT)
PLAIN_TEST(number, jvalue_is_number(v))
PLAIN_TEST(string, v.kind == J_STRING)
PLAIN_TEST(mapping, v.kind == J_DICT)
PLAIN_TEST(iterable, jvalue_is_iterable(v))
PLAIN_TEST(sequence, v.kind == J_UNDEFINED || v.kind == J_STRING || v.kind == J_DICT ||
                         (v.kind == J_LIST && v.list->flavour <= JF_RANGE))
PLAIN_TEST(callable, v.kind == J_MACRO || v.kind == J_METHOD || v.kind == J_FUNCTION ||
                         v.kind == J_UNDEFINED || v.kind == J_LOOP)
PLAIN_TEST(upper, jtext_has_case(jvalue_string(run, v), true))
PLAIN_TEST(lower, jtext_has_case(jvalue_string(run, v), false))
PLAIN_TEST(odd, jvalue_equal(run, jinja_binary(run, JO_MOD, v, jvalue_int(2)), jvalue_int(1)))
PLAIN_TEST(even, jvalue_equal(run, jinja_binary(run, JO_MOD, v, jvalue_int(2)), jvalue_int(0)))
PLAIN_TEST(filter, jinja_filter(jinja_text_or(run, v, NULL)) != NULL)
PLAIN_TEST(test, jinja_test(jinja_text_or(run, v, NULL)) != NULL)

/* ---- how it compares ---- */

#define COMPARING_TEST(name, op)                                                                   \
    static bool is_##name(jrun *run, jvalue v, const jargs *args) {                                \
        return jinja_compare(run, op, v, one(run, #name, args));                                   \
    }

COMPARING_TEST(eq, JO_EQ)
COMPARING_TEST(ne, JO_NE)
COMPARING_TEST(lt, JO_LT)
COMPARING_TEST(le, JO_LE)
COMPARING_TEST(gt, JO_GT)
COMPARING_TEST(ge, JO_GE)
COMPARING_TEST(in, JO_IN)

static bool is_divisibleby(jrun *run, jvalue v, const jargs *args) {
    jvalue by = one(run, "divisibleby", args);
    return jvalue_equal(run, jinja_binary(run, JO_MOD, v, by), jvalue_int(0));
}

/* The same object; equal numbers and strings of one type count as such. */
static bool is_sameas(jrun *run, jvalue v, const jargs *args) {
    jvalue other = one(run, "sameas", args);
    if (v.kind != other.kind) return false;
    if (v.kind == J_LIST || v.kind == J_DICT) return v.list == other.list;
    return jvalue_equal(run, v, other);
}

const jtest *jinja_test(const jtext *name) {
    static const jtest all[] = {
        {"==", is_eq},
        {"!=", is_ne},
        {"<", is_lt},
        {"<=", is_le},
        {">", is_gt},
        {">=", is_ge},
        {"boolean", is_boolean},
        {"callable", is_callable},
        {"defined", is_defined},
        {"divisibleby", is_divisibleby},
        {"eq", is_eq},
        {"equalto", is_eq},
        {"even", is_even},
        {"false", is_false},
        {"filter", is_filter},
        {"float", is_float},
        {"ge", is_ge},
        {"greaterthan", is_gt},
        {"gt", is_gt},
        {"in", is_in},
        {"integer", is_integer},
        {"iterable", is_iterable},
        {"le", is_le},
        {"lessthan", is_lt},
        {"lower", is_lower},
        {"lt", is_lt},
        {"mapping", is_mapping},
        {"ne", is_ne},
        {"none", is_none},
        {"number", is_number},
        {"odd", is_odd},
        {"sameas", is_sameas},
        {"sequence", is_sequence},
        {"string", is_string},
        {"test", is_test},
        {"true", is_true},
        {"undefined", is_undefined},
        {"upper", is_upper},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (jtext_is(name, all[i].name)) return &all[i];
    return NULL;
}
