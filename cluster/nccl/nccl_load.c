/* nccl_load.c - NCCL's calls out of libnccl.so.2. */
// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>
#include <stdbool.h>
#include <string.h>

#include "cluster/nccl/nccl_words.h"

/* A function pointer out of an object's address, which C does not convert. */
static bool look_up(void *library, const char *name, void *function) {
    void *at = dlsym(library, name);
    memcpy(function, &at, sizeof at);
    return at != NULL;
}

esp_code nccl_words_load(nccl_words *out, esp_error *err) {
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL); /* stays */
    if (!library)
        return esp_fail_field(
            err, ESP_UNAVAILABLE, "--tp",
            "--tp over several GPUs needs NCCL, and libnccl.so.2 cannot be loaded "
            "(%s); install it, or use --tp 1",
            dlerror());
    const struct {
        const char *name;
        void *function;
    } calls[] = {
        {"ncclGetUniqueId", &out->get_id},  {"ncclCommInitRank", &out->init},
        {"ncclCommAbort", &out->abort},     {"ncclCommGetAsyncError", &out->async_error},
        {"ncclGetErrorString", &out->text}, {"ncclGroupStart", &out->group_start},
        {"ncclGroupEnd", &out->group_end},  {"ncclSend", &out->send},
        {"ncclRecv", &out->receive},        {"ncclAllGather", &out->all_gather},
        {"ncclBroadcast", &out->broadcast},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!look_up(library, calls[i].name, calls[i].function))
            return esp_fail_field(err, ESP_UNAVAILABLE, "--tp",
                                  "libnccl.so.2 has no %s; 2.8 or later is wanted", calls[i].name);
    return ESP_OK;
}
