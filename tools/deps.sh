#!/bin/sh
# Installs what `make` and `make test` need: on Debian and Ubuntu by apt, elsewhere it says what to install.
set -e
packages='gcc make libopenblas-dev liblapacke-dev libcjson-dev libpcre2-dev libutf8proc-dev libnlopt-dev zlib1g-dev libcmocka-dev valgrind'
if command -v apt-get >/dev/null; then
    missing=
    for p in $packages; do dpkg -s "$p" >/dev/null 2>&1 || missing="$missing $p"; done
    [ -z "$missing" ] && exit 0
    sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing
else
    echo "Install a C11 compiler with OpenMP, make, OpenBLAS with LAPACK, cJSON, PCRE2 (8 bit), utf8proc, NLopt, zlib and cmocka (and valgrind, for make test-instructions)."
fi
