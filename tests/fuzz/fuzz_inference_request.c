/* fuzz_inference_request.c - the bytes of a GenerateRequest, as far as the engine's door: walked,
 * decoded, validated, rendered, tokenised. What is accepted must be within the limits. */
// SPDX-License-Identifier: Apache-2.0
#include <stddef.h>
#include <stdint.h>

#include "engine/serve/generate_input.h"
#include "proto/wire.h"
#include "tests/unit/byte_tokenizer.h"

enum { CONTEXT = 64, VOCABULARY = 256 };

static const char source[] =
    "{{ tools | tojson if tools }}{{ x }}{% for m in messages %}{{ m.role }}{{ m.content }}"
    "{{ m.name }}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}"
    "{% if m.content is none %}{{ raise_exception(m.tool_call_id) }}{% endif %}{% endfor %}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_accepted(const request *r) {
    ESP_ASSERT(r->prompt_count >= 1 && r->output_max >= 1);
    ESP_ASSERT(r->prompt_count + r->output_max <= CONTEXT);
    ESP_ASSERT(sample_policy_check(&r->policy, VOCABULARY, NULL) == ESP_OK);
    for (uint32_t i = 0; i < r->prompt_count; i++)
        ESP_ASSERT(r->tokens[i] >= 0 && r->tokens[i] < VOCABULARY);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static tokenizer *tok;
    static chat_template *chat;
    if (!tok) tok = byte_tokenizer();
    if (!chat) ESP_ASSERT(template_open(&chat, source, sizeof source - 1, NULL) == ESP_OK);
    served_model model = {
        .name = "m", .tok = tok, .chat = chat, .context_max = CONTEXT, .vocab = VOCABULARY};
    mem_arena *arena = mem_arena_open(wire_arena_bytes(size));
    ProtobufCMessage *message;
    esp_error error = {0};
    request *r = NULL;
    esp_code code = wire_decode(&espalier__v1__generate_request__descriptor, data, size, arena,
                                &message, &error);
    if (code == ESP_OK) code = generate_input(&model, (const void *)message, 0, NULL, &r, &error);
    ESP_ASSERT((code == ESP_OK) == (r != NULL) && error.code == code);
    if (r) {
        check_accepted(r);
        request_unref(r);
    }
    mem_arena_close(arena);
    return 0;
}
