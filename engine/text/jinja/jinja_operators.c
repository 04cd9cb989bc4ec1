/* jinja_operators.c - arithmetic and comparison, with Python's results and Python's sentences.
 *
 * Integers are 64-bit here and unbounded there: what does not fit fails instead of wrapping. A
 * number computed from the data's numbers is the data's. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <string.h>

#include "engine/text/jinja/jinja_value.h"

static const char *const symbols[] = {
    [JO_ADD] = "+",    [JO_SUB] = "-", [JO_MUL] = "*",           [JO_DIV] = "/",
    [JO_FLOOR] = "//", [JO_MOD] = "%", [JO_POW] = "** or pow()", [JO_EQ] = "==",
    [JO_NE] = "!=",    [JO_LT] = "<",  [JO_LE] = "<=",           [JO_GT] = ">",
    [JO_GE] = ">=",    [JO_IN] = "in", [JO_NOT_IN] = "not in"};

static bool is_sequence(jvalue v) {
    return v.kind == J_STRING || (v.kind == J_LIST && v.list->flavour <= JF_TUPLE);
}

static _Noreturn void fail_types(jrun *run, joperator op, jvalue a, jvalue b) {
    if (a.kind == J_UNDEFINED) jinja_fail_undefined(run, a.undefined);
    if (b.kind == J_UNDEFINED) jinja_fail_undefined(run, b.undefined);
    if (op == JO_ADD && is_sequence(a))
        jinja_fail(run, "can only concatenate %s (not \"%s\") to %s", jvalue_type(a),
                   jvalue_type(b), jvalue_type(a));
    if (op == JO_MUL && (is_sequence(a) || is_sequence(b)))
        jinja_fail(run, "can't multiply sequence by non-int of type '%s'",
                   jvalue_type(is_sequence(a) ? b : a));
    jinja_fail(run, "unsupported operand type(s) for %s: '%s' and '%s'", symbols[op],
               jvalue_type(a), jvalue_type(b));
}

static _Noreturn void fail_range(jrun *run, joperator op) {
    jinja_fail(run, "the result of %s does not fit a 64-bit integer", symbols[op]);
}

/* ---- integers ---- */

static int64_t floor_divide(jrun *run, int64_t a, int64_t b) {
    if (b == 0) jinja_fail(run, "integer division or modulo by zero");
    if (a == INT64_MIN && b == -1) fail_range(run, JO_FLOOR);
    int64_t quotient = a / b;
    return quotient - (a % b != 0 && (a < 0) != (b < 0));
}

static int64_t floor_rest(jrun *run, int64_t a, int64_t b) {
    if (b == 0) jinja_fail(run, "integer modulo by zero");
    if (b == -1) return 0;
    int64_t rest = a % b;
    return rest + (rest != 0 && (rest < 0) != (b < 0) ? b : 0);
}

static jvalue integer_power(jrun *run, int64_t base, int64_t exponent) {
    if (exponent < 0) {
        if (base == 0) jinja_fail(run, "0.0 cannot be raised to a negative power");
        return jvalue_float(pow((double)base, (double)exponent));
    }
    int64_t result = 1;
    for (; exponent > 0; exponent >>= 1) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            fail_range(run, JO_POW);
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) fail_range(run, JO_POW);
    }
    return jvalue_int(result);
}

static jvalue integers(jrun *run, joperator op, int64_t a, int64_t b) {
    int64_t result = 0;
    bool overflow = false;
    switch (op) {
    case JO_ADD:
        overflow = __builtin_add_overflow(a, b, &result);
        break;
    case JO_SUB:
        overflow = __builtin_sub_overflow(a, b, &result);
        break;
    case JO_MUL:
        overflow = __builtin_mul_overflow(a, b, &result);
        break;
    case JO_DIV:
        if (b == 0) jinja_fail(run, "division by zero");
        return jvalue_float((double)a / (double)b);
    case JO_FLOOR:
        return jvalue_int(floor_divide(run, a, b));
    case JO_MOD:
        return jvalue_int(floor_rest(run, a, b));
    default:
        return integer_power(run, a, b);
    }
    if (overflow) fail_range(run, op);
    return jvalue_int(result);
}

/* ---- floats ---- */

static double real_rest(double a, double b) {
    double rest = fmod(a, b);
    if (rest == 0) return copysign(0, b);
    return (rest < 0) != (b < 0) ? rest + b : rest;
}

static double real_floor(double a, double b) {
    double quotient = (a - real_rest(a, b)) / b, whole = floor(quotient);
    if (quotient == 0) return copysign(0, a / b);
    return quotient - whole > 0.5 ? whole + 1 : whole;
}

