"""What travels over HTTP, as Pydantic models: bodies that are read, and the shapes of answers for the OpenAPI document.

Values of documents are JSON as docs/reference/json.md says, so here they are ``Any``. Every answer has ``v`` and
``kind``, as the command line's have.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AnchorList",
    "AnchorModel",
    "AuditModel",
    "BlockList",
    "CellChangeModel",
    "ChangeEventModel",
    "ChangeModel",
    "ChangePageModel",
    "CheckpointList",
    "CheckpointModel",
    "CollectionList",
    "CollectionModel",
    "CommitModel",
    "ConflictList",
    "ConflictModel",
    "ContestModel",
    "DatabaseList",
    "DatabaseModel",
    "DecisionModel",
    "DeleteChange",
    "DeviceList",
    "DeviceModel",
    "DifferenceList",
    "DifferenceModel",
    "DocumentBody",
    "DocumentModel",
    "DocumentName",
    "ElementsChange",
    "EraseBody",
    "ErasureModel",
    "EvidenceBody",
    "FeedFacts",
    "FeedList",
    "FeedModel",
    "GrantBody",
    "GrantFacts",
    "GrantList",
    "GrantModel",
    "HeadList",
    "HeadModel",
    "HealthModel",
    "HistoryEntryModel",
    "HistoryList",
    "HoldBody",
    "HoldFacts",
    "HoldList",
    "HoldModel",
    "IdentityEventList",
    "IdentityEventModel",
    "IdentityList",
    "IdentityModel",
    "ImportLine",
    "IncrementChange",
    "IntentFacts",
    "IntentModel",
    "KeptLogModel",
    "ListedCheckpoint",
    "ListedLog",
    "ListedModel",
    "LogList",
    "MemberList",
    "MemberModel",
    "NewBackup",
    "NewCheckpoint",
    "NewDatabase",
    "OpModel",
    "OpenConflictModel",
    "PageModel",
    "PairingAnswer",
    "PairingClaim",
    "PairingDecision",
    "PairingModel",
    "PairingOffer",
    "PairingStateModel",
    "PatchBody",
    "PatchChange",
    "ProblemDocument",
    "PurgeBody",
    "PurgedModel",
    "PutChange",
    "QueryBody",
    "ReportModel",
    "RequireChange",
    "ResolveBody",
    "RestorationModel",
    "RestoreBody",
    "RevocationBody",
    "RevocationModel",
    "RollbackModel",
    "SchemaBody",
    "SchemaModel",
    "ScopeModel",
    "SkippedModel",
    "StateCheckModel",
    "StateRootFacts",
    "StateRootList",
    "StateRootModel",
    "TransactionBody",
    "TransactionModel",
    "TrashList",
    "TrashedModel",
    "UndeleteChange",
    "UndoBody",
    "UndoneModel",
    "VerifyRoot",
    "VisitList",
]

Fields = dict[str, Any]
Name = Annotated[str, Field(min_length=1, max_length=2048)]
NoteText = Annotated[str, Field(max_length=4096)]


class _Body(BaseModel):
    """Something that is read: what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Shape(BaseModel):
    """Something that is answered. Fields may be added."""

    v: Literal[1] = 1
    kind: str


