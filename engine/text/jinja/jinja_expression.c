/* jinja_expression.c - parses expressions. Loosest first:
 *
 *   expression  a if test else b
 *   or, and, not
 *   comparison  == != < <= > >= in, not in; chained as in Python
 *   sum         + -
 *   concat      ~
 *   product     * / // %
 *   power       **, from the left
 *   unary       - +, then a primary with its .b [c] (d), |filters and `is` tests
 *
 * A sign binds closer than a filter: -1 | abs is (-1) | abs. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/text/jinja/jinja_node.h"

static jnode *unary_node(jparser *p, jnode_kind kind, jnode *a) {
    jnode *node = jparse_node(p, kind);
    node->a = a;
    return jparse_over(p, node);
}

static jnode *binary_node(jparser *p, jnode_kind kind, joperator op, jnode *a, jnode *b) {
    jnode *node = jparse_node(p, kind);
    node->op = (uint8_t)op;
    node->a = a;
    node->b = b;
    return jparse_over(p, node);
}

static jnode *const_node(jparser *p, jvalue value) {
    jnode *node = jparse_node(p, JN_CONST);
    node->value = value;
    return node;
}

/* ---- primaries ---- */

static jnode *name_or_constant(jparser *p) {
    static const struct {
        const char *name;
        jvalue value;
    } constants[] = {{"true", {.kind = J_BOOL, .truth = true}},
                     {"True", {.kind = J_BOOL, .truth = true}},
                     {"false", {.kind = J_BOOL}},
                     {"False", {.kind = J_BOOL}},
                     {"none", {.kind = J_NONE}},
                     {"None", {.kind = J_NONE}}};
    const jtext *name = jparse_name(p);
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (jtext_is(name, constants[i].name)) return const_node(p, constants[i].value);
    jnode *node = jparse_node(p, JN_NAME);
    node->name = name;
    if (p->macro) {
        p->macro->takes_varargs |= jtext_is(name, "varargs");
        p->macro->takes_kwargs |= jtext_is(name, "kwargs");
        p->macro->takes_caller |= jtext_is(name, "caller");
    }
    return node;
}

/* Strings beside each other are one. */
static jnode *strings(jparser *p) {
    const jtext *text = p->at->text;
    jnode *node = jparse_node(p, JN_CONST);
    for (p->at++; p->at->kind == JT_STRING; p->at++)
        text = jtext_join(p->run, text, p->at->text);
    /* The template is shared by threads: its strings never grow in place. */
    node->value = jvalue_text(jtext_new(p->run, text->at, text->bytes, false));
    return node;
}

static jnode *list(jparser *p) {
    jnode *node = jparse_node(p, JN_LIST);
    jparse_expect(p, "[");
    while (!jparse_is(p, "]")) {
        if (node->items.count) jparse_expect(p, ",");
        if (jparse_is(p, "]")) break;
        jnodes_push(p->run, &node->items, jparse_expression(p));
    }
    jparse_expect(p, "]");
    return jparse_over(p, node);
}

static jnode *dict(jparser *p) {
    jnode *node = jparse_node(p, JN_DICT);
    jparse_expect(p, "{");
    while (!jparse_is(p, "}")) {
        if (node->items.count) jparse_expect(p, ",");
        if (jparse_is(p, "}")) break;
        jnodes_push(p->run, &node->items, jparse_expression(p));
        jparse_expect(p, ":");
        jnodes_push(p->run, &node->items, jparse_expression(p));
    }
    jparse_expect(p, "}");
    return jparse_over(p, node);
}

static jnode *parenthesis(jparser *p) {
    jparse_expect(p, "(");
    jnode *node;
    if (jparse_is(p, ")"))
        node = jparse_node(p, JN_TUPLE);
    else
        node = jparse_tuple(p, true);
    jparse_expect(p, ")");
    return node;
}

