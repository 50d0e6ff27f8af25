#!/usr/bin/env bash
# Tests deploy/docker-compose.yml on a real engine: the cluster starts, serves, changes settings live,
# recovers from lost containers and stops cleanly, and loses no acknowledged write meanwhile.
#
#   tests/compose.sh           builds the image, starts a project of its own, and always removes it
#
# Needs docker with compose v2, curl, jq and python3, and the ports 8000-8005 and 8010. Prints one line for each
# claim, with figures in brackets. Exit code 1 if a claim fails. It waits for conditions, never for a time.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
leader=http://127.0.0.1:8000
standby=http://127.0.0.1:8010
project=kvcluster-test-$$
scratch=$(mktemp -d)
passed=0
failed=0

compose() { docker compose -f "$root/deploy/docker-compose.yml" -p "$project" "$@"; }

finish() {
  local code=$?
  trap - EXIT INT TERM
  touch "$scratch/stop"
  wait
  [ "$code" -eq 0 ] || node_logs
  compose --profile standby down --volumes --timeout 20 >/dev/null 2>&1 || true
  rm -rf "$scratch"
  echo "$passed passed, $failed failed"
  [ "$code" -eq 0 ] && [ "$failed" -gt 0 ] && code=1
  exit "$code"
}

node_logs() { echo "--- the last lines of every node"; compose logs --tail 15 2>/dev/null || true; }

# check CLAIM COMMAND…: runs it; its last line of output is the figure shown, the last twenty where it fails.
check() {
  local claim=$1 figure; shift
  if "$@" >"$scratch/output" 2>&1; then
    passed=$((passed + 1))
    figure=$(tail -n 1 "$scratch/output")
    echo "ok    $claim${figure:+ ($figure)}"
  else
    failed=$((failed + 1))
    echo "FAIL  $claim"
    tail -n 20 "$scratch/output" | sed 's/^/      /'
    return 1
  fi
}

# eventually SECONDS COMMAND…: repeats it until it succeeds; after the time prints its last output.
eventually() {
  local deadline=$((SECONDS + $1)) last; shift
  until last=$("$@" 2>&1); do
    [ $SECONDS -lt $deadline ] || { echo "not in time: $*: $last"; return 1; }
    sleep 0.1
  done
  echo "$last"
}

now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
since() { local ms=$(($(now_ms) - $1)); printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100)); }
expect() { [ "$2" = "$3" ] || { echo "$1: expected $3, got $2"; return 1; }; }
field() { curl -sf -m 10 "$1" | jq -r "$2"; }
started_at() { docker inspect -f '{{.State.StartedAt}}' "$@"; }

# patch JSON: changes settings of the running leader and returns once they are in force.
patch() {
  local answer
  answer=$(curl -s -m 20 -X PATCH -H 'content-type: application/json' -d "$1" -w '\n%{http_code}' "$leader/config?wait_ms=15000")
  [ "${answer##*$'\n'}" = 200 ] || { echo "PATCH $1 was answered $answer"; return 1; }
  jq -r '"generation \(.generation) in force"' <<<"${answer%$'\n'*}"
}

# --- load: eight clients, each with keys that it writes once and one that it writes again and again

