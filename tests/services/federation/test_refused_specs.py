"""Specs that cannot be stored: refused as the caller's mistake, with nothing left behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.base import RemoteError
from eoforge.client.federation import FederationClient
from eoforge.client.silo import SiloClient
from eoforge.errors import UsageError
from eoforge.federated.run.numbers import check_storable
from tests.federated.quadratic import spec, write_model
from tests.services.federation.helpers import coordinator_of
from tests.services.support import Running, details

HUGE = {"seconds": 1 << 62}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def broken(model: pb.Manifest, case: str) -> pb.RunSpec:
    made = spec(model)
    if case.startswith("config"):
        made.config.update({"depth": {"nan": math.nan, "inf": math.inf, "deep": nested(28)}[case.split()[1]]})
    elif case == "options":
        made.strategy_options.update({"weighting": math.nan})
    elif case == "bundle":
        made.bundle_config.update({"list": [1, [math.inf]]})
    elif case == "discount":
        made.policy.late_discount = math.nan
    elif case == "target":
        made.policy.target_value = math.inf
    elif case == "choice":
        made.policy.selection = 99  # type: ignore[assignment]
    else:
        made.policy.deadline.seconds = HUGE["seconds"]
    return made


@pytest.mark.parametrize(
    "case",
    ["config nan", "config inf", "config deep", "options", "bundle", "discount", "target", "choice", "deadline"],
)
def test_a_spec_that_cannot_be_stored_is_the_callers_mistake_and_leaves_nothing(
    served: Running, client: FederationClient, tmp_path: Path, case: str
) -> None:
    model = client.put_model(write_model(tmp_path / "model.safetensors"))
    store = coordinator_of(served).store
    before = set(store.list())
    with pytest.raises(RemoteError) as caught:
        client.create_run(broken(model, case), "broken")
    assert caught.value.code == "INVALID_ARGUMENT", caught.value
    assert "request id" not in str(caught.value), "the caller is told what is wrong"
    assert {key for key in store.list() if not key.startswith("audit/")} <= before
    with pytest.raises(RemoteError) as caught:
        client.estimate(pb.EstimateRunRequest(spec=broken(model, case), silos=1))
    assert caught.value.code == "INVALID_ARGUMENT", caught.value


def test_numbers_of_other_calls_are_checked_too(served: Running, client: FederationClient, tmp_path: Path) -> None:
    model = client.put_model(write_model(tmp_path / "model.safetensors"))
    for numbers in ({"bandwidth": math.nan}, {"bandwidth": -1.0}, {"train_seconds": math.inf}):
        with pytest.raises(RemoteError) as caught:
            client.estimate(pb.EstimateRunRequest(spec=spec(model), silos=1, **numbers))
        assert caught.value.remote_reason == "INVALID_ARGUMENT"
    silo = SiloClient(served.target, silo_id="patient", attempts=1)
    silo.register(samples=1)
    with pytest.raises(grpc.RpcError) as failed:
        next(silo._stream(silo.stub.WatchTasks, pb.WatchTasksRequest(until_end_of="x", appears_within=HUGE)))
    assert details(failed.value)["reason"] == "INVALID_ARGUMENT"


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(
    VALUES,
    st.builds(pb.RoundPolicy, deadline=st.builds(lambda s: {"seconds": s}, st.integers(-(1 << 63), (1 << 63) - 1))),
)
def test_what_is_accepted_can_be_stored_and_read_again(value: Any, policy: pb.RoundPolicy) -> None:
    made = pb.RunSpec(policy=policy)
    made.config.update({"value": value})
    try:
        check_storable(made, "spec")
    except UsageError:
        return
    read = json_format.Parse(json_format.MessageToJson(made), pb.RunSpec())
    assert read == made
