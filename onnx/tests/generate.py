"""Writes the ONNX files that the tests read, without their weights.

    pip install torch==2.11.0 torchvision==0.26.0 onnx==1.23.2 onnxscript==0.7.2 fvcore==0.1.5.post20221221
    python onnx/tests/generate.py networks            # the small files of `make test`, into onnx/tests/networks
    python onnx/tests/generate.py torchvision FOLDER [NAME...]   # torchvision's networks, for `make bench-onnx`: all, or these

Every initializer becomes external data of a file that is not there: the reader needs shapes alone. Beside the files of
torchvision's networks and of the transformers' blocks, `counts.json` has what fvcore counts in each: parameters, multiply-adds,
and how many calls of attention it left out.
"""

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import onnx
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

# One operator for a whole block, which no exporter knows.
torch.backends.mha.set_fastpath_enabled(False)

# Weights are never looked at: drawing them would take most of the time.
for name in ["kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_", "normal_", "trunc_normal_", "uniform_"]:
    setattr(nn.init, name, lambda tensor, *_, **__: tensor)


def strip(model):
    """Takes out the weights, and what exporters tell about themselves. Constants that shapes may need stay."""
    graphs = [model.graph]
    for node in model.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
        graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
        value.ClearField("doc_string")
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.ClearField("doc_string")
    model.ClearField("doc_string")
    tensors = [tensor for graph in graphs for tensor in graph.initializer]
    tensors += [a.t for n in model.graph.node for a in n.attribute if a.HasField("t")]
    for tensor in tensors:
        tensor.ClearField("doc_string")
        del tensor.metadata_props[:]
        numel = 1
        for size in tensor.dims:
            numel *= size
        if numel <= 64 and tensor.data_type != onnx.TensorProto.STRING:
            continue
        for field in ["raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"]:
            tensor.ClearField(field)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "weights.bin"
    return model


def export(path, module, inputs, exporter="script", keep_batch_norm=True, opset=17, dynamic=True, names=None):
    """`exporter`: `script` traces as PyTorch did up to 2.8, `dynamo` as it does since."""
    module = module.eval()
    names = names or [f"input{index}" if index else "input" for index in range(len(inputs))]
    if exporter == "script":
        mode = torch.onnx.TrainingMode.PRESERVE if keep_batch_norm else torch.onnx.TrainingMode.EVAL
        axes = {name: {0: "batch"} for name in names} if dynamic else None
        # Over 2 GiB the weights lie in files beside it.
        with tempfile.TemporaryDirectory(dir=path.parent) as beside:
            whole = Path(beside, path.name)
            torch.onnx.export(
                module, inputs, whole, dynamo=False, training=mode, do_constant_folding=True, opset_version=opset,
                input_names=names, dynamic_axes=axes,
            )
            model = onnx.load(whole, load_external_data=False)
    else:
        batch = torch.export.Dim("batch", min=1, max=4096)
        shapes = tuple({0: batch} for _ in inputs) if dynamic else None
        program = torch.onnx.export(
            module, inputs, dynamo=True, optimize=not keep_batch_norm, opset_version=opset, input_names=names,
            dynamic_shapes=shapes, verbose=False,
        )
        model = program.model_proto
    onnx.save(strip(model), path)


