#!/bin/sh
# What the images hold beside the code: sh containers/install.sh CUDA, as root, in the checkout.
# CUDA 13: the newest packages, for drivers from 580 on. CUDA 12: the oldest ones that are allowed, whose
# torch is built for CUDA 12.8, for drivers from 525 on. Either also computes on a CPU.
set -eu
case ${1-} in
13) lock=requirements.txt ;;
12) lock=requirements-oldest.txt ;;
*)
    echo "CUDA=${1-}: write 12 or 13" >&2
    exit 2
    ;;
esac
apt-get update
# curl: data.url; a compiler: Triton builds a little C at its first use.
apt-get install --yes --no-install-recommends ca-certificates curl gcc libc6-dev
rm -rf /var/lib/apt/lists/*
python3 -m pip install --no-cache-dir --require-hashes --no-deps -r "$lock"
