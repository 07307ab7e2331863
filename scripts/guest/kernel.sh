# kernel: Debian's cloud kernel, unpacked and not installed.

# unpack_image VMLINUZ OUT: what is in the compressed image, which QEMU boots as well (by PVH) and an emulated processor
# sooner; or the image itself, where it is compressed in another way. Documentation/arch/x86/boot.rst has the header.
unpack_image() {
    local sectors offset length
    sectors=$(od -An -tu1 -j$((0x1f1)) -N1 "$1")
    read -r offset length < <(od -An -tu4 -j$((0x248)) -N8 "$1")
    # The last 4 bytes are the length of what is in it.
    dd if="$1" bs=1M iflag=skip_bytes,count_bytes skip=$(((sectors + 1) * 512 + offset)) count=$((length - 4)) \
        status=none | lz4 -dc 2>/dev/null >"$2" || cp "$1" "$2"
}

build_kernel() {
    local out=$1 package version
    need apt-get apt-cache dpkg-deb busybox lz4
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
    unpack_image "$out/vmlinuz" "$out/vmlinux"
    mkdir "$out/modules"
    mv "$work/tree/lib" "$out/modules/lib"
    echo "$version" >"$out/version"
}
