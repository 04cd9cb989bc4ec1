/* jinja_call.c - calls: macros, methods, functions, and how arguments find their parameters. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/text/jinja/jinja_node.h"

/* ---- macros ---- */

static const jvalue *find_named(const jargs *args, const jtext *name) {
    for (uint32_t i = 0; i < args->named_count; i++)
        if (jtext_equal(args->named[i].name, name)) return &args->named[i].value;
    return NULL;
}

static jvalue not_provided(jrun *run, const jtext *name) {
    size_t room = name->bytes + 40u;
    char *sentence = jinja_take(run, room, 1);
    snprintf(sentence, room, "parameter '%.*s' was not provided", (int)name->bytes, name->at);
    return jvalue_undefined_hint(run, sentence);
}

/* Argument number i of the macro, in the macro's scope (a default may use earlier ones). */
static jvalue parameter_value(jrun *run, const jnamed_node *parameter, uint32_t i,
                              const jargs *args) {
    if (i < args->count) return args->at[i];
    const jvalue *named = find_named(args, parameter->name);
    if (named) return *named;
    return parameter->node ? jinja_eval(run, parameter->node) : not_provided(run, parameter->name);
}

static bool is_parameter(const jnode *macro, const jargs *args, const jtext *name) {
    for (uint32_t i = args->count; i < macro->call->named_count; i++)
        if (jtext_equal(macro->call->named[i].name, name)) return true;
    return false;
}

/* varargs: the surplus of positions; too many without it. */
static void bind_surplus(jrun *run, const jnode *macro, const jargs *args) {
    jlist *rest = jlist_new(run, JF_TUPLE);
    for (uint32_t i = macro->call->named_count; i < args->count; i++)
        jlist_push(run, rest, args->at[i]);
    if (rest->count && !macro->takes_varargs)
        jinja_fail(run, "macro '%s' takes not more than %u argument(s)",
                   jtext_chars_of(run, macro->name), macro->call->named_count);
    if (macro->takes_varargs)
        jscope_set(run, run->scope, jtext_literal(run, "varargs"), jvalue_list(rest));
}

/* kwargs: names that are no parameter; caller is apart. */
static void bind_unknown_names(jrun *run, const jnode *macro, const jargs *args) {
    jdict *rest = jdict_new(run);
    for (uint32_t i = 0; i < args->named_count; i++) {
        const jtext *name = args->named[i].name;
        if (is_parameter(macro, args, name)) continue;
        if (macro->takes_caller && jtext_is(name, "caller"))
            jscope_set(run, run->scope, name, args->named[i].value);
        else if (macro->takes_kwargs)
            jdict_set(run, rest, jvalue_text(name), args->named[i].value);
        else
            jinja_fail(run, "macro '%s' takes no keyword argument '%s'",
                       jtext_chars_of(run, macro->name), jtext_chars_of(run, name));
    }
    if (macro->takes_kwargs)
        jscope_set(run, run->scope, jtext_literal(run, "kwargs"),
                   (jvalue){.kind = J_DICT, .dict = rest});
}

static jvalue call_macro(jrun *run, const jmacro *macro, const jargs *args) {
    const jnode *node = macro->node;
    jscope *around = run->scope, *scope = jinja_take(run, 1, sizeof *scope);
    scope->parent = macro->scope;
    run->scope = scope;
    bind_surplus(run, node, args);
    bind_unknown_names(run, node, args);
    for (uint32_t i = 0; i < node->call->named_count; i++)
        jscope_set(run, scope, node->call->named[i].name,
                   parameter_value(run, &node->call->named[i], i, args));
    const jtext *text = jinja_run_apart(run, &node->body, scope);
    run->scope = around;
    return jvalue_text(text);
}

jvalue jinja_call(jrun *run, jvalue callee, const jargs *args) {
    switch (callee.kind) {
    case J_MACRO:
        return call_macro(run, callee.macro, args);
    case J_METHOD:
        return callee.bound->method->call(run, callee.bound->self, args);
    case J_FUNCTION:
        return callee.function->call(run, args);
    case J_UNDEFINED:
        jinja_fail_undefined(run, callee.undefined);
    default:
        jinja_fail(run, "'%s' object is not callable", jvalue_type(callee));
    }
}

/* ---- parameters of filters, tests, methods and functions ---- */

static uint32_t count_names(const char *names) {
    uint32_t count = *names != 0;
    for (; *names; names++)
        count += *names == ' ';
    return count;
}

/* Number of the parameter with that name, or count. */
static uint32_t name_index(const char *names, const jtext *name) {
    uint32_t index = 0;
    while (*names) {
        size_t bytes = strcspn(names, " ");
        if (name->bytes == bytes && memcmp(name->at, names, bytes) == 0) break;
        names += bytes + (names[bytes] != 0);
        index++;
    }
    return index;
}

void jinja_bind(jrun *run, const char *function, const char *names, const jargs *args,
                jvalue *slots) {
    uint32_t count = count_names(names);
    if (args->count > count)
        jinja_fail(run, "%s() takes at most %u arguments (%u given)", function, count, args->count);
    for (uint32_t i = 0; i < count; i++)
        slots[i] = i < args->count ? args->at[i] : (jvalue){0};
    for (uint32_t i = 0; i < args->named_count; i++) {
        const jtext *name = args->named[i].name;
        uint32_t index = name_index(names, name);
        if (index == count)
            jinja_fail(run, "%s() got an unexpected keyword argument '%s'", function,
                       jtext_chars_of(run, name));
        if (slots[index].kind != J_MISSING)
            jinja_fail(run, "%s() got multiple values for argument '%s'", function,
                       jtext_chars_of(run, name));
        slots[index] = args->named[i].value;
    }
}

const jtext *jinja_text_or(jrun *run, jvalue slot, const char *otherwise) {
    if (slot.kind == J_STRING) return slot.text;
    if (slot.kind == J_UNDEFINED) jinja_fail_undefined(run, slot.undefined);
    if (slot.kind != J_MISSING) jinja_fail(run, "argument must be str, not %s", jvalue_type(slot));
    if (!otherwise) jinja_fail(run, "a required argument is not given");
    return jtext_literal(run, otherwise);
}

int64_t jinja_int_or(jrun *run, jvalue slot, int64_t otherwise) {
    if (slot.kind == J_MISSING) return otherwise;
    if (slot.kind == J_UNDEFINED) jinja_fail_undefined(run, slot.undefined);
    if (slot.kind != J_INT && slot.kind != J_BOOL)
        jinja_fail(run, "'%s' object cannot be interpreted as an integer", jvalue_type(slot));
    return jvalue_integer(slot);
}
