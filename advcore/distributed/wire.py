"""Send numbers, tensors and nested values between processes."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from advcore.distributed.group import size
from advcore.errors import AdvcoreError
from advcore.files import join_tree, pack, split_tree, unpack
from advcore.runtime.out_of_memory import is_out_of_memory

Tree = TypeVar("Tree")  # nested dicts and lists of tensors and plain values


@contextlib.contextmanager
def name_lost_process() -> Iterator[None]:
    """Raise an AdvcoreError of one line in place of torch's error where another process has ended."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise AdvcoreError(f"another process of the run has ended: {message}") from None


def carrier_of(tensor: Tensor) -> Tensor:
    """Return the tensor on a device from which the group can send it."""
    backends = str(dist.get_backend_config())
    if tensor.is_cuda:
        return tensor if "nccl" in backends else tensor.cpu()
    return tensor if "gloo" in backends else tensor.cuda()


@name_lost_process()
def reduce_numbers(numbers: Sequence[float], how: dist.ReduceOp.RedOpType, dtype: torch.dtype = torch.int64) -> list:
    """Reduce each number over the processes; one process alone keeps its numbers as they are."""
    if size() == 1:
        return list(numbers)
    carrier = carrier_of(torch.tensor(numbers, dtype=dtype))
    dist.all_reduce(carrier, how)
    return carrier.tolist()


def gather_values(tree: Tree) -> list[Tree]:
    """Return what each process gives, in their order: nested dicts and lists of tensors and plain values."""
    if size() == 1:
        return [tree]
    return [cast(Tree, unpack(decode_bytes(part))) for part in gather_parts(encode_bytes(pack(tree)))[0]]


def gather_parts(*tensors: Tensor) -> list[list[Tensor]]:
    """Return each tensor (B_r, ...) of every process; all tensors of a process have one length B_r."""
    length = len(tensors[0])
    lengths = [int(n) for n in _gather_equal(torch.tensor([length]))]
    gathered = []
    for tensor in tensors:
        padding = tensor.new_zeros(max(lengths) - length, *tensor.shape[1:])
        parts = _gather_equal(torch.cat([tensor, padding]))
        gathered.append([part[:n] for part, n in zip(parts, lengths, strict=True)])
    return gathered


@name_lost_process()
def _gather_equal(tensor: Tensor) -> list[Tensor]:
    carrier = carrier_of(tensor.contiguous())
    parts = [torch.empty_like(carrier) for _ in range(size())]
    dist.all_gather(parts, carrier)
    return parts


def encode_bytes(content: bytes) -> Tensor:
    """Return bytes as a tensor (n,) uint8."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def decode_bytes(carrier: Tensor) -> bytes:
    """Return the bytes of a tensor (n,) uint8."""
    return bytes(carrier.cpu().numpy())


def send_tree(tree: object, other: int) -> None:
    """Send a tree to process `other`: the length of its description, the description, then each tensor separately."""
    tensors: dict[Tensor, int] = {}
    values = split_tree(tree, tensors)
    shapes = [[str(tensor.dtype)[6:], list(tensor.shape), tensor.is_cuda] for tensor in tensors]
    content = encode_bytes(json.dumps({"values": values, "tensors": shapes}).encode())
    with name_lost_process():
        for part in (torch.tensor([len(content)]), content, *tensors):
            dist.send(carrier_of(part.contiguous()), other)


def receive_tree(other: int, device: torch.device) -> object:
    """Receive a tree that process `other` sends; tensors that were on a GPU go to `device`, others stay on the CPU."""
    length = int(_receive(other, torch.int64, [1]))
    description = json.loads(decode_bytes(_receive(other, torch.uint8, [length])))
    tensors = {}
    for i, (dtype, shape, is_cuda) in enumerate(description["tensors"]):
        carrier = _receive(other, getattr(torch, dtype), shape, is_cuda)
        tensors[str(i)] = carrier.to(device if is_cuda else "cpu")
    return join_tree(description["values"], tensors)


@name_lost_process()
def _receive(other: int, dtype: torch.dtype, shape: Sequence[int], is_cuda: bool = False) -> Tensor:
    carrier = carrier_of(torch.empty(tuple(shape), dtype=dtype, device="cuda" if is_cuda else "cpu"))
    dist.recv(carrier, other)
    return carrier


@name_lost_process()
def broadcast_bytes(content: bytes | None) -> bytes:
    """Return, in all processes, the bytes of the first process; the others give None."""
    carrier = encode_bytes(b"?" if content is None else content)
    length = carrier_of(torch.tensor([len(carrier)]))
    dist.broadcast(length, 0)
    carrier = carrier_of(carrier.new_empty(int(length)) if content is None else carrier)
    dist.broadcast(carrier, 0)
    return decode_bytes(carrier)