class BertBlock(nn.Module):
    """An encoder's block with its embedding: attention spelled out with an additive mask, as BERT's authors had it."""

    def __init__(self, width=256, heads=4, words=1000, length=64):
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width)
        self.up, self.down, self.norm2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.LayerNorm(width)
        self.heads, self.size = heads, width // heads
        self.register_buffer("place", torch.arange(length)[None])

    def split(self, x):
        return x.view(*x.shape[:-1], self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, ids, mask):
        x = self.norm(self.words(ids) + self.places(self.place[:, : ids.shape[1]]))
        query, key, value = (self.split(f(x)) for f in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / self.size**0.5 + (1.0 - mask[:, None, None, :].float()) * -10000.0
        y = (scores.softmax(-1) @ value).permute(0, 2, 1, 3).contiguous()
        x = self.norm1(self.output(y.view(*y.shape[:2], -1)) + x)
        return self.norm2(self.down(F.gelu(self.up(x))) + x)


class GptBlock(nn.Module):
    """A decoder's block: one projection for all, a causal mask by `where`, GELU by tanh spelled out."""

    def __init__(self, width=256, heads=4, length=64):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.weight, self.bias = nn.Parameter(torch.zeros(width, 3 * width)), nn.Parameter(torch.zeros(3 * width))
        self.out, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads, self.size = heads, width // heads
        self.register_buffer("mask", torch.tril(torch.ones(length, length, dtype=torch.bool))[None, None])

    def forward(self, x):
        batch, length, width = x.shape
        qkv = torch.addmm(self.bias, self.norm1(x).view(-1, width), self.weight).view(batch, length, 3 * width)
        query, key, value = (t.view(batch, length, self.heads, self.size).transpose(1, 2) for t in qkv.split(width, 2))
        scores = query @ key.transpose(-1, -2) / self.size**0.5
        scores = torch.where(self.mask[:, :, :length, :length], scores, torch.finfo(scores.dtype).min)
        y = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(y)
        y = self.up(self.norm2(x))
        y = 0.5 * y * (1.0 + torch.tanh(0.7978845608 * (y + 0.044715 * torch.pow(y, 3.0))))
        return x + self.down(y)


class FusedAttention(nn.Module):
    """Attention by the framework's one call."""

    def __init__(self, width=192, heads=3):
        super().__init__()
        self.project, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x):
        batch, length, width = x.shape
        qkv = self.project(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=False)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Recurrent(nn.Module):
    """Words in, a class out: an embedding, an LSTM both ways, gated units."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(500, 64)
        self.lstm = nn.LSTM(64, 96, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(192, 48, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, ids):
        x, _ = self.lstm(self.words(ids))
        x, _ = self.gru(x)
        return self.head(x[:, -1])


class Segmentation(nn.Module):
    """A small U: halved, doubled again by a transposed convolution, joined, resized to the input."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        self.deep = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.Hardswish())
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.head = nn.Conv2d(32, 5, 1)

    def forward(self, x):
        stem = self.stem(x)
        joined = torch.cat([stem, self.up(self.deep(stem))], 1)
        return F.interpolate(self.head(joined), size=x.shape[2:], mode="bilinear", align_corners=False)


class Signal(nn.Module):
    """Convolutions along one axis."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 32, 7, 2, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(32, 64, 3, padding=2, dilation=2), nn.Tanh(),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 4),
        )

    def forward(self, x):
        return self.body(x)


def image(size=224):
    return (torch.zeros(2, 3, size, size),)


def networks(folder):
    folder.mkdir(parents=True, exist_ok=True)
    models = torchvision.models
    zoo = ["alexnet", "resnet18", "resnet50", "mobilenet_v2", "densenet121", "squeezenet1_1", "vgg16", "vgg19"]
    for name in zoo:
        export(folder / f"{name}.onnx", getattr(models, name)(weights=None), image())
    googlenet = models.googlenet(weights=None, aux_logits=False, init_weights=False)
    export(folder / "googlenet.onnx", googlenet, image())
    export(folder / "vit_b_16.onnx", models.vit_b_16(weights=None), image())
    export(folder / "resnet18-dynamo.onnx", models.resnet18(weights=None), image(), "dynamo", opset=18)
    export(folder / "mobilenet_v3_small-dynamo.onnx", models.mobilenet_v3_small(weights=None), image(), "dynamo", False, 20)
    words = torch.zeros(2, 64, dtype=torch.int64)
    both = dict(names=["ids", "mask"])
    export(folder / "bert_block.onnx", BertBlock(), (words, words), opset=14, **both)
    export(folder / "bert_block-dynamo.onnx", BertBlock(), (words, words), "dynamo", False, 18, **both)
    tokens = (torch.zeros(2, 64, 256),)
    export(folder / "gpt2_block.onnx", GptBlock(), tokens, opset=13)
    export(folder / "gpt2_block-dynamo.onnx", GptBlock(), tokens, "dynamo", False, 18)
    vit = models.vision_transformer.EncoderBlock(3, 192, 768, 0.0, 0.0)
    export(folder / "vit_block-dynamo.onnx", vit, (torch.zeros(2, 197, 192),), "dynamo", False, 20)
    export(folder / "attention.onnx", FusedAttention(), (torch.zeros(2, 50, 192),), opset=17)
    export(folder / "attention-dynamo.onnx", FusedAttention(), (torch.zeros(2, 50, 192),), "dynamo", False, 18)
    export(folder / "attention-opset23.onnx", FusedAttention(), (torch.zeros(2, 50, 192),), "dynamo", False, 23)
    export(folder / "recurrent.onnx", Recurrent(), (torch.zeros(2, 20, dtype=torch.int64),), names=["ids"], opset=14)
    export(folder / "segmentation.onnx", Segmentation(), image(64), opset=11)
    export(folder / "segmentation-dynamo.onnx", Segmentation(), image(64), "dynamo", False, 18)
    export(folder / "signal-fixed.onnx", Signal(), (torch.zeros(1, 2, 256),), opset=9, dynamic=False)


def blocks():
    """Name, a function that makes the module, and its inputs, of transformers' blocks at their published sizes."""
    # Of a table of places, an exporter keeps those that are used: all.
    words, tokens = torch.zeros(1, 512, dtype=torch.int64), torch.zeros(1, 128, 768)
    yield "bert_block", lambda: BertBlock(768, 12, 30522, 512), (words, words)
    yield "gpt2_block", lambda: GptBlock(768, 12, 1024), (tokens,)
    encoder = torchvision.models.vision_transformer.EncoderBlock
    yield "vit_block", lambda: encoder(12, 768, 3072, 0.0, 0.0), (torch.zeros(1, 197, 768),)


