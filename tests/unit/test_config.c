/* test_config.c - flags, sizes, refusals and the YAML file, as `espalier serve` takes them. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/config.h"

static const flag_command serve = {
    .name = "serve",
    .summary = "Serves a model.",
    .usage = "--model PATH [options]",
    .examples = "  espalier serve --model m.gguf\n",
    .config_file = true,
    .part = {{&config_model_flags, offsetof(serve_config, model)}, {&config_serve_flags, 0}},
};

typedef struct parsed {
    serve_config config;
    flag_values values;
    bool help;
    esp_error err;
    esp_code code;
} parsed;

/* The words are one string, parted at spaces; kept until the next call. */
static parsed parse(const flag_command *command, const char *words) {
    static char copy[1024];
    char *argv[32];
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    parsed p = {0};
    config_serve_defaults(&p.config);
    p.code = flags_parse(command, argc, argv, &p.config, &p.values, &p.help, &p.err);
    return p;
}

static parsed accepted(const char *words) {
    parsed p = parse(&serve, words);
    if (p.code != ESP_OK) print_message("%s\n", p.err.message);
    assert_int_equal(p.code, ESP_OK);
    return p;
}

/* Exit 64, and the sentence holds each of the given words. */
static void refused(const char *words, const char *seen, const char *wanted) {
    parsed p = parse(&serve, words);
    assert_int_equal(p.code, ESP_OUT_OF_RANGE);
    assert_int_equal(esp_exit_status(p.code), 64);
    if (!strstr(p.err.message, seen) || !strstr(p.err.message, wanted))
        fail_msg("%s: \"%s\"", words, p.err.message);
    flag_values_free(&p.values);
}

static void defaults_are_those_of_the_help(void **state) {
    (void)state;
    parsed p = accepted("--model m.gguf");
    assert_string_equal(p.config.model.model_path, "m.gguf");
    assert_string_equal(p.config.grpc, "127.0.0.1:8470");
    assert_string_equal(p.config.http, "127.0.0.1:8471");
    assert_int_equal(p.config.model.device, DEVICE_AUTO);
    assert_int_equal(p.config.grace_seconds, 30);
    assert_int_equal(p.config.slow_reader_bytes, 262144);
    assert_false(p.config.model.kv_dtype_given || p.config.insecure || p.help);
    assert_int_equal(p.config.model.max_seqs, 0);
}

static void every_kind_of_flag_is_read(void **state) {
    (void)state;
    parsed p = accepted("--model=m.gguf --device cpu:avx512 --kv-dtype f32 --kv-memory 1.5G "
                        "--max-seqs 4096 --insecure --grace 0 --name n --tp 1 --replicas 3 "
                        "--activations int8 --threads 2 --http off");
    assert_string_equal(p.config.model.model_path, "m.gguf");
    assert_int_equal(p.config.model.device, DEVICE_CPU);
    assert_int_equal(p.config.model.level, LEVEL_AVX512);
    assert_true(p.config.model.kv_dtype_given);
    assert_int_equal(p.config.model.kv_dtype, DT_F32);
    assert_int_equal(accepted("--model m --kv-dtype int8").config.model.kv_dtype, DT_KV_INT8);
    assert_int_equal(p.config.model.kv_memory, 1610612736);
    assert_int_equal(p.config.model.max_seqs, 4096);
    assert_int_equal(p.config.replicas, 3);
    assert_int_equal(p.config.model.threads, 2);
    assert_int_equal(p.config.model.activations, ACT_INT8);
    assert_int_equal(p.config.grace_seconds, 0);
    assert_true(p.config.insecure);
    assert_string_equal(p.config.model.name, "n");
    assert_string_equal(p.config.http, "off");
}

/* Scripts append an option to override an earlier one. */
static void the_last_of_two_equal_flags_wins(void **state) {
    (void)state;
    parsed p = accepted("--model a --max-seqs 1 --device cpu:avx2 --max-seqs 2 --device cpu");
    assert_int_equal(p.config.model.max_seqs, 2);
    assert_int_equal(p.config.model.level, LEVEL_AUTO);
}

