"""Requests between processes: what is read of whatever comes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.local.queue_names import QueueNames
from channels_rabbitmq.wire.names import is_channel, is_group, is_queue, require_group
from channels_rabbitmq.wire.requests import (
    ANSWER,
    ASK,
    BOUND,
    FLUSH,
    HELLO,
    JOIN,
    LEAVE,
    MEMBERS,
    MOST_EARLIER,
    MOST_PARTS,
    NAMES_PER_PART,
    PRESENT,
    AnswerPart,
    Asked,
    Hello,
    Question,
    Sender,
    askers_key,
    control_exchange,
    control_key,
    read_request,
)

ME, OTHER = "channels_me", Sender("channels_other", ["channels_before"])
NAMES = QueueNames(newest=ME)
ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "key", [control_key(""), askers_key(""), control_key("p"), askers_key("p")]
)
def test_keys(key: str) -> None:
    """No group and no queue can have such a name."""
    with pytest.raises(TypeError):
        require_group(key)
    assert not is_queue(key)


def test_prefixes_are_kept_apart() -> None:
    """Projects that share a virtual host do not hear each other."""
    assert len({control_key(""), control_key("a"), askers_key(""), askers_key("a")}) == 4
    assert control_exchange("groups") == "groups.control"


def test_questions_differ() -> None:
    """The same question asked twice is two questions."""
    assert Question(MEMBERS, "g").id != Question(MEMBERS, "g").id


@pytest.mark.parametrize(
    "question",
    [
        Question(PRESENT),
        Question(MEMBERS, "g"),
        Question(BOUND, "g"),
        Question(FLUSH, to=ME),
        Question(JOIN, "g" * 200, f"{ME}!x", ME),
        Question(LEAVE, "g", f"{ME}!x", ME),
    ],
)
def test_questions(question: Question) -> None:
    """What a process asks is read as it was meant."""
    assert read_request(ASK, question.message(OTHER), NAMES) == Asked(OTHER, question)
    assert question.changes == (question.what in (FLUSH, JOIN, LEAVE))
    assert read_request(ASK, question.message(Sender(ME)), NAMES) is None
    assert read_request("!other", question.message(OTHER), NAMES) is None


@pytest.mark.parametrize(
    "question",
    [
        Question("dance"),
        Question(PRESENT, "g"),
        Question(MEMBERS),
        Question(MEMBERS, "g" * 201),
        Question(MEMBERS, "!ask"),
        Question(MEMBERS, "g", to=ME),
        Question(BOUND),
        Question(BOUND, "g", to=ME),
        Question(FLUSH),
        Question(FLUSH, to="channels_other"),
        Question(FLUSH, "g", to=ME),
        Question(JOIN, "g", "channels_other!x", ME),
        Question(JOIN, "g", f"{ME}!{'x' * 200}", ME),
        Question(JOIN, "g", f"{ME}!x"),
        Question(JOIN, "!ask", f"{ME}!x", ME),
        Question(LEAVE, "g", "jobs", ME),
        Question(PRESENT, id="1"),
        Question(PRESENT, id=ID + "\n"),
    ],
)
def test_wrong_questions(question: Question) -> None:
    """A question that no method asks is none."""
    assert read_request(ASK, question.message(OTHER), NAMES) is None


def test_answers() -> None:
    """A part of an answer is read as it was meant."""
    answer = AnswerPart(OTHER, ID, 1, 2, ["channels_other!a", "jobs"])
    assert read_request(ANSWER, answer.message(), NAMES) == answer


@pytest.mark.parametrize(
    "fields",
    [
        {"part": 2},
        {"part": -1},
        {"part": True},
        {"part": 1.0},
        {"parts": MOST_PARTS + 1},
        {"parts": None},
        {"names": ["a"] * (NAMES_PER_PART + 1)},
        {"names": ["x" * 201]},
        {"names": [b"a"]},
        {"names": "a"},
        {"id": 1},
        {"from": "celery"},
        {"earlier": [OTHER.queue] * (MOST_EARLIER + 1)},
    ],
)
def test_wrong_answers(fields: dict[str, Any]) -> None:
    """One that no process gives is none."""
    message = AnswerPart(OTHER, ID, 0, 2, []).message()
    assert read_request(ANSWER, message | fields, NAMES) is None


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.sampled_from([ME, OTHER.queue, f"{ME}!x", "g", ID, PRESENT, MEMBERS, FLUSH, JOIN, LEAVE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
KEYS = ["from", "earlier", "to", "what", "group", "channel", "id", "part", "parts", "names"]


@given(
    st.sampled_from([HELLO, ASK, ANSWER, "!"]),
    st.fixed_dictionaries(
        {"from": st.just(OTHER.queue) | VALUES, "earlier": st.just([]) | VALUES}
    ).flatmap(
        lambda start: st.dictionaries(st.sampled_from(KEYS[2:]), VALUES).map(
            lambda rest: start | rest
        )
    ),
)
def test_anything(name: str, message: dict[str, Any]) -> None:
    """Whatever comes raises nothing, and what is read has valid names only."""
    request = read_request(name, message, NAMES)
    if request is None:
        return
    assert is_queue(request.sender.queue)
    assert request.sender.queue != ME
    assert all(map(is_queue, request.sender.earlier))
    if isinstance(request, Asked):
        question = request.question
        assert not question.group or is_group(question.group)
        assert not question.channel or NAMES.is_channel(question.channel)
    elif isinstance(request, AnswerPart):
        assert all(map(is_channel, request.names))
    else:
        assert isinstance(request, Hello)
