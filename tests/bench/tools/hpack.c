#include "hpack.h"

#include <stdlib.h>
#include <string.h>

#include "hpack_tables.h"  // Made by build.py: HUFFMAN_CODES, HUFFMAN_BITS, STATIC_TABLE, STATIC_COUNT.

#define TABLE_BYTES_MAX 4096  // What the protocol starts with; our SETTINGS only lower it.
#define ENTRY_OVERHEAD 32
#define STRING_BYTES_MAX (64 * 1024)

// ---- Huffman: a binary tree, walked bit by bit. Headers are few; speed is of no matter here.

struct node {
    int16_t child[2];  // 0: none, for the root is nobody's child.
    int16_t symbol;    // -1: an inner node.
};

static struct node tree[600];
static int16_t node_count;

static int16_t new_node(void) {
    tree[node_count] = (struct node){.symbol = -1};
    return node_count++;
}

static void grow_tree(void) {
    if (node_count > 0) return;
    new_node();
    for (int16_t symbol = 0; symbol < 257; symbol++) {
        int16_t at = 0;
        for (int bit = HUFFMAN_BITS[symbol] - 1; bit >= 0; bit--) {
            int side = HUFFMAN_CODES[symbol] >> bit & 1;
            if (tree[at].child[side] == 0) {
                int16_t child = new_node();
                tree[at].child[side] = child;
            }
            at = tree[at].child[side];
        }
        tree[at].symbol = symbol;
    }
}

// What is left at the end must be padding: fewer than eight bits, all ones.
static bool unhuffman(struct buffer *out, const uint8_t *bytes, size_t size) {
    int16_t at = 0;
    int since_symbol = 0;
    bool ones = true;
    for (size_t bit = 0; bit < size * 8; bit++) {
        int side = bytes[bit / 8] >> (7 - bit % 8) & 1;
        at = tree[at].child[side];
        since_symbol++;
        ones = ones && side;
        if (at == 0 || tree[at].symbol == 256) return false;
        if (tree[at].symbol < 0) continue;
        buffer_append(out, &(char){(char)tree[at].symbol}, 1);
        at = 0;
        since_symbol = 0;
        ones = true;
    }
    return since_symbol < 8 && ones;
}

// ---- Integers and strings

struct cursor {
    const uint8_t *at, *end;
};

static bool read_integer(struct cursor *cursor, int prefix_bits, uint64_t *value) {
    if (cursor->at == cursor->end) return false;
    uint64_t limit = (UINT64_C(1) << prefix_bits) - 1;
    *value = *cursor->at++ & limit;
    if (*value < limit) return true;
    for (int shift = 0; shift <= 28; shift += 7) {
        if (cursor->at == cursor->end) return false;
        uint8_t byte = *cursor->at++;
        *value += (uint64_t)(byte & 127) << shift;
        if (byte < 128) return true;
    }
    return false;
}

static bool read_string(struct cursor *cursor, struct buffer *out) {
    bool huffman = cursor->at < cursor->end && *cursor->at & 128;
    uint64_t size;
    if (!read_integer(cursor, 7, &size)) return false;
    if (size > (size_t)(cursor->end - cursor->at) || size > STRING_BYTES_MAX) return false;
    buffer_take(out, buffer_size(out));
    if (huffman) {
        if (!unhuffman(out, cursor->at, size)) return false;
    } else {
        buffer_append(out, cursor->at, size);
    }
    *buffer_reserve(out, 1) = 0;
    cursor->at += size;
    return true;
}

static void set(struct buffer *out, const char *bytes, size_t size) {
    buffer_take(out, buffer_size(out));
    buffer_append(out, bytes, size);
    *buffer_reserve(out, 1) = 0;
}

// ---- The dynamic table

static size_t entry_size(const struct hpack_entry *entry) {
    return entry->name_size + entry->value_size + ENTRY_OVERHEAD;
}

static void evict(struct hpack *hpack, size_t size_max) {
    size_t gone = 0;
    while (hpack->size > size_max) {
        struct hpack_entry *oldest = &hpack->entries[gone++];
        hpack->size -= entry_size(oldest);
        free(oldest->name);
        free(oldest->value);
    }
    if (gone == 0) return;
    hpack->count -= gone;
    memmove(hpack->entries, hpack->entries + gone, hpack->count * sizeof *hpack->entries);
}