static void bad_values_name_flag_seen_and_wanted(void **state) {
    (void)state;
    refused("--model m --max-seqs 4097", "--max-seqs is \"4097\"", "from 0 to 4096");
    refused("--model m --max-seqs -1", "\"-1\"", "--max-seqs");
    refused("--model m --max-seqs 1e3", "\"1e3\"", "whole number");
    refused("--model m --max-seqs 18446744073709551617", "18446744073709551617", "whole number");
    refused("--model m --max-seqs=", "--max-seqs is \"\"", "whole number");
    refused("--model m --device gpu", "--device is \"gpu\"", "cpu:avx512");
    refused("--model m --device cpu:sse", "\"cpu:sse\"", "ref");
    refused("--model m --kv-dtype f16", "\"f16\"", "bf16, f32, int8");
    refused("--model m --activations f16", "\"f16\"", "bf16, int8");
    refused("--model m --kv-memory 4X", "--kv-memory is \"4X\"", "512M");
    refused("--model m --slow-reader-bytes 1", "\"1\"", "from 4096");
    refused("--model m --insecure=maybe", "\"maybe\"", "true or false");
}

static void usage_mistakes_point_to_the_help(void **state) {
    (void)state;
    refused("", "--model PATH", "serve --help");
    refused("--model m --bogus 1", "--bogus", "serve --help");
    refused("--model m -x", "\"-x\"", "serve --help");
    refused("--model m stray", "\"stray\"", "serve --help");
    refused("--model m --max-seqs", "--max-seqs needs a value", "N");
    refused("--model m --mode l", "--mode", "unknown option");
}

static void quantize_takes_two_formats(void **state) {
    (void)state;
    assert_false(accepted("--model m").config.model.quantize_given);
    parsed p = accepted("--model m --quantize q4_k");
    assert_true(p.config.model.quantize_given);
    assert_int_equal(p.config.model.quantize, DT_Q4_K);
    assert_int_equal(accepted("--model m --quantize q8_0").config.model.quantize, DT_Q8_0);
    refused("--model m --quantize q5_k", "\"q5_k\"", "q8_0, q4_k");
}

static void a_cuda_device_is_named_by_its_number(void **state) {
    (void)state;
    parsed p = accepted("--model m --device cuda:3 --gpu-memory-utilization 0.5");
    assert_int_equal(p.config.model.device, DEVICE_CUDA);
    assert_int_equal(p.config.model.device_index, 3);
    assert_true(p.config.model.gpu_memory_utilization == 0.5f);
    p = accepted("--model m --device cuda:3 --device cuda");
    assert_int_equal(p.config.model.device, DEVICE_CUDA);
    assert_int_equal(p.config.model.device_index, 0);
    refused("--model m --device cuda:", "\"cuda:\"", "from 0 to 63");
    refused("--model m --device cuda:64", "\"cuda:64\"", "from 0 to 63");
    refused("--model m --device cuda:x", "\"cuda:x\"", "number");
    refused("--model m --gpu-memory-utilization 1.5", "\"1.5\"", "0.01 to 1");
    refused("--model m --gpu-memory-utilization 0", "\"0\"", "0.01 to 1");
}

/* What stands before "=" is a name, unless a '/' comes before it. */
static void an_adapter_is_a_folder_and_a_name(void **state) {
    (void)state;
    static const struct {
        const char *text, *name, *path;
    } good[] = {{"triage=some/dir", "triage", "some/dir"},
                {"some/dir", "dir", "some/dir"},
                {"some/Dir With Blanks//", "dir-with-blanks", "some/Dir With Blanks//"},
                {"./a=b", "a-b", "./a=b"},
                {"a=b=c", "a", "b=c"},
                {"lora.gguf", "lora.gguf", "lora.gguf"},
                {"..", "adapter", ".."},
                {"/", "adapter", "/"}};
    static const char *const bad[] = {"", "=dir", "name="};
    char name[CONFIG_ADAPTER_NAME_BYTES];
    const char *path;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(config_adapter(good[i].text, name, &path, NULL), ESP_OK);
        assert_string_equal(name, good[i].name);
        assert_string_equal(path, good[i].path);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        esp_error err = {0};
        assert_int_equal(config_adapter(bad[i], name, &path, &err), ESP_OUT_OF_RANGE);
        assert_non_null(strstr(err.message, "NAME=DIR"));
    }
}

