"""`--model.init-from RUN`: start a new run's encoders from those of another run, such as contrastive pretraining.

RUN_DIR/started_from.json keeps what the run was started from, so that RUN itself is needed only until the first
checkpoint. RUN has seen patients, so those of the new run's other splits that were in its training split are counted.
"""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

from cxr_dist.config.decode import parse_record
from cxr_dist.config.file import load_config
from cxr_dist.config.lookup import recorded_name
from cxr_dist.config.run import Config
from cxr_dist.data.place import open_manifest, own_place, shards_folder
from cxr_dist.errors import UserError, require
from cxr_dist.evaluate.leakage import patients_in_training
from cxr_dist.files import sha256_of, write_whole
from cxr_dist.format.manifest import Manifest
from cxr_dist.model.classifier import Encoders
from cxr_dist.run import checkpoint
from cxr_dist.run.folder import manifest_sha256
from cxr_dist.run.meaning import check_meaning
from cxr_dist.run.parts import changed_parts, read_parts, record_of

STARTED_FROM = "started_from.json"
_SPLITS = ("val", "test")


def source_of(config: Config) -> Path | None:
    """The run folder that `model.init_from` names; None if it names none or the run already has a checkpoint.

    Raises UserError if the folder holds no run, or a run whose encoders are others than those of this run.
    """
    model = config.model
    if not model.init_from or checkpoint.has_checkpoint(config.run_dir):
        return None
    folder = Path(model.init_from).expanduser()
    require(
        (folder / "config.yaml").is_file(),
        f"--model.init-from {folder} is no run folder: it has no config.yaml; give a folder that `cxr-dist train` "
        "wrote, such as that of the run pretrain",
    )
    theirs = load_config(folder / "config.yaml").model
    for kind, used, has, own, other in (
        ("image", model.uses_image, theirs.uses_image, model.image_encoder, theirs.image_encoder),
        ("text", model.uses_text, theirs.uses_text, model.text_encoder, theirs.text_encoder),
    ):
        require(
            not used or has,
            f"--model.init-from {folder} holds a run without a {kind} encoder (its model.mode is {theirs.mode}), but "
            f"this run has one (model.mode {model.mode}): choose another run, or another --model.mode",
        )
        require(
            not used or recorded_name(own) == recorded_name(other),
            f"--model.init-from {folder} was trained with the {kind} encoder {recorded_name(other)}, but this run has "
            f"{recorded_name(own)}: add --model.{kind}-encoder {recorded_name(other)}",
        )
    for field, name in changed_parts(read_parts(folder), record_of(model.named_parts)):
        raise UserError(
            f"{field}: {name} is defined by another file than the one that --model.init-from {folder} was trained "
            "with (its sha256 differs): put that file back"
        )
    return folder


def keep_started_from(config: Config, manifest: Manifest) -> None:
    """Write started_from.json of a new run (rank 0). Raises UserError as `source_of`, and if RUN is damaged."""
    folder = source_of(config)
    if folder is None:
        return
    best, theirs = checkpoint.best(folder), load_config(folder / "config.yaml")
    check_meaning(best.state.meaning, folder, theirs)
    theirs = replace(theirs, data=own_place(theirs.data, None, best.state.manifest_sha256))
    record = {
        "run": theirs.run,
        "folder": folder.resolve().name,
        "mode": theirs.model.mode,
        "checkpoint_step": best.state.step,
        "checkpoint_sha256": sha256_of(best.folder / "model.safetensors"),
        "manifest_sha256": best.state.manifest_sha256,
        "encoders": [kind for kind in ("image", "text") if _uses(config, kind)],
        "patients_of_its_training": _shared_patients(config, manifest, theirs, best.state.manifest_sha256),
    }
    path = config.run_dir / STARTED_FROM
    known = parse_record(path, STARTED_FROM) if path.is_file() else record
    same = ("checkpoint_sha256", "manifest_sha256")
    require(
        [known.get(name) for name in same] == [record[name] for name in same],
        f"the best checkpoint of --model.init-from {folder} has changed since this run began (its sha256 differs): put "
        "it back, or choose another --out",
    )
    write_whole(path, json.dumps(record, indent=1) + "\n")


def load_started_from(model: Encoders, config: Config) -> bool:
    """Load the encoders of `model.init_from`, and return whether there was anything to load (all ranks)."""
    folder = source_of(config)
    if folder is None:
        return False
    tensors = checkpoint.best(folder).model
    for kind in ("image", "text"):
        encoder = getattr(model, kind)
        if encoder is None:
            continue
        own = {name.removeprefix(f"{kind}."): t for name, t in tensors.items() if name.startswith(f"{kind}.")}
        try:
            encoder.load_state_dict(own)
        except RuntimeError:  # torch's message lists every tensor
            raise UserError(
                f"the {kind} encoder of --model.init-from {folder} has tensors of other names or shapes than that of "
                "this run: give both runs the same model settings, and text encoders the same folder"
            ) from None
    return True


def started_from_lines(run_dir: Path) -> list[str]:
    """What a run says at its start about the run that it was started from."""
    if not (run_dir / STARTED_FROM).is_file():
        return []
    record = parse_record(run_dir / STARTED_FROM, STARTED_FROM)
    encoders = " and ".join(record["encoders"])
    lines = [f"encoders of {record['folder']} ({record['run']}, step {record['checkpoint_step']}): {encoders}"]
    shared = record["patients_of_its_training"]
    if shared is None:
        lines.append(
            f"warning: it is not known whether patients of this run's test split were in the training of "
            f"{record['folder']}, because its shards are not at hand or come from another reader"
        )
        return lines
    for split, count in shared.items():
        if count:
            lines.append(
                f"warning: {count} patients of this run's {split} split were in the training of {record['folder']}, so "
                "that its results are too optimistic: pretrain on shards without them"
            )
    return lines


def _uses(config: Config, kind: str) -> bool:
    return config.model.uses_image if kind == "image" else config.model.uses_text


def _shared_patients(config: Config, manifest: Manifest, theirs: Config, sha256: str) -> dict[str, int] | None:
    """Split -> number of its patients who are in the training split of the other run; None if that is not known.

    Patient ids of different readers cannot be compared.
    """
    with contextlib.suppress(UserError, OSError):  # such as a URL that does not answer
        if manifest_sha256(shards_folder(theirs.data)) == sha256:
            other = open_manifest(theirs.data)
            if other.reader == manifest.reader:
                trained_on = theirs.data, other
                return {s: patients_in_training(config.data, manifest, s, trained_on) for s in _SPLITS}
    return None
