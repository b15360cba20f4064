"""View errors of pages on one core, as few as there are pages: quicker than anything that is handed to several."""

import numpy as np

from .compiled import compiled
from .lod_errors import node_error
from .simd import least

_HUGE = np.float32(1e30)


@compiled()
def page_errors(spheres, errors, parents, lost, row, gazed, errors_out):
    """What the view error of a node would be that had a page's sphere and error, and at most that of the parent page.

    Args:
        spheres: [4 p] float32, centres and radii.
        errors: [p] float32.
        parents: [p] int32, before their children; -1: none.
        lost: [p] bool, pages that count as 0.
        row: that of kernels/gaze.py.
        gazed: whether its weights count.
    """
    for page in range(len(errors)):
        at = 4 * page
        x, y, z, radius = spheres[at], spheres[at + 1], spheres[at + 2], spheres[at + 3]
        value = least(node_error(x, y, z, radius, errors[page], row, gazed), _HUGE)
        if parents[page] >= 0:
            value = least(value, errors_out[parents[page]])
        errors_out[page] = np.float32(0) if lost[page] else value
