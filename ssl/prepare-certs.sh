#!/bin/sh
# Makes throw-away TLS certificates for tests and for trying things out: a certificate authority, a
# server certificate for localhost, 127.0.0.1 and ::1, and a client certificate.
#
#     ssl/prepare-certs.sh [DIRECTORY]        (the default is this script's own directory)
#
# It writes ca.cert, server.cert, server.key, client.cert, client.key and client.certchain (the client's
# certificate, then its key, in one file). The authority's own key is thrown away at the end, so nothing
# can be signed by it later. Nothing here protects anything: never use these files in production.
set -eu

days=3650

command -v openssl >/dev/null 2>&1 || {
    echo "prepare-certs.sh: the openssl command is missing: install the package 'openssl'" >&2
    exit 1
}

umask 077
directory=${1:-$(dirname "$0")}
mkdir -p "$directory"
cd "$directory"
work=$(mktemp -d "${TMPDIR:-/tmp}/prepare-certs.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cat >"$work/openssl.cnf" <<'CNF'
[req]
distinguished_name = name
prompt = no
[name]
CN = replaced on the command line
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = clientAuth
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
CNF

# openssl reports its progress on stderr: shown only when it fails.
quietly() {
    "$@" >"$work/output" 2>&1 || {
        cat "$work/output" >&2
        echo "prepare-certs.sh: failed: $*" >&2
        exit 1
    }
}

quietly openssl req -x509 -new -newkey rsa:2048 -nodes -sha256 -days "$days" -subj "/CN=throw-away test authority" \
    -config "$work/openssl.cnf" -extensions ca -keyout "$work/ca.key" -out ca.cert

for role in server client; do
    quietly openssl req -new -newkey rsa:2048 -nodes -sha256 -subj "/CN=$role" \
        -config "$work/openssl.cnf" -keyout "$role.key" -out "$work/$role.csr"
    quietly openssl x509 -req -sha256 -days "$days" -in "$work/$role.csr" -out "$role.cert" \
        -CA ca.cert -CAkey "$work/ca.key" -CAserial "$work/serial" -CAcreateserial \
        -extfile "$work/openssl.cnf" -extensions "$role"
done
cat client.cert client.key >client.certchain
