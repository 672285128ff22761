-- Whether auth is to be asked about a request's rate. It runs after jwt_authn and before the rate limit filter.
--
-- Most accounts have no limit, and to ask costs as much as a small call. So who has none, as auth has said, is not asked about
-- again for a moment. And a few questions in a row without an answer mean that auth is away: then only one request in a
-- while asks, and waits. Each worker knows this for itself.
-- (ratelimits.py: without `ask` there is no descriptor, and without a descriptor no question.)

local UNLIMITED_MS = 2000 -- How late a first limit is seen.
local AWAY_MS = 1000
local FAILURES_MAX = 5 -- In a row: under load a single one may be late.
local ACCOUNTS_MAX = 10000

local unlimited_until, count = {}, 0
local failures, away_until_ms = 0, 0

local function account_of(known)
  local tokens = known:get("envoy.filters.http.jwt_authn")
  local claims = tokens ~= nil and tokens["claims"] or nil
  if claims == nil then
    return nil
  end
  -- Names hold no newline: auth mints none, and the services refuse such tokens.
  return (claims["org"] or "") .. "\n" .. (claims["project"] or "") .. "\n" .. (claims["api_key"] or "")
end

local function remember_unlimited(account, until_ms)
  if unlimited_until[account] == nil then
    if count >= ACCOUNTS_MAX then
      unlimited_until, count = {}, 0
    end
    count = count + 1
  end
  unlimited_until[account] = until_ms
end

function envoy_on_request(handle)
  local known = handle:streamInfo():dynamicMetadata()
  local account = account_of(known)
  if account == nil then
    return
  end
  local now_ms = handle:timestamp()
  if now_ms < (unlimited_until[account] or 0) or now_ms < away_until_ms then
    return
  end
  if failures >= FAILURES_MAX then
    away_until_ms = now_ms + AWAY_MS -- This one asks for all others.
  end
  known:set("ollamesh.rates", "ask", "yes")
end

function envoy_on_response(handle)
  local known = handle:streamInfo():dynamicMetadata()
  local asked = known:get("ollamesh.rates")
  if asked == nil or asked["ask"] == nil then
    return
  end
  local answer = known:get("envoy.filters.http.ratelimit")
  if answer == nil then
    failures = failures + 1
    return
  end
  failures, away_until_ms = 0, 0
  if answer["unlimited"] then
    remember_unlimited(account_of(known), handle:timestamp() + UNLIMITED_MS)
  end
end
