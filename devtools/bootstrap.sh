#!/bin/sh
# What the Makefile runs: `sh devtools/bootstrap.sh demo|test|lint|format|bench|conformance`.
#
# On a machine that has only Python, a shell, make and a package manager it makes a virtual environment
# and installs what the command needs. Each step is named as it starts; one that takes longer than two
# seconds shows that it moves; its output goes to a log in .logs and is shown if it fails.
#
#   PYTHON            the Python to use, instead of python3 or the first of python3.13 to python3.10
#   AMQP_URL          a RabbitMQ that runs already, used instead of a private one
#   RABBITMQ_SERVER   path of the rabbitmq-server script, where it is in no usual place
#   CHANNELS_RABBITMQ_BROWSER=required   install Chromium if it is missing, for the tests in a browser
set -eu

cd "$(dirname "$0")/.."
venv=.venv
logs=.logs
pythons=
ticker=
mkdir -p "$logs"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# --- Telling what happens ----------------------------------------------------------------------------

if [ -t 1 ]; then terminal=yes; else terminal=no; fi

die() {
    printf '\n%s\n' "$*" >&2
    exit 1
}

# The last line of a log, short and without what could move the cursor.
last_line() {
    tail -n 1 "$1" | LC_ALL=C tr -cd ' -~' | cut -c 1-66
}

tick() {
    seconds=0
    # The sleep must not hold a pipe open that somebody reads our output from.
    while sleep 1 >/dev/null 2>&1; do
        seconds=$((seconds + 1))
        if [ "$terminal" = yes ]; then
            [ "$seconds" -lt 2 ] || printf '\r    %3d s  %s\033[K' "$seconds" "$(last_line "$1")"
        elif [ "$seconds" = 2 ] || [ $((seconds % 10)) = 0 ]; then
            printf '    %3d s  %s\n' "$seconds" "$(last_line "$1")"
        fi
    done
}

stop_ticker() {
    [ -n "$ticker" ] || return 0
    kill "$ticker" 2>/dev/null || :
    wait "$ticker" 2>/dev/null || :
    ticker=
    [ "$terminal" = no ] || printf '\r\033[K'
}

trap stop_ticker EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# run NAME TITLE COMMAND...: run a step into .logs/NAME.log; returns the command's status.
run() {
    log=$logs/$1.log
    printf '==> %s\n' "$2"
    shift 2
    : >"$log"
    began=$(date +%s)
    tick "$log" &
    ticker=$!
    status=0
    "$@" >"$log" 2>&1 </dev/null || status=$?
    stop_ticker
    took=$(($(date +%s) - began))
    if [ "$took" -ge 2 ]; then printf '    %s s\n' "$took"; fi
    return "$status"
}

# try NAME TITLE COMMAND...: the same, and show the log if it fails.
try() {
    run "$@" && return
    status=$?
    sed 's/^/    | /' "$log"
    printf '    failed (status %s); the log is %s\n' "$status" "$log"
    return "$status"
}

# --- What is missing ---------------------------------------------------------------------------------

# Run a command as root, or say that we cannot.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo -n "$@" || {
            echo "this needs root: sudo asks for a password"
            return 1
        }
    else
        echo "this needs root"
        return 1
    fi
}

# The packages of this system that have WHAT, the first argument of need(). Nothing if none does.
package_of() {
    [ "$manager" != none ] || return 0
    case $manager:$1 in
        apt-get:rabbitmq | dnf:rabbitmq | apk:rabbitmq) echo rabbitmq-server ;;
        brew:rabbitmq) echo rabbitmq ;;
        apt-get:venv) echo python3-venv ;;
        apt-get:browser) echo chromium chromium-driver ;;
        dnf:browser) echo chromium chromedriver ;;
        apk:browser) echo chromium chromium-chromedriver ;;
        apt-get:redis) echo redis-server ;;
        *:redis) echo redis ;;
        apt-get:postgresql) echo postgresql ;;
        dnf:postgresql) echo postgresql-server ;;
        apk:postgresql) echo postgresql ;;
        brew:postgresql) echo postgresql@17 ;;
        *:openssl) echo openssl ;;
    esac
}

find_manager() {
    for manager in apt-get dnf apk brew; do
        command -v "$manager" >/dev/null 2>&1 && return
    done
    manager=none
}

install_now() {
    case $manager in
        apt-get)
            as_root apt-get update || echo "(trying with the package lists that are here)"
            # RUNLEVEL=1: where no systemd runs, the package's own service is not started.
            as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
                apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
            ;;
        dnf) as_root dnf install -y "$@" ;;
        apk) as_root apk add "$@" ;;
        brew) brew install "$@" ;;
    esac
}

# want WHAT TITLE CHECK...: install WHAT unless CHECK succeeds already. Fails if it cannot be had.
want() {
    what=$1 title=$2
    shift 2
    "$@" >/dev/null 2>&1 && return
    find_manager
    packages=$(package_of "$what")
    [ -n "$packages" ] || return 1
    # A package whose service may not start here counts as failed, yet has all that we need of it.
    # shellcheck disable=SC2086
    try "install-$what" "Installing $title ($packages, with $manager)" install_now $packages || :
    "$@" >/dev/null 2>&1
}

# need WHAT TITLE CHECK...: the same for what we cannot do without.
need() {
    packages=
    want "$@" || die "$2 is missing${packages:+ (in $manager: $packages)}: install it, then run this again."
}

has_browser() {
    command -v chromedriver >/dev/null 2>&1 || return 1
    for program in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$program" >/dev/null 2>&1 && return
    done
    return 1
}

