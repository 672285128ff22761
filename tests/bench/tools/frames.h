// HTTP/2's frames (RFC 9113), as a client writes them and reads them.
#ifndef FRAMES_H
#define FRAMES_H

#include "common.h"

#define FRAME_HEAD_BYTES 9
#define FRAME_BYTES_MAX 16384  // The protocol's default, which we leave.
#define STREAM_WINDOW (16 * 1024 * 1024)
#define CONNECTION_WINDOW (1024 * 1024 * 1024)
#define DEFAULT_WINDOW 65535

enum type { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION };
enum flag { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8, HAS_PRIORITY = 32 };
enum setting { HEADER_TABLE_SIZE = 1, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE };
enum error { REFUSED_STREAM = 7, CANCEL = 8 };

void frame_head(struct buffer *out, size_t size, enum type type, int flags, uint32_t id);
// A frame that is a number: a reset or a window's growth.
void frame_u32(struct buffer *out, enum type type, uint32_t id, uint32_t value);
// What a client begins with: the preface, our SETTINGS, and the connection's window.
void frame_greeting(struct buffer *out);

uint32_t u32(const uint8_t *bytes);
// Take off padding. False if there is more of it than of the frame.
bool unpad(const uint8_t **bytes, size_t *size, uint8_t flags);
const char *reset_reason(uint32_t code);

#endif
