/* jinja_parse.c - parses the tags of a template into a tree of statements. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/text/jinja/jinja_node.h"

/* ---- shared with jinja_expression.c ---- */

/* A sentence's name for the token that is there. */
static const char *token_name(jparser *p) {
    switch (p->at->kind) {
    case JT_DATA:
        return "text";
    case JT_PRINT_BEGIN:
        return "{{";
    case JT_PRINT_END:
        return "}}";
    case JT_BLOCK_BEGIN:
        return "{%";
    case JT_BLOCK_END:
        return "%}";
    case JT_STRING:
        return "a string";
    case JT_INT:
    case JT_FLOAT:
        return "a number";
    case JT_END:
        return "the end of the template";
    default:
        return jtext_chars_of(p->run, p->at->text);
    }
}

_Noreturn void jparse_fail(jparser *p, const char *wanted) {
    p->run->line = p->at->line;
    jinja_fail(p->run, "%s where %s is wanted", token_name(p), wanted);
}

bool jparse_is(const jparser *p, const char *operator_text) {
    return p->at->kind == JT_OPERATOR && jtext_is(p->at->text, operator_text);
}

bool jparse_is_name(const jparser *p, const char *name) {
    return p->at->kind == JT_NAME && jtext_is(p->at->text, name);
}

bool jparse_skip(jparser *p, const char *operator_text) {
    bool is = jparse_is(p, operator_text);
    p->at += is;
    return is;
}

bool jparse_skip_name(jparser *p, const char *name) {
    bool is = jparse_is_name(p, name);
    p->at += is;
    return is;
}

void jparse_expect(jparser *p, const char *operator_text) {
    if (!jparse_skip(p, operator_text)) jparse_fail(p, operator_text);
}

const jtext *jparse_name(jparser *p) {
    if (p->at->kind != JT_NAME) jparse_fail(p, "a name");
    return p->at++->text;
}

void jparse_enter(jparser *p) {
    if (++p->nesting > JINJA_NESTING_MAX)
        jinja_fail(p->run, "more than %d blocks and brackets inside each other", JINJA_NESTING_MAX);
}

jnode *jparse_node(jparser *p, jnode_kind kind) {
    jnode *node = jinja_take(p->run, 1, sizeof *node);
    node->kind = (uint8_t)kind;
    node->line = p->run->line = p->at->line;
    return node;
}

static uint32_t higher(uint32_t height, const jnode *child) {
    return child && child->height + 1u > height ? child->height + 1u : height;
}

jnode *jparse_over(jparser *p, jnode *node) {
    uint32_t height = higher(higher(higher(node->height, node->a), node->b), node->c);
    for (uint32_t i = 0; i < node->items.count; i++)
        height = higher(height, node->items.at[i]);
    for (uint32_t i = 0; node->call && i < node->call->items.count; i++)
        height = higher(height, node->call->items.at[i]);
    for (uint32_t i = 0; node->call && i < node->call->named_count; i++)
        height = higher(height, node->call->named[i].node);
    if (height > JINJA_DEPTH_MAX)
        jinja_fail(p->run, "an expression of more than %d levels", JINJA_DEPTH_MAX);
    node->height = (uint16_t)height;
    return node;
}

void jnodes_push(jrun *run, jnodes *nodes, jnode *node) {
    if (nodes->count == nodes->room) {
        uint32_t room = nodes->room ? nodes->room * 2 : 4;
        jnode **at = jinja_take(run, room, sizeof(jnode *));
        if (nodes->count) memcpy(at, nodes->at, nodes->count * sizeof(jnode *));
        nodes->at = at;
        nodes->room = room;
    }
    nodes->at[nodes->count++] = node;
}

void jcall_push(jrun *run, jcall *call, const jtext *name, jnode *node) {
    if (!name) {
        jnodes_push(run, &call->items, node);
        return;
    }
    if (call->named_count == call->named_room) {
        uint32_t room = call->named_room ? call->named_room * 2 : 4;
        jnamed_node *named = jinja_take(run, room, sizeof *named);
        if (call->named_count) memcpy(named, call->named, call->named_count * sizeof *named);
        call->named = named;
        call->named_room = room;
    }
    call->named[call->named_count++] = (jnamed_node){name, node};
}

/* ---- bodies ---- */

static jnode *statement(jparser *p);

