/* jinja_run.c - runs statements.
 *
 * Scopes are Jinja's: a for loop's body (anew each time round), a macro's and the block forms have
 * one of their own; an if has not. set writes the innermost. What shall outlive a loop goes into a
 * namespace. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/text/jinja/jinja_node.h"

static jflow run_statement(jrun *run, const jnode *node);

jflow jinja_run_body(jrun *run, const jnodes *body) {
    jinja_enter(run);
    jflow flow = JFLOW_ON;
    for (uint32_t i = 0; i < body->count && flow == JFLOW_ON; i++)
        flow = run_statement(run, body->at[i]);
    jinja_leave(run);
    return flow;
}

static jscope *new_scope(jrun *run, jscope *parent) {
    jscope *scope = jinja_take(run, 1, sizeof *scope);
    scope->parent = parent;
    return scope;
}

const jtext *jinja_run_apart(jrun *run, const jnodes *body, jscope *scope) {
    jscope *around = run->scope;
    jbuffer *out = run->out;
    run->scope = scope;
    run->out = jbuffer_new(run);
    jinja_run_body(run, body);
    const jtext *text = jbuffer_text(run, run->out);
    run->out = out;
    run->scope = around;
    return text;
}

/* ---- set ---- */

static void assign(jrun *run, const jnode *target, jvalue value);

static void unpack(jrun *run, const jnode *target, jvalue value) {
    if (!jvalue_is_iterable(value))
        jinja_fail(run, "cannot unpack non-iterable %s object", jvalue_type(value));
    const jlist *list = jvalue_iterate(run, value);
    uint32_t wanted = target->items.count;
    if (list->count < wanted)
        jinja_fail(run, "not enough values to unpack (expected %u, got %u)", wanted, list->count);
    if (list->count > wanted) jinja_fail(run, "too many values to unpack (expected %u)", wanted);
    for (uint32_t i = 0; i < wanted; i++)
        assign(run, target->items.at[i], list->at[i]);
}

static void assign_attribute(jrun *run, const jnode *target, jvalue value) {
    jvalue space = jscope_get(run, target->name);
    if (space.kind != J_NAMESPACE)
        jinja_fail(run, "cannot assign attribute on non-namespace object");
    jdict_set(run, space.dict, target->value, value);
}

static void assign(jrun *run, const jnode *target, jvalue value) {
    jinja_charge(run, 1);
    if (target->kind == JN_TUPLE)
        unpack(run, target, value);
    else if (target->kind == JN_ATTRIBUTE)
        assign_attribute(run, target, value);
    else
        jscope_set(run, run->scope, target->name, value);
}

/* The block's text through its filters. */
static jvalue block_value(jrun *run, const jnode *node) {
    jvalue around = run->block;
    run->block = jvalue_text(jinja_run_apart(run, &node->body, new_scope(run, run->scope)));
    jvalue value = jinja_eval(run, node->b);
    run->block = around;
    return value;
}

/* ---- blocks ---- */

static jflow run_if(jrun *run, const jnode *node) {
    for (uint32_t i = 0; i < node->items.count; i++) {
        const jnode *branch = node->items.at[i];
        if (!branch->a || jvalue_truth(jinja_eval(run, branch->a)))
            return jinja_run_body(run, &branch->body);
    }
    return JFLOW_ON;
}

/* The items that the loop's own condition lets through. */
static const jlist *loop_items(jrun *run, const jnode *node) {
    const jlist *all = jvalue_iterate(run, jinja_eval(run, node->b));
    if (!node->c) return all;
    jlist *some = jlist_new(run, JF_LIST);
    jscope *around = run->scope;
    run->scope = new_scope(run, around);
    for (uint32_t i = 0; i < all->count; i++) {
        assign(run, node->a, all->at[i]);
        if (jvalue_truth(jinja_eval(run, node->c))) jlist_push(run, some, all->at[i]);
    }
    run->scope = around;
    return some;
}

