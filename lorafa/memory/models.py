"""Models by name, config file or hub id: their geometry, and the real classes built without weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from lorafa.memory.geometry import BUILT_IN, REPOSITORIES

HEADS: dict[str, Any] = {
    "causal-lm": AutoModelForCausalLM,
    "seq2seq-lm": AutoModelForSeq2SeqLM,
    "image-text-to-text": AutoModelForImageTextToText,
    "sequence-classification": AutoModelForSequenceClassification,
    "image-classification": AutoModelForImageClassification,
    "audio-classification": AutoModelForAudioClassification,
    "speech-seq2seq": AutoModelForSpeechSeq2Seq,
    "none": AutoModel,
}
# What a training step does at random, and an estimate does not: it masks spectra and drops whole blocks.
RANDOM = {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}


class ModelNotFoundError(ValueError):
    """The name is no built-in model, no config file, and no model that the hub (or its cache) has."""


def load_config(name: str) -> PretrainedConfig:
    """The configuration of a model.

    Args:
        name: A key of `BUILT_IN` or `REPOSITORIES`, the path of a config.json or of the directory that holds it, or
            another hub id; then, after a question mark, fields that differ: `phi-1.5?hidden_act=gelu_pytorch_tanh`,
            several joined by `&`.

    Raises:
        ModelNotFoundError: None of these; the message says what was tried.
    """
    name, _, query = name.partition("?")
    config = _config_named(name)
    for field, value in parse_qsl(query):
        if not hasattr(config, field):
            raise ModelNotFoundError(f"{name}: its configuration has no {field}")
        setattr(config, field, _value(value))
    return config


def _value(text: str) -> Any:
    """A value of JSON, or the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _config_named(name: str) -> PretrainedConfig:
    if (known := REPOSITORIES.get(name, name)) in BUILT_IN:
        return _config_of(BUILT_IN[known])
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
    if path.suffix == ".json":
        if not path.is_file():
            raise ModelNotFoundError(f"{path}: no such file")
        return _config_of_file(path)
    try:
        return cast(PretrainedConfig, AutoConfig.from_pretrained(name))  # sizes alone are read of it  # nosec B615
    except (OSError, ValueError) as error:
        known = ", ".join(BUILT_IN)
        raise ModelNotFoundError(
            f"{name!r} is neither built in ({known}), nor a config.json, nor given by the hub: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _config_of_file(path: Path) -> PretrainedConfig:
    try:
        return _config_of(json.loads(path.read_text()))
    except (json.JSONDecodeError, KeyError, ValueError, TypeError) as error:
        raise ModelNotFoundError(
            f"{path}: not the configuration of a transformers model ({error})"
        ) from error


def _config_of(values: dict[str, Any]) -> PretrainedConfig:
    return AutoConfig.for_model(**copy.deepcopy(values))


def head_of(config: PretrainedConfig) -> str:
    """The head that the model is fine-tuned with: a key of `HEADS`.

    Encoder-decoders and decoders generate; encoders, pretrained as masked models, classify; models of images and of
    sound classify, too; models of pictures and text write text. What has no such head is trained without one ("none").
    """
    architecture = (config.architectures or [""])[0]
    if config.is_encoder_decoder:
        wanted = ["speech-seq2seq", "seq2seq-lm"]
    elif architecture.endswith(("ForMaskedLM", "ForSequenceClassification", "ForPreTraining")) or (
        config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    ):
        wanted = ["sequence-classification"]
    else:
        wanted = ["causal-lm", "image-text-to-text", "sequence-classification"]
    wanted += ["image-classification", "audio-classification"]
    return next((head for head in wanted if type(config) in HEADS[head]._model_mapping), "none")


def class_of(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The model class with that head.

    Raises:
        ModelNotFoundError: There is none.
    """
    try:
        found = HEADS[head_of(config)]._model_mapping[type(config)]
    except KeyError as error:
        raise ModelNotFoundError(f"{config.model_type}: transformers has no model class for it") from error
    first: type[PreTrainedModel] = found[0] if isinstance(found, list | tuple) else found
    return first


def attention_of(config: PretrainedConfig, asked: str) -> str:
    """The attention that is run where `asked` is: "eager" where the model class has no other, else "sdpa" for flash."""
    return "sdpa" if asked != "eager" and class_of(config)._supports_sdpa else "eager"


def depths(config: PretrainedConfig) -> list[str]:
    """Names of the configuration's fields that hold the depth of a stack of blocks."""
    names = ["encoder_layers"] if config.is_encoder_decoder and hasattr(config, "encoder_layers") else []
    names = names or [config.attribute_map.get("num_hidden_layers", "num_hidden_layers")]
    if config.is_encoder_decoder:
        names += [name for name in ("num_decoder_layers", "decoder_layers") if hasattr(config, name)][:1]
    return [name for name in names if isinstance(getattr(config, name, None), int)]


def depth_of(config: PretrainedConfig) -> int:
    """Blocks in the (deepest) stack; 0 if the configuration does not say."""
    return max((getattr(config, name) for name in depths(config)), default=0)


def build(config: PretrainedConfig, dtype: torch.dtype, attention: str = "eager") -> PreTrainedModel:
    """The real model class, with no weights: every parameter is on the meta device, tied ones are tied.

    Args:
        config: Geometry; its copy has `use_cache` off, as for training.
        dtype: Of the parameters.
        attention: "eager" or "sdpa".
    """
    config = copy.deepcopy(config)
    config.use_cache = False  # before a model copies it for its decoder
    for name, value in RANDOM.items():
        if hasattr(config, name):
            setattr(config, name, value)
    if head_of(config) == "sequence-classification" and config.problem_type is None:
        # What the class of the labels says; DeBERTa would look at the labels themselves.
        config.problem_type = "regression" if config.num_labels == 1 else "single_label_classification"
    with torch.device("meta"):
        model = class_of(config)._from_config(config, dtype=dtype, attn_implementation=attention)
    return cast(PreTrainedModel, model)


class WithoutInit(TorchFunctionMode):
    """Skips `torch.nn.init`: parameters on the meta device have no values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def with_new_storage(model: nn.Module) -> None:
    """Replace every parameter and buffer by an uninitialised CPU one, in place, keeping ties.

    Under a `FakeTensorMode` the new ones are fake: they have a size and no memory.
    """
    memo: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for store in _stores(module):
            for name, old in store.items():
                if old is not None and not isinstance(old, FakeTensor):
                    if id(old) not in memo:
                        memo[id(old)] = _replacement(old)
                    store[name] = memo[id(old)]


def _stores(module: nn.Module) -> Iterable[dict[str, Any]]:
    return module._parameters, module._buffers, getattr(module, "prompt_tokens", {})  # the last are PEFT's


def _replacement(old: torch.Tensor) -> torch.Tensor:
    new = torch.empty(old.shape, dtype=old.dtype)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
