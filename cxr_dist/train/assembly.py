"""Builds the parts of a training run from its configuration, and runs it.

Besides cli/main.py this is the only module that knows all rooms. It computes nothing; each helper returns one part.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch

from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.data.draws import keys_of
from cxr_dist.data.loader import training_batches, training_plan
from cxr_dist.data.own_stages import check_stages
from cxr_dist.data.place import open_manifest, open_store, shards_folder
from cxr_dist.data.read import reader
from cxr_dist.data.store import SampleError
from cxr_dist.data.text import prepare_text_folder, report_text, tokenizer_of
from cxr_dist.distributed.backend import check_parallel, new_backend, start, stop
from cxr_dist.distributed.deterministic import nondeterminism_explained
from cxr_dist.distributed.engine import Backend, NewOptimizer
from cxr_dist.distributed.watch.progress import advance, enter
from cxr_dist.distributed.watch.watchdog import watching
from cxr_dist.distributed.world import World, lanes_of
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import Manifest, Task
from cxr_dist.model.adapt import check_adapters, with_adapters
from cxr_dist.model.classifier import Encoders, load_pretrained
from cxr_dist.model.contrastive import build_network
from cxr_dist.model.image_encoder import IMAGE_FOLDER, image_kind, kind_of
from cxr_dist.model.losses import ClassificationLoss
from cxr_dist.model.own_parts import check_parts
from cxr_dist.model.weights import bundle_folder, text_source
from cxr_dist.run import checkpoint
from cxr_dist.run.folder import (
    keep_files,
    manifest_sha256,
    mark_finished,
    open_run_folder,
    with_recorded_class_weights,
    write_environment,
)
from cxr_dist.run.image_weights import StartedFrom, check_image_weights, keep_image_weights, load_image_weights
from cxr_dist.run.meaning import check_meaning, meaning_of
from cxr_dist.run.parts import keep_parts
from cxr_dist.run.preempt import StopRequest, requeue_if_due
from cxr_dist.run.trained_on import keep_trained_on, read_trained_on
from cxr_dist.train.bad_samples import BadSamples
from cxr_dist.train.contrastive_step import ContrastiveStep
from cxr_dist.train.log_lines import header, stopped_line
from cxr_dist.train.loop import Outcome, Parts, TrainingRun
from cxr_dist.train.memory.limits import out_of_memory_explained
from cxr_dist.train.memory.micro_batch import check_world_size, largest_that_fits
from cxr_dist.train.memory.settle import settled, with_recorded_micro_batch
from cxr_dist.train.started_from import keep_started_from, load_started_from, source_of, started_from_lines
from cxr_dist.train.step import TrainStep
from cxr_dist.train.trackers import Trackers, check_trackers
from cxr_dist.train.validation import RetrievalValidation, Validation

_VOCABULARY_REPORTS = 50_000  # the most reports from which a new vocabulary is learned


def train(config: Config, asked_to_stop: StopRequest, say: Callable[[str], object] = lambda line: None) -> Outcome:
    """Train the run of a configuration, or resume it; called once per process (all ranks).

    `say` is called with the last line, which tells how the run ended and where it is (rank 0).
    """
    enter("checking the configuration")
    world = World.from_environment()
    config = with_recorded_class_weights(config)
    manifest = open_manifest(config.data)
    check_against(config, manifest)
    check_parallel(config, world)
    largest = largest_micro_batch(config, manifest, world)
    try:
        with watching(world, config.train.timeout_minutes):
            return _train_together(config, manifest, world, largest, asked_to_stop, say)
    finally:
        stop()


def _train_together(
    config: Config,
    manifest: Manifest,
    world: World,
    largest: int,
    asked_to_stop: StopRequest,
    say: Callable[[str], object],
) -> Outcome:
    """Initialize the process group and train (all ranks)."""
    start(world, config.train.timeout_minutes)
    enter("preparing the run")
    prepare = partial(prepare_run_folder, manifest=manifest, world=world)
    config = settled(config, manifest, world, largest=largest, prepare=prepare)
    enter("building the model")
    with out_of_memory_explained(config, world, lambda: "while building the model"):
        parts = parts_of(config, manifest, world)
    with contextlib.closing(parts.trackers), contextlib.closing(parts.bad_samples):
        lines = header(config, manifest, parts.plan, world, parts.total_steps)
        for line in [*lines, *started_from_lines(parts.run_dir)]:
            parts.trackers.say(line)
        run = TrainingRun(parts, asked_to_stop)
        with (
            out_of_memory_explained(config, world, lambda: f"after step {run.state.step}"),
            nondeterminism_explained(),
        ):
            outcome = run.run()
        enter("leaving")
        if outcome is Outcome.FINISHED and world.is_main:
            mark_finished(parts.run_dir, run.state.step)
            for line in run.closing_lines():
                parts.trackers.say(line)
        if outcome is Outcome.STOPPED:
            requeue_if_due(asked_to_stop, world, parts.trackers.say)
    if world.is_main:
        stopped = stopped_line(parts.run_dir, run.state.step, run.total)
        say(f"finished: {parts.run_dir}" if outcome is Outcome.FINISHED else stopped)
    return outcome


def largest_micro_batch(config: Config, manifest: Manifest, world: World) -> int:
    """The run's micro-batch. `auto` is the one recorded in its folder, or the largest that fits this rank's device.

    Raises UserError if the world size does not divide the lanes. Must be called before the process group is
    initialized.
    """
    config = with_recorded_micro_batch(config)
    check_world_size(config, world)
    if config.data.micro_batch != "auto":
        return config.data.micro_batch
    alone = World(local_rank=world.local_rank)
    start(alone, config.train.timeout_minutes)
    new_step = partial(trial_step, manifest=manifest, world=alone)
    return largest_that_fits(config, world, manifest.num_labels, new_step, manifest.views)


def trial_step(config: Config, lanes: range, *, manifest: Manifest, world: World) -> TrainStep:
    """A training step of the run over these lanes, at world size 1, with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        prepare_text(config, manifest, Path(folder))
        model = new_model(config, manifest, Path(folder), world.device)
    backend = new_backend(config, world, model, new_optimizer(config))
    return new_step(config, backend, new_loss(config, manifest.task, None), len(manifest.classes), lanes)


