"""The processor's own kernels: `kernels.c`, compiled once for the machine it runs on, and called by ctypes.

They are for Linux on x86-64, where they were measured, and want a C compiler; without one PyTorch's kernels run, and
`why_not` says so. Their threads are PyTorch's: the same library of OpenMP, the same number.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
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

SECONDS = 300
"""That a compiler may take; it takes two."""

READ = (torch.float32, torch.float64, torch.int64)
"""Precisions of what kernels are given."""

LANES = 16
"""Numbers of the widest vector that the kernels may be compiled for: rows are filled up to whole ones."""

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
        *((name, i64) for name in ("layers", "hidden", "heads", "groups", "width", "inner", "words", "padding")),
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
        *((name, pointer) for name in ("cosine", "sine", "x", "qkv", "said", "room")),
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
    found.packed_size.argtypes, found.room_size.argtypes = [i64, i64], [pointer, i64]
    found.pack.argtypes = [i64, i64, pointer, i64, i64, pointer]
    found.pack.restype = found.gemm.restype = found.play.restype = None
    found.gemm.argtypes = [i64, i64, i64, pointer, i64, i64, pointer, pointer, i64, ctypes.c_int, ctypes.c_int]
    found.copy_rows.restype = found.choose_words.restype = None
    found.choose_words.argtypes = [i64, i64, pointer, ctypes.c_double, *[pointer] * 4, ctypes.c_int]
    found.copy_rows.argtypes = [i64, *[pointer] * 3, i64, pointer, *[i64] * 3]
    found.play.argtypes = [pointer, pointer, pointer, ctypes.c_int]
    found.kept_size.restype = found.learn_room.restype = i64
    found.kept_size.argtypes = found.learn_room.argtypes = [pointer, i64]
    found.learn.restype = found.learn_back.restype = None
    found.learn.argtypes = [pointer, pointer, pointer, i64, *[pointer] * 3, i64, ctypes.c_int]
    found.learn_back.argtypes = [*[pointer] * 4, i64, *[pointer] * 7, i64, ctypes.c_int]
    return found


def at(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin. Whoever asks keeps the tensor until the kernel has returned.

    Raises:
        ValueError: they are not end to end in the processor's memory, or of a precision that no kernel reads.
    """
    if tensor is None:
        return None
    if tensor.dtype not in READ or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(
            f"a kernel reads numbers end to end in the processor's memory, {', '.join(map(str, READ))}; given was "
            f"{tensor.dtype} on {tensor.device}, {'' if tensor.is_contiguous() else 'not '}end to end."
        )
    return tensor.data_ptr()


def _single(*tensors: Tensor) -> None:
    if any(one.dtype != torch.float32 or one.device.type != "cpu" for one in tensors):
        given = ", ".join(f"{one.dtype} on {one.device}" for one in tensors)
        raise ValueError(f"these kernels read float32 in the processor's memory; given was {given}.")


def packed(weight: Tensor, *, back: bool = False) -> Tensor:
    """A weight [out, in], float32, as products x Wᵀ want it, or with `back` as products y W do."""
    out, inner = weight.shape
    _single(weight)
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
    _single(logits)
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
    _single(*tensors)
    where = np.array([at(one) for one in tensors], dtype=np.uintp)
    arrays = [np.ascontiguousarray(one, np.int64) for one in (source, target, lengths)]
    _, groups, capacity, width = tensors[0].shape
    library().copy_rows(
        len(source), *(one.ctypes.data for one in arrays), len(tensors), where.ctypes.data, groups, capacity, width
    )


