#include "stub_reply.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define CREATED "2026-01-01T00:00:00Z"
#define VECTOR_SIZE 384
#define OLLAMA_HEAD "{\"model\":\"%s\",\"created_at\":\"" CREATED "\","
#define OPENAI_HEAD(kind, object) \
    "{\"id\":\"" kind "-0\",\"object\":\"" object "\",\"created\":1767225600,\"model\":\"%s\",\"choices\":[{\"index\":0,"

// How each dialect writes a piece of a stream, a whole answer, and the end of either.
static const struct {
    const char *path, *piece, *piece_end, *whole, *whole_end;
} WORDS[DIALECTS] = {
    [CHAT] = {"/api/chat", OLLAMA_HEAD "\"message\":{\"role\":\"assistant\",\"content\":\"", "\"},\"done\":false}\n",
              OLLAMA_HEAD "\"message\":{\"role\":\"assistant\",\"content\":\"", "\"},"},
    [GENERATE] = {"/api/generate", OLLAMA_HEAD "\"response\":\"", "\",\"done\":false}\n",
                  OLLAMA_HEAD "\"response\":\"", "\",\"context\":[],"},
    [OPENAI_CHAT] = {"/v1/chat/completions",
                     "data: " OPENAI_HEAD("chatcmpl", "chat.completion.chunk")
                     "\"delta\":{\"role\":\"assistant\",\"content\":\"", "\"},\"finish_reason\":null}]}\n\n",
                     OPENAI_HEAD("chatcmpl", "chat.completion")
                     "\"message\":{\"role\":\"assistant\",\"content\":\"", "\"},\"finish_reason\":\"stop\"}],"},
    [OPENAI_TEXT] = {"/v1/completions", "data: " OPENAI_HEAD("cmpl", "text_completion") "\"text\":\"",
                     "\",\"finish_reason\":null}]}\n\n", OPENAI_HEAD("cmpl", "text_completion") "\"text\":\"",
                     "\",\"finish_reason\":\"stop\"}],"},
};

enum dialect dialect_of(const char *path) {
    enum dialect dialect = CHAT;
    while (dialect < DIALECTS && strcmp(path, WORDS[dialect].path) != 0) dialect++;
    return dialect;
}

static bool is_openai(const struct reply *reply) { return reply->dialect >= OPENAI_CHAT; }

// ---- Reading the question

static uint64_t part(const char *model, char letter, uint64_t otherwise) {
    for (const char *at = strchr(model, '-'); at; at = strchr(at + 1, '-'))
        if (at[1] == letter && isdigit((unsigned char)at[2])) return strtoull(at + 2, NULL, 10);
    return otherwise;
}

static bool refuse(struct buffer *out, const char *json) {
    answer(out, "400 Bad Request", json);
    return false;
}

bool reply_read(struct reply *reply, enum dialect dialect, struct span body, struct buffer *out) {
    struct span model = json_text(json_field(body, "model"));
    if (model.size == 0 || model.size >= sizeof reply->model)
        return refuse(out, "{\"error\":\"model is required, at most 255 bytes of it\"}");
    buffer_free(&reply->chunk);
    *reply = (struct reply){.dialect = dialect};
    memcpy(reply->model, model.bytes, model.size);
    reply->scenario = (struct scenario){
        .token_count = part(reply->model, 'n', 1),
        .interval_ns = part(reply->model, 'i', 0) * NS_PER_US,
        .first_ns = part(reply->model, 't', 0) * NS_PER_US,
        .pad_bytes = part(reply->model, 'w', 0),
    };
    struct span stream = json_field(body, "stream");
    reply->streamed = stream.size ? json_is(stream, "true") : !is_openai(reply);
    struct span options = json_field(body, "stream_options");
    reply->tells_usage = options.size && json_is(json_field(options, "include_usage"), "true");
    if (reply->scenario.pad_bytes > 1024 * 1024) return refuse(out, "{\"error\":\"more than 1 MiB of padding\"}");
    return true;
}

