#!/usr/bin/env bash
# Run the tests, two files at a time on one thread each: scripts/test.sh [--portable] [options of pytest]
# --portable runs them six times: with what the machine takes by itself, with the instruction sets and the number of
# threads by which other machines round their sums otherwise, and beside four busy loops.
source "$(dirname "$0")/environment.sh"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
suite=(.venv/bin/python -m pytest --numprocesses 2 --dist loadfile)
[ "${1:-}" = --portable ] || exec "${suite[@]}" "$@"

shift
failed=()
under() {
    echo "== $1"
    env "$1" "${suite[@]}" "${@:2}" || failed+=("$1")
}
for setting in OMP_NUM_THREADS=1 OMP_NUM_THREADS=2 MKL_CBWR=COMPATIBLE MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=default; do
    under "$setting" "$@"
done
loops=()
trap 'kill "${loops[@]}"' EXIT
for _ in 1 2 3 4; do
    while :; do :; done &
    loops+=($!)
done
under BUSY_LOOPS=4 "$@"
[ ${#failed[@]} = 0 ] || { echo "failed with: ${failed[*]}"; exit 1; }
