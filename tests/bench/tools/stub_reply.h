// What the stub says: completions of four dialects, and the small answers of an Ollama.
#ifndef STUB_REPLY_H
#define STUB_REPLY_H

#include "common.h"
#include "stub_request.h"

enum dialect { CHAT, GENERATE, OPENAI_CHAT, OPENAI_TEXT, DIALECTS };

// What a model's name asks for: "stub-n100-i20000-t5000-w0:latest".
struct scenario {
    uint64_t token_count, interval_ns, first_ns, pad_bytes;
};

struct reply {
    enum dialect dialect;
    char model[256];
    struct scenario scenario;
    bool streamed, tells_usage;
    struct buffer chunk;  // One token as it is sent, complete but for the time.
    size_t clock_at;      // Where the time goes in it.
    uint64_t sent_count;
};

// The dialect of a path, DIALECTS if it is none of them.
enum dialect dialect_of(const char *path);
// Read what is asked. False if that makes no sense, and then `out` says so.
bool reply_read(struct reply *reply, enum dialect dialect, struct span body, struct buffer *out);
// Whether there is nothing to answer: the request only loads or unloads. `out` then says that it is done.
bool reply_is_load(const struct reply *reply, struct span body, struct buffer *out);

void reply_open(struct reply *reply, struct buffer *out);
void reply_token(struct reply *reply, struct buffer *out);
void reply_close(struct reply *reply, struct buffer *out);
// The whole answer of a request that wants no stream.
void reply_whole(struct reply *reply, struct buffer *out);

void answer(struct buffer *out, const char *status, const char *json);
void answer_embed(struct buffer *out, struct span body);
// `resident`: as /api/ps lists them, otherwise as /api/tags does.
void answer_models(struct buffer *out, char **names, int count, bool resident);
void answer_openai_models(struct buffer *out, char **names, int count);

#endif
