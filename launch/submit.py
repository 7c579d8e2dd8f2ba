"""Submit a training run with submitit: the same as the command `cxr-dist submit`.

python launch/submit.py enhanced --nodes 2 --tasks-per-node 4 --data.shards SHARDS --out RUN_DIR
python launch/submit.py enhanced --sweep optim.lr=1e-4,2e-4 --sweep seed=1,2,3 --data.shards SHARDS --out OUT
python launch/submit.py status OUT
"""

from cxr_dist.launch.submit import main

if __name__ == "__main__":
    main()
