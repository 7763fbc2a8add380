#!/usr/bin/env bash
# Makes the two base images of the Dockerfile where no registry is at hand: Debian by debootstrap, and the same with
# this machine's Rust toolchain. The certificates of this machine go with them.
#
#     tools/make_base_images.sh [ENGINE]     (docker or podman; needs root and debootstrap)
#
# Then: make image ENGINE=podman BASE_IMAGE=localhost/forebay-base RUST_IMAGE=localhost/forebay-rust
set -eu
engine=${1:-docker}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

debootstrap --variant=minbase --include=ca-certificates bookworm "$folder/base" http://deb.debian.org/debian >"$folder/log" \
    || { tail -5 "$folder/log" >&2; exit 1; }
cp /etc/ssl/certs/ca-certificates.crt "$folder/base/etc/ssl/certs/"
certificates=SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
import() {
    tar -C "$folder/base" -c . | "$engine" import --change "ENV $certificates" "${@:2}" - "$1"
}
import localhost/forebay-base

toolchain=$(rustc --print sysroot)
mkdir -p "$folder/base/usr/local/rust"
cp -a "$toolchain/bin" "$toolchain/lib" "$folder/base/usr/local/rust/"
import localhost/forebay-rust --change \
    "ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PIP_CERT=/etc/ssl/certs/ca-certificates.crt"
