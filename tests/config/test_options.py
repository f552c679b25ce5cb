"""``config.options``: what a configuration may say, what it means, and how errors name it."""

from __future__ import annotations

import dataclasses
import math
import re
import ssl
import traceback
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from channels_rabbitmq.amqp.endpoint import Endpoint
from channels_rabbitmq.config.connection_name import ConnectionName
from channels_rabbitmq.config.options import DEFAULT_HOST, OPTIONS, Config, Options
from channels_rabbitmq.core import RabbitmqChannelLayer as Layer


def options(**config: object) -> Options:
    """What a CONFIG means."""
    return Options.from_config(config)


def endpoint(url: str, **config: object) -> Endpoint:
    """The one endpoint that a URL stands for."""
    (only,) = options(host=url, **config).endpoints
    return only


def error(**config: object) -> str:
    """The text with which a CONFIG is refused."""
    with pytest.raises(ImproperlyConfigured) as raised:
        Options.from_config(config)
    return str(raised.value)


def variables_below(error: BaseException) -> str:
    """The variables of all frames that an error came through, but for the tests' own."""
    frames = [
        frame.f_locals
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename != __file__
    ]
    assert frames
    return str(frames)


class TestDefaults:
    """What an empty configuration means."""

    def test_an_empty_configuration(self) -> None:
        """No option is required, and the defaults are the documented ones."""
        result = options()
        assert [str(each) for each in result.endpoints] == ["127.0.0.1:5672/%2F"]
        assert dataclasses.replace(result, endpoints=()) == Options(
            endpoints=(),
            expiry=60.0,
            local_capacity=100,
            local_expiry=60.0,
            remote_capacity=100,
            groups_exchange="groups",
            send_timeout=10.0,
            max_reconnect_delay=5.0,
            group_send_raises=False,
            connection_name=ConnectionName(),
            max_message_size=16 * 1024 * 1024,
            prefix="",
            group_expiry=0,
            capacity=100,
            channel_capacity=(),
            normal_queue_type="classic",
            symmetric_encryption_keys=(),
            serializer_format="msgpack",
            on_disconnect=None,
            on_reconnect=None,
            on_event=None,
        )

    def test_default_endpoint(self) -> None:
        """The default host is a local RabbitMQ as guest, in clear text."""
        assert options(host=DEFAULT_HOST).endpoints == (
            Endpoint(
                host="127.0.0.1",
                port=5672,
                username="guest",
                password="guest",
                virtual_host="/",
                tls=None,
                server_hostname=None,
                heartbeat=60,
                connect_timeout=10.0,
                auth_mechanisms=("PLAIN",),
            ),
        )

    def test_local_expiry_follows_expiry(self) -> None:
        """Without a local_expiry, or with None, it is the expiry."""
        assert options(expiry=7).local_expiry == 7.0
        assert options(expiry=7, local_expiry=None).local_expiry == 7.0
        assert options(expiry=7, local_expiry=3).local_expiry == 3.0

    def test_every_option_is_explained(self) -> None:
        """OPTIONS has each field of Options, with host and ssl_context for endpoints."""
        fields = {field.name for field in dataclasses.fields(Options)} - {"endpoints"}
        assert set(OPTIONS) == fields | {"host", "ssl_context"}

    def test_every_option_has_a_type(self) -> None:
        """Config, which type checkers read, has every option and no other."""
        assert set(Config.__annotations__) == set(OPTIONS)

    def test_options_are_frozen(self) -> None:
        """Nobody changes options under a running layer."""
        with pytest.raises(dataclasses.FrozenInstanceError):
            options().expiry = 1  # type: ignore[misc]


#: Options that are a number of seconds.
SECONDS = ["expiry", "local_expiry", "send_timeout", "max_reconnect_delay"]


