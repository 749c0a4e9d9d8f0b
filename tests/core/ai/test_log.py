"""The log of tokens against a list of strings.

Rules of this file: the model is a list of the tokens' texts and the number of those evicted.
"""

import pytest
from core.costs import peak_memory
from cost.counts import measure
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tokenwire.ai.log import TokenLog

TOKENS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def filled(*tokens: str) -> TokenLog:
    log = TokenLog()
    for token in tokens:
        log.append(token.encode())
    return log


def test_a_new_log_is_empty_and_begins_at_one() -> None:
    log = TokenLog()
    assert (log.first_seq, log.last_seq) == (1, 0)
    assert log.bytes_from(1) == 0


def test_tokens_are_numbered_from_one_and_given_back_by_number() -> None:
    log = filled("a", "bé", "日", "🎉")
    assert log.last_seq == 4
    assert [log.text(seq, seq) for seq in range(1, 5)] == ["a", "bé", "日", "🎉"]
    assert log.text(2, 3) == "bé日"


def test_size_counts_the_text_and_a_boundary_for_each_token() -> None:
    empty = TokenLog().size
    assert filled("é", "abc").size == empty + 2 + 3 + 2 * 4


@pytest.mark.parametrize(
    ("first", "last", "room", "end"),
    [
        (1, 4, 0, 1),  # at least one token, however large
        (1, 4, 1, 1),
        (1, 4, 5, 1),
        (1, 4, 6, 2),
        (1, 4, 7, 3),
        (1, 4, 100, 4),
        (1, 2, 100, 2),  # not beyond the last
        (3, 4, 1, 3),
        (4, 4, 0, 4),
    ],
)
def test_a_piece_holds_what_fits_and_at_least_one_token(
    first: int, last: int, room: int, end: int
) -> None:
    assert filled("aaaa", "bb", "c", "d").piece_end(first, last, room) == end


def test_evicting_moves_the_beginning_and_keeps_the_rest() -> None:
    log = filled("aa", "bb", "cc")
    log.evict_before(2)
    assert (log.first_seq, log.last_seq) == (2, 3)
    assert log.text(2, 3) == "bbcc"
    log.evict_before(2)
    log.evict_before(1)
    assert log.first_seq == 2


def test_evicting_all_leaves_an_empty_log_that_goes_on_counting() -> None:
    log = filled("aa", "bb")
    log.evict_before(3)
    assert (log.first_seq, log.last_seq, log.bytes_from(3)) == (3, 2, 0)
    log.append(b"cc")
    assert log.text(3, 3) == "cc"


@pytest.mark.parametrize(
    ("size", "before", "first"),
    [
        (1_000, 4, 1),  # there is room
        (4 + 2 * 6, 4, 2),  # exactly two tokens stay
        (4 + 2 * 6 - 1, 4, 3),
        (0, 4, 4),
        (0, 2, 2),  # none from `before` on
        (0, 1, 1),
    ],
)
def test_evicting_to_a_size_drops_the_oldest_and_no_more(
    size: int, before: int, first: int
) -> None:
    log = filled("aa", "bb", "cc")
    log.evict_to(size, before)
    assert log.first_seq == first


def test_a_log_goes_on_however_much_was_evicted() -> None:
    log, piece = TokenLog(), bytes(1024 * 1024)
    for _ in range(4_200):  # more than 32 bits can count
        log.append(piece)
        log.evict_before(log.last_seq)
    log.append(b"end")
    assert (log.first_seq, log.last_seq, log.bytes_from(4_201)) == (4_200, 4_201, 3)
    assert log.text(4_200, 4_201) == piece.decode() + "end"
    log.cut_after(4_200)
    log.append(b"other")
    assert log.text(4_201, 4_201) == "other"


