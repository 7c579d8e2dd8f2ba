"""Checks of what lies on disks: shards, weights bundle, run folder, and room for what the run will write."""

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path

from cxr_dist.data.origin import is_remote
from cxr_dist.data.place import open_store, shards_folder, stage_root
from cxr_dist.data.read import reader
from cxr_dist.doctor.dry_run import num_parameters
from cxr_dist.doctor.finding import Finding, Setting, failed, ok, warning
from cxr_dist.errors import UserError
from cxr_dist.files import holds_something
from cxr_dist.format.manifest import Manifest, load_manifest
from cxr_dist.format.shard_list import column
from cxr_dist.model.image_encoder import image_encoder_kind
from cxr_dist.model.weights import bundle_folder, component_weights, text_source, verify_component
from cxr_dist.run.folder import check_same_run
from cxr_dist.train.assembly import check_against

_SHM = Path("/dev/shm")
_BATCHES_AHEAD = 5  # of a loader worker: 4 that wait and one that it fills
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
_SHARDS_NAMED = 3


def shards(setting: Setting) -> Finding:
    """Whether the manifest opens and all shards have its sizes; their sha256 is for `cxr-dist verify`."""
    config = setting.config
    folder = shards_folder(config.data)
    manifest = load_manifest(folder)
    check_against(config, manifest)
    entries = [entry for split in manifest.splits.values() for entry in split.shards]
    counts = ", ".join(f"{name} {split.samples}" for name, split in manifest.splits.items())
    size = in_words(sum(entry.bytes for entry in entries))
    found = f"{len(entries)} shards, {size}; samples: {counts}"
    if is_remote(config.data.shards):
        return ok(f"{found}; sizes are checked as shards are copied")
    wrong = [entry.file for entry in entries if size_of(folder / entry.file) != entry.bytes]
    wrong += [entry.index for entry in entries if size_of(folder / entry.index) is None]
    if wrong:
        named = ", ".join(wrong[:_SHARDS_NAMED]) + (", …" if len(wrong) > _SHARDS_NAMED else "")
        return failed(
            f"{len(wrong)} of {2 * len(entries)} files are missing or have other sizes than the manifest: {named}",
            "copy them again; `cxr-dist verify SHARDS` lists all that is wrong",
        )
    return ok(f"{found}; all sizes fit")


def size_of(path: Path) -> int | None:
    """Bytes; None where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def one_sample(setting: Setting) -> Finding:
    """Read and decode the first training sample as training does; a local folder is not staged for that."""
    data = setting.config.data
    if not is_remote(data.shards):
        data = dataclasses.replace(data, stage_dir="none")
    manifest = load_manifest(shards_folder(data))
    store = open_store(data, manifest, "train")
    try:
        size = data.image_size if setting.config.model.uses_image else None
        found = reader(store, manifest.image["short_side"], size)(0, 0)
    finally:
        store.close()
    height_width = f"{found['jpg'].shape[0]} × {found['jpg'].shape[1]} pixels" if size else "text only"
    return ok(f"read and decoded: {height_width}")


def bundle(setting: Setting) -> Finding:
    """The pretrained weights that the run needs: present, as fetched (sha256), and of which revision."""
    model, folder = setting.config.model, bundle_folder(setting.config.model.weights)
    facts = []
    image = image_encoder_kind(model.image_encoder).component if model.uses_image else None
    if model.pretrained and image is not None:
        component_weights(folder, image)
        facts.append(_component(folder / image))
    text = text_source(model) if model.uses_text else None
    if text is not None:
        verify_component(text)
        if model.pretrained and not (text / "model.safetensors").is_file():
            return failed(
                f"the text encoder {text.name} has no model.safetensors",
                "run `cxr-dist fetch` on a machine with network, or use --model.pretrained false",
            )
        facts.append(_component(text))
    return ok("; ".join(facts) if facts else "none needed: the encoders start from random numbers")


def _component(folder: Path) -> str:
    record = folder / "bundle.json"
    if not record.is_file():
        return f"{folder.name}: a folder of your own, with no sha256 to check"
    source = json.loads(record.read_text())["source"]
    revision = f"revision {source['revision'][:12]}" if "revision" in source else "torchvision's file"
    return f"{folder.name}: {revision}, sha256 as fetched"


def run_folder(setting: Setting) -> Finding:
    """Whether the run folder is free or this run's, and can be written."""
    folder = setting.config.run_dir
    check_same_run(folder, setting.config)
    if holds_something(folder) and not (folder / "config.yaml").is_file():
        return failed(f"{folder} is not empty and holds no run", "choose another --out")
    existing = nearest_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing, prefix=".cxr-dist-doctor-") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return failed(
            f"{existing} cannot be written ({error.strerror})", "choose another --out, or free some space"
        )
    steps = sorted(folder.glob("checkpoints/step-*"))
    if steps:
        return ok(f"this run's; it would resume from {steps[-1].name} or one before")
    return ok(f"free, on {file_system(existing)}, which can be written")


