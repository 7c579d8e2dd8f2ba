"""Write the report of a synthetic study: INDICATION, FINDINGS and IMPRESSION.

Only the IMPRESSION names the class; FINDINGS describes it. FINDINGS has the errors of real reports: it misses or hedges
a finding, suspects one that is absent, and mentions old or absent ones.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from cxr_dist.shard.phantom.study import FINDINGS, PhantomFinding, Study

_Choice = TypeVar("_Choice", bound=str)

PHANTOM_SECTIONS = ("indication", "findings", "impression")

_MISSED = 0.20  # share of findings that FINDINGS does not mention
_MISREAD = 0.10  # share of findings that are described as another one
_SUSPECTED = 0.25  # share of normal studies in which FINDINGS suspects a finding
_HEDGED_SHARE = 0.30  # share of described findings that are hedged
_TYPICAL_INDICATION = 0.20  # share of indications that are typical of the finding

_COMPLAINTS = (
    "chest pain", "shortness of breath", "preoperative evaluation", "positive PPD", "cough for two weeks",
    "follow-up", "dizziness and syncope", "annual physical examination", "back pain after a fall", "wheezing",
)  # fmt: skip
_TYPICAL: dict[PhantomFinding, tuple[str, ...]] = {
    "normal": ("employment screening", "preoperative evaluation, no symptoms", "sore throat"),
    "cardiomegaly": (
        "leg swelling and hypertension",
        "orthopnea, atrial fibrillation",
        "history of heart failure",
    ),
    "effusion": ("dyspnea and dullness to percussion", "renal failure, dyspnea", "pleuritic pain, dialysis"),
    "opacity": ("fever and productive cough", "chills, rigors, cough", "aspiration risk, fever"),
    "nodule": ("weight loss, 40 pack-years", "history of melanoma, staging", "smoker, hemoptysis"),
}
_HEART_CLEAR = (
    "Heart size is within expected limits.",
    "The cardiac silhouette is not enlarged.",
    "Cardiomediastinal contours are unremarkable.",
    "Heart and mediastinum have an expected contour for age.",
    "Heart size is at the upper limit for this projection but stable.",
)
_LUNGS_CLEAR = (
    "Lungs are clear.",
    "No focal consolidation.",
    "The lungs are well expanded and clear bilaterally.",
    "No airspace disease or suspicious lesion is seen.",
    "No focal density in either lung.",
)
_PLEURA_CLEAR = (
    "No pleural fluid or pneumothorax.",
    "Costophrenic angles are sharp.",
    "The pleural spaces are clear.",
    "No pneumothorax.",
)
_BONES = (
    "Visualized osseous structures are intact.",
    "Mild degenerative change of the thoracic spine.",
    "No acute bony lesion.",
    "Old healed rib fracture.",
    "",
    "",
)
_POSITIVE: dict[PhantomFinding, tuple[str, ...]] = {
    "cardiomegaly": (
        "The cardiac silhouette is {degree} enlarged.",
        "Heart is {degree} enlarged with a cardiothoracic ratio above one half.",
        "Prominent cardiac silhouette, {degree} widened since the prior film.",
    ),
    "effusion": (
        "There is blunting of the {side} costophrenic angle.",
        "{Degree} pleural fluid on the {side} with a meniscus.",
        "Layering fluid at the {side} base obscures the hemidiaphragm.",
    ),
    "opacity": (
        "{Degree} airspace disease in the {side} {zone} lung.",
        "Patchy consolidation in the {side} {zone} zone.",
        "Ill-defined infiltrate projects over the {side} {zone} lung.",
    ),
    "nodule": (
        "A rounded {size} mm density projects over the {side} {zone} lung.",
        "Well-circumscribed {size} mm focus in the {side} {zone} zone.",
        "Coin lesion of {size} mm in the {side} {zone} lung, not calcified.",
    ),
}
_HEDGED: dict[PhantomFinding, tuple[str, ...]] = {
    "cardiomegaly": ("Heart may be slightly enlarged, accentuated by shallow inspiration.",),
    "effusion": ("Minimal blunting of the {side} angle, possibly fluid or scarring.",),
    "opacity": ("Subtle {side} {zone} density may reflect atelectasis or early infiltrate.",),
    "nodule": ("Tiny rounded density over the {side} {zone} lung, possibly a vessel on end.",),
}
_PRIOR = (
    "The previously seen {side} pleural fluid has resolved.",
    "Prior {side} {zone} infiltrate is no longer present.",
    "No enlargement of the heart compared with the prior film.",
    "Calcified granuloma, unchanged.",
    "Previously described rounded density was a nipple shadow.",
)
_IMPRESSION: dict[PhantomFinding, tuple[str, ...]] = {
    "normal": ("Normal chest.", "No acute cardiopulmonary abnormality.", "Normal examination of the chest."),
    "cardiomegaly": ("Cardiomegaly.", "Cardiomegaly, {degree} increased, without edema."),
    "effusion": ("{Side} pleural effusion.", "{Degree} {side} effusion."),
    "opacity": (
        "{Side} {zone} opacity, suspicious for pneumonia.",
        "{Side} lung opacity, follow-up advised.",
    ),
    "nodule": ("{Side} {zone} pulmonary nodule; CT advised.", "{Size} mm {side} lung nodule."),
}


def write_report(study: Study, seed: int) -> dict[str, str]:
    """Section -> text, for `PHANTOM_SECTIONS`; the same study and seed give the same report."""
    rng = np.random.default_rng([seed, 3, study.number])
    words = _words(study, rng)
    return {
        "indication": _indication(study, rng),
        "findings": _findings(study.finding, words, rng),
        "impression": _pick(rng, _IMPRESSION[study.finding]).format(**words),
    }


def _pick(rng: np.random.Generator, choices: Sequence[_Choice]) -> _Choice:
    return choices[int(rng.integers(len(choices)))]


def _words(study: Study, rng: np.random.Generator) -> dict[str, str]:
    degree = ("mildly", "moderately", "markedly")[min(2, int(study.plainness * 3))]
    noun = {"mildly": "Small", "moderately": "Moderate", "markedly": "Large"}[degree]
    size = str(round(6 + 18 * study.plainness + rng.normal(0, 1)))
    side = {"side": study.side, "Side": study.side.capitalize(), "zone": study.zone}
    return {"degree": degree, "Degree": noun, "size": size, "Size": size} | side


def _indication(study: Study, rng: np.random.Generator) -> str:
    sex = {"F": "female", "M": "male"}[study.sex]
    typical = rng.random() < _TYPICAL_INDICATION
    complaint = _pick(rng, _TYPICAL[study.finding] if typical else _COMPLAINTS)
    forms = (
        "{years}-year-old {sex}, {complaint}.",
        "{complaint}.",
        "{sex} of {years} years with {complaint}.",
    )
    text = _pick(rng, forms).format(years=study.age, sex=sex, complaint=complaint)
    return text[0].upper() + text[1:]


def _findings(finding: PhantomFinding, words: dict[str, str], rng: np.random.Generator) -> str:
    described = _described(finding, rng)
    heart, lungs, pleura = _pick(rng, _HEART_CLEAR), _pick(rng, _LUNGS_CLEAR), _pick(rng, _PLEURA_CLEAR)
    if described is not None:
        name, sentence = described
        heart = sentence if name == "cardiomegaly" else heart
        pleura = sentence if name == "effusion" else pleura
        lungs = sentence if name in ("opacity", "nodule") else lungs
    sentences = [heart, lungs, pleura]
    if rng.random() < 0.25:
        sentences.append(_pick(rng, _PRIOR))
    if rng.random() < 0.5:
        sentences = [sentences[i] for i in rng.permutation(len(sentences))]
    kept = [s for s in (*sentences, _pick(rng, _BONES)) if s]
    return " ".join(kept).format(**words)


def _described(finding: PhantomFinding, rng: np.random.Generator) -> tuple[PhantomFinding, str] | None:
    """The finding that FINDINGS describes, which can differ from the true one, with a sentence; None if it has none."""
    if finding == "normal":
        if rng.random() >= _SUSPECTED:
            return None
        suspected = _pick_finding(rng)
        return suspected, _pick(rng, _HEDGED[suspected])
    chance = rng.random()
    if chance < _MISSED:
        return None
    if chance < _MISSED + _MISREAD:
        finding = _pick_finding(rng)
    return finding, _pick(rng, _HEDGED[finding] if rng.random() < _HEDGED_SHARE else _POSITIVE[finding])


def _pick_finding(rng: np.random.Generator) -> PhantomFinding:
    return _pick(rng, [name for name in FINDINGS if name != "normal"])