def prepare_run_folder(config: Config, manifest: Manifest, world: World) -> None:
    """Create or reopen the run folder, and write what does not change during training (rank 0)."""
    run_dir = config.run_dir
    started_from = check_weights(config)
    source_of(config)
    open_run_folder(run_dir, config)
    check_meaning(checkpoint.newest_meaning(run_dir), run_dir, config)
    keep_image_weights(run_dir, started_from)
    keep_parts(run_dir, config.named_parts)
    sha256 = manifest_sha256(shards_folder(config.data))
    keep_trained_on(run_dir, config, manifest, sha256)
    write_environment(run_dir, world, sha256)
    keep_started_from(config, manifest)
    prepare_text(config, manifest, run_dir)
    if config.model.uses_image:
        keep_files(run_dir / IMAGE_FOLDER, kind_of(config).files)


def parts_of(config: Config, manifest: Manifest, world: World) -> Parts:
    """Build all parts of a training run (all ranks). The run folder must have been prepared."""
    run_dir, lanes = config.run_dir, lanes_of(world, config.data.num_lanes, exact=config.exact_sums)
    trackers = Trackers(config, run_dir, world)  # first, because a tracker of the user may be refused
    plan = training_plan(config.data, manifest, config.seed)
    tokenizer = tokenizer_of(config, run_dir)
    model = new_model(config, manifest, run_dir, world.device)
    backend = new_backend(config, world, model, new_optimizer(config))
    sha256 = manifest_sha256(shards_folder(config.data))
    loss = new_loss(config, manifest.task, read_trained_on(run_dir, config, sha256).class_weights)

    validation = RetrievalValidation if config.model.is_contrastive else Validation

    def stream(first_step: int) -> Iterator[Batch]:
        return training_batches(
            config.data,
            manifest,
            plan,
            lanes=lanes,
            first_step=first_step,
            tokenizer=tokenizer,
            with_images=config.model.uses_image,
            pairs_of=config.pretrain.sentences if config.model.is_contrastive else None,
        )

    return Parts(
        config=config,
        world=world,
        run_dir=run_dir,
        manifest_sha256=sha256,
        meaning=meaning_of(run_dir, config),
        model=model,
        backend=backend,
        step=new_step(config, backend, loss, len(manifest.classes), lanes),
        plan=plan,
        open_stream=stream,
        validate=validation(config=config, manifest=manifest, world=world, tokenizer=tokenizer),
        trackers=trackers,
        group_names=(*manifest.classes, "none of them"),
        bad_samples=BadSamples(run_dir, manifest.split("train").shards, config.data.max_bad_samples, world),
        sample_keys=partial(keys_of, config.data, manifest, plan),
    )


