"""Make the evidence cases of this folder: found banks, export genuine evidence, spoil it in one way at a time.

    python tests/evidence/generate.py [DIRECTORY]

Keys, chains and times are new at each run and so is every byte; the names of the cases and what a verifier must find
stay. README.md beside this file says what is in a case.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from banks import LEDGER, TILL
from cases import (
    Case,
    Origin,
    bump_size,
    edit,
    first,
    flipped,
    other_spelling,
    replaced,
    revoked_since,
    size_of,
    to_bytes,
    with_line,
)
from story import Story, tell

from anchoring.evidence import encode_evidence
from anchoring.policy_file import load_policy
from anchoring.verifier import verify_evidence
from identity.errors import ConfigurationError
from identity.verdict import Status
from ledger.statement import AnchorStatement, FeedHead, IdentityHead, TimeStatement

HERE = Path(__file__).resolve().parent


def cases(story: Story) -> Iterator[Case]:
    yield from genuine_cases(story)
    yield from forged_cases(story)
    yield from malformed_cases(story)
    yield from open_cases(story)
    yield from configuration_cases(story)


def genuine_cases(story: Story) -> Iterator[Case]:
    yield story.genuine.case(
        "genuine",
        "Evidence as `holdfast evidence export` writes it: the entry, its head, the log, a token and a final anchor, "
        "and a second checkpoint that shows the identity's events to be the newest.",
    )
    yield story.later.case(
        "genuine_later", "A later entry of the same feed, under a later head, checkpoint, token and anchor."
    )
    yield story.two_clerks.case(
        "genuine_two_authorities", "Another bank; its policy demands that two authorities state the time."
    )
    yield story.revoked.case(
        "revoked_proven_before",
        "The device was stolen and revoked. The entry is among those that the revocation vouches for, and was "
        "timestamped before: it stands. A second timestamped checkpoint shows when the revocation was logged.",
    )
    yield Origin(story.bank.with_leaf(story.genuine.evidence, AnchorStatement, 1), story.genuine.trust).case(
        "anchor_leaf", "The log's own statement about the anchor is shown too; it agrees with the receipt."
    )
    yield story.renewed.case(
        "renewed_token",
        "Ten years on the authority's certificate has expired. The token and its revocation list stand in the log "
        "under a checkpoint that another authority timestamped before that.",
    )
    yield story.renewed.case(
        "renewed_before_revocation",
        "The same, and the policy says that the authority was found revoked after that renewal.",
        trust=revoked_since(story.renewed.trust, story.renewed.trust.at - timedelta(days=1)),
    )
    yield story.unchained.case(
        "no_chain",
        "The log was founded without a chain, and the policy does not ask for one.",
        "anchor INDETERMINATE NO_CHAIN",
    )
    document = story.genuine.document()
    first(document)["anchor"] = None
    yield Case(
        "anchor_not_demanded",
        "There is no anchor, and the policy does not ask for one.",
        to_bytes(document),
        story.genuine.trust.with_policy(', "anchor"]', "]"),
        ("anchor INDETERMINATE NOT_ANCHORED",),
    )


def forged_cases(story: Story) -> Iterator[Case]:
    genuine, bank = story.genuine, story.bank
    yield genuine.spoilt(
        "tampered_block_fail",
        "One digit of the amount is another.",
        lambda d: edit(d["feed"], "proof", replaced(b"700.00", b"900.00")),
        "integrity FAILED SIGNATURE",
    )
    yield genuine.spoilt(
        "tampered_note_fail",
        "The checkpoint says another size than the one that was signed.",
        lambda d: first(d).update(note=bump_size(first(d)["note"])),
        "log FAILED SIGNATURE",
    )
    yield genuine.spoilt(
        "tampered_token_fail",
        "A byte of the token's signature is another.",
        lambda d: edit(first(d)["timestamps"][0], "response", flipped(-1)),
        "time FAILED SIGNATURE",
    )
    yield genuine.spoilt(
        "tampered_header_fail",
        "A byte of the block's header is another, so it is not the header whose hash is pinned.",
        lambda d: edit(first(d)["anchor"], "header", flipped(-20)),
        "anchor FAILED HEADER_HASH",
    )
    yield genuine.spoilt(
        "tampered_storage_proof_fail",
        "The stored root is proven with a node that hashes to something else.",
        lambda d: edit(first(d)["anchor"]["storage_proofs"][1], -1, flipped(-1)),
        "anchor FAILED PROOF_HASH",
    )
    yield genuine.spoilt(
        "missing_descriptor_proof_fail",
        "The proof that the descriptor is leaf 0 is empty.",
        lambda d: d["log"]["descriptor"].update(proof=[]),
        "log FAILED MALFORMED",
    )
    yield genuine.spoilt(
        "missing_consistency_proof_fail",
        "Nothing shows that the second checkpoint extends the first.",
        lambda d: d["log"]["checkpoints"][1].update(consistency=[]),
        "log FAILED MALFORMED",
    )
    yield story.revoked.spoilt(
        "truncated_events_fail",
        "The events end before the one that revokes the device. The log knows more.",
        lambda d: d["identity"]["events"].pop(),
        "origin FAILED EVENTS_TRUNCATED",
    )
    yield genuine.spoilt(
        "log_not_bound_fail",
        "The events end before the one that names the log, which could be anybody's then.",
        lambda d: d["identity"]["events"].pop(),
        "log FAILED LOG_NOT_BOUND",
        "origin FAILED EVENTS_TRUNCATED",
    )
    yield genuine.spoilt(
        "other_feed_fail",
        "The entry is in the feed of another identity.",
        lambda d: d.update(feed=story.two_clerks.document()["feed"]),
        "origin FAILED OTHER_IDENTITY",
    )
    yield Origin(
        bank.rewritten(genuine.evidence, LEDGER, 3, [("12.30", "4.00", "0.99"), ("1700.00", "25.10")]), genuine.trust
    ).case(
        "rewritten_history_fail",
        "The key's owner wrote the feed anew, with another amount and the real key. The signature holds; the log has "
        "the head of the first history.",
        "log FAILED OTHER_HISTORY",
    )
    yield genuine.spoilt(
        "other_token_fail",
        "The token is genuine and of another checkpoint.",
        lambda d: first(d).update(timestamps=first(story.later.document())["timestamps"]),
        "time FAILED IMPRINT",
    )
    yield story.backdated.case(
        "backdated_token_fail",
        "A token states an hour before the block whose anchor the timestamped log already names.",
        "time FAILED TIME_CONTRADICTION",
    )
    yield genuine.case(
        "authority_revoked_before_fail",
        "The policy says that the authority was revoked before the token's time.",
        "time FAILED REVOKED",
        trust=revoked_since(genuine.trust, genuine.trust.at - timedelta(days=1)),
    )
    yield from surplus_cases(story)


def surplus_cases(story: Story) -> Iterator[Case]:
    genuine, bank = story.genuine, story.bank
    yield Origin(bank.with_leaf(genuine.evidence, FeedHead, 0, TILL), genuine.trust).case(
        "extra_leaf_fail", "A leaf of the log about another feed, which no finding needs.", "log FAILED UNREFERENCED"
    )
    sizes = [
        size_of(checkpoint.note) for checkpoint in (*genuine.evidence.checkpoints, *story.later.evidence.checkpoints)
    ]
    shown = [(sizes[1], [TimeStatement, IdentityHead]), (sizes[2], [])]
    yield Origin(bank.with_checkpoints(genuine.evidence, shown), genuine.trust).case(
        "extra_checkpoint_fail", "A third checkpoint, which no finding needs.", "log FAILED UNREFERENCED"
    )
    stamped, *rest = genuine.evidence.checkpoints
    twice = replace(stamped, timestamps=(*stamped.timestamps, bank.second_token(sizes[0])))
    yield Origin(replace(genuine.evidence, checkpoints=(twice, *rest)), genuine.trust).case(
        "second_token_fail",
        "Two tokens of one authority on one checkpoint; the log knows the first only.",
        "time FAILED UNREFERENCED",
        "time FAILED OTHER_TOKENS",
    )
    yield story.unchained.spoilt(
        "receipt_without_chain_fail",
        "A receipt, though the log names no chain: nothing in it could be checked.",
        lambda d: first(d).update(anchor=first(genuine.document())["anchor"]),
        "anchor FAILED UNREFERENCED",
    )
    yield genuine.malformed(
        "doubled_token_fail",
        "The token stands there twice.",
        lambda d: first(d)["timestamps"].append(first(d)["timestamps"][0]),
    )


def malformed_cases(story: Story) -> Iterator[Case]:
    genuine = story.genuine
    text = encode_evidence(genuine.evidence)
    manifest = text[text.index(b'"manifest": ') : text.index(b"\n", text.index(b'"manifest": '))]
    index = json.dumps(first(genuine.document())["leaves"][0]["index"]).encode()
    yield genuine.malformed("empty_file_fail", "Nothing at all.", data=b"")
    yield genuine.malformed("byte_order_mark_fail", "A byte order mark before the text.", data=b"\xef\xbb\xbf" + text)
    yield genuine.malformed("trailing_text_fail", "A second JSON text after the first.", data=text + b"{}\n")
    yield genuine.malformed(
        "duplicate_key_fail",
        "A member stands twice; readers differ on which one counts.",
        data=text.replace(manifest, manifest + b"\n  " + manifest),
    )
    yield genuine.malformed(
        "nan_fail", "NaN, which JSON does not know.", data=text.replace(b'"index": ' + index, b'"index": NaN', 1)
    )
    yield genuine.malformed(
        "fraction_fail",
        "An index with a fraction.",
        data=text.replace(b'"index": ' + index, b'"index": ' + index + b".0", 1),
    )
    yield genuine.malformed(
        "huge_number_fail", "A number of 5,000 digits.", data=text.replace(b": " + index, b": 1" + b"0" * 4_999, 1)
    )
    yield genuine.malformed(
        "depth_bomb_fail", "10,000 brackets, for readers that recurse.", data=b"[" * 10_000 + b"]" * 10_000
    )
    yield genuine.malformed(
        "lone_surrogate_fail",
        "An escape that is half a character.",
        data=text.replace(b'"note": "', b'"note": "\\ud800', 1),
    )
    yield genuine.malformed(
        "unknown_member_fail", "A member that nobody knows.", lambda d: d.update(comment="trust me")
    )
    yield genuine.malformed("missing_member_fail", "No descriptor.", lambda d: d["log"].pop("descriptor"))
    yield genuine.malformed(
        "unknown_version_fail",
        "A media type of a later version.",
        lambda d: d.update(mediaType=d["mediaType"].replace("version=1", "version=2")),
    )
    yield genuine.malformed(
        "non_canonical_base64_fail",
        "The same bytes in another spelling: an unused bit is set.",
        lambda d: first(d)["leaves"][0]["proof"].__setitem__(0, other_spelling(first(d)["leaves"][0]["proof"][0])),
    )
    yield genuine.malformed(
        "short_hash_fail",
        "A hash of 31 bytes in an inclusion proof.",
        lambda d: edit(first(d)["leaves"][0]["proof"], 0, lambda digest: digest[:-1]),
    )
    yield genuine.malformed(
        "too_many_checkpoints_fail",
        "17 checkpoints where 16 are read.",
        lambda d: d["log"].update(checkpoints=[deepcopy(first(d)) for _ in range(17)]),
    )
    yield genuine.malformed("no_checkpoint_fail", "No checkpoint.", lambda d: d["log"].update(checkpoints=[]))


def open_cases(story: Story) -> Iterator[Case]:
    genuine = story.genuine
    trust = genuine.trust
    yield genuine.spoilt(
        "no_anchor_open",
        "No receipt, and the policy demands an anchor.",
        lambda d: first(d).update(anchor=None),
        "anchor INDETERMINATE NOT_ANCHORED",
    )
    yield genuine.spoilt(
        "no_token_open",
        "No token: nothing says since when the entry existed, nor when the identity's events were the newest.",
        lambda d: first(d).update(timestamps=[]) or d["log"]["checkpoints"][1]["leaves"].pop(0),
        "time INDETERMINATE NO_TIMESTAMP",
        "origin INDETERMINATE NO_FRESH_IDENTITY",
    )
    yield genuine.spoilt(
        "head_not_logged_open",
        "The log's statement about the feed is left out.",
        lambda d: first(d)["leaves"].clear(),
        "log INDETERMINATE HEAD_NOT_LOGGED",
        "time INDETERMINATE HEAD_NOT_LOGGED",
    )
    yield genuine.spoilt(
        "later_checkpoint_only_open",
        "The second checkpoint, with the identity's newest head, is left out.",
        lambda d: d["log"]["checkpoints"].pop(),
        "origin INDETERMINATE NO_FRESH_IDENTITY",
    )
    yield genuine.case(
        "header_not_trusted_open",
        "The anchor's block is not among the pinned headers.",
        "anchor INDETERMINATE HEADER_NOT_TRUSTED",
        trust=replace(trust, headers=""),
    )
    yield genuine.case(
        "unknown_identity_open",
        "The policy names another identity.",
        "origin INDETERMINATE UNKNOWN_IDENTITY",
        trust=with_line(trust, "identities", f'identities = ["{"5a" * 32}"]'),
    )
    yield genuine.case(
        "unknown_log_open",
        "The policy names another log.",
        "log INDETERMINATE UNKNOWN_LOG",
        trust=with_line(trust, "logs", f'logs = ["{"5a" * 32}"]'),
    )
    yield genuine.case(
        "unknown_authority_open",
        "The policy names another subject for the authority.",
        "time INDETERMINATE UNKNOWN_AUTHORITY",
        "time INDETERMINATE NO_TIMESTAMP",
        "origin INDETERMINATE NO_FRESH_IDENTITY",
        trust=with_line(trust, "subject", 'subject = "CN=Example TSA"'),
    )
    yield genuine.case(
        "unknown_chain_open",
        "The policy trusts no chain.",
        "anchor INDETERMINATE UNKNOWN_CHAIN",
        trust=replace(trust, policy=trust.policy[: trust.policy.index("[[chain]]")]),
    )
    yield genuine.case(
        "stale_identity_head_open",
        "Judged 31 days later: the newest identity head is older than the policy's 30 days.",
        "origin INDETERMINATE NO_FRESH_IDENTITY",
        trust=replace(trust, at=trust.at + timedelta(days=31)),
    )
    yield genuine.case(
        "not_yet_proven_open",
        "Judged as of an hour before the token.",
        "time INDETERMINATE NOT_YET_PROVEN",
        trust=replace(trust, at=trust.at - timedelta(hours=1)),
    )
    yield story.repudiated.case(
        "repudiated_open",
        "The entry was timestamped before its device was revoked, and the revocation leaves it out. Revoking does not "
        "undo what was signed before; whether it was the owner who signed, the log cannot tell.",
        "origin INDETERMINATE REPUDIATED",
    )
    yield genuine.case(
        "expired_token_open",
        "Judged after the authority's certificate has expired; nothing proves the token older.",
        "time INDETERMINATE EXPIRED_NO_POE",
        "time INDETERMINATE NO_TIMESTAMP",
        "origin INDETERMINATE NO_FRESH_IDENTITY",
        trust=replace(trust, at=trust.at + timedelta(days=3_660)),
    )
    yield genuine.case(
        "authority_revoked_later_open",
        "The policy says that the authority was revoked after the token's time; nothing proves the token older.",
        "time INDETERMINATE REVOKED_NO_POE",
        trust=revoked_since(replace(trust, at=trust.at + timedelta(days=2)), trust.at + timedelta(days=1)),
    )
    yield story.renewed_late.case(
        "renewed_too_late_open",
        "The token was timestamped anew only after the authority's certificate had expired.",
        "time INDETERMINATE EXPIRED_NO_POE",
        "time INDETERMINATE NO_TIMESTAMP",
    )
    yield story.two_clerks.spoilt(
        "too_few_authorities_open",
        "One token where the policy demands two authorities.",
        lambda d: first(d)["timestamps"].pop(),
        "time INDETERMINATE NOT_ENOUGH_AUTHORITIES",
    )
    yield Origin(genuine.evidence, story.two_clerks.trust).case(
        "other_bank_policy_open",
        "Genuine evidence under a policy that trusts somebody else.",
        "origin INDETERMINATE UNKNOWN_IDENTITY",
        "log INDETERMINATE UNKNOWN_LOG",
        "anchor INDETERMINATE HEADER_NOT_TRUSTED",
        "time INDETERMINATE UNKNOWN_AUTHORITY",
        "time INDETERMINATE NO_TIMESTAMP",
        "origin INDETERMINATE NO_FRESH_IDENTITY",
    )


def configuration_cases(story: Story) -> Iterator[Case]:
    genuine = story.genuine
    trust = genuine.trust
    header = json.loads(trust.headers.splitlines()[0])
    forged = json.dumps(header | {"hash": "5a" * 32}) + "\n"
    nameless = json.dumps({key: value for key, value in header.items() if key != "source"}) + "\n"
    for name, why, changed in (
        ("unknown_policy_key_config", "A key that nobody knows.", trust.with_policy("k = 1", "k = 1\nlax = true")),
        ("unknown_policy_version_config", "A policy of a later version.", trust.with_policy("v = 1", "v = 2")),
        ("empty_require_config", "It demands nothing.", with_line(trust, "require", "require = []")),
        (
            "doubled_log_config",
            "It names a log twice.",
            with_line(trust, "logs", f'logs = ["{"5a" * 32}", "{"5a" * 32}"]'),
        ),
        ("zero_authorities_config", "It asks for no authority.", trust.with_policy("k = 1", "k = 0")),
        (
            "root_without_certificate_config",
            "The authority's root is base64 of something else than a certificate.",
            replace(trust, policy=re.sub(r"(BEGIN CERTIFICATE-----\n).{8}", r"\1AAAAAAAA", trust.policy)),
        ),
        ("not_toml_config", "It is not TOML.", replace(trust, policy="v = \n")),
        ("two_hashes_config", "One block has two pinned hashes.", replace(trust, headers=trust.headers + forged)),
        ("nameless_header_config", "Nobody vouches for a pinned header.", replace(trust, headers=nameless)),
    ):
        yield genuine.case(name, f"The policy cannot be used. {why}", trust=changed)


# Writing.


def write(case: Case, directory: Path) -> None:
    """Write the case's folder, after a verifier has found what it should."""
    folder = directory / case.name
    folder.mkdir()
    (folder / "evidence.json").write_bytes(case.evidence)
    (folder / "policy.toml").write_text(case.trust.policy)
    (folder / "headers.jsonl").write_text(case.trust.headers)
    (folder / "at.txt").write_text(case.trust.at.strftime("%Y-%m-%dT%H:%M:%SZ\n"))
    findings = [dict(zip(("claim", "status", "reason"), finding.split(), strict=True)) for finding in case.findings]
    expected = {"exit": case.exit_code, "findings": findings}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    (folder / "README.md").write_text(f"# {case.name}\n\n{case.why}\n")
    found = judge(folder, case)
    if found[0] != case.exit_code or not set(case.findings) <= set(found[1]):
        raise SystemExit(f"{case.name}: expected {case.exit_code} {case.findings}, found {found}")


def judge(folder: Path, case: Case) -> tuple[int, tuple[str, ...]]:
    try:
        policy = load_policy(folder / "policy.toml")
    except ConfigurationError:
        return 78, ()
    report = verify_evidence(case.evidence, policy, int(case.trust.at.timestamp() * 1000))
    findings = [f"{f.claim} {f.status} {f.reason}" for f in report.findings if f.status is not Status.PASSED]
    return report.exit_code, tuple(findings)


def main() -> None:
    """Replace every case in the directory."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    with tempfile.TemporaryDirectory() as name:
        made = list(cases(tell(Path(name))))
    for folder in directory.iterdir():
        if (folder / "expected.json").exists():
            shutil.rmtree(folder)
    for case in made:
        write(case, directory)
    print(f"{len(made)} cases in {directory}")


if __name__ == "__main__":
    main()
