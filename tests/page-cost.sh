#!/usr/bin/env bash
# What an open page costs: writes per second, and the leader's processor time for a write, with a page open
# as a ratio of those without.
#
#   MAX_DELAY_MS=0 tests/local-cluster.sh tests/page-cost.sh [ROUNDS] [SECONDS]     default 20 and 3
#
# Each round measures both, in turn, since a busy machine changes from minute to minute. The results are
# medians of the rounds' ratios, with quartiles. A reader of GET /live takes the place of the page: the browser
# would take processor time from the nodes. PROGRAMS names the directory of kv-bench (default:
# target/release), LEADER and LEADER_PID another leader. Needs curl and jq.
set -euo pipefail
rounds=${1:-20} seconds=${2:-3}
programs=${PROGRAMS:-target/release} leader=${LEADER:-http://127.0.0.1:8000}
out=$(mktemp -d)
page=
trap 'kill $page 2>/dev/null || true; rm -rf "$out"' EXIT

# Clock ticks of the leader in its own code and in the system's, and its committed writes.
so_far() { echo "$(awk '{ print $14 + $15 }' "/proc/$LEADER_PID/stat") $(curl -sf "$leader/status" | jq .writes.committed)"; }

# Writes per second, and ticks for a write.
load() {
  read -r ticks writes <<<"$(so_far)"
  "$programs/kv-bench" load --leader "$leader" --warmup-seconds 0.5 --seconds "$seconds" --out "$out" >/dev/null
  read -r ticks_after writes_after <<<"$(so_far)"
  jq "\"\(.puts.per_second) \(($ticks_after - $ticks) / ($writes_after - $writes))\"" -r "$out/load.json"
}
with_page() {
  curl -sfN "$leader/live" >"$out/events" &
  page=$!
  load
  kill "$page"
  wait "$page" || true
  page=
  # Without a sample nothing would have been measured.
  grep -q '"writes":\[{' "$out/events" || { echo "the page got no sample of writes" >&2; exit 1; }
}

for ((round = 0; round < rounds; round++)); do
  if ((round % 2)); then open=$(with_page) without=$(load); else without=$(load) open=$(with_page); fi
  echo "$open $without"
done | jq -rs --raw-input -L "$(dirname "$0")" '
  include "ratios"; rounds |
  "with an open page: writes per second \(ratio(.[0] / .[2])), leader processor time for a write \(ratio(.[1] / .[3]))"'
