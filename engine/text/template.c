/* template.c - the published chat templates that are known by their text.
 *
 * All known ones are ChatML: "<|im_start|>role\ncontent<|im_end|>\n" a message, and an opened
 * assistant turn at the end when asked for. One form puts a system message in front when the
 * conversation brings none; its sentence is read out of the template. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/template.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

/* A template's source is `begin`, a sentence, `end`; without a sentence `end` is NULL. Compared
 * with the source in its plain form (see plain_form). */
typedef struct template_row {
    const char *begin, *end;
} template_row;

#define EACH "{% for message in messages %}"
#define FIRST "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
#define TURN                                                                                       \
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"       \
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

static const template_row rows[] = {
    /* SmolLM2 ("You are a helpful AI assistant named SmolLM, ..."), Qwen2 */
    {EACH FIRST, "<|im_end|>\n' }}{% endif %}" TURN},
    /* SmolLM and other plain ChatML */
    {EACH TURN, NULL},
};

struct chat_template {
    bool has_system;
    tok_text system; /* sentence of the default system message; malloc'd */
};

/* ---- recognising ---- */

/* The same newline in a string literal is written as itself or as \n, and Jinja drops one newline
 * at the end of a template: one form for both. Returns a malloc'd text. */
static tok_text plain_form(const char *source, size_t bytes) {
    char *out = mem_copy_text(source, bytes);
    size_t count = 0;
    if (bytes && source[bytes - 1] == '\n') bytes--;
    for (size_t i = 0; i < bytes; i++) {
        bool escape = source[i] == '\\' && i + 1 < bytes && source[i + 1] == 'n';
        out[count++] = escape ? '\n' : source[i];
        i += escape;
    }
    return (tok_text){out, count};
}

/* A sentence that means itself inside a string literal: no quote, escape or line to interpret. */
static bool is_sentence(tok_text text) {
    for (size_t i = 0; i < text.bytes; i++) {
        uint8_t c = (uint8_t)text.at[i];
        if (c < 0x20 || c == '\'' || c == '\\' || c == '{' || c == '}' || c == 0x7f) return false;
    }
    return true;
}

static bool row_matches(const template_row *row, tok_text source, tok_text *sentence) {
    size_t begin = strlen(row->begin), end = row->end ? strlen(row->end) : 0;
    if (source.bytes < begin + end || memcmp(source.at, row->begin, begin) != 0) return false;
    *sentence = (tok_text){source.at + begin, source.bytes - begin - end};
    if (!row->end) return sentence->bytes == 0;
    return memcmp(sentence->at + sentence->bytes, row->end, end) == 0 && is_sentence(*sentence);
}

esp_code template_open(chat_template **out, const char *source, size_t bytes, esp_error *err) {
    ESP_ASSERT(out && (source || bytes == 0));
    *out = NULL;
    tok_text plain = plain_form(source ? source : "", bytes);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tok_text sentence;
        if (!row_matches(&rows[i], plain, &sentence)) continue;
        chat_template *t = mem_new(1, sizeof *t);
        t->has_system = rows[i].end != NULL;
        t->system = (tok_text){mem_copy_text(sentence.at, sentence.bytes), sentence.bytes};
        *out = t;
        break;
    }
    free((void *)plain.at);
    if (*out) return ESP_OK;
    return esp_fail_field(err, ESP_UNIMPLEMENTED, "tokenizer.chat_template",
                          "the model's chat template (%zu bytes) is none of the known ones (ChatML "
                          "as SmolLM2 and Qwen2 have it); send prompt text or token ids instead",
                          bytes);
}

void template_close(chat_template *t) {
    if (!t) return;
    free((void *)t->system.at);
    free(t);
}

/* ---- rendering ---- */

/* The prompt grows here; the same code first runs with text == NULL to measure. */
typedef struct writer {
    char *text;
    uint64_t bytes;
    tok_span *plain;
    uint32_t plain_count;
    bool overflow;
} writer;

static void put(writer *w, tok_text piece) {
    if (w->text && piece.bytes) memcpy(w->text + w->bytes, piece.at, piece.bytes);
    if (!check_add(w->bytes, piece.bytes, &w->bytes)) w->overflow = true;
}

static void put_literal(writer *w, const char *literal) {
    put(w, (tok_text){literal, strlen(literal)});
}

/* Text of the client's: no special token is taken out of it. */
static void put_plain(writer *w, tok_text piece) {
    uint64_t begin = w->bytes;
    put(w, piece);
    if (piece.bytes == 0) return;
    if (w->plain) w->plain[w->plain_count] = (tok_span){begin, w->bytes};
    w->plain_count++;
}

static bool is_system(tok_text role) {
    return role.bytes == 6 && memcmp(role.at, "system", 6) == 0;
}

static void write_prompt(writer *w, const chat_template *t, const chat_message *messages,
                         uint32_t count, bool add_generation_prompt) {
    if (t->has_system && count > 0 && !is_system(messages[0].role)) {
        put_literal(w, "<|im_start|>system\n");
        put(w, t->system);
        put_literal(w, "<|im_end|>\n");
    }
    for (uint32_t i = 0; i < count; i++) {
        put_literal(w, "<|im_start|>");
        put_plain(w, messages[i].role);
        put_literal(w, "\n");
        put_plain(w, messages[i].content);
        put_literal(w, "<|im_end|>\n");
    }
    if (add_generation_prompt) put_literal(w, "<|im_start|>assistant\n");
}

esp_code template_render(const chat_template *t, const chat_message *messages, uint32_t count,
                         bool add_generation_prompt, chat_prompt *out, esp_error *err) {
    ESP_ASSERT(t && out && (messages || count == 0));
    *out = (chat_prompt){0};
    if (count > CHAT_MESSAGES_MAX)
        return esp_fail_field(err, ESP_INVALID, "messages", "%u messages; at most %d are taken",
                              count, CHAT_MESSAGES_MAX);
    writer measure = {0};
    write_prompt(&measure, t, messages, count, add_generation_prompt);
    if (measure.overflow || measure.bytes > CHAT_PROMPT_BYTES_MAX)
        return esp_fail_field(err, ESP_INVALID, "messages",
                              "the messages make a prompt of %llu bytes; at most %d are taken",
                              (unsigned long long)measure.bytes, CHAT_PROMPT_BYTES_MAX);
    writer w = {.text = mem_new(measure.bytes + 1, 1),
                .plain = mem_new((size_t)measure.plain_count + 1, sizeof(tok_span))};
    write_prompt(&w, t, messages, count, add_generation_prompt);
    ESP_ASSERT(w.bytes == measure.bytes && w.plain_count == measure.plain_count);
    *out = (chat_prompt){w.text, w.bytes, w.plain, w.plain_count};
    return ESP_OK;
}

void chat_prompt_free(chat_prompt *prompt) {
    free(prompt->text);
    free(prompt->plain);
    *prompt = (chat_prompt){0};
}
