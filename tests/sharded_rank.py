"""Two ranks that train a student sharded by FSDP2, and by DDP; they write their losses.

A test spawns `rank_main`; the ranks meet by a file.
"""

import json
import warnings
from pathlib import Path

import torch
from torch import nn, optim
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import dukd
from dukd.networks import EDSRConfig, Network

RANKS, STEPS = 2, 2


def networks() -> tuple[Network, Network]:
    torch.manual_seed(0)
    student = EDSRConfig(scale=2, width=8, blocks=2).build()
    return student, EDSRConfig(scale=2, width=12, blocks=2).build()


def sharded(distiller: dukd.Distiller) -> nn.Module:
    """The student sharded block by block, then as a whole, as FSDP2 is used."""
    mesh = init_device_mesh("cpu", (RANKS,))
    for block in distiller.student.get_submodule("body"):
        fully_shard(block, mesh=mesh)
    fully_shard(distiller.student, mesh=mesh)
    return distiller


def trained(rank: int, *, shard: bool) -> list[dict[str, float]]:
    """The losses of this rank's half of each batch, step by step."""
    distiller = dukd.Distiller(dukd.DUKD(), *networks(), seed=3)
    module = sharded(distiller) if shard else DistributedDataParallel(distiller)
    optimizer = optim.Adam(module.parameters(), lr=1e-3)
    losses: list[dict[str, float]] = []
    for step in range(STEPS):
        rng = torch.Generator().manual_seed(step)
        lr, hr = torch.rand(4, 3, 12, 12, generator=rng), torch.rand(4, 3, 24, 24, generator=rng)
        own = slice(2 * rank, 2 * rank + 2)
        optimizer.zero_grad()
        named: dict[str, torch.Tensor] = module(lr[own], hr[own])
        torch.stack(list(named.values())).sum().backward()
        optimizer.step()
        losses.append({name: loss.item() for name, loss in named.items()})
    return losses


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # FSDP2 warns of views, which nobody writes into here
    place = Path(folder)
    init_process_group("gloo", f"file://{place / 'meet'}", rank=rank, world_size=RANKS)
    found = {name: trained(rank, shard=name == "fsdp2") for name in ("ddp", "fsdp2")}
    (place / f"losses-{rank}.json").write_text(json.dumps(found))
    destroy_process_group()
