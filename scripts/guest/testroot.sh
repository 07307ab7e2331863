# testroot: the initramfs plus Debian's own disk tools and the libraries they need.
#
# A second archive behind the initramfs: the kernel unpacks both into one RAM
# root. /init puts the tools before busybox's.

tools=(
    /bin/dash /usr/bin/fio /sbin/mkfs.ext4 /sbin/mkfs.xfs /sbin/e2fsck /sbin/resize2fs /usr/sbin/xfs_repair
    /usr/sbin/xfs_growfs /usr/sbin/xfs_io /sbin/blkdiscard /sbin/blockdev /bin/lsblk /sbin/blkid
    /sbin/hdparm /sbin/fstrim /usr/bin/dd /usr/bin/sha256sum /usr/bin/truncate /usr/bin/cmp /usr/bin/head /usr/bin/stat
    /sbin/cryptsetup
)

# Of packages that the whole Debian does not have: only their programs and libraries are wanted.
more_packages=(cryptsetup-bin libpopt0)

# fio's engines for clusters, RDMA and persistent memory: with all that they need 70 MB, which each boot would unpack and
# each fio load. Libraries of these names that end who calls them do as well.
engines=(
    librbd.so.1 librados.so.2 libgfapi.so.0 libnbd.so.0 librdmacm.so.1 libibverbs.so.1 libpmemblk.so.1 libpmem.so.1
)

# stub_engines TREE: puts them in place of the real ones.
stub_engines() {
    local libraries=$1/usr/lib/x86_64-linux-gnu name options
    nm -D --undefined-only "$1/usr/bin/fio" | awk '{sub(/@/, " "); print $2, $3}' | LC_ALL=C sort >"$work/wanted"
    for name in "${engines[@]}"; do
        nm -D --defined-only "$libraries/$name" | awk '{sub(/@.*/, "", $3); print $3}' | LC_ALL=C sort -u |
            LC_ALL=C join - "$work/wanted" >"$work/called"
        awk '{print "void " $1 "(void) { __builtin_trap(); }"}' "$work/called" >"$work/stub.c"
        awk '$2 {names[$2] = names[$2] $1 ";"} END {for (v in names) print v " {" names[v] "};"}' \
            "$work/called" >"$work/versions"
        options=("-Wl,-soname,$name")
        [[ ! -s $work/versions ]] || options+=("-Wl,--version-script=$work/versions")
        rm "$libraries/$name"
        quiet cc -shared -fPIC -nostdlib -fno-builtin -w "${options[@]}" -o "$libraries/$name" "$work/stub.c"
    done
}

build_testroot() {
    local out=$1 tree=$work/tree root=$work/root tool file loader
    need cpio apt-get dpkg-deb cc nm
    step "unpack the tools"
    mkdir -p "$tree" "$root"
    tar -x -C "$tree" --exclude='./dev/*' --exclude='./boot/*' --exclude='./lib/modules/*' \
        --exclude='./usr/lib/modules/*' --exclude='./var/*' -f "$(path_of rootfs)"
    mkdir -p "$work/deb"
    chmod 755 "$work"
    ((EUID != 0)) || chown _apt "$work/deb" 2>/dev/null || true
    (cd "$work/deb" && quiet apt-get download "${more_packages[@]}")
    for file in "$work"/deb/*.deb; do dpkg-deb --fsys-tarfile "$file" | tar -x -C "$tree" --keep-directory-symlink; done
    stub_engines "$tree"
    step "collect them and their libraries"
    loader=$tree/lib64/ld-linux-x86-64.so.2
    for tool in "${tools[@]}"; do
        # Debian's own loader lists what the tool needs: nothing of the host's is taken.
        install -D -m 755 "$tree$tool" "$root/usr/bin/${tool##*/}"
        "$loader" --inhibit-cache --list --library-path \
            "$tree/lib/x86_64-linux-gnu:$tree/usr/lib/x86_64-linux-gnu:$tree/usr/lib/x86_64-linux-gnu/ceph" \
            "$tree$tool"
    done | awk '$3 ~ /^\// {print $3}' | sort -u | while read -r file; do
        install -D -m 755 "$file" "$root/usr/lib/${file##*/}"
    done
    mkdir -p "$root/lib64" "$root/etc"
    cp -L "$loader" "$root/lib64/"
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\n' >"$root/etc/group"
    step "pack"
    pack_cpio "$root" "$work/tools.cpio"
    cat "$(path_of initramfs)" "$work/tools.cpio" >"$out"
}