class TestNumbers:
    """Numbers are checked for type and range, and stay what they are."""

    @pytest.mark.parametrize(
        "name", ["expiry", "local_expiry", "send_timeout", "max_reconnect_delay"]
    )
    @pytest.mark.parametrize("value", [0.001, 0.5, 1, 4294967.295])
    def test_seconds(self, name: str, value: float) -> None:
        """Seconds may be whole or not, from a millisecond to what RabbitMQ can keep."""
        assert getattr(options(**{name: value}), name) == value

    @pytest.mark.parametrize(
        "name", ["expiry", "local_expiry", "send_timeout", "max_reconnect_delay"]
    )
    @pytest.mark.parametrize(
        "value",
        [
            0,
            -1,
            0.0009,
            4294967.296,
            math.nan,
            math.inf,
            pytest.param(10**5000, id="huge"),
            True,
            "60",
            [60],
        ],
    )
    def test_wrong_seconds(self, name: str, value: object) -> None:
        """Seconds out of range, and what is no number, are refused by the option's name."""
        assert f"Option '{name}' must be a number of seconds from 0.001" in error(**{name: value})

    @pytest.mark.parametrize(
        ("name", "most"),
        [
            ("local_capacity", 65535),
            ("remote_capacity", 2**31 - 1),
            ("max_message_size", 512 * 1024 * 1024),
        ],
    )
    def test_whole_numbers(self, name: str, most: int) -> None:
        """Capacities and sizes are whole numbers from 1 to a limit of protocol or server."""
        assert getattr(options(**{name: 1}), name) == 1
        assert getattr(options(**{name: most}), name) == most
        for value in (0, -1, most + 1, 1.0, True, None, "1"):
            assert f"Option '{name}' must be a whole number from 1 to {most}" in error(
                **{name: value}
            )

    def test_numbers_are_shown(self) -> None:
        """A wrong number is shown in the error, for it is no secret."""
        assert error(local_capacity=65536).endswith("not 65536.")

    def test_expiry_in_milliseconds(self) -> None:
        """RabbitMQ's unit is the whole millisecond, and its 32 bits are not exceeded."""
        assert options(expiry=1.1).expiry_ms == 1100
        assert options(expiry=0.001).expiry_ms == 1
        assert options(expiry=4294967.295).expiry_ms == 2**32 - 1

    def test_group_expiry(self) -> None:
        """It is in whole seconds, and 0 is none."""
        assert options(group_expiry=0).group_expiry == 0
        assert options(group_expiry=86400).group_expiry == 86400
        for value in (-1, 0.5, True, "60", None):
            assert "Option 'group_expiry' must be a whole number from 0" in error(
                group_expiry=value
            )


@pytest.mark.parametrize("value", [None, 0, 1, "no"])
def test_group_send_raises(value: object) -> None:
    """It is a bool: a text or a number is refused, whatever its truth."""
    assert options(group_send_raises=True).group_send_raises is True
    assert "Option 'group_send_raises' must be True or False" in error(group_send_raises=value)


class TestGroupsExchange:
    """The exchange's name follows AMQP 0-9-1."""

    @pytest.mark.parametrize("name", ["groups", "g", "my.app:groups-1_x", "x" * 127, "a b/c#d@e,f"])
    def test_valid_names(self, name: str) -> None:
        """Names of up to 127 characters of AMQP's alphabet are taken as they are."""
        assert options(groups_exchange=name).groups_exchange == name

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("", "1 to 127"),
            ("x" * 128, "1 to 127"),
            ("grüppen", "1 to 127"),
            ("groups\n", "1 to 127"),
            ("amq.direct", "must not start with 'amq.'"),
            (b"groups", "must be the name of an exchange (str), not a value of type bytes"),
            (None, "not a value of type NoneType"),
        ],
    )
    def test_invalid_names(self, name: object, says: str) -> None:
        """Other names would be refused by the protocol or by RabbitMQ, and are refused here."""
        message = error(groups_exchange=name)
        assert "'groups_exchange'" in message
        assert says in message


class TestPrefix:
    """What keeps projects apart."""

    @pytest.mark.parametrize("prefix", ["", "a", "my-project_2.x", "p" * 41])
    def test_prefix(self, prefix: str) -> None:
        """A prefix has the characters of a channel's name, and leaves room for 200 of those."""
        assert options(prefix=prefix).prefix == prefix

    @pytest.mark.parametrize("prefix", ["p" * 42, "asgi:", "a b", "ü", "a!", "a\n"])
    def test_wrong_prefix(self, prefix: str) -> None:
        """Colons would blur where the prefix ends; too long a one would not fit into AMQP."""
        assert "Option 'prefix' must be a str of at most 41 ASCII letters" in error(prefix=prefix)

    def test_prefix_of_another_type(self) -> None:
        """A prefix is text."""
        assert error(prefix=None) == "Option 'prefix' must be a str, not a value of type NoneType."


