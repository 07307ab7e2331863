# disk: the rootfs as a raw disk image that both firmwares boot.
#
# No loop devices and no root: the file systems are made at their offsets in the
# image.
#
#   sector 0      GRUB's boot.img and the partition table
#   sector 1...   GRUB's core.img, where boot.img expects it by default
#   1 MiB         EFI System Partition (for OVMF)
#   9 MiB         root file system

disk_mib=2048
esp_mib=8

# Run as root, or with a fake one where owners are not ours to set.
as_root() { if ((EUID == 0)); then "$@"; else fakeroot "$@"; fi; }

make_root_fs() {
    # One process, because fakeroot's owners last as long as it does.
    as_root sh -ec '
        tar -x -C "$1" --exclude="./dev/*" -f "$2"
        mke2fs -q -F -t ext4 -L devtap-root -E offset=$4,nodiscard -d "$1" "$3" "$5M"
    ' make_root_fs "$work/tree" "$(path_of rootfs)" "$1" $(((1 + esp_mib) << 20)) \
        $((disk_mib - esp_mib - 2))
}

make_esp() {
    truncate -s "${esp_mib}M" "$work/esp"
    mformat -i "$work/esp" -v DEVTAP ::
    mmd -i "$work/esp" ::/EFI ::/EFI/BOOT
    mcopy -i "$work/esp" "$work/tree/boot/grub/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
}

install_grub() {
    local out=$1 core=$work/tree/boot/grub/core.img
    if (($(stat -c %s "$core") > 2047 * 512)); then
        echo "guest-image: GRUB's core.img does not fit before the first partition" >&2
        return 1
    fi
    dd if="$work/tree/boot/grub/boot.img" of="$out" bs=440 count=1 conv=notrunc status=none
    # boot.img jumps over a check that hard disks need (what grub-bios-setup does).
    printf '\x90\x90' | dd of="$out" bs=1 seek=$((0x66)) conv=notrunc status=none
    dd if="$core" of="$out" bs=512 seek=1 conv=notrunc status=none
}

build_disk() {
    local out=$1
    PATH=$PATH:/usr/sbin:/sbin
    need mke2fs mcopy sfdisk dd
    mkdir "$work/tree"
    truncate -s "${disk_mib}M" "$out"
    step "make the root file system"
    quiet make_root_fs "$out"
    step "make the EFI system partition"
    quiet make_esp
    step "partition table and GRUB"
    quiet sfdisk -q "$out" <<SFDISK
label: dos
label-id: 0x64747074
start=2048, size=${esp_mib}MiB, type=ef
start=$((2048 + esp_mib * 2048)), size=$((disk_mib - esp_mib - 2))MiB, type=83, bootable
SFDISK
    dd if="$work/esp" of="$out" bs=1M seek=1 conv=notrunc,sparse status=none
    install_grub "$out"
}