bool reply_is_load(const struct reply *reply, struct span body, struct buffer *out) {
    bool chat = reply->dialect == CHAT || reply->dialect == OPENAI_CHAT;
    bool asks = !json_is_empty(json_field(body, chat ? "messages" : "prompt"));
    if (asks) return false;
    if (is_openai(reply)) {
        refuse(out, "{\"error\":{\"message\":\"nothing is asked\",\"type\":\"invalid_request_error\"}}");
        return true;
    }
    struct buffer json = {0};
    buffer_print(&json, WORDS[reply->dialect].whole, reply->model);
    bool unloads = json_is(json_field(body, "keep_alive"), "0");
    buffer_print(&json, "%s\"done\":true,\"done_reason\":\"%s\"}", reply->dialect == CHAT ? "\"}," : "\",",
                 unloads ? "unload" : "load");
    answer(out, "200 OK", buffer_first(&json));
    buffer_free(&json);
    return true;
}

// ---- Answering it

static void write_clock(char *at) {
    uint64_t time = now_ns();
    for (int digit = CLOCK_DIGITS - 1; digit >= 0; digit--, time /= 10) at[digit] = (char)('0' + time % 10);
}

// A token's text; its time is still to be written, at the place that is returned.
static size_t print_token(struct buffer *out, uint64_t pad_bytes) {
    buffer_print(out, "%c", TOKEN_MARK);
    size_t clock_at = buffer_size(out);
    buffer_print(out, "%0*d ", CLOCK_DIGITS, 0);
    memset(buffer_reserve(out, pad_bytes), 'x', pad_bytes);
    out->end += pad_bytes;
    return clock_at;
}

static void print_chunk(struct buffer *out, const struct buffer *content) {
    buffer_print(out, "%zx\r\n", buffer_size(content));
    buffer_append(out, buffer_first(content), buffer_size(content));
    buffer_append(out, "\r\n", 2);
}

// The counts and times with which Ollama ends, as the scenario has them.
static void print_ollama_end(struct buffer *out, const struct scenario *scenario) {
    uint64_t count = scenario->token_count, run_ns = count ? (count - 1) * scenario->interval_ns + 1 : 1;
    buffer_print(out, "\"done\":true,\"done_reason\":\"stop\",\"total_duration\":%llu,\"load_duration\":0,",
                 (unsigned long long)(scenario->first_ns + run_ns));
    buffer_print(out, "\"prompt_eval_count\":1,\"prompt_eval_duration\":%llu,\"eval_count\":%llu,\"eval_duration\":%llu}",
                 (unsigned long long)scenario->first_ns + 1, (unsigned long long)count, (unsigned long long)run_ns);
}

static void print_usage(struct buffer *out, uint64_t count) {
    buffer_print(out, "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":%llu,\"total_tokens\":%llu}}",
                 (unsigned long long)count, (unsigned long long)count + 1);
}

void reply_open(struct reply *reply, struct buffer *out) {
    struct buffer piece = {0};
    buffer_print(&piece, WORDS[reply->dialect].piece, reply->model);
    size_t clock_at = print_token(&piece, reply->scenario.pad_bytes);
    buffer_print(&piece, "%s", WORDS[reply->dialect].piece_end);
    print_chunk(&reply->chunk, &piece);
    reply->clock_at = buffer_size(&reply->chunk) - 2 - (buffer_size(&piece) - clock_at);
    buffer_free(&piece);
    buffer_print(out, "HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n",
                 is_openai(reply) ? "text/event-stream" : "application/x-ndjson");
}

void reply_token(struct reply *reply, struct buffer *out) {
    write_clock(buffer_first(&reply->chunk) + reply->clock_at);
    buffer_append(out, buffer_first(&reply->chunk), buffer_size(&reply->chunk));
    reply->sent_count++;
}

static void print_openai_stop(const struct reply *reply, struct buffer *out) {
    bool chat = reply->dialect == OPENAI_CHAT;
    const char *head = chat ? "data: " OPENAI_HEAD("chatcmpl", "chat.completion.chunk")
                            : "data: " OPENAI_HEAD("cmpl", "text_completion");
    struct buffer piece = {0};
    buffer_print(&piece, head, reply->model);
    buffer_print(&piece, "%s,\"finish_reason\":\"stop\"}]}\n\n", chat ? "\"delta\":{}" : "\"text\":\"\"");
    print_chunk(out, &piece);
    buffer_take(&piece, buffer_size(&piece));
    if (reply->tells_usage) {
        buffer_print(&piece, "data: {\"id\":\"%s-0\",\"object\":\"%s\",\"created\":1767225600,\"model\":\"%s\",\"choices\":[],",
                     chat ? "chatcmpl" : "cmpl", chat ? "chat.completion.chunk" : "text_completion", reply->model);
        print_usage(&piece, reply->scenario.token_count);
        buffer_append(&piece, "\n\n", 2);
        print_chunk(out, &piece);
        buffer_take(&piece, buffer_size(&piece));
    }
    buffer_print(&piece, "data: [DONE]\n\n");
    print_chunk(out, &piece);
    buffer_free(&piece);
}