static void block_end(jparser *p) {
    if (p->at->kind != JT_BLOCK_END) jparse_fail(p, "%}");
    p->at++;
}

static jnode *print_tag(jparser *p) {
    jnode *node = jparse_node(p, JN_PRINT);
    p->at++;
    node->a = jparse_tuple(p, true);
    if (p->at->kind != JT_PRINT_END) jparse_fail(p, "}}");
    p->at++;
    return node;
}

static jnode *data(jparser *p) {
    jnode *node = jparse_node(p, JN_DATA);
    node->value = jvalue_text(p->at++->text);
    return node;
}

/* The names that end the body being read, "endif|else|elif"; the tag is then left at its name. */
static bool ends_body(const jparser *p, const char *ends) {
    if (p->at[1].kind != JT_NAME) return false;
    const jtext *name = p->at[1].text;
    for (const char *at = ends; *at;) {
        size_t bytes = strcspn(at, "|");
        if (name->bytes == bytes && memcmp(name->at, at, bytes) == 0) return true;
        at += bytes + (at[bytes] != 0);
    }
    return false;
}

/* Reads up to the tag with one of the names; "" reads to the template's end. */
static void body(jparser *p, jnodes *out, const char *ends) {
    jparse_enter(p);
    for (;;) {
        if (p->at->kind == JT_END) {
            if (*ends) jparse_fail(p, ends);
            break;
        }
        jnode *node = NULL;
        if (p->at->kind == JT_DATA) {
            node = data(p);
        } else if (p->at->kind == JT_PRINT_BEGIN) {
            node = print_tag(p);
        } else {
            if (*ends && ends_body(p, ends)) {
                p->at++;
                break;
            }
            p->at++;
            node = statement(p);
            block_end(p);
        }
        jnodes_push(p->run, out, node);
    }
    p->nesting--;
}

/* A body with one closing name, which is passed. */
static void whole_body(jparser *p, jnodes *out, const char *end) {
    block_end(p);
    body(p, out, end);
    p->at++;
}

/* ---- statements; each begins behind its name and stops before its last %} ---- */

static jnode *branch(jparser *p, bool has_test) {
    jnode *node = jparse_node(p, JN_BRANCH);
    if (has_test) node->a = jparse_tuple(p, false);
    block_end(p);
    p->conditional++;
    body(p, &node->body, has_test ? "elif|else|endif" : "endif");
    p->conditional--;
    return node;
}

static jnode *if_tag(jparser *p) {
    jnode *node = jparse_node(p, JN_IF);
    jnodes_push(p->run, &node->items, branch(p, true));
    while (jparse_skip_name(p, "elif"))
        jnodes_push(p->run, &node->items, branch(p, true));
    if (jparse_skip_name(p, "else")) jnodes_push(p->run, &node->items, branch(p, false));
    if (!jparse_skip_name(p, "endif")) jparse_fail(p, "endif");
    return node;
}

static jnode *for_tag(jparser *p) {
    jnode *node = jparse_node(p, JN_FOR);
    node->a = jparse_target(p, false);
    if (!jparse_skip_name(p, "in")) jparse_fail(p, "in");
    node->b = jparse_tuple(p, false);
    if (jparse_skip_name(p, "if")) node->c = jparse_expression(p);
    if (jparse_is_name(p, "recursive"))
        jinja_fail(p->run, "recursive loops are not supported; a macro can call itself");
    block_end(p);
    p->loops++;
    body(p, &node->body, "else|endfor");
    p->loops--;
    if (jparse_skip_name(p, "else")) {
        block_end(p);
        body(p, &node->otherwise, "endfor");
    }
    p->at++;
    return node;
}

static jnode *set_tag(jparser *p) {
    jnode *node = jparse_node(p, JN_SET);
    node->a = jparse_target(p, true);
    if (jparse_skip(p, "=")) {
        node->b = jparse_tuple(p, true);
        return node;
    }
    node->kind = JN_SET_BLOCK;
    node->b = jparse_filters(p, jparse_node(p, JN_BLOCK), jparse_skip(p, "|"));
    whole_body(p, &node->body, "endset");
    return node;
}

