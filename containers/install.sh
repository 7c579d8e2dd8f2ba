#!/bin/bash
# Install cxr_dist inside a container image of Debian 12, from the source folder that Dockerfile and cxr_dist.def copy:
#   bash install.sh /opt/source
# The package and its dependencies, with the versions of constraints.txt, go to the virtual environment /opt/cxr_dist.
# PIP_ARGUMENTS adds arguments of pip, such as --index-url for a mirror inside your network.
set -euo pipefail

source_folder=$1
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 python3-venv
rm -rf /var/lib/apt/lists/*
python3 -m venv /opt/cxr_dist
# shellcheck disable=SC2086  # several arguments
/opt/cxr_dist/bin/python -m pip install --no-cache-dir --constraint "$source_folder/constraints.txt" \
    ${PIP_ARGUMENTS:-} "$source_folder[export,remote]"
rm -rf "$source_folder"
mkdir -p /site /weights    # where the site's folder and the weights bundle are mounted
