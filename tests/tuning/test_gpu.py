"""Kernels for GPUs are tuned by folders of candidates; a stand-in for a GPU measures them here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from builders import onnx_model

import relaxc
from relaxc.errors import InputError, OptionError, OutputError, PassError, TargetError
from relaxc.targets.registry import backend_for
from relaxc.targets.tuning.history import TRIAL, VERDICT, History
from relaxc.targets.tuning.records import RecordStore
from relaxc.tuning.gpu import bench, driver, tuner
from relaxc.tuning.gpu import folder as folders
from relaxc.tuning.gpu.driver import DriverError
from relaxc.tuning.gpu.measure import RESULTS, Child, Worker, measure
from relaxc.tuning.maintain import why
from relaxc.tuning.tune import dry_run

TARGET = "cuda -arch=sm_90"
OPTIONS = relaxc.CompileOptions(target=TARGET, precision="float16", io="float16")
# By the place of a candidate among those of its task: what is wrong with it.
WRONG, CRASHING, FAST = 2, 3, 4


class Device:
    """Memory is memory; kernels write ones, and take as long as their place says."""

    name, arch = "a GPU", "sm_90"

    def __init__(self, folder: Path) -> None:
        self._place = 0
        self._memory: dict[int, bytearray] = {}
        self._places = {
            kernel["name"]: place
            for task in json.loads((folder / "plan.json").read_text())["tasks"]
            for place, kernel in enumerate(task["kernels"])
        }

    def upload(self, array: np.ndarray) -> int:
        address = self.allocate(array.nbytes)
        self._memory[address][:] = array.tobytes()
        return address

    def duplicate(self, address: int, size: int) -> int:
        assert len(self._memory[address]) == size
        return self.allocate(size)

    def allocate(self, size: int) -> int:
        address = max(self._memory, default=0) + 1
        self._memory[address] = bytearray(size)
        return address

    def fill(self, address: int, byte: int, size: int) -> None:
        self._memory[address][:] = bytes([byte]) * size

    def download(self, address: int, array: np.ndarray) -> None:
        array[...] = np.frombuffer(self._memory[address], array.dtype).reshape(array.shape)

    def free(self, address: int) -> None:
        del self._memory[address]

    def synchronize(self) -> None:
        pass

    def kernel(self, cubin: bytes, name: str, launch: Any) -> Kernel:
        assert cubin == b"cubin of sm_90a" or cubin == b"cubin of sm_90"
        return Kernel(self._places[name], launch)

    def launch(self, kernel: Kernel, arguments: list[int]) -> None:
        if kernel.place == CRASHING:
            raise DriverError("an illegal memory access was encountered")
        shape, dtype = kernel.launch["buffers"][-1]
        ones = np.full(shape, 0.5 if kernel.place == WRONG else 1.0, dtype)
        self._memory[arguments[-1]][:] = ones.tobytes()
        self._place = kernel.place

    def recorded(self, launches: Callable[[], None]) -> Any:
        launches()
        return Graph(self._place)

    def seconds(self, graph: Any) -> float:
        return {0: 1e-3, FAST: 8e-4}.get(graph.place, 1.1e-3)


class Kernel:
    def __init__(self, place: int, launch: Any) -> None:
        self.place, self.launch = place, launch

    def arguments(self, addresses: list[int]) -> list[int]:
        assert len(addresses) == len(self.launch["buffers"])
        return addresses

    def unload(self) -> None:
        pass


class Graph:
    def __init__(self, place: int) -> None:
        self.place = place

    def destroy(self) -> None:
        pass


class Compiler:
    name = "none"

    def compile(self, source: str, arch: str) -> bytes:
        return f"cubin of {arch}".encode()


@pytest.fixture
def model() -> Any:
    weight = np.ones((256, 64), np.float32)
    return onnx_model(
        "g (float[128,256] x) => (float[128,64] y) { a = MatMul (x, w)\n y = Relu (a) }", w=weight
    )


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "find_compiler", Compiler)


def options(tmp_path: Path, **more: Any) -> relaxc.TuneOptions:
    fields: dict[str, Any] = {"records": tmp_path / "records.jsonl", "compile": OPTIONS}
    return relaxc.TuneOptions(**(fields | more))


def measured(folder: Path, seconds: float = 60.0) -> list[str]:
    """Measure a folder; returns what was told."""
    said: list[str] = []
    worker = Worker(folder, lambda: Device(folder))

    def ask(request: Any) -> dict[str, Any]:
        return {"outcome": "ok"} if request["kind"] == "done" else worker.answer(request)

    measure(folder, seconds, ask, said.append)
    return said


def test_candidates_are_measured_elsewhere_and_become_records(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "candidates"
    written = relaxc.tune(model, options(tmp_path, candidates=folder, trials=6))
    assert (written.stopped, written.candidates, written.trials) == ("candidates", 6, 0)
    with pytest.raises(InputError, match=r"has no `measured.jsonl`; run `python .*measure.py`"):
        relaxc.tune(model, options(tmp_path, measured=folder))
    (said,) = measured(folder)
    assert said.startswith("cuda.matmul 128x256x64 ") and said.endswith(": 1.25x")

    result = relaxc.tune(model, options(tmp_path, measured=folder))
    assert (result.stopped, result.trials, result.known_trials) == ("measured", 6, 6)
    (kernel,) = result.kernels
    plan = json.loads((folder / "plan.json").read_text())
    assert kernel.choice == plan["tasks"][0]["kernels"][FAST]["choice"]
    assert kernel.before_s and kernel.after_s == pytest.approx(0.8 * kernel.before_s)

    records = RecordStore(tmp_path / "records.jsonl").read().records
    outcomes = [r["outcome"] for r in records if r["kind"] == TRIAL]
    assert outcomes == ["ok", "wrong", "failed", "ok", "ok", "ok"]
    assert [r["device"] for r in records if r["kind"] == VERDICT] == ["a GPU"]
    # What is compiled finds them.
    tuned = backend_for(TARGET).with_precision("float16").with_records(History(records))
    (reason,) = why(model, OPTIONS, tmp_path / "records.jsonl")
    assert reason.is_hit and reason.text.startswith("1.25x with ")
    chosen = dict(kernel.choice or {})
    assert chosen and all(f"{name}={value}" in reason.text for name, value in chosen.items())
    assert tuned.refused_records == []


def test_results_are_read_once(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "candidates"
    relaxc.tune(model, options(tmp_path, candidates=folder, trials=2))
    measured(folder)
    first = relaxc.tune(model, options(tmp_path, measured=folder))
    again = relaxc.tune(model, options(tmp_path, measured=folder))
    assert (first.trials, again.trials, again.known_trials) == (2, 0, 2)
    # Nothing is left of the trials, and the next candidates are others.
    spent = relaxc.tune(model, options(tmp_path, candidates=tmp_path / "2", trials=2))
    assert spent.stopped == "trials" and not (tmp_path / "2").exists()
    relaxc.tune(model, options(tmp_path, candidates=tmp_path / "3", trials=4))

    def tried(path: Path) -> list[str]:
        (task,) = json.loads((path / "plan.json").read_text())["tasks"]
        return [str(kernel["choice"]) for kernel in task["kernels"][1:]]

    assert len(tried(tmp_path / "3")) == 2 and not set(tried(folder)) & set(tried(tmp_path / "3"))


def test_measuring_goes_on_where_it_was(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "candidates"
    relaxc.tune(model, options(tmp_path, candidates=folder, trials=4))
    measured(folder, seconds=0.0)
    lines = (folder / RESULTS).read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["begin", "untuned"]
    with (folder / RESULTS).open("a") as file:
        file.write('{"kind": "trial", "ta')  # torn
    measured(folder)
    kinds = [json.loads(line)["kind"] for line in (folder / RESULTS).open() if line[-2] == "}"]
    assert kinds == ["begin", "untuned", *["trial"] * 4, "final", "done"]
    assert relaxc.tune(model, options(tmp_path, measured=folder)).trials == 4
    # A search that ended before its last candidate has a verdict, and a later one when it goes on.
    whole = (folder / RESULTS).read_text().splitlines()
    early = [line for line in whole if '"kernel": 4' not in line]
    (folder / RESULTS).write_text("\n".join(early) + "\n")
    store = tmp_path / "early.jsonl"
    first = relaxc.tune(model, options(tmp_path, measured=folder, records=store))
    measured(folder)
    second = relaxc.tune(model, options(tmp_path, measured=folder, records=store))
    assert first.kernels[0].choice is None and second.kernels[0].choice is not None

    (folder / RESULTS).write_text(lines[0].replace('"plan": "', '"plan": "0'))
    with pytest.raises(ValueError, match="is of other candidates; remove it"):
        measured(folder)
    with pytest.raises(InputError, match="are not of its candidates"):
        relaxc.tune(model, options(tmp_path, measured=folder))
    (folder / RESULTS).write_text("")  # as where there was no GPU
    with pytest.raises(InputError, match="nothing has been measured in .* yet; run `python"):
        relaxc.tune(model, options(tmp_path, measured=folder))


def test_a_gpu_of_another_kind_is_refused(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "candidates"
    relaxc.tune(model, options(tmp_path, candidates=folder, trials=1))
    monkeypatch.setattr(Device, "arch", "sm_80")
    with pytest.raises(DriverError, match="candidates are for sm_90, this GPU is a sm_80"):
        measured(folder)


def test_the_folder_needs_nothing_else(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "candidates"
    relaxc.tune(model, options(tmp_path, candidates=folder, trials=1))
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import relaxc.tuning.gpu.measure as m; "
        f"assert m.__file__.startswith({str(folder)!r}); "
        "assert not {'tvm', 'tvm_ffi', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    child = Child([sys.executable, str(folder / "measure.py"), "--worker"])
    answer = child.ask({"kind": "hello"})
    assert answer["outcome"] in ("ok", "failed")
    if answer["outcome"] == "failed":  # no GPU here
        assert "DriverError" in answer["detail"]
    child.stop()


@pytest.mark.parametrize(("row_bytes", "swizzle"), [(128, 3), (64, 2)])
def test_the_copy_engine_is_told_how_tiles_lie(
    monkeypatch: pytest.MonkeyPatch, row_bytes: int, swizzle: int
) -> None:
    said: dict[str, tuple[Any, ...]] = {}
    monkeypatch.setattr(driver.Device, "__init__", lambda _self: None)
    monkeypatch.setattr(driver.Device, "call", lambda _self, *args: said.update({args[0]: args}))
    device = driver.Device()
    matrix = {"rows": 5, "columns": 256, "box_rows": 64, "row_bytes": row_bytes}
    device.map_of(matrix, 1 << 40, 2)
    _, place, kind, rank, base, sizes, strides, box, *rest = said["cuTensorMapEncodeTiled"]
    assert place.value % 64 == 0 and (kind, rank, base.value) == (6, 2, 1 << 40)
    assert (list(sizes), list(strides), list(box)) == ([256, 5], [512], [row_bytes // 2, 64])
    assert rest[1:] == [0, swizzle, 3, 0]
    map_ = {"images": 2, "height": 7, "width": 9, "channels": 64, "strides": (2, 1)}
    map_ |= {"lower": (-1, -1), "upper": (0, 1), "pixels": 32, "row_bytes": row_bytes}
    device.map_of(map_, 1 << 40, 1)
    _, _, kind, rank, _, sizes, strides, *rest = said["cuTensorMapEncodeIm2col"]
    assert (kind, rank, list(sizes)) == (0, 4, [64, 9, 7, 2])
    assert list(strides) == [64, 576, 4032]
    lower, upper, channels, pixels, steps, *tail = rest
    assert (list(lower), list(upper), channels, pixels) == ([-1, -1], [0, 1], row_bytes, 32)
    assert list(steps) == [1, 2, 1, 1] and tail == [0, swizzle, 3, 0]


def test_random_rows_of_eight_bits_hold_numbers_and_scales() -> None:
    rows = bench.rows_of_e4m3(bench.random([5, 36], "uint8", 0))
    assert rows.shape == (5, 36) and rows.dtype == np.uint8
    numbers, scales = rows.reshape(-1)[: 5 * 32], rows.reshape(-1)[5 * 32 :]
    assert np.isfinite(numbers.view(ml_dtypes.float8_e4m3fn).astype(np.float32)).all()
    assert len(np.unique(numbers)) > 50
    np.testing.assert_array_equal(scales.view(np.float32), np.full(5, 2.0**-10))


def test_a_child_that_dies_is_an_answer(tmp_path: Path) -> None:
    dying = Child([sys.executable, "-c", "import sys; sys.stdin.readline()"])
    assert dying.ask({"kind": "hello"}) == {"outcome": "crashed"}
    script = 'import sys\nfor line in sys.stdin: print(\'{"outcome": "ok"}\', flush=True)'
    living = Child([sys.executable, "-c", script])
    assert living.ask({"kind": "hello"}) == {"outcome": "ok"}
    living.stop()


def test_this_machines_gpu_is_used_if_no_folder_is_given(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[Path] = []

    def measure_here(folder: Path, _seconds: float) -> None:
        rounds.append(folder)
        measured(folder)

    monkeypatch.setattr(tuner, "Device", lambda: None)
    monkeypatch.setattr(tuner, "measure_here", measure_here)
    result = relaxc.tune(model, options(tmp_path, trials=15))
    assert (result.stopped, result.trials, len(rounds)) == ("trials", 15, 2)
    again = relaxc.tune(model, options(tmp_path, trials=15))
    assert (again.stopped, again.trials, len(rounds)) == ("trials", 0, 2)


def test_what_cannot_be_compiled_is_written_down(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(Compiler):
        def compile(self, source: str, arch: str) -> bytes:
            if "constexpr int SHARE_M = 2;" in source:
                raise PassError("too many registers")
            return super().compile(source, arch)

    monkeypatch.setattr(folders, "find_compiler", Refusing)
    folder = tmp_path / "candidates"
    relaxc.tune(model, options(tmp_path, candidates=folder))
    measured(folder)
    relaxc.tune(model, options(tmp_path, measured=folder))
    records = RecordStore(tmp_path / "records.jsonl").read().records
    refused = [r for r in records if "registers" in r.get("detail", "")]
    assert refused and all(r["choice"]["share_rows"] == 2 for r in refused)


def test_errors(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dry_run(model, options(tmp_path)).stopped == "dry run"
    with pytest.raises(OutputError, match="exists; give a new folder"):
        relaxc.tune(model, options(tmp_path, candidates=tmp_path))
    with pytest.raises(OptionError, match="not both at once"):
        options(tmp_path, candidates=tmp_path, measured=tmp_path)
    with pytest.raises(OptionError, match="folders of candidates are for GPUs"):
        relaxc.tune(model, relaxc.TuneOptions(candidates=tmp_path / "x"))
    with pytest.raises(OptionError, match="TVM's RPC servers measure kernels for CPUs"):
        relaxc.tune(model, options(tmp_path, rpc_tracker="a:1", rpc_key="k"))
    with pytest.raises(OptionError, match="a number of threads is for CPUs"):
        relaxc.tune(model, options(tmp_path, threads=2))
    old = relaxc.CompileOptions(target="cuda -arch=sm_75")
    with pytest.raises(OptionError, match="no kernels of relaxc to tune"):
        relaxc.tune(model, options(tmp_path, compile=old))

    def none() -> None:
        raise DriverError("this machine has no driver for an NVIDIA GPU")

    monkeypatch.setattr(tuner, "Device", none)
    with pytest.raises(TargetError, match="measured on one, but this machine has no driver"):
        relaxc.tune(model, options(tmp_path))
