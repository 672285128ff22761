#include "frames.h"

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define SETTING_BYTES 6

void frame_head(struct buffer *out, size_t size, enum type type, int flags, uint32_t id) {
    uint8_t head[FRAME_HEAD_BYTES] = {(uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size, (uint8_t)type,
                                      (uint8_t)flags, (uint8_t)(id >> 24), (uint8_t)(id >> 16), (uint8_t)(id >> 8), (uint8_t)id};
    buffer_append(out, head, sizeof head);
}

static void append_u32(struct buffer *out, uint32_t value) {
    uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
    buffer_append(out, bytes, sizeof bytes);
}

void frame_u32(struct buffer *out, enum type type, uint32_t id, uint32_t value) {
    frame_head(out, 4, type, 0, id);
    append_u32(out, value);
}

static void append_setting(struct buffer *out, enum setting name, uint32_t value) {
    buffer_append(out, &(uint8_t[2]){0, (uint8_t)name}, 2);
    append_u32(out, value);
}

void frame_greeting(struct buffer *out) {
    buffer_append(out, PREFACE, sizeof PREFACE - 1);
    frame_head(out, 3 * SETTING_BYTES, SETTINGS, 0, 0);
    append_setting(out, HEADER_TABLE_SIZE, 0);
    append_setting(out, ENABLE_PUSH, 0);
    append_setting(out, INITIAL_WINDOW_SIZE, STREAM_WINDOW);
    frame_u32(out, WINDOW_UPDATE, 0, CONNECTION_WINDOW - DEFAULT_WINDOW);
}

uint32_t u32(const uint8_t *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

bool unpad(const uint8_t **bytes, size_t *size, uint8_t flags) {
    if (!(flags & PADDED)) return true;
    if (*size < 1 || **bytes > *size - 1) return false;
    *size -= 1 + (size_t)**bytes;
    ++*bytes;
    return true;
}

const char *reset_reason(uint32_t code) {
    static const char *const REASONS[] = {
        "reset NO_ERROR", "reset PROTOCOL_ERROR", "reset INTERNAL_ERROR", "reset FLOW_CONTROL_ERROR",
        "reset SETTINGS_TIMEOUT", "reset STREAM_CLOSED", "reset FRAME_SIZE_ERROR", "reset REFUSED_STREAM",
        "reset CANCEL", "reset COMPRESSION_ERROR", "reset CONNECT_ERROR", "reset ENHANCE_YOUR_CALM",
    };
    return code < sizeof REASONS / sizeof *REASONS ? REASONS[code] : "reset";
}
