"""The processor's own kernels: `kernels.c`, compiled once for the machine it runs on, and called by ctypes.

They are for Linux on x86-64, where they were measured, and want a C compiler; without one PyTorch's kernels run, and
`why_not` says so. Their threads are PyTorch's: the same library of OpenMP, the same number.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.c")

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
"""Nothing that lets a compiler reorder sums or assume that every number is one."""

LANES = 16
"""Numbers of the widest vector that the kernels may be compiled for: rows are filled up to whole ones."""

ROWS = 64
"""As in kernels.c."""

i64, pointer = ctypes.c_int64, ctypes.c_void_p


MEANT = sys.platform == "linux" and platform.machine() == "x86_64"
"""Whether this is a kind of machine that the kernels are for."""


class Unavailable(Exception):
    """Why the kernels cannot be had here."""


class Layer(ctypes.Structure):
    """`Layer` of kernels.c."""

    _fields_ = [
        (name, pointer)
        for name in (
            "first_norm",
            "second_norm",
            "qkv",
            "qkv_bias",
            "out",
            "out_bias",
            "gate_up",
            "gate_up_bias",
            "down",
            "down_bias",
            "q_norm",
            "k_norm",
        )
    ]


class LayerGradient(ctypes.Structure):
    """`LayerGradient` of kernels.c: where each parameter's gradient is added to."""

    _fields_ = Layer._fields_


class Tree(ctypes.Structure):
    """`Tree` of kernels.c."""

    _fields_ = [
        *((name, i64) for name in ("n", "ways")),
        *((name, pointer) for name in ("ids", "position", "start", "node", "past", "cosine", "sine")),
    ]


class Model(ctypes.Structure):
    """`Model` of kernels.c."""

    _fields_ = [
        *((name, i64) for name in ("layers", "hidden", "heads", "groups", "width", "inner", "words")),
        *((name, pointer) for name in ("embed", "norm", "head", "head_bias")),
        ("layer", ctypes.POINTER(Layer)),
        ("eps", ctypes.c_float),
        ("scale", ctypes.c_float),
    ]


class Pass(ctypes.Structure):
    """`Pass` of kernels.c."""

    _fields_ = [
        *((name, i64) for name in ("n", "sequences", "asked", "capacity")),
        *((name, pointer) for name in ("ids", "position", "start", "row", "last", "keys", "values")),
        *((name, pointer) for name in ("cosine", "sine", "x", "qkv", "said", "inner", "room")),
        ("room_size", i64),
        ("logits", pointer),
    ]


@cache
def why_not() -> str:
    """Why `library` raises; empty where it does not."""
    try:
        library()
    except Unavailable as error:
        return str(error)
    return ""


@cache
def library() -> ctypes.CDLL:
    """The kernels, compiled where that has not been done yet.

    Raises:
        Unavailable: this is another kind of machine, or it has no C compiler that compiles them.
    """
    if not MEANT:
        raise Unavailable(f"they are for Linux on x86-64, and this is {sys.platform} on {platform.machine()}")
    found = _loaded()
    found.packed_size.restype = found.room_size.restype = i64
    found.packed_size.argtypes = found.room_size.argtypes = [i64, i64]
    found.pack.argtypes = [i64, i64, pointer, i64, i64, pointer]
    found.pack.restype = found.gemm.restype = found.play.restype = None
    found.gemm.argtypes = [i64, i64, i64, pointer, i64, i64, pointer, pointer, i64, ctypes.c_int, ctypes.c_int]
    found.copy_rows.restype = found.choose_words.restype = None
    found.choose_words.argtypes = [i64, i64, pointer, ctypes.c_double, *[pointer] * 4, ctypes.c_int]
    found.copy_rows.argtypes = [i64, *[pointer] * 3, i64, pointer, *[i64] * 3]
    found.play.argtypes = [pointer, pointer, pointer, ctypes.c_int]
    found.kept_size.restype = found.learn_room.restype = i64
    found.kept_size.argtypes, found.learn_room.argtypes = [pointer, i64], [i64, i64]
    found.learn.restype = found.learn_back.restype = None
    found.learn.argtypes = [pointer, pointer, pointer, i64, *[pointer] * 3, i64, ctypes.c_int]
    found.learn_back.argtypes = [*[pointer] * 4, i64, *[pointer] * 7, i64, ctypes.c_int]
    return found


