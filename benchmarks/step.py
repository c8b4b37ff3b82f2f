"""A training step of a model under each method: bytes saved for backward, peak memory and time."""

from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from benchmarks._harness import DTYPES, Adapter, measure, parser, report
from lorafa.targets import select_targets

VOCABULARY = 32_000


class LlamaLayer(nn.Module):
    """One decoder layer with random weights, of LLaMA-7B if no other configuration is given."""

    def __init__(self, config: transformers.LlamaConfig | None = None) -> None:
        super().__init__()
        config = config or transformers.LlamaConfig()  # hidden 4096, 32 heads, intermediate 11008
        config._attn_implementation = "sdpa"
        self.layers = nn.ModuleList([LlamaDecoderLayer(config, 0)])
        self.rotary = LlamaRotaryEmbedding(config)

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)[None]
        with torch.no_grad():
            embeddings = self.rotary(x, positions)
        return self.layers[0](x, position_embeddings=embeddings)


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=8,
    )
    return transformers.LlamaForCausalLM(config)


def _t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=512,
        d_kv=64,
        d_ff=2048,
        num_layers=4,
        num_heads=8,
    )
    config.decoder_start_token_id = 0
    return transformers.T5ForConditionalGeneration(config)


def _roberta() -> nn.Module:
    config = transformers.RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=4,
        num_attention_heads=12,
    )
    return transformers.RobertaForSequenceClassification(config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama-7b-layer": LlamaLayer,
    "llama": _llama,
    "t5": _t5,
    "roberta": _roberta,
}


def _data(name: str, batch: int, sequence: int, dtype: torch.dtype) -> Callable[[nn.Module], Tensor]:
    """Fixed data for a model, as the function that runs a model on it to its output or loss."""
    if name == "llama-7b-layer":
        x = torch.randn(batch, sequence, 4096).to(dtype).requires_grad_()
        return lambda model: model(x)
    ids = torch.randint(10, 500, (batch, sequence))
    labels = torch.randint(2, (batch,)) if name == "roberta" else ids
    return lambda model: model(input_ids=ids, labels=labels).loss


def main() -> None:
    """Run from the command line."""
    options = parser(__doc__)
    options.add_argument("--model", choices=MODELS, default="llama-7b-layer")
    options.set_defaults(batch=2)
    arguments = options.parse_args()
    torch.manual_seed(0)
    dtype = DTYPES[arguments.dtype]
    model = MODELS[arguments.model]().to(dtype)
    adapter = Adapter(arguments.rank, arguments.dropout, select_targets(model, "all-linear"))
    forward = _data(arguments.model, arguments.batch, arguments.sequence, dtype)
    report(arguments, measure(model, forward, adapter, arguments.methods, arguments.rounds))


if __name__ == "__main__":
    main()
