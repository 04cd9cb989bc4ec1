/* test_sha256.c - known answers of FIPS 180-4 (the examples of NIST's CAVP), whole and in pieces; and
 * the digits of a hash. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/sha256.h"

static const struct {
    const char *text, *hex;
} known[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
};

static void hash_in_pieces(const char *text, size_t piece, char out[SHA256_HEX_CHARS + 1]) {
    uint8_t hash[SHA256_BYTES];
    sha256_sum *sum = sha256_open();
    size_t bytes = strlen(text);
    for (size_t at = 0; at < bytes; at += piece)
        sha256_add(sum, text + at, bytes - at < piece ? bytes - at : piece);
    sha256_end(sum, hash);
    sha256_close(sum);
    sha256_hex(out, hash);
}

static void known_answers_whatever_the_pieces(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        for (size_t piece = 1; piece < 70; piece += 23) {
            char hex[SHA256_HEX_CHARS + 1];
            hash_in_pieces(known[i].text, piece, hex);
            assert_string_equal(hex, known[i].hex);
        }
}

static void digits_are_read_back_and_others_refused(void **state) {
    (void)state;
    uint8_t hash[SHA256_BYTES];
    char again[SHA256_HEX_CHARS + 1], wrong[SHA256_HEX_CHARS + 1];
    assert_true(sha256_read_hex(known[1].hex, hash));
    sha256_hex(again, hash);
    assert_string_equal(again, known[1].hex);
    for (size_t at = 0; at < SHA256_HEX_CHARS; at += 9)
        for (const char *c = "gA/: "; *c; c++) {
            memcpy(wrong, known[1].hex, sizeof wrong);
            wrong[at] = *c;
            assert_false(sha256_read_hex(wrong, NULL));
        }
    assert_false(sha256_read_hex("", NULL));
    memcpy(wrong, known[1].hex, sizeof wrong);
    wrong[SHA256_HEX_CHARS - 1] = 0; /* a digit short */
    assert_false(sha256_read_hex(wrong, NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers_whatever_the_pieces),
        cmocka_unit_test(digits_are_read_back_and_others_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
