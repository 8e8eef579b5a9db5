"""Models whose training does not fit on one GPU: each process keeps a share of every
tensor.

Adam needs 16 bytes a weight (the weight, its gradient, two moments) and the average 4
more: 45 GB for the paper's 2.3 billion in its decoder, on every GPU, if each keeps them
all. Fully sharded data parallel (FSDP, the idea of ZeRO, arXiv 1910.02054) splits all
of that among the processes. Before a block computes, its weights are gathered; after
it, they are let go; gradients are summed and split again in one operation.

    one process of N holds     weights, gradients, moments, average: 1/N of each, and one block's weights in full

What is a block, the model says: a class with the attribute `gathered_alone = True` is
gathered and let go by itself, all other weights belong to the whole. (A module whose
weights others use from outside must not have the mark: `UNet` reads those of its
attention so.)

`accelerate launch --use_fsdp` or `dalle2-edu train --fsdp` turns it on. A checkpoint
holds whole tensors, so that it can be read, published, or gone on with by any number of
processes, sharded or not.

Chapter 24 uses this file.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dalle2_edu.errors import Dalle2EduError


def shard(module: nn.Module, accelerator: Accelerator) -> None:
    """Split a module's parameters among the processes, in place, from the first
    process's values.
    """
    if accelerator.num_processes < 2:
        raise Dalle2EduError(
            "--fsdp shares a model among several processes, and there is one: "
            "torchrun --nproc-per-node 2 -m dalle2_edu.cli train ..."
        )
    module.to(accelerator.device)
    for tensor in module.state_dict().values():
        torch.distributed.broadcast(tensor, src=0)  # all start from the first's values
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    # Weights travel as what computes with them; gradients are summed in full precision.
    half = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    # blocks first: what is left belongs to the whole
    for block in module.modules():
        if getattr(block, "gathered_alone", False):
            fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts; every process must ask. One that is not sharded is
    given back as it is.
    """
    # an operation of all processes: if one does not ask, the others wait for ever
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole copies on the CPU, gathered one after the other: never more than one whole
    tensor on a GPU.
    """
    copies = {}
    for name, tensor in tensors.items():
        copies[name] = whole(tensor.detach()).to("cpu", copy=True)
    return copies


@torch.no_grad()
def fill(target: Tensor, values: Tensor) -> None:
    """Copy whole values into a tensor, or each process its part of them into a sharded
    one.
    """
    if isinstance(target, DTensor):
        here = values.to(target.device)
        values = distribute_tensor(here, target.device_mesh, target.placements)
    target.copy_(values)


def fill_module(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """As `load_state_dict`, for a module that may be sharded."""
    for name, target in module.state_dict().items():
        fill(target, tensors[name])
