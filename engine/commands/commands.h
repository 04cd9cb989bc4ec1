/* commands.h - the commands of the espalier program, one a file, and what several of them need.
 *
 * A command reads its options (flags.h), works, prints its result on stdout, and returns ESP_OK or
 * a code with one sentence, which main.c prints. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_COMMANDS_H
#define ESPALIER_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/adapters/adapters.h"
#include "engine/base/status.h"
#include "engine/config.h"
#include "engine/flags.h"
#include "engine/model/model.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"

#define DEFAULT_ADDRESS "127.0.0.1:8470"

esp_code command_serve(int argc, char **argv, esp_error *err);
esp_code command_chat(int argc, char **argv, esp_error *err);
esp_code command_health(int argc, char **argv, esp_error *err);
esp_code command_generate(int argc, char **argv, esp_error *err);
esp_code command_logits(int argc, char **argv, esp_error *err);
esp_code command_embed(int argc, char **argv, esp_error *err);
esp_code command_classify(int argc, char **argv, esp_error *err);
esp_code command_tokenize(int argc, char **argv, esp_error *err);
esp_code command_detokenize(int argc, char **argv, esp_error *err);
esp_code command_render(int argc, char **argv, esp_error *err);
esp_code command_inspect(int argc, char **argv, esp_error *err);
esp_code command_bench(int argc, char **argv, esp_error *err);
esp_code command_replay(int argc, char **argv, esp_error *err);
esp_code command_adapter(int argc, char **argv, esp_error *err);
esp_code command_make_weights(int argc, char **argv, esp_error *err);

/* Reads the options into target. *go is false when there is nothing more to do: --help was printed,
 * or the code says why. */
ESP_CHECKED esp_code command_options(const flag_command *command, int argc, char **argv,
                                     void *target, bool *go, esp_error *err);

/* "1,2,3" (blanks allowed) -> ids, each below vocab. */
ESP_CHECKED esp_code read_ids(const char *text, uint32_t vocab, tok_ids *out, esp_error *err);

/* --concurrency: "1,4,16", each a number of requests that live at once. */
enum { CONCURRENCIES_MAX = 32 };
ESP_CHECKED esp_code read_concurrency(const char *text, tok_ids *out, esp_error *err);

/* All of standard input, whatever bytes it holds; *out is malloc'd, also when it fails. */
ESP_CHECKED esp_code read_stdin(char **out, size_t *bytes, esp_error *err);

/* --tools and --arg, of commands that take --messages. */
typedef struct chat_config {
    const char *tools;
    flag_list args;
} chat_config;
extern const flag_table chat_flags; /* of chat_config */

/* What those options say; conversation_free, also after a failure. */
typedef struct conversation {
    struct json_t *messages;  /* array of {"role", "content", ...} */
    struct json_t *tools;     /* array, or NULL */
    struct json_t *variables; /* object, or NULL */
} conversation;
ESP_CHECKED esp_code conversation_read(const char *messages, const chat_config *config,
                                       conversation *out, esp_error *err);
ESP_CHECKED esp_code conversation_render(const chat_template *t, const conversation *c,
                                         bool add_generation_prompt, chat_prompt *out,
                                         esp_error *err);
void conversation_free(conversation *c);

/* Text of a model on stdout, as it is; on a terminal its control characters but newline and tab are
 * shown (^[ for escape), because there they would be commands. Whole UTF-8 characters. */
void print_model_text(const char *text, size_t bytes);

/* A reference on the index-th --adapter of an engine opened with this config; NULL where none was given. */
struct engine;
ESP_CHECKED esp_code chosen_adapter(const struct engine *e, const model_config *config,
                                    uint32_t index, adapter **out, esp_error *err);
/* For commands that run one request: ESP_OUT_OF_RANGE when --adapter was given twice. */
ESP_CHECKED esp_code check_one_adapter(const model_config *config, esp_error *err);

/* Model file and tokenizer, for commands that compute nothing. */
typedef struct opened_file {
    model_file *file;
    tokenizer *tok;
} opened_file;
ESP_CHECKED esp_code open_file(const char *path, opened_file *out, esp_error *err);
void close_file(opened_file *opened);

#endif