static char *copy(const struct buffer *text) {
    char *bytes = allocate(buffer_size(text) + 1);
    memcpy(bytes, buffer_first(text), buffer_size(text));
    return bytes;
}

static void insert(struct hpack *hpack) {
    size_t size = buffer_size(&hpack->name) + buffer_size(&hpack->value) + ENTRY_OVERHEAD;
    evict(hpack, size <= hpack->size_max ? hpack->size_max - size : 0);
    if (size > hpack->size_max) return;  // Too large to be kept: the rule says that it empties the table.
    if (hpack->count == hpack->capacity) {
        hpack->capacity = hpack->capacity ? 2 * hpack->capacity : 32;
        hpack->entries = reallocate(hpack->entries, hpack->capacity * sizeof *hpack->entries);
    }
    hpack->entries[hpack->count++] = (struct hpack_entry){
        .name = copy(&hpack->name),
        .value = copy(&hpack->value),
        .name_size = buffer_size(&hpack->name),
        .value_size = buffer_size(&hpack->value),
    };
    hpack->size += size;
}

// Set the field at hand to what an index stands for, its value only if `with_value`.
static bool look_up(struct hpack *hpack, uint64_t index, bool with_value) {
    if (index == 0 || index > STATIC_COUNT + hpack->count) return false;
    if (index <= STATIC_COUNT) {
        set(&hpack->name, STATIC_TABLE[index - 1][0], strlen(STATIC_TABLE[index - 1][0]));
        if (with_value) set(&hpack->value, STATIC_TABLE[index - 1][1], strlen(STATIC_TABLE[index - 1][1]));
        return true;
    }
    const struct hpack_entry *entry = &hpack->entries[hpack->count - (index - STATIC_COUNT)];
    set(&hpack->name, entry->name, entry->name_size);
    if (with_value) set(&hpack->value, entry->value, entry->value_size);
    return true;
}

// ---- Fields

static bool read_literal(struct hpack *hpack, struct cursor *cursor, int prefix_bits) {
    uint64_t index;
    if (!read_integer(cursor, prefix_bits, &index)) return false;
    if (index == 0 ? !read_string(cursor, &hpack->name) : !look_up(hpack, index, false)) return false;
    return read_string(cursor, &hpack->value);
}

static bool resize(struct hpack *hpack, struct cursor *cursor) {
    uint64_t size_max;
    if (!read_integer(cursor, 5, &size_max) || size_max > TABLE_BYTES_MAX) return false;
    hpack->size_max = size_max;
    evict(hpack, size_max);
    return true;
}

bool hpack_read(struct hpack *hpack, const uint8_t *block, size_t size, hpack_field *tell, void *context) {
    struct cursor cursor = {block, block + size};
    while (cursor.at < cursor.end) {
        uint8_t first = *cursor.at;
        uint64_t index;
        if (first & 128) {
            if (!read_integer(&cursor, 7, &index) || !look_up(hpack, index, true)) return false;
        } else if (first & 64) {
            if (!read_literal(hpack, &cursor, 6)) return false;
            insert(hpack);
        } else if (first & 32) {
            if (!resize(hpack, &cursor)) return false;
            continue;
        } else if (!read_literal(hpack, &cursor, 4)) {
            return false;
        }
        tell(context, buffer_first(&hpack->name), buffer_size(&hpack->name), buffer_first(&hpack->value),
             buffer_size(&hpack->value));
    }
    return true;
}

void hpack_open(struct hpack *hpack) {
    grow_tree();
    *hpack = (struct hpack){.size_max = TABLE_BYTES_MAX};
}

void hpack_close(struct hpack *hpack) {
    evict(hpack, 0);
    free(hpack->entries);
    buffer_free(&hpack->name);
    buffer_free(&hpack->value);
}

static void write_string(struct buffer *out, const char *text) {
    size_t size = strlen(text), left = size;
    if (size < 127) {
        buffer_append(out, &(char){(char)size}, 1);
    } else {
        buffer_append(out, &(char){127}, 1);
        for (left -= 127; left >= 128; left /= 128) buffer_append(out, &(char){(char)(left % 128 + 128)}, 1);
        buffer_append(out, &(char){(char)left}, 1);
    }
    buffer_append(out, text, size);
}

void hpack_write(struct buffer *out, const char *name, const char *value) {
    buffer_append(out, "\0", 1);
    write_string(out, name);
    write_string(out, value);
}
