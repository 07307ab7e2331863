# rootfs: a whole Debian, as a tar archive, configured to boot fast.

# The mirror that the host itself uses for this suite, else Debian's default.
host_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
        "Codename: $suite" 'Label: Debian' 2>/dev/null | head -n 1
}

build_rootfs() {
    local out=$1 mirror packages masked unit
    need mmdebstrap apt-get
    mirror=${DEVTAP_MIRROR:-$(host_mirror || true)}
    packages=linux-image-cloud-amd64,initramfs-tools,systemd-sysv,udev,zstd
    packages+=,grub-pc-bin,grub-efi-amd64-bin,grub-common,kmod,e2fsprogs,xfsprogs,fio,util-linux-extra,hdparm
    # What a disposable guest has no use for, and what slows its boot down.
    for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
        e2scrub_reap.service fstrim.timer xfs_scrub_all.timer getty-static.service \
        systemd-timesyncd.service systemd-update-utmp.service systemd-pstore.service \
        systemd-journal-flush.service systemd-binfmt.service systemd-logind.service \
        systemd-random-seed.service systemd-sysusers.service kmod-static-nodes.service \
        modprobe@{configfs,dm_mod,drm,efi_pstore,fuse,loop}.service \
        dev-hugepages.mount dev-mqueue.mount sys-kernel-{config,debug,tracing}.mount \
        sys-fs-fuse-connections.mount; do
        masked+=" $unit"
    done
    mkdir -p "$work/hooks"
    cp "$here"/rootfs/* "$work/hooks/"
    step "install Debian $suite${mirror:+ from $mirror}"
    quiet mmdebstrap --variant=minbase --format=tar \
        --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt=force-unsafe-io \
        --aptopt='Acquire::Languages "none"' \
        --essential-hook="mkdir -p \"\$1/etc/initramfs-tools/conf.d\"" \
        --essential-hook="upload $work/hooks/initramfs.conf /etc/initramfs-tools/conf.d/devtap" \
        --essential-hook="upload $work/hooks/initramfs.modules /etc/initramfs-tools/modules" \
        --customize-hook="upload $work/hooks/configure /configure" \
        --customize-hook="chroot \"\$1\" sh /configure $masked" \
        --customize-hook="rm \"\$1/configure\"" \
        "$suite" "$out" ${mirror:+"$mirror"}
}