class TestCapacities:
    """Capacities of normal channels, and of some channels."""

    def test_capacity(self) -> None:
        """It is a number of messages."""
        assert options(capacity=5).capacity == 5
        assert "Option 'capacity' must be a whole number from 1" in error(capacity=0)

    def test_channel_capacity(self) -> None:
        """Patterns are globs or compiled expressions, the first that matches counts."""
        made = options(
            capacity=7,
            channel_capacity={"http.request": 200, "http.response!*": 10, re.compile(r"^web.+"): 5},
        )
        assert made.capacity_of("http.request") == 200
        assert made.capacity_of("http.requests") == 7
        assert made.own_capacity_of("http.response!abc") == 10
        assert made.own_capacity_of("websocket") == 5
        assert made.own_capacity_of("other") is None
        assert options(channel_capacity=None).channel_capacity == ()
        assert options(channel_capacity={"*": 1, "a": 2}).capacity_of("a") == 1

    @pytest.mark.parametrize(
        "value", [[], "a", {"a": 0}, {"a": "1"}, {"a": True}, {1: 1}, {re.compile(b"a"): 1}]
    )
    def test_wrong_channel_capacity(self, value: object) -> None:
        """What is no pattern or no number is refused by the option's name."""
        assert error(channel_capacity=value).startswith("Option 'channel_capacity' must be a dict")


class TestKeys:
    """Secrets that encrypt messages."""

    def test_keys(self) -> None:
        """They are a list of secrets that no text shows."""
        made = options(symmetric_encryption_keys=["Zw9", "Zw8"])
        assert made.symmetric_encryption_keys == ("Zw9", "Zw8")
        assert "Zw" not in repr(made)
        assert options(symmetric_encryption_keys=None).symmetric_encryption_keys == ()

    @pytest.mark.parametrize("value", ["Zw9", b"Zw9", [b"Zw9"], [""], {"Zw9": 1}, 9])
    def test_wrong_keys(self, value: object) -> None:
        """One key alone is the likeliest mistake, and is not shown."""
        message = error(symmetric_encryption_keys=value)
        assert message.startswith("Option 'symmetric_encryption_keys' must be a list of str")
        assert "Zw" not in message


@pytest.mark.parametrize("value", ["", None, 3, "stream", ["quorum"]])
def test_wrong_queue_type(value: object) -> None:
    """Normal channels have queues that many may consume, of two types."""
    assert error(normal_queue_type=value).startswith(
        "Option 'normal_queue_type' must be 'classic' or 'quorum'"
    )


class TestSerializerAndHooks:
    """What is called for a message, and for a lost connection."""

    @pytest.mark.parametrize("value", ["", None, int, 3])
    def test_wrong_serializer(self, value: object) -> None:
        """It is named by a text."""
        assert "Option 'serializer_format' must be 'msgpack', 'json' or" in error(
            serializer_format=value
        )

    @pytest.mark.parametrize("name", ["on_disconnect", "on_reconnect"])
    def test_hooks(self, name: str) -> None:
        """They are functions, dotted paths, or None."""
        assert getattr(options(**{name: print}), name) is print
        assert getattr(options(**{name: None}), name) is None
        assert getattr(options(**{name: "chat.hooks.back"}), name) == "chat.hooks.back"
        for wrong in ("print", "chat..back", ".back", "chat.", "chat hooks.back", 5):
            assert f"Option '{name}' must be a function" in error(**{name: wrong})

    def test_event_hook(self) -> None:
        """It is a plain function, a dotted path, or None."""

        async def wait(event: object) -> None:
            pass

        assert options(on_event=print).on_event is print
        assert options(on_event="chat.hooks.note").on_event == "chat.hooks.note"

        class Hook:
            """An object that is called like a function."""

            async def __call__(self, event: object) -> None:
                """Await nothing."""

            async def generate(self, event: object) -> AsyncIterator[object]:
                """Give the event to nobody."""
                yield event

            def take(self, event: object) -> None:
                """Do nothing."""

        for right in (Hook().take, partial(Hook().take), Hook):
            assert options(on_event=right).on_event is right
        wrapped = (partial(wait), partial(Hook()), partial(partial(wait)))
        for wrong in (wait, Hook(), Hook().generate, *wrapped, "print", 5):
            assert "Option 'on_event' must be a plain function" in error(on_event=wrong)

        assert error(on_event=wait).endswith(", or None, not an async one.")

    @pytest.mark.parametrize(
        ("name", "ends"),
        [
            ("on_event", "or None, not a text that is no dotted path."),
            ("on_disconnect", "or None, not a text that is no dotted path."),
            ("normal_queue_type", "must be 'classic' or 'quorum', not another text."),
        ],
    )
    def test_text_where_some_may_do(self, name: str, ends: str) -> None:
        """It is not refused as of a wrong type, and is not quoted."""
        said = error(**{name: "Zw9"})
        assert said.endswith(ends)
        assert "Zw9" not in said

    def test_no_serializer(self) -> None:
        """An empty name of a serializer is told from a value of another type."""
        assert error(serializer_format="").endswith("(str), not an empty one.")


