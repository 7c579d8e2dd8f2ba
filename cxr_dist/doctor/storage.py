"""Checks of files and disks: shards, weights bundle, run folder, and free space for what the run will write."""

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

from cxr_dist.config.decode import parse_record
from cxr_dist.data.origin import is_remote
from cxr_dist.data.place import open_manifest, open_store, shards_folder, stage_root
from cxr_dist.data.read import reader
from cxr_dist.doctor.dry_run import num_parameters
from cxr_dist.doctor.finding import Finding, Setting, failed, ok, warning
from cxr_dist.errors import UserError
from cxr_dist.files import holds_something
from cxr_dist.format.manifest import Manifest
from cxr_dist.format.shard_list import column
from cxr_dist.model.image_encoder import image_kind
from cxr_dist.model.weights import bundle_folder, text_source, verify_component
from cxr_dist.run.folder import check_same_run, with_recorded_class_weights
from cxr_dist.run.image_weights import check_image_weights
from cxr_dist.train.assembly import check_against
from cxr_dist.train.started_from import source_of

_SHM = Path("/dev/shm")
_BATCHES_AHEAD = 5  # per loader worker: 4 that are queued and one that is being filled
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
_SHARDS_NAMED = 3


def shards(setting: Setting) -> Finding:
    """Check that the manifest opens and that all shards have its sizes; `cxr-dist verify` checks their sha256."""
    config = setting.config
    folder = shards_folder(config.data)
    manifest = open_manifest(config.data)
    check_against(config, manifest)
    entries = [entry for split in manifest.splits.values() for entry in split.shards]
    counts = ", ".join(f"{name} {split.samples}" for name, split in manifest.splits.items())
    size = size_in_words(sum(entry.bytes for entry in entries))
    found = f"{len(entries)} shards, {size}; samples: {counts}"
    if is_remote(config.data.shards):
        return ok(f"{found}; sizes are checked when shards are copied")
    wrong = [entry.file for entry in entries if size_of(folder / entry.file) != entry.bytes]
    wrong += [entry.index for entry in entries if size_of(folder / entry.index) is None]
    if wrong:
        named = ", ".join(wrong[:_SHARDS_NAMED]) + (", …" if len(wrong) > _SHARDS_NAMED else "")
        return failed(
            f"{len(wrong)} of {2 * len(entries)} files are missing or differ from the manifest in size: {named}",
            "copy them again; `cxr-dist verify SHARDS` lists all faults",
        )
    return ok(f"{found}; all sizes agree with the manifest")


def size_of(path: Path) -> int | None:
    """Return the size of a file in bytes; None if there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def one_sample(setting: Setting) -> Finding:
    """Read and decode the first training sample as training does, without staging a local folder."""
    data = setting.config.data
    if not is_remote(data.shards):
        data = dataclasses.replace(data, stage_dir="none")
    manifest = open_manifest(data)
    store = open_store(data, manifest, "train")
    try:
        size = data.image_size if setting.config.model.uses_image else None
        sample = reader(store, manifest.image["short_side"], size)(0, 0)
    finally:
        store.close()
    height_width = f"{sample['jpg'].shape[0]} × {sample['jpg'].shape[1]} pixels" if size else "text only"
    return ok(f"read and decoded: {height_width}")


def bundle(setting: Setting) -> Finding:
    """Check that the pretrained weights of the run are present and have the sha256 with which they were fetched."""
    model, folder = setting.config.model, bundle_folder(setting.config.model.weights)
    if model.init_from:
        source_of(setting.config)
        return ok("none needed: the encoders start from those of --model.init-from")
    facts = []
    started_from = check_image_weights(setting.config)
    image = image_kind(setting.config) if model.pretrained and not model.image_weights else None
    if started_from:
        facts.append(started_from.in_words())
    elif image is not None and image.weights(folder) is not None:
        facts.append("the image encoder's folder" if image.component is None else _component(folder / image.component))
    text = text_source(model) if model.uses_text else None
    if text is not None:
        verify_component(text)
        if model.pretrained and not (text / "model.safetensors").is_file():
            return failed(
                f"the text encoder {text.name} has no model.safetensors",
                "run `cxr-dist fetch` on a machine with network, or use --model.pretrained false",
            )
        facts.append(_component(text))
    return ok("; ".join(facts) if facts else "none needed: the encoders start from random weights")


def _component(folder: Path) -> str:
    record = folder / "bundle.json"
    if not record.is_file():
        return f"{folder.name}: your own folder, without a sha256 to check"
    source = parse_record(record, record.name).get("source", {})
    revision = f"revision {source['revision'][:12]}" if "revision" in source else "torchvision's file"
    return f"{folder.name}: {revision}, sha256 as fetched"


def run_folder(setting: Setting) -> Finding:
    """Check that the run folder is free or belongs to this run, and can be written."""
    folder = setting.config.run_dir
    check_same_run(folder, with_recorded_class_weights(setting.config))
    if holds_something(folder) and not (folder / "config.yaml").is_file():
        return failed(f"{folder} is not empty and contains no run", "choose another --out")
    existing = nearest_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing, prefix=".cxr-dist-doctor-") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return failed(f"{existing} cannot be written ({error.strerror})", "choose another --out, or free some space")
    steps = sorted(folder.glob("checkpoints/step-*"))
    if steps:
        return ok(f"contains this run, which would resume from {steps[-1].name} or an earlier checkpoint")
    return ok(f"free, on {file_system(existing)}, which can be written")


def room_for_checkpoints(setting: Setting) -> Finding:
    """Compare the free space with the size of the run's checkpoints: the newest, the best, and one being written."""
    config, folder = setting.config, setting.config.run_dir
    size = checkpoint_bytes(setting, open_manifest(config.data))
    free = shutil.disk_usage(nearest_existing(folder)).free
    if size is None:
        return ok(f"{size_in_words(free)} free; the size of a checkpoint is known once the run starts")
    written = len(list(folder.glob("checkpoints/step-*")))
    needed = max(1, config.train.keep_checkpoints + 2 - written)
    found = f"{size_in_words(free)} free, {needed} checkpoints of {size_in_words(size)} to come"
    if free < needed * size:
        return failed(found, "free some space, choose another --out, or lower --train.keep-checkpoints")
    return ok(f"{found}; quotas are not checked")