class ProblemDocument(BaseModel):
    """RFC 9457. There are more members by the type: ``etag``, ``fields`` and ``siblings`` of a stale version."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:holdfast:problem:stale-version"])
    title: str
    status: int
    detail: str


class HealthModel(_Shape):
    """How the service stands."""

    state: str


# --- databases ------------------------------------------------------------------------------------------------------


class NewDatabase(_Body):
    """A database that is to be founded."""

    name: Annotated[str, Field(min_length=1, max_length=200)]


class DatabaseModel(_Shape):
    """A database."""

    name: str
    id: str
    created: str | None = None


class CollectionModel(_Shape):
    """A collection, and how many documents are in it."""

    collection: str
    documents: int
    deleted: int
    conflicts: int
    schema_: bool = Field(alias="schema")


class DatabaseList(_Shape):
    """Databases, oldest first."""

    databases: list[DatabaseModel]


class CollectionList(_Shape):
    """Collections by name."""

    collections: list[CollectionModel]


# --- documents ------------------------------------------------------------------------------------------------------


class ConflictModel(BaseModel):
    """Something about a document that needs a decision."""

    kind: str
    path: str


class DocumentModel(_Shape):
    """A document."""

    document: str
    etag: str | None
    fields: Fields
    conflicts: list[ConflictModel]
    sealed: list[str]
    siblings: dict[str, list[Any]] | None = None
    as_of: dict[str, Any] | None = None


class ListedModel(BaseModel):
    """A document in a page."""

    key: str
    etag: str
    conflicts: int
    fields: Fields


class PageModel(_Shape):
    """Some documents. ``cursor`` is where the next page begins; null: there is none."""

    documents: list[ListedModel]
    cursor: str | None
    as_of: dict[str, Any] | None = None


class DocumentBody(BaseModel):
    """The fields of a document and their values."""

    model_config = ConfigDict(extra="allow")


class PatchBody(_Body):
    """Fields that get other values, and fields that go."""

    fields: Fields = {}
    unset: list[Name] = []


class CommitModel(_Shape):
    """What was written. ``written`` false: all was so already. ``pending``: it was proposed, and its home decides."""

    document: str | None = None
    etag: str | None = None
    written: bool
    pending: bool = False
    entry: str | None
    feed: str | None
    index: int | None
    place: int | None


class DecisionModel(_Shape):
    """What became of a proposal: pending, accepted, refused or lapsed; for a refusal why. ``entry`` decides it."""

    proposal: str
    verdict: str
    entry: str | None
    why: str | None
    detail: str
    rivals: list[str]


# --- transactions ---------------------------------------------------------------------------------------------------


class _Change(_Body):
    collection: Name
    key: Name


class PutChange(_Change):
    """Let the document have these fields and no others."""

    do: Literal["put"]
    fields: Fields
    if_match: str | None = None
    if_absent: bool = False


class PatchChange(_Change):
    """Let it have these, and leave its others."""

    do: Literal["patch"]
    fields: Fields = {}
    unset: list[Name] = []
    if_match: str | None = None


class IncrementChange(_Change):
    """Add to a counter."""

    do: Literal["increment"]
    field: Name
    by: Any = 1


class ElementsChange(_Change):
    """Put elements into a set, or take them out of it."""

    do: Literal["add", "remove"]
    field: Name
    elements: list[Any] = Field(min_length=1)


class DeleteChange(_Change):
    """Hide the document."""

    do: Literal["delete"]
    if_match: str | None = None


class UndeleteChange(_Change):
    """Show it again."""

    do: Literal["undelete"]


class RequireChange(_Change):
    """Let all of it depend on the document's version; null: on its absence."""

    do: Literal["require"]
    etag: str | None


ChangeModel = Annotated[
    PutChange | PatchChange | IncrementChange | ElementsChange | DeleteChange | UndeleteChange | RequireChange,
    Field(discriminator="do"),
]


class TransactionBody(_Body):
    """Changes that are made together, or none of them, in this order."""

    changes: list[ChangeModel] = Field(min_length=1)
    note: NoteText = ""
    context: str | None = None


class TransactionModel(CommitModel):
    """What a transaction wrote. ``etags``: the version of each document after it; null where nothing is left."""

    etags: dict[str, str | None]


# --- pairing --------------------------------------------------------------------------------------------------------


class PairingOffer(_Body):
    """Membership of databases, by their names or ids, in a role: admin, writer or reader."""

    databases: Annotated[list[Name], Field(min_length=1, max_length=64)]
    role: Literal["admin", "writer", "reader"] = "writer"


class PairingClaim(_Body):
    """The code of an offer, and all events of the guest's identity, each in base64."""

    code: Annotated[str, Field(max_length=64)]
    events: Annotated[list[str], Field(min_length=1, max_length=4096)]


class PairingDecision(_Body):
    """Whether whoever has claimed the offer is who was meant."""

    accept: bool


class PairingModel(_Shape):
    """An offer, for the owner of the node. ``safety_number`` and what stands beside it: of whoever has claimed it."""

    id: str
    code: str
    state: str
    expires: str
    identity: str | None
    label: str | None
    device: str | None
    safety_number: str | None


class PairingAnswer(_Shape):
    """What the node says of itself to whoever has claimed its offer."""

    id: str
    state: str
    role: str
    databases: list[dict[str, str]]
    identity: str
    device: str
    events: list[str]
    signature: str


class PairingStateModel(_Shape):
    """How far a pairing has come, for the guest."""

    id: str
    state: str


class ImportLine(_Body):
    """One line of an import."""

    key: Name
    fields: Fields


# --- queries --------------------------------------------------------------------------------------------------------


