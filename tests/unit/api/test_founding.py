from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from anchoring.chain.dev import DevChain
from anchoring.contracts import load_contract
from anchoring.policy_file import load_policy
from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from anchoring.report import Claim
from anchoring.tsa.dev import DevelopmentAuthority
from api import founding as founding_module
from api.founding import Founding, found_home
from api.home import Home
from identity.errors import RefusedError, StorageError, TransportError
from identity.event import DeviceClass
from identity.history import fold, key_commitment, parse_signed_event
from identity.keys import Ed25519Signer
from identity.keystore import ONLY_FOR_TESTING, open_keystore
from identity.recovery import root_seed
from ledger.statement import LogDescriptor, parse_statement
from ledger.storage.sqlite import open_sqlite

NOW: Final = 1_767_225_600_000
DEVICES: Final = {"laptop": DeviceClass.DEVICE, "office": DeviceClass.ADMIN}

WITHOUT_CHAIN: Final = Founding(
    label="bank",
    devices=DEVICES,
    log_name="bank.example",
    chain=None,
    fund=None,
    authorities=[],
    settings="format = 1\n",
    kdf=ONLY_FOR_TESTING,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "somewhere" / "home")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevChain]:
    path = tmp_path_factory.mktemp("chain") / "chain.db"
    with DevChain(path, create=True, clock_s=lambda: NOW // 1000) as opened:
        yield opened


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentAuthority:
    return DevelopmentAuthority(tmp_path_factory.mktemp("tsa"), clock=lambda: NOW)


def with_chain(chain: DevChain, authority: DevelopmentAuthority) -> Founding:
    return replace(
        WITHOUT_CHAIN,
        chain=chain,
        fund=lambda address: chain.fund(address, 10**20),
        authorities=[authority.authority],
    )


def events_of(home: Home) -> list[Any]:
    with closing(open_sqlite(home.database, read_only=True)) as store, store.read() as tx:
        (identity,) = tx.identities()
        return [parse_signed_event(event.signed_event) for event in tx.identity_events(identity)]


def test_what_a_home_is_made_of(home: Home, chain: DevChain, authority: DevelopmentAuthority) -> None:
    founded = found_home(home, with_chain(chain, authority), "secret", now_ms=NOW)
    assert {path.name for path in home.root.iterdir()} >= {
        "holdfast.toml",
        "vault.db",
        "keystore.hfk",
        "policy.toml",
        "headers.jsonl",
    }
    history = fold(events_of(home))
    assert [event.type for event in history.events] == ["inception", "add_device", "add_device", "bind_log"]
    assert (history.identity, history.label, history.logs) == (founded.identity, "bank", (founded.log_id,))
    assert {device.name: device.device_class for device in history.devices.values()} == DEVICES
    assert {name: history.devices[key].name for name, key in founded.devices.items()} == {n: n for n in DEVICES}
    with closing(open_sqlite(home.database)) as store, store.read() as tx:
        descriptor = parse_statement(next(iter(tx.log_leaves(0, 1))))
        assert list(tx.checkpoints()) == []
        assert tx.feeds() == []
    assert isinstance(descriptor, LogDescriptor)
    assert (descriptor.name, descriptor.chain) == ("bank.example", founded.binding)
    assert founded.binding is not None
    assert chain.code(founded.binding.contract) == load_contract().runtime_code
    assert home.settings.read_text() == "format = 1\n"


def test_every_key_is_another_and_the_keystore_is_for_its_owner_alone(
    home: Home, chain: DevChain, authority: DevelopmentAuthority
) -> None:
    founded = found_home(home, with_chain(chain, authority), "secret", now_ms=NOW)
    ring = open_keystore(home.keystore, "secret")
    secrets = [*ring.root_seeds, *ring.devices.values(), ring.log_seed, ring.anchor_key]
    assert len(set(secrets)) == len(secrets) == 5
    assert None not in secrets
    assert stat.S_IMODE(home.keystore.stat().st_mode) == 0o600
    assert {name: Ed25519Signer(seed).public_key for name, seed in ring.devices.items()} == founded.devices
    for file in home.root.iterdir():
        data = file.read_bytes()
        assert not any(secret in data for secret in secrets if secret is not None), file
        assert founded.phrase.encode() not in data


def test_only_the_phrase_gives_the_next_root(home: Home) -> None:
    founded = found_home(home, WITHOUT_CHAIN, "secret", now_ms=NOW)
    ring = open_keystore(home.keystore, "secret")
    assert ring.root_seeds == (root_seed(founded.phrase, 0),)
    following = Ed25519Signer(root_seed(founded.phrase, 1)).public_key
    assert fold(events_of(home)).next_digests == (key_commitment(following),)


def test_its_policy_trusts_itself_and_demands_everything(
    home: Home, chain: DevChain, authority: DevelopmentAuthority
) -> None:
    founded = found_home(home, with_chain(chain, authority), "secret", now_ms=NOW)
    policy = load_policy(home.policy)
    assert (policy.identities, policy.logs) == (frozenset({founded.identity}), frozenset({founded.log_id}))
    assert policy.authorities == (authority.authority,)
    assert (policy.k, policy.require) == (1, frozenset(Claim))
    assert set(policy.chains) == {DEVELOPMENT_CHAIN_ID}
    assert policy.chains[DEVELOPMENT_CHAIN_ID].code_hash == load_contract().code_hash
    assert len(policy.chains[DEVELOPMENT_CHAIN_ID].headers) == 0


def test_without_a_chain_it_demands_no_anchor(home: Home) -> None:
    founded = found_home(home, WITHOUT_CHAIN, "secret", now_ms=NOW)
    policy = load_policy(home.policy)
    assert (founded.binding, dict(policy.chains)) == (None, {})
    assert policy.require == frozenset(Claim) - {Claim.ANCHOR}
    assert open_keystore(home.keystore, "secret").anchor_key is None


def test_two_homes_have_nothing_in_common(tmp_path: Path, chain: DevChain, authority: DevelopmentAuthority) -> None:
    one, other = (
        found_home(Home(tmp_path / name), with_chain(chain, authority), "secret", now_ms=NOW) for name in "ab"
    )
    assert one.identity != other.identity
    assert one.log_id != other.log_id
    assert one.phrase != other.phrase
    assert one.binding is not None
    assert other.binding is not None
    assert one.binding.owner != other.binding.owner
    assert one.binding.contract != other.binding.contract


# --- whole or not at all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vault.db", "notes.txt", ".hidden"])
def test_something_that_is_there_is_never_overwritten(home: Home, name: str) -> None:
    home.root.mkdir(parents=True)
    (home.root / name).write_text("mine")
    with pytest.raises(RefusedError, match="never overwritten"):
        found_home(home, WITHOUT_CHAIN, "secret", now_ms=NOW)
    assert [(path.name, path.read_text()) for path in home.root.iterdir()] == [(name, "mine")]
    assert list(home.root.parent.iterdir()) == [home.root]


def test_an_empty_directory_is_filled(home: Home) -> None:
    home.root.mkdir(parents=True)
    found_home(home, WITHOUT_CHAIN, "secret", now_ms=NOW)
    assert home.database.exists()


@pytest.mark.parametrize(
    "step",
    ["create_keystore", "deploy_contract", "open_store", "add_events", "build_bind_log", "policy_text", "_move"],
)
def test_a_failure_at_any_step_leaves_nothing_behind(
    home: Home,
    chain: DevChain,
    authority: DevelopmentAuthority,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    def fail(*_arguments: Any, **_named: Any) -> Any:
        raise TransportError(f"{step} failed")

    with monkeypatch.context() as patched:
        patched.setattr(founding_module, step, fail)
        with pytest.raises(TransportError, match=step):
            found_home(home, with_chain(chain, authority), "secret", now_ms=NOW)
    assert not home.root.exists()
    assert list(home.root.parent.iterdir()) == []
    found_home(home, with_chain(chain, authority), "secret", now_ms=NOW)


def test_a_home_that_appears_meanwhile_is_left_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    move = founding_module._move

    def late(draft: Path, root: Path) -> None:
        root.mkdir(parents=True)
        (root / "vault.db").write_text("somebody else's")
        move(draft, root)

    monkeypatch.setattr(founding_module, "_move", late)
    with pytest.raises(StorageError):
        found_home(home, WITHOUT_CHAIN, "secret", now_ms=NOW)
    assert home.database.read_text() == "somebody else's"
    assert list(home.root.parent.iterdir()) == [home.root]


def test_a_place_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot create"):
        found_home(Home(tmp_path / "file" / "home"), WITHOUT_CHAIN, "secret", now_ms=NOW)


def test_an_empty_passphrase_is_refused_before_anything_is_sent(
    home: Home, chain: DevChain, authority: DevelopmentAuthority
) -> None:
    blocks = chain.head_number()
    with pytest.raises(RefusedError):
        found_home(home, with_chain(chain, authority), "", now_ms=NOW)
    assert chain.head_number() == blocks
    assert not home.root.exists()
