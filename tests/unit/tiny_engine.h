/* tiny_engine.h - a small random model in a file of its own, and engines over it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TINY_ENGINE_H
#define ESPALIER_TINY_ENGINE_H

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tests/unit/gguf_builder.h"
#include "tests/unit/hang.h"

/* Writes the model to a new file whose name replaces the X's of path; unlink() it. */
static inline void tiny_write(char *path, const tiny_llama_options *options) {
    size_t bytes;
    char *file = gguf_build_tiny_llama(options, &bytes);
    int fd = mkstemp(path);
    ESP_ASSERT(fd >= 0 && write(fd, file, bytes) == (ssize_t)bytes);
    close(fd);
    free(file);
}

/* An engine over it; one thread unless the config says more. Fails the test with the sentence. */
static inline engine *tiny_open(const char *path, model_config config) {
    engine *e = NULL;
    esp_error err = {0};
    config.model_path = path;
    if (!config.threads) config.threads = 1;
    if (!config.rank_patience_seconds) config.rank_patience_seconds = HANG_SECONDS;
    if (engine_open(&e, &config, NULL, NULL, &err) != ESP_OK) fail_msg("%s", err.message);
    return e;
}

static inline void tiny_submit(engine *e, request *r) {
    esp_error err = {0};
    if (engine_submit(e, r, &err) != ESP_OK) fail_msg("%s", err.message);
}

static inline void tiny_finish(engine *e, request *r) {
    for (int steps = 0; !atomic_load(&r->done); steps++) {
        assert_true(steps < 100000);
        engine_step(e);
        engine_check(e);
    }
}

#endif
