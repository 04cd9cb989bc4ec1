/* jinja_value.h - the values of one render, and how a render fails. Inner to engine/text/jinja*.c.
 *
 * All values live in the run's arena and die with it. Failure does not return: jinja_fail jumps to
 * the one setjmp in jinja.c, for every function below may fail (a limit, a type), an expression
 * calls hundreds of them, and with nothing to free but the arena there is nothing to unwind.
 *
 * Thread  one run belongs to one thread. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_JINJA_VALUE_H
#define ESPALIER_TEXT_JINJA_VALUE_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/mem.h"
#include "engine/base/status.h"
#include "engine/text/jinja/jinja.h"

/* ---- strings ---- */

typedef struct jspan {
    uint32_t begin, end;
} jspan;

/* A string being built; strings made from it share its memory. */
typedef struct jbuffer {
    char *at;
    jspan *plain;
    uint32_t bytes, room;
    uint32_t plain_count, plain_room;
    uint32_t plain_fixed; /* spans that a string already shows: not to be lengthened */
} jbuffer;

/* An immutable string: UTF-8 by custom, any bytes by right (a byte that is no UTF-8 counts as one
 * character). plain: the ranges that came from data, ascending, disjoint, possibly touching. */
typedef struct jtext {
    const char *at;
    const jspan *plain;
    jbuffer *buffer; /* that holds it, if it may grow in place there; else NULL */
    uint32_t bytes, plain_count;
} jtext;

/* ---- values ---- */

typedef enum jkind {
    J_MISSING, /* no value: an argument not given, a name not found; never seen by a template */
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STRING,
    J_LIST, /* and tuple, range, generator, dict view: see jflavour */
    J_DICT,
    J_NAMESPACE,
    J_LOOP,
    J_MACRO,
    J_METHOD,   /* a method of a value, not yet called */
    J_FUNCTION, /* a global function */
} jkind;

typedef enum jflavour {
    JF_LIST,
    JF_TUPLE,
    JF_RANGE,
    JF_GENERATOR, /* can be gone through once; has no length and no elements */
    JF_ITEMS,     /* dict views: have a length, but no elements */
    JF_KEYS,
    JF_VALUES,
} jflavour;

typedef struct jvalue {
    uint8_t kind; /* jkind */
    bool plain;   /* a number that came from data */
    bool markup;  /* a string of `safe` or `escape`: what + adds to it is escaped */
    union {
        bool truth;
        int64_t integer;
        double real;
        const jtext *text;
        struct jlist *list;
        struct jdict *dict; /* J_DICT, J_NAMESPACE */
        const struct jundefined *undefined;
        struct jloop *loop;
        const struct jmacro *macro;
        const struct jbound *bound;
        const struct jfunction *function;
    };
} jvalue;

typedef struct jlist {
    jvalue *at;
    uint32_t count, room;
    uint32_t taken; /* a generator's elements that are gone */
    uint8_t flavour;
} jlist;

typedef struct jpair {
    jvalue key, value;
} jpair;

typedef struct jdict {
    jpair *at; /* in order of insertion */
    uint32_t count, room;
} jdict;

/* Why there is no value; the sentence is made when somebody asks. */
typedef struct jundefined {
    const char *hint; /* the whole sentence, or NULL: then */
    jvalue object;    /* what was looked at (J_MISSING: the variables) */
    jvalue name;      /* and for what */
} jundefined;

typedef struct jloop {
    const jlist *items;
    uint32_t index0;
    jvalue changed; /* arguments of the last loop.changed(); J_MISSING before */
} jloop;

typedef struct jnamed {
    const jtext *name;
    jvalue value;
} jnamed;

/* Arguments of a call, evaluated. */
typedef struct jargs {
    const jvalue *at;
    const jnamed *named;
    uint32_t count, named_count;
} jargs;

typedef struct jrun jrun;

typedef struct jfunction {
    const char *name;
    jvalue (*call)(jrun *run, const jargs *args);
} jfunction;

