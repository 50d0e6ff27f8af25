#!/usr/bin/env bash
# Counts the instructions of the leader's and of one follower's program for a write (W = 3 of 5, no delay),
# in total and by function: figures that a busy machine does not move. Needs valgrind, kv-node and kv-bench.
#
#   tests/instructions.sh [SECONDS [LOAD...]]           4 seconds of each load under callgrind
#   DURABILITY=disk tests/instructions.sh               followers store on disk
#
# A LOAD is PROTOCOL:CONNECTIONS:PIPELINE, such as http:64:1 or redis:16:64. PROTOCOL:CONNECTIONS:PIPELINE:L:F
# fails, with exit code 1, if a write takes the leader more than L instructions or the follower more than F.
# PROGRAMS names the directory of the programs (default: target/dist). The figures are in
# target/instructions/figures.txt, those by function in LOAD-leader.txt and LOAD-follower.txt beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
export PROGRAMS=${PROGRAMS:-target/dist}
export KV_NODE=$PROGRAMS/kv-node
out=target/instructions

if [ "${1:-}" != measure ]; then
  rm -rf "$out"
  mkdir -p "$out"
  under="valgrind --quiet --tool=callgrind --instr-atstart=no --callgrind-out-file=$out"
  seconds=${1:-4}
  shift || true
  [ $# -gt 0 ] || set -- http:64:1 redis:64:1 redis:16:16 redis:16:64
  LEADER_UNDER=$under/leader FOLLOWER_UNDER=$under/follower RESP_PORT=8006 MAX_DELAY_MS=0 LOG_LEVEL=warn \
    tests/local-cluster.sh tests/instructions.sh measure "$seconds" "$@"

  # Instructions of a program for each write of a load; its functions go to a file.
  each() {
    callgrind_annotate --threshold=99 "$out/$1.$2" | awk -v writes="$3" -v functions="$out/$4-$1.txt" '
      /PROGRAM TOTALS/ { gsub(",", "", $1); printf "%.0f\n", $1 / writes }
      /^ *[0-9,]+ \(/ && !/PROGRAM/ {
        count = $1; gsub(",", "", count); $1 = ""; sub(/^ *\([^)]*\) */, "")
        printf "%7.0f  %s\n", count / writes, $0 >functions
      }'
  }
  code=0
  printf '%-36s %8s %8s %8s\n' 'instructions for a write' writes leader follower | tee "$out/figures.txt"
  while read -r number load writes; do
    IFS=: read -r protocol connections pipeline leader_max follower_max <<<"$load"
    leader=$(each leader "$number" "$writes" "$protocol-$connections-$pipeline")
    follower=$(each follower "$number" "$writes" "$protocol-$connections-$pipeline")
    name="$protocol, $connections connections, pipeline $pipeline"
    printf '%-36s %8d %8d %8d\n' "$name" "$writes" "$leader" "$follower" | tee -a "$out/figures.txt"
    if [ "$leader" -gt "${leader_max:-$leader}" ] || [ "$follower" -gt "${follower_max:-$follower}" ]; then
      echo "$name: more than the limits of $leader_max and $follower_max"; code=1
    fi
  done <"$out/writes"
  exit $code
fi

seconds=$2
shift 2
follower_pid=${FOLLOWER_PIDS%% *}
run() {
  IFS=: read -r protocol connections pipeline _ <<<"$1"
  address=()
  [ "$protocol" = http ] || address=(--redis-address 127.0.0.1:8006)
  "$PROGRAMS/kv-bench" load --leader http://127.0.0.1:8000 --protocol "$protocol" "${address[@]}" \
    --connections "$connections" --pipeline "$pipeline" --warmup-seconds 0 --seconds "$2" --out "$out/load" >/dev/null
  # The programs that callgrind slows down may have work left, which counts too.
  until [ "$(curl -sf http://127.0.0.1:8000/status | jq .writes.backlog)" = 0 ]; do sleep 0.1; done
}
control() { callgrind_control "$1" "$LEADER_PID" "$follower_pid" >/dev/null 2>&1; }
committed() { curl -sf http://127.0.0.1:8000/status | jq .writes.committed; }
number=0
for load in "$@"; do
  run "$load" 1
  control --instr=on
  control --zero
  before=$(committed)
  run "$load" "$seconds"
  after=$(committed)
  control --dump
  number=$((number + 1))
  echo "$number $load $((after - before))" >>"$out/writes"
done