def checkpoint_bytes(setting: Setting, manifest: Manifest) -> int | None:
    """Return the bytes of weights, two Adam moments and averaged weights, if any; None if not known yet."""
    config = setting.config
    parameters = num_parameters(config, len(manifest.classes))
    if parameters is None:
        return None
    copies = 4 if config.optim.ema_decay else 3
    return copies * parameters * (8 if config.precision == "fp64" else 4)


def gradient_bytes(setting: Setting) -> int | None:
    """Return the bytes of the gradients that are summed in a step; None if not known yet."""
    try:
        classes = open_manifest(setting.config.data).classes
        parameters = num_parameters(setting.config, len(classes))
    except UserError:
        return None
    return parameters and parameters * (8 if setting.config.precision == "fp64" else 4)


def room_for_staging(setting: Setting) -> Finding:
    """Check the free space for copies of shards on the node's disk, of which 5% remain free."""
    data = setting.config.data
    root = stage_root(data)
    if root is None:
        return ok("none needed: shards are read in place")
    place = nearest_existing(root)
    if not os.access(place, os.W_OK):
        return failed("the staging folder cannot be written", "choose another one with --data.stage-dir")
    disk, kind = shutil.disk_usage(place), file_system(place)
    sizes = column(open_manifest(data).split("train").shards, "bytes")
    room = disk.free - disk.total // 20
    room = min(room, int(data.stage_gib * 2**30)) if data.stage_gib else room
    wanted = min(int(sizes.sum()), int(sizes.max()) * (data.shuffle_shards + 1) * _lanes_on_node(setting))
    found = f"{size_in_words(room)} for copies on {kind}; {size_in_words(wanted)} avoid copying twice"
    if room < sizes.max():
        return failed(found, "free some space, or choose a folder on another disk with --data.stage-dir")
    if kind in _MEMORY_FILE_SYSTEMS:
        return warning(f"{found}: copies would fill the memory", "choose a folder on a disk with --data.stage-dir")
    if room < wanted:
        return warning(found, "free some space, raise --data.stage-gib, or lower --data.shuffle-shards in a new run")
    return ok(found)


def _lanes_on_node(setting: Setting) -> int:
    data = setting.config.data
    lanes = data.global_batch if data.micro_batch == "auto" else data.num_lanes
    return max(1, lanes * setting.ranks_on_node // setting.world.world_size)


def shared_memory(setting: Setting) -> Finding:
    """Check the free space in /dev/shm, through which loader workers pass their batches."""
    data = setting.config.data
    if data.workers == 0:
        return ok("none needed: no loader workers")
    if not _SHM.is_dir():
        return failed("no /dev/shm, which loader workers need", "mount it, or set --data.workers 0")
    batch = max(data.global_batch if data.micro_batch == "auto" else data.micro_batch, data.evaluation_batch)
    per_sample = data.image_size**2 + 16 * data.max_tokens  # bytes of the image, token ids and their mask
    needed = _BATCHES_AHEAD * data.workers * setting.ranks_on_node * batch * per_sample
    free = shutil.disk_usage(_SHM).free
    found = f"{size_in_words(free)} free in /dev/shm, about {size_in_words(needed)} needed"
    if free < needed:
        return failed(found, "enlarge it (containers: --shm-size), or lower --data.workers")
    return ok(found)


def size_in_words(size: int) -> str:
    """Format a number of bytes in GiB or MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def nearest_existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def file_system(path: Path) -> str:
    """Return the type of the file system of a path (ext4, nfs4, lustre, tmpfs, …) according to /proc/mounts."""
    table = Path("/proc/mounts")
    mounts = [line.split()[1:3] for line in table.read_text().splitlines()] if table.is_file() else []
    holding = [(len(at), kind) for at, kind in mounts if path.resolve().is_relative_to(at)]
    return max(holding, key=lambda mount: mount[0])[1] if holding else "an unknown file system"
