"""One linear layer under each method: bytes saved for backward beside the floor of LoRA-FA, and time."""

import torch
from torch import nn

from benchmarks._harness import DTYPES, Adapter, measure, parser, report


def main() -> None:
    """Run from the command line."""
    options = parser(__doc__)
    options.add_argument("--width", type=int, default=4096, help="input and output features")
    options.set_defaults(batch=4)
    arguments = options.parse_args()
    torch.manual_seed(0)
    dtype = DTYPES[arguments.dtype]
    model = nn.ModuleDict({"linear": nn.Linear(arguments.width, arguments.width, bias=False)}).to(dtype)
    shape = (arguments.batch, arguments.sequence, arguments.width)
    x = torch.randn(shape).to(dtype).requires_grad_()

    adapter = Adapter(arguments.rank, arguments.dropout, ["linear"])
    results = measure(Single(model), lambda m: m(x), adapter, arguments.methods, arguments.rounds)
    floor = arguments.batch * arguments.sequence * arguments.rank * dtype.itemsize
    report(arguments, results, floor)


class Single(nn.Module):
    """A model of one linear layer."""

    def __init__(self, modules: nn.ModuleDict) -> None:
        super().__init__()
        self.linear = modules["linear"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


if __name__ == "__main__":
    main()
