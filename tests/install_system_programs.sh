#!/bin/sh
# The tests use a real Chromium, ffprobe, Prometheus with its node_exporter and pushgateway, nginx, and node. Installs
# what is missing where it may (root, with apt); elsewhere it says what to install, and the tests that need it are skipped.
set -eu
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need chromium chromium
need ffprobe ffmpeg
need promtool prometheus
need prometheus-node-exporter prometheus-node-exporter
need prometheus-pushgateway prometheus-pushgateway
need openssl openssl
need nginx nginx-light
need node nodejs
need npm npm
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing for the tests:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "NOT INSTALLED:$missing. The tests that need them will be skipped; as root: apt-get install$missing" >&2
fi
