"""AMQP URLs, by RabbitMQ's URI specification and the choices that our module documents."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from channels_rabbitmq.amqp.endpoint import Endpoint
from channels_rabbitmq.config.tls import TlsParameters
from channels_rabbitmq.config.url import InvalidUrl, parse

# The examples of the specification's appendix A, with our defaults where a component is absent.
APPENDIX_A = [
    ("amqp://user:pass@host:10000/vhost", ("user", "pass", "host", 10000, "vhost")),
    (
        "amqp://user%61:%61pass@ho%61st:10000/v%2fhost",
        ("usera", "apass", "hoast", 10000, "v/host"),
    ),
    ("amqp://", ("guest", "guest", "127.0.0.1", 5672, "/")),
    ("amqp://:@/", ("", "", "127.0.0.1", 5672, "/")),
    ("amqp://user@", ("user", "guest", "127.0.0.1", 5672, "/")),
    ("amqp://user:pass@", ("user", "pass", "127.0.0.1", 5672, "/")),
    ("amqp://host", ("guest", "guest", "host", 5672, "/")),
    ("amqp://:10000", ("guest", "guest", "127.0.0.1", 10000, "/")),
    ("amqp:///vhost", ("guest", "guest", "127.0.0.1", 5672, "vhost")),
    ("amqp://host/", ("guest", "guest", "host", 5672, "/")),
    ("amqp://host/%2f", ("guest", "guest", "host", 5672, "/")),
    ("amqp://[::1]", ("guest", "guest", "::1", 5672, "/")),
]

# Any text that a part of a URL can carry: RFC 4616 and AMQP exclude NUL, UTF-8 lone surrogates.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VIRTUAL_HOST = TEXT.filter(lambda text: 0 < len(text) <= 127 and len(text.encode()) <= 255)


def parts(endpoint: Endpoint) -> tuple[str, str, str, int, str]:
    """What the path and the authority of a URL say."""
    return (
        endpoint.username,
        endpoint.password,
        endpoint.host,
        endpoint.port,
        endpoint.virtual_host,
    )


@pytest.mark.parametrize(("url", "expected"), APPENDIX_A)
def test_examples_of_the_specification(url: str, expected: tuple[object, ...]) -> None:
    """Each URL of the specification's appendix gives the parts that it lists."""
    assert parts(parse(url)[0]) == expected


@given(username=TEXT, password=TEXT, virtual_host=VIRTUAL_HOST)
@example(username="a@b:c", password="p%40s/s?#[]", virtual_host="/")
@example(username="ü+", password="100%", virtual_host="a b/é")
def test_percent_encoded_parts_come_back_decoded(
    username: str, password: str, virtual_host: str
) -> None:
    """Whatever text is percent-encoded into a URL is what the connection will use."""
    encoded = [quote(text, safe="") for text in (username, password, virtual_host)]
    endpoint, _ = parse("amqp://{}:{}@host:1/{}".format(*encoded))
    assert parts(endpoint) == (username, password, "host", 1, virtual_host)


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any string is either understood or refused as InvalidUrl, never anything else."""
    for url in (text, f"amqp://{text}", f"amqps://user:pass@host/{text}"):
        with suppress(InvalidUrl):
            parse(url)


@given(secret=st.text(st.sampled_from("/?#@:[]%&=+ sekret"), min_size=6))
def test_no_error_quotes_a_password(secret: str) -> None:
    """A password that is not encoded appears neither in the error nor in the result's repr."""
    try:
        shown = repr(parse(f"amqp://user:{secret}Zw9@host/vhost"))
    except InvalidUrl as error:
        shown = str(error)
    assert "Zw9" not in shown


