#!/bin/sh
# qemu.sh IMAGE [QEMU OPTION...] - boot a raw image in QEMU from a soft disk, on this terminal.
#
# Shows the two things that a vhost-user disk needs: memory shared with the back end, and a chardev that
# connects again, so that devtap may be restarted under the running VM. DEVTAP names another devtap,
# CHAIN another chain, ACCEL an accelerator. Leave QEMU with Ctrl-A X.
set -eu
[ $# -ge 1 ] || { echo "usage: $0 IMAGE [QEMU OPTION...]" >&2; exit 2; }
image=$(realpath "$1")
shift
chain=${CHAIN:-"throttle iops=20k | file path='$image'"}
folder=$(mktemp -d)
accel=${ACCEL:-kvm:tcg}

"${DEVTAP:-devtap}" run --disk vm1 --socket "$folder/vm1.sock" "$chain" 2>"$folder/log" &
devtap=$!
trap 'kill $devtap 2>/dev/null || true; wait $devtap || true; rm -rf "$folder"' EXIT
until grep -q 'devtap: ready' "$folder/log"; do
    kill -0 $devtap 2>/dev/null || { cat "$folder/log" >&2; exit 1; }
    sleep 0.1
done
echo "From another terminal: devtap stats vm1 --live; devtap set vm1 throttle iops=100"

qemu-system-x86_64 -machine q35,accel=$accel -smp 2 -m 1G -nographic \
    -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem \
    -chardev socket,id=vm1,path="$folder/vm1.sock",reconnect=1 \
    -device vhost-user-blk-pci,chardev=vm1,num-queues=2,bootindex=1 "$@"
