/* main.c - espalier COMMAND: finds the command, prints its failure as one sentence, and gives its
 * exit status (sysexits.h). Results go to stdout, everything else to stderr. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "engine/commands/commands.h"

#ifndef ESPALIER_COMMIT
#define ESPALIER_COMMIT "unknown"
#endif

static const struct {
    const char *name;
    esp_code (*run)(int argc, char **argv, esp_error *err);
    const char *summary;
} commands[] = {
    {"serve", command_serve, "serve a model over gRPC until told to stop"},
    {"chat", command_chat, "talk to a running server from a terminal"},
    {"health", command_health, "ask a running server whether it is serving"},
    {"generate", command_generate, "answer one prompt without a server"},
    {"logits", command_logits, "write the logits of every position of a prompt to a .npy file"},
    {"embed", command_embed, "one text to one vector"},
    {"classify", command_classify, "one text to the scores of an adapter's labels"},
    {"tokenize", command_tokenize, "text to token ids"},
    {"detokenize", command_detokenize, "token ids to text"},
    {"render", command_render, "chat messages to prompt text, through the model's template"},
    {"inspect", command_inspect, "describe a model"},
    {"bench", command_bench, "measure speed and latency in process"},
    {"replay", command_replay, "run recorded requests again and compare bits"},
    {"adapter", command_adapter, "import, list, show and remove LoRA adapters"},
    {"make-weights", command_make_weights, "write a random checkpoint of a published shape"},
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static void list_commands(void) {
    printf("Espalier serves small language models.\n\nusage: espalier COMMAND [options]\n\n");
    for (int i = 0; i < COMMAND_COUNT; i++)
        printf("  %-14s%s\n", commands[i].name, commands[i].summary);
    printf("\nespalier COMMAND --help tells a command's options; espalier --version the build.\n");
}

static int run_command(int argc, char **argv) {
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(argv[1], commands[i].name)) continue;
        esp_error err = {0};
        esp_code code = commands[i].run(argc - 2, argv + 2, &err);
        if (code != ESP_OK) fprintf(stderr, "espalier %s: %s\n", argv[1], err.message);
        return esp_exit_status(code);
    }
    fprintf(stderr, "espalier: unknown command \"%s\"; espalier --help lists them\n", argv[1]);
    return EX_USAGE;
}

int main(int argc, char **argv) {
    int status = EX_OK;
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") ||
        !strcmp(argv[1], "help"))
        list_commands();
    else if (!strcmp(argv[1], "--version"))
        printf("espalier %s (%s)\n", ESPALIER_VERSION, ESPALIER_COMMIT);
    else
        status = run_command(argc, argv);
    /* A full disk behind a redirected stdout must not look like success. */
    if ((fflush(stdout) || ferror(stdout)) && status == EX_OK) {
        fprintf(stderr, "espalier: writing the result failed: %s\n", strerror(errno));
        status = EX_IOERR;
    }
    return status;
}
