"""Make the evidence cases of this folder: found homes, export genuine evidence, spoil it in one way at a time.

    python tests/evidence/generate.py [DIRECTORY]

Keys, chains and times are new at each run and so is every byte; the names of the cases and what a verifier must find
stay. README.md beside this file says what is in a case.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from anchoring.evidence import CheckpointEvidence, Evidence, LeafEvidence, encode_evidence, parse_evidence
from anchoring.exporter import export_evidence
from anchoring.headers import TrustedHeader, encode_header_line, parse_headers
from anchoring.policy_file import load_policy
from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from anchoring.timestamp import Authority
from anchoring.tsa.dev import DevelopmentAuthority, system_clock
from anchoring.tsa.source import AcquiredToken, EmbeddedSource
from anchoring.verifier import verify_evidence
from anchoring.witness import open_archive
from anchoring.worker import run_round
from api.bootstrap import Session, open_dev_chain, open_session
from api.founding import Founding, found_home
from api.home import Home
from api.settings import default_settings_text, load_settings
from api.vault import device_signer
from identity.encoding import decode, encode
from identity.errors import ConfigurationError
from identity.event import DeviceClass, RevocationReason
from identity.history import parse_signed_event
from identity.keys import Ed25519Signer
from identity.keystore import ONLY_FOR_TESTING, KeyRing, open_keystore
from ledger.checkpoint import imprint_message
from ledger.entry import Entry, Record, encode_entry, record_entry
from ledger.feed import FeedWriter, block_proof, create_feed
from ledger.identities import add_events
from ledger.log import consistency_proof, inclusion_proof
from ledger.statement import AnchorStatement, FeedHead, IdentityHead, Statement, TimeStatement, log_origin, parse_statement
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, ReadTransaction
from ledger.values import decimal_value
