/* jinja_node.h - a template's tokens and its tree. Inner to engine/text/jinja*.c. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_JINJA_NODE_H
#define ESPALIER_TEXT_JINJA_NODE_H

#include "engine/text/jinja/jinja_value.h"

/* ---- tokens (jinja_lex.c) ---- */

typedef enum jtoken_kind {
    JT_DATA, /* text between the tags, white space control done */
    JT_PRINT_BEGIN,
    JT_PRINT_END,
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_NAME,
    JT_STRING, /* escapes resolved */
    JT_INT,
    JT_FLOAT,
    JT_OPERATOR, /* text is "+", "==", ... */
    JT_END,
} jtoken_kind;

typedef struct jtoken {
    uint8_t kind;
    uint32_t line;
    const jtext *text;
    jvalue number;
} jtoken;

typedef struct jtokens {
    jtoken *at; /* the last one is JT_END */
    uint32_t count, room;
} jtokens;

void jinja_lex(jrun *run, const char *source, size_t bytes, jtokens *out);

/* ---- tree (jinja_parse.c, jinja_expression.c) ---- */

typedef enum jnode_kind {
    /* expressions       what they use of a node */
    JN_CONST,   /* value */
    JN_NAME,    /* name */
    JN_TUPLE,   /* items */
    JN_LIST,    /* items */
    JN_DICT,    /* items: key, value, key, value, ... */
    JN_GETATTR, /* a.name */
    JN_GETITEM, /* a[b] */
    JN_SLICE,   /* a[items 0 : 1 : 2], each may be NULL */
    JN_CALL,    /* a(call) */
    JN_FILTER,  /* a | name(call), filter */
    JN_TEST,    /* a is name(call), test; flag: is not */
    JN_BLOCK,   /* the text of the block around: what `{% filter %}` filters */
    JN_NOT,     /* a */
    JN_SIGN,    /* a; flag: minus */
    JN_AND,     /* a, b */
    JN_OR,      /* a, b */
    JN_BINARY,  /* a op b */
    JN_CONCAT,  /* items, joined by ~ */
    JN_COMPARE, /* a, then items: JN_OPERAND */
    JN_OPERAND, /* op a */
    JN_COND,    /* b if a else c; c may be NULL */
    /* statements */
    JN_DATA,         /* value */
    JN_PRINT,        /* a */
    JN_IF,           /* items: JN_BRANCH */
    JN_BRANCH,       /* a (NULL: else), body */
    JN_FOR,          /* for a in b if c: body, otherwise */
    JN_SET,          /* a = b */
    JN_SET_BLOCK,    /* a, b: the filters over the block's text, body */
    JN_ATTRIBUTE,    /* name.value as a target of set */
    JN_MACRO,        /* name, call: parameters, body */
    JN_CALL_BLOCK,   /* a: the call, b: JN_MACRO that is its caller */
    JN_FILTER_BLOCK, /* b, body */
    JN_WITH,         /* items: target, value, ...; body */
    JN_GENERATION,   /* body */
    JN_BREAK,
    JN_CONTINUE,
} jnode_kind;

typedef struct jnode jnode;

typedef struct jnodes {
    jnode **at;
    uint32_t count, room;
} jnodes;

typedef struct jnamed_node {
    const jtext *name;
    jnode *node; /* NULL: a parameter without a default */
} jnamed_node;

/* Arguments of a call, or the parameters of a macro (all in named, then). */
typedef struct jcall {
    jnodes items;
    jnamed_node *named;
    uint32_t named_count, named_room;
} jcall;

struct jnode {
    uint8_t kind, op;
    bool flag;
    bool takes_varargs, takes_kwargs, takes_caller; /* JN_MACRO: its body names them */
    uint16_t height; /* of the expression below: bounds the evaluator's recursion */
    uint32_t line;
    const jtext *name;
    jvalue value;
    jnode *a, *b, *c;
    jnodes items, body, otherwise;
    jcall *call;
    const jfilter *filter; /* NULL: none of that name; fails when it is reached */
    const jtest *test;
};

struct jinja_template {
    mem_arena *arena;
    jnodes body;
};

typedef struct jparser {
    jrun *run;
    const jtoken *at;
    uint32_t nesting;
    uint32_t loops;       /* for blocks around */
    uint32_t conditional; /* branches around: an unknown filter there may never be reached */
    jnode *macro;         /* innermost macro around, or NULL */
} jparser;

void jinja_parse(jrun *run, const jtokens *tokens, jnodes *body);

/* Between the two parser files. */
_Noreturn void jparse_fail(jparser *p, const char *wanted);
bool jparse_is(const jparser *p, const char *operator_text);
bool jparse_is_name(const jparser *p, const char *name);
bool jparse_skip(jparser *p, const char *operator_text);
bool jparse_skip_name(jparser *p, const char *name);
void jparse_expect(jparser *p, const char *operator_text);
const jtext *jparse_name(jparser *p);
void jparse_enter(jparser *p);
jnode *jparse_node(jparser *p, jnode_kind kind);
/* Keeps the height of a node whose children are set. */
jnode *jparse_over(jparser *p, jnode *node);
void jnodes_push(jrun *run, jnodes *nodes, jnode *node);
void jcall_push(jrun *run, jcall *call, const jtext *name, jnode *node);

jnode *jparse_expression(jparser *p);
jnode *jparse_condition(jparser *p);               /* without an inline if */
jnode *jparse_tuple(jparser *p, bool inline_if);   /* commas make a tuple */
jnode *jparse_target(jparser *p, bool attributes); /* of set and for; commas unpack */
jnode *jparse_one_target(jparser *p, bool attributes);
jnode *jparse_filters(jparser *p, jnode *node, bool first_without_pipe);
jnode *jparse_unary(jparser *p, bool with_filter);

/* ---- evaluation (jinja_eval.c, jinja_run.c) ---- */

typedef struct jvariable {
    const jtext *name;
    jvalue value;
} jvariable;

typedef struct jscope {
    struct jscope *parent;
    jvariable *at;
    uint32_t count, room;
} jscope;

typedef struct jmacro {
    const jnode *node;
    jscope *scope; /* where it was defined */
} jmacro;

jvalue jinja_eval(jrun *run, const jnode *node);
jargs jinja_eval_args(jrun *run, const jcall *call);

/* How a body ended: {% break %} and {% continue %} leave the bodies up to their loop. */
typedef enum jflow { JFLOW_ON, JFLOW_BREAK, JFLOW_CONTINUE } jflow;
jflow jinja_run_body(jrun *run, const jnodes *body);
/* The body in a scope of its own, as a string. */
const jtext *jinja_run_apart(jrun *run, const jnodes *body, jscope *scope);
void jscope_set(jrun *run, jscope *scope, const jtext *name, jvalue value);
jvalue jscope_get(jrun *run, const jtext *name); /* J_MISSING when there is none */

#endif
