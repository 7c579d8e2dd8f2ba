"""Small tensors between the host and the device, without either waiting for the other.

CUDA runs behind the host; a plain copy makes the host wait until the device has caught up, and then the device
waits for the host. On the CPU these are plain copies.
"""

import torch


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on the device, by way of page-locked memory."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A tensor's present values on their way to the host; reading them waits for what was queued before, only."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=True, copy=True)  # page-locked, from CUDA
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> list[float]:
        """The values of a vector."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[float] = self._values.tolist()
        return values
