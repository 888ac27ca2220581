"""The scripts that Redis runs: each a step that nobody else comes between, on the keys of one slot.

A record's bytes are those of ``redis_keys``; the offsets below are of its header (size at 8, generation at
16, time of change at 24, state at 32) and count from 1 in Lua's ``string.sub``. A lease is a hash:
``h:HOLDER`` is when that holder's claims lapse, ``p:PIECE`` who has claimed a piece. All times are Redis's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

__all__ = [
    "BEGIN",
    "CLAIM",
    "COMMIT",
    "DELETE",
    "DISCARD",
    "DROP",
    "DROP_LEASE",
    "GONE",
    "INSTALL",
    "LEAVE",
    "LOOK",
    "MARK",
    "RELEASE",
    "RENEW",
    "RESERVE",
    "UNMARK",
    "UNRESERVE",
    "Script",
]

GONE: Final = -1
"""What a script answers where the record is not, or no longer, of the generation that was named."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script.

    Attributes:
        text: Lua.
        sha1: of the text, in hex, by which Redis knows it.
    """

    text: str
    sha1: str


def _script(body: str) -> Script:
    text = _PRELUDE + body
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_PRELUDE = """
local HEADER, ENTRY = 40, 8
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function of_generation(key, generation)
  return redis.call('GETRANGE', key, 16, 23) == generation
end
local function state_of(key)
  return string.byte(redis.call('GETRANGE', key, 32, 32)) or 0
end
local function entry(key, piece)
  local at = HEADER + ENTRY * piece
  return redis.call('GETRANGE', key, at, at + ENTRY - 1)
end
local function set_entry(key, piece, bytes)
  redis.call('SETRANGE', key, HEADER + ENTRY * piece, bytes)
  redis.call('SETRANGE', key, 24, struct.pack('<I8', now_ms()))
end
local function set_state(key, state)
  redis.call('SETRANGE', key, 32, struct.pack('<I4', state))
end
local function lives(lease, holder, now)
  local until_ms = redis.call('HGET', lease, 'h:' .. holder)
  return until_ms and tonumber(until_ms) > now
end
local function others_live(lease, holder)
  local now = now_ms()
  local fields = redis.call('HGETALL', lease)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'h:' and string.sub(fields[i], 3) ~= holder
        and tonumber(fields[i + 1]) > now then
      return true
    end
  end
  return false
end
local function forget(lease, holder)
  local fields = redis.call('HGETALL', lease)
  for i = 1, #fields, 2 do
    if fields[i] == 'h:' .. holder or (string.sub(fields[i], 1, 2) == 'p:' and fields[i + 1] == holder) then
      redis.call('HDEL', lease, fields[i])
    end
  end
end
"""

# KEYS record, lease; ARGV header, count of pieces, holder, lease in ms.
# Answers {1, record} where the blob is complete, else {0, record}, joined or begun anew.
BEGIN: Final = _script("""
local header, count = ARGV[1], tonumber(ARGV[2])
local record = redis.call('GET', KEYS[1])
if record and #record == HEADER + ENTRY * count
    and string.sub(record, 1, 16) == string.sub(header, 1, 16) then
  if state_of(KEYS[1]) == 1 then return {1, record} end
else
  record = string.sub(header, 1, 24) .. struct.pack('<I8', now_ms()) .. string.sub(header, 33)
    .. string.rep(string.char(0), ENTRY * count)
  redis.call('SET', KEYS[1], record)
  redis.call('DEL', KEYS[2])
end
redis.call('HSET', KEYS[2], 'h:' .. ARGV[3], string.format('%.0f', now_ms() + ARGV[4]))
return {0, record}
""")

# KEYS record, lease; ARGV generation, holder, lease in ms. Answers the state.
RENEW: Final = _script("""
if not of_generation(KEYS[1], ARGV[1]) then return -1 end
local state = state_of(KEYS[1])
if state ~= 1 then
  redis.call('HSET', KEYS[2], 'h:' .. ARGV[2], string.format('%.0f', now_ms() + ARGV[3]))
