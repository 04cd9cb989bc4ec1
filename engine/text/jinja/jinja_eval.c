/* jinja_eval.c - evaluates expressions. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/text/jinja/jinja_node.h"

/* ---- variables ---- */

static jvariable *find_variable(jrun *run, const jscope *scope, const jtext *name) {
    jinja_charge(run, scope->count / 8);
    for (uint32_t i = 0; i < scope->count; i++)
        if (jtext_equal(scope->at[i].name, name)) return &scope->at[i];
    return NULL;
}

jvalue jscope_get(jrun *run, const jtext *name) {
    for (const jscope *scope = run->scope; scope; scope = scope->parent) {
        jinja_charge(run, 1);
        const jvariable *variable = find_variable(run, scope, name);
        if (variable) return variable->value;
    }
    return (jvalue){0};
}

void jscope_set(jrun *run, jscope *scope, const jtext *name, jvalue value) {
    jvariable *found = find_variable(run, scope, name);
    if (found) {
        found->value = value;
        return;
    }
    if (scope->count == scope->room) {
        uint32_t room = scope->room ? scope->room * 2 : 4;
        jvariable *at = jinja_take(run, room, sizeof *at);
        if (scope->count) memcpy(at, scope->at, scope->count * sizeof *at);
        scope->at = at;
        scope->room = room;
    }
    scope->at[scope->count++] = (jvariable){name, value};
}

static jvalue name_value(jrun *run, const jtext *name) {
    jvalue value = jscope_get(run, name);
    if (value.kind != J_MISSING) return value;
    const jfunction *function = jinja_function(name);
    if (function) return (jvalue){.kind = J_FUNCTION, .function = function};
    return jvalue_undefined(run, (jvalue){0}, jvalue_text(name));
}

/* ---- the kinds of node ---- */

static jvalue list_value(jrun *run, const jnode *node) {
    jlist *list = jlist_new(run, node->kind == JN_TUPLE ? JF_TUPLE : JF_LIST);
    for (uint32_t i = 0; i < node->items.count; i++)
        jlist_push(run, list, jinja_eval(run, node->items.at[i]));
    return jvalue_list(list);
}

static jvalue dict_value(jrun *run, const jnode *node) {
    jdict *dict = jdict_new(run);
    for (uint32_t i = 0; i < node->items.count; i += 2) {
        jvalue key = jinja_eval(run, node->items.at[i]);
        jdict_set(run, dict, key, jinja_eval(run, node->items.at[i + 1]));
    }
    return (jvalue){.kind = J_DICT, .dict = dict};
}

static jvalue slice_value(jrun *run, const jnode *node) {
    jvalue object = jinja_eval(run, node->a), bounds[3] = {{0}};
    for (int i = 0; i < 3; i++)
        if (node->items.at[i]) bounds[i] = jinja_eval(run, node->items.at[i]);
    return jinja_slice(run, object, bounds);
}

jargs jinja_eval_args(jrun *run, const jcall *call) {
    if (!call) return (jargs){0};
    jvalue *at = jinja_take(run, call->items.count, sizeof *at);
    jnamed *named = jinja_take(run, call->named_count, sizeof *named);
    for (uint32_t i = 0; i < call->items.count; i++)
        at[i] = jinja_eval(run, call->items.at[i]);
    for (uint32_t i = 0; i < call->named_count; i++)
        named[i] = (jnamed){call->named[i].name, jinja_eval(run, call->named[i].node)};
    return (jargs){at, named, call->items.count, call->named_count};
}

static jvalue call_value(jrun *run, const jnode *node) {
    jvalue callee = jinja_eval(run, node->a);
    jargs args = jinja_eval_args(run, node->call);
    run->line = node->line;
    return jinja_call(run, callee, &args);
}

static jvalue filter_value(jrun *run, const jnode *node) {
    if (!node->filter)
        jinja_fail(run, "No filter named '%s' found.", jtext_chars_of(run, node->name));
    jvalue value = jinja_eval(run, node->a);
    jargs args = jinja_eval_args(run, node->call);
    run->line = node->line;
    return node->filter->call(run, value, &args);
}

