"""`control`: how the answers of other processes are put together."""

from __future__ import annotations

import pytest

from channels_rabbitmq.broker.peers import MEMBERS, Answers, Question, askers_key, control_key
from channels_rabbitmq.wire.names import require_group


@pytest.mark.parametrize(
    "key", [control_key(""), askers_key(""), control_key("p"), askers_key("p")]
)
def test_keys_are_no_group_names(key: str) -> None:
    """No group can have such a name, so nobody else binds them."""
    with pytest.raises(TypeError):
        require_group(key)


def test_prefixes_are_kept_apart() -> None:
    """Projects that share a virtual host do not hear each other."""
    assert len({control_key(""), control_key("a"), askers_key(""), askers_key("a")}) == 4


async def test_an_answer_in_parts() -> None:
    """An answer counts once all of its parts are there, in any order, repeated or not."""
    answers = Answers(Question(MEMBERS, "g"))
    answers.add("p", 1, 2, ["b"])
    answers.add("p", 1, 2, ["b"])
    assert not answers.answered
    assert not answers.news.is_set()
    answers.add("p", 0, 2, ["a"])
    assert answers.answered == {"p"}
    assert answers.news.is_set()
    answers.add("q", 0, 1, [])
    assert answers.names == {"a", "b"}


async def test_complete() -> None:
    """A question is answered once every queue took it and nobody who is known is missing."""
    answers = Answers(Question(MEMBERS, "g"))
    assert not answers.complete
    answers.accepted = True
    assert answers.complete
    answers.missing = {"p"}
    assert not answers.complete


def test_questions_differ() -> None:
    """The same question asked twice is two questions."""
    assert Question(MEMBERS, "g").id != Question(MEMBERS, "g").id