def at(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; they must lie end to end."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def packed(weight: Tensor, *, back: bool = False) -> Tensor:
    """A weight [out, in] as products x Wᵀ want it, or with `back` as products y W do."""
    out, inner = weight.shape
    wide, deep, strides = (inner, out, (inner, 1)) if back else (out, inner, (1, inner))
    found = torch.empty(library().packed_size(wide, deep))
    library().pack(wide, deep, at(weight), *strides, at(found))
    return found


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b without gradient; x [n, in], W [out, in], float32 in the processor's memory."""
    out = torch.empty((len(x), len(weight)))
    _multiply(x, (x.shape[1], 1), packed(weight), out)
    return out if bias is None else out.add_(bias)


def times(y: Tensor, weight: Tensor, out: Tensor) -> None:
    """out = y W; y [n, out], W [out, in]."""
    _multiply(y, (y.shape[1], 1), packed(weight, back=True), out)


def add_outer(to: Tensor, y: Tensor, x: Tensor) -> None:
    """to [out, in] += yᵀ x; y [n, out], x [n, in]."""
    _multiply(y.T, (1, y.shape[1]), packed(x, back=True), to, add=True)


def choose(logits: Tensor, temperature: float, draw: Tensor) -> tuple[Tensor, Tensor]:
    """`astarpo.engine.conversations.choose` on float32 logits [n, V] that lie end to end; draw [n] float64."""
    n, words = logits.shape
    chosen, nats = torch.empty(n, dtype=torch.int64), torch.empty(n)
    wide = -(-words // LANES) * LANES
    # A sum for each vector; the narrowest has four numbers.
    room = torch.empty(n * (wide + wide // 4))
    library().choose_words(
        *(n, words, at(logits), temperature, at(draw), at(chosen), at(nats), at(room)),
        max(1, min(torch.get_num_threads(), n // 8)),
    )
    return chosen, nats


def copy_rows(
    tensors: Sequence[Tensor], source: NDArray[np.int64], target: NDArray[np.int64], lengths: NDArray[np.int64]
) -> None:
    """In each of `tensors` [rows, heads, positions, width] row target[i] takes the first lengths[i] positions of
    source[i]; no row may be both."""
    where = np.array([at(one) for one in tensors], dtype=np.uintp)
    arrays = [np.ascontiguousarray(one, np.int64) for one in (source, target, lengths)]
    _, groups, capacity, width = tensors[0].shape
    library().copy_rows(
        len(source), *(one.ctypes.data for one in arrays), len(tensors), where.ctypes.data, groups, capacity, width
    )


def _multiply(left: Tensor, strides: tuple[int, int], right: Tensor, out: Tensor, *, add: bool = False) -> None:
    assert out.is_contiguous()
    assert left.dtype == right.dtype == out.dtype == torch.float32
    rows, depth = left.shape
    library().gemm(
        *(rows, out.shape[1], depth, left.data_ptr(), *strides, at(right), at(out), out.shape[1]),
        int(add),
        max(1, min(torch.get_num_threads(), rows // 8)),
    )


def _loaded() -> ctypes.CDLL:
    compiler = _compiler()
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    if told.returncode:
        raise Unavailable(f"{compiler} --version fails: {_last(told.stderr)}")
    openmp = _openmp()
    # A home may be shared by machines whose processors differ.
    wanted = (SOURCE.read_text("utf-8"), told.stdout, *FLAGS, str(openmp), _processor())
    name = f"kernels-{hashlib.sha256(chr(0).join(wanted).encode()).hexdigest()[:16]}.so"
    home = os.environ.get("XDG_CACHE_HOME")
    kept = (Path(home) if home else Path.home() / ".cache") / "astarpo" / name
    if not kept.is_file():
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            _compile(compiler, openmp, kept)
        except OSError:
            # It cannot be written to: compiled again in each process, and gone with it.
            with tempfile.TemporaryDirectory() as room:
                _compile(compiler, openmp, Path(room, name))
                return ctypes.CDLL(str(Path(room, name)))
    return ctypes.CDLL(str(kept))


def _compile(compiler: str, openmp: Path | None, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as room:
        compiled, linked = Path(room, "kernels.o"), Path(room, "kernels.so")
        threads = [] if openmp is None else ["-fopenmp"]
        # Linked with the very library that PyTorch's threads come from: two of them would fight for the cores.
        for command in (
            [compiler, *FLAGS, *threads, "-c", str(SOURCE), "-o", str(compiled)],
            [compiler, "-shared", str(compiled), *([str(openmp)] if openmp else []), "-lm", "-o", str(linked)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Unavailable(f"{compiler} does not compile them: {_last(done.stderr)}")
        linked.replace(target)


def _compiler() -> str:
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    for name in names:
        if found := shutil.which(name):
            return found
    raise Unavailable(f"there is no C compiler ({', '.join(names)})")


def _openmp() -> Path | None:
    """The library of OpenMP that PyTorch has loaded; None where it has none."""
    for line in Path("/proc/self/maps").read_text("utf-8").splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith(("libgomp", "libiomp", "libomp")):
            return path
    return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((line for line in lines if line.startswith("flags")), "") + platform.processor()


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[-1] if lines else "it says nothing")
