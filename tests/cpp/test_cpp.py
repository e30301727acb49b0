"""The C++ library, against the Python one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import onnx_model

import relaxc
from relaxc.cpp.kit import write_kit
from relaxc.errors import OutputError

Probe = Callable[..., str]
HERE = Path(__file__).parent
DIGIT = HERE.parents[1] / "examples" / "digit.txt"


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("g++"):
        pytest.skip("there is no g++")
    folder = tmp_path_factory.mktemp("kit")
    write_kit(folder)
    return folder


def built(kit: Path, source: Path) -> Path:
    program = kit / source.stem
    words = ["g++", "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", str(source)]
    words += ["-o", str(program), "-isystem", str(kit / "include"), "-pthread", "-ldl"]
    library = kit / "lib" / "libtvm_ffi.so"
    subprocess.run([*words, str(library), f"-Wl,-rpath,{library.parent}"], check=True)
    return program


@pytest.fixture(scope="module")
def probe(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    program = built(kit, HERE / "probe.cpp")
    folder = tmp_path_factory.mktemp("inputs")

    def run(artifact: Path, *arrays: np.ndarray, threads: int = 2, callers: int = 1) -> str:
        words = []
        for number, array in enumerate(arrays):
            file = folder / f"{number}.bin"
            file.write_bytes(array.tobytes())
            words.append(f"{array.dtype.name}:{'x'.join(map(str, array.shape))}:{file}")
        command = [str(program), str(artifact), str(threads), str(callers), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    return run


def expected(artifact: Path, *arrays: np.ndarray) -> str:
    model = relaxc.load(artifact, threads=2)
    lines = []
    for info, value in zip(model.outputs, model.run(dict(zip("xk", arrays))).values()):
        dims = "".join(f" {size}" for size in value.shape)
        values = [float.hex(float(v)) if info.dtype == "float32" else str(v) for v in value.flat]
        lines.append((f"{info.name} {info.dtype}{dims}", values))
    return "".join(f"{head} = {' '.join(values)}\n" for head, values in lines)


def same(text: str) -> str:
    """C++ and Python write hexadecimal floats with other zeros."""
    words = (float.hex(float.fromhex(w)) if "0x" in w else w for w in text.split())
    return " ".join(words)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two inputs that share a symbol; weights, an intermediate result, and an input returned."""
    path = tmp_path_factory.mktemp("two") / "two.rxc"
    rng = np.random.default_rng(0)
    model = onnx_model(
        """g (float[n,3] x, int64[n] k) => (float[n,4] y, int64[n] z, int64[n] same) {
            h = MatMul(x, w) y = Relu(h) z = Add(k, k) same = Identity(k) }""",
        w=rng.standard_normal((3, 4)).astype(np.float32),
    )
    relaxc.compile(model, path)
    return path


def test_it_computes_the_same(probe: Probe, two: Path) -> None:
    for n in (1, 5):
        x = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)
        k = np.arange(n)
        assert same(probe(two, x, k)) == same(expected(two, x, k))


def test_callers_share_a_model(probe: Probe, mnist_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "mnist.rxc"
    relaxc.compile(mnist_onnx, path)
    x = np.random.default_rng(0).standard_normal((1, 1, 28, 28)).astype(np.float32)
    model = relaxc.load(path, threads=2)
    (name,) = (info.name for info in model.outputs)
    wanted = " ".join(float.hex(float(v)) for v in model(x).flat)
    assert same(probe(path, x, callers=4)) == f"{name} float32 1 10 = {wanted}"


def test_inputs_that_do_not_fit(probe: Probe, two: Path) -> None:
    x, k = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)
    assert "error: the model takes 2 inputs, 1 were given" in probe(two, x)
    assert "input `x` must be float32, not int64" in probe(two, k, k)
    assert "must be x: float32[n, 3] in C order, not of shape [2, 4]" in probe(
        two, np.zeros((2, 4), np.float32), k
    )
    assert "must be k: int64[n] in C order, not of shape [3]" in probe(
        two, x, np.zeros(3, np.int64)
    )


def test_files_that_are_no_artifacts(probe: Probe, two: Path, tmp_path: Path) -> None:
    assert "`/no/where` cannot be read: No such file" in probe(Path("/no/where"))
    assert "is no artifact" in probe(tmp_path)
    data = bytearray(two.read_bytes())
    path = tmp_path / "damaged.rxc"
    for size in (0, 1, 40, 4096, len(data) // 2):
        path.write_bytes(data[:size])
        assert "error: `" in probe(path), size
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "the checksum of `" in probe(path)


def test_models_that_run_in_steps_are_refused(probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "strings.rxc"
    relaxc.compile(onnx_model("g (string[2] x) => (string[2] y) { y = Identity(x) }"), path)
    assert "runs in steps on the host" in probe(path)


def test_the_example_reads_a_digit(kit: Path, mnist_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "mnist.rxc"
    relaxc.compile(mnist_onnx, path)
    program = built(kit, HERE.parents[1] / "examples" / "cpp" / "classify.cpp")
    done = subprocess.run([program, path, DIGIT], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("7\n", "", 0)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        write_kit(tmp_path / "file")