static jflow run_loop(jrun *run, const jnode *node, const jlist *items) {
    jscope *scope = new_scope(run, run->scope);
    jloop *loop = jinja_take(run, 1, sizeof *loop);
    const jtext *name = jtext_literal(run, "loop");
    loop->items = items;
    run->scope = scope;
    for (uint32_t i = 0; i < items->count; i++) {
        scope->count = 0;
        loop->index0 = i;
        jscope_set(run, scope, name, (jvalue){.kind = J_LOOP, .loop = loop});
        assign(run, node->a, items->at[i]);
        if (jinja_run_body(run, &node->body) == JFLOW_BREAK) break;
    }
    run->scope = scope->parent;
    return JFLOW_ON;
}

static jflow run_in_scope(jrun *run, const jnodes *body) {
    run->scope = new_scope(run, run->scope);
    jflow flow = jinja_run_body(run, body);
    run->scope = run->scope->parent;
    return flow;
}

static jflow run_for(jrun *run, const jnode *node) {
    const jlist *items = loop_items(run, node);
    if (items->count) return run_loop(run, node, items);
    return run_in_scope(run, &node->otherwise);
}

/* The values are those of the scope around. */
static jflow run_with(jrun *run, const jnode *node) {
    jscope *around = run->scope, *scope = new_scope(run, around);
    for (uint32_t i = 0; i < node->items.count; i += 2) {
        jvalue value = jinja_eval(run, node->items.at[i + 1]);
        run->scope = scope;
        assign(run, node->items.at[i], value);
        run->scope = around;
    }
    run->scope = scope;
    jflow flow = jinja_run_body(run, &node->body);
    run->scope = around;
    return flow;
}

static jvalue macro_value(jrun *run, const jnode *node) {
    jmacro *macro = jinja_take(run, 1, sizeof *macro);
    *macro = (jmacro){node, run->scope};
    return (jvalue){.kind = J_MACRO, .macro = macro};
}

/* Calls with one more named argument: caller. */
static jvalue call_block_value(jrun *run, const jnode *node) {
    jvalue callee = jinja_eval(run, node->a->a);
    jargs args = jinja_eval_args(run, node->a->call);
    jnamed *named = jinja_take(run, args.named_count + 1u, sizeof *named);
    if (args.named_count) memcpy(named, args.named, args.named_count * sizeof *named);
    named[args.named_count++] = (jnamed){node->b->name, macro_value(run, node->b)};
    args.named = named;
    return jinja_call(run, callee, &args);
}

/* ---- all ---- */

static jflow run_statement(jrun *run, const jnode *node) {
    jinja_charge(run, 1);
    run->line = node->line;
    switch (node->kind) {
    case JN_DATA:
        jinja_print(run, run->out, node->value);
        break;
    case JN_PRINT:
        jinja_print(run, run->out, jinja_eval(run, node->a));
        break;
    case JN_IF:
        return run_if(run, node);
    case JN_FOR:
        return run_for(run, node);
    case JN_SET:
        assign(run, node->a, jinja_eval(run, node->b));
        break;
    case JN_SET_BLOCK:
        assign(run, node->a, block_value(run, node));
        break;
    case JN_MACRO:
        jscope_set(run, run->scope, node->name, macro_value(run, node));
        break;
    case JN_CALL_BLOCK:
        jinja_print(run, run->out, call_block_value(run, node));
        break;
    case JN_FILTER_BLOCK:
        jinja_print(run, run->out, block_value(run, node));
        break;
    case JN_WITH:
        return run_with(run, node);
    case JN_GENERATION:
        return run_in_scope(run, &node->body);
    case JN_BREAK:
        return JFLOW_BREAK;
    case JN_CONTINUE:
        return JFLOW_CONTINUE;
    default:
        ESP_ASSERT(!"a statement");
    }
    if (run->out->bytes > JINJA_OUTPUT_BYTES_MAX) jinja_fail_output(run);
    return JFLOW_ON;
}
