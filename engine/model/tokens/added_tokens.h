/* added_tokens.h - the tokens that an adapter's folder has beyond those of its base.
 *
 *   tokenizer.json         its added_tokens; or, without that file,
 *   added_tokens.json      texts and ids, with added_tokens_decoder of tokenizer_config.json where that is there
 *   tokenizer_config.json  eos_token, which ends a generation, too, where there are tokens of its own
 *
 * Tokens that the base has must be the base's; the others go on from its last one, each with the next id, as
 * transformers numbers them. The rest of the files is not read: a text is cut and merged as the base does it.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_ADDED_TOKENS_H
#define ESPALIER_MODEL_ADDED_TOKENS_H

#include "engine/text/tokenizer.h"

/* More in one list is no tokenizer's. */
enum { ADDED_TOKENS_LIST_MAX = 1 << 16 };

/* The base's tokenizer with the folder's tokens besides, closed by the caller before the base's; NULL where it adds
 * none. Ids are below rows, those of the adapter's tables; grown: these are more than the base's, and a token without a
 * row is refused, else left out, for the model never met it. *says: there is a file that lists tokens. ESP_INVALID or
 * ESP_UNIMPLEMENTED with file and token. */
ESP_CHECKED esp_code added_tokens_open(tokenizer **out, const char *folder, const tokenizer *base,
                                       uint32_t rows, bool grown, bool *says, esp_error *err);

#endif
