# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Anchor
@notice Keeps, for each sender and log, the newest size and root of an append-only log. It cannot go back: a size only
    grows, each anchor must name the size before it, and a closed log accepts nothing more. Nobody can write under
    another sender's address, there is no owner, no upgrade and no way to remove a record.
@dev Specified in docs/spec/anchor.md, storage slots included: proofs of them are read offline.
"""

event Anchored:
    sender: indexed(address)
    log_id: indexed(bytes32)
    prev_size: uint64
    size: uint64
    root: bytes32

event Closed:
    sender: indexed(address)
    log_id: indexed(bytes32)
    size: uint64
    successor: bytes32

struct Record:
    meta: uint256       # size | time << 64 | block << 128 | closed << 255
    root: bytes32
    successor: bytes32

records: public(HashMap[address, HashMap[bytes32, Record]])


@external
def anchor(log_id: bytes32, prev_size: uint64, size: uint64, root: bytes32):
    """
    @notice Record that the log has this root at this size.
    @param prev_size The size recorded now; anything else means that the caller has not seen the newest anchor.
    """
    meta: uint256 = self.records[msg.sender][log_id].meta
    assert meta >> 255 == 0, "closed"
    assert meta & (2**64 - 1) == convert(prev_size, uint256), "stale"
    assert size > prev_size, "no growth"
    assert root != empty(bytes32), "empty root"
    self.records[msg.sender][log_id].meta = convert(size, uint256) | (block.timestamp << 64) | (block.number << 128)
    self.records[msg.sender][log_id].root = root
    log Anchored(sender=msg.sender, log_id=log_id, prev_size=prev_size, size=size, root=root)


@external
def close(log_id: bytes32, successor: bytes32):
    """
    @notice Accept nothing more for this log. A log that was never anchored can be closed too, so that nobody who
        later holds the key can begin it.
    @param successor The log that goes on instead, or zero for none.
    """
    meta: uint256 = self.records[msg.sender][log_id].meta
    assert meta >> 255 == 0, "closed"
    self.records[msg.sender][log_id].meta = meta | (1 << 255)
    self.records[msg.sender][log_id].successor = successor
    log Closed(sender=msg.sender, log_id=log_id, size=convert(meta & (2**64 - 1), uint64), successor=successor)
