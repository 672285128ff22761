// HPACK (RFC 7541), the reader's side, with the dynamic table: a peer may use it until it has seen that we want none.
#ifndef HPACK_H
#define HPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common.h"

struct hpack_entry {
    char *name, *value;
    size_t name_size, value_size;
};

struct hpack {
    struct hpack_entry *entries;  // The newest last.
    size_t count, capacity, size, size_max;
    struct buffer name, value;    // The field at hand.
};

typedef void hpack_field(void *context, const char *name, size_t name_size, const char *value, size_t value_size);

void hpack_open(struct hpack *hpack);
void hpack_close(struct hpack *hpack);
// Read a header block and tell each field. Names and values end with a zero byte. False if it breaks the rules.
bool hpack_read(struct hpack *hpack, const uint8_t *block, size_t size, hpack_field *tell, void *context);
// Write a field as a literal that no table is to keep.
void hpack_write(struct buffer *out, const char *name, const char *value);

#endif
