-- The first filter to see a request and the last to see its response.
--
-- Four things that no other filter does:
--   An API key is taken out of its header before anything else can see it, and kept where only the filter that asks
--   auth about it looks (api_keys.py).
--   A service that speaks OAuth answers 401 with a body. gRPC cannot, so it says `x-http-status`, and here
--   that becomes the status; for gRPC callers the header just goes.
--   jwt_authn refuses in its own words, and auth, asked about a key, with a reason. Either becomes our reason, with the
--   details that the service would have sent, and UNAUTHENTICATED whatever was wrong. REST callers read it in the shape
--   that their vendor's clients know.
--   What a rate limit refuses gets the same, and says when to come again.

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
  RATE_LIMITED = {
    http = "429", grpc = "8", message = "too many requests; wait before the next one",
    type = "requests", code = "rate_limit_exceeded",
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

-- The tokens that keys were changed for a moment ago, of this worker. Half a second is short beside the second in which a
-- key that is revoked has to be useless, and long beside the time between two requests of somebody who makes many: they
-- ask auth twice a second, and not for each.
local REMEMBERED_MS, REMEMBERED_MAX = 500, 1000
local remembered, remembered_count = {}, 0

local function remember(name, token, now_ms)
  if remembered_count >= REMEMBERED_MAX then
    remembered, remembered_count = {}, 0
  end
  if remembered[name] == nil then
    remembered_count = remembered_count + 1
  end
  remembered[name] = { token = token, at_ms = now_ms }
end

-- The token, if it is still to be used. A clock that was set back has none used.
local function recalled(name, now_ms)
  local found = remembered[name]
  if found ~= nil and found.at_ms <= now_ms and now_ms < found.at_ms + REMEMBERED_MS then
    return found.token
  end
  return nil
end

-- The service that a path leads to, before the transcoder and the router have had their say. A token names its service,
-- so a wrong guess could only be refused.
local function service_of(path)
  if vendor_of(path) ~= "" or path:sub(1, 17) == "/ollamesh.compat." then
    return "inference"
  end
  return path:match("^/ollamesh%.(%l+)%.v1%.")
end

-- A bearer token has no space in it, so what follows one is a key. Whatever looks like one is taken out, also where it
-- is not what it should be: then auth is asked about nothing, and refuses that.
local function take_key(handle, headers, known)
  local value = headers:get("authorization")
  if value == nil then
    return
  end
  local at = value:sub(1, 4) == "omk_" and 0 or value:find(" omk_", 1, true)
  if at == nil then
    return
  end
  local key = value:sub(1, at):lower():match("^bearer *$") and value:sub(at + 1) or ""
  local name = (service_of(headers:get(":path") or "") or "") .. " " .. key
  local now_ms = tonumber(handle:timestamp())
  local token = recalled(name, now_ms)
  if token ~= nil then
    headers:replace("authorization", "Bearer " .. token)
    return
  end
  headers:remove("authorization")
  known:set("ollamesh.edge", "api_key", true)
  known:set("ollamesh.edge", "asked_at_ms", now_ms)
  known:set("ollamesh.api_key", "key", key)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local known = handle:streamInfo():dynamicMetadata()
  take_key(handle, headers, known)
  known:set("ollamesh.edge", "grpc", starts_with_grpc(headers))
  known:set("ollamesh.edge", "vendor", vendor_of(headers:get(":path") or ""))
  known:set("ollamesh.edge", "head", headers:get(":method") == "HEAD")
end

-- Keep the token that a key was changed for. Its time is that of the request: the answer may have taken long.
local function keep_token(known, asked_at_ms)
  local keys, key = known:get("envoy.filters.http.ext_authz"), known:get("ollamesh.api_key")
  if keys ~= nil and keys["token"] and key ~= nil then
    remember(keys["service"] .. " " .. key["key"], keys["token"], asked_at_ms)
  end
end

-- Why the edge refused the caller, if it did.
local function refusal_of(handle, known, seen)
  if seen ~= nil and seen["api_key"] then
    local keys = known:get("envoy.filters.http.ext_authz")
    if keys ~= nil and keys["refusal"] then
      return keys["refusal"]
    elseif keys == nil and handle:metadata():get("AUTH_UNAVAILABLE") ~= nil then
      -- Auth did not answer. (Or something before it failed, which has another status.)
      local headers = handle:headers()
      if headers:get(":status") == "503" or headers:get("grpc-status") == "14" then
        return "AUTH_UNAVAILABLE"
      end
    end
  end
  local tokens = known:get("envoy.filters.http.jwt_authn")
  if tokens and tokens["refusal"] then
    return REASONS[tokens["refusal"]["message"]] or "TOKEN_INVALID"
  end
  return nil
end

-- What a rate limit has refused: auth says how often is often enough (ratelimits.py); Envoy's own fences say nothing.
local function limit_of(known, headers)
  local limited = known:get("envoy.filters.http.ratelimit")
  if limited ~= nil and limited["refusal"] then
    return limited
  elseif headers:get("x-ollamesh-limited") ~= nil then
    headers:remove("x-ollamesh-limited")
    return { reset = "1" }
  end
  return nil
end

local function tell_limit(headers, limited)
  headers:replace("retry-after", limited["reset"])
  headers:replace("x-ratelimit-remaining", "0")
  headers:replace("x-ratelimit-reset", limited["reset"])
  if limited["limit"] then
    headers:replace("x-ratelimit-limit", limited["limit"])
  end
end

local function tell_refusal(handle, reason, asked_in_grpc, vendor, asks_for_head, given_details)
  local answer, headers = ANSWERS[reason], handle:headers()
  if not starts_with_grpc(headers) then
    headers:replace(":status", answer.http)
    if answer.http ~= "429" then
      headers:replace("www-authenticate", 'Bearer realm="ollamesh"')
    end
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
    local details = given_details or handle:metadata():get(reason)
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
  if seen ~= nil and seen["api_key"] then
    keep_token(known, seen["asked_at_ms"])
  end
  local reason, limited = nil, limit_of(known, headers)
  if limited ~= nil then
    reason = "RATE_LIMITED"
    tell_limit(headers, limited)
  else
    reason = refusal_of(handle, known, seen)
  end
  if reason ~= nil then
    tell_refusal(
      handle, reason, asked_in_grpc, seen and seen["vendor"] or "", seen and seen["head"],
      limited ~= nil and limited["details"] or nil
    )
  end
end
