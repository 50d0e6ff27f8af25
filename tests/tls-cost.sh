#!/usr/bin/env bash
# What TLS costs: writes per second, their latency, and the leader's processor time for a write, with TLS on every
# connection as ratios of those without.
#
#   tests/tls-cost.sh [ROUNDS] [SECONDS] [OPTION OF kv-bench load...]     default 20 and 3
#
# Two clusters of a leader and five followers run beside each other, one with TLS and one without, and each round
# measures both, in turn, since a busy machine changes from minute to minute. The results are medians of the rounds'
# ratios, with quartiles. PROGRAMS names the directory of kv-node and kv-bench (default: target/release).
# WRITE_QUORUM (3) and the other settings of kv-node reach the leaders. Needs curl, jq and openssl.
set -euo pipefail
rounds=${1:-20} seconds=${2:-3}
shift $(($# < 2 ? $# : 2))
programs=${PROGRAMS:-target/release}
out=$(mktemp -d)
pids=()
stop() {
  # The leaders end first: they drain while their followers still answer.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill "${pids[i]}" 2>/dev/null || true
    wait "${pids[i]}" 2>/dev/null || true
  done
  rm -rf "$out"
}
trap stop EXIT

# An authority, and one certificate for all nodes.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=authority \
  -addext keyUsage=critical,keyCertSign -keyout "$out/ca.key" -out "$out/ca.crt" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=node -keyout "$out/tls.key" -out "$out/tls.csr" 2>/dev/null
printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n' >"$out/extensions"
openssl x509 -req -in "$out/tls.csr" -CA "$out/ca.crt" -CAkey "$out/ca.key" -days 1 -extfile "$out/extensions" -out "$out/tls.crt" 2>/dev/null

# start NAME SCHEME BASE-PORT [SETTING...]: a cluster, whose leader is at the base port.
start() {
  local name=$1 scheme=$2 base=$3 followers='' i
  shift 3
  for i in 1 2 3 4 5; do
    followers+=${followers:+,}$scheme://localhost:$((base + i))
    env "$@" ROLE=follower NODE_NAME="follower$i" PORT=$((base + i)) RESP_PORT='' "$programs/kv-node" >"$out/$name-$i.log" 2>&1 &
    pids+=($!)
  done
  env "$@" ROLE=leader NODE_NAME=leader PORT="$base" FOLLOWERS="$followers" MIN_DELAY_MS=0 MAX_DELAY_MS=0 RESP_PORT='' \
    WRITE_QUORUM="${WRITE_QUORUM:-3}" "$programs/kv-node" >"$out/$name.log" 2>&1 &
  pids+=($!)
  local deadline=$((SECONDS + 30))
  until curl -sf --cacert "$out/ca.crt" -o /dev/null "$scheme://localhost:$base/readyz"; do
    if ! kill -0 "${pids[-1]}" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
      echo "tls-cost: the leader $name is not ready" >&2
      tail -n 5 "$out/$name"*.log >&2
      exit 1
    fi
    sleep 0.1
  done
}
# Without TLS after those with it, so that a failure of TLS shows before anything is measured.
start encrypted https 8100 TLS_CERT_FILE="$out/tls.crt" TLS_KEY_FILE="$out/tls.key" TLS_CA_FILE="$out/ca.crt"
encrypted=${pids[-1]}
start plain http 8200
plain=${pids[-1]}

# load PID URL OPTION...: writes per second, their median and 99th percentile in ms, and clock ticks of the leader for a write.
load() {
  local pid=$1 url=$2 ticks ticks_after
  shift 2
  ticks=$(awk '{ print $14 + $15 }' "/proc/$pid/stat")
  "$programs/kv-bench" load --leader "$url" --tls-ca-file "$out/ca.crt" --warmup-seconds 0.5 --seconds "$seconds" --out "$out" "$@" >/dev/null
  ticks_after=$(awk '{ print $14 + $15 }' "/proc/$pid/stat")
  # The warm-up is as long a part of the ticks each time.
  jq -r ".puts | \"\(.per_second) \(.service.p50_ms) \(.service.p99_ms) \(($ticks_after - $ticks) / .per_second)\"" "$out/load.json"
}
for ((round = 0; round < rounds; round++)); do
  if ((round % 2)); then
    on=$(load "$encrypted" https://localhost:8100 "$@") off=$(load "$plain" http://localhost:8200 "$@")
  else
    off=$(load "$plain" http://localhost:8200 "$@") on=$(load "$encrypted" https://localhost:8100 "$@")
  fi
  echo "$on $off"
done | jq -rs --raw-input -L "$(dirname "$0")" '
  include "ratios"; rounds |
  "with TLS: writes per second \(ratio(.[0] / .[4])), median latency \(ratio(.[1] / .[5])), 99th percentile \(ratio(.[2] / .[6])), leader processor time for a write \(ratio(.[3] / .[7]))"'