typedef struct jmethod {
    const char *name;
    jvalue (*call)(jrun *run, jvalue self, const jargs *args);
} jmethod;

typedef struct jbound {
    jvalue self;
    const jmethod *method;
} jbound;

/* ---- a run ---- */

struct jrun {
    jmp_buf failed;
    esp_error *err;
    mem_arena *arena;
    const char *limit_sentence; /* for the cap of the arena */
    uint64_t steps_left;
    uint32_t depth;       /* of evaluation, and of any walk over nested values */
    uint32_t line;        /* of the template, for sentences */
    struct jscope *scope; /* variables, innermost first (jinja_run.c) */
    jbuffer *out;         /* what print statements write to */
    jvalue block;         /* text of the block whose filters are being applied */
    int64_t now_us;
};

_Noreturn void jinja_fail(jrun *run, const char *format, ...) ESP_PRINTF(2, 3);
/* raise_exception: the message is the whole sentence. */
_Noreturn void jinja_raise(jrun *run, const jtext *message);
_Noreturn void jinja_fail_output(jrun *run);
/* Uses an undefined value where one with a value is needed. */
_Noreturn void jinja_fail_undefined(jrun *run, const jundefined *undefined);

/* Zeroed memory of the run. */
void *jinja_take(jrun *run, uint64_t count, size_t size);
void jinja_charge(jrun *run, uint64_t steps);
static inline void jinja_charge_bytes(jrun *run, uint64_t bytes) {
    jinja_charge(run, 1 + bytes / 64);
}
/* What is gone through character by character costs more than what is copied. */
static inline void jinja_charge_walk(jrun *run, uint64_t bytes) {
    jinja_charge(run, 1 + bytes / 16);
}
/* Around every recursion. */
void jinja_enter(jrun *run);
static inline void jinja_leave(jrun *run) { run->depth--; }

/* ---- jinja_text.c ---- */

jbuffer *jbuffer_new(jrun *run);
void jbuffer_put(jrun *run, jbuffer *buffer, const char *at, uint64_t bytes, bool plain);
void jbuffer_put_literal(jrun *run, jbuffer *buffer, const char *literal);
void jbuffer_put_text(jrun *run, jbuffer *buffer, const jtext *text);
/* The code point as UTF-8. */
void jbuffer_put_point(jrun *run, jbuffer *buffer, uint32_t point, bool plain);
/* What was put so far, as a string that may grow in place. */
const jtext *jbuffer_text(jrun *run, jbuffer *buffer);

const jtext *jtext_new(jrun *run, const char *at, uint64_t bytes, bool plain);
const jtext *jtext_literal(jrun *run, const char *literal);
/* Half-open range of bytes; shares the memory. */
const jtext *jtext_cut(jrun *run, const jtext *text, uint64_t begin, uint64_t end);
const jtext *jtext_join(jrun *run, const jtext *left, const jtext *right);
bool jtext_equal(const jtext *a, const jtext *b);
bool jtext_is(const jtext *text, const char *literal);
int jtext_compare(const jtext *a, const jtext *b);
bool jtext_any_plain(const jtext *text);
/* Offset of needle at or after from, or -1. */
int64_t jtext_find(jrun *run, const jtext *text, const jtext *needle, uint64_t from);
uint32_t jtext_chars(jrun *run, const jtext *text);
/* Bytes of the character that begins at offset; *point is 0xFFFD for a byte that is no UTF-8. */
uint32_t jtext_char(const jtext *text, uint32_t offset, uint32_t *point);
/* Bytes of the character that ends at offset. */
uint32_t jtext_char_before(const jtext *text, uint32_t offset, uint32_t *point);
/* Byte offset of a character's number. */
uint32_t jtext_offset(jrun *run, const jtext *text, uint32_t chars);
/* Walks the spans in step with a rising offset. */
bool jtext_plain_at(const jtext *text, uint32_t offset, uint32_t *span);
/* Strips the characters of set (NULL: white space) from the ends asked for. */
const jtext *jtext_strip(jrun *run, const jtext *text, const jtext *set, bool left, bool right);
/* &, <, >, ' and " as HTML entities. */
const jtext *jtext_escape(jrun *run, const jtext *text);
/* limit < 0: all. */
const jtext *jtext_replace(jrun *run, const jtext *text, const jtext *from, const jtext *to,
                           int64_t limit);

