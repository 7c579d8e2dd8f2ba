"""What a training run shows: metrics.jsonl, TensorBoard, a progress bar, and the validation in between."""

from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cxr_dist.config.run import Config
from cxr_dist.data.text import ReportTokenizer
from cxr_dist.distributed.reduce import from_main
from cxr_dist.distributed.world import World
from cxr_dist.evaluate.predict import predict_split
from cxr_dist.format.manifest import Manifest
from cxr_dist.model.classifier import Classifier
from cxr_dist.report.tensorboard import TensorBoardSink
from cxr_dist.run.folder import MetricsLog


class RunObserver:
    """The `Observer` of a real run; rank 0 writes and prints, all ranks validate."""

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        run_dir: Path,
        world: World,
        device: torch.device,
        tokenizer: ReportTokenizer | None,
    ) -> None:
        self.config, self.manifest, self.run_dir = config, manifest, run_dir
        self.world, self.device, self.tokenizer = world, device, tokenizer
        self.console = Console(stderr=True)

    def open(self, resumed_step: int, total_steps: int) -> None:
        """Open the logs after the resumed step (rank 0)."""
        if not self.world.is_main:
            return
        self._metrics = MetricsLog(self.run_dir, resumed_step)
        self._tensorboard = TensorBoardSink(self.run_dir, resumed_step + 1 if resumed_step else None)
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(12),  # all fits into 80 columns
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console)
        self._task = self._bar.add_task(self.config.run, total=total_steps, completed=resumed_step, note="")
        if self.console.is_terminal:
            self._bar.start()
        if resumed_step:
            self.say(f"resumed after step {resumed_step} of {total_steps}")

    def log(self, record: dict[str, float]) -> None:
        """One logged step (rank 0)."""
        if not self.world.is_main:
            return
        self._metrics.write(record)
        step = int(record["step"])
        self._tensorboard.step({k: v for k, v in record.items() if k not in ("step", "epoch")}, step)
        loss = f"loss {record['loss']:.4f}"
        self._bar.update(self._task, completed=step, note=f"{loss}  {speed(record, short=True)}")
        if not self.console.is_terminal:
            self.say(f"step {step}  epoch {record['epoch']:.2f}  {loss}  {speed(record)}")

    def validate(self, model: Classifier, step: int, epoch: float) -> float | None:
        """Metrics on the validation split (all ranks); the mean AUC as rank 0 has it, None where undefined."""
        predictions = predict_split(
            model,
            self.config,
            self.manifest,
            "val",
            tokenizer=self.tokenizer,
            world=self.world,
            device=self.device,
        )
        score = torch.full((), torch.nan, dtype=torch.float64, device=self.device)
        if self.world.is_main:
            from cxr_dist.evaluate.metrics import (  # takes a second of each rank's start
                compute_metrics,
                mean_auc,
            )

            metrics, auc = compute_metrics(predictions), mean_auc(predictions)
            summary = {
                "mean_auc": auc,
                "accuracy": metrics["accuracy"],
                "macro_f1": metrics["macro"]["f1"],
                "loss": metrics["log_loss"],
            }
            self._metrics.write({"step": step, "epoch": epoch, "validation": summary})
            self._tensorboard.validation(metrics, predictions, step)
            shown = "undefined" if auc is None else f"{auc:.3f}"
            self.say(f"step {step}  validation: mean AUC {shown}  accuracy {metrics['accuracy']:.3f}")
            score.fill_(torch.nan if auc is None else auc)
        value = float(from_main(score))
        return None if value != value else value

    def drawn(self, samples_per_group: list[int], step: int) -> None:
        """Samples drawn per class since the last validation (rank 0)."""
        if self.world.is_main:
            names = [*self.manifest.classes, "none of them"]
            self._tensorboard.draws(dict(zip(names, samples_per_group, strict=False)), step)

    def say(self, message: str) -> None:
        """A line on the terminal (rank 0)."""
        if self.world.is_main:
            self.console.print(message, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Close the logs (rank 0)."""
        if self.world.is_main and hasattr(self, "_metrics"):
            self._bar.stop()
            self._metrics.close()
            self._tensorboard.close()


def speed(record: Mapping[str, float], *, short: bool = False) -> str:
    """A log line's speed in words: `2310 samples/s  data wait 0%  198 TFLOP/s  MFU 20%`; `short` to fit beside a bar.

    Model FLOPs utilisation (MFU) is there where the GPU's peak is known.
    """
    wait, rate = f"{record['data_wait_share']:.0%}", record.get("model_tflops_per_second")
    said = [f"{record['samples_per_second']:.0f}{'/s' if short else ' samples/s'}"]
    said.append(f"wait {wait}" if short else f"data wait {wait}")
    if rate is not None and not short:
        said.append(f"{rate:.3g} TFLOP/s" if rate >= 0.1 else f"{1000 * rate:.3g} GFLOP/s")
    if "model_flops_utilisation" in record:
        said.append(f"MFU {record['model_flops_utilisation']:.0%}")
    return "  ".join(said)
