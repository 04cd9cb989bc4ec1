/* render.c - espalier render: chat messages -> the prompt text, byte for byte. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "engine/commands/commands.h"
#include "engine/config.h"

typedef struct options {
    model_config model;
    chat_config chat;
    const char *messages;
    bool no_generation_prompt;
} options;

static const flag own_flags[] = {
    {.name = "messages",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, messages),
     .placeholder = "FILE",
     .required = true,
     .help = "JSON: [{\"role\": \"user\", \"content\": \"Hello\"}, ...]; all of a message reaches "
             "the template: tool_calls, name, content as a list of parts"},
    {.name = "no-generation-prompt",
     .kind = FLAG_SWITCH,
     .offset = offsetof(options, no_generation_prompt),
     .help = "end behind the last message instead of where the answer begins"},
};
static const flag_table own_table = {
    .title = "Messages", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "render",
    .summary = "Prints the prompt that the model's chat template makes of messages, byte for byte.",
    .usage =
        "--model PATH --messages FILE [--tools FILE] [--arg KEY=JSON]... [--no-generation-prompt]",
    .examples = "  espalier render --model m.gguf --messages chat.json\n"
                "  espalier render --model m.gguf --messages chat.json --tools tools.json --arg "
                "enable_thinking=false\n",
    .part = {{&config_file_flags, offsetof(options, model)},
             {&own_table, 0},
             {&chat_flags, offsetof(options, chat)}},
};

static esp_code render(const options *o, const model_file *file, const conversation *messages,
                       esp_error *err) {
    chat_template *template = NULL;
    chat_prompt prompt = {0};
    tokenizer *tok = NULL;
    esp_code code = model_file_tokenizer(file, &tok, err);
    if (code == ESP_OK) code = model_file_chat(file, tok, &template, err);
    if (code == ESP_OK)
        code = conversation_render(template, messages, !o->no_generation_prompt, &prompt, err);
    if (code == ESP_OK) print_model_text(prompt.text, prompt.bytes);
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
    conversation messages;
    code = conversation_read(o.messages, &o.chat, &messages, err);
    if (code == ESP_OK) code = model_file_open(&file, o.model.model_path, err);
    if (code == ESP_OK) code = render(&o, file, &messages, err);
    conversation_free(&messages);
    model_file_close(file);
    return code;
}
