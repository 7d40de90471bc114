"""Tokens: what is granted holds, what is taken away stays so, and nothing that a holder adds gives more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import biscuit_auth
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.access.action import VISITABLE, Action, Operation
from api.access.capability import (
    MAX_BLOCKS,
    MAX_LIFE_S,
    Narrowing,
    Scope,
    Terms,
    attenuate,
    authorize,
    mint,
    minter_of,
    read_capability,
    revocation_ids,
)
from identity.errors import AuditError, Forbidden, LimitExceeded, MalformedError, VerificationError
from identity.keys import Ed25519Signer

NOW = 1_800_000_000
SEED = b"\1" * 32
DEVICE = Ed25519Signer(SEED).public_key
HOLDER = Ed25519Signer(b"\2" * 32).public_key
THIEF = Ed25519Signer(b"\3" * 32).public_key
BANK = b"\7" * 32
TERMS = Terms(
    HOLDER,
    BANK,
    frozenset({Operation.READ, Operation.UPDATE}),
    NOW + 3600,
    (Scope("accounts", "47"), Scope("branches")),
    frozenset({"owner", "limit"}),
    rate=30,
    note="the monthly report",
)
READ = Action(Operation.READ, BANK, "accounts", "4711", frozenset({"owner"}))
_biscuit: Any = biscuit_auth


@pytest.fixture
def token() -> bytes:
    return mint(SEED, TERMS, NOW)


def appended(token: bytes, source: str) -> bytes:
    """The token with a block that its holder has written."""
    root = _biscuit.PublicKey.from_bytes(DEVICE, _biscuit.Algorithm.Ed25519)
    return bytes(_biscuit.Biscuit.from_bytes(token, root).append(_biscuit.BlockBuilder(source)).to_bytes())


def forbidden(token: bytes, action: Action, reason: str, *, signer: bytes = HOLDER, now_s: int = NOW) -> None:
    with pytest.raises(Forbidden) as caught:
        authorize(token, DEVICE, signer, action, now_s)
    assert caught.value.reason == reason


def test_what_is_granted(token: bytes) -> None:
    assert authorize(token, DEVICE, HOLDER, READ, NOW) == TERMS
    assert minter_of(token) == DEVICE
    capability = read_capability(token, DEVICE)
    assert (capability.issued_s, capability.granted, capability.terms) == (NOW, TERMS, TERMS)


@pytest.mark.parametrize("operation", sorted(VISITABLE))
def test_every_operation_that_visitors_can_have(operation: Operation) -> None:
    token = mint(SEED, Terms(HOLDER, BANK, frozenset({operation}), NOW + 60), NOW)
    assert authorize(token, DEVICE, HOLDER, Action(operation, BANK, "accounts", "1"), NOW).scopes is None
    for other in set(Operation) - {operation}:
        forbidden(token, Action(other, BANK, "accounts", "1"), "OPERATION")


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (replace(READ, operation=Operation.DELETE), "OPERATION"),
        (replace(READ, operation=Operation.SYNC), "OPERATION"),
        (replace(READ, database=b"\6" * 32), "DATABASE"),
        (replace(READ, database=None), "DATABASE"),
        (replace(READ, collection="loans"), "SCOPE"),
        (replace(READ, collection="accountsx"), "SCOPE"),
        (replace(READ, collection=None), "SCOPE"),
        (replace(READ, collection="$schema"), "SCOPE"),
        (replace(READ, key="4811"), "SCOPE"),
        (replace(READ, key="4"), "SCOPE"),
        (replace(READ, key=None), "SCOPE"),
        (replace(READ, key=None, key_prefix="4"), "SCOPE"),
        (replace(READ, fields=frozenset({"owner", "balance"})), "FIELDS"),
    ],
)
def test_nothing_else(token: bytes, action: Action, reason: str) -> None:
    forbidden(token, action, reason)


@pytest.mark.parametrize(
    "action",
    [
        replace(READ, fields=frozenset()),
        replace(READ, operation=Operation.UPDATE),
        replace(READ, key="47"),
        replace(READ, key=None, key_prefix="471"),
        replace(READ, collection="branches", key="1"),
        replace(READ, collection="branches", key=None),
    ],
)
def test_all_that_is_within(token: bytes, action: Action) -> None:
    assert authorize(token, DEVICE, HOLDER, action, NOW) == TERMS


def test_a_token_is_its_holders(token: bytes) -> None:
    forbidden(token, READ, "HOLDER", signer=THIEF)
    forbidden(token, READ, "HOLDER", signer=DEVICE)


def test_a_token_ends(token: bytes) -> None:
    authorize(token, DEVICE, HOLDER, READ, NOW + 3599)
    forbidden(token, READ, "EXPIRED", now_s=NOW + 3600)
    authorize(token, DEVICE, HOLDER, READ, NOW - 60)
    forbidden(token, READ, "NOT_YET", now_s=NOW - 61)


def test_changes_only_to_the_version_that_they_name() -> None:
    token = mint(SEED, replace(TERMS, if_match=True), NOW)
    update = replace(READ, operation=Operation.UPDATE)
    forbidden(token, update, "IF_MATCH")
    authorize(token, DEVICE, HOLDER, replace(update, guarded=True), NOW)
    authorize(token, DEVICE, HOLDER, READ, NOW)


def test_who_may_touch_some_fields_deletes_nothing() -> None:
    terms = replace(TERMS, operations=frozenset({Operation.DELETE}))
    forbidden(mint(SEED, terms, NOW), replace(READ, operation=Operation.DELETE, fields=frozenset()), "FIELDS")
    whole = replace(READ, operation=Operation.DELETE, fields=frozenset())
    authorize(mint(SEED, replace(terms, fields=None), NOW), DEVICE, HOLDER, whole, NOW)


def test_no_token_is_without_end() -> None:
    mint(SEED, replace(TERMS, expires_s=NOW + MAX_LIFE_S), NOW)
    with pytest.raises(LimitExceeded):
        mint(SEED, replace(TERMS, expires_s=NOW + MAX_LIFE_S + 1), NOW)
    with pytest.raises(MalformedError):
        mint(SEED, replace(TERMS, expires_s=NOW), NOW)


def test_a_device_that_mints_for_longer_is_refused_by_the_node() -> None:
    """Its own program may leave the check out; the first block says when it was minted."""
    source = f"""
        holdfast(1); device("{DEVICE.hex()}"); issued({NOW}); rate(30);
        check if signer("{HOLDER.hex()}"); check if database("{BANK.hex()}");
        check if time($t), $t < 2027-06-01T00:00:00Z; check if operation($o), {{"read"}}.contains($o);
    """
    with pytest.raises(LimitExceeded):
        read_capability(forged(source), DEVICE)


def forged(source: str, seed: bytes = SEED) -> bytes:
    key = _biscuit.PrivateKey.from_bytes(seed, _biscuit.Algorithm.Ed25519)
    return bytes(_biscuit.BiscuitBuilder(source).build(key).to_bytes())


@pytest.mark.parametrize(
    "terms",
    [
        replace(TERMS, operations=frozenset()),
        replace(TERMS, operations=frozenset({Operation.SYNC})),
        replace(TERMS, operations=frozenset({Operation.READ, Operation.PURGE})),
        replace(TERMS, holder=b"short"),
        replace(TERMS, database=b""),
        replace(TERMS, scopes=()),
        replace(TERMS, scopes=(Scope("b"), Scope("a"))),
        replace(TERMS, scopes=(Scope("a"), Scope("a"))),
        replace(TERMS, scopes=(Scope(""),)),
        replace(TERMS, scopes=(Scope("$secret"),)),
        replace(TERMS, scopes=(Scope("$schema"),)),
        replace(TERMS, scopes=tuple(Scope(f"c{n:03}") for n in range(33))),
        replace(TERMS, fields=frozenset()),
        replace(TERMS, fields=frozenset({"a\0b"})),
        replace(TERMS, fields=frozenset(f"f{n}" for n in range(65))),
        replace(TERMS, rate=0),
        replace(TERMS, rate=6001),
        replace(TERMS, note="x" * 201),
        replace(TERMS, note="a\nb"),
    ],
)
def test_terms_that_cannot_be(terms: Terms) -> None:
    with pytest.raises(MalformedError):
        mint(SEED, terms, NOW)


# --- narrowing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("narrowing", "action", "reason"),
    [
        (Narrowing(operations=frozenset({Operation.READ})), replace(READ, operation=Operation.UPDATE), "OPERATION"),
        (Narrowing(scopes=(Scope("branches"),)), READ, "SCOPE"),
        (Narrowing(scopes=(Scope("accounts", "4712"),)), READ, "SCOPE"),
        (Narrowing(fields=frozenset({"limit"})), READ, "FIELDS"),
        (Narrowing(if_match=True), replace(READ, operation=Operation.UPDATE), "IF_MATCH"),
        (Narrowing(expires_s=NOW), READ, "EXPIRED"),
    ],
)
def test_a_holder_can_take_away(token: bytes, narrowing: Narrowing, action: Action, reason: str) -> None:
    authorize(token, DEVICE, HOLDER, action, NOW)
    forbidden(attenuate(token, DEVICE, narrowing), action, reason)


@pytest.mark.parametrize(
    "narrowing",
    [
        Narrowing(operations=frozenset(VISITABLE)),
        Narrowing(scopes=(Scope("accounts"), Scope("branches"), Scope("loans"))),
        Narrowing(fields=frozenset({"owner", "limit", "balance"})),
        Narrowing(expires_s=NOW + 10**6),
        Narrowing(rate=6000),
    ],
)
def test_a_wider_block_gives_nothing(token: bytes, narrowing: Narrowing) -> None:
    assert read_capability(attenuate(token, DEVICE, narrowing), DEVICE).terms == TERMS


def test_what_is_left_is_what_all_blocks_allow(token: bytes) -> None:
    token = attenuate(token, DEVICE, Narrowing(scopes=(Scope("accounts", "4"), Scope("loans")), rate=10))
    token = attenuate(token, DEVICE, Narrowing(fields=frozenset({"owner", "x"}), expires_s=NOW + 60, note="for B"))
    terms = read_capability(token, DEVICE).terms
    assert terms == replace(
        TERMS, scopes=(Scope("accounts", "47"),), fields=frozenset({"owner"}), expires_s=NOW + 60, rate=10
    )
    assert read_capability(token, DEVICE).granted == TERMS


def test_ids_for_each_block(token: bytes) -> None:
    narrower = attenuate(token, DEVICE, Narrowing(rate=1))
    assert revocation_ids(narrower, DEVICE)[0] == revocation_ids(token, DEVICE)[0]
    assert [len(one) for one in revocation_ids(narrower, DEVICE)] == [64, 64]
    assert revocation_ids(mint(SEED, TERMS, NOW), DEVICE)[0] != revocation_ids(token, DEVICE)[0]  # each is its own


def test_blocks_and_bytes_are_bounded(token: bytes) -> None:
    with pytest.raises(LimitExceeded):
        for rate in range(29, 29 - MAX_BLOCKS, -1):
            token = attenuate(token, DEVICE, Narrowing(rate=rate))
    longest = tuple(sorted(Scope(f"c{n:02}" + "x" * 150) for n in range(32)))
    with pytest.raises(LimitExceeded):
        mint(SEED, replace(TERMS, scopes=longest), NOW)
    with pytest.raises(LimitExceeded):
        read_capability(bytes(8193), DEVICE)


def test_a_block_that_takes_nothing_is_none(token: bytes) -> None:
    with pytest.raises(MalformedError):
        attenuate(token, DEVICE, Narrowing(note="hello"))


# --- widening ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        f'holder("{THIEF.hex()}");',
        f'signer("{THIEF.hex()}");',
        f'check if signer("{THIEF.hex()}");',
        f'database("{"06" * 32}");',
        f'check if database("{BANK.hex()}");',
        'collection("6c6f616e73");',
        'operation("delete");',
        "time(2027-01-01T00:00:00Z);",
        'field("62616c616e6365");',
        "guarded(true);",
        "holdfast(1);",
        f'device("{THIEF.hex()}");',
        "issued(1900000000);",
        'operation("delete") <- operation("read");',
        "operation($x) <- operation($x);",
        "check if true;",
        "check if time($t), $t < 2030-01-01T00:00:00Z or true;",
        "check if time($t), $t > 2020-01-01T00:00:00Z;",
        "check all operation($o), $o == $o;",
        'check if collection("6c6f616e73") or true;',
        'check if collection("6C6F616E73");',
        'check if collection("zz");',
        'check if key($k), $k.matches("(a+)+$");',
        'reject if field($f), !{"zz"}.contains($f);',
        "rate(5); rate(6);",
        "rate(0);",
        "rate(05);\nrate(7);",
        'note("zz");',
        'note("");',
        "check if guarded(true); check if guarded(true);",
        'check if operation($o), {"read", "fly"}.contains($o);',
        "trusting previous; check if true;",
        'note("6f"); x("\\"); evil(1);");',
    ],
)
def test_a_block_of_any_other_form_ends_the_token(token: bytes, source: str) -> None:
    """Whatever a holder adds that is no narrowing: the token is refused, before any of it is run."""
    spoilt = appended(token, source)
    with pytest.raises(MalformedError):
        read_capability(spoilt, DEVICE)
    with pytest.raises(AuditError):
        authorize(spoilt, DEVICE, HOLDER, READ, NOW)
    with pytest.raises(AuditError):
        authorize(spoilt, DEVICE, THIEF, replace(READ, collection="loans"), NOW)


def test_a_third_party_adds_nothing(token: bytes) -> None:
    root = _biscuit.PublicKey.from_bytes(DEVICE, _biscuit.Algorithm.Ed25519)
    biscuit = _biscuit.Biscuit.from_bytes(token, root)
    key = _biscuit.PrivateKey.from_bytes(b"\x09" * 32, _biscuit.Algorithm.Ed25519)
    block = biscuit.third_party_request().create_block(key, _biscuit.BlockBuilder("rate(5);"))
    public = _biscuit.KeyPair.from_private_key(key).public_key
    with pytest.raises(MalformedError, match="third party"):
        read_capability(bytes(biscuit.append_third_party(public, block).to_bytes()), DEVICE)


def test_the_last_block_cannot_be_taken_off(token: bytes) -> None:
    """Blocks are chained by keys: without the one that was thrown away nobody can sign a shorter token."""
    narrower = attenuate(token, DEVICE, Narrowing(operations=frozenset({Operation.READ})))
    update = replace(READ, operation=Operation.UPDATE)
    for cut in range(len(narrower)):
        try:
            assert authorize(narrower[:cut], DEVICE, HOLDER, update, NOW) is None
        except AuditError:
            continue


def test_another_device_has_not_signed_it(token: bytes) -> None:
    with pytest.raises(VerificationError):
        read_capability(token, THIEF)
    names_another = forged(
        f'holdfast(1); device("{DEVICE.hex()}"); issued({NOW}); rate(30);'
        f'check if signer("{THIEF.hex()}"); check if database("{BANK.hex()}");'
        'check if time($t), $t < 2027-01-15T09:00:00Z; check if operation($o), {"read"}.contains($o);',
        b"\3" * 32,
    )
    assert minter_of(names_another) == DEVICE
    with pytest.raises(VerificationError):
        read_capability(names_another, DEVICE)
    with pytest.raises(VerificationError, match="another device"):
        read_capability(names_another, THIEF)


def test_the_library_judges_as_well(monkeypatch: pytest.MonkeyPatch, token: bytes) -> None:
    """Were our own reading of the terms wrong, Biscuit's authorizer would still refuse."""
    monkeypatch.setattr("api.access.capability._check_action", lambda *_: None)
    authorize(token, DEVICE, HOLDER, READ, NOW)
    for action in (
        replace(READ, operation=Operation.DELETE),
        replace(READ, database=b"\6" * 32),
        replace(READ, collection="loans"),
        replace(READ, key="4811"),
        replace(READ, fields=frozenset({"balance"})),
    ):
        forbidden(token, action, "BLOCK")
    guarded = attenuate(token, DEVICE, Narrowing(if_match=True))
    forbidden(guarded, replace(READ, operation=Operation.UPDATE), "BLOCK")