static jvalue real_power(jrun *run, double a, double b) {
    if (a == 0 && b < 0) jinja_fail(run, "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(b) && floor(b) != b)
        jinja_fail(run, "a negative number to a power that is no integer is not supported");
    double result = pow(a, b);
    if (isinf(result) && isfinite(a) && isfinite(b))
        jinja_fail(run, "(34, 'Numerical result out of range')");
    return jvalue_float(result);
}

static jvalue reals(jrun *run, joperator op, double a, double b) {
    switch (op) {
    case JO_ADD:
        return jvalue_float(a + b);
    case JO_SUB:
        return jvalue_float(a - b);
    case JO_MUL:
        return jvalue_float(a * b);
    case JO_DIV:
        if (b == 0) jinja_fail(run, "float division by zero");
        return jvalue_float(a / b);
    case JO_FLOOR:
        if (b == 0) jinja_fail(run, "float floor division by zero");
        return jvalue_float(real_floor(a, b));
    case JO_MOD:
        if (b == 0) jinja_fail(run, "float modulo");
        return jvalue_float(real_rest(a, b));
    default:
        return real_power(run, a, b);
    }
}

/* ---- sequences ---- */

static jvalue join_lists(jrun *run, const jlist *a, const jlist *b) {
    jlist *list = jlist_new(run, (jflavour)a->flavour);
    for (uint32_t i = 0; i < a->count; i++)
        jlist_push(run, list, a->at[i]);
    for (uint32_t i = 0; i < b->count; i++)
        jlist_push(run, list, b->at[i]);
    return jvalue_list(list);
}

static jvalue repeat(jrun *run, jvalue a, int64_t times) {
    if (a.kind == J_STRING) {
        jbuffer *out = jbuffer_new(run);
        for (int64_t i = 0; i < times && a.text->bytes; i++)
            jbuffer_put_text(run, out, a.text);
        return jvalue_text(jbuffer_text(run, out));
    }
    jlist *list = jlist_new(run, (jflavour)a.list->flavour);
    for (int64_t i = 0; i < times && a.list->count; i++)
        for (uint32_t k = 0; k < a.list->count; k++)
            jlist_push(run, list, a.list->at[k]);
    return jvalue_list(list);
}

static bool is_integer(jvalue v) { return v.kind == J_INT || v.kind == J_BOOL; }

/* A string that is markup makes the sum markup, and escapes the other one. */
static jvalue join_texts(jrun *run, jvalue a, jvalue b) {
    bool markup = a.markup || b.markup;
    const jtext *left = markup && !a.markup ? jtext_escape(run, a.text) : a.text;
    const jtext *right = markup && !b.markup ? jtext_escape(run, b.text) : b.text;
    jvalue sum = jvalue_text(jtext_join(run, left, right));
    sum.markup = markup;
    return sum;
}

static jvalue sequences(jrun *run, joperator op, jvalue a, jvalue b) {
    if (op == JO_ADD && a.kind == J_STRING && b.kind == J_STRING) return join_texts(run, a, b);
    if (op == JO_ADD && a.kind == J_LIST && b.kind == J_LIST && is_sequence(a) &&
        a.list->flavour == b.list->flavour)
        return join_lists(run, a.list, b.list);
    if (op == JO_MUL && is_sequence(a) && is_integer(b)) return repeat(run, a, jvalue_integer(b));
    if (op == JO_MUL && is_sequence(b) && is_integer(a)) return repeat(run, b, jvalue_integer(a));
    if (op == JO_MOD && a.kind == J_STRING && a.markup)
        jinja_fail(run, "%% of a string of `safe` is not supported");
    if (op == JO_MOD && a.kind == J_STRING) return jinja_percent(run, a.text, b);
    fail_types(run, op, a, b);
}

jvalue jinja_binary(jrun *run, joperator op, jvalue a, jvalue b) {
    if (!jvalue_is_number(a) || !jvalue_is_number(b)) return sequences(run, op, a, b);
    bool real = a.kind == J_FLOAT || b.kind == J_FLOAT;
    jvalue result = real ? reals(run, op, jvalue_real(a), jvalue_real(b))
                         : integers(run, op, jvalue_integer(a), jvalue_integer(b));
    result.plain = a.plain || b.plain;
    return result;
}

jvalue jinja_sign(jrun *run, jvalue a, bool negative) {
    if (a.kind == J_UNDEFINED) jinja_fail_undefined(run, a.undefined);
    if (!jvalue_is_number(a))
        jinja_fail(run, "bad operand type for unary %c: '%s'", negative ? '-' : '+',
                   jvalue_type(a));
    jvalue zero = a.kind == J_FLOAT ? jvalue_float(-0.0) : jvalue_int(0);
    return jinja_binary(run, negative ? JO_SUB : JO_ADD, zero, a);
}

bool jinja_compare(jrun *run, joperator op, jvalue a, jvalue b) {
    switch (op) {
    case JO_EQ:
        return jvalue_equal(run, a, b);
    case JO_NE:
        return !jvalue_equal(run, a, b);
    case JO_IN:
        return jvalue_contains(run, b, a);
    case JO_NOT_IN:
        return !jvalue_contains(run, b, a);
    default:
        break;
    }
    int order = jvalue_order(run, a, b, symbols[op]);
    if (op == JO_LT) return order == -1;
    if (op == JO_LE) return order == -1 || order == 0;
    if (op == JO_GT) return order == 1;
    return order == 1 || order == 0;
}
