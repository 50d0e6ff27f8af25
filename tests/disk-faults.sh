#!/usr/bin/env bash
# A follower whose disk fails, with real processes on a real file system: a sync that fails, and a disk that is full. Each
# time the follower ends with one line that gives the reason, confirms nothing afterwards, the cluster goes on with the
# others, and after a restart the follower has everything that it ever confirmed. A follower that can open no file any more
# goes on storing. Leader on port 8000, followers on 8001-8003.
#
#   tests/disk-faults.sh            less than a minute on a quiet machine
#
# The failed sync needs strace, the full disk root (a small file system in memory is mounted), the missing descriptors
# prlimit: what cannot be done is skipped, and the script says so. KV_NODE names the program (target/release/kv-node).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
node=${KV_NODE:-$root/target/release/kv-node}
[ -x "$node" ] || { echo "disk-faults: $node is missing: cargo build --release -p kv-node" >&2; exit 2; }
# shellcheck source=tests/common.sh
. "$root/tests/common.sh"
require_free_ports || exit 2

base=$(mktemp -d)
mounted=
declare -A pids=()

fail() { echo "disk-faults: $*" >&2; exit 1; }

stop() {
  local code=$?
  trap - EXIT
  end_all
  [ "$code" -eq 0 ] || tail -n 5 "$base"/*.log >&2
  [ -z "$mounted" ] || umount "$mounted"
  rm -rf "$base"
  exit "$code"
}
trap stop EXIT
trap 'exit 130' INT TERM

end_all() {
  local name
  for name in "${!pids[@]}"; do kill -TERM "${pids[$name]}" 2>/dev/null || true; done
  for name in "${!pids[@]}"; do wait "${pids[$name]}" 2>/dev/null || true; done
  pids=()
}

# until_true SECONDS WHAT COMMAND…: waits for a condition.
until_true() {
  local deadline=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "$what: not within the time"
    sleep 0.1
  done
}

ready() { curl -sf -o /dev/null "http://127.0.0.1:800$1/readyz"; }

# follower NUMBER DATA_DIR [COMMAND TO RUN IT UNDER…]
follower() {
  local number=$1 data=$2; shift 2
  DATA_DIR=$data ROLE=follower NODE_NAME=follower$number PORT=800$number "$@" "$node" >>"$base/follower$number.log" 2>&1 &
  pids[$number]=$!
}

# end NUMBER
end() {
  kill -TERM "${pids[$1]}"
  wait "${pids[$1]}" || fail "node $1 ended with $?"
  unset "pids[$1]"
}

leader() {
  ROLE=leader NODE_NAME=leader PORT=8000 MIN_DELAY_MS=0 MAX_DELAY_MS=0 WRITE_QUORUM=2 \
    FOLLOWERS=http://127.0.0.1:8001,http://127.0.0.1:8002,http://127.0.0.1:8003 "$node" >>"$base/leader.log" 2>&1 &
  pids[0]=$!
  until_true 60 "the leader is ready" ready 0
}

# put KEY SECONDS: whether its value was acknowledged within that time.
put() {
  jq -Rsc --arg key "$1" '{key: $key, value: .}' <"$base/values/$1" >"$base/body"
  curl -sf -o /dev/null --max-time "$2" -H 'content-type: application/json' --data-binary "@$base/body" http://127.0.0.1:8000/put
}

# ended NUMBER REASON: the follower ends by itself, with code 1 and one line that says why.
ended() {
  local number=$1 code=0
  until_true 60 "follower $number ends" not_running "${pids[$number]}"
  wait "${pids[$number]}" || code=$?
  unset "pids[$number]"
  [ "$code" -eq 1 ] || fail "follower $number ended with $code instead of 1"
  # The sync that fails may also be that of the other file, which a follower syncs when it has nothing to store.
  [ "$(grep -cE "ended at once: failed to store: (the log|the number of the confirmed batch): $2" "$base/follower$number.log")" -eq 1 ] ||
    fail "follower $number does not say '$2' in one line"
}
not_running() { ! kill -0 "$1"; }

# has NUMBER FILE-OF-KEYS: a follower shows every key with the value that was acknowledged, which is the file by that name.
has() {
  local key
  while read -r key; do
    [ "$(curl -sf "http://127.0.0.1:800$1/get?key=$key" | jq -j .value | sha256sum)" = "$(sha256sum <"$base/values/$key")" ] || return 1
  done <"$2"
}
restored() { [ "$(curl -sf "http://127.0.0.1:800$1/status" | jq -r .disk.found)" = restored ]; }

# value KEY BYTES: makes the value of a key.
value() { { printf '%s ' "$1"; head -c "$2" /dev/zero | tr '\0' x; } >"$base/values/$1"; }

mkdir "$base/values"

# confirms_until_it_ends PREFIX BYTES MOST REASON: follower 2 is away, so that every acknowledged write was confirmed by
# follower 1. Writes until one is not; more than MOST it cannot have stored.
confirms_until_it_ends() {
  local i key
  leader
  end 2
  : >"$base/acknowledged"
  for ((i = 0; i < 2 * $3; i++)); do
    key=$1$i
    value "$key" "$2"
    put "$key" 2 || break
    echo "$key" >>"$base/acknowledged"
  done
  acknowledged=$(wc -l <"$base/acknowledged")
  [ "$acknowledged" -gt 0 ] && [ "$acknowledged" -lt "$3" ] || fail "$acknowledged writes were acknowledged, and not between 1 and $3"
  ended 1 "$4"
  cp "$base/acknowledged" "$base/confirmed"
  follower 2 "$base/data2"
  for ((i = 0; i < 5; i++)); do
    key=${1}without$i
    value "$key" 100
    until_true 60 "the cluster goes on without follower 1" put "$key" 5
    echo "$key" >>"$base/acknowledged"
  done
  # What follower 1 has then, it has from its own disk.
  end 0
}

failed_sync() {
  local when=40
  echo "== a sync fails: each of follower 1 from number $when on"
  # Where the file system writes directly, one call writes a batch and syncs it.
  follower 1 "$base/data1" strace -D -f -qq -o /dev/null -e trace=fdatasync,pwritev2 \
    -e "inject=fdatasync,pwritev2:error=EIO:when=$when+"
  follower 2 "$base/data2"
  follower 3 "$base/data3"
  confirms_until_it_ends sync 100 "$when" "Input/output error"
  follower 1 "$base/data1"
  until_true 60 "follower 1 is back" restored 1
  has 1 "$base/confirmed" || fail "follower 1 lost what it confirmed"
  leader
  until_true 60 "follower 1 has everything" has 1 "$base/acknowledged"
  echo "   $acknowledged writes acknowledged before; everything is there"
  end_all
}

full_disk() {
  echo "== a disk is full: follower 1 has 6 MiB"
  rm -rf "$base"/data? "$base"/*.log
  follower 1 "$mounted/data"
  follower 2 "$base/data2"
  follower 3 "$base/data3"
  confirms_until_it_ends full 100000 62 "No space left on device"
  # It opens while the disk is still full, and takes more once there is room.
  follower 1 "$mounted/data"
  until_true 60 "follower 1 is back" restored 1
  has 1 "$base/confirmed" || fail "follower 1 lost what it confirmed"
  end 1
  mount -o remount,size=64m "$mounted"
  follower 1 "$mounted/data"
  leader
  until_true 60 "follower 1 has everything" has 1 "$base/acknowledged"
  echo "   $acknowledged writes acknowledged before; everything is there"
  end_all
}

no_descriptors() {
  local i key
  echo "== no descriptor is left: follower 1 can open no file any more"
  rm -rf "$base"/data? "$base"/*.log
  follower 1 "$base/data1"
  follower 2 "$base/data2"
  follower 3 "$base/data3"
  leader
  end 2
  : >"$base/acknowledged"
  # Every acknowledged write is one of follower 1. They are longer than two segments of its log.
  for ((i = 0; i < 24; i++)); do
    key=open$i
    value "$key" 1000000
    put "$key" 10 || fail "$key was not acknowledged"
    echo "$key" >>"$base/acknowledged"
    [ "$i" -ne 1 ] || prlimit --pid "${pids[1]}" --nofile=3:3
  done
  end 1
  end 0
  follower 1 "$base/data1"
  until_true 60 "follower 1 is back" restored 1
  has 1 "$base/acknowledged" || fail "follower 1 lost what it confirmed"
  echo "   24 writes of 1 MB acknowledged; everything is there"
  end_all
}

if strace -D -qq -o /dev/null -e inject=fdatasync:error=EIO true 2>/dev/null; then
  failed_sync
else
  echo "== a sync fails: SKIPPED, strace is missing or may not trace"
fi
mkdir "$base/small"
if mount -t tmpfs -o size=6m tmpfs "$base/small" 2>/dev/null; then
  mounted=$base/small
  full_disk
else
  echo "== a disk is full: SKIPPED, no file system can be mounted here (that needs root)"
fi
if command -v prlimit >/dev/null; then
  no_descriptors
else
  echo "== no descriptor is left: SKIPPED, prlimit is missing"
fi
echo "disk-faults: ok"