# The private node's scripts are found by the module that starts it.
has_rabbitmq() {
    "$venv/bin/python" -c 'from devtools.broker import find_scripts; find_scripts()'
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.10 or newer."
        python=$PYTHON
        return
    fi
    for python in python3 python3.13 python3.12 python3.11 python3.10; do
        new_enough "$python" && return
    done
    die "There is no Python 3.10 or newer here: install one, or name it: make PYTHON=/path/to/python3 ..."
}

# An environment with everything of the given kind: demo, tox or bench.
need_venv() {
    if ! new_enough "$venv/bin/python"; then
        choose_python
        need venv "Python's module venv" "$python" -c 'import ensurepip, venv'
        rm -rf "$venv"
        try venv "Making a virtual environment in $venv ($("$python" --version))" "$python" -m venv "$venv" ||
            die "Without a virtual environment nothing else can be installed."
    fi
    kind=$1 title=$2
    shift 2
    # Installed again only when what was asked for, or the files that say so, changed.
    wanted=$(echo "$@" "$(pwd)" | cat - setup.cfg pyproject.toml examples/chat/requirements.txt | cksum)
    [ "$(cat "$venv/.installed-$kind" 2>/dev/null)" != "$wanted" ] || return 0
    try "pip-$kind" "Installing $title in $venv" "$venv/bin/python" -m pip install "$@" ||
        die "pip could not install $title: is a package index reachable?"
    echo "$wanted" >"$venv/.installed-$kind"
}

need_rabbitmq() {
    if [ -n "${AMQP_URL:-}" ]; then
        echo "==> Using the RabbitMQ that AMQP_URL names"
    else
        need rabbitmq RabbitMQ has_rabbitmq
    fi
}

# Servers of the layers that ours is compared with. One that is not to be had is shown as missing there.
want_peers() {
    want redis Redis command -v redis-server || :
    want postgresql PostgreSQL has_postgresql || :
}

has_postgresql() {
    ls /usr/lib/postgresql/*/bin/postgres || command -v postgres
}

# --- Tests -------------------------------------------------------------------------------------------

# The Pythons 3.10 to 3.13 of this machine, one path a line; pyenv's too, switched on or not.
find_pythons() {
    pyenv_root=$(pyenv root 2>/dev/null) || pyenv_root=
    for minor in 10 11 12 13; do
        for python in "python3.$minor" ${pyenv_root:+"$pyenv_root/versions/3.$minor".*/bin/python}; do
            if "$python" -c 'import sys; print(sys.executable)' 2>/dev/null; then break; fi
        done
    done
}

# The tox environments that can run here, one a line. find_environments PYTHON...
find_environments() {
    version='import sys; print("py%d%d" % sys.version_info[:2])'
    own=$("$venv/bin/python" -c "$version")-djnew
    found=$(for python in "$@"; do "$python" -c "$version"; done)
    for name in $("$venv/bin/tox" list -d --no-desc --quiet); do
        case $name in
            "$own") ;; # "coverage" is the same tests on the same Python
            browser)
                if has_browser; then echo "$name"; fi
                ;;
            py3*)
                case $found in
                    *"${name%%-*}"*) echo "$name" ;;
                esac
                ;;
            *) echo "$name" ;;
        esac
    done
}

# Run tox environments, two at a time: tests mostly wait. The last line adds up all tests.
run_tox() {
    rm -f "$logs/tox.json"
    names=$(echo "$@" | tr ' ' ',')
    # shellcheck disable=SC2086
    run tox "tox: $*" "$venv/bin/tox" run-parallel --parallel 2 --parallel-live \
        --parallel-no-spinner --colored no --result-json "$logs/tox.json" \
        ${pythons:+--discover $pythons} -e "$names" || :
    [ -s "$logs/tox.json" ] || {
        cat "$logs/tox.log"
        die "tox did not get to the tests."
    }
    "$venv/bin/python" -m devtools.summary "$logs/tox.json"
}

# --- Commands ----------------------------------------------------------------------------------------

case ${1:-} in
    demo)
        need_venv demo "the project and what the chat needs" -e . -r examples/chat/requirements.txt
        need_rabbitmq
        "$venv/bin/python" examples/chat/demo.py
        ;;
    test)
        need_venv tox tox 'tox>=4.21'
        need_rabbitmq
        need openssl openssl openssl version
        if [ "${CHANNELS_RABBITMQ_BROWSER:-}" = required ]; then need browser Chromium has_browser; fi
        pythons=$(find_pythons)
        # shellcheck disable=SC2086
        environments=$(find_environments $pythons)
        case $environments in
            *browser*) ;;
            *) echo "==> Left out: the tests in a browser (there is no chromium with chromedriver)" ;;
        esac
        # shellcheck disable=SC2086
        run_tox $environments
        ;;
    lint)
        need_venv tox tox 'tox>=4.21'
        run_tox lint types
        ;;
    format)
        need_venv tox tox 'tox>=4.21'
        try format "ruff" "$venv/bin/tox" run -e format
        ;;
    bench)
        [ -d benchmarks ] || die "There are no benchmarks here yet."
        need_venv bench "the project" -e .
        need rabbitmq RabbitMQ has_rabbitmq
        want_peers
        "$venv/bin/python" -m benchmarks ${QUICK:+--quick}
        ;;
    conformance)
        [ -d tests/conformance ] || die "There is no conformance suite here yet."
        need_venv conformance "the project and its tests' needs" -e '.[test]'
        need rabbitmq RabbitMQ has_rabbitmq
        want_peers
        "$venv/bin/python" -m tests.conformance
        ;;
    *) die "usage: sh devtools/bootstrap.sh demo|test|lint|format|bench|conformance" ;;
esac
