#!/bin/sh
# Puts the RabbitMQ of Debian's testing release (4.x) into a folder of its own, for tests beside the
# system's: `sh devtools/fetch-rabbitmq.sh FOLDER`. The last line of its output is the path for
# RABBITMQ_SERVER. The system itself is not changed, but for the package debootstrap.
#
# Needs root on Debian or a relative of it, and the package archive. Where that is not to be had it says
# why and ends with status 77, which those who can do without take for "skipped".
set -eu

[ $# = 1 ] || {
    echo "usage: sh devtools/fetch-rabbitmq.sh FOLDER" >&2
    exit 2
}
mkdir -p "$1"
folder=$(cd "$1" && pwd)
root=$folder/root
scripts=$folder/bin
log=$folder/log

skip() {
    echo "RabbitMQ 4 is left out: $*" >&2
    exit 77
}

fetch() {
    command -v apt-get >/dev/null || skip "there is no apt-get, so this is no Debian"
    if ! command -v debootstrap >/dev/null; then
        apt-get update || :
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap || return
    fi
    # A release is described by a script of its name; this one has no rules of its own.
    own=$folder/debootstrap
    rm -rf "$root" "$own"
    cp -R /usr/share/debootstrap "$own"
    [ -e "$own/scripts/testing" ] || ln -s sid "$own/scripts/testing"
    DEBOOTSTRAP_DIR=$own debootstrap --variant=minbase --include=rabbitmq-server testing "$root" || return
    rm -rf "$own" "$root"/var/cache/apt/archives/*.deb
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
}

# Each script runs RabbitMQ's own of the same name inside the folder. /tmp, where private nodes keep
# their files, is the machine's; what is mounted for that goes with the process.
write_scripts() {
    mkdir -p "$scripts"
    for name in rabbitmq-server rabbitmqctl rabbitmq-plugins; do
        cat >"$scripts/$name" <<SCRIPT
#!/bin/sh
exec unshare --mount --propagation private sh -c '
    mount --rbind "\$0" "$root\$0" && mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" &&
    exec chroot "$root" /usr/bin/env -C "\$PWD" /usr/lib/rabbitmq/bin/$name "\$@"
' "\${TMPDIR:-/tmp}" "\$@"
SCRIPT
        chmod +x "$scripts/$name"
    done
}

[ "$(id -u)" = 0 ] || skip "this needs root"
# The file comes last, so it is there only once all else is.
[ -e "$root/etc/hosts" ] && [ -x "$root/usr/lib/rabbitmq/bin/rabbitmq-server" ] || fetch >"$log" 2>&1 || {
    rm -rf "$root"
    skip "Debian's testing release cannot be fetched ($(tail -n 1 "$log"))"
}
write_scripts
mkdir -p "$root${TMPDIR:-/tmp}"
unshare --mount true 2>/dev/null || skip "mounting is not allowed here"
"$scripts/rabbitmqctl" version >&2 || skip "it does not run here"
echo "$scripts/rabbitmq-server"
