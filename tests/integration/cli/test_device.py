"""``holdfast device``: who may write to the databases of a home, and how that ends."""

from __future__ import annotations

from typing import Any

import pytest

from api.home import Home
from api.pairing import Party
from api.peers import PairedNode, keep_peer, load_peers
from identity.textforms import parse_did_key

pytestmark = pytest.mark.integration


def devices(shell: Any, *options: str) -> dict[str, dict[str, Any]]:
    return {row["device"]: row for row in shell("device", "list", *options, "--json").json if "device" in row}


def node_of(shell: Any, row: dict[str, Any], url: str) -> None:
    party = Party(bytes.fromhex(row["identity"]), parse_did_key(row["key"]))
    keep_peer(Home(shell.path(shell.home)), PairedNode(url, party, row["label"], 1))


def test_everybody_who_may_write_is_listed_with_the_number_that_both_sides_show(joined: Any, served: Any) -> None:
    home, other = joined
    rows = home("device", "list", "--json").json
    own, theirs = rows
    assert (own["label"], own["safety_number"], own["standing"]) == ("young of a test", None, "writes")
    assert (theirs["label"], theirs["standing"], theirs["written"]) == ("other of a test", "writes", None)
    assert own["written"] is not None
    assert theirs["databases"] == "bank"
    mirrored = {row["label"]: row for row in other("device", "list", "--json").json}
    assert mirrored["young of a test"]["safety_number"] == theirs["safety_number"]
    with served(home) as url:
        other("db", "put", "bank", "accounts/2", '{"owner": "Eve"}', "--node", url)
    assert home("device", "list", "--json").json[1]["written"] is not None


def test_a_lost_device_of_this_identity_writes_no_more_in_any_database(joined: Any, served: Any) -> None:
    home, other = joined
    home("identity", "add-device", "phone")
    home("db", "put", "bank", "accounts/2", '{"owner": "Eve"}', "--device", "phone")
    (rows,) = [devices(home, "--device", "main")]
    assert {rows["phone"]["standing"], rows["main"]["standing"]} == {"writes"}
    ran = home("device", "revoke", "phone", "--reason", "lost", "--device", "main", "--json")
    assert ran.json[0]["kind"] == "revocation"
    assert "told: bank" in ran.err
    assert "phone" not in devices(home, "--device", "main")
    assert devices(home, "--all")["phone"]["standing"] == "revoked-device"
    with served(home) as url:
        other("sync", url)
    assert devices(other, "--all")["phone"]["standing"] == "revoked-device"
    again = home("device", "revoke", "phone", "--device", "main")
    assert "is revoked already" in again.err


def test_somebody_else_is_dismissed_and_their_node_forgotten(joined: Any, served: Any) -> None:
    home, other = joined
    home("db", "create", "loans")
    home("db", "admit", "loans", "other of a test")
    theirs = next(row for row in home("device", "list", "--json").json if row["label"] == "other of a test")
    node_of(home, theirs, "http://127.0.0.1:1")
    assert home("device", "list", "--json").json[1]["url"] == "http://127.0.0.1:1"
    (done,) = home("device", "revoke", theirs["key"], "--database", "bank", "--reason", "left", "--json").json
    assert (done["databases"], done["nodes_forgotten"]) == (["bank"], 0)
    assert load_peers(Home(home.path("young"))) != []
    (done,) = home("device", "revoke", "other of a test", "--json").json
    assert (done["databases"], done["nodes_forgotten"]) == (["loans"], 1)
    assert load_peers(Home(home.path("young"))) == []
    assert [row["label"] for row in home("device", "list", "--json").json] == ["young of a test"]
    with served(home) as url:
        other("sync", url, "bank", code=77)


def test_who_is_meant_has_to_be_clear(joined: Any) -> None:
    home, other = joined
    home("device", "revoke", "nobody", code=64)
    home("device", "revoke", "main", "--reason", "bored", code=64)
    home("device", "revoke", "main", "--database", "bank", code=64)
    assert "nothing was done in bank" in other("device", "revoke", "young of a test", code=77).err
