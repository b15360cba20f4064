"""Video models in local folders: pipelines of few and random weights, saved here as diffusers saves real ones."""

import importlib.util
import json
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lyra.engine.errors import InputError
from lyra.engine.prior.clips import Clips
from lyra.engine.prior.teachers.family import Family, TeacherOptions, part, skipped
from lyra.engine.prior.teachers.teacher import FAMILIES, VideoTeacher, load_teacher
from lyra.engine.prior.teachers.warp import Targets, filled, warp

STD = 0.05
SIZE = (21, 13)  # no multiple of anything that a model wants
FEW = TeacherOptions(prompt="a room", steps=4, strength=0.5, guidance=1.0, composite=False, device="cpu")

# torch 2.13 hands a tensor to NumPy 2.4 in the old way, where diffusers makes an array of LTX's time steps
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


class Guard:
    """A guardrail that keeps what it was shown, refuses a word, and blackens the first column."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.last = np.zeros(0, np.uint8)
        self.passes = True

    def to(self, device: torch.device | str) -> "Guard":
        return self

    def check_text_safety(self, prompt: str) -> bool:
        self.texts.append(prompt)
        return "unsafe" not in prompt

    def check_video_safety(self, frames: np.ndarray) -> np.ndarray | None:
        self.last = frames.copy()
        frames = frames.copy()
        frames[:, :, 0] = 0
        return frames if self.passes else None


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*arguments: object) -> None:
        raise AssertionError(f"connects to {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family."""
    import diffusers as d
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(5)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "room": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, **names)
    text = t.T5EncoderModel(t.T5Config(vocab_size=4, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    wan_vae = d.AutoencoderKLWan(
        **{"base_dim": 3, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 0},
        **{"latents_mean": [0.0] * 4, "latents_std": [STD] * 4},
    )
    up = (True, True, True, False)
    ltx_vae = d.AutoencoderKLLTXVideo(
        **{"latent_channels": 4, "block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4},
        **{"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5, "spatio_temporal_scaling": up},
        **{"decoder_spatio_temporal_scaling": up, "decoder_inject_noise": (False,) * 5},
        **{"upsample_residual": (False,) * 4, "upsample_factor": (1,) * 4, "timestep_conditioning": False},
    )
    ltx_vae.latents_std.fill_(STD)
    for name, values in (*wan_vae.named_parameters(), *ltx_vae.named_parameters()):
        if name.endswith("bias"):
            values.data.zero_()  # what a random network says by itself would drown what it is told
    for variances in (wan_vae.quant_conv.bias.data[4:], ltx_vae.encoder.conv_out.conv.bias.data[4:]):
        variances.fill_(-20)  # logarithms; real ones are as good as exact
    heads = {"num_attention_heads": 1, "num_layers": 1, "out_channels": 4}
    shared = {"text_encoder": text, "tokenizer": tokenizer}
    flow = d.FlowMatchEulerDiscreteScheduler()
    pipelines = {
        "wan": d.WanPipeline(
            transformer=d.WanTransformer3DModel(
                **{"in_channels": 4, "attention_head_dim": 12, "text_dim": 8, "freq_dim": 8, "ffn_dim": 8}, **heads
            ),
            scheduler=d.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
            vae=wan_vae,
            **shared,
        ),
        "ltx": d.LTXConditionPipeline(
            transformer=d.LTXVideoTransformer3DModel(
                **{"in_channels": 4, "attention_head_dim": 8, "cross_attention_dim": 8, "caption_channels": 8}, **heads
            ),
            scheduler=flow,
            vae=ltx_vae,
            **shared,
        ),
        "cosmos": d.Cosmos2VideoToWorldPipeline(
            transformer=d.CosmosTransformer3DModel(
                **{"in_channels": 5, "attention_head_dim": 16, "mlp_ratio": 1.0, "text_embed_dim": 8},
                **{"adaln_lora_dim": 4, "max_size": (4, 32, 32), "concat_padding_mask": False},
                **heads,
            ),
            scheduler=d.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
            vae=wan_vae,
            safety_checker=Guard(),
            **shared,
        ),
    }
    root = tmp_path_factory.mktemp("models")
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(root / name)
    return {name: root / name for name in pipelines}


@pytest.fixture(scope="module")
def teachers(folders: dict[str, Path]) -> dict[str, VideoTeacher]:
    return {name: load_teacher(folder, replace(FEW, safety_checker=Guard())) for name, folder in folders.items()}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def source(views: int = 1) -> Clips:
    """A slope with colours, from cameras side by side."""
    w, h = SIZE
    rgb = torch.rand(1, views, 3, h, w, generator=seeded(7)) * (torch.arange(w) % 10 < 5)
    depth = torch.linspace(2, 3, w).expand(1, views, h, w)
    poses = torch.eye(4).repeat(1, views, 1, 1)
    poses[0, :, 0, 3] = -0.2 * torch.arange(views)
    return Clips(rgb, depth, torch.ones_like(depth), poses, lens(views), torch.zeros(1, views))


def lens(views: int) -> Tensor:
    w, h = SIZE
    return torch.tensor([[20.0, 0.0, w / 2], [0.0, 20.0, h / 2], [0.0, 0.0, 1.0]]).expand(1, views, 3, 3)


def path(step: float = 0.2, views: int = 2) -> Targets:
    """A camera that goes sideways, past what is known."""
    poses = torch.eye(4).repeat(1, views, 1, 1)
    poses[0, :, 0, 3] = -step * torch.arange(1, views + 1)
    return Targets(poses, lens(views), torch.linspace(0, 1, views)[None])


def echo(frames: int = 4, pixels: int = 16, seen: list[Tensor] | None = None, **options) -> VideoTeacher:
    """A teacher whose model gives back its clip, and keeps it in `seen`."""

    def generate(pipeline: object, clip: Tensor, options: TeacherOptions, generator: torch.Generator) -> Tensor:
        if seen is not None:
            seen.append(clip)
        return clip

    family = Family("echo", (), frames, pixels, lambda folder, options: None, generate)
    return VideoTeacher(family, None, replace(FEW, **options))


@pytest.mark.parametrize("name", ["wan", "ltx", "cosmos"])
def test_frames(teachers: dict[str, VideoTeacher], name: str) -> None:
    teacher, targets = teachers[name], path()
    frames = teacher.frames(source(), targets, size=SIZE, generator=seeded(1))
    assert frames.rgb.shape == (1, 2, 3, 13, 21) and frames.rgb.min() >= 0 and frames.rgb.max() <= 1
    assert (frames.depth == 0).all() and (frames.alpha == 1).all()
    assert all(getattr(frames, field) is getattr(targets, field) for field in ("world_to_camera", "K", "times"))
    again, other = (teacher.frames(source(), targets, size=SIZE, generator=seeded(seed)) for seed in (1, 2))
    elsewhere = teacher.frames(source(), path(-0.4), size=SIZE, generator=seeded(1))
    assert torch.equal(frames.rgb, again.rgb)
    assert float((frames.rgb - other.rgb).abs().max()) > 1e-3
    assert float((frames.rgb - elsewhere.rgb).abs().max()) > 1e-4


@pytest.mark.parametrize("name", ["wan", "ltx", "cosmos"])
def test_strength(teachers: dict[str, VideoTeacher], name: str) -> None:
    """Where hardly any noise is added, what the autoencoder keeps of the warp comes back; where much is, less.

    Without the first column, which the guardrail of Cosmos blackens.
    """
    teacher, wide = teachers[name], (32, 32)
    targets = replace(path(), K=lens(2) * 1.5)
    clip = torch.cat((torch.rand(1, 3, 32, 32, generator=seeded(3)), filled(warp(source(), targets, wide))[0]))
    clip = torch.cat((clip, clip[-1:].expand(-len(clip) % teacher.family.frames + 1, -1, -1, -1)))
    vae = teacher.pipeline.vae
    with torch.no_grad():
        kept = vae.decode(vae.encode((clip * 2 - 1).movedim(0, 1)[None]).latent_dist.mode()).sample[0].movedim(0, 1)
    kept = (kept / 2 + 0.5).clamp(0, 1)
    distances = [
        float((teacher.family.generate(teacher.pipeline, clip, asked, seeded(4)) - kept)[..., 1:].abs().mean())
        for asked in (replace(FEW, steps=1000, strength=0.001), replace(FEW, strength=1.0))
    ]
    assert distances[0] < 0.3 * distances[1]


def test_bfloat16(folders: dict[str, Path], teachers: dict[str, VideoTeacher], monkeypatch) -> None:
    """As on a GPU: LTX decodes in the type of its text encoder, the others in that of their autoencoder."""
    monkeypatch.setattr(TeacherOptions, "kind", torch.bfloat16)
    half = load_teacher(folders["ltx"], FEW)
    assert half.pipeline.transformer.proj_out.weight.dtype == half.pipeline.vae.dtype == torch.bfloat16
    frames = [t.frames(source(), path(), size=SIZE, generator=seeded(1)).rgb for t in (teachers["ltx"], half)]
    assert 0 < float((frames[0] - frames[1]).abs().mean()) < 0.02


def test_skipped_steps() -> None:
    shares = torch.tensor([1.0, 0.9, 0.7, 0.4])
    starts = [skipped(shares, strength) for strength in (1.0, 0.9, 0.8, 0.7, 0.5, 0.01)]
    assert starts == [0, 1, 2, 2, 3, 3]
    for steps in (2, 3, 7, 35, 50):
        levels = torch.linspace(1, 1 / steps, steps)
        for i in range(steps):
            asked = TeacherOptions(steps=steps, strength=float(levels[i]))
            assert int(steps * part(asked, levels)) == steps - i


def test_clip_that_the_model_sees() -> None:
    seen: list[Tensor] = []
    views, targets = source(2), path(views=6)
    echo(8, 32, seen).frames(views, targets, size=SIZE, generator=seeded(1))
    (clip,) = seen
    assert clip.shape == (9, 3, 32, 32)  # one clean view, six targets, two more for 8k + 1
    assert torch.equal(clip[7], clip[6]) and torch.equal(clip[8], clip[6]) and not torch.equal(clip[6], clip[5])
    lead = torch.nn.functional.interpolate(views.rgb[:, 0], size=(32, 32), mode="bilinear", antialias=True)
    assert torch.equal(clip[0], lead[0])


def test_known_pixels() -> None:
    """A model that returns its clip gives the filled warp; of one that ruins it, compositing keeps what is known."""
    size, targets = (32, 16), replace(path(0.5), K=lens(2) * 1.3)
    warped = warp(source(), targets, size)
    assert 0.2 < float(warped.known.float().mean()) < 0.95
    plain = echo().frames(source(), targets, size=size, generator=seeded(1))
    assert torch.equal(plain.rgb, filled(warped))
    teacher = echo(composite=True)
    ruined = replace(teacher, family=replace(teacher.family, generate=lambda p, clip, o, g: torch.zeros_like(clip)))
    frames = ruined.frames(source(), targets, size=size, generator=seeded(1))
    assert torch.equal(frames.rgb, warped.rgb * warped.known[:, :, None])


def test_working_size() -> None:
    """At twice the size the model sees the same scene, finer, and the frames come back at the size asked for."""
    size, seen = (32, 16), []
    targets = replace(path(), K=lens(2) * 1.3)
    frames = echo(seen=seen, working=(64, 32)).frames(source(), targets, size=size, generator=seeded(1))
    assert seen[0].shape[-2:] == (32, 64)
    assert frames.rgb.shape[-2:] == (16, 32)
    assert torch.equal(frames.K, targets.K)
    plain = echo().frames(source(), targets, size=size, generator=seeded(1))
    assert float((frames.rgb - plain.rgb).abs().mean()) < 0.1
    apart = echo().frames(source(), path(0.6), size=size, generator=seeded(1))
    assert float((frames.rgb - apart.rgb).abs().mean()) > 0.15


def test_guardrail(teachers: dict[str, VideoTeacher], folders: dict[str, Path], monkeypatch) -> None:
    teacher, guard = teachers["cosmos"], teachers["cosmos"].options.safety_checker
    sure = replace(teacher, options=replace(teacher.options, composite=True))
    guard.texts.clear()
    frames = sure.frames(source(), path(), size=(32, 16), generator=seeded(1))
    assert guard.texts == ["a room"]
    assert guard.last.shape == (2, 16, 32, 3)  # the frames as they go out, composited
    bytes_out, shown = (frames.rgb[0] * 255).round().byte(), torch.from_numpy(guard.last).movedim(-1, 1)
    assert torch.equal(bytes_out[..., 1:], shown[..., 1:])
    assert (frames.rgb[..., 0] == 0).all()
    unsafe = replace(teacher, options=replace(teacher.options, prompt="unsafe"))
    with pytest.raises(InputError, match="'unsafe'.*Guardrail"):
        unsafe.frames(source(), path(), size=SIZE, generator=seeded(1))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="asks for a guardrail: install cosmos_guardrail"):
        load_teacher(folders["cosmos"], FEW)
    monkeypatch.setattr(guard, "passes", False)
    family = replace(teacher.family, generate=lambda p, clip, o, g: clip)
    with pytest.raises(InputError, match="lets no frame pass"):
        replace(teacher, family=family).frames(source(), path(), size=SIZE, generator=seeded(1))


def refused(folder: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern) as caught:
        load_teacher(folder, FEW)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value) and len(str(caught.value)) < 600


def rewrite(folder: Path, **entries: object) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | entries))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (shutil.rmtree if (folder / name).is_dir() else Path.unlink)(folder / name)