static jnode *primary(jparser *p) {
    const jtoken *token = p->at;
    switch (token->kind) {
    case JT_NAME:
        return name_or_constant(p);
    case JT_STRING:
        return strings(p);
    case JT_INT:
    case JT_FLOAT:
        p->at++;
        return const_node(p, token->number);
    default:
        break;
    }
    jparse_enter(p);
    jnode *node = NULL;
    if (jparse_is(p, "("))
        node = parenthesis(p);
    else if (jparse_is(p, "["))
        node = list(p);
    else if (jparse_is(p, "{"))
        node = dict(p);
    else
        jparse_fail(p, "an expression");
    p->nesting--;
    return node;
}

/* ---- what follows a primary ---- */

static jcall *call_arguments(jparser *p) {
    jcall *call = jinja_take(p->run, 1, sizeof *call);
    jparse_enter(p);
    jparse_expect(p, "(");
    for (bool first = true; !jparse_is(p, ")"); first = false) {
        if (!first) jparse_expect(p, ",");
        if (jparse_is(p, ")")) break;
        if (jparse_is(p, "*") || jparse_is(p, "**"))
            jinja_fail(p->run, "star arguments are not supported");
        const jtext *name = NULL;
        if (p->at->kind == JT_NAME && p->at[1].kind == JT_OPERATOR &&
            jtext_is(p->at[1].text, "=")) {
            name = jparse_name(p);
            p->at++;
        } else if (call->named_count) {
            jparse_fail(p, "a named argument");
        }
        jcall_push(p->run, call, name, jparse_expression(p));
    }
    jparse_expect(p, ")");
    p->nesting--;
    return call;
}

static jnode *call(jparser *p, jnode *callee) {
    jnode *node = jparse_node(p, JN_CALL);
    node->a = callee;
    node->call = call_arguments(p);
    return jparse_over(p, node);
}

static jnode *dotted(jparser *p, jnode *object) {
    jparse_expect(p, ".");
    if (p->at->kind == JT_INT) {
        jnode *index = const_node(p, p->at++->number);
        return binary_node(p, JN_GETITEM, JO_ADD, object, index);
    }
    jnode *node = jparse_node(p, JN_GETATTR);
    node->a = object;
    node->name = jparse_name(p);
    return jparse_over(p, node);
}

/* The three bounds; `first` was read already, or NULL. */
static jnode *slice(jparser *p, jnode *object, jnode *first) {
    jnode *node = jparse_node(p, JN_SLICE);
    node->a = object;
    jnodes_push(p->run, &node->items, first);
    for (int i = 1; i < 3; i++) {
        jnode *bound = NULL;
        if (jparse_skip(p, ":") && !jparse_is(p, ":") && !jparse_is(p, "]"))
            bound = jparse_expression(p);
        jnodes_push(p->run, &node->items, bound);
    }
    return jparse_over(p, node);
}

static jnode *subscript(jparser *p, jnode *object) {
    jparse_enter(p);
    jparse_expect(p, "[");
    jnode *first = jparse_is(p, ":") ? NULL : jparse_expression(p), *node;
    if (jparse_is(p, ":")) {
        node = slice(p, object, first);
    } else if (jparse_is(p, ",")) {
        jnode *key = jparse_node(p, JN_TUPLE);
        jnodes_push(p->run, &key->items, first);
        while (jparse_skip(p, ",") && !jparse_is(p, "]"))
            jnodes_push(p->run, &key->items, jparse_expression(p));
        node = binary_node(p, JN_GETITEM, JO_ADD, object, jparse_over(p, key));
    } else {
        node = binary_node(p, JN_GETITEM, JO_ADD, object, first);
    }
    jparse_expect(p, "]");
    p->nesting--;
    return node;
}

static jnode *postfix(jparser *p, jnode *node) {
    for (;;) {
        if (jparse_is(p, "."))
            node = dotted(p, node);
        else if (jparse_is(p, "["))
            node = subscript(p, node);
        else if (jparse_is(p, "("))
            node = call(p, node);
        else
            return node;
    }
}

static jnode *filter(jparser *p, jnode *value) {
    jnode *node = jparse_node(p, JN_FILTER);
    node->a = value;
    node->name = jparse_name(p);
    node->filter = jinja_filter(node->name);
    if (!node->filter && p->conditional == 0)
        jinja_fail(p->run, "No filter named '%s'.", jtext_chars_of(p->run, node->name));
    if (jparse_is(p, "(")) node->call = call_arguments(p);
    return jparse_over(p, node);
}