static void a_name_that_is_too_long_for_an_adapter_is_refused(void **state) {
    (void)state;
    char text[CONFIG_ADAPTER_NAME_BYTES + 10], name[CONFIG_ADAPTER_NAME_BYTES];
    const char *path;
    memset(text, 'a', sizeof text);
    strcpy(text + CONFIG_ADAPTER_NAME_BYTES, "=dir");
    assert_int_equal(config_adapter(text, name, &path, NULL), ESP_OUT_OF_RANGE);
    assert_int_equal(config_adapter(text + 1, name, &path, NULL), ESP_OK);
    assert_int_equal(strlen(name), CONFIG_ADAPTER_NAME_BYTES - 1);
}

static void sizes_are_powers_of_1024(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"4096", 4096},
                {"1K", 1024},
                {"512M", 536870912},
                {"4G", 4294967296},
                {"4g", 4294967296},
                {"4GB", 4294967296},
                {"4GiB", 4294967296},
                {"0.5G", 536870912},
                {"1T", 1099511627776},
                {"7B", 7},
                {"18446744073709551615", UINT64_MAX}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint64_t bytes = 1;
        assert_true(flag_read_bytes(good[i].text, &bytes));
        assert_true(bytes == good[i].bytes);
    }
    static const char *const bad[] = {"",
                                      "G",
                                      "-1",
                                      "+1",
                                      "1 G",
                                      "1GG",
                                      "0x10",
                                      "1.2.3G",
                                      "1e9",
                                      "inf",
                                      "nan",
                                      "4Q",
                                      " 4",
                                      "18446744073709551616",
                                      "99999999999999999999T",
                                      "16777216T",
                                      "9e99G",
                                      "1Gb5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t bytes;
        if (flag_read_bytes(bad[i], &bytes)) fail_msg("\"%s\" was taken", bad[i]);
    }
}

/* ---- options that may be repeated ---- */

typedef struct listing {
    const char *text;
    flag_list list;
} listing;

static const flag listing_flags[] = {
    {.name = "text", .kind = FLAG_TEXT, .offset = offsetof(listing, text), .help = "one"},
    {.name = "arg", .kind = FLAG_LIST, .offset = offsetof(listing, list), .help = "many"},
};
static const flag_table listing_table = {"Words", listing_flags, 2};
static const flag_command listing_command = {
    .name = "words", .usage = "", .examples = "", .part = {{&listing_table, 0}}};

static esp_code parse_list(int argc, char **argv, listing *out, esp_error *err) {
    flag_values none = {{0}};
    bool help;
    *out = (listing){0};
    return flags_parse(&listing_command, argc, argv, out, &none, &help, err);
}

static void a_list_option_keeps_every_value_in_order(void **state) {
    (void)state;
    char words[][12] = {"--arg", "a=1", "--text=t", "--arg=b=2", "--arg", ""};
    char *argv[] = {words[0], words[1], words[2], words[3], words[4], words[5]};
    listing got;
    assert_int_equal(parse_list(6, argv, &got, NULL), ESP_OK);
    assert_string_equal(got.text, "t");
    assert_int_equal(got.list.count, 3);
    assert_string_equal(got.list.at[0], "a=1");
    assert_string_equal(got.list.at[1], "b=2");
    assert_string_equal(got.list.at[2], "");
    assert_int_equal(parse_list(0, argv, &got, NULL), ESP_OK);
    assert_int_equal(got.list.count, 0);
}

static void a_list_option_has_an_end(void **state) {
    (void)state;
    char word[] = "--arg=x";
    char *argv[FLAG_LIST_MAX + 1];
    for (int i = 0; i <= FLAG_LIST_MAX; i++)
        argv[i] = word;
    listing got;
    esp_error err = {0};
    assert_int_equal(parse_list(FLAG_LIST_MAX, argv, &got, &err), ESP_OK);
    assert_int_equal(got.list.count, FLAG_LIST_MAX);
    assert_int_equal(parse_list(FLAG_LIST_MAX + 1, argv, &got, &err), ESP_OUT_OF_RANGE);
    assert_non_null(strstr(err.message, "--arg"));
}

/* The option that makes the others superfluous, and one that is needed without it. */
typedef struct alone {
    const char *model;
    bool limits;
} alone;

