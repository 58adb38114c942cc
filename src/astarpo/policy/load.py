"""One way to a policy: the embedded model, a local folder, an adapter over one of them, or a hub name."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from astarpo import native
from astarpo.errors import DataError, SettingsError
from astarpo.policy import adapters, liger, scoring, tiny
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.run import PolicySettings

FALLBACK = "arithmetic"
"""The embedded weights that an environment without weights of its own starts from: its tokenizer reads any text."""


def load_policy(settings: PolicySettings, environment: str) -> HuggingFacePolicy:
    """The policy that `settings` names, in evaluation mode, ready to play and to be trained.

    Args:
        settings: model, device, precision, and whether rules are told.
        environment: its name decides which embedded weights `tiny` means.

    Raises:
        DataError: the folder lacks a model or a tokenizer, cannot be read, or the model is not causal.
        SettingsError: no such embedded variant, no such device, or a package that the settings need is missing.
    """
    ours = settings.model == "tiny" or settings.model.startswith("tiny:")
    where = str(embedded(settings.model, environment)) if ours else settings.model
    adapter = Path(where) if (Path(where) / adapters.CONFIG).is_file() else None
    if adapter is not None:
        if settings.lora.rank:
            raise SettingsError(
                f"policy.model {where} is an adapter already and policy.lora.rank asks for another: leave rank at 0, "
                "and the one that is there goes on learning."
            )
        where = adapters.base_of(adapter)
    _check_folder(where, adapter)
    # transformers shows a bar for 0.3 M parameters; progress is ours to show.
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = _tokenizer(where)
        _check_kind(where, settings.model)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=getattr(torch, settings.dtype),
            output_loading_info=True,
            **_quantized(settings),
        )
    except (DataError, SettingsError):
        raise
    except Exception as error:  # the tokenizers and safetensors libraries raise bare exceptions
        todo = (
            "see to the files of that folder, or fetch them again"
            if Path(where).is_dir()
            else "check the name, the connection, and whether the hub wants you to log in, or name a folder"
        )
        raise DataError(f"cannot load the model {settings.model!r}: {adapters.in_short(error)}; {todo}.") from error
    model, info = loaded
    if info["missing_keys"]:
        # transformers fills them with random numbers and goes on.
        raise DataError(
            f"cannot load the model {settings.model!r}: its files lack {len(info['missing_keys'])} tensors, such as "
            f"{sorted(info['missing_keys'])[0]!r}; they are cut short or of another architecture."
        )
    device = _device(settings.device)
    if device.type == "cuda" and device.index is not None:
        # Triton launches on the current GPU, wherever its arguments are.
        torch.cuda.set_device(device)
    rules = settings.rules if settings.rules is not None else not (ours or _says_embedded(Path(where)))
    if settings.quantize == "none":
        model.to(device)
    else:
        model.requires_grad_(False)
    _check_causal(model, settings.model)
    if adapter is not None:
        adapters.read(adapter, model)
    elif settings.lora.rank:
        lora = settings.lora
        adapters.attach(model, rank=lora.rank, alpha=lora.alpha, target_modules=lora.target_modules)
    if settings.gradient_checkpointing:
        scoring.forget_activations(model)
    remarks = _kernels(model.eval(), settings)
    policy = HuggingFacePolicy(
        model,
        tokenizer,
        rules=rules,
        name=settings.model,
        forward=settings.forward,
        remarks=remarks,
        own_kernels=settings.kernels in ("auto", "native"),
    )
    if settings.kernels == "native" and not policy.natively:
        why = native.why_not() or (
            "they run a Qwen2, Qwen3, Llama or Mistral of 50 million float32 parameters at most, on a processor, whose "
            "layers learn themselves, under policy.forward auto or fused"
        )
        raise SettingsError(f"policy.kernels is native and they cannot be run: {why}; leave it at auto.")
    return policy


def _kernels(model: Any, settings: PolicySettings) -> list[str]:
    """Put Liger's kernels into the model where the settings want them; what is to be said where they are not."""
    if settings.kernels in ("torch", "native"):
        return []
    why = liger.why_not(model) or liger.attach(model)
    if settings.kernels == "liger" and why:
        raise SettingsError(f"policy.kernels is liger and they cannot be run: {why}; leave it at auto.")
    on_gpu = next(iter(model.parameters())).device.type == "cuda"
    return [f"PyTorch's own kernels train, which is slower than Liger's: {why}."] if why and on_gpu else []


