// HTTP requests and what the stub wants to know of their JSON.
#ifndef STUB_REQUEST_H
#define STUB_REQUEST_H

#include "common.h"

struct span {
    const char *bytes;
    size_t size;
};

struct request {
    char method[16], path[128];
    struct span body;  // Lies in the connection's buffer.
    bool closes;       // The client wants the connection to end with the answer.
    size_t size;       // What it takes of the buffer.
};

enum parsed { INCOMPLETE, COMPLETE, MALFORMED };

// Read one request from the start of `in` and leave it there.
enum parsed request_parse(struct buffer *in, struct request *request);

// The value of a key of a JSON object, as it stands there; size 0 if there is none.
struct span json_field(struct span object, const char *key);
// The text of a JSON string without its quotes; size 0 if it is none. Escapes stay, so it can be quoted again.
struct span json_text(struct span value);
bool json_is(struct span value, const char *text);
// How many values are in a JSON array; 1 for anything else that is there.
size_t json_count(struct span value);
// Whether it is missing, null, "" or [].
bool json_is_empty(struct span value);

#endif