/* ---- jinja_case.c ---- */

bool jinja_is_space(uint32_t point); /* str.isspace and the \s of Python's re */
bool jinja_is_printable(uint32_t point);
bool jinja_is_letter_or_number(uint32_t point);
bool jinja_is_cased(uint32_t point);
static inline bool jinja_is_digit(char c) { return c >= '0' && c <= '9'; }
const jtext *jtext_upper(jrun *run, const jtext *text);
const jtext *jtext_lower(jrun *run, const jtext *text);
const jtext *jtext_capitalize(jrun *run, const jtext *text);
bool jtext_has_case(const jtext *text, bool upper); /* str.isupper, str.islower */

/* ---- jinja_value.c ---- */

static inline jvalue jvalue_none(void) { return (jvalue){.kind = J_NONE}; }
static inline jvalue jvalue_bool(bool truth) { return (jvalue){.kind = J_BOOL, .truth = truth}; }
static inline jvalue jvalue_int(int64_t integer) {
    return (jvalue){.kind = J_INT, .integer = integer};
}
static inline jvalue jvalue_float(double real) { return (jvalue){.kind = J_FLOAT, .real = real}; }
static inline jvalue jvalue_text(const jtext *text) {
    return (jvalue){.kind = J_STRING, .text = text};
}
static inline jvalue jvalue_list(jlist *list) { return (jvalue){.kind = J_LIST, .list = list}; }
jvalue jvalue_literal(jrun *run, const char *literal);
jvalue jvalue_undefined(jrun *run, jvalue object, jvalue name);
jvalue jvalue_undefined_hint(jrun *run, const char *hint);
jvalue jvalue_from_json(jrun *run, const json_t *json, bool plain);

jlist *jlist_new(jrun *run, jflavour flavour);
void jlist_push(jrun *run, jlist *list, jvalue value);
jdict *jdict_new(jrun *run);
/* NULL when it is not there; fails for a key that cannot be one. */
jvalue *jdict_find(jrun *run, const jdict *dict, jvalue key);
void jdict_set(jrun *run, jdict *dict, jvalue key, jvalue value);

const char *jvalue_type(jvalue value);   /* Python's name of the type */
const char *jvalue_object(jvalue value); /* as in "'dict object' has no attribute 'x'" */
static inline bool jvalue_is_number(jvalue v) {
    return v.kind == J_BOOL || v.kind == J_INT || v.kind == J_FLOAT;
}
static inline int64_t jvalue_integer(jvalue v) { return v.kind == J_BOOL ? v.truth : v.integer; }
static inline double jvalue_real(jvalue v) {
    return v.kind == J_FLOAT ? v.real : (double)jvalue_integer(v);
}
bool jvalue_truth(jvalue value);
bool jvalue_equal(jrun *run, jvalue a, jvalue b);
/* The same for one of many: each costs a step, which a lone comparison's expression has paid. */
bool jvalue_equal_item(jrun *run, jvalue a, jvalue b);
/* -1, 0, 1; 2 when neither holds (NaN). Fails, naming the operator, for types without an order. */
int jvalue_order(jrun *run, jvalue a, jvalue b, const char *operator_text);
int64_t jvalue_length(jrun *run, jvalue value); /* len() */
bool jvalue_has_length(jvalue value);
bool jvalue_contains(jrun *run, jvalue container, jvalue value);
/* The elements that a for loop would see; a generator's are gone afterwards. */
const jlist *jvalue_iterate(jrun *run, jvalue value);
bool jvalue_is_iterable(jvalue value);

/* ---- jinja_format.c ---- */