end
return state
""")

# KEYS record, lease; ARGV generation, holder, lease in ms, pieces. Answers the pieces that were granted.
CLAIM: Final = _script("""
if not of_generation(KEYS[1], ARGV[1]) then return -1 end
if state_of(KEYS[1]) == 1 then return {} end
local now, holder = now_ms(), ARGV[2]
redis.call('HSET', KEYS[2], 'h:' .. holder, string.format('%.0f', now + ARGV[3]))
local granted = {}
for i = 4, #ARGV do
  if string.byte(entry(KEYS[1], tonumber(ARGV[i]))) ~= 1 then
    local owner = redis.call('HGET', KEYS[2], 'p:' .. ARGV[i])
    if not owner or owner == holder or not lives(KEYS[2], owner, now) then
      redis.call('HSET', KEYS[2], 'p:' .. ARGV[i], holder)
      granted[#granted + 1] = tonumber(ARGV[i])
    end
  end
end
return granted
""")

# KEYS lease; ARGV holder, pieces.
RELEASE: Final = _script("""
for i = 2, #ARGV do
  if redis.call('HGET', KEYS[1], 'p:' .. ARGV[i]) == ARGV[1] then
    redis.call('HDEL', KEYS[1], 'p:' .. ARGV[i])
  end
end
return 0
""")

# KEYS record, lease; ARGV generation, holder. Answers {record, pieces that others have claimed}.
LOOK: Final = _script("""
if not of_generation(KEYS[1], ARGV[1]) then return -1 end
local now, claimed = now_ms(), {}
local fields = redis.call('HGETALL', KEYS[2])
for i = 1, #fields, 2 do
  local owner = fields[i + 1]
  if string.sub(fields[i], 1, 2) == 'p:' and owner ~= ARGV[2] and lives(KEYS[2], owner, now) then
    claimed[#claimed + 1] = tonumber(string.sub(fields[i], 3))
  end
end
return {redis.call('GET', KEYS[1]), claimed}
""")

# KEYS record, lease; ARGV generation, holder, piece, entry. The chunk is there already.
MARK: Final = _script("""
if not of_generation(KEYS[1], ARGV[1]) then return -1 end
local piece = tonumber(ARGV[3])
if entry(KEYS[1], piece) ~= ARGV[4] then set_entry(KEYS[1], piece, ARGV[4]) end
if redis.call('HGET', KEYS[2], 'p:' .. ARGV[3]) == ARGV[2] then
  redis.call('HDEL', KEYS[2], 'p:' .. ARGV[3])
end
return 0
""")

# KEYS record; ARGV generation, then piece and entry by turns: taken back where the entry is still that one.
UNMARK: Final = _script("""
if not of_generation(KEYS[1], ARGV[1]) then return -1 end
local taken = 0
for i = 2, #ARGV, 2 do
  local piece = tonumber(ARGV[i])
  if entry(KEYS[1], piece) == ARGV[i + 1] then
    set_entry(KEYS[1], piece, string.rep(string.char(0), ENTRY))
    taken = taken + 1
  end
end
if taken > 0 and state_of(KEYS[1]) == 1 then set_state(KEYS[1], 2) end
return taken
""")

# KEYS record, lease; ARGV generation, count of pieces. Answers how many pieces are missing.
COMMIT: Final = _script("""
local count = tonumber(ARGV[2])
if not of_generation(KEYS[1], ARGV[1]) then
  -- Somebody else has begun the blob anew, and if it is complete, then it is what this one would have been.
  if redis.call('STRLEN', KEYS[1]) == HEADER + ENTRY * count and state_of(KEYS[1]) == 1 then return 0 end
  return -1
end
local record, missing = redis.call('GET', KEYS[1]), 0
for piece = 0, count - 1 do
  if string.byte(record, HEADER + ENTRY * piece + 1) ~= 1 then missing = missing + 1 end
end
if missing == 0 then
  set_state(KEYS[1], 1)
  redis.call('DEL', KEYS[2])
end
return missing
""")

# KEYS record, lease; ARGV generation, holder. Answers the state.
LEAVE: Final = _script("""
forget(KEYS[2], ARGV[2])
if not of_generation(KEYS[1], ARGV[1]) then return -1 end
return state_of(KEYS[1])
""")

# KEYS record, lease; ARGV generation, holder, "force" or "". Answers 1 where the record is gone, else 0.
DISCARD: Final = _script("""
forget(KEYS[2], ARGV[2])
if not of_generation(KEYS[1], ARGV[1]) then return 1 end
if state_of(KEYS[1]) == 1 then return 0 end
if ARGV[3] ~= 'force' and others_live(KEYS[2], ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
""")

# KEYS record, lease; ARGV how long idle, in ms. Answers 1 where it was dropped.
DROP: Final = _script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if state_of(KEYS[1]) == 1 or others_live(KEYS[2], '') then return 0 end
local changed = redis.call('GETRANGE', KEYS[1], 24, 31)
if #changed == 8 and now_ms() - struct.unpack('<I8', changed) < tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
""")

# KEYS record, lease: of a complete blob. Answers 1 where it was removed.
DELETE: Final = _script("""
if state_of(KEYS[1]) ~= 1 then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
""")

# KEYS record, lease: a lease without a record is removed.
DROP_LEASE: Final = _script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.call('DEL', KEYS[2]) end
return 0
""")

# KEYS ledger; ARGV id, size, entry, budget. Answers {1, used} where there is room, {0, used} where there is
# not, and {-1, 0} where the ledger has vanished or an entry is damaged. A reservation of the same size is
# taken over, whatever the budget is by now; the entry is written anew each time, so that who would remove the
# old one does not.
RESERVE: Final = _script("""
local size, budget = tonumber(ARGV[2]), tonumber(ARGV[4])
if redis.call('HEXISTS', KEYS[1], 'layout') == 0 then return {-1, 0} end
local used, own = 0, nil
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if fields[i] ~= 'layout' then
    local bytes = tonumber(string.match(fields[i + 1], '^%d+'))
    if not bytes then return {-1, 0} end
    if fields[i] == ARGV[1] then own = bytes else used = used + bytes end
  end
end
if own ~= size and used + size > budget then return {0, used + (own or 0)} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return {1, used + size}
""")

# KEYS ledger; ARGV id, entry: removed if it is still that one.
UNRESERVE: Final = _script("""
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
""")

# KEYS ledger; ARGV id and entry by turns: added where they are not. The ledger is whole afterwards.
INSTALL: Final = _script("""
for i = 1, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSETNX', KEYS[1], 'layout', '1')
return 0
""")