def test_the_text_is_there_once_while_the_log_moves_on() -> None:
    size = 1024 * 1024
    piece = b"x" * 1_000

    def fill_and_go_on() -> None:
        log = TokenLog()
        for _ in range(4 * size // len(piece)):
            log.append(piece)
            log.evict_to(size, log.last_seq)

    assert peak_memory(fill_and_go_on) < 1.5 * size


def test_evicting_is_no_work_for_what_stays() -> None:
    log = filled(*[" token"] * 100_000)
    cost = measure(lambda: log.evict_to(log.size - 10_000, log.last_seq), 5, apart=__file__)
    assert cost.lines < 200
    assert cost.memory < 2_000


class Against(RuleBasedStateMachine):
    """Any calls, against the list."""

    def __init__(self) -> None:
        super().__init__()
        self.log = TokenLog()
        self.tokens: list[str] = []
        self.evicted = 0

    def kept(self, first: int, last: int) -> list[str]:
        return self.tokens[first - 1 : last]

    def pair(self, data: st.DataObject) -> tuple[int, int]:
        first = data.draw(st.integers(self.evicted + 1, len(self.tokens)))
        return first, data.draw(st.integers(first, len(self.tokens)))

    @rule(token=TOKENS)
    def append(self, token: str) -> None:
        self.log.append(token.encode())
        self.tokens.append(token)

    @precondition(lambda self: self.evicted < len(self.tokens))
    @rule(data=st.data())
    def text(self, data: st.DataObject) -> None:
        first, last = self.pair(data)
        assert self.log.text(first, last) == "".join(self.kept(first, last))
        assert list(self.log.texts(first, last)) == self.kept(first, last)

    @precondition(lambda self: self.evicted < len(self.tokens))
    @rule(data=st.data(), room=st.integers(0, 60))
    def piece_end(self, data: st.DataObject, room: int) -> None:
        first, last = self.pair(data)
        end = first
        while end < last and len("".join(self.kept(first, end + 1)).encode()) <= room:
            end += 1
        assert self.log.piece_end(first, last, room) == end

    @rule(data=st.data())
    def bytes_from(self, data: st.DataObject) -> None:
        seq = data.draw(st.integers(self.evicted + 1, len(self.tokens) + 1))
        assert self.log.bytes_from(seq) == len("".join(self.tokens[seq - 1 :]).encode())

    @rule(data=st.data())
    def evict_before(self, data: st.DataObject) -> None:
        seq = data.draw(st.integers(1, len(self.tokens) + 1))
        self.log.evict_before(seq)
        self.evicted = max(self.evicted, seq - 1)

    @rule(data=st.data(), size=st.integers(0, 120))
    def evict_to(self, data: st.DataObject, size: int) -> None:
        before = data.draw(st.integers(1, len(self.tokens) + 1))
        self.log.evict_to(size, before)
        while self.size() > size and self.evicted + 1 < before:
            self.evicted += 1

    def size(self) -> int:
        kept = self.tokens[self.evicted :]
        return len("".join(kept).encode()) + 4 * (len(kept) + 1)

    @invariant()
    def agree(self) -> None:
        assert self.log.first_seq == self.evicted + 1
        assert self.log.last_seq == len(self.tokens)
        assert self.log.size == self.size()


Against.TestCase.settings = settings(
    derandomize=True, max_examples=40, stateful_step_count=30, deadline=None
)
TestAgainstAList = Against.TestCase


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=40), st.integers(1, 20))
def test_pieces_cover_the_text_once_and_in_order(tokens: list[str], room: int) -> None:
    log = filled(*tokens)
    first, pieces = 1, []
    while first <= log.last_seq:
        end = log.piece_end(first, log.last_seq, room)
        pieces.append(log.text(first, end))
        first = end + 1
    assert "".join(pieces) == "".join(tokens)


def test_a_log_of_which_nothing_is_left_holds_nothing() -> None:
    log = TokenLog()
    for _ in range(100):
        log.append(b"x" * 100)
    log.evict_to(5_000, before=101)
    log.cut_after(log.first_seq - 1)
    assert log.size < 10
    log.append(b"new")
    assert log.text(log.last_seq, log.last_seq) == "new"
