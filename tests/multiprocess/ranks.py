"""Settings of the runs that tests with several ranks share."""

SETTINGS = (  # noqa: SIM905  (a command line reads better)
    "--data.global-batch 16 --data.micro-batch 4 --data.image-size 64 --data.max-tokens 64 --data.workers 0 "
    "--train.epochs 4 --train.log-every 1 --train.freeze-epochs 1 --train.mixup-alpha 0.2 "
    "--train.mixup-from-epoch 1 --train.save-every 2 --seed 3 --data.evaluation-batch 5"
).split()
