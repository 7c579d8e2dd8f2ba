"""Decide from the configuration and the environment where shards are read, and open a ShardStore there.

A local folder is staged only if data.stage_dir is set or the site sets $SLURM_TMPDIR, which is a folder on the node's
own disk for this purpose. $TMPDIR alone does not turn staging on, because laptops and login nodes set it too. Shards
at a URL cannot be read in place, so they are always staged.
"""

import contextlib
import dataclasses
import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cxr_dist.config.data import DataConfig
from cxr_dist.data.origin import STAGE_FOLDER, fetch_file, fetch_manifest, is_remote
from cxr_dist.data.stage import StagedShards
from cxr_dist.data.stage_space import StageSpace
from cxr_dist.data.store import ShardStore
from cxr_dist.errors import UserError, require
from cxr_dist.files import sha256_of, write_whole
from cxr_dist.format.folds import of_fold
from cxr_dist.format.manifest import Manifest, load_manifest, tables_in
from cxr_dist.format.shard_list import column


def open_store(data: DataConfig, manifest: Manifest, split: str) -> ShardStore:
    """Open a split's samples in place or from staged copies; raises UserError if they cannot be staged."""
    root = stage_root(data)
    if root is None:
        return ShardStore(Path(data.shards), manifest, split)
    shards = manifest.split(split).shards
    largest = shards[int(column(shards, "bytes").argmax())]
    limit_bytes = int(data.stage_gib * 2**30)
    if 0 < limit_bytes < largest.bytes:
        raise UserError(
            f"data.stage_gib {data.stage_gib:g} does not hold one shard: {largest.file} has "
            f"{largest.bytes / 2**30:.3g} GiB; choose a larger limit"
        )
    folder = _dataset_folder(root, sha256_of(shards_folder(data) / "manifest.json"))
    stage = StagedShards(data.shards, folder, StageSpace(root=folder.parent, limit_bytes=limit_bytes))
    return ShardStore(folder, manifest, split, stage)


def shards_folder(data: DataConfig) -> Path:
    """The local folder that holds manifest.json: `data.shards`, or the folder that it was fetched to from a URL."""
    root = stage_root(data)
    if not is_remote(data.shards) or root is None:
        return Path(data.shards)
    content = fetch_manifest(data.shards)
    folder = _dataset_folder(root, hashlib.sha256(content).hexdigest())
    for table, sha256 in tables_in(content.decode("utf-8", "replace")).items():
        if not (folder / table).is_file() or sha256_of(folder / table) != sha256:
            partial = folder / f"{table}.{os.getpid()}.partial"
            fetch_file(data.shards, table, partial)
            partial.replace(folder / table)
    if not (folder / "manifest.json").is_file():
        write_whole(folder / "manifest.json", content)
    return folder


def open_manifest(data: DataConfig, flag: str = "--data.shards") -> Manifest:
    """The manifest of the shards, with the splits train, val and test of `data.fold` if the shards have folds.

    Raises UserError as `load_manifest` does, to which `flag` is passed, if no shards are given, and if `data.fold` does
    not fit the shards.
    """
    require(
        bool(data.shards),
        f"no shards are given: add {flag} SHARDS, a folder that `cxr-dist shard RECIPE.yaml --source DIR --out SHARDS` "
        "wrote",
    )
    return of_fold(load_manifest(shards_folder(data), flag), data.fold)


def at(data: DataConfig, shards: str | None) -> DataConfig:
    """The configuration for reading a trained run's shards, which have moved to `shards` unless that is None.

    The training job's staging folder is dropped, because it was on the disk of that job's node.
    """
    return dataclasses.replace(data, stage_dir="", shards=shards or data.shards)


def own_place(data: DataConfig, shards: str | None, manifest_sha256: str) -> DataConfig:
    """`at` for shards with this manifest: at `shards` if they lie there, and otherwise where training read them."""
    moved = at(data, shards)
    with contextlib.suppress(UserError, OSError):  # such as a URL that does not answer
        if sha256_of(shards_folder(moved) / "manifest.json") == manifest_sha256:
            return moved
    return at(data, None)


def stage_root(data: DataConfig, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder in which shards are staged, or None if they are read in place."""
    if data.stage_dir == "none" and is_remote(data.shards):
        raise UserError("data.stage_dir is none, but shards at a URL can only be read from staged copies")
    if data.stage_dir:
        return None if data.stage_dir == "none" else Path(data.stage_dir)
    job = environment.get("SLURM_TMPDIR")
    if is_remote(data.shards):
        return Path(job or environment.get("TMPDIR") or tempfile.gettempdir())
    # A copy on the same disk gains nothing, for example if the job script has already put the shards there.
    if job and _device(Path(job)) != _device(Path(data.shards)):
        return Path(job)
    return None


def _dataset_folder(root: Path, manifest_sha256: str) -> Path:
    """The folder for the copies of one data set. Only this user has access to it."""
    own = root / f"cxr_dist-{os.getuid()}"
    folder = own / manifest_sha256[:32]
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(own):
            folder.mkdir(mode=0o700, exist_ok=True)
            return folder
    except OSError as error:
        raise UserError(f"{own} cannot be created ({error.strerror}): choose another folder ({STAGE_FOLDER})") from None
    raise UserError(
        f"{own} is not a folder that only you can enter (mode 0700): remove it, or choose another folder "
        f"({STAGE_FOLDER})"
    )


def _is_private(folder: Path) -> bool:
    """Whether the folder is this user's own: in /tmp another user could have created it, or a link, beforehand."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def _device(path: Path) -> int | None:
    return path.stat().st_dev if path.exists() else None
