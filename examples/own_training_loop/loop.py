"""Your own training loop over shards in plain torch, with a small network: python loop.py SHARDS."""

import sys

import torch
from torch import nn

import cxr_dist

shards = cxr_dist.open_shards(sys.argv[1])
train, val = shards.loader("train", batch_size=16), shards.loader("val", batch_size=32)
model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, len(shards.classes)))
model(next(iter(val)).images / 255)  # the first batch sets the size of the first layer
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(3):
    for batch in train:  # another order and augmentation in each pass; batch.texts has the reports
        loss = nn.functional.cross_entropy(model(batch.images / 255), batch.labels[:, 0])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        batches = [(batch.labels[:, 0], model(batch.images / 255).softmax(1)) for batch in val]
    labels, probabilities = map(torch.cat, zip(*batches, strict=True))
    metrics = cxr_dist.metrics(labels, probabilities, shards.frame("val")["patient"], classes=shards.classes)
    print(f"epoch {epoch + 1}, {len(train)} batches, macro ROC AUC {metrics.values['macro']['roc_auc']:.3f}")
