# kernel: Debian's cloud kernel, unpacked and not installed.

build_kernel() {
    local out=$1 package version
    need apt-get apt-cache dpkg-deb busybox
    # The meta package always names the newest kernel of the suite.
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
    if [[ -z $package ]]; then
        echo "guest-image: apt knows no linux-image-cloud-amd64: run apt-get update" >&2
        exit 1
    fi
    step "download $package"
    mkdir -p "$work/deb" "$out"
    # As root, apt drops to its own user, which may not write here: allow it.
    chmod 755 "$work"
    ((EUID != 0)) || chown _apt "$work/deb" 2>/dev/null || true
    (cd "$work/deb" && quiet apt-get download "$package")
    step "unpack"
    dpkg-deb -x "$work"/deb/*.deb "$work/tree"
    version=$(basename "$work"/tree/lib/modules/*)
    quiet busybox depmod -b "$work/tree" "$version"
    mv "$work"/tree/boot/vmlinuz-* "$out/vmlinuz"
    mkdir "$out/modules"
    mv "$work/tree/lib" "$out/modules/lib"
    echo "$version" >"$out/version"
}