/* An argument without brackets: `x is divisibleby 3`. */
static bool bare_argument(const jparser *p) {
    if (p->at->kind == JT_NAME)
        return !jparse_is_name(p, "else") && !jparse_is_name(p, "or") && !jparse_is_name(p, "and");
    return p->at->kind == JT_STRING || p->at->kind == JT_INT || p->at->kind == JT_FLOAT ||
           jparse_is(p, "[") || jparse_is(p, "{");
}

static jnode *test(jparser *p, jnode *value) {
    jnode *node = jparse_node(p, JN_TEST);
    p->at++; /* is */
    node->flag = jparse_skip_name(p, "not");
    node->a = value;
    node->name = jparse_name(p);
    node->test = jinja_test(node->name);
    if (!node->test && p->conditional == 0)
        jinja_fail(p->run, "No test named '%s'.", jtext_chars_of(p->run, node->name));
    if (jparse_is(p, "(")) {
        node->call = call_arguments(p);
    } else if (bare_argument(p)) {
        if (jparse_is_name(p, "is")) jinja_fail(p->run, "You cannot chain multiple tests with is");
        node->call = jinja_take(p->run, 1, sizeof *node->call);
        jcall_push(p->run, node->call, NULL, postfix(p, primary(p)));
    }
    return jparse_over(p, node);
}

jnode *jparse_filters(jparser *p, jnode *node, bool first_without_pipe) {
    if (first_without_pipe) node = filter(p, node);
    for (;;) {
        if (jparse_skip(p, "|"))
            node = filter(p, node);
        else if (!first_without_pipe && jparse_is_name(p, "is"))
            node = test(p, node);
        else if (!first_without_pipe && jparse_is(p, "("))
            node = call(p, node);
        else
            return node;
    }
}

/* ---- operators ---- */

jnode *jparse_unary(jparser *p, bool with_filter) {
    jparse_enter(p);
    jnode *node;
    if (jparse_is(p, "-") || jparse_is(p, "+")) {
        bool minus = jparse_is(p, "-");
        p->at++;
        node = unary_node(p, JN_SIGN, jparse_unary(p, false));
        node->flag = minus;
    } else {
        node = primary(p);
    }
    node = postfix(p, node);
    p->nesting--;
    return with_filter ? jparse_filters(p, node, false) : node;
}

static jnode *power(jparser *p) {
    jnode *node = jparse_unary(p, true);
    while (jparse_skip(p, "**"))
        node = binary_node(p, JN_BINARY, JO_POW, node, jparse_unary(p, true));
    return node;
}

static jnode *product(jparser *p) {
    jnode *node = power(p);
    for (;;) {
        if (jparse_skip(p, "*"))
            node = binary_node(p, JN_BINARY, JO_MUL, node, power(p));
        else if (jparse_skip(p, "/"))
            node = binary_node(p, JN_BINARY, JO_DIV, node, power(p));
        else if (jparse_skip(p, "//"))
            node = binary_node(p, JN_BINARY, JO_FLOOR, node, power(p));
        else if (jparse_skip(p, "%"))
            node = binary_node(p, JN_BINARY, JO_MOD, node, power(p));
        else
            return node;
    }
}

static jnode *concat(jparser *p) {
    jnode *first = product(p);
    if (!jparse_is(p, "~")) return first;
    jnode *node = jparse_node(p, JN_CONCAT);
    jnodes_push(p->run, &node->items, first);
    while (jparse_skip(p, "~"))
        jnodes_push(p->run, &node->items, product(p));
    return jparse_over(p, node);
}

static jnode *sum(jparser *p) {
    jnode *node = concat(p);
    for (;;) {
        if (jparse_skip(p, "+"))
            node = binary_node(p, JN_BINARY, JO_ADD, node, concat(p));
        else if (jparse_skip(p, "-"))
            node = binary_node(p, JN_BINARY, JO_SUB, node, concat(p));
        else
            return node;
    }
}

