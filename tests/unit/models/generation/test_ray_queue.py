"""Which parts of batches are computed again when actors end with them. Needs no Ray."""

from __future__ import annotations

from ft.models.generation.backends import WorkerRequest
from ft.models.generation.ray_executor import BatchQueue


def test_an_item_that_ends_every_actor_fails_alone():
    batch = [WorkerRequest(key, [], []) for key in "abcd"]
    queue, ends, wholes = BatchQueue([batch]), 0, []
    while part := queue.next_part():
        if any(item.key == "c" for item in part.items):
            ends += 1
            wholes.append(queue.put_back(part, "it ran out of memory"))
        else:
            wholes.append(queue.take(part, [(item.key, {"text": item.key}) for item in part.items]))
    assert ends == 4
    (whole,) = [entries for entries in wholes if entries is not None]
    assert dict(whole) == {
        **{key: {"text": key} for key in "abd"},
        "c": {"failed": "2 actors ended while they computed it: it ran out of memory"},
    }


def test_a_batch_is_whole_when_its_last_part_is():
    batch = [WorkerRequest(key, [], []) for key in "ab"]
    queue = BatchQueue([batch])
    part = queue.next_part()
    assert queue.put_back(part, "gone") is None
    assert queue.next_part() is part
    assert queue.put_back(part, "gone") is None
    first, second = queue.next_part(), queue.next_part()
    assert queue.take(second, [("b", {})]) is None
    assert queue.take(first, [("a", {})]) == [("b", {}), ("a", {})]
