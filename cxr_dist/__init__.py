"""cxr_dist: train chest X-ray classifiers on images and radiology reports together, on clusters.

Research software; not for clinical use.
"""

__version__ = "0.1.0"