static void parameters(jparser *p, jnode *macro) {
    macro->call = jinja_take(p->run, 1, sizeof *macro->call);
    jparse_expect(p, "(");
    for (bool first = true; !jparse_is(p, ")"); first = false) {
        if (!first) jparse_expect(p, ",");
        if (jparse_is(p, ")")) break;
        const jtext *name = jparse_name(p);
        bool has_default = jparse_skip(p, "=");
        uint32_t before = macro->call->named_count;
        if (!has_default && before && macro->call->named[before - 1].node)
            jinja_fail(p->run, "a parameter without a default behind one with a default");
        jcall_push(p->run, macro->call, name, has_default ? jparse_expression(p) : NULL);
    }
    jparse_expect(p, ")");
}

/* A function's body: loops around it are none of its own. */
static void macro_body(jparser *p, jnode *macro, const char *end) {
    jnode *around = p->macro;
    uint32_t loops = p->loops;
    p->macro = macro;
    p->loops = 0;
    whole_body(p, &macro->body, end);
    p->macro = around;
    p->loops = loops;
}

static jnode *macro_tag(jparser *p) {
    jnode *node = jparse_node(p, JN_MACRO);
    node->name = jparse_name(p);
    parameters(p, node);
    macro_body(p, node, "endmacro");
    return node;
}

static jnode *call_tag(jparser *p) {
    jnode *node = jparse_node(p, JN_CALL_BLOCK);
    node->b = jparse_node(p, JN_MACRO);
    node->b->name = jtext_literal(p->run, "caller");
    node->b->call = jinja_take(p->run, 1, sizeof *node->b->call);
    if (jparse_is(p, "(")) parameters(p, node->b);
    node->a = jparse_unary(p, true);
    if (node->a->kind != JN_CALL) jparse_fail(p, "a call");
    macro_body(p, node->b, "endcall");
    return node;
}

static jnode *filter_tag(jparser *p) {
    jnode *node = jparse_node(p, JN_FILTER_BLOCK);
    node->b = jparse_filters(p, jparse_node(p, JN_BLOCK), true);
    whole_body(p, &node->body, "endfilter");
    return node;
}

static jnode *with_tag(jparser *p) {
    jnode *node = jparse_node(p, JN_WITH);
    while (p->at->kind != JT_BLOCK_END) {
        if (node->items.count) jparse_expect(p, ",");
        jnode *target = jparse_one_target(p, false);
        jparse_expect(p, "=");
        jnodes_push(p->run, &node->items, target);
        jnodes_push(p->run, &node->items, jparse_expression(p));
    }
    whole_body(p, &node->body, "endwith");
    return node;
}

static jnode *generation_tag(jparser *p) {
    jnode *node = jparse_node(p, JN_GENERATION);
    uint32_t loops = p->loops;
    p->loops = 0;
    whole_body(p, &node->body, "endgeneration");
    p->loops = loops;
    return node;
}

static jnode *loop_control(jparser *p, jnode_kind kind) {
    if (p->loops == 0) jinja_fail(p->run, "break or continue outside a loop");
    return jparse_node(p, kind);
}

static jnode *break_tag(jparser *p) { return loop_control(p, JN_BREAK); }
static jnode *continue_tag(jparser *p) { return loop_control(p, JN_CONTINUE); }

/* Several values behind print are printed side by side, not as a tuple. */
static jnode *print_statement(jparser *p) {
    jnode *node = jparse_node(p, JN_PRINT);
    node->a = jparse_node(p, JN_CONCAT);
    do
        jnodes_push(p->run, &node->a->items, jparse_expression(p));
    while (jparse_skip(p, ","));
    jparse_over(p, node->a);
    return node;
}

static jnode *statement(jparser *p) {
    static const struct {
        const char *name;
        jnode *(*parse)(jparser *p);
    } tags[] = {{"if", if_tag},
                {"for", for_tag},
                {"set", set_tag},
                {"macro", macro_tag},
                {"call", call_tag},
                {"filter", filter_tag},
                {"with", with_tag},
                {"generation", generation_tag},
                {"break", break_tag},
                {"continue", continue_tag},
                {"print", print_statement}};
    p->run->line = p->at->line;
    const jtext *name = jparse_name(p);
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (jtext_is(name, tags[i].name)) return tags[i].parse(p);
    jinja_fail(p->run, "the tag '%s' is not known here", jtext_chars_of(p->run, name));
}

void jinja_parse(jrun *run, const jtokens *tokens, jnodes *out) {
    jparser p = {.run = run, .at = tokens->at};
    body(&p, out, "");
}