def test_a_passphrase_with_an_ampersand_is_not_quoted() -> None:
    """The rest of a passphrase that was not encoded is not shown as an unknown parameter."""
    with pytest.raises(InvalidUrl, match="after 'password'") as raised:
        parse("amqps://host?certfile=c.pem&password=first&Zw9")
    assert "Zw9" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("AMQP://host", False),
        ("amqps://host", True),
        ("AmqpS://host", True),
    ],
)
def test_scheme_decides_about_tls(url: str, expected: bool) -> None:
    """The scheme is read without regard to case, and amqps means TLS."""
    endpoint, parameters = parse(url)
    assert (parameters is not None) is expected
    assert endpoint.port == (5671 if expected else 5672)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("rabbit.example.com", ("rabbit.example.com", 5672)),
        ("rabbit-1:5673", ("rabbit-1", 5673)),
        ("10.0.0.1:", ("10.0.0.1", 5672)),
        ("[::1]:5673", ("::1", 5673)),
        ("[2001:db8::7]", ("2001:db8::7", 5672)),
        ("[fe80::1%25eth0]", ("fe80::1%eth0", 5672)),
        ("bücher.example", ("bücher.example", 5672)),
        ("host:65535", ("host", 65535)),
    ],
)
def test_host_and_port(address: str, expected: tuple[str, int]) -> None:
    """Names, IPv4 and bracketed IPv6 addresses are read with and without a port."""
    endpoint, _ = parse(f"amqp://user:pass@{address}/vhost")
    assert (endpoint.host, endpoint.port) == expected


def test_a_bare_at_sign_and_colon_in_the_password() -> None:
    """Version 4.0.1 took a password with a bare '@' or ':', and so do we."""
    assert parts(parse("amqp://user:p@s:s@host")[0])[:3] == ("user", "p@s:s", "host")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "amqp://"),
        ("rabbit.example.com", "starts with amqp://"),
        ("amqp:host", "starts with amqp://"),
        ("redis://host:6379", "scheme must be amqp or amqps"),
        (" amqp://host", "space"),
        ("amqp://host\n", "control character"),
        ("amqp://ho st", "space"),
        ("amqp://user:100%@host", "password has a '%'"),
        ("amqp://us%zzer:pass@host", "user name has a '%'"),
        ("amqp://user:%ff@host", "password is not UTF-8"),
        ("amqp://user:a%00b@host", "password has a NUL"),
        ("amqp://user:pa/ss@host", "'@' after the host"),
        ("amqp://user:pa?ss@host", "'@' after the host"),
        ("amqp://user:pa#ss@host", "'@' after the host"),
        ("amqp://host/vhost#1", "'#'"),
        ("amqp://host/a/b", "%2F"),
        ("amqp://host/asgi/", "%2F"),
        ("amqp://host//", "%2F"),
        ("amqp://host/" + "v" * 128, "longer than 127"),
        ("amqp://host/" + quote("€" * 90), "255 bytes"),
        ("amqp://host:0", "from 1 to 65535"),
        ("amqp://host:65536", "from 1 to 65535"),
        ("amqp://host:+5672", "from 1 to 65535"),
        ("amqp://host:٥٦٧٢", "from 1 to 65535"),
        ("amqp://::1", "in brackets"),
        ("amqp://[::1", "in brackets"),
        ("amqp://[::1]x", "in brackets"),
        ("amqp://[rabbit]", "not an IPv6 address"),
        ("amqp://[127.0.0.1]", "not an IPv6 address"),
        ("amqp://[v1.a]", "not an IPv6 address"),
        ("amqp://[]", "not an IPv6 address"),
        ("amqp://user:pa[ss@host", "brackets in the user name and password"),
        ("amqp://a..b", "not a valid name"),
        ("amqp://" + "a" * 64, "not a valid name"),
        ("amqp://ho%2Fst", "not a valid name"),
        ("amqp://ho%0Ast", "not a valid name"),
    ],
)
def test_unusable_urls_are_refused(url: str, says: str) -> None:
    """A URL that breaks the grammar is refused with what is wrong about it."""
    with pytest.raises(InvalidUrl) as raised:
        parse(url)
    assert says in str(raised.value)


