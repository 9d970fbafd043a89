from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from audiomdb.cache.spans import (
    DONE_BYTES,
    Span,
    cut,
    done_at,
    missing,
    packed,
    piece_bytes,
    unpacked,
)


@st.composite
def covers(draw: st.DrawFn) -> list[Span]:
    """Spans that cover a file, each done up to some byte."""
    ends = sorted(draw(st.sets(st.integers(1, 60), min_size=1, max_size=8)))
    return [
        Span(start, stop, draw(st.integers(start, stop))) for start, stop in pairwise([0, *ends])
    ]


def there(spans: list[Span]) -> set[int]:
    return {byte for span in spans for byte in range(span.start, span.done)}


@given(covers())
def test_missing_spans_are_the_complement_of_those_present(spans: list[Span]) -> None:
    gaps = missing(spans)
    lacking = {byte for start, stop in gaps for byte in range(start, stop)}
    assert lacking == set(range(spans[-1].stop)) - there(spans)
    assert all(before[1] < after[0] for before, after in pairwise(gaps))


@given(covers(), st.one_of(st.none(), st.integers(1, 20)))
def test_cutting_spans_into_pieces_loses_nothing(spans: list[Span], piece: int | None) -> None:
    anew = cut(spans, piece)
    assert there(anew) == there(spans)
    assert [span.start for span in anew] == [0, *(span.stop for span in anew[:-1])]
    assert anew[-1].stop == spans[-1].stop
    for span in anew:
        assert span.done in (span.start, span.stop)
        if span.done == span.start and piece is not None:
            assert span.stop - span.start <= piece
    if piece is None:
        assert len([span for span in anew if span.done == span.start]) == len(missing(spans))


@given(covers(), st.data())
def test_spans_survive_being_written_down(spans: list[Span], data: st.DataObject) -> None:
    content = packed(spans)
    size = spans[-1].stop
    assert unpacked(content, size) == spans
    place = data.draw(st.integers(0, len(spans) - 1))
    at = done_at(place)
    assert int.from_bytes(content[at : at + DONE_BYTES], "little") == spans[place].done
    assert unpacked(content, size + 1) is None
    assert unpacked(content[: data.draw(st.integers(0, len(content) - 1))], size) is None
    assert unpacked(content + b"x", size) is None


@given(st.binary(max_size=200))
def test_invalid_text_is_not_read_as_spans(content: bytes) -> None:
    assert unpacked(content, 10) is None


def test_spans_that_cover_too_little_or_too_much_are_not_believed() -> None:
    assert unpacked(packed([Span(0, 5, 5), Span(6, 10, 6)]), 10) is None
    assert unpacked(packed([Span(0, 10, 11)]), 10) is None


@given(st.integers(1, 10**12), st.integers(2, 8))
def test_pieces_are_neither_tiny_nor_huge(lacking: int, streams: int) -> None:
    piece = piece_bytes(lacking, streams, 4 << 20)
    assert 4 << 20 <= piece <= 16 << 20


def test_any_claimed_file_size_gives_a_limited_number_of_pieces() -> None:
    size = 2**56
    pieces = cut([Span(0, size, 0)], piece_bytes(size, 4, 4 << 20))
    assert len(pieces) <= 1 << 16
    assert pieces[-1].stop == size
