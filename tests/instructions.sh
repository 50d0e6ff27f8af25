#!/usr/bin/env bash
# Counts the instructions of the leader's program for a write (W = 3 of 5, no delay, in memory), by
# function: a figure that a busy machine does not move. Needs valgrind, kv-node and kv-bench.
#
#   tests/instructions.sh [CONNECTIONS] [SECONDS]       default 64 and 4; writes target/instructions.txt
#   OF=follower DURABILITY=disk tests/instructions.sh   counts those of one follower, which stores
#
# PROGRAMS names the directory of the programs (default: target/dist). With INSTRUCTIONS_MAX set, more
# than that for a write is a failure: exit code 1.
set -euo pipefail
cd "$(dirname "$0")/.."
export PROGRAMS=${PROGRAMS:-target/dist}
export KV_NODE=$PROGRAMS/kv-node

if [ "${1:-}" != measure ]; then
  out=target/callgrind.out
  rm -f "$out"
  under="valgrind --quiet --tool=callgrind --instr-atstart=no --callgrind-out-file=$out"
  if [ "${OF:-leader}" = follower ]; then export FOLLOWER_UNDER=$under; else export LEADER_UNDER=$under; fi
  MAX_DELAY_MS=0 LOG_LEVEL=warn tests/local-cluster.sh tests/instructions.sh measure "${1:-64}" "${2:-4}"
  writes=$(cat target/instructions.writes)
  callgrind_annotate --threshold=99 "$out" >target/callgrind.txt
  awk -v writes="$writes" '
    /PROGRAM TOTALS/ { gsub(",", "", $1); printf "%d writes, %.0f instructions each\n\n", writes, $1 / writes }
    /^ *[0-9,]+ \(/ && !/PROGRAM/ { count = $1; gsub(",", "", count); $1 = ""; sub(/^ *\([^)]*\) */, ""); printf "%7.0f  %s\n", count / writes, $0 }
  ' target/callgrind.txt >target/instructions.txt
  head -25 target/instructions.txt
  each=$(sed -n '1s/.* writes, \([0-9]*\) instructions each/\1/p' target/instructions.txt)
  [ -n "$each" ] || { echo "nothing was counted"; exit 1; }
  if [ "$each" -gt "${INSTRUCTIONS_MAX:-$each}" ]; then
    echo "a write takes the ${OF:-leader} $each instructions (limit $INSTRUCTIONS_MAX)"; exit 1
  fi
  exit
fi

load() { "$PROGRAMS/kv-bench" load --leader http://127.0.0.1:8000 --connections "$1" --warmup-seconds 0 --seconds "$2" --out target/instructions; }
committed() { curl -sf http://127.0.0.1:8000/status | jq .writes.committed; }
load "$2" 1 >/dev/null
# The program that callgrind slows down may have work left, which counts too.
confirmed() { until [ "$(curl -sf http://127.0.0.1:8000/status | jq .writes.backlog)" = 0 ]; do sleep 0.1; done; }
confirmed
counted=$(pgrep -f 'callgrind --instr-atstart=no' | head -1)
callgrind_control -i on "$counted" >/dev/null
before=$(committed)
load "$2" "$3" >/dev/null
confirmed
echo $(($(committed) - before)) >target/instructions.writes
