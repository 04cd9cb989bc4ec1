/* adapter_group.h - the adapters of several replicas, managed and listed as if they were one's.
 *
 * Each replica has adapters of its own (adapters.h), in its own frames. What changes a name is done to all of them,
 * one change of it after the other; what the first one loads, the others load by content and under its number. So a
 * name and a version mean the same content everywhere. Requests look names up with the first one, and are brought to
 * their replica's by content (replicas.h).
 *
 * A load that fails with one of them stays where it succeeded: it is served from there, and the same load again
 * completes it.
 *
 * Thread  any. Loads block. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTER_GROUP_H
#define ESPALIER_ADAPTER_GROUP_H

#include "engine/adapters/adapters.h"

typedef struct adapter_group adapter_group;

/* of: [count], 1 at least, which outlive it. */
adapter_group *group_open(adapters *const *of, uint32_t count);
void group_close(adapter_group *g); /* NULL is fine */

/* As the function of the same name in adapters.h, for all. */
ESP_CHECKED esp_code group_load_stored(adapter_group *g, const char *ref, adapter_info *info,
                                       esp_error *err);
ESP_CHECKED esp_code group_load_stored_as(adapter_group *g, const char *name, const char *ref,
                                          adapter_info *info, esp_error *err);
ESP_CHECKED esp_code group_check(adapter_group *g, const char *path, esp_error *err);
ESP_CHECKED esp_code group_unload(adapter_group *g, const char *ref, adapter_unload how,
                                  esp_error *err);
ESP_CHECKED esp_code group_pin(adapter_group *g, const char *ref, bool pinned, esp_error *err);
ESP_CHECKED esp_code group_set_alias(adapter_group *g, const char *name, uint32_t version,
                                     esp_error *err);

/* Each content under a name and version once: users, loads, evictions and bytes of memory are those of all, the
 * tier is the best one, requests count once. */
void group_list(adapter_group *g, adapter_info **out, size_t *count);
/* Both of one moment of each, as adapters_look. In the sums adapters count once for each replica that knows them. */
void group_look(adapter_group *g, adapter_info **out, size_t *count, adapters_stats *stats);

#endif