class TestHost:
    """One URL or several, and what becomes of each."""

    def test_parts_of_the_url(self) -> None:
        """Everything that the URL says is in the endpoint."""
        result = endpoint(
            "amqp://user:p%40ss@[::1]:5673/my%2Fvhost?heartbeat=5&connection_timeout=1500"
            "&auth_mechanism=amqplain&auth_mechanism=plain&channel_max=64&frame_max=8192"
        )
        assert result == Endpoint(
            host="::1",
            port=5673,
            username="user",
            password="p@ss",
            virtual_host="my/vhost",
            tls=None,
            server_hostname=None,
            heartbeat=5,
            connect_timeout=1.5,
            auth_mechanisms=("AMQPLAIN", "PLAIN"),
            channel_max=64,
            frame_max=8192,
        )

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_a_cluster(self, kind: type) -> None:
        """A list or tuple of URLs gives one endpoint each, in its order."""
        result = options(host=kind(["amqp://a", "amqp://b:1/v"]))
        assert [str(each) for each in result.endpoints] == ["a:5672/%2F", "b:1/v"]

    @pytest.mark.parametrize(
        ("host", "says"),
        [
            ([], "Option 'host' must be an AMQP URL (str) or a list of at least one; the list is"),
            (None, "Option 'host' must be an AMQP URL (str) or a list"),
            (b"amqp://Zw9", "not a value of type bytes"),
            ({"host": "Zw9"}, "not a value of type dict"),
            (["amqp://a", ("Zw9", 5672)], "Option 'host[1]' must be an AMQP URL (str), not"),
            (
                ["amqp://a", "amqp://u:Zw9/@b"],
                "Option 'host[1]' cannot be used: the URL has an '@'",
            ),
            ("u:Zw9@host", "Option 'host' cannot be used: a URL starts with amqp://"),
            ("amqp://u:Zw9@host?x=1", "Option 'host' cannot be used: the URL's parameter 'x'"),
        ],
    )
    def test_unusable_hosts(self, host: object, says: str) -> None:
        """What is no AMQP URL is refused by its place in the option, and is not shown."""
        message = error(host=host)
        assert says in message
        assert "Zw9" not in message

    def test_text_of_an_endpoint(self) -> None:
        """An endpoint's text tells where, in one line, and neither text nor repr tells as whom."""
        result = endpoint("amqp://someone:secret@[::1]/a%2F%0Ab")
        assert str(result) == "[::1]:5672/a%2F%0Ab"
        for word in ("someone", "secret"):
            assert word not in f"{result} {result!r} {options(host='amqp://someone:secret@h')!r}"