def check_against(config: Config, manifest: Manifest) -> None:
    """Raise UserError if the configuration does not match the shards or names an invalid part."""
    absent = [name for name in config.data.text_sections if name not in manifest.text_sections]
    if config.model.uses_text and absent:
        raise UserError(
            f"the shards have no text section {absent[0]!r}; set --data.text-sections to some of: "
            f"{', '.join(manifest.text_sections) or '(none: use --model.mode image)'}"
        )
    check_adapters(config.model)
    check_stages(config.data, manifest, with_images=config.model.uses_image)
    check_trackers(config.trackers)
    check_parts(config, manifest.task)


def check_weights(config: Config) -> StartedFrom | None:
    """Raise UserError if weights are missing or do not fit, before the run folder is created.

    Returns how the file of image weights matched, as `check_image_weights` does.
    """
    model = config.model
    if model.init_from:
        return None
    if model.uses_text:
        text_source(model)
    if model.pretrained and model.uses_image and not model.image_weights:
        kind_of(config).weights(bundle_folder(model.weights))
    return check_image_weights(config)


def prepare_text(config: Config, manifest: Manifest, run_dir: Path) -> None:
    """Write the text encoder's configuration and tokenizer to the run folder (rank 0)."""
    if config.model.uses_text:
        source = source_of(config)
        source = text_source(config.model) if source is None else source / "text_encoder"
        prepare_text_folder(run_dir / "text_encoder", source, _reports(config, manifest))


def _reports(config: Config, manifest: Manifest) -> Iterator[str]:
    """Training reports for learning a vocabulary; damaged ones are skipped if the run may replace them."""
    store = open_store(config.data, manifest, "train")
    read = reader(store, manifest.image["short_side"], None)
    positions = ((shard, i) for shard, entry in enumerate(store.shards) for i in range(entry.samples))
    for (shard, sample), _ in zip(positions, range(_VOCABULARY_REPORTS), strict=False):
        advance()
        try:
            yield report_text(read(shard, sample)["json"], config.data.text_sections)
        except SampleError:
            if config.data.max_bad_samples == 0:
                raise
    store.close()


def new_model(config: Config, manifest: Manifest, run_dir: Path, device: torch.device) -> Encoders:
    """The network with its initial weights: random from the seed, or pretrained encoders (all ranks)."""
    torch.manual_seed(config.seed)
    text = run_dir / "text_encoder" if config.model.uses_text else None
    model = build_network(config, len(manifest.classes), text)
    if not load_started_from(model, config) and config.model.pretrained and not config.model.init_from:
        enter("loading the weights")
        load_pretrained(model, config.model, None if text is None else text_source(config.model), image_kind(config))
        enter("building the model")
    load_image_weights(config, model.image)
    return with_adapters(model, config.model).to(device, torch.float64 if config.precision == "fp64" else torch.float32)


def new_step(config: Config, backend: Backend, loss: ClassificationLoss, num_classes: int, lanes: range) -> TrainStep:
    """The step of the run's network; `loss` is that of a classifier."""
    kind = ContrastiveStep if config.model.is_contrastive else TrainStep
    return kind(config, backend, loss, num_classes, lanes)


def new_optimizer(config: Config) -> NewOptimizer:
    """Factory of Adam or AdamW for parameter groups, which all get the same settings."""
    kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return partial(kinds[config.optim.name], lr=config.optim.lr, weight_decay=config.optim.weight_decay)


def new_loss(config: Config, task: Task, class_weights: Mapping[str, float] | None) -> ClassificationLoss:
    """The loss with these class weights, which are in the order of the classes."""
    weights = None if class_weights is None else torch.tensor(list(class_weights.values()), dtype=torch.float32)
    return ClassificationLoss(name=config.loss.name, gamma=config.loss.gamma, class_weights=weights, task=task)