def sharded(folder: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("model-00001-of-00002.safetensors"))
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    weights.with_name(f"{weights.name}.index.json").write_text(json.dumps({"weight_map": shards}))


def cut_short(folder: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("damage", "pattern"),
    [
        (without("model_index.json"), "model_index.json: no such file"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "no JSON object"),
        (lambda folder: rewrite(folder, _class_name="FluxPipeline"), "a FluxPipeline is no.*Wan 2.1.*LTX.*Cosmos"),
        (without("vae"), "vae: no such part"),
        (without("transformer/diffusion_pytorch_model.safetensors"), "transformer: no weights"),
        (sharded, "00002-of-00002.safetensors: no such file, 1 of 2"),
        (cut_short, "cannot be loaded"),
        (lambda folder: rewrite(folder, vae=["evil", "Model"]), "vae is of evil.*code of its own"),
        (lambda folder: (folder / "transformer_2").mkdir(), "two denoisers"),
    ],
)
def test_refused(folders: dict[str, Path], tmp_path: Path, damage: Callable[[Path], object], pattern: str) -> None:
    folder = Path(shutil.copytree(folders["wan"], tmp_path / "model"))
    damage(folder)
    refused(folder, pattern)


@pytest.mark.parametrize("package", ["accelerate", "diffusers", "transformers", "ftfy"])
def test_missing_packages(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    refused(folders["wan"], f"needs {package}, install it: pip install 'lyra-gs")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="device is cuda:1, but torch finds no GPU"):
        load_teacher(folders["wan"], replace(FEW, device="cuda:1"))


@pytest.mark.parametrize(
    ("values", "pattern"),
    [
        ({"strength": 0.0}, "strength is 0.0, expected above 0"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"steps": 1}, "steps is 1"),
        ({"guidance": 0.5}, "guidance is 0.5"),
        ({"working": (0, 480)}, "working is"),
    ],
)
def test_options(values: dict, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern):
        TeacherOptions(**values)
    with pytest.raises(InputError, match="5 clean views given"):
        echo().frames(source(5), path(), size=SIZE, generator=seeded(1))


def test_documented(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/teachers.md, with a model of this file and fewer steps."""
    page = (Path(__file__).parents[3] / "docs" / "teachers.md").read_text()
    code = page.split("```python")[1].split("```")[0]
    for there, here in (
        ("models/Wan2.1-T2V-1.3B-Diffusers", str(folders["wan"])),
        ("(832, 480)", "(32, 16)"),
        ("steps=35", "steps=2, guidance=1.0"),
    ):
        assert there in code
        code = code.replace(there, here)
    names: dict = {}
    exec(code, names)
    assert names["made"].rgb.shape == (1, 8, 3, 120, 208)


def test_families() -> None:
    names = [name for family in FAMILIES for name in family.classes]
    assert len(names) == len(set(names))
