#!/bin/sh
# What the Makefile runs: `sh devtools/bootstrap.sh demo|test|lint|format|docs|bench|conformance|soak`.
#
# On a machine that has only Python, a shell, make and a package manager it makes a virtual environment
# and installs what the command needs, or says what to install. Each step is named as it starts, and
# shows every few seconds that it moves; its output goes to a log in .logs and is shown if it fails.
#
#   PYTHON            the Python to use, instead of python3 or the first of python3.14 to python3.11
#   AMQP_URL          a RabbitMQ that runs already, used instead of a private one
#   RABBITMQ_SERVER   path of the rabbitmq-server script, where it is in no usual place
#   RABBITMQ4_SERVER  the same of a RabbitMQ 4, instead of the one that devtools/fetch-rabbitmq.sh fetches
#   CHANNELS_RABBITMQ_BROWSER=required   install Chromium if it is missing, for the tests in a browser
set -eu

cd "$(dirname "$0")/.."
venv=.venv logs=.logs ticker=''
mkdir -p "$logs"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

die() {
    printf '\n%s\n' "$*" >&2
    exit 1
}

# Print the time and the end of a log every few seconds. The sleep must not hold a pipe open that somebody
# reads our output from.
start_ticker() {
    began=$(date +%s)
    while sleep 5 >/dev/null 2>&1; do
        printf '    %3d s  %s\n' $(($(date +%s) - began)) "$(tail -n 1 "$1" | LC_ALL=C tr -cd ' -~' | cut -c 1-66)"
    done &
    ticker=$!
}

stop_ticker() {
    [ -z "$ticker" ] || kill "$ticker" 2>/dev/null || :
    ticker=
}

trap stop_ticker EXIT
trap 'exit 130' INT TERM

# step NAME TITLE COMMAND...: run a step into .logs/NAME.log, and show that if it fails.
step() {
    log=$logs/$1.log
    printf '==> %s\n' "$2"
    shift 2
    start_ticker "$log"
    status=0
    "$@" >"$log" 2>&1 </dev/null || status=$?
    stop_ticker
    [ "$status" = 0 ] || sed 's/^/    | /' "$log"
    return "$status"
}

# --- What is missing ---------------------------------------------------------------------------------

# The package manager, and its names for what we need. Nothing is installed where there is none of these.
rabbitmq=rabbitmq-server openssl=openssl redis=redis postgresql=postgresql venv_module='' chromium=''
for manager in apt-get dnf apk brew none; do
    if command -v "$manager" >/dev/null 2>&1; then break; fi
done
case $manager in
    none) rabbitmq='' openssl='' redis='' postgresql='' ;;
    apt-get) venv_module=python3-venv redis=redis-server chromium='chromium chromium-driver' ;;
    dnf) postgresql=postgresql-server chromium='chromium chromedriver' ;;
    apk) chromium='chromium chromium-chromedriver' ;;
    brew) rabbitmq=rabbitmq postgresql=postgresql@17 ;;
esac
root=
[ "$(id -u)" = 0 ] || root='sudo -n'

install_packages() {
    case $manager in
        apt-get)
            $root apt-get update || echo "(trying with the package lists that are here)"
            # RUNLEVEL=1: where no systemd runs, the package's own service is not started.
            $root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
                apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
            ;;
        dnf) $root dnf install -y "$@" ;;
        apk) $root apk add "$@" ;;
        brew) brew install "$@" ;;
    esac
}

# want TITLE PACKAGES CHECK...: install them unless CHECK succeeds already. Fails if they cannot be had.
want() {
    title=$1 packages=$2
    shift 2
    "$@" >/dev/null 2>&1 && return
    [ -n "$packages" ] || return 1
    # A package whose service may not start here counts as failed, yet has all that we need of it.
    # shellcheck disable=SC2086
    step install "Installing $title ($packages, with $manager)" install_packages $packages || :
    "$@" >/dev/null 2>&1
}

# need TITLE PACKAGES CHECK...: the same for what we cannot do without.
need() {
    want "$@" || die "$title is missing${packages:+ (in $manager: $packages)}: install it, then run this again."
}

need_rabbitmq() {
    # The private node's scripts are found by the module that starts it.
    need RabbitMQ "$rabbitmq" "$venv/bin/python" -c 'from devtools.broker import find_scripts; find_scripts()'
}

has_browser() {
    command -v chromedriver && { command -v chromium || command -v chromium-browser || command -v google-chrome; }
}

has_postgresql() {
    ls /usr/lib/postgresql/*/bin/postgres || command -v postgres
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# pyenv's Pythons, switched on or not. tox and we find the others in PATH.
pyenv_pythons() {
    for python in "$(pyenv root 2>/dev/null)"/versions/3.1[1-9]*/bin/python; do
        if new_enough "$python"; then echo "$python"; fi
    done
}

