#!/bin/busybox sh
# The virtual machine's first process: makes /dev/kvm, enters the disk's tree, runs the command, hands out its status.
#
#   /command   the command, as a line for a shell     /timeout   how many seconds it may take
#   virtio-serial ports: "output" takes what the command prints, "status" takes one line:
#       exit N | timeout | failed WHY
# What this script says goes to the console, which is shown when something fails.

say() { echo "init: $*" >/dev/console; }

end() {
    say "$*"
    echo "$*" >"$status"
    # The host stops the machine when it has read the line.
    while :; do sleep 60; done
}

port() {
    for entry in /sys/class/virtio-ports/*; do
        [ "$(cat "$entry/name")" = "$1" ] && echo "/dev/${entry##*/}"
    done
}

/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
say "loading modules"
while read -r module; do
    # Some want hardware that this machine does not have; what is needed is checked below.
    insmod "/modules/$module.ko" 2>/dev/null || say "$module does not load"
done </modules/order

status=$(port status)
output=$(port output)
[ -n "$status" ] && [ -n "$output" ] || { say "there are no virtio-serial ports"; poweroff -f; }
[ -c /dev/kvm ] || end "failed there is no /dev/kvm: kvm-amd found no AMD-V"

say "mounting the tree"
mount -t ext4 /dev/vda /tree || end "failed to mount the disk"
cd /tree && mkdir -p proc sys dev run tmp root
mount -t proc proc /tree/proc
mount -t sysfs sysfs /tree/sys
mount -t devtmpfs devtmpfs /tree/dev
mkdir -p /tree/dev/pts /tree/dev/shm
mount -t devpts devpts /tree/dev/pts
mount -t tmpfs tmpfs /tree/dev/shm
mount -t tmpfs tmpfs /tree/run
mount -t cgroup2 cgroup2 /tree/sys/fs/cgroup
ln -sf /proc/self/fd /tree/dev/fd
ln -sf /proc/self/fd/0 /tree/dev/stdin
ln -sf /proc/self/fd/1 /tree/dev/stdout
ln -sf /proc/self/fd/2 /tree/dev/stderr
ifconfig lo 127.0.0.1 up
hostname nested
# User namespaces and pivot_root refuse a root that is not the root of its mount namespace.
# The root of this process stays the initramfs; the way back is the working directory.
mount --move . /

say "running the command"
mkfifo /fifo
cat /fifo >"$output" &
copying=$!
setsid sh /command </dev/null >/fifo 2>&1 &
command=$!
(
    sleep "$(cat /timeout)"
    : >/timed-out
    # The group, and then all else that it may have started.
    kill -TERM "-$command"
    sleep 5
    kill -KILL "-$command"
) &
watchdog=$!
wait "$command"
code=$?
kill "$watchdog" 2>/dev/null
# A process that outlives the command holds the output open; its words are nobody's.
( sleep 2; kill "$copying" 2>/dev/null ) &
wait "$copying"
[ -e /timed-out ] && end timeout
end "exit $code"
