"""Read the training streams of all ranks one after the other."""

from cxr_dist.data.loader import training_batches, training_plan
from cxr_dist.distributed.world import World, lanes_of


def lane_batches(data, manifest, seed, *, steps, first_step=0, world_size=1):
    """Yield ((step, lane), batch) for `steps` steps of every rank, with images and without reports."""
    plan = training_plan(data, manifest, seed)
    for rank in range(world_size):
        lanes = lanes_of(World(rank=rank, world_size=world_size), plan.num_lanes)
        stream = training_batches(
            data, manifest, plan, lanes=lanes, first_step=first_step, tokenizer=None, with_images=True
        )
        for step in range(first_step, first_step + steps):
            for lane in lanes:
                yield (step, lane), next(stream)
