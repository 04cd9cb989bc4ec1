# cmake -DINPUT=file -DOUTPUT=file.c -P embed.cmake: a file's bytes as a C array.
file(READ ${INPUT} hex HEX)
file(SIZE ${INPUT} size)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(................................................................................)"
                     "\\1\n" bytes "${bytes}")
file(WRITE ${OUTPUT} "/* Generated from the .proto files by proto/embed.cmake. */
#include <stddef.h>
#include <stdint.h>
extern const uint8_t descriptor_set[];
extern const size_t descriptor_set_bytes;
const uint8_t descriptor_set[] = {
${bytes}
};
const size_t descriptor_set_bytes = ${size};
")
