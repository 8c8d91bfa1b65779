"""How the machine is used: precision, attention backends, the optimizer, memory."""

import gc
import os
from collections.abc import Callable

import torch

from s2llib.params import Hardware, ParamsError, first_line

__all__ = [
    "autocast", "check_hardware", "computes_bfloat16", "computes_on", "cores", "free_memory", "halved", "in_batches", "is_out_of_memory",
    "memory", "optimizer_class", "prepare", "use_attention",
]  # fmt: skip


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """One step's or one call's precision. Never around a whole training: autocast keeps its casts of the weights until it ends, so
    every step but the first would run on weights that no longer train."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of this computer's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8 * 2**30


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16; one that does not takes several times as long in it as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def computes_on(pipeline) -> torch.device:
    """Where a pipeline computes: of an offloaded one, not where its weights wait."""
    return getattr(pipeline, "_execution_device", pipeline.unet.device)


def check_hardware(p: Hardware, device: torch.device) -> None:
    """Raises ParamsError for what this machine cannot do."""
    if p.precision == "bfloat16" and device.type == "cuda" and not computes_bfloat16(device):
        raise ParamsError("hardware.precision is 'bfloat16', which this GPU lacks; set it to float32.")
    optimizer_class(p.optimizer)
    if p.optimizer == "adamw8bit" and device.type != "cuda":
        raise ParamsError("hardware.optimizer is 'adamw8bit', whose state is kept on a GPU, and none is used here; set it to adamw.")


def optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """AdamW of torch, or that of bitsandbytes with a state of 8 bits; raises ParamsError if the latter cannot be imported."""
    if name == "adamw":
        return torch.optim.AdamW
    try:
        from bitsandbytes.optim import AdamW8bit
    except Exception as error:  # where its CUDA library does not load, it raises a RuntimeError
        raise ParamsError(
            f"hardware.optimizer is 'adamw8bit' but bitsandbytes cannot be imported ({first_line(error)}); pip install bitsandbytes, or set"
            " it to adamw."
        ) from None
    return AdamW8bit


def use_attention(backend: str) -> None:
    """Let torch's attention use one backend, or its plain one where that cannot be used; `auto`: any."""
    cuda = torch.backends.cuda
    cuda.enable_math_sdp(True)
    cuda.enable_flash_sdp(backend in ("auto", "flash"))
    cuda.enable_mem_efficient_sdp(backend in ("auto", "efficient"))
    cuda.enable_cudnn_sdp(backend == "auto")


def prepare(pipeline, p: Hardware, device: torch.device, trains: bool):
    """A pipeline as the profile wants it on a device; returns it. trains: it is fine-tuned, not only asked."""
    use_attention(p.attention)
    if p.checkpointing and trains:
        for part in (pipeline.unet, pipeline.vae):
            part.enable_gradient_checkpointing()
    if p.offload and not trains and device.type == "cuda":
        pipeline.enable_model_cpu_offload(device=device)
        return pipeline
    if device.type == "cpu" and not trains:  # convolutions are a fifth faster forwards, and no faster backwards
        for part in filter(None, (pipeline.unet, getattr(pipeline, "vae", None))):
            part.to(memory_format=torch.channels_last)
    return pipeline.to(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, a GPU's or the computer's."""
    says = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in says)


def halved(batch: int, error: BaseException) -> int:
    """Half the batch after an error that says that memory ran out; raises any other error, and ParamsError where a batch of 1 fails."""
    if not is_out_of_memory(error):
        raise error
    if batch == 1:
        raise ParamsError(
            "A single image does not fit in memory; set hardware.precision=bfloat16, hardware.offload=true or, where gradients are taken,"
            " hardware.checkpointing=true, or use a larger machine."
        ) from None
    free_memory()
    return batch // 2


def free_memory() -> None:
    """Give back what nothing refers to any more, a GPU's too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_batches(call: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], batch: int) -> tuple[torch.Tensor, int]:
    """(call(*inputs) a batch at a time, the batch that fitted): it is halved until memory suffices."""
    while True:
        try:
            return torch.cat([call(*part) for part in zip(*(x.split(batch) for x in inputs), strict=True)]), batch
        except (RuntimeError, MemoryError) as error:
            batch = halved(min(batch, len(inputs[0])), error)