/* str(): what {{ }} prints. */
const jtext *jvalue_string(jrun *run, jvalue value);
void jinja_print(jrun *run, jbuffer *out, jvalue value);
void jinja_repr(jrun *run, jbuffer *out, jvalue value);
const char *jinja_repr_chars(jrun *run, jvalue value); /* NUL-terminated, for sentences */
const char *jtext_chars_of(jrun *run, const jtext *text);
/* repr(float); text holds 32 bytes. */
void jinja_print_float(double real, char *text);

/* ---- jinja_json.c ---- */

jvalue jinja_tojson(jrun *run, jvalue value, const jargs *args);

/* ---- jinja_operators.c ---- */

typedef enum joperator {
    JO_ADD,
    JO_SUB,
    JO_MUL,
    JO_DIV,
    JO_FLOOR,
    JO_MOD,
    JO_POW,
    JO_EQ,
    JO_NE,
    JO_LT,
    JO_LE,
    JO_GT,
    JO_GE,
    JO_IN,
    JO_NOT_IN,
} joperator;

jvalue jinja_binary(jrun *run, joperator op, jvalue a, jvalue b);
jvalue jinja_sign(jrun *run, jvalue a, bool negative);
bool jinja_compare(jrun *run, joperator op, jvalue a, jvalue b);

/* ---- jinja_fill.c: texts with places to fill ---- */

jvalue jinja_percent(jrun *run, const jtext *format, jvalue values); /* "%s" % x */
jvalue jinja_percent_args(jrun *run, const jtext *format, const jargs *args);
jvalue jinja_fill_format(jrun *run, jvalue self, const jargs *args); /* str.format */

/* ---- jinja_methods.c ---- */

/* str.splitlines */
const jlist *jinja_lines(jrun *run, const jtext *text, bool keep_ends);

/* ---- jinja_attribute.c ---- */

jvalue jinja_getattr(jrun *run, jvalue object, const jtext *name); /* a.b */
jvalue jinja_getitem(jrun *run, jvalue object, jvalue key);        /* a[b] */
/* bounds: J_MISSING or J_NONE where left out. */
jvalue jinja_slice(jrun *run, jvalue object, const jvalue bounds[3]);

/* ---- jinja_call.c ---- */

jvalue jinja_call(jrun *run, jvalue callee, const jargs *args);

/* Sorts the arguments of a call into the parameters named in `names` ("old new count"); those not
 * given are J_MISSING. Fails when there are too many, twice or unknown ones. */
void jinja_bind(jrun *run, const char *function, const char *names, const jargs *args,
                jvalue *slots);
/* The value of a slot as a string, an integer or a truth, or what stands for it when missing; a
 * string whose `otherwise` is NULL must be given. */
const jtext *jinja_text_or(jrun *run, jvalue slot, const char *otherwise);
int64_t jinja_int_or(jrun *run, jvalue slot, int64_t otherwise);
static inline bool jinja_truth_or(jvalue slot, bool otherwise) {
    return slot.kind == J_MISSING ? otherwise : jvalue_truth(slot);
}

/* ---- tables: filters, tests, methods, functions ---- */

typedef struct jfilter {
    const char *name;
    jvalue (*call)(jrun *run, jvalue value, const jargs *args);
} jfilter;

typedef struct jtest {
    const char *name;
    bool (*call)(jrun *run, jvalue value, const jargs *args);
} jtest;

/* NULL when there is none of that name. */
const jfilter *jinja_filter(const jtext *name);
const jfilter *jinja_sequence_filter(const jtext *name);
const jtest *jinja_test(const jtext *name);
const jmethod *jinja_string_method(const jtext *name);
const jmethod *jinja_container_method(jvalue self, const jtext *name);
bool jinja_is_mutator(jvalue self, const jtext *name); /* append, update, ...: refused */
const jfunction *jinja_function(const jtext *name);
jvalue jinja_loop_attribute(jrun *run, jvalue loop, const jtext *name); /* J_MISSING: none */

#endif