# need_venv NAME REQUIREMENT...: a virtual environment that these are installed in.
need_venv() {
    name=$1
    shift
    if ! new_enough "$venv/bin/python"; then
        for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 $(pyenv_pythons)} none; do
            if new_enough "$python"; then break; fi
        done
        [ "$python" != none ] ||
            die "There is no Python 3.11 or newer here: install one, or name it: make PYTHON=/path/to/python3 ..."
        need "Python's module venv" "$venv_module" "$python" -c 'import ensurepip, venv'
        echo "==> Making a virtual environment in $venv ($("$python" --version))"
        "$python" -m venv --clear "$venv"
    fi
    # Installed again only when what was asked for, or the files that say so, changed.
    wanted=$(echo "$@" "$(pwd)" | cat - setup.cfg pyproject.toml examples/chat/requirements.txt | cksum)
    [ "$(cat "$venv/.installed-$name" 2>/dev/null)" != "$wanted" ] || return 0
    step pip "Installing $* in $venv" "$venv/bin/python" -m pip install "$@" ||
        die "pip could not install $*: is a package index reachable?"
    echo "$wanted" >"$venv/.installed-$name"
}

# --- Commands ----------------------------------------------------------------------------------------

case ${1:-} in
    demo)
        need_venv demo -e . -r examples/chat/requirements.txt
        [ -n "${AMQP_URL:-}" ] || need_rabbitmq
        "$venv/bin/python" examples/chat/demo.py
        ;;
    test)
        need_venv tox 'tox>=4.21'
        [ -n "${AMQP_URL:-}" ] || need_rabbitmq
        need openssl "$openssl" openssl version
        want PostgreSQL "$postgresql" has_postgresql || echo "==> Left out: the tests of the outbox (no PostgreSQL)"
        if [ "${CHANNELS_RABBITMQ_BROWSER:-}" = required ]; then need Chromium "$chromium" has_browser; fi
        skip=${TOX_SKIP_ENV:-}
        has_browser >/dev/null || {
            echo "==> Left out: the tests in a browser (there is no chromium with chromedriver)"
            skip=${skip:+$skip|}browser
        }
        if [ -z "${RABBITMQ4_SERVER:-}" ]; then
            if step rabbitmq4 "Looking for RabbitMQ 4, for the tests that talk to a broker" \
                sh devtools/fetch-rabbitmq.sh .rabbitmq4; then
                RABBITMQ4_SERVER=$(tail -n 1 "$log")
                export RABBITMQ4_SERVER
            else
                skip=${skip:+$skip|}rabbitmq4
            fi
        fi
        [ -z "$skip" ] || export TOX_SKIP_ENV="$skip"
        # Two environments at a time: tests mostly wait. At a terminal, tox itself shows what runs.
        echo "==> Lint, types, package and tests, by tox"
        rm -f "$logs"/*.xml
        [ -t 1 ] || start_ticker /dev/null
        pythons=$(pyenv_pythons)
        status=0
        # shellcheck disable=SC2086
        "$venv/bin/tox" run-parallel --parallel 2 ${pythons:+--discover $pythons} </dev/null || status=$?
        stop_ticker
        # Alone: what it says of quiet times is of a machine that has time.
        if [ -z "${AMQP_URL:-}" ]; then
            step soak "Two minutes of a site on a cluster whose nodes are killed and restarted" \
                "$venv/bin/tox" run -e soak || status=$?
            sed -n '/^faults: /,$p' "$logs/soak.log" | sed 's/^/    /'
        fi
        "$venv/bin/python" -m devtools.summary "$status" "$logs"
        ;;
    lint | format | docs)
        need_venv tox 'tox>=4.21'
        "$venv/bin/tox" run -m "$1"
        [ "$1" != docs ] || echo "==> build/site/index.html"
        ;;
    bench | conformance)
        need_venv bench -e '.[test]'
        need_rabbitmq
        # Servers of the layers that ours is compared with. One that is not to be had is shown as missing.
        want Redis "$redis" command -v redis-server || :
        want PostgreSQL "$postgresql" has_postgresql || :
        if [ "$1" = bench ]; then set -- benchmarks ${QUICK:+--quick}; else set -- tests.conformance; fi
        "$venv/bin/python" -m "$@"
        ;;
    soak)
        need_venv bench -e '.[test]'
        need_rabbitmq
        "$venv/bin/python" -m tests.soak ${2:+--seconds "$2"}
        ;;
    *) die "usage: sh devtools/bootstrap.sh demo|test|lint|format|docs|bench|conformance|soak" ;;
esac
