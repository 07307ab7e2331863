# initramfs: busybox, the modules a virtio guest needs, and our /init.

# /init loads the first line; the kernel asks for the others when they are used.
guest_modules=(
    virtio_pci virtio_blk
    virtio_net virtio_console virtio-rng
    wireguard ip_gre
    xfs crc32c_intel
    dm_crypt xts ecb
)

# copy_module ROOT NAME: the module and all it depends on, by the kernel's own list.
copy_module() {
    local root=$1 dir file want=${2//-/_}
    dir=$(path_of kernel)/modules/lib/modules/$version
    awk -F: -v want="$want" '{
        file = $1; sub(/.*\//, "", file); sub(/\.ko.*/, "", file); gsub(/-/, "_", file)
        if (file == want) { print $1; n = split($2, deps, " "); for (i = 1; i <= n; i++) print deps[i] }
    }' "$dir/modules.dep" | while read -r file; do
        file=${file#*"lib/modules/$version/"}
        install -D -m 644 "$dir/$file" "$root/lib/modules/$version/$file"
    done
}

build_initramfs() {
    local out=$1 root=$work/root version module
    need cpio busybox
    version=$(<"$(path_of kernel)/version")
    step "lay out busybox and modules"
    mkdir -p "$root"/{bin,sbin,etc,proc,sys,dev,tmp,run,mnt,root,usr/bin,usr/sbin,lib/modules/$version}
    cp "$(command -v busybox)" "$root/bin/busybox"
    cp "$here/initramfs/init" "$root/init"
    chmod 755 "$root/init"
    for module in "${guest_modules[@]}"; do copy_module "$root" "$module"; done
    cp "$(path_of kernel)/modules/lib/modules/$version"/modules.{builtin,order} "$root/lib/modules/$version/"
    busybox depmod -b "$root" "$version"
    step "pack"
    pack_cpio "$root" "$out"
}
