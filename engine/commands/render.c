/* render.c - espalier render: chat messages -> the prompt text, byte for byte. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "engine/commands/commands.h"
#include "engine/config.h"

typedef struct options {
    model_config model;
    const char *messages;
    bool no_generation_prompt;
} options;

static const flag own_flags[] = {
    {.name = "messages",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, messages),
     .placeholder = "FILE",
     .required = true,
     .help = "JSON: [{\"role\": \"user\", \"content\": \"Hello\"}, ...]"},
    {.name = "no-generation-prompt",
     .kind = FLAG_SWITCH,
     .offset = offsetof(options, no_generation_prompt),
     .help = "end behind the last message instead of where the answer begins"},
    {.name = "tools", .kind = FLAG_LATER, .placeholder = "FILE"},
    {.name = "arg", .kind = FLAG_LATER, .placeholder = "KEY=JSON"},
};
static const flag_table own_table = {
    .title = "Messages", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "render",
    .summary = "Prints the prompt that the model's chat template makes of messages, byte for byte.",
    .usage = "--model PATH --messages FILE [--no-generation-prompt]",
    .examples = "  espalier render --model m.gguf --messages chat.json\n",
    .part = {{&config_file_flags, offsetof(options, model)}, {&own_table, 0}},
};

static esp_code render(const options *o, const model_file *file, const message_list *messages,
                       esp_error *err) {
    size_t bytes;
    const char *source = model_file_template(file, &bytes);
    if (!source) return esp_fail(err, ESP_PRECONDITION, "the model file holds no chat template");
    chat_template *template = NULL;
    chat_prompt prompt = {0};
    tokenizer *tok = NULL;
    esp_code code = template_open(&template, source, bytes, err);
    if (code == ESP_OK) code = model_file_tokenizer(file, &tok, err);
    if (code == ESP_OK) template_set_tokens_of(template, tok);
    if (code == ESP_OK)
        code = template_render(template, messages->at, messages->count, !o->no_generation_prompt,
                               &prompt, err);
    if (code == ESP_OK) fwrite(prompt.text, 1, prompt.bytes, stdout);
    chat_prompt_free(&prompt);
    template_close(template);
    tok_close(tok);
    return code;
}

esp_code command_render(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    model_file *file = NULL;
    message_list messages = {0};
    code = model_file_open(&file, o.model.model_path, err);
    if (code == ESP_OK) code = read_messages(o.messages, &messages, err);
    if (code == ESP_OK) code = render(&o, file, &messages, err);
    messages_free(&messages);
    model_file_close(file);
    return code;
}
