#!/usr/bin/env bash
# Fetches Debian's Exim into build/peers/exim, for tests that send to it. The package itself cannot be
# installed beside Postfix; the libraries that it needs can. Needs root and apt.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=build/peers/exim
[ -x "$target/usr/sbin/exim4" ] && exit 0

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends libdb5.3 libgnutls-dane0 libidn12 libidn2-0 libnsl2 libpcre2-8-0 >/dev/null
# Exim does not start without the user that its package makes.
id Debian-exim >/dev/null 2>&1 || useradd --system --user-group --no-create-home --home-dir /var/spool/exim4 --shell /usr/sbin/nologin Debian-exim

fetched=$(mktemp -d)
trap 'rm -rf "$fetched"' EXIT

(cd "$fetched" && apt-get download -qq -o APT::Sandbox::User=root exim4-base exim4-daemon-light)
rm -rf "$target.new" && mkdir -p "$target.new"
for package in "$fetched"/*.deb; do dpkg-deb -x "$package" "$target.new"; done
rm -rf "$target" && mv "$target.new" "$target"
