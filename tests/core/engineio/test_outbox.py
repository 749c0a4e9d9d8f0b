"""What waits for a peer."""

from tokenwire.engineio.outbox import Outbox


def test_messages_come_out_in_order_within_the_budget() -> None:
    outbox = Outbox(100, 1_600)
    assert not outbox
    assert outbox.put([b"aa", b"bb"], writable=False)
    assert outbox.put([b"cc"], writable=False)
    out: list[bytes] = []
    assert outbox.pull(out, 3) == -1
    assert out == [b"aa", b"bb"]
    assert outbox
    assert outbox.pull(out, 10) == 8
    assert out == [b"aa", b"bb", b"cc"]
    assert outbox.pull(out, 0) == 0
    assert not outbox


def test_what_is_too_much_is_refused_whole() -> None:
    outbox = Outbox(10, 160)
    assert outbox.put([b"x" * 1_000], writable=False)  # alone, any size
    assert not outbox.put([b"y"], writable=False)
    assert outbox.take_all() == [b"x" * 1_000]
    assert outbox.put([b"a" * 10], writable=False)
    assert not outbox.put([b"b"], writable=False)
    assert outbox.put([b"c" * 150], writable=True)  # a burst
    assert not outbox.put([b"d"], writable=True)
    assert outbox.take_all() == [b"a" * 10, b"c" * 150]
    assert outbox.put([b"e" * 10], writable=False)


def test_what_a_peer_has_come_back_for_does_not_count_until_all_has_gone() -> None:
    outbox = Outbox(10, 160)
    outbox.put_excused([b"x" * 50, b"y" * 50])
    assert outbox.put([b"a" * 10], writable=False)
    assert not outbox.put([b"b"], writable=False)
    out: list[bytes] = []
    outbox.pull(out, 60)
    assert not outbox.put([b"b" * 101], writable=False)
    outbox.pull(out, 1_000)
    assert outbox.put([b"c" * 10], writable=False)
    assert not outbox.put([b"d"], writable=False)


def test_what_waits_is_counted() -> None:
    outbox = Outbox(10, 160)
    outbox.put([b"abc", b"de"], writable=True)
    assert outbox.size == 5
    outbox.pull([], 1)
    assert outbox.size == 2
    outbox.take_all()
    assert outbox.size == 0