static void a_switch_may_stand_alone(void **state) {
    (void)state;
    static const flag flags[] = {
        {.name = "model",
         .kind = FLAG_TEXT,
         .offset = offsetof(alone, model),
         .placeholder = "PATH",
         .required = true},
        {.name = "limits", .kind = FLAG_SWITCH, .offset = offsetof(alone, limits)}};
    static const flag_table table = {"Words", flags, 2};
    static const flag_command words = {.name = "words", .part = {{&table, 0}}, .alone = "limits"};
    char limits[] = "--limits";
    char *argv[] = {limits};
    alone got = {0};
    flag_values none = {{0}};
    bool help;
    esp_error err = {0};
    assert_int_equal(flags_parse(&words, 1, argv, &got, &none, &help, &err), ESP_OK);
    assert_true(got.limits && !got.model);
    assert_int_equal(flags_parse(&words, 0, NULL, &got, &none, &help, &err), ESP_OUT_OF_RANGE);
    assert_non_null(strstr(err.message, "--model"));
}

/* "alias NAME VERSION" */
static void a_command_may_want_two_words(void **state) {
    (void)state;
    typedef struct two {
        const char *name, *version;
    } two;
    static const flag_command words = {.name = "words",
                                       .positional = "NAME",
                                       .positional_offset = offsetof(two, name),
                                       .positional_required = true,
                                       .second = "VERSION",
                                       .second_offset = offsetof(two, version)};
    char given[][4] = {"a", "1", "2"};
    char *argv[] = {given[0], given[1], given[2]};
    two got = {0};
    flag_values none = {{0}};
    bool help;
    esp_error err = {0};
    assert_int_equal(flags_parse(&words, 2, argv, &got, &none, &help, &err), ESP_OK);
    assert_string_equal(got.name, "a");
    assert_string_equal(got.version, "1");
    assert_int_equal(flags_parse(&words, 1, argv, &got, &none, &help, &err), ESP_OUT_OF_RANGE);
    assert_non_null(strstr(err.message, "VERSION is missing"));
    assert_int_equal(flags_parse(&words, 3, argv, &got, &none, &help, &err), ESP_OUT_OF_RANGE);
    assert_non_null(strstr(err.message, "unexpected argument \"2\""));
}

/* --help needs nothing else and hides what is not built. */
static void help_tells_every_option(void **state) {
    (void)state;
    parsed p = parse(&serve, "--help");
    assert_int_equal(p.code, ESP_OK);
    assert_true(p.help);
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    flags_help(&serve, out);
    fclose(out);
    const flag *f;
    size_t base;
    for (uint32_t i = 0; (f = flag_at(&serve, i, &base)); i++) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "\n  --%s", f->name);
        assert_true(f->kind == FLAG_LATER || strstr(text, wanted));
    }
    assert_non_null(strstr(text, "usage: espalier serve --model PATH"));
    assert_non_null(strstr(text, "--config FILE"));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        assert_true(strlen(line) <= 100 && line[strlen(line) - 1] != ' ');
    free(text);
}

/* ---- --config ---- */

static char config_path[64];

static void write_config(const char *text, size_t bytes) {
    snprintf(config_path, sizeof config_path, "/tmp/test_config_XXXXXX");
    int fd = mkstemp(config_path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, bytes), bytes);
    close(fd);
}

static parsed parse_with(const char *yaml, const char *more) {
    char words[256];
    write_config(yaml, strlen(yaml));
    snprintf(words, sizeof words, "--config %s %s", config_path, more);
    parsed p = parse(&serve, words);
    unlink(config_path);
    return p;
}

static void a_config_file_gives_what_flags_do_not(void **state) {
    (void)state;
    parsed p =
        parse_with("# one option a line\nmodel: /models/m.gguf\nmax-seqs: 64\n"
                   "kv-memory: 512M\ninsecure: true\nname: \"two words\"\ndevice: cpu:avx2\n",
                   "--max-seqs 8");
    assert_int_equal(p.code, ESP_OK);
    assert_string_equal(p.config.model.model_path, "/models/m.gguf");
    assert_int_equal(p.config.model.max_seqs, 8); /* the flag wins */
    assert_int_equal(p.config.model.kv_memory, 536870912);
    assert_true(p.config.insecure);
    assert_string_equal(p.config.model.name, "two words");
    assert_int_equal(p.config.model.level, LEVEL_AVX2);
    flag_values_free(&p.values);
}

