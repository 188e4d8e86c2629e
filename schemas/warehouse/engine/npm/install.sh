#!/bin/sh
# Fetches libchdb, as pinned in package-lock.json, and links it to build/engine of the repository.
# Quick when it is there already. Called by "make engine".
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../../.." && pwd)
target=$root/build/engine
library=$target/libchdb.so
stamp=$target/package-lock.json

if [ -f "$library" ] && cmp -s "$here/package-lock.json" "$stamp"; then
    echo "engine: $library is up to date"
    exit 0
fi

case $(uname -s)-$(uname -m) in
    Linux-x86_64) package=lib-linux-x64-gnu ;;
    Linux-aarch64 | Linux-arm64) package=lib-linux-arm64-gnu ;;
    Darwin-x86_64) package=lib-darwin-x64 ;;
    Darwin-arm64) package=lib-darwin-arm64 ;;
    *)
        echo "engine: there is no libchdb for $(uname -s) on $(uname -m)" >&2
        exit 1
        ;;
esac

if ! command -v npm >/dev/null; then
    echo "engine: npm is not installed; it fetches libchdb" >&2
    exit 1
fi
echo "engine: fetching @chdb/$package, which takes a moment"
(cd "$here" && npm ci --no-audit --no-fund --loglevel=error)

source=$here/node_modules/@chdb/$package/libchdb.so
if [ ! -f "$source" ]; then
    echo "engine: npm has not fetched $source: the registry has no @chdb/$package of this version" >&2
    exit 1
fi
mkdir -p "$target"
# A hard link where the file system allows it: the library has more than 500 MB. The new name
# replaces the old one whole, so a running engine keeps the file that it has loaded.
rm -f "$library.new"
ln "$source" "$library.new" 2>/dev/null || cp "$source" "$library.new"
mv "$library.new" "$library"
cp "$here/package-lock.json" "$stamp"
echo "engine: $library is ready"
