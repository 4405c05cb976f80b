"""The order of waiting jobs: by priority, and among equals by age.

RQ takes jobs from the left of one list: several lists would cost its reliable dequeue. So a job is
inserted at its place.
"""

from __future__ import annotations

# KEYS: the list. ARGV: the job, the prefix of job records, and 1 to insert the job before its
# equals, for a job that has run before. The list is in order, so the place is found by bisection.
# A job of the same priority as the last one goes to the end at once.
PUSH = """
local function priority(id)
  return tonumber(redis.call('HGET', ARGV[2] .. id, 'priority') or '0')
end
local function before(own, other)
  return own > other or (own == other and ARGV[3] == '1')
end
local own = priority(ARGV[1])
local low, high = 0, redis.call('LLEN', KEYS[1])
if high > 0 and not before(own, priority(redis.call('LINDEX', KEYS[1], -1))) then low = high end
while low < high do
  local middle = math.floor((low + high) / 2)
  if before(own, priority(redis.call('LINDEX', KEYS[1], middle))) then
    high = middle
  else
    low = middle + 1
  end
end
local pivot = redis.call('LINDEX', KEYS[1], low)
if pivot then return redis.call('LINSERT', KEYS[1], 'BEFORE', pivot, ARGV[1]) end
return redis.call('RPUSH', KEYS[1], ARGV[1])
"""