def _multiply(left: Tensor, strides: tuple[int, int], right: Tensor, out: Tensor, *, add: bool = False) -> None:
    _single(left, right, out)
    rows, depth = left.shape
    library().gemm(
        *(rows, out.shape[1], depth, left.data_ptr(), *strides, at(right), at(out), out.shape[1]),
        int(add),
        max(1, min(torch.get_num_threads(), rows // 8)),
    )


def _loaded() -> ctypes.CDLL:
    """The library out of the user's cache folder, or compiled now.

    Raises:
        Unavailable: there is no compiler, or it makes nothing that can be loaded.
    """
    compiler = _compiler()
    try:
        told = subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True, errors="replace", check=False, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{compiler[0]} --version does not run: {error}") from None
    if told.returncode:
        raise Unavailable(f"{compiler[0]} --version fails: {_last(told.stderr)}")
    openmp = _openmp()
    # A home may be shared by machines whose processors differ; a compiler may be a script that adds flags.
    with Path(compiler[0]).open("rb") as program:
        begins = program.read(4096).hex()
    wanted = (SOURCE.read_text("utf-8"), told.stdout, begins, *compiler, *FLAGS, str(openmp), _processor())
    name = f"kernels-{hashlib.sha256(chr(0).join(wanted).encode()).hexdigest()[:16]}.so"
    try:
        home = os.environ.get("XDG_CACHE_HOME")
        kept = (Path(home) if home else Path.home() / ".cache") / "astarpo" / name
        if _whole(kept):
            return ctypes.CDLL(str(kept))
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as room:
            made = Path(room, name)
            found = _compile(compiler, openmp, made)
            _keep(made, kept)
    except (OSError, RuntimeError):
        # There is no such folder, or it cannot be written to: compiled again in each process, and gone with it.
        with tempfile.TemporaryDirectory() as room:
            return _compile(compiler, openmp, Path(room, name))
    return found


def _whole(kept: Path) -> bool:
    """Whether what is kept is what was compiled: loading half a library kills the process."""
    told = kept.with_suffix(".sha256")
    if not (kept.is_file() and told.is_file()):
        return False
    return hashlib.sha256(kept.read_bytes()).hexdigest() == told.read_text("ascii", errors="replace").strip()


def _keep(made: Path, kept: Path) -> None:
    """Put a library into the cache, its hash last; whoever comes in between compiles it too."""
    told = made.with_suffix(".sha256")
    told.write_text(hashlib.sha256(made.read_bytes()).hexdigest(), "ascii")
    made.replace(kept)
    told.replace(kept.with_suffix(".sha256"))


def _compile(compiler: list[str], openmp: Path | None, target: Path) -> ctypes.CDLL:
    """Compile to `target` and load it: with threads where the compiler has them, else without."""
    failed = ""
    for library in [openmp, None] if openmp is not None else [None]:
        threads = [] if library is None else ["-fopenmp"]
        compiled = target.with_suffix(".o")
        # Linked with the very library that PyTorch's threads come from: two of them would fight for the cores.
        for command in (
            [*compiler, *FLAGS, *threads, "-c", str(SOURCE), "-o", str(compiled)],
            [*compiler, "-shared", str(compiled), *([str(library)] if library else []), "-lm", "-o", str(target)],
        ):
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, errors="replace", check=False, timeout=SECONDS
                )
            except subprocess.TimeoutExpired:
                raise Unavailable(f"{compiler[0]} has not compiled them after {SECONDS} s") from None
            if done.returncode:
                failed = failed or f"{compiler[0]} does not compile them: {_last(done.stderr)}"
                break
        else:
            try:
                return ctypes.CDLL(str(target))
            except OSError as error:
                failed = failed or f"what {compiler[0]} made of them cannot be loaded: {error}"
    raise Unavailable(failed)


def _compiler() -> list[str]:
    """The compiler's path and what it is always given."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    for name in names:
        program, *given = shlex.split(name) or [name]
        if found := shutil.which(program):
            return [found, *given]
    raise Unavailable(f"there is no C compiler ({', '.join(names)})")


def _openmp() -> Path | None:
    """The library of OpenMP that PyTorch has loaded; None where none is found."""
    lines = _lines("/proc/self/maps")
    loaded = dict.fromkeys(Path(line.split(maxsplit=5)[-1]) for line in lines if "omp" in line)
    found = [path for path in loaded if path.name.startswith(("libgomp", "libiomp", "libomp"))]
    # Other packages bring libraries of their own.
    return next((path for path in found if "torch" in str(path)), found[0] if found else None)


def _processor() -> str:
    return next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), "") + platform.processor()


def _lines(path: str) -> list[str]:
    """A file that the kernel makes up; none where it does not."""
    try:
        return Path(path).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[-1] if lines else "it says nothing")
