#!/bin/sh
# What the images hold beside the code: sh containers/install.sh CUDA [INDEX], as root, in the checkout.
# CUDA 13: the newest packages, for drivers from 580 on. CUDA 12: the oldest ones that are allowed, whose
# torch is built for CUDA 12.8, for drivers from 525 on. Either also computes on a CPU. CUDA cpu: the
# newest packages without CUDA's, several GB less; INDEX is the address of the package index of torch's
# builds for CPUs, which the lock does not have.
set -eu
index=${2-none}
case ${1-} in
13 | cpu) lock=requirements.txt ;;
12) lock=requirements-oldest.txt ;;
*)
    echo "CUDA=${1-}: write 12, 13 or cpu" >&2
    exit 2
    ;;
esac
if [ "$1" = cpu ] && { [ "$index" = none ] || [ -z "$index" ]; }; then
    echo "CUDA=cpu: give INDEX=ADDRESS too, of the index that has torch's builds for CPUs" >&2
    exit 2
fi
apt-get update
# curl: data.url; a compiler: Triton builds a little C at its first use.
apt-get install --yes --no-install-recommends ca-certificates curl gcc libc6-dev
rm -rf /var/lib/apt/lists/*
if [ "$1" = cpu ]; then
    rest=${TMPDIR:-/tmp}/without-cuda.txt
    awk '/^[^ #]/ {left_out = /^(torch|torchvision|triton|nvidia-[^=]*|cuda-[^=]*)==/} !left_out' \
        "$lock" >"$rest"
    torch=$(grep -oE '^(torch|torchvision)==[^ ]+' "$lock")
    # shellcheck disable=SC2086 # two words
    python3 -m pip install --no-cache-dir --no-deps --index-url "$index" $torch
    lock=$rest
fi
python3 -m pip install --no-cache-dir --require-hashes --no-deps -r "$lock"
