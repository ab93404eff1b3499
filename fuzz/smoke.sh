#!/bin/sh
# Builds every fuzz target and runs each for SECONDS, from the seeds under seeds/ and what earlier runs found.
# Stops with an error at the first finding; the input is then under artifacts/.
#
#   fuzz/smoke.sh SECONDS [TARGET...]
#
# Works with the stable toolchain: the sanitizer's flags are let through by RUSTC_BOOTSTRAP. Set SANITIZER=none
# where the address sanitizer does not run.
set -eu

seconds=${1:?usage: smoke.sh SECONDS [TARGET...]}
shift
cd "$(dirname "$0")/.."
export RUSTC_BOOTSTRAP=1
sanitizer=${SANITIZER:-address}

cargo fuzz build --sanitizer "$sanitizer"
[ $# -gt 0 ] || set -- $(cargo fuzz list)
for target in "$@"; do
    mkdir -p "fuzz/corpus/$target"
    seeds=fuzz/seeds/$target
    [ -d "$seeds" ] || { echo "smoke.sh: $seeds is missing" >&2; exit 1; }
    echo "== $target"
    cargo fuzz run --sanitizer "$sanitizer" "$target" "fuzz/corpus/$target" "$seeds" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -verbosity=0 -print_final_stats=1
done