# --- hostile bytes ----------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes(data: bytes) -> None:
    for call in (minter_of, lambda one: read_capability(one, DEVICE)):
        with pytest.raises(AuditError):
            call(data)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_byte_changed(at: int, change: int) -> None:
    """Either it is refused, or what it says is unchanged: Biscuit's container has spellings that mean the same."""
    token = bytearray(_FIXED)
    token[at % len(token)] ^= change
    try:
        assert read_capability(bytes(token), DEVICE).terms == TERMS
    except AuditError:
        return


_FIXED = mint(SEED, TERMS, NOW)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=8), st.text(max_size=8)), min_size=1, max_size=5),
    st.none() | st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=5),
    st.sets(st.sampled_from(sorted(VISITABLE)), min_size=1),
    st.booleans(),
    st.integers(1, 6000),
    st.text(max_size=20),
)
def test_whatever_is_granted_is_read_back(
    scopes: list[tuple[str, str]],
    fields: set[str] | None,
    operations: set[Operation],
    if_match: bool,
    rate: int,
    note: str,
) -> None:
    chosen = tuple(sorted({Scope(*scope) for scope in scopes}))
    terms = Terms(
        HOLDER,
        BANK,
        frozenset(operations),
        NOW + 5,
        chosen,
        None if fields is None else frozenset(fields),
        if_match,
        rate,
        note,
    )
    try:
        token = mint(SEED, terms, NOW)
    except (MalformedError, UnicodeEncodeError):
        return
    assert read_capability(token, DEVICE).terms == terms


def test_a_token_is_no_other_statement_of_a_device() -> None:
    """A device signs heads, identity events, requests and tokens with one key: none begins as another does."""
    from identity.contexts import ALL_CONTEXTS
    from ledger.head import signable

    at = _FIXED.index(b"holdfast") - 2  # the first of the block's strings: this is where what is signed begins
    assert _FIXED[at : at + 2] == b"\x0a\x08"
    assert _FIXED[:at] == b"\x12" + _FIXED[1:3] + b"\x0a" + _FIXED[4:6]
    others = [context[0] for context in ALL_CONTEXTS] + [signable(bytes(32), bytes(32), 1)[0], b'"@method"'[0]]
    assert 0x0A not in others