def torchvision_networks():
    """Name, a function that makes the module, and its inputs, of each network of torchvision."""
    for name, make, size in images():
        yield name, make, (torch.zeros(1, 3, size, size),)


def images():
    """Name, a function that makes the module, and the size of the image, of each."""
    models = torchvision.models
    for name in models.list_models(module=models):
        keywords = {"weights": None}
        if name in ("googlenet", "inception_v3"):
            keywords |= {"aux_logits": False, "init_weights": False}
        size = models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
        # Of the transformers this one's best weights are for larger images than it is made for unasked.
        if name == "vit_h_14":
            keywords |= {"image_size": size}
        make = lambda name=name, keywords=keywords: models.get_model(name, **keywords)
        yield name, make, size
    for name in models.list_models(module=models.segmentation):
        make = lambda name=name: Output(models.get_model(name, weights=None, weights_backbone=None))
        yield name, make, 520
    for name, make, size in detection_backbones():
        yield name, make, size


class Output(nn.Module):
    """A segmentation network's one answer instead of a dictionary."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)["out"]


class Pyramid(nn.Module):
    """A detector's backbone: its feature maps as a tuple."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        maps = self.backbone(x)
        return tuple(maps.values()) if isinstance(maps, dict) else maps


def detection_backbones():
    models = torchvision.models
    for name in models.list_models(module=models.detection):
        make = lambda name=name: Pyramid(models.get_model(name, weights=None, weights_backbone=None).backbone)
        yield f"{name}.backbone", make, {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}.get(name, 800)


def counts(module, inputs):
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(module.eval(), inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator = analysis.by_operator()
    # What multiplies matrices, and the only operators for which fvcore's definition and ours are one.
    products = sum(by_operator[name] for name in ("conv", "linear", "addmm", "matmul", "bmm", "einsum"))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    left_out = analysis.unsupported_ops().get("aten::scaled_dot_product_attention", 0)
    return {"macs": int(products), "parameters": parameters, "attention_left_out": left_out}


def torchvision_files(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "counts.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name, make, inputs in [*torchvision_networks(), *blocks()]:
        file = folder / f"{name}.onnx"
        if (name in found and file.exists()) or (names and name not in names):
            continue
        try:
            module = make().eval()
            with torch.no_grad():
                export(file, module, inputs, dynamic=False)
                found[name] = counts(module, inputs)
            print(name, found[name], flush=True)
        except Exception as error:  # one network that does not export must not end the others
            print(name, "failed:", str(error).splitlines()[:1], flush=True)
        path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["networks"]:
            networks(HERE / "networks")
        case ["torchvision", folder, *names]:
            torchvision_files(Path(folder), names)
        case _:
            sys.exit(__doc__)