class TestTls:
    """When a connection is encrypted, with which context and for which name."""

    def test_amqps_uses_the_system_store(self) -> None:
        """An amqps URL alone means port 5671 and a verified server of the URL's host name."""
        result = endpoint("amqps://rabbit.example")
        assert result.tls is not None
        assert result.tls.verify_mode is ssl.CERT_REQUIRED
        assert result.tls.check_hostname
        assert (result.port, result.server_hostname) == (5671, "rabbit.example")

    def test_nodes_share_a_context(self, certs: Path) -> None:
        """URLs with the same parameters share one context, others have their own."""
        query = f"cacertfile={certs / 'ca.cert'}"
        a, b, c = options(
            host=[
                f"amqps://a?{query}",
                f"amqps://b?{query}",
                f"amqps://c?{query}&verify=verify_none",
            ]
        ).endpoints
        assert a.tls is b.tls
        assert c.tls is not a.tls
        assert (a.server_hostname, b.server_hostname) == ("a", "b")

    @pytest.mark.parametrize("scheme", ["amqp", "amqps"])
    def test_ssl_context_turns_tls_on(self, scheme: str) -> None:
        """The option ssl_context is used as it is, whichever scheme the URL has."""
        context = ssl.create_default_context()
        result = endpoint(f"{scheme}://rabbit.example", ssl_context=context)
        assert result.tls is context
        assert (result.port, result.server_hostname) == (5671, "rabbit.example")

    def test_a_port_in_the_url_stays(self) -> None:
        """A port that the URL names is used with TLS, too."""
        assert endpoint("amqp://h:5672", ssl_context=ssl.create_default_context()).port == 5672
        assert endpoint("amqps://h:443").port == 443

    def test_no_context_is_the_default(self) -> None:
        """An ssl_context of None is no ssl_context."""
        assert endpoint("amqp://h", ssl_context=None).tls is None

    def test_server_name_indication(self) -> None:
        """The URL may name the server otherwise than its address, whatever gives the context."""
        url = "amqps://10.0.0.1?server_name_indication=rabbit.example"
        assert endpoint(url).server_hostname == "rabbit.example"
        context = ssl.create_default_context()
        assert endpoint(url, ssl_context=context).server_hostname == "rabbit.example"

    def test_server_name_indication_disabled(self) -> None:
        """The URL may switch the name off, which a context that checks names does not allow."""
        url = "amqps://10.0.0.1?server_name_indication=disable"
        result = endpoint(url)
        assert result.server_hostname is None
        assert result.tls is not None
        assert not result.tls.check_hostname
        context = ssl.create_default_context()
        assert "check_hostname is False" in error(host=url, ssl_context=context)
        context.check_hostname = False
        assert endpoint(url, ssl_context=context).server_hostname is None

    def test_scope_of_an_address_is_not_in_the_name(self) -> None:
        """The interface of a link-local address is needed to connect but is in no certificate."""
        result = endpoint("amqps://[fe80::1%25eth0]")
        assert (result.host, result.server_hostname) == ("fe80::1%eth0", "fe80::1")

    def test_a_host_named_disable(self) -> None:
        """Only the parameter disables the name, not a host that is called so."""
        assert endpoint("amqps://disable").server_hostname == "disable"

    def test_missing_certificate_file(self, tmp_path: Path) -> None:
        """A certificate file that is not there is found at once and named with its parameter."""
        message = error(host=f"amqps://h?cacertfile={tmp_path}/none.pem")
        assert "Option 'host' cannot be used: the file of 'cacertfile'" in message
        assert f"{tmp_path}/none.pem" in message

    @pytest.mark.parametrize("query", ["cacertfile=ca.pem", "verify=verify_peer", "password=Zw9"])
    def test_two_sources_of_a_context(self, query: str) -> None:
        """Parameters that would shape a context clash with a context that is given."""
        message = error(host=f"amqps://h?{query}", ssl_context=ssl.create_default_context())
        assert (
            f"the URL has '{query.partition('=')[0]}' although the option 'ssl_context'" in message
        )
        assert "Zw9" not in message

    @pytest.mark.parametrize("name", ["cacertfile", "server_name_indication"])
    def test_tls_parameters_without_tls(self, name: str) -> None:
        """Parameters about TLS on an amqp URL are refused, for the connection would be in clear."""
        assert f"the URL has '{name}' but no TLS; write amqps://" in error(
            host=f"amqp://h?{name}=x"
        )

    @pytest.mark.parametrize("value", [True, "ca.pem", {}])
    def test_ssl_context_of_another_type(self, value: object) -> None:
        """Only an SSLContext is one."""
        assert "Option 'ssl_context' must be an ssl.SSLContext or None" in error(ssl_context=value)

    def test_ssl_context_for_servers(self) -> None:
        """A context made for servers is refused when the layer is made, not at each connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        assert "Option 'ssl_context' is wrong" in error(ssl_context=context)

    def test_external_needs_a_client_certificate(self) -> None:
        """To log in by certificate alone takes TLS and a certificate, if that is visible."""
        query = "auth_mechanism=external"
        assert "needs TLS with a client certificate" in error(host=f"amqp://h?{query}")
        assert "needs TLS with a client certificate" in error(host=f"amqps://h?{query}")
        context = ssl.create_default_context()
        result = endpoint(f"amqps://h?{query}", ssl_context=context)
        assert result.auth_mechanisms == ("EXTERNAL",)

    def test_external_beside_plain_needs_nothing(self) -> None:
        """Where PLAIN may be used instead, EXTERNAL may be offered without a certificate."""
        result = endpoint("amqp://h?auth_mechanism=external&auth_mechanism=plain")
        assert result.auth_mechanisms == ("EXTERNAL", "PLAIN")


class TestUnknownOptions:
    """An unknown option is named, with what was probably meant."""

    def test_a_misspelt_option(self) -> None:
        """The nearest options and all allowed ones are listed."""
        message = error(local_capcity=1)
        assert "Option 'local_capcity' is not known to channels_rabbitmq" in message
        assert "did you mean 'local_capacity'" in message
        assert message.endswith(f"The options are: {', '.join(OPTIONS)}.")

    def test_an_option_like_no_other(self) -> None:
        """Without a near one, only the allowed options are listed."""
        assert error(zzz=1).startswith(
            "Option 'zzz' is not known to channels_rabbitmq. The options"
        )

    def test_several_unknown_options(self) -> None:
        """All unknown options are told at once, in their order."""
        message = error(zzz=1, hosts=[], expiry=0)
        assert message.index("'zzz'") < message.index("'hosts'")

    def test_values_of_unknown_options_are_not_shown(self) -> None:
        """The value of an unknown option may be a secret."""
        assert "Zw9" not in error(PASSWORD="Zw9", passwort="Zw9")


class TestSecrets:
    """What debug pages and error trackers show of a refused option."""

    @pytest.mark.parametrize(
        "config",
        [
            {"host": "amqp://u:Zw9@host?x=1"},
            {"host": ["amqp://u:Zw9@host", "amqp://u:Zw9/@host"]},
            {"host": "amqp://u:Zw9%00@host"},
            {"host": "amqps://u:Zw9@host?cacertfile=/nowhere"},
            {"host": ("Zw9", 5672)},
            {"symmetric_encryption_keys": "Zw9"},
            {"symmetric_encryption_keys": ["Zw9", 5]},
            {"symmetric_encryption_keys": ["Zw9"], "expiry": 0},
            {"passwort": "Zw9"},
        ],
    )
    @pytest.mark.parametrize("make", [Options.from_config, lambda config: Layer(**config)])
    def test_no_frame_holds_one(
        self, config: dict[str, object], make: Callable[[dict[str, object]], object]
    ) -> None:
        """No variable of a frame below the caller's, and no error behind the error, has it."""
        with pytest.raises(ImproperlyConfigured) as raised:
            make(config)
        assert "Zw9" not in str(raised.value)
        assert raised.value.__cause__ is None
        assert raised.value.__context__ is None
        assert "Zw9" not in variables_below(raised.value)

    def test_serializer_that_cannot_be_imported(self) -> None:
        """What is found wrong after the options were read shows no more of them."""
        with pytest.raises(ImproperlyConfigured) as raised:
            Layer(
                "amqp://u:Zw9@host",
                serializer_format="nowhere.Nothing",
                symmetric_encryption_keys=["Zw9"],
            )
        assert "Zw9" not in variables_below(raised.value)

    def test_text_of_a_layer_that_could_not_be_made(self) -> None:
        """A frame's ``self`` can be shown."""
        with pytest.raises(ImproperlyConfigured) as raised:
            Layer(expiry=0)
        assert "'self': <RabbitmqChannelLayer with a wrong option>" in variables_below(raised.value)
