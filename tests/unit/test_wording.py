"""All wording of errors, in one list: a changed message is a changed line of it, and breaks no other test."""

from golden.messages import LIST, list_messages


def test_the_list_holds_the_messages_of_the_source():
    """After a change of wording: python tests/golden/messages.py, and read the difference."""
    assert list_messages() == LIST.read_text(encoding="utf-8")
