"""Ahead-of-time compilation of Triton kernels for GPUs that this machine does not have.

``triton.compile`` needs a target, not a device; ``cuobjdump`` (it ships in triton's wheel) then reads registers,
stack and shared memory from the machine code. A kernel that spills has a stack, so ``stack == 0`` is the gate.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = (80, 90)
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
"""Most shared memory one block may ask for, in bytes, by compute capability (CUDA programming guide)."""

POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float64: "*fp64",
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.int16: "*i16",
    torch.uint16: "*u16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Compiled:
    """What the machine code of one kernel asks for."""

    registers: int
    stack: int
    shared: int
    ptx: str


def compile_kernel(
    kernel: Any,
    sm: int,
    types: Mapping[str, str],
    constexprs: Mapping[str, Any],
    *,
    num_warps: int = 4,
    num_stages: int = 3,
) -> Compiled:
    """Compiles ``kernel`` for compute capability ``sm``.

    Args:
        kernel: A ``@triton.jit`` function.
        sm: 80 or 90.
        types: Triton type of every run-time argument, such as ``*bf16`` or ``i32``. Pointers count as 16-byte aligned,
            as PyTorch's allocator makes them.
        constexprs: Value of every ``tl.constexpr`` argument.
        num_warps: As at launch.
        num_stages: As at launch.
    """
    signature = {name: "constexpr" if name in constexprs else types[name] for name in kernel.arg_names}
    positions = {name: (index,) for index, name in enumerate(kernel.arg_names)}
    aligned = {positions[n]: [["tt.divisibility", 16]] for n, t in signature.items() if t.startswith("*")}
    source = ASTSource(kernel, signature, {positions[n]: v for n, v in constexprs.items()}, aligned)
    options = {"num_warps": num_warps, "num_stages": num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)
    usage = resource_usage(compiled.asm["cubin"])
    return Compiled(usage["REG"], usage["STACK"], compiled.metadata.shared, compiled.asm["ptx"])


def resource_usage(cubin: bytes) -> dict[str, int]:
    """Registers, stack and the like, as ``cuobjdump --dump-resource-usage`` prints them."""
    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"  # type: ignore[attr-defined]  # no stubs
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text)}
    if "REG" not in found:
        raise AssertionError(f"cuobjdump printed no resource usage:\n{text}")
    return found


def assert_fits(compiled: Compiled, sm: int) -> None:
    """Asserts no spills and no more shared memory than a block may have."""
    assert compiled.stack == 0, (
        f"sm_{sm}: {compiled.stack} bytes of stack: the kernel spills ({compiled.registers} registers)"
    )
    assert compiled.shared <= SHARED_LIMIT[sm], f"sm_{sm}: {compiled.shared} bytes of shared memory"
