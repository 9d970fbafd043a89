"""A sample survives being stored, or is refused by name."""

from collections import OrderedDict
from contextlib import suppress
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from audiomdb.errors import CorruptRecordError, InvalidKeyError, UnsupportedValueError
from audiomdb.shards.codec import (
    decode_head,
    encode_record,
    pack_head,
    resolve_fields,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN_DTYPES = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?"),
    npst.complex_number_dtypes(endianness="?"),
    npst.datetime64_dtypes(),
    npst.timedelta64_dtypes(),
    npst.byte_string_dtypes(min_len=1),
    npst.unicode_string_dtypes(min_len=1),
)
ARRAYS = st.one_of(PLAIN_DTYPES, npst.array_dtypes(PLAIN_DTYPES)).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    TEXT,
    st.binary(max_size=600),
)
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


def stored(sample, *, copy=True, verify=True, key="k"):
    record = encode_record(key, sample)
    head = pack_head(record.body, 0, 0)
    payloads = memoryview(b"".join(record.payloads))
    assert len(payloads) == record.payload_bytes
    return decoded(head, payloads, copy, verify)


def decoded(head, payloads=b"", copy=True, verify=True):
    sample = decode_head(memoryview(head))
    resolve_fields(sample, memoryview(payloads), 0, len(payloads), copy, verify)
    return sample


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, float) and isnan(a):
        assert isnan(b)
    else:
        assert a == b


@given(st.dictionaries(TEXT.filter(lambda name: name != "__key__"), VALUES, max_size=5))
def test_stored_values_come_back(sample):
    back = stored(sample)
    assert back.pop("__key__") == "k"
    assert_same(sample, back)


@given(ARRAYS)
def test_views_equal_copies_and_are_read_only(array):
    view = stored({"a": array}, copy=False)["a"]
    assert_same(np.ascontiguousarray(array).reshape(array.shape), np.array(view))
    copied = stored({"a": array})["a"]
    assert copied.flags.writeable
    if array.nbytes > 256:
        assert not view.flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.1),
        np.int8(-3),
        np.bool_(True),
        np.datetime64("2026-01-02", "s"),
        np.complex64(1j),
    ],
)
def test_numpy_scalars_keep_their_type(value):
    back = stored({"v": value})["v"]
    assert type(back) is type(value)
    assert back == value


def test_tuples_come_back_as_lists_and_mappings_as_dicts():
    back = stored({"shape": (80, 3000), "nested": OrderedDict(a=(1, (2,)))})
    assert back["shape"] == [80, 3000]
    assert back["nested"] == {"a": [1, [2]]}


def test_memoryviews_and_bytearrays_come_back_as_bytes():
    data = bytes(range(256)) * 4
    strided = memoryview(data)[::2]
    shorts = memoryview(data).cast("H")
    back = stored({"a": bytearray(data), "b": strided, "c": shorts})
    assert back["a"] == data
    assert back["b"] == data[::2]
    assert back["c"] == data


def test_structured_and_sub_array_dtypes_survive():
    dtype = np.dtype([("start", "<f8"), ("label", "S4"), ("box", "<i2", (2, 2))], align=True)
    array = np.zeros(100, dtype)
    array["label"] = b"ab"
    array["box"][3] = [[1, 2], [3, 4]]
    assert_same(array, stored({"a": array})["a"])


def test_objects_with_an_array_interface_are_stored_as_arrays():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return np.arange(100, dtype=dtype or "f4")

    assert_same(np.arange(100, dtype="f4"), stored({"a": Tensor()})["a"])


def test_fortran_order_and_strides_do_not_change_the_elements():
    array = np.asfortranarray(np.arange(600).reshape(20, 30))[::-1, ::3]
    back = stored({"a": array})["a"]
    assert np.array_equal(back, array)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (2**64, "outside -2\\^63"),
        (-(2**63) - 1, "outside -2\\^63"),
        ({1, 2}, "builtins.set"),
        (object(), "builtins.object"),
        (1j, "builtins.complex"),
        (np.array([None]), "dtype object"),
        (np.zeros(2, [("a", object)]), "'O'"),
        (np.ma.masked_array([1, 2], [False, True]), "masked"),
        ({1: 2}, "field name 1"),
        ({"a": {None: 2}}, "field name None"),
        ("\ud800", "surrogate"),
    ],
)
def test_unstorable_values_are_refused_with_key_and_field(value, says):
    with pytest.raises(UnsupportedValueError, match=says) as caught:
        encode_record("clip-7", {"field": value})
    assert "clip-7" in str(caught.value)
    assert isinstance(caught.value, TypeError | ValueError)


def test_a_deep_field_is_named_with_its_path():
    with pytest.raises(UnsupportedValueError, match=r"'meta\.tags\[1\]'"):
        encode_record("k", {"meta": {"tags": ["a", {1}]}})


def test_endless_nesting_is_refused_not_followed():
    loop: list = []
    loop.append(loop)
    with pytest.raises(UnsupportedValueError, match="nests more than"):
        encode_record("k", {"a": loop})


@pytest.mark.parametrize("key", ["", "x" * 512, "é" * 256, b"k", 7, None, "\ud800"])
def test_keys_that_lmdb_cannot_hold_are_refused(key):
    with pytest.raises(InvalidKeyError):
        encode_record(key, {})


@pytest.mark.parametrize("key", ["x", "x" * 511, "é" * 255 + "x"])
def test_keys_of_every_length_that_lmdb_holds_are_taken(key):
    assert encode_record(key, {}).key == key.encode()


def test_a_read_sample_can_be_rewritten_only_under_its_own_key():
    assert encode_record("k", {"__key__": "k", "a": 1}).body == encode_record("k", {"a": 1}).body
    with pytest.raises(InvalidKeyError, match="calls itself 'other'"):
        encode_record("k", {"__key__": "other"})
    with pytest.raises(InvalidKeyError, match="sample 'k' calls itself array"):
        encode_record("k", {"__key__": np.arange(3)})


def test_payloads_are_referred_to_not_copied_when_encoded():
    audio = bytearray(1000)
    record = encode_record("k", {"audio": audio})
    assert any(payload is audio for payload in record.payloads)


def test_a_flipped_bit_anywhere_in_a_record_is_noticed():
    record = encode_record("k", {"audio": bytes(range(256)) * 2, "text": "hello"})
    head = pack_head(record.body, 3, 160)
    payload = b"".join(record.payloads)
    for at in range(len(head) * 8):
        damaged = bytearray(head)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(CorruptRecordError):
            decode_head(memoryview(damaged))
    for at in range(len(payload)):
        spoilt = bytearray(payload)
        spoilt[at] ^= 1
        with pytest.raises(CorruptRecordError, match="checksum of a payload"):
            decoded(head, spoilt)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_crash_the_decoder(data):
    # Behind a right checksum, as an attacker would send them.
    head = pack_head(data, 0, 0)
    with suppress(CorruptRecordError):
        decoded(head)


@pytest.mark.parametrize(
    "descr", ["O", "|O", [["a", "O"]], "T", "nonsense", "V-1", [["a", "<f4", [-1]]], {}, None, 7]
)
def test_dtypes_that_could_hold_pointers_are_not_read(descr):
    import msgspec

    header = msgspec.msgpack.encode([descr, [1]])
    data = len(header).to_bytes(2, "little") + header + bytes(8)
    body = msgspec.msgpack.encode({"a": msgspec.msgpack.Ext(3, data)})
    with pytest.raises(CorruptRecordError):
        decoded(pack_head(body, 0, 0))