static jvalue test_value(jrun *run, const jnode *node) {
    if (!node->test) jinja_fail(run, "No test named '%s' found.", jtext_chars_of(run, node->name));
    jvalue value = jinja_eval(run, node->a);
    jargs args = jinja_eval_args(run, node->call);
    run->line = node->line;
    return jvalue_bool(node->test->call(run, value, &args) != node->flag);
}

static jvalue concat_value(jrun *run, const jnode *node) {
    jbuffer *out = jbuffer_new(run);
    for (uint32_t i = 0; i < node->items.count; i++)
        jinja_print(run, out, jinja_eval(run, node->items.at[i]));
    return jvalue_text(jbuffer_text(run, out));
}

static jvalue compare_value(jrun *run, const jnode *node) {
    jvalue left = jinja_eval(run, node->a);
    for (uint32_t i = 0; i < node->items.count; i++) {
        const jnode *operand = node->items.at[i];
        jvalue right = jinja_eval(run, operand->a);
        run->line = node->line;
        if (!jinja_compare(run, (joperator)operand->op, left, right)) return jvalue_bool(false);
        left = right;
    }
    return jvalue_bool(true);
}

static jvalue no_else(jrun *run, const jnode *node) {
    char *sentence = jinja_take(run, 160, 1);
    snprintf(sentence, 160,
             "the inline if-expression on line %u evaluated to false and no else section was "
             "defined.",
             node->line);
    return jvalue_undefined_hint(run, sentence);
}

static jvalue cond_value(jrun *run, const jnode *node) {
    if (jvalue_truth(jinja_eval(run, node->a))) return jinja_eval(run, node->b);
    return node->c ? jinja_eval(run, node->c) : no_else(run, node);
}

/* The value that decides `a and b` or `a or b`. */
static jvalue logic_value(jrun *run, const jnode *node) {
    jvalue left = jinja_eval(run, node->a);
    return jvalue_truth(left) == (node->kind == JN_AND) ? jinja_eval(run, node->b) : left;
}

static jvalue binary_value(jrun *run, const jnode *node) {
    jvalue a = jinja_eval(run, node->a), b = jinja_eval(run, node->b);
    run->line = node->line;
    return jinja_binary(run, (joperator)node->op, a, b);
}

static jvalue item_value(jrun *run, const jnode *node) {
    jvalue object = jinja_eval(run, node->a);
    if (node->kind == JN_GETATTR) return jinja_getattr(run, object, node->name);
    jvalue key = jinja_eval(run, node->b);
    return jinja_getitem(run, object, key);
}

static jvalue value_of(jrun *run, const jnode *node) {
    switch (node->kind) {
    case JN_CONST:
        return node->value;
    case JN_NAME:
        return name_value(run, node->name);
    case JN_TUPLE:
    case JN_LIST:
        return list_value(run, node);
    case JN_DICT:
        return dict_value(run, node);
    case JN_GETATTR:
    case JN_GETITEM:
        return item_value(run, node);
    case JN_SLICE:
        return slice_value(run, node);
    case JN_CALL:
        return call_value(run, node);
    case JN_FILTER:
        return filter_value(run, node);
    case JN_TEST:
        return test_value(run, node);
    case JN_BLOCK:
        return run->block;
    case JN_NOT:
        return jvalue_bool(!jvalue_truth(jinja_eval(run, node->a)));
    case JN_SIGN:
        return jinja_sign(run, jinja_eval(run, node->a), node->flag);
    case JN_AND:
    case JN_OR:
        return logic_value(run, node);
    case JN_BINARY:
        return binary_value(run, node);
    case JN_CONCAT:
        return concat_value(run, node);
    case JN_COMPARE:
        return compare_value(run, node);
    case JN_COND:
        return cond_value(run, node);
    default:
        ESP_ASSERT(!"an expression");
    }
    return (jvalue){0};
}

jvalue jinja_eval(jrun *run, const jnode *node) {
    jinja_enter(run);
    jinja_charge(run, 1);
    run->line = node->line;
    jvalue value = value_of(run, node);
    jinja_leave(run);
    return value;
}
