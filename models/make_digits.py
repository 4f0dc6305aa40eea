#!/usr/bin/env python3
"""Trains the two digit networks of this folder and writes them with their data.

    python3 -m venv v && v/bin/pip install numpy==2.2.6 scikit-learn==1.9.1 onnx==1.23.2 torch==2.15.0
    v/bin/python models/make_digits.py

Writes beside itself: digits_cnn.onnx, digits_mlp.onnx, digits_calib.npz, digits_eval.npz.
Five minutes on one core. The seed fixes everything for one build of PyTorch on one kind of processor.
"""

import io
import pathlib
import zipfile

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

SEED = 20
N_EVAL, N_CALIB = 600, 400
FOLDER = pathlib.Path(__file__).resolve().parent
CLASSES = "0,1,2,3,4,5,6,7,8,9"


def split():
    """images uint8 [n, 8, 8, 1], labels int64 [n]: a training and an evaluation part, by class."""
    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]  # the set counts 0..16
    labels = digits.target.astype(np.int64)
    return train_test_split(images, labels, test_size=N_EVAL, stratify=labels, random_state=SEED)


def unit_nchw(images):
    return torch.from_numpy(images.astype(np.float32) / 255).permute(0, 3, 1, 2).contiguous()


class Residual(nn.Module):
    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.conv = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.shortcut.bn = nn.BatchNorm2d(n_out)

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class InvertedResidual(nn.Module):
    def __init__(self, n, expand):
        super().__init__()
        m = n * expand
        self.expand, self.bn1 = nn.Conv2d(n, m, 1, bias=False), nn.BatchNorm2d(m)
        self.depthwise = nn.Conv2d(m, m, 3, padding=1, groups=m, bias=False)
        self.bn2 = nn.BatchNorm2d(m)
        self.project, self.bn3 = nn.Conv2d(m, n, 1, bias=False), nn.BatchNorm2d(n)

    def forward(self, x):
        y = functional.relu6(self.bn1(self.expand(x)))
        y = functional.relu6(self.bn2(self.depthwise(y)))
        return x + self.bn3(self.project(y))


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.layer1 = Residual(24, 24, 1)
        self.layer2 = Residual(24, 48, 2)
        self.layer3 = InvertedResidual(48, 4)
        self.head, self.bn_head = nn.Conv2d(48, 96, 1, bias=False), nn.BatchNorm2d(96)
        self.fc = nn.Linear(96, 10)

    def forward(self, x):
        x = functional.relu(self.bn(self.stem(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(functional.relu(self.bn_head(self.head(x))).mean((2, 3)))


class Mlp(nn.Module):
    """Reads the image as it is stored, channels last, and ends in probabilities."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = torch.sigmoid(self.fc1(x.flatten(1)))
        return self.fc3(functional.relu(self.fc2(x)))


def augment(x):
    """Each image turned, scaled, sheared and moved a little."""
    n = len(x)
    theta = torch.eye(2, 3).repeat(n, 1, 1) + torch.randn(n, 2, 3) * torch.tensor([0.1, 0.1, 0.07])
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False).clamp(0, 1)


def train(model, images, labels, n_epochs):
    x, y = unit_nchw(images), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    n_steps = n_epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=n_steps)
    for _ in range(n_epochs):
        order = torch.randperm(len(x))
        for i in range(0, len(x) // 64 * 64, 64):
            batch = order[i : i + 64]
            loss = functional.cross_entropy(model(augment(x[batch])), y[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


class Writer:
    """Nodes and initializers in the order of execution, named as the PyTorch modules are."""

    def __init__(self, model):
        self.weights = {k: v.detach().numpy() for k, v in model.state_dict().items()}
        self.node, self.initializer = [], []

    def constant(self, name, array):
        self.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, name):
        return self.constant(name, self.weights[name])

    def add(self, op, path, inputs, **attributes):
        output = f"/{path}/{op}_output_0"
        self.node.append(helper.make_node(op, inputs, [output], f"/{path}/{op}", **attributes))
        return output

    def conv_bn(self, x, conv, bn, kernel, stride=1, group=1):
        pad = kernel // 2
        y = self.add(
            "Conv", conv.replace(".", "/"), [x, self.weight(conv + ".weight")],
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=group,
            dilations=[1, 1])
        parts = [self.weight(f"{bn}.{p}") for p in ("weight", "bias", "running_mean", "running_var")]
        return self.add("BatchNormalization", bn.replace(".", "/"), [y, *parts], epsilon=1e-5)

    def save(self, name, x, y, path):
        self.node[-1].output[0] = y.name
        graph = helper.make_graph(self.node, name, [x], [y], self.initializer)
        model = helper.make_model(
            graph, producer_name="make_digits.py", ir_version=8,
            opset_imports=[helper.make_opsetid("", 17)])
        helper.set_model_props(model, {"classes": CLASSES})
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString())


def write_cnn(model, path):
    w = Writer(model)
    relu6 = [w.constant("relu6.min", np.float32(0)), w.constant("relu6.max", np.float32(6))]
    x = w.add("Relu", "stem", [w.conv_bn("image", "stem", "bn", 3)])
    for layer, stride in (("layer1", 1), ("layer2", 2)):
        y = w.conv_bn(x, f"{layer}.conv1", f"{layer}.bn1", 3, stride)
        y = w.add("Relu", f"{layer}/relu1", [y])
        y = w.conv_bn(y, f"{layer}.conv2", f"{layer}.bn2", 3)
        if stride != 1:
            x = w.conv_bn(x, f"{layer}.shortcut.conv", f"{layer}.shortcut.bn", 1, stride)
        x = w.add("Relu", f"{layer}/relu2", [w.add("Add", layer, [y, x])])
    m = model.layer3.depthwise.groups
    y = w.add("Clip", "layer3/relu1", [w.conv_bn(x, "layer3.expand", "layer3.bn1", 1), *relu6])
    y = w.conv_bn(y, "layer3.depthwise", "layer3.bn2", 3, 1, m)
    y = w.add("Clip", "layer3/relu2", [y, *relu6])
    x = w.add("Add", "layer3", [x, w.conv_bn(y, "layer3.project", "layer3.bn3", 1)])
    x = w.add("Relu", "head", [w.conv_bn(x, "head", "bn_head", 1)])
    x = w.add("Flatten", "flatten", [w.add("GlobalAveragePool", "pool", [x])], axis=1)
    w.add("Gemm", "fc", [x, w.weight("fc.weight"), w.weight("fc.bias")], transB=1)
    w.save("digits_cnn",
           helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8]),
           helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10]), path)


def write_mlp(model, path):
    w = Writer(model)
    x = w.add("Reshape", "flatten", ["image", w.constant("flatten.shape", np.array([-1, 64]))])
    for layer, activation in (("fc1", "Sigmoid"), ("fc2", "Relu"), ("fc3", "Softmax")):
        matrix = w.constant(layer + ".kernel", w.weights[layer + ".weight"].T)
        x = w.add("MatMul", layer, [x, matrix])
        x = w.add("Add", layer, [x, w.weight(layer + ".bias")])
        x = w.add(activation, layer, [x])
    w.save("digits_mlp",
           helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 8, 8, 1]),
           helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10]), path)


def save_npz(path, **arrays):
    """numpy.savez_compressed without the time of day in it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.save(data, array)
            archive.writestr(zipfile.ZipInfo(name + ".npy"), data.getvalue(), zipfile.ZIP_DEFLATED)


def accuracy(model, images, labels):
    with torch.no_grad():
        return float((model(unit_nchw(images)).argmax(1).numpy() == labels).mean())


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, eval_images, labels, eval_labels = split()
    save_npz(FOLDER / "digits_calib.npz", images=images[:N_CALIB])
    save_npz(FOLDER / "digits_eval.npz", images=eval_images, labels=eval_labels)
    for name, model, n_epochs, write in (
        ("digits_cnn", Cnn(), 80, write_cnn),
        ("digits_mlp", Mlp(), 300, write_mlp),
    ):
        train(model, images, labels, n_epochs)
        write(model, FOLDER / f"{name}.onnx")
        n = sum(p.numel() for p in model.parameters())
        print(f"{name}: {n} parameters, accuracy {accuracy(model, eval_images, eval_labels):.4f}")


if __name__ == "__main__":
    main()