static void a_switch_can_be_off_in_the_file(void **state) {
    (void)state;
    parsed p = parse_with("model: m\ninsecure: no\n", "");
    assert_int_equal(p.code, ESP_OK);
    assert_false(p.config.insecure);
    flag_values_free(&p.values);
    p = parse_with("model: m\ninsecure: no\n", "--insecure");
    assert_true(p.config.insecure);
    flag_values_free(&p.values);
}

static void refused_file(const char *yaml, esp_code code, const char *seen, const char *wanted) {
    parsed p = parse_with(yaml, "");
    if (p.code != code || !strstr(p.err.message, seen) || !strstr(p.err.message, wanted))
        fail_msg("%s: %d \"%s\"", yaml, p.code, p.err.message);
    flag_values_free(&p.values);
}

static void bad_config_files_are_refused_with_a_sentence(void **state) {
    (void)state;
    refused_file("model: m\nmax-seqs: many\n", ESP_OUT_OF_RANGE, "max-seqs in test_config_",
                 "\"many\"");
    refused_file("model: m\nmax_seqs: 4\n", ESP_INVALID, "max_seqs", "without dashes");
    refused_file("model: m\nreplicas: 65\n", ESP_OUT_OF_RANGE, "replicas in", "64");
    refused_file("model: m\nadapter: [a, b]\n", ESP_INVALID, "--config", "wanted");
    refused_file("model: {a: b}\n", ESP_INVALID, "--config", "wanted");
    refused_file("- model\n", ESP_INVALID, "--config", "wanted");
    refused_file("model: [\n", ESP_INVALID, "--config", "wanted");
    refused_file("a: &x m\nmodel: *x\n", ESP_INVALID, "--config", "wanted");
    refused_file("name: &x m\nmodel: *x\n", ESP_INVALID, "alias", "wanted");
    refused_file("? [model]\n: m\n", ESP_INVALID, "a key is no single word", "wanted");
    refused_file("model: m\nconfig: other.yaml\n", ESP_INVALID, "config", "wanted");
    parsed p = parse(&serve, "--config /nonexistent/file.yaml");
    assert_int_equal(p.code, ESP_NOT_FOUND);
    assert_non_null(strstr(p.err.message, "/nonexistent/file.yaml"));
}

/* The YAML reader would leave out all but the first. */
static void a_config_file_is_one_document(void **state) {
    (void)state;
    static const char *const many[] = {"model: m\n---\nname: n\n", "---\nmodel: m\n--- \nname: n",
                                       "model: m\n...\nname: n\n", "model: m\n...\n---\n",
                                       "model: |\n  m\n---\tx\n"};
    for (size_t i = 0; i < sizeof many / sizeof *many; i++)
        refused_file(many[i], ESP_INVALID, "--config", "more than one YAML document");
    static const char *const one[] = {"# m\n%YAML 1.1\n---\nmodel: m\n...\n# end\n\n",
                                      "--- {model: m}\n",
                                      "\xef\xbb\xbf# m\n---\nmodel: m\n",
                                      "\nmodel: m\nname: |\n  ---\n  ...\n",
                                      "model: m\nname: ---\n...",
                                      "model: m\nname:\n  n\n  #\n"};
    for (size_t i = 0; i < sizeof one / sizeof *one; i++) {
        parsed p = parse_with(one[i], "");
        if (p.code != ESP_OK) fail_msg("%s: %s", one[i], p.err.message);
        assert_string_equal(p.config.model.model_path, "m");
        flag_values_free(&p.values);
    }
}

/* An empty file, binary junk and a file over the limit: no crash, and a sentence where one is due.
 */
static void odd_config_files_do_no_harm(void **state) {
    (void)state;
    refused_file("", ESP_OUT_OF_RANGE, "--model", "missing");
    static char huge[FLAG_CONFIG_BYTES_MAX + 1];
    memset(huge, '#', sizeof huge);
    char words[128];
    write_config(huge, sizeof huge);
    snprintf(words, sizeof words, "--config %s", config_path);
    parsed p = parse(&serve, words);
    unlink(config_path);
    assert_int_equal(p.code, ESP_INVALID);
    assert_non_null(strstr(p.err.message, "larger than"));
    write_config("\xff\xfe\x00\x01model: m", 12);
    snprintf(words, sizeof words, "--config %s", config_path);
    p = parse(&serve, words);
    unlink(config_path);
    assert_int_equal(p.code, ESP_INVALID);
}

