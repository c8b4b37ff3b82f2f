"""What autograd functions are made of: types, which torch leaves out, and a signature that it need not look up."""

import inspect
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from torch import Tensor
from torch.autograd import Function

AnyFunction = TypeVar("AnyFunction", bound=type[Function])


class Context(Protocol):
    """What the forward pass leaves for backward: tensors, and attributes of any name."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Any, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors as `saved_tensors`."""

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for forward-mode derivatives."""

    def set_materialize_grads(self, value: bool) -> None:
        """Choose whether a gradient that is not there comes as zeros, or as None."""

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None: ...


class TensorFunction(Function):
    """An autograd function whose output is one tensor."""

    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *args: object, **kwargs: object) -> Tensor:
            """Call the function."""


def remembered(function: AnyFunction) -> AnyFunction:
    """Decorate an autograd function with a `setup_context`: torch reads its signature anew at each call."""
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    return function