static void print_ollama_stop(const struct reply *reply, struct buffer *out) {
    struct buffer piece = {0};
    buffer_print(&piece, WORDS[reply->dialect].whole, reply->model);
    buffer_print(&piece, "%s", WORDS[reply->dialect].whole_end);
    print_ollama_end(&piece, &reply->scenario);
    buffer_append(&piece, "\n", 1);
    print_chunk(out, &piece);
    buffer_free(&piece);
}

void reply_close(struct reply *reply, struct buffer *out) {
    if (is_openai(reply))
        print_openai_stop(reply, out);
    else
        print_ollama_stop(reply, out);
    buffer_append(out, "0\r\n\r\n", 5);
}

void reply_whole(struct reply *reply, struct buffer *out) {
    struct buffer json = {0};
    buffer_print(&json, WORDS[reply->dialect].whole, reply->model);
    for (; reply->sent_count < reply->scenario.token_count; reply->sent_count++) {
        size_t clock_at = print_token(&json, reply->scenario.pad_bytes);
        write_clock(buffer_first(&json) + clock_at);
    }
    buffer_print(&json, "%s", WORDS[reply->dialect].whole_end);
    if (is_openai(reply))
        print_usage(&json, reply->scenario.token_count);
    else
        print_ollama_end(&json, &reply->scenario);
    answer(out, "200 OK", buffer_first(&json));
    buffer_free(&json);
}

// ---- The small answers

void answer(struct buffer *out, const char *status, const char *json) {
    buffer_print(out, "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", status, strlen(json));
    buffer_append(out, json, strlen(json));
}

void answer_embed(struct buffer *out, struct span body) {
    struct span model = json_text(json_field(body, "model")), input = json_field(body, "input");
    struct buffer json = {0};
    buffer_print(&json, "{\"model\":\"%.*s\",\"embeddings\":[", (int)model.size, model.size ? model.bytes : "");
    for (size_t row = 0; row < json_count(input); row++) {
        for (int column = 0; column < VECTOR_SIZE; column++)
            buffer_print(&json, "%s%.6f", column ? "," : row ? ",[" : "[", 0.01 * (column * 37 % 100) - 0.5);
        buffer_append(&json, "]", 1);
    }
    buffer_print(&json, "],\"total_duration\":1,\"load_duration\":0,\"prompt_eval_count\":%zu}", json_count(input));
    answer(out, "200 OK", buffer_first(&json));
    buffer_free(&json);
}

void answer_models(struct buffer *out, char **names, int count, bool resident) {
    struct buffer json = {0};
    buffer_print(&json, "{\"models\":[");
    for (int index = 0; index < count; index++) {
        buffer_print(&json, "%s{\"name\":\"%s\",\"model\":\"%s\",\"digest\":\"%064d\",\"size\":1,", index ? "," : "",
                     names[index], names[index], 0);
        buffer_print(&json, "\"modified_at\":\"" CREATED "\",\"capabilities\":[\"completion\"],");
        buffer_print(&json, "\"details\":{\"format\":\"gguf\",\"family\":\"stub\",\"families\":[\"stub\"],"
                            "\"parameter_size\":\"0\",\"quantization_level\":\"F16\"}%s}",
                     resident ? ",\"size_vram\":1,\"expires_at\":\"2100-01-01T00:00:00Z\",\"context_length\":4096" : "");
    }
    buffer_print(&json, "]}");
    answer(out, "200 OK", buffer_first(&json));
    buffer_free(&json);
}

void answer_openai_models(struct buffer *out, char **names, int count) {
    struct buffer json = {0};
    buffer_print(&json, "{\"object\":\"list\",\"data\":[");
    for (int index = 0; index < count; index++)
        buffer_print(&json, "%s{\"id\":\"%s\",\"object\":\"model\",\"created\":1767225600,\"owned_by\":\"library\"}",
                     index ? "," : "", names[index]);
    buffer_print(&json, "]}");
    answer(out, "200 OK", buffer_first(&json));
    buffer_free(&json);
}