# Writes one line per write: start and end (ms), status, key, value, seq, quorum; and every answer.
writer() {
  local id=$1 n=0 key value begun answer status body seq quorum
  while [ ! -e "$scratch/stop" ]; do
    n=$((n + 1)) value=$run-$id-$n
    if ((n % 2)); then key=once-$value; else key=again-$id; fi
    begun=$(now_ms)
    answer=$(curl -s -m 20 -w '\n%{http_code}' -H 'content-type: application/json' \
      -d "{\"key\":\"$key\",\"value\":\"$value\"}" "$leader/put?explain=true") || true
    status=${answer##*$'\n'} body=${answer%$'\n'*} seq=0 quorum=0
    [[ $body =~ \"seq\":([0-9]+) ]] && seq=${BASH_REMATCH[1]}
    [[ $body =~ \"write_quorum\":([0-9]+) ]] && quorum=${BASH_REMATCH[1]}
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$begun" "$(now_ms)" "$status" "$key" "$value" "$seq" "$quorum" >>"$scratch/writes.$id"
    if [ "$status" = 200 ]; then
      printf '%s\n' "$body" >>"$scratch/answers.$id"
    else
      printf '%s %s\n' "$status" "$body" >>"$scratch/refused"
      sleep 0.05 # no busy loop while the leader is away
    fi
  done
}

run=0
load() {
  run=$((run + 1))
  rm -f "$scratch"/{stop,refused,writes.*,answers.*}
  for id in 1 2 3 4 5 6 7 8; do writer $id & done
}
calm() { touch "$scratch/stop"; wait; cat "$scratch"/writes.* >"$scratch/writes"; awk -F'\t' '$3 == 200' "$scratch/writes" >>"$scratch/acknowledged"; }
count() { cat "$scratch"/writes.* 2>/dev/null | awk -F'\t' "\$3 == 200 ${1:+&& $1} { n++ } END { print n + 0 }"; }
at_least() { local n; n=$(count "${2:-}"); echo "$n writes"; [ "$n" -ge "$1" ]; }
more() { eventually 60 at_least $(($(count "${2:-}") + $1)) "${2:-}"; }

none_refused() {
  [ ! -s "$scratch/refused" ] || { sort "$scratch/refused" | uniq -c | tail -n 20; return 1; }
  echo "$(count) acknowledged, 0 refused"
}

# Every write acknowledged in any run so far is in the leader's dump, or a newer one is.
none_lost() {
  curl -sf -m 30 "$leader/dump" | jq -r '.entries | to_entries[] | [.key, .value.seq, .value.value] | @tsv' >"$scratch/dump" || return 1
  awk -F'\t' 'NR == FNR { seq[$1] = $2; value[$1] = $3; next }
    { n++; if (!($4 in seq) || seq[$4] < $6 || (seq[$4] == $6 && value[$4] != $5)) { lost++; print "lost:", $0 } }
    END { print n + 0, "acknowledged,", lost + 0, "lost"; exit n == 0 || lost > 0 }' "$scratch/dump" "$scratch/acknowledged"
}

# One client writes a key at a time, so its sequence numbers go up by one, and by more only past writes of unknown outcome.
sequences_go_on() {
  awk -F'\t' '$4 !~ /^again/ || $6 == 0 { next }
    $6 <= last[$4] || ($6 > last[$4] + 1 && ($4 in last) && strict) { print "after seq", last[$4], "came:", $0; bad++ }
    { last[$4] = $6; if ($3 == 200) n++; if ($6 > top) top = $6 }
    END { print n, "writes of 8 keys, up to seq", top; exit bad > 0 || n == 0 }' strict="$1" "$scratch/acknowledged"
}

drained() { local backlog; backlog=$(field "$leader/status" .writes.backlog); echo "backlog $backlog"; [ "$backlog" = 0 ]; }
entries() { curl -sf -m 30 "$1/dump" | jq -S .entries; }
followers_agree() {
  eventually 60 drained >/dev/null || { echo "the leader's backlog did not drain"; return 1; }
  entries "$leader" >"$scratch/leader.json" || return 1
  for port in 8001 8002 8003 8004 8005; do
    entries "http://127.0.0.1:$port" | cmp "$scratch/leader.json" - || { echo "port $port differs from the leader"; return 1; }
  done
  echo "5 followers, $(jq length "$scratch/leader.json") keys each"
}
follower_is() { local state; state=$(field "$leader/status" ".followers[] | select(.url | contains(\"$1\")) | .state"); echo "$1 is $state"; [ "$state" = "$2" ]; }
away() { ! follower_is "$1" streaming; }
leader_open() { local state; state=$(field "$leader/status" .state); echo "$state"; [ "$state" = open ]; }
epoch() { field "$leader/status" '.epoch | "\(.term) \(.leader)"'; }

# crash CONTAINER: kills its process, so that the restart policy applies. (After `docker kill` the engine
# would leave the container stopped.)
crash() { kill -KILL "$(docker inspect -f '{{.State.Pid}}' "$1")"; }
restarted() { local n; n=$(docker inspect -f '{{.RestartCount}}' "$1"); echo "restart count $n"; [ "$n" -ge 1 ]; }

# --- the claims, in order

contradiction_is_refused() {
  local code=0
  docker run --rm -e ROLE=leader -e FOLLOWERS=http://a:1,http://b:2 -e WRITE_QUORUM=3 kvcluster >"$scratch/refusal" 2>&1 || code=$?
  cat "$scratch/refusal"
  [ "$code" -ne 0 ] && [ "$(wc -l <"$scratch/refusal")" = 1 ] && grep -q '\b3\b' "$scratch/refusal" && grep -q '\b2\b' "$scratch/refusal"
}

starts() {
  local begun; begun=$(now_ms)
  compose up -d --wait --wait-timeout 120 || return 1
  since "$begun"
}

containers_are_as_named() {
  local names
  names=$(docker ps --filter "label=com.docker.compose.project=$project" --filter health=healthy --format '{{.Names}}' | sort | xargs)
  expect "healthy containers" "$names" "follower1 follower2 follower3 follower4 follower5 leader" || return 1
  expect "in the network kvnet" "$(docker network inspect -f '{{len .Containers}}' kvnet)" 6
}

unprivileged() {
  local uid
  for name in leader follower1 follower2 follower3 follower4 follower5; do
    uid=$(stat -c %u "/proc/$(docker inspect -f '{{.State.Pid}}' $name)")
    expect "user of $name" "$uid" 65532 || return 1
  done
  for i in 1 2 3 4 5; do
    uid=$(stat -c %u "$(docker volume inspect -f '{{.Mountpoint}}' "${project}_follower$i")")
    expect "owner of volume follower$i" "$uid" 65532 || return 1
  done
  echo "user and volumes 65532, image $(docker image inspect -f '{{.Size}}' kvcluster | awk '{ printf "%.1f MB", $1 / 1e6 }')"
}

change_quorum() {
  local quorum=$1 before=$2
  printf '%s\n' "$(now_ms)" >>"$scratch/phases"
  patch "{\"write_quorum\":$quorum}" >"$scratch/patched" || { cat "$scratch/patched"; return 1; }
  printf '%s\t%s\t' "$quorum" "$(now_ms)" >>"$scratch/phases"
  more 40 "\$7 == $quorum" >/dev/null || { echo "no writes under quorum $quorum"; return 1; }
  expect "containers started at" "$(started_at leader follower1)" "$before" || return 1
  expect "quorum in force" "$(field "$leader/config" .write_quorum)" "$quorum" || return 1
  echo "$(cat "$scratch/patched"), $(count "\$7 == $quorum") writes under it so far"
}

# A write that started after a change was in force and ended before the next request has that quorum and
# no other, and the delay in its answer is the W-th smallest of those drawn for it.
quorums_are_right() {
  printf '%s\n' "$(now_ms)" >>"$scratch/phases"
  awk -F'\t' 'NR == FNR { if (NF == 3) { w[++k] = $1; from[k] = $2; to[k] = $3 } next }
    { for (i = 1; i <= k; i++) if ($3 == 200 && $1 > from[i] && $2 < to[i]) { n++; if ($7 != w[i]) { bad++; print "not under quorum", w[i] ":", $0 } } }
    END { printf "%d writes in %d phases, ", n, k; exit bad > 0 || k < 3 || n < 60 }' "$scratch/phases" "$scratch/writes" || return 1
  cat "$scratch"/answers.* | jq -s -e -r '
    map(select((.explain.delays_ms | sort)[.explain.write_quorum - 1] != .explain.quorum_delay_ms)) as $wrong
    | if $wrong == [] then "\(length) answers name the W-th smallest of their delays" else error("another delay: \($wrong[0])") end'
}

delays_change() {
  patch '{"min_delay_ms":20,"max_delay_ms":60}' || return 1
  for i in 1 2 3 4 5 6 7 8 9 10; do
    curl -sf -m 10 -H 'content-type: application/json' -d "{\"key\":\"delays\",\"value\":\"$i\"}" "$leader/put?explain=true" || return 1
  done >"$scratch/delays"
  patch '{"min_delay_ms":0,"max_delay_ms":200}' || return 1
  jq -s -e -r '[.[].explain.delays_ms[]] | if length == 50 and min >= 20 and max <= 60 and (unique | length) > 40
    then "50 delays from \(min) to \(max) ms" else error("delays: \(.)") end' "$scratch/delays"
}

follower_crash() {
  local begun others; begun=$(now_ms) others=$(started_at leader follower1 follower2 follower4 follower5)
  crash follower3 || return 1
  eventually 30 restarted follower3 || return 1
  eventually 60 follower_is follower3 streaming || return 1
  local back; back=$(since "$begun")
  more 40 || return 1
  expect "starts of the others" "$(started_at leader follower1 follower2 follower4 follower5)" "$others" || return 1
  echo "streaming again after $back"
}

follower_killed() {
  docker kill follower4 || return 1
  eventually 30 away follower4 || return 1
  more 60 || return 1
  local begun; begun=$(now_ms)
  compose up -d --wait --wait-timeout 60 || return 1
  eventually 60 follower_is follower4 streaming || return 1
  echo "healthy $(since "$begun") after the start"
}

too_few() {
  local answer
  patch '{"write_quorum":5,"replication_timeout_ms":1500}' || return 1
  docker kill follower5 || return 1
  answer=$(curl -s -m 20 -w ' %{http_code}' -H 'content-type: application/json' -d '{"key":"undecided","value":"later"}' "$leader/put")
  echo "$answer"
  [ "${answer##* }" = 500 ] && jq -e '.ok == false and .message == "quorum not reached" and .outcome == "indeterminate"' <<<"${answer% *}" >/dev/null
}
undecided_is_there() { local value; value=$(field "$leader/get?key=undecided" .value); echo "$value"; [ "$value" = later ]; }
it_comes() {
  compose up -d --wait --wait-timeout 60 || return 1
  eventually 60 undecided_is_there || return 1
  patch '{"write_quorum":3,"replication_timeout_ms":5000}'
}

# leader_returns COMMAND…: the command ends the leader under load; then a leader is open in a later epoch.
leader_returns() {
  local before begun; before=$(epoch) begun=$(now_ms)
  "$@" || return 1
  eventually 60 later_epoch "$before" || return 1
  local back; back=$(since "$begun")
  more 40 || return 1
  echo "epoch $before to $(epoch), open after $back"
}
# Later: a higher term or, within a term, a higher id (16 hexadecimal digits, so their order is that of the text).
later_epoch() {
  local before=$1 after; after=$(epoch)
  leader_open && [[ ${after% *} -gt ${before% *} || (${after% *} -eq ${before% *} && ${after#* } > ${before#* }) ]]
}

quorum_from_environment() {
  local followers; followers=$(started_at follower1 follower2 follower3 follower4 follower5)
  WRITE_QUORUM=5 compose up -d --wait --wait-timeout 60 || return 1
  eventually 30 in_force 5 || return 1
  expect "starts of the followers" "$(started_at follower1 follower2 follower3 follower4 follower5)" "$followers"
}
in_force() { local quorum; quorum=$(field "$leader/config" .write_quorum); echo "quorum $quorum"; [ "$quorum" = "$1" ]; }

standby_takes_over() {
  local begun before
  compose --profile standby up -d --wait --wait-timeout 60 || return 1
  eventually 30 state_is standby "$standby" || return 1
  expect "answer of the standby" "$(curl -s -o /dev/null -w '%{http_code} %{redirect_url}' "$standby/get?key=color")" \
    "307 http://leader:8000/get?key=color" || return 1
  before=$(epoch) begun=$(now_ms)
  docker kill leader || return 1
  eventually 30 takes_a_write "$standby" || return 1
  echo "from epoch $before: the first write is acknowledged $(since "$begun") after the leader was killed"
}
state_is() { local state; state=$(field "$2/status" .state); echo "$state"; [ "$state" = "$1" ]; }
# A redirect to another leader is no acknowledgement.
takes_a_write() {
  local answer
  answer=$(curl -s -m 2 -H 'content-type: application/json' -d '{"key":"taken","value":"over"}' "$1/put")
  echo "$answer"
  [ "$(jq -r .ok <<<"$answer")" = true ]
}
hands_back() {
  compose up -d || return 1
  eventually 30 state_is standby "$leader" || return 1
  local begun; begun=$(now_ms)
  expect "answer to POST /hand-over" "$(curl -s -o "$scratch/handed" -w '%{http_code}' -X POST "$standby/hand-over")" 202 ||
    { cat "$scratch/handed"; return 1; }
  eventually 30 takes_a_write "$leader" || return 1
  local back; back=$(since "$begun")
  eventually 30 state_is standby "$standby" || return 1
  compose --profile standby rm --stop --force standby || return 1
  echo "the leader takes writes $back after the standby handed over"
}

# The change of quorums needs the leader alone; comparing the data needs the followers too.
sweep_from_image() {
  docker run --rm --network kvnet --entrypoint kv-bench kvcluster sweep --leader http://leader:8000 --writes 60 --out /tmp/out \
    --followers http://follower1:8001,http://follower2:8002,http://follower3:8003,http://follower4:8004,http://follower5:8005 || return 1
  in_force 3
}

stops() {
  local begun; begun=$(now_ms)
  compose stop || return 1
  local ended; ended=$(since "$begun")
  for name in leader follower1 follower2 follower3 follower4 follower5; do
    expect "exit code of $name" "$(docker inspect -f '{{.State.ExitCode}}' $name)" 0 || return 1
  done
  echo "6 exit codes 0 after $ended"
}

everything_again() {
  compose down || return 1
  local begun; begun=$(now_ms)
  compose up -d --wait --wait-timeout 60 || return 1
  local back; back=$(since "$begun")
  expect "durability" "$(field http://127.0.0.1:8001/status .durability)" disk || return 1
  none_lost || return 1
  echo "$(none_lost), ready after $back"
}

nothing_left() {
  local filter=label=com.docker.compose.project=$project
  compose --profile standby down --volumes >/dev/null 2>&1 || return 1
  expect "what is left" "$(docker ps -aq --filter "$filter")$(docker volume ls -q --filter "$filter")$(docker network ls -q --filter "$filter")" ""
}

# --- before anything is started: what must be there, and what must not

for tool in docker curl jq python3; do
  command -v "$tool" >/dev/null || { echo "compose.sh: $tool is missing" >&2; exit 2; }
done
docker compose version >/dev/null || { echo "compose.sh: docker compose v2 is missing" >&2; exit 2; }
for name in leader follower1 follower2 follower3 follower4 follower5; do
  [ -z "$(docker ps -aq --filter "name=^/$name\$")" ] || { echo "compose.sh: there is a container '$name' already: docker compose down" >&2; exit 2; }
done
# shellcheck source=tests/common.sh
. "$root/tests/common.sh"
require_free_ports || exit 2

trap finish EXIT
trap 'exit 130' INT TERM
cd "$root"

begun=$(now_ms)
compose build --progress plain >"$scratch/build" 2>&1 || { tail -n 40 "$scratch/build"; exit 1; }
echo "image built in $(since "$begun")"

check "a quorum above the number of followers ends the start with one line" contradiction_is_refused || true
check "compose up: six nodes are ready" starts
check "they have their names and the network kvnet" containers_are_as_named || true
check "they run without privileges, and may write to their volumes" unprivileged || true
check "the seed's integration test passes" tests/seed/run.sh || true
check "kv-bench of the image sweeps over them, and restores the quorum" sweep_from_image || true

load
check "quorum 3 to 1 under load, live" change_quorum 1 "$(started_at leader follower1)" || true
check "quorum 1 to 5 under load, live" change_quorum 5 "$(started_at leader follower1)" || true
check "quorum 5 to 2 under load, live" change_quorum 2 "$(started_at leader follower1)" || true
calm
check "no write was refused meanwhile" none_refused || true
check "every write was answered under the quorum in force" quorums_are_right || true
check "sequence numbers have no gaps" sequences_go_on 1 || true
check "all followers have what the leader has" followers_agree || true
check "delays change live" delays_change || true

check "back to quorum 3" patch '{"write_quorum":3}' || true
load
check "a follower crashes under load: restarted and caught up without help" follower_crash || true
check "a follower is killed under load: started again, it is caught up" follower_killed || true
calm
check "no write was refused meanwhile" none_refused || true
check "all followers have what the leader has" followers_agree || true

check "quorum 5 with a follower down: 500 after the timeout, indeterminate" too_few || true
check "the follower is back: the write is there" it_comes || true

load
more 40 >/dev/null
check "the leader restarts under load" leader_returns compose restart leader || true
check "the leader crashes under load: restarted, open again" leader_returns crash leader || true
calm
check "nothing acknowledged is lost" none_lost || true
check "sequence numbers go on" sequences_go_on 0 || true
check "all followers have what the leader has" followers_agree || true

check "a standby redirects, and takes over when the leader is killed" standby_takes_over || true
check "the leader comes back as the standby, and gets the lead handed over" hands_back || true
check "nothing acknowledged is lost" none_lost || true

check "WRITE_QUORUM=5 docker compose up: the leader alone starts anew, with quorum 5" quorum_from_environment || true
check "nothing acknowledged is lost" none_lost || true

check "compose stop: every node ends by itself" stops || true
check "compose down and up: everything is on the volumes" everything_again || true
[ "$failed" -eq 0 ] || node_logs
check "compose down leaves nothing" nothing_left || true