/* The comparison that begins here, passed; false when there is none. */
static bool comparison_operator(jparser *p, joperator *op) {
    static const struct {
        const char *text;
        joperator op;
    } all[] = {{"==", JO_EQ}, {"!=", JO_NE}, {"<", JO_LT},
               {"<=", JO_LE}, {">", JO_GT},  {">=", JO_GE}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (jparse_skip(p, all[i].text)) return *op = all[i].op, true;
    if (jparse_skip_name(p, "in")) return *op = JO_IN, true;
    bool not_in =
        jparse_is_name(p, "not") && p->at[1].kind == JT_NAME && jtext_is(p->at[1].text, "in");
    if (not_in) p->at += 2;
    *op = JO_NOT_IN;
    return not_in;
}

static jnode *comparison(jparser *p) {
    joperator op;
    jnode *first = sum(p), *node = NULL;
    while (comparison_operator(p, &op)) {
        if (!node) {
            node = jparse_node(p, JN_COMPARE);
            node->a = first;
        }
        jnode *operand = unary_node(p, JN_OPERAND, sum(p));
        operand->op = (uint8_t)op;
        jnodes_push(p->run, &node->items, operand);
    }
    return node ? jparse_over(p, node) : first;
}

static jnode *negation(jparser *p) {
    if (!jparse_is_name(p, "not")) return comparison(p);
    jparse_enter(p);
    p->at++;
    jnode *node = unary_node(p, JN_NOT, negation(p));
    p->nesting--;
    return node;
}

static jnode *conjunction(jparser *p) {
    jnode *node = negation(p);
    while (jparse_skip_name(p, "and"))
        node = binary_node(p, JN_AND, JO_ADD, node, negation(p));
    return node;
}

jnode *jparse_condition(jparser *p) {
    jnode *node = conjunction(p);
    while (jparse_skip_name(p, "or"))
        node = binary_node(p, JN_OR, JO_ADD, node, conjunction(p));
    return node;
}

jnode *jparse_expression(jparser *p) {
    jnode *value = jparse_condition(p);
    while (jparse_skip_name(p, "if")) {
        jnode *node = jparse_node(p, JN_COND);
        node->b = value;
        p->conditional++;
        node->a = jparse_condition(p);
        if (jparse_skip_name(p, "else")) {
            jparse_enter(p);
            node->c = jparse_expression(p);
            p->nesting--;
        }
        p->conditional--;
        value = jparse_over(p, node);
    }
    return value;
}

/* Where a tuple without brackets may end after a comma. */
static bool tuple_ends(const jparser *p) {
    return p->at->kind == JT_PRINT_END || p->at->kind == JT_BLOCK_END || jparse_is(p, ")") ||
           jparse_is_name(p, "in") || jparse_is(p, "=");
}

jnode *jparse_tuple(jparser *p, bool inline_if) {
    jnode *first = inline_if ? jparse_expression(p) : jparse_condition(p);
    if (!jparse_is(p, ",")) return first;
    jnode *node = jparse_node(p, JN_TUPLE);
    jnodes_push(p->run, &node->items, first);
    while (jparse_skip(p, ",") && !tuple_ends(p))
        jnodes_push(p->run, &node->items, inline_if ? jparse_expression(p) : jparse_condition(p));
    return jparse_over(p, node);
}

jnode *jparse_one_target(jparser *p, bool attributes) {
    if (jparse_skip(p, "(")) {
        jparse_enter(p);
        jnode *inner = jparse_target(p, attributes);
        jparse_expect(p, ")");
        p->nesting--;
        return inner;
    }
    const jtext *name = jparse_name(p);
    jnode *node = jparse_node(p, JN_NAME);
    if (attributes && jparse_skip(p, ".")) {
        node->kind = JN_ATTRIBUTE;
        node->value = jvalue_text(jparse_name(p));
    }
    node->name = name;
    return node;
}

jnode *jparse_target(jparser *p, bool attributes) {
    jnode *first = jparse_one_target(p, attributes);
    if (!jparse_is(p, ",")) return first;
    jnode *node = jparse_node(p, JN_TUPLE);
    jnodes_push(p->run, &node->items, first);
    while (jparse_skip(p, ",") && !tuple_ends(p))
        jnodes_push(p->run, &node->items, jparse_one_target(p, attributes));
    return jparse_over(p, node);
}
