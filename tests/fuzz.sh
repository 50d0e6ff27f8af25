#!/usr/bin/env bash
# Fuzz targets: bytes that clients, leaders, followers and files may contain, chosen by libFuzzer for the code that they
# reach.
#
#   tests/fuzz.sh [SECONDS] [TARGET...]     of each target (10), all of them (fuzz/fuzz_targets)
#
# Seeds are in fuzz/seeds. What is found on the way is kept in target/fuzz/corpus, and an input that fails in
# target/fuzz/failed. Builds with the toolchain of the workspace, into target/fuzz. Exit code 1: an input failed.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-10}
shift $(($# > 0 ? 1 : 0))
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename -s .rs fuzz/fuzz_targets/*.rs)

host=$(rustc -vV | sed -n 's/^host: //p')
build=$PWD/target/fuzz
# The versions of the workspace. What only fuzzing needs is added to a copy.
cp Cargo.lock fuzz/Cargo.lock
# Counters for libFuzzer, as `cargo fuzz` sets them; --target keeps them out of build scripts.
pass() { printf -- ' -Cllvm-args=-sanitizer-coverage-%s' "$@"; }
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module$(pass level=4 inline-8bit-counters pc-table trace-compares)" \
  cargo build --quiet --manifest-path fuzz/Cargo.toml --release --target "$host" --target-dir "$build"

mkdir -p "$build/failed"
for target in "${targets[@]}"; do
  corpus=$build/corpus/$target
  mkdir -p "$corpus"
  log=$build/$target.log
  if ! "$build/$host/release/$target" "$corpus" "fuzz/seeds/$target" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=1024 -print_final_stats=1 -artifact_prefix="$build/failed/$target-" >"$log" 2>&1; then
    tail -n 40 "$log"
    echo "fuzz: $target failed; the input is in target/fuzz/failed"
    exit 1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  echo "$target: $runs inputs in $seconds s, $(find "$corpus" -type f | wc -l) kept, none failed"
done