def _check_kind(where: str, said: str) -> None:
    config = AutoConfig.from_pretrained(where)
    if getattr(config, "is_encoder_decoder", False) or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise DataError(
            f"cannot train {said!r}: {config.model_type} is no causal language model, it does not write text token by "
            "token; choose one that does, such as a Qwen2."
        )


@torch.inference_mode()
def _check_causal(model: Any, said: str) -> None:
    """What comes later must not change what was: encoders load as language models too, and see both ways."""
    device = next(iter(model.parameters())).device
    short, long = (torch.tensor([ids], device=device) for ids in ([1, 2], [1, 2, 3]))
    first, second = (model(input_ids=ids).logits[0, 0].float() for ids in (short, long))
    bound = 1e-3 if model.dtype == torch.float32 else 5e-2
    if float((first - second).abs().max()) > bound * float(first.abs().max()):
        raise DataError(
            f"cannot train {said!r}: what it says of a token depends on tokens after it, so it is no causal language "
            "model; choose one that is, such as a Qwen2."
        )


def _quantized(settings: PolicySettings) -> dict[str, Any]:
    """Arguments that load the weights in four bits, where asked for."""
    if settings.quantize == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        raise SettingsError(
            "policy.quantize nf4 needs the package bitsandbytes, which is not installed: pip install 'astarpo[qlora]', "
            "or leave it at none."
        )
    device = _device(settings.device)
    if device.type == "cpu":
        raise SettingsError(
            "policy.quantize nf4 needs a GPU: on a processor bitsandbytes packs the weights so that no gradient passes "
            "through them; set policy.device, or leave it at none."
        )
    kind = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
    )
    return {"quantization_config": kind, "device_map": {"": str(device)}}


def embedded(model: str, environment: str) -> Path:
    """The folder of the embedded model that `model`, tiny or tiny:VARIANT, means. Raises SettingsError: none ships."""
    variant = model.partition(":")[2]
    found = tiny.folder(environment, variant)
    if found is None and not variant:
        found = tiny.folder(FALLBACK)
    if found is None:
        raise SettingsError(
            f"there is no embedded model {model!r} for {environment}: known: {', '.join(tiny.shipped())}."
        )
    return found


def _tokenizer(where: str) -> Any:
    # For a Qwen2, AutoTokenizer keeps vocabulary and merges and puts Qwen's own splitting and NFC normalisation around
    # them, whatever tokenizer.json says: other ids than those the embedded model was trained on, and not lossless.
    if _says_embedded(Path(where)):
        return PreTrainedTokenizerFast.from_pretrained(where)
    return AutoTokenizer.from_pretrained(where)


def _check_folder(where: str, adapter: Path | None) -> None:
    folder = Path(where)
    if not folder.is_dir():
        if where.startswith((".", "/", "~")) or where.count("/") > 1:
            if adapter is not None:
                raise DataError(
                    f"the adapter {adapter} was trained on the model {where}, which is not there: put it back, or "
                    f"write its new place into {adapter / adapters.CONFIG} as base_model_name_or_path."
                )
            raise DataError(f"there is no model folder {where}: check the path.")
        return
    if not (folder / "config.json").exists():
        raise DataError(f"{folder} holds no config.json: name the folder of a Hugging Face causal model or of a run.")
    if not any(
        (folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
    ):
        raise DataError(f"the model folder {folder} has no tokenizer: save one beside the weights (tokenizer.json).")


def _says_embedded(folder: Path) -> bool:
    """Whether the folder holds a model that grew out of an embedded one, which never reads rules."""
    config = folder / "config.json"
    return config.exists() and bool(json.loads(config.read_text("utf-8")).get("astarpo_embedded", False))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"policy.device {name!r} is not a device: write auto, cpu, cuda or cuda:N.") from error
    own = torch.accelerator.current_accelerator()
    count = torch.accelerator.device_count() if own is not None and own.type == device.type else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        raise SettingsError(
            f"policy.device is {name!r} but {count or 'no'} GPU of that kind is visible to torch: use auto or cpu."
        )
    return device