class QueryBody(_Body):
    """A query. ``where`` is a filter as text, or as JSON (docs/spec/query.md)."""

    where: str | list[Any] | dict[str, Any] | None = None
    order: str = "$key"
    select: list[str] = Field(default=[], max_length=64)
    descending: bool = False
    scan: bool = False
    limit: Annotated[int, Field(ge=1, le=10_000)] = 100
    after: str | None = None
    as_of: Annotated[str | None, Field(max_length=64)] = None
    axis: str = "claimed"


# --- history --------------------------------------------------------------------------------------------------------


class CellChangeModel(BaseModel):
    """What one cell showed before and after."""

    path: str
    kind: str
    before: list[Any]
    after: list[Any]


class OpModel(BaseModel):
    """One operation, as it was written."""

    verb: str
    path: str
    value: Any


class IntentFacts(BaseModel):
    """Who wanted it, when that is not whose feed it is in: the entry holds what ``key`` has signed."""

    key: str
    identity: str | None
    sequence: int


class HistoryEntryModel(BaseModel):
    """What one transaction did to a document."""

    entry: str
    place: int
    claimed: str | None
    taken: str | None
    device: str
    identity: str
    note: str
    undoes: list[str]
    masked: str | None
    intent: IntentFacts | None
    ops: list[OpModel]
    changes: list[CellChangeModel]


class HistoryList(_Shape):
    """Entries, oldest first. ``cursor``: where the next page begins."""

    entries: list[HistoryEntryModel]
    cursor: int | None


class DifferenceModel(BaseModel):
    """What one document shows at two points. ``before`` and ``after`` are its versions."""

    document: str
    before: str | None
    after: str | None
    changes: list[CellChangeModel]


class DifferenceList(_Shape):
    """Documents that differ."""

    documents: list[DifferenceModel]
    more: bool


class UndoBody(_Body):
    """Transactions, each as FEED/INDEX/LEAF HASH."""

    entries: list[str] = Field(min_length=1, max_length=1000)
    note: NoteText = ""


class SkippedModel(BaseModel):
    """What was left as it is, and why."""

    document: str
    path: str
    reason: str
    by: str | None


class UndoneModel(_Shape):
    """What was taken back."""

    entries: list[str]
    changed: list[str]
    skipped: list[SkippedModel]
    written: bool
    entry: str | None
    feed: str | None
    index: int | None
    place: int | None


class RestoreBody(_Body):
    """What is to be as it was, and when that was."""

    as_of: Annotated[str, Field(min_length=1, max_length=64)]
    axis: str = "claimed"
    collection: Name | None = None
    key: Name | None = None
    several: bool = False
    """In several transactions, each of whole documents, if one is too small."""
    note: NoteText = ""


class RestorationModel(_Shape):
    """What was restored."""

    as_of: dict[str, Any] | None
    entries: list[str]
    left: list[str]


class ContestModel(BaseModel):
    """A write whose condition another one broke."""

    guarded: str
    other: str


class OpenConflictModel(BaseModel):
    """A document that waits for a decision."""

    document: str
    etag: str
    conflicts: list[ConflictModel]
    siblings: dict[str, list[Any]]
    contests: list[ContestModel]


class ConflictList(_Shape):
    """Documents that wait for a decision."""

    documents: list[OpenConflictModel]
    more: bool


class ResolveBody(_Body):
    """A decision: fields with their values, and fields that keep all of theirs as a list."""

    choose: Fields = {}
    keep_all: list[Name] = []
    note: NoteText = ""


# --- what goes for good ---------------------------------------------------------------------------------------------


class SchemaBody(BaseModel):
    """A schema, as docs/spec/schema.md says."""

    model_config = ConfigDict(extra="allow")


class _Written(_Shape):
    """An answer that says where an entry was written."""

    written: bool
    entry: str | None
    feed: str | None
    index: int | None
    place: int | None


class SchemaModel(_Written):
    """The schema that is in force. ``unfit``: how many documents do not fit a new one, up to a bound."""

    collection: str
    schema_: dict[str, Any] | None = Field(alias="schema")
    unfit: int | None


class HoldBody(_Body):
    """What a hold covers, and why."""

    collection: Name
    key: Name | None = None
    reason: NoteText = ""


class HoldFacts(BaseModel):
    """A legal hold."""

    hold: str
    covers: str
    reason: str


class HoldList(_Shape):
    """The holds that are in force."""

    holds: list[HoldFacts]


class HoldModel(_Written):
    """A hold that was placed or released."""

    hold: str
    covers: str
    reason: str
    released: bool


