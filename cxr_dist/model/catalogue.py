"""The published weights that `cxr-dist fetch` knows: where they are, under which licence, and how a run uses them.

Licences, sizes and revisions are those that the publishers' pages state. A revision or a sha256 of None was not checked
when this table was written: `cxr-dist fetch` then takes the newest revision, prints what it got, and keeps it in
bundle.json.
"""

from dataclasses import dataclass
from typing import Literal

from torchvision.models import DenseNet121_Weights

from cxr_dist.errors import unknown
from cxr_dist.model.weights import IMAGE_COMPONENT, TEXT_COMPONENT

Layout = Literal["torchvision", "transformers", "cxr_bert", "open_clip", "whole_model"]
"""How the weights are published: torchvision's file, a folder of transformers, one whose BERT has a name of its own, a
model of open_clip, or a pickled network."""
_NOT_CHECKED = "not checked"


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights that can be fetched by their name, which is also their folder in the bundle."""

    name: str
    what: str
    """The network and what it was trained on, in a few words."""
    layout: Layout
    source: str
    """A repository of the model hub, or the URL of a file of torchvision."""
    licence: str
    megabytes: float
    """Of the file of weights that is downloaded, in 10^6 bytes."""
    use: str
    """The flags with which a run starts from them; BUNDLE is the bundle's folder."""
    revision: str | None = None
    """Commit of the repository; None: the newest."""
    sha256: str | None = None
    """Of the file of weights, or its first digits; None if it was not checked."""

    def in_words(self) -> str:
        """What `cxr-dist fetch --list` prints, in four lines."""
        return (
            f"{self.name}\n"
            f"  {self.what}, {self.megabytes:g} MB\n"
            f"  licence {self.licence}; revision {self.revision or _NOT_CHECKED}; sha256 {self._sha256()}\n"
            f"  {self.use}"
        )

    def _sha256(self) -> str:
        if self.sha256 is None:
            return _NOT_CHECKED
        return self.sha256 if len(self.sha256) == 64 else f"{self.sha256}… (its first digits are published)"


_DENSENET = DenseNet121_Weights.IMAGENET1K_V1
_BIOMED_CLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
_CXR_BERT = "microsoft/BiomedVLP-CXR-BERT-specialized"
CATALOGUE = (
    Published(
        name=IMAGE_COMPONENT,
        what="DenseNet-121, ImageNet",
        layout="torchvision",
        source=_DENSENET.url,
        licence="BSD-3-Clause (torchvision); the terms of ImageNet apply to the images",
        megabytes=round(_DENSENET.meta["_file_size"] * 1.048576, 1),  # torchvision gives MiB
        use="--model.image-encoder densenet121",
        revision="IMAGENET1K_V1",
        sha256="a639ec97",
    ),
    Published(
        name=TEXT_COMPONENT,
        what="BERT-base, PubMed and the notes of MIMIC-III",
        layout="transformers",
        source=TEXT_COMPONENT,
        licence="MIT",
        megabytes=436,
        use=f"--model.text-encoder {TEXT_COMPONENT}",
    ),
    Published(
        name="torchxrayvision/densenet121-res224-all",
        what="DenseNet-121 for one channel, seven data sets of chest X-rays",
        layout="whole_model",
        source="torchxrayvision/densenet121-res224-all",
        licence="Apache-2.0",
        megabytes=28.4,
        use="--model.image-encoder torchxrayvision:densenet121-res224-all "
        "--model.image-weights BUNDLE/torchxrayvision/densenet121-res224-all/model.safetensors",
        sha256="56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899",
    ),
    Published(
        name="microsoft/rad-dino",
        what="RAD-DINO, a ViT-B/14, chest X-rays without labels",
        layout="transformers",
        source="microsoft/rad-dino",
        licence="MIT (revisions before 2025: MSRLA)",
        megabytes=346,
        use="--model.image-encoder hf:BUNDLE/microsoft/rad-dino",
    ),
    Published(
        name=_BIOMED_CLIP,
        what="BiomedCLIP, a ViT-B/16 with a text tower, figures of PubMed Central",
        layout="open_clip",
        source=_BIOMED_CLIP,
        licence="MIT",
        megabytes=784,
        use=f"--model.image-encoder hf:BUNDLE/{_BIOMED_CLIP}",
    ),
    Published(
        name=_CXR_BERT,
        what="CXR-BERT, PubMed, the notes of MIMIC-III and the reports of MIMIC-CXR",
        layout="cxr_bert",
        source=_CXR_BERT,
        licence="MIT",
        megabytes=439,
        use=f"--model.text-encoder {_CXR_BERT}",
    ),
)


def published(name: str) -> Published:
    """The entry of a name; raises UserError, which lists the names, for another one."""
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    raise unknown("weights to fetch", name, [entry.name for entry in CATALOGUE])
