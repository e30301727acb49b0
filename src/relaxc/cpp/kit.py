"""All that a C++ program takes to run artifacts, in one folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from relaxc.errors import OutputError

_HERE = Path(__file__).parent
CMAKE = "relaxc-config.cmake"
LIBRARY = "libtvm_ffi.so"


def write_kit(folder: Path) -> list[Path]:
    """Write headers, TVM's FFI library for this machine, and a CMake package.

    Args:
        folder: is made where it is missing; other files in it stay.

    Returns:
        The headers' folder, the library and the CMake package.

    Raises:
        OutputError: the folder cannot be written.
    """
    import tvm_ffi
    from tvm_ffi import libinfo

    package = Path(tvm_ffi.__file__).parent
    include, lib = folder / "include", folder / "lib"
    try:
        for part in ("tvm", "dlpack"):
            shutil.copytree(package / "include" / part, include / part, dirs_exist_ok=True)
        shutil.copytree(_HERE / "include", include, dirs_exist_ok=True)
        lib.mkdir(exist_ok=True)
        shutil.copy(libinfo.find_libtvm_ffi(), lib / LIBRARY)
        shutil.copy(_HERE / CMAKE, folder / CMAKE)
    except (OSError, shutil.Error) as err:
        raise OutputError(f"cannot write `{folder}`: {err.strerror or err}") from err
    return [include, lib / LIBRARY, folder / CMAKE]