class TrashedModel(BaseModel):
    """A deleted document. ``kept``: why it cannot be purged yet."""

    document: str
    deleted: str | None
    kept: str | None


class TrashList(_Shape):
    """Deleted documents."""

    documents: list[TrashedModel]
    more: bool


class DocumentName(_Body):
    """A document."""

    collection: Name
    key: Name


class PurgeBody(_Body):
    """Which documents are to be ended for good. ``confirm``: the database's name."""

    documents: list[DocumentName] = Field(min_length=1, max_length=1000)
    confirm: str


class PurgedModel(_Written):
    """What was purged."""

    documents: list[str]


class EraseBody(_Body):
    """Why sealed values are to be erased. ``confirm``: COLLECTION/KEY."""

    confirm: str
    reason: NoteText = ""


class ErasureModel(_Written):
    """How many keys were destroyed, and how many copies of them could not be reached."""

    document: str
    keys: int
    unreachable: int


# --- visits ---------------------------------------------------------------------------------------------------------


class IntentModel(_Written):
    """What an intent came to. ``etags``: the versions of its documents by now; ``repeated``: it was written before."""

    intent: str
    repeated: bool
    etags: dict[str, str | None]


class ScopeModel(_Body):
    """Documents of a collection: those whose keys begin so."""

    collection: Name
    prefix: Annotated[str, Field(max_length=512)] = ""


class GrantBody(_Body):
    """What an app is to be allowed. ``holder`` is its key, did:key:z6Mk...; without ``scopes`` it is every collection,
    without ``fields`` every field. ``if_match``: changes name the version that they are meant for."""

    database: Name
    holder: Annotated[str, Field(max_length=100)]
    operations: Annotated[list[str], Field(min_length=1, max_length=6)]
    seconds: Annotated[int, Field(ge=1, le=86_400)] = 3600
    scopes: Annotated[list[ScopeModel], Field(min_length=1, max_length=32)] | None = None
    fields: Annotated[list[Name], Field(min_length=1, max_length=64)] | None = None
    if_match: bool = False
    rate: Annotated[int, Field(ge=1, le=6000)] = 60
    note: Annotated[str, Field(max_length=200)] = ""


class GrantFacts(_Shape):
    """A token that was given out. ``id`` ends it, and all that was made of it."""

    time: str | None
    token: str
    id: str
    device: str
    holder: str
    database: str
    operations: list[str]
    until: str | None
    scopes: list[ScopeModel] | None
    fields: list[str] | None
    if_match: bool
    rate: int
    note: str
    revoked: bool


class GrantModel(GrantFacts):
    """The same with the token itself, in base64url: it is shown this once."""

    capability: str


class GrantList(_Shape):
    """Tokens that were given out, oldest first. ``more``: go on behind ``cursor``."""

    grants: list[GrantFacts]
    cursor: str
    more: bool


class VisitList(_Shape):
    """Records of the visit feeds (docs/spec/visit.md), oldest first. ``more``: go on behind ``cursor``."""

    visits: list[dict[str, Any]]
    cursor: str
    more: bool


class RevocationBody(_Body):
    """What is to be ended: ``id`` is the revocation id of a block of a token, 128 hexadecimal digits."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{128}$")]
    why: NoteText = ""


class RevocationModel(_Shape):
    """What was ended."""

    id: str
    by: str
    why: str


# --- the change feed ------------------------------------------------------------------------------------------------


class ChangeEventModel(_Shape):
    """What one transaction made of one document (docs/spec/change-feed.md)."""

    cursor: str
    change: str
    collection: str
    key: str
    old: Fields | None
    new: Fields | None
    etag: str | None
    conflicts: list[ConflictModel]
    contests: list[ContestModel]
    database: str
    transaction: str
    note: str
    device: str
    identity: str
    claimed: str
    made_anew: bool


class ChangePageModel(_Shape):
    """Events, and where the next begin. ``more``: there may be some at once."""

    events: list[ChangeEventModel]
    cursor: str
    more: bool


# --- the ledger -----------------------------------------------------------------------------------------------------


class HeadModel(BaseModel):
    """A signed head."""

    length: int
    tree: str
    signature: str


class FeedFacts(_Shape):
    """A feed."""

    name: str
    key: str
    length: int
    bytes: int
    local: bool
    retired: bool
    device: str | None
    identity: str | None


class FeedModel(FeedFacts):
    """A feed with its newest head; null for an empty one. ``manifest`` is base64."""

    manifest: str
    head: HeadModel | None


class FeedList(_Shape):
    """Feeds, in the order in which they came."""

    feeds: list[FeedFacts]


class HeadList(_Shape):
    """Signed heads, shortest first."""

    heads: list[HeadModel]
    more: bool


class BlockList(_Shape):
    """Blocks in base64, from ``start`` on; ``length`` is the feed's."""

    feed: str
    start: int
    blocks: list[str]
    length: int


