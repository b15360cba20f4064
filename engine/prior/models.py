"""The prior's networks as diffusers models: saved, loaded and given attention back-ends as diffusers does it.

Importing this takes seconds, for it imports diffusers; `weights.load_network` reads the same files without.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from ..errors import InputError
from ..files import cause
from .decoder import DecoderNetwork
from .denoiser import DenoiserNetwork, Planes
from .network import Attention, NetworkOptions, attend


class _Model(ModelMixin, ConfigMixin):
    """What both have in common."""

    kind: type[nn.Module]  # the plain network

    @register_to_config
    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        expansion: float = 2.0,
        patch: int = 4,
        stem: int = 32,
        planes: int = 24,
        near: float = 0.35,
        far: float = 30.0,
    ) -> None:
        self.kind.__init__(self, NetworkOptions(width, depth, expansion, patch, stem), Planes(planes, near, far))

    def set_attention_backend(self, backend: str) -> None:
        """Attention by any back-end of diffusers: `native` (torch's own), `xformers`, `flash`, `sage` and others.

        Raises:
            InputError: there is no such back-end, or it cannot run here.
        """
        names = [name.value for name in AttentionBackendName]
        if backend not in names:
            raise InputError(f"attention backend {backend!r} is unknown: give {', '.join(sorted(names))}")
        chosen = AttentionBackendName(backend)

        def dispatched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # diffusers has heads after tokens
            return dispatch_attention_fn(q, k, v, backend=chosen).transpose(1, 2)

        if backend != "native":
            weight = next(self.parameters())
            probe = torch.zeros(1, 1, 8, 64, device=weight.device, dtype=weight.dtype)
            try:
                dispatched(probe, probe, probe)
            except Exception as error:  # each back-end fails in its own way where its build does not fit
                cure = f"install a build of it for torch {torch.__version__}, or give native"
                raise InputError(f"attention backend {backend!r} cannot run here ({cause(error)}): {cure}") from None
        for module in self.modules():
            if isinstance(module, Attention):
                module.attend = attend if backend == "native" else dispatched


class Denoiser(_Model, DenoiserNetwork):
    """`DenoiserNetwork` as a diffusers model."""

    kind = DenoiserNetwork


class GaussianDecoder(_Model, DecoderNetwork):
    """`DecoderNetwork` as a diffusers model."""

    kind = DecoderNetwork


def config_of(options: NetworkOptions, planes: Planes) -> dict[str, float]:
    """The arguments of a model of this size."""
    sizes = {name: getattr(options, name) for name in ("width", "depth", "expansion", "patch", "stem")}
    return sizes | {"planes": planes.count, "near": planes.near, "far": planes.far}