/* ---- what belongs together ---- */

static void check_refused(const char *words, const char *seen) {
    parsed p = accepted(words);
    assert_int_equal(config_serve_check(&p.config, &p.err), ESP_OUT_OF_RANGE);
    if (!strstr(p.err.message, seen)) fail_msg("%s: \"%s\"", words, p.err.message);
}

static void tls_files_come_together(void **state) {
    (void)state;
    check_refused("--model m --tls-cert c", "--tls-key is missing");
    check_refused("--model m --tls-key k", "--tls-cert is missing");
    check_refused("--model m --client-ca c", "--client-ca needs TLS");
    parsed p = accepted("--model m --tls-cert c --tls-key k --client-ca a");
    assert_int_equal(config_serve_check(&p.config, &p.err), ESP_OK);
}

static void ranks_go_with_managing_adapters(void **state) {
    (void)state;
    parsed p = accepted("--model m --tp 4 --control 127.0.0.1:1 --http-adapters");
    assert_int_equal(config_serve_check(&p.config, &p.err), ESP_OK);
    assert_int_equal(p.config.model.tp, 4);
}

static void ranks_wait_as_long_as_they_are_told(void **state) {
    (void)state;
    assert_true(accepted("--model m --tp 4").config.model.rank_patience_seconds == 0);
    parsed p = accepted("--model m --tp 4 --rank-patience 0.5");
    assert_true(p.config.model.rank_patience_seconds == 0.5f);
    refused("--model m --rank-patience 0", "\"0\"", "0.1 to 86400");
}

static void ranks_may_meet_at_an_address(void **state) {
    (void)state;
    parsed r = accepted("--model m --tp 4 --rendezvous 10.0.0.1:9000 --rank 3");
    assert_string_equal(r.config.model.rendezvous, "10.0.0.1:9000");
    assert_int_equal(r.config.model.rank, 3);
    assert_int_equal(r.config.model.rank_last, 3);
    r = accepted("--model m --tp 8 --rendezvous here:1 --rank 4-7");
    assert_int_equal(r.config.model.rank, 4);
    assert_int_equal(r.config.model.rank_last, 7);
    static const char *const none[] = {"64", "0-64",  "7-4", "-4",
                                       "4-", "4-5-6", "0x1", "18446744073709551616-1"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        char line[96];
        snprintf(line, sizeof line, "--model m --tp 64 --rendezvous here:1 --rank %s", none[i]);
        refused(line, none[i], "--rank");
    }
    parsed p = accepted("--model m --tp 4");
    assert_int_equal(config_serve_check(&p.config, &p.err), ESP_OK);
    assert_int_equal(p.config.model.tp, 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_help),
        cmocka_unit_test(every_kind_of_flag_is_read),
        cmocka_unit_test(the_last_of_two_equal_flags_wins),
        cmocka_unit_test(bad_values_name_flag_seen_and_wanted),
        cmocka_unit_test(usage_mistakes_point_to_the_help),
        cmocka_unit_test(a_cuda_device_is_named_by_its_number),
        cmocka_unit_test(quantize_takes_two_formats),
        cmocka_unit_test(an_adapter_is_a_folder_and_a_name),
        cmocka_unit_test(a_name_that_is_too_long_for_an_adapter_is_refused),
        cmocka_unit_test(sizes_are_powers_of_1024),
        cmocka_unit_test(a_switch_may_stand_alone),
        cmocka_unit_test(a_command_may_want_two_words),
        cmocka_unit_test(help_tells_every_option),
        cmocka_unit_test(a_list_option_keeps_every_value_in_order),
        cmocka_unit_test(a_list_option_has_an_end),
        cmocka_unit_test(a_config_file_gives_what_flags_do_not),
        cmocka_unit_test(a_switch_can_be_off_in_the_file),
        cmocka_unit_test(bad_config_files_are_refused_with_a_sentence),
        cmocka_unit_test(a_config_file_is_one_document),
        cmocka_unit_test(odd_config_files_do_no_harm),
        cmocka_unit_test(tls_files_come_together),
        cmocka_unit_test(ranks_go_with_managing_adapters),
        cmocka_unit_test(ranks_wait_as_long_as_they_are_told),
        cmocka_unit_test(ranks_may_meet_at_an_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