class ListedCheckpoint(BaseModel):
    """A checkpoint with how many tokens it has and how far its anchor has come."""

    size: int
    root: str
    tokens: int
    anchor: str


class CheckpointList(_Shape):
    """Checkpoints, smallest first."""

    checkpoints: list[ListedCheckpoint]
    more: bool


class NewCheckpoint(_Body):
    """A checkpoint that is to be made. ``restate``: also when nothing has changed."""

    restate: bool = False


class CheckpointModel(_Shape):
    """A checkpoint, with its signed note."""

    size: int
    root: str
    note: str


class AnchorModel(BaseModel):
    """An anchor."""

    size: int
    root: str
    anchor: str
    block: int | None
    block_hash: str | None
    since: str | None
    reason: str | None


class AnchorList(_Shape):
    """Anchors by size."""

    anchors: list[AnchorModel]


class RollbackModel(_Shape):
    """Whether the chain agrees with the node's log (docs/spec/rollback.md)."""

    state: str
    writable: bool
    detail: str


class ListedLog(BaseModel):
    """A checkpoint log that a node has: its own, or one that it keeps for another. ``size`` is that of a checkpoint."""

    log: str
    identity: str
    size: int
    own: bool


class LogList(_Shape):
    """The checkpoint logs that a node has."""

    logs: list[ListedLog]


class KeptLogModel(_Shape):
    """What a node keeps of a log now."""

    log: str
    identity: str
    size: int
    own: bool


class NewBackup(_Body):
    """A backup that is to be made. ``keystore``: with the keystore in it, encrypted as it is."""

    keystore: bool = False


class AuditModel(_Shape):
    """What an audit found. ``doubts`` are what nothing here can tell."""

    verdict: Literal["PASSED", "FAILED"]
    faults: list[str]
    doubts: list[str]


# --- evidence -------------------------------------------------------------------------------------------------------


class EvidenceBody(BaseModel):
    """An evidence file (docs/spec/evidence.md)."""

    model_config = ConfigDict(extra="allow")


class ReportModel(_Shape):
    """A verification report. ``at`` is in milliseconds since 1970."""

    overall: str
    at: int
    required: list[str]
    claims: dict[str, str]
    findings: list[dict[str, Any]]
    facts: dict[str, Any]
    development: list[str]


class StateRootFacts(BaseModel):
    """A root that an entry states."""

    entry: str
    root: str
    rules: int
    claimed: str | None


class StateRootList(_Shape):
    """Roots in the order in which they came here."""

    roots: list[StateRootFacts]


class StateRootModel(_Written):
    """A root that was stated."""

    root: str | None


class VerifyRoot(_Body):
    """The entry that states a root, as FEED/INDEX/LEAF HASH."""

    entry: str


class StateCheckModel(_Shape):
    """A root that follows from the feeds, and how many documents it stands for."""

    verdict: str
    entry: str
    root: str
    documents: int


class MemberModel(BaseModel):
    """A membership, present or past."""

    identity: str
    label: str
    role: str
    admitted_by: str | None
    dismissed: bool
    feeds: int


class MemberList(_Shape):
    """Members by how they came in."""

    members: list[MemberModel]


# --- identities -----------------------------------------------------------------------------------------------------


class IdentityModel(_Shape):
    """What the events of an identity amount to."""

    identity: str
    label: str
    events: int
    head: str
    root_generation: int
    root_keys: int
    root_threshold: int
    devices: int
    logs: list[str]
    closed: bool
    duplicitous: bool


class IdentityList(_Shape):
    """Identities, the node's own first."""

    identities: list[IdentityModel]


class IdentityEventModel(BaseModel):
    """An event, and in base64 the bytes that were signed with their signatures."""

    seq: int
    type: str
    claimed: str | None
    digest: str
    signed_event: str


class IdentityEventList(_Shape):
    """Events, oldest first."""

    events: list[IdentityEventModel]


class DeviceModel(BaseModel):
    """A device."""

    name: str
    key: str
    class_: str = Field(alias="class")
    added: int
    revoked: int | None
    reason: str | None


class DeviceList(_Shape):
    """Devices."""

    devices: list[DeviceModel]
