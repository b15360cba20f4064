"""Lyra's own .lyra as a scene file: the leaves of a level-of-detail tree, which is built when one is written.

docs/store.md has the layout and what is lost. Splats are written in the order in which the tree's pages hold them.
What reads and writes pages loads Numba, half a second that other formats do not need, so it is imported when used.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from ..decompression import expansion_limit
from ..errors import InputError
from ..scene.gaussians import Gaussians
from .format import About, Format, Reading, Writing

MAGIC = b"LYRA"


def matches(path: Path, head: bytes) -> bool:
    """Whether a file begins as a .lyra."""
    return head.startswith(MAGIC)


def load(path: Path, reading: Reading) -> Gaussians:
    """Reads the leaves; for those of damaged pages, which a warning names, the nodes above, opaque at most.

    Returns:
        The splats page by page, float32 on the CPU, quaternions of unit length.

    Raises:
        InputError: cannot be read, another version, a damaged head or first page, or pages that are shared so often
            that the scene is far larger than the file.
    """
    from ..lod.store import leaves, open_store

    with open_store(path) as store:
        splats, limit = store.metadata.splats, expansion_limit(path)
        promised = splats * 4 * (11 + 3 * (store.metadata.sh_degree + 1) ** 2)
        if promised > limit:
            told = f"{splats} splats expand to {promised} bytes, its size allows {limit}"
            raise InputError(f"{path}: {told}: render it page by page instead")
        scene = leaves(store, reading.progress)
    return dataclasses.replace(scene, opacities=scene.opacities.clamp(max=1))


def about(path: Path) -> About:
    """What the head says."""
    from ..lod.layout import VERSION
    from ..lod.store import open_store

    with open_store(path) as store:
        told = store.metadata
        kind = f".lyra version {VERSION}, {told.nodes} nodes in {len(store)} pages"
        return About(kind, told.splats, antialiased=told.labels.antialiased, note=told.labels.note)


def save(gaussians: Gaussians, path: Path, writing: Writing) -> None:
    """Builds a tree over the splats and writes it.

    Raises:
        InputError: the file cannot be written, or the scene is larger than .lyra holds.
    """
    from ..lod.build import BuildOptions
    from ..lod.layout import Labels
    from ..lod.parts import write_scene

    options = BuildOptions()
    labels = Labels(dataclasses.asdict(options), note=writing.note, antialiased=writing.antialiased)
    write_scene(gaussians, path, options, labels, progress=writing.progress)


def order(scene: Gaussians) -> torch.Tensor:
    """[n] int64, the order in which `save` puts splats; alike splats keep theirs.

    Raises:
        InputError: the scene is larger than a chunk, and not built as a whole.
    """
    from ..lod.build import BuildOptions, build_tree
    from ..lod.pages import paginate

    if len(scene) > (most := BuildOptions().chunk):
        raise InputError(f"{len(scene)} splats are built in chunks of {most}, in no order that is known: give fewer")
    tree = build_tree(scene)
    nodes = paginate(tree).order
    kept = tree.gaussians.select(torch.from_numpy(nodes[tree.counts.numpy()[nodes] == 0]).long())
    found = np.empty(len(scene), np.int64)
    found[_by_value(kept)] = _by_value(scene)
    return torch.from_numpy(found)


def _by_value(scene: Gaussians) -> np.ndarray:
    """[n] int64, an order that depends on the values alone; rotations are left out, for builders normalise them."""
    parts = (scene.means, scene.scales, scene.opacities[:, None], scene.sh.flatten(1))
    rows = torch.cat([part.detach().cpu().float() for part in parts], dim=1).contiguous().numpy()
    return rows.view(np.dtype((np.void, 4 * rows.shape[1])))[:, 0].argsort(kind="stable")


FORMAT = Format("lyra", (".lyra",), "rdf", matches, load, about, save, carries_note=True, order=order)
