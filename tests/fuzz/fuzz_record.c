/* fuzz_record.c - any bytes as a file of recorded requests: refused with a sentence, or records whose
 * counts hold together. Seeds: corpus/record, made by make_record_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <string.h>

#include "engine/record/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sum; /* every value is read, so that a sanitizer sees it */

static void look_at(const record *r) {
    const request_options *o = &r->options;
    ESP_ASSERT(r->line > 0 && r->count <= o->output_max && o->stop_count <= SAMPLE_STOP_MAX);
    ESP_ASSERT(r->finish >= FINISH_STOP && r->finish <= FINISH_ERROR);
    for (uint32_t i = 0; i < o->prompt_count; i++)
        ESP_ASSERT(o->prompt[i] >= 0);
    for (uint32_t i = 0; i < r->count; i++)
        sum += (uint64_t)r->ids[i] + r->rows[i];
    request *made = NULL;
    esp_error err = {0};
    if (request_new(&made, o, 512, &err) != ESP_OK) ESP_ASSERT(err.message[0]);
    request_unref(made);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    recording r;
    esp_error err = {0};
    esp_code code = recording_read(&r, data, size, "fuzz", &err);
    ESP_ASSERT(code == ESP_OK ? r.count > 0 : err.code == code && err.message[0] != 0);
    for (uint32_t i = 0; code == ESP_OK && i < r.count; i++)
        look_at(&r.records[i]);
    recording_free(&r);
    return 0;
}
