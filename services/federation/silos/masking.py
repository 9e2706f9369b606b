"""Secure aggregation between the coordinator and one silo: contents of tasks, checks and storage of answers."""

from __future__ import annotations

from typing import Any

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused, NotFound
from eoforge.federated.privacy.secagg import KEY_BYTES, SHARE_BYTES, agree, new_key
from eoforge.federated.run.rounds.sealing import survivors_needed
from eoforge.federated.store.messages import from_bytes
from eoforge.federated.store.run_files import RunFiles

TASKS = {"keys": pb.TASK_KIND_KEYS, "shares": pb.TASK_KIND_SHARES, "unmask": pb.TASK_KIND_UNMASK}
MAX_CIPHERTEXT = 1024


def event(silo: str, kind: str, request: pb.AnswerRequest) -> dict[str, Any]:
    """Event of an answer."""
    if kind == "keys":
        return {"keys_advertised": pb.KeysAdvertised(silo=silo, keys=request.keys)}
    if kind == "shares":
        return {"shares_deposited": pb.SharesDeposited(silo=silo)}
    return {"unmasked": pb.Unmasked(silo=silo)}


def check(round_: pb.Round, silo: str, kind: str, request: pb.AnswerRequest) -> None:
    """Refuses an answer that could not be used.

    Raises:
        DataRefused: Lengths, senders or recipients are not the expected ones, or a key is unusable.
    """
    if kind == "keys":
        if len(request.keys.share_key) != KEY_BYTES or len(request.keys.mask_key) != KEY_BYTES:
            raise DataRefused(f"keys have {KEY_BYTES} bytes each")
        for key in (request.keys.share_key, request.keys.mask_key):
            agree(new_key(), key, "check")  # a key that nobody can agree with would fail the round later
    elif kind == "shares":
        shares = request.shares.shares
        if sorted(s.recipient for s in shares) != sorted(round_.mask_keys) or any(s.sender != silo for s in shares):
            raise DataRefused("expected one share of the calling silo for every silo that advertised keys")
        if any(len(s.data) > MAX_CIPHERTEXT for s in shares):
            raise DataRefused(f"an encrypted share may have {MAX_CIPHERTEXT} bytes")
    else:
        revealed = request.unmask.shares
        if sorted(s.owner for s in revealed) != sorted(round_.selected):
            raise DataRefused("expected one share of every silo that took part, of its seed or of its key")
        if any(len(s.share) != SHARE_BYTES for s in revealed):
            raise DataRefused(f"a revealed share has {SHARE_BYTES} bytes")


def store(round_: pb.Round, silo: str, kind: str, request: pb.AnswerRequest, files: RunFiles) -> None:
    """Stores the part of an answer that its event does not hold; the first answer of a silo stays.

    Raises:
        DataRefused: The silo has given another answer.
    """
    if kind == "keys":
        return  # the event holds them
    if not files.put_once(round_.number, f"_{kind}/{silo}", _content(kind, request)):
        raise DataRefused(f"{silo} has answered with other {kind} in this round already; the first answer stays")


def is_stored(round_: pb.Round, silo: str, kind: str, request: pb.AnswerRequest, files: RunFiles) -> bool:
    """Whether an answer equals the stored one; also if none is stored any more."""
    if kind == "keys":
        return silo not in round_.mask_keys or round_.mask_keys[silo] == request.keys
    try:
        return files.get(round_.number, f"_{kind}/{silo}") == _content(kind, request)
    except NotFound:
        return True


def _content(kind: str, request: pb.AnswerRequest) -> bytes:
    return bytes(getattr(request, kind).SerializeToString(deterministic=True))


def fill(task: pb.Task, run: pb.Run, silo: str, files: RunFiles) -> None:
    """Adds keys, shares and the threshold to a task."""
    if task.kind == pb.TASK_KIND_KEYS:
        return  # no keys are agreed yet; and reading a missing key of a protobuf map would insert it
    round_ = run.round
    task.threshold = survivors_needed(run)
    for name in round_.mask_keys if task.kind in (pb.TASK_KIND_SHARES, pb.TASK_KIND_UNMASK) else round_.selected:
        task.mask_keys[name].CopyFrom(round_.mask_keys[name])
    if task.kind == pb.TASK_KIND_UNMASK:
        task.survivors.extend(round_.sealed)
        for sender in round_.selected:
            data = files.get(round_.number, f"_shares/{sender}")
            stored = from_bytes(data, pb.SharesAnswer, f"the shares of {sender}")
            task.shares.extend(share for share in stored.shares if share.recipient == silo)
