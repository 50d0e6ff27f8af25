#!/usr/bin/env bash
# Runs a command beside a local cluster: a leader on port 8000 and five followers on 8001-8005, as
# processes that end with the command. The exit code is the command's.
#
#   tests/local-cluster.sh COMMAND [ARGUMENT...]
#
# WRITE_QUORUM (3), MIN_DELAY_MS and the other settings of kv-node reach the leader from the environment;
# RESP_PORT reaches no follower.
# KV_NODE names the program (target/release/kv-node). LEADER_UNDER and FOLLOWER_UNDER may name a command
# to run the leader or the first follower under, such as a profiler. The command finds the process ids in
# LEADER_PID and FOLLOWER_PIDS. With DURABILITY=disk every follower
# gets a directory, which is removed at the end.
set -euo pipefail

[ $# -gt 0 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
node=${KV_NODE:-$root/target/release/kv-node}
[ -x "$node" ] || { echo "local-cluster: $node is missing: cargo build --release -p kv-node" >&2; exit 2; }
# shellcheck source=tests/common.sh
. "$root/tests/common.sh"
require_free_ports || exit 2

logs=$(mktemp -d)
pids=()

stop() {
  local code=$?
  trap - EXIT
  # The leader, started last, ends first: it drains while its followers still answer.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill -TERM "${pids[i]}" 2>/dev/null || true
    wait "${pids[i]}" || { echo "local-cluster: node $i of 0-5 (5 is the leader) ended with $?" >&2; [ "$code" -ne 0 ] || code=1; }
  done
  if [ "$code" -ne 0 ]; then tail -n 20 "$logs"/*.log >&2; fi
  rm -rf "$logs"
  exit "$code"
}
trap stop EXIT
trap 'exit 130' INT TERM

followers=
for i in 1 2 3 4 5; do
  followers+=${followers:+,}http://127.0.0.1:800$i
  under=
  [ "$i" -ne 1 ] || under=${FOLLOWER_UNDER:-}
  data=()
  [ "${DURABILITY:-}" != disk ] || data=(env "DATA_DIR=$logs/data$i")
  # shellcheck disable=SC2086 # several words
  ROLE=follower NODE_NAME=follower$i PORT=800$i RESP_PORT='' "${data[@]}" $under "$node" >"$logs/follower$i.log" 2>&1 &
  pids+=($!)
done
# shellcheck disable=SC2086 # several words
ROLE=leader NODE_NAME=leader PORT=8000 FOLLOWERS=$followers WRITE_QUORUM=${WRITE_QUORUM:-3} ${LEADER_UNDER:-} "$node" >"$logs/leader.log" 2>&1 &
pids+=($!)

for port in 8000 8001 8002 8003 8004 8005; do
  deadline=$((SECONDS + 30))
  until curl -sf -o /dev/null "http://127.0.0.1:$port/readyz"; do
    for pid in "${pids[@]}"; do
      kill -0 "$pid" 2>/dev/null || { echo "local-cluster: a node ended before it was ready" >&2; exit 1; }
    done
    [ $SECONDS -lt $deadline ] || { echo "local-cluster: port $port is not ready within 30 s" >&2; exit 1; }
    sleep 0.1
  done
done

LEADER_PID=${pids[5]} FOLLOWER_PIDS=${pids[*]:0:5} "$@"
