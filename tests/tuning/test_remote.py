"""Two servers of TVM on loopback tune side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import conv_model

import relaxc
from relaxc.errors import OptionError, TargetError
from relaxc.targets.tuning.history import History
from relaxc.targets.tuning.records import RecordStore

pytest.importorskip("tornado")
pytest.importorskip("psutil")


@pytest.fixture(scope="module")
def tracker() -> Iterator[str]:
    from tvm.rpc.server import Server
    from tvm.rpc.tracker import Tracker

    found = Tracker(host="127.0.0.1", port=9190, port_end=9290, silent=True)
    address = ("127.0.0.1", found.port)
    with contextlib.ExitStack() as stack:
        stack.callback(found.terminate)
        for _ in range(2):
            server = Server(
                "127.0.0.1",
                port=9300,
                port_end=9400,
                tracker_addr=address,
                key="board",
                silent=True,
            )
            stack.callback(server.terminate)
        yield f"127.0.0.1:{found.port}"


def test_devices_of_a_tracker_measure(tracker: str, tmp_path: Path) -> None:
    records = tmp_path / "r.jsonl"
    options = relaxc.TuneOptions(
        trials=5, time_budget_s=300, rpc_tracker=tracker, rpc_key="board", records=records
    )
    result = relaxc.tune(conv_model(), options)
    assert (result.stopped, result.trials) == ("trials", 5)
    assert result.before_s and result.after_s and result.after_s <= result.before_s
    history = History(RecordStore(records).read().records)
    (task,) = [task for task in history.tasks.values() if task.kernel == "conv2d"]
    assert {trial["outcome"] for trial in history.trials(task)} == {"ok"}
    assert history.verdict(task) is not None


def test_trackers_and_keys_that_are_not_there(tracker: str) -> None:
    def tune(address: str, key: str) -> None:
        relaxc.tune(conv_model(), relaxc.TuneOptions(rpc_tracker=address, rpc_key=key, trials=1))

    with pytest.raises(TargetError, match="knows no device with key `phone`; it has `board`"):
        tune(tracker, "phone")
    with pytest.raises(TargetError, match="no RPC tracker answers at `127.0.0.1:1`"):
        tune("127.0.0.1:1", "board")
    with pytest.raises(OptionError, match="is no address of a tracker; write `host:port`"):
        tune("here", "board")
    with pytest.raises(OptionError, match="an RPC tracker and a key go together"):
        relaxc.TuneOptions(rpc_tracker=tracker)