def room_for_checkpoints(setting: Setting) -> Finding:
    """Free space beside what the run's checkpoints will take: the newest, the best, and one being written."""
    config, folder = setting.config, setting.config.run_dir
    size = checkpoint_bytes(setting, load_manifest(shards_folder(config.data)))
    free = shutil.disk_usage(nearest_existing(folder)).free
    if size is None:
        return ok(f"{in_words(free)} free; the size of a checkpoint shows when the run starts")
    there = len(list(folder.glob("checkpoints/step-*")))
    needed = max(1, config.train.keep_checkpoints + 2 - there)
    found = f"{in_words(free)} free, {needed} checkpoints of {in_words(size)} to come"
    if free < needed * size:
        return failed(found, "free some space, choose another --out, or lower --train.keep-checkpoints")
    return ok(f"{found}; a quota is not seen")


def checkpoint_bytes(setting: Setting, manifest: Manifest) -> int | None:
    """Weights and two Adam moments of every parameter, and the averaged weights if any; None: not known yet."""
    config = setting.config
    parameters = num_parameters(config, len(manifest.classes))
    if parameters is None:
        return None
    copies = 4 if config.optim.ema_decay else 3
    return copies * parameters * (8 if config.precision == "fp64" else 4)


def gradient_bytes(setting: Setting) -> int | None:
    """What crosses ranks in a step; None where it is not known yet, or the model cannot be made."""
    try:
        classes = load_manifest(shards_folder(setting.config.data)).classes
        parameters = num_parameters(setting.config, len(classes))
    except UserError:
        return None
    return parameters and parameters * (8 if setting.config.precision == "fp64" else 4)


def room_for_staging(setting: Setting) -> Finding:
    """Free space for copies of shards on the node's disk; 5% of it stay free."""
    data = setting.config.data
    root = stage_root(data)
    if root is None:
        return ok("none needed: shards are read where they lie")
    place = nearest_existing(root)
    if not os.access(place, os.W_OK):
        return failed("the staging folder cannot be written", "name another one with --data.stage-dir")
    disk, kind = shutil.disk_usage(place), file_system(place)
    sizes = column(load_manifest(shards_folder(data)).split("train").shards, "bytes")
    room = disk.free - disk.total // 20
    room = min(room, int(data.stage_gib * 2**30)) if data.stage_gib else room
    wanted = min(int(sizes.sum()), int(sizes.max()) * (data.shuffle_shards + 1) * _lanes_on_node(setting))
    found = f"{in_words(room)} for copies on {kind}; {in_words(wanted)} avoid copying twice"
    if room < sizes.max():
        return failed(found, "free some, or name a folder on another disk with --data.stage-dir")
    if kind in _MEMORY_FILE_SYSTEMS:
        return warning(
            f"{found}: copies would fill the memory", "name a folder on a disk with --data.stage-dir"
        )
    if room < wanted:
        return warning(
            found, "free some, raise --data.stage-gib, or lower --data.shuffle-shards in a new run"
        )
    return ok(found)


def _lanes_on_node(setting: Setting) -> int:
    data = setting.config.data
    lanes = data.global_batch if data.micro_batch == "auto" else data.num_lanes
    return max(1, lanes * setting.ranks_on_node // setting.world.world_size)


def shared_memory(setting: Setting) -> Finding:
    """Room in /dev/shm, through which loader workers hand over their batches."""
    data = setting.config.data
    if data.workers == 0:
        return ok("none needed: no loader workers")
    if not _SHM.is_dir():
        return failed("no /dev/shm, which loader workers need", "mount it, or set --data.workers 0")
    batch = max(data.global_batch if data.micro_batch == "auto" else data.micro_batch, data.evaluation_batch)
    per_sample = data.image_size**2 + 16 * data.max_tokens  # grey bytes, token ids and their mask
    needed = _BATCHES_AHEAD * data.workers * setting.ranks_on_node * batch * per_sample
    free = shutil.disk_usage(_SHM).free
    found = f"{in_words(free)} free in /dev/shm, about {in_words(needed)} needed"
    if free < needed:
        return failed(found, "enlarge it (containers: --shm-size), or lower --data.workers")
    return ok(found)


def run_folder_place(setting: Setting) -> Path:
    """The run folder, or where it would be made."""
    return nearest_existing(setting.config.run_dir)


def in_words(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def nearest_existing(path: Path) -> Path:
    """The path, or the first of its parents that is there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def file_system(path: Path) -> str:
    """Kind of file system that holds a path (ext4, nfs4, lustre, tmpfs, …), as /proc/mounts says."""
    table = Path("/proc/mounts")
    mounts = [line.split()[1:3] for line in table.read_text().splitlines()] if table.is_file() else []
    holding = [(len(at), kind) for at, kind in mounts if path.resolve().is_relative_to(at)]
    return max(holding, key=lambda mount: mount[0])[1] if holding else "an unknown file system"
