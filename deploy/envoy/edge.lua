-- The first filter to see a request and the last to see its response.
--
-- Two things that no other filter does:
--   A service that speaks OAuth answers 401 with a body. gRPC cannot, so it says `x-http-status`, and here
--   that becomes the status; for gRPC callers the header just goes.
--   jwt_authn refuses in its own words. Its verdict becomes our reason, with the details that the service
--   would have sent, and UNAUTHENTICATED whatever was wrong with the token. REST callers read it in the shape
--   that their vendor's clients know.

local REASONS = {
  ["Jwt is expired"] = "TOKEN_EXPIRED",
  ["Jwks remote fetch is failed"] = "AUTH_UNAVAILABLE",
}
local ANSWERS = {
  TOKEN_INVALID = {
    http = "401", grpc = "16", message = "the access token is missing or not valid here",
    type = "invalid_request_error", code = "invalid_api_key",
  },
  TOKEN_EXPIRED = {
    http = "401", grpc = "16", message = "the access token has expired",
    type = "invalid_request_error", code = "invalid_api_key",
  },
  AUTH_UNAVAILABLE = {
    http = "503", grpc = "14", message = "the access token cannot be verified just now",
    type = "server_error", code = "auth_unavailable",
  },
}

local function starts_with_grpc(headers)
  local kind = headers:get("content-type")
  return kind ~= nil and kind:sub(1, 16) == "application/grpc"
end

-- Which vendor's API a path is of, if any.
local function vendor_of(path)
  if path:sub(1, 5) == "/api/" then
    return "ollama"
  elseif path:sub(1, 4) == "/v1/" then
    return "openai"
  end
  return ""
end

-- A refusal as that vendor's JSON. No text here needs to be escaped.
local function body_of(vendor, reason)
  local answer = ANSWERS[reason]
  if vendor == "ollama" then
    return '{"error":"' .. answer.message .. '"}'
  end
  return '{"error":{"message":"' .. answer.message .. '","type":"' .. answer.type
    .. '","param":null,"code":"' .. answer.code .. '"}}'
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local known = handle:streamInfo():dynamicMetadata()
  known:set("ollamesh.edge", "grpc", starts_with_grpc(headers))
  known:set("ollamesh.edge", "vendor", vendor_of(headers:get(":path") or ""))
  known:set("ollamesh.edge", "head", headers:get(":method") == "HEAD")
end

local function tell_refusal(handle, verdict, asked_in_grpc, vendor, asks_for_head)
  local reason = REASONS[verdict["message"]] or "TOKEN_INVALID"
  local answer, headers = ANSWERS[reason], handle:headers()
  if not starts_with_grpc(headers) then
    headers:replace(":status", answer.http)
    headers:replace("www-authenticate", 'Bearer realm="ollamesh"')
    if answer.http == "503" then
      headers:replace("retry-after", "1")
    end
    if vendor ~= "" and not asks_for_head then
      headers:replace("content-type", "application/json; charset=utf-8")
      handle:body(true):setBytes(body_of(vendor, reason))
    end
  end
  if asked_in_grpc then
    headers:replace("grpc-status", answer.grpc)
    headers:replace("grpc-message", answer.message)
    local details = handle:metadata():get(reason)
    if details then
      headers:replace("grpc-status-details-bin", details)
    end
  end
end

function envoy_on_response(handle)
  local known = handle:streamInfo():dynamicMetadata()
  local seen = known:get("ollamesh.edge")
  local asked_in_grpc = seen ~= nil and seen["grpc"]
  local headers = handle:headers()
  local status = headers:get("x-http-status")
  if status then
    headers:remove("x-http-status")
    if not asked_in_grpc then
      headers:replace(":status", status)
    end
  end
  if not asked_in_grpc then
    headers:remove("grpc-status")
    headers:remove("grpc-message")
  end
  local tokens = known:get("envoy.filters.http.jwt_authn")
  if tokens and tokens["refusal"] then
    tell_refusal(handle, tokens["refusal"], asked_in_grpc, seen and seen["vendor"] or "", seen and seen["head"])
  end
end
