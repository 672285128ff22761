// A browser's way in: gRPC-Web by connect-web, unmodified. Prints one JSON object per line.
// usage: node chat.mjs EDGE MODEL TOKEN|- (chat | leave | stop)
// At the first token, `leave` goes away, and `stop` has the server end the stream.
import { createClient, ConnectError, Code } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { InferenceService } from "./node_modules/.gen/ollamesh/inference/v1/inference_service_pb.js";
import { Role } from "./node_modules/.gen/ollamesh/inference/v1/completion_pb.js";

const OUTPUT_MAX = 1500;
const [edge, model, token, mode] = process.argv.slice(2);
const say = (fields) => console.log(JSON.stringify(fields));
const withToken = (next) => (request) => {
  if (token !== "-") request.header.set("authorization", `Bearer ${token}`);
  return next(request);
};
const client = createClient(InferenceService, createGrpcWebTransport({ baseUrl: edge, interceptors: [withToken] }));
const leaving = new AbortController();

try {
  const content = mode === "stop" ? "Write the numbers from one to one thousand." : "Count to five.";
  const outputTokenCountMax = mode === "stop" ? OUTPUT_MAX : 24;
  const request = { model, messages: [{ role: Role.USER, content }], options: { temperature: 0, outputTokenCountMax } };
  let streamId, isFirst = true;
  for await (const { event } of client.chat(request, { signal: leaving.signal })) {
    const { case: kind, value } = event.event;
    say({ sequence: Number(event.sequence), kind, text: kind === "delta" ? value.text : undefined });
    if (kind === "opened") streamId = value.streamId;
    if (kind !== "delta" || !isFirst) continue;
    isFirst = false;
    if (mode === "leave") leaving.abort();
    if (mode === "stop") await client.cancelStream({ streamId });
  }
  say({ kind: "end" });
} catch (error) {
  const failure = ConnectError.from(error);
  say({ kind: "error", code: Code[failure.code], message: failure.rawMessage, details: failure.details.length });
}