def test_all_parameters() -> None:
    """Each query parameter arrives where it belongs, in our units."""
    endpoint, tls = parse(
        "amqps://host?heartbeat=20&connection_timeout=2500&auth_mechanism=EXTERNAL"
        "&auth_mechanism=plain&channel_max=100&frame_max=8192&cacertfile=/a%20b/ca.pem"
        "&certfile=c.pem&keyfile=k.pem&password=p%26q+r&verify=verify_none"
        "&server_name_indication=rabbit&fail_if_no_peer_cert=true&customize_hostname_check=https"
    )
    assert endpoint.heartbeat == 20
    assert endpoint.connect_timeout == 2.5
    assert endpoint.auth_mechanisms == ("EXTERNAL", "PLAIN")
    assert (endpoint.channel_max, endpoint.frame_max) == (100, 8192)
    assert endpoint.server_hostname == "rabbit"
    assert tls is not None
    assert (tls.cacertfile, tls.certfile, tls.keyfile) == ("/a b/ca.pem", "c.pem", "k.pem")
    assert tls.password == "p&q+r"
    assert not tls.verify_peer
    assert tls.server_name_indication == "rabbit"


def test_defaults_of_parameters() -> None:
    """No parameters: heartbeat 60 s, 10 s to connect, PLAIN, the server's limits, verification."""
    endpoint, tls = parse("amqps://host?")
    assert (endpoint.heartbeat, endpoint.connect_timeout) == (60, 10.0)
    assert endpoint.auth_mechanisms == ("PLAIN",)
    assert (endpoint.channel_max, endpoint.frame_max) == (0, 0)
    assert endpoint.server_hostname == "host"
    assert tls == TlsParameters()
    assert tls.verify_peer


@pytest.mark.parametrize("host", ["a%E2%80%AEb", "a%DD%8Cb", "a%EF%BF%BEb"])
def test_unprintable_host_is_refused(host: str) -> None:
    """A host that could not be shown in a log is none: controls of direction, what is no letter."""
    with pytest.raises(InvalidUrl, match="host is not a valid name"):
        parse(f"amqp://{host}/")


def test_heartbeat_zero_is_off() -> None:
    """A heartbeat of 0 is allowed and asks for none."""
    assert parse("amqp://host?heartbeat=0")[0].heartbeat == 0


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("heartbeat=-1", "'heartbeat' must be a whole number of seconds from 0 to 65535"),
        ("heartbeat=65536", "'heartbeat' must be"),
        ("heartbeat=1.5", "'heartbeat' must be"),
        ("heartbeat=", "'heartbeat' has no value"),
        ("heartbeat", "'heartbeat' has no value"),
        ("heartbeat=1&heartbeat=1", "'heartbeat' twice"),
        ("connection_timeout=0", "'connection_timeout' must be a whole number of milliseconds"),
        ("channel_max=1", "'channel_max' must be a whole number of channels from 16"),
        ("frame_max=4095", "'frame_max' must be a whole number of bytes from 4096"),
        ("auth_mechanism=crdemo", "'auth_mechanism' must be plain, amqplain or external"),
        ("verify=yes", "'verify' must be verify_peer or verify_none"),
        ("fail_if_no_peer_cert=1", "'fail_if_no_peer_cert' must be true or false"),
        ("customize_hostname_check=no", "'customize_hostname_check' must be https"),
        ("depth=2", "'depth' is not supported"),
        ("heartbeet=5", "'heartbeet' is not known (did you mean 'heartbeat'?)"),
        ("zzz=5", "'zzz' is not known; the parameters are auth_mechanism, cacertfile,"),
        ("cacertfile=%ff", "'cacertfile' is not UTF-8"),
    ],
)
def test_wrong_parameters_are_refused(query: str, says: str) -> None:
    """A parameter that is unknown or has a wrong value is refused by its name."""
    with pytest.raises(InvalidUrl) as raised:
        parse(f"amqps://host/vhost?{query}")
    assert says in str(raised.value)


def test_repr_hides_credentials() -> None:
    """A parsed URL can be printed without giving away who connects and with which secrets."""
    shown = repr(parse("amqps://someone:secret@host?password=passphrase&certfile=c.pem"))
    assert not any(word in shown for word in ("someone", "secret", "passphrase"))
