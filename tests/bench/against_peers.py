"""Our engine beside ONNX Runtime (forward) and PyTorch eager (the tuning step), in one run.

    python tests/bench/against_peers.py [-t THREADS] [-r ROUNDS] forward|train \
        build/tests/bench/bench_models MODEL.onnx BATCH [MODEL.onnx BATCH ...]

needs onnx, numpy and onnxruntime or torch. CSV on stdout: median milliseconds of both, in processor
time on one thread, and theirs over ours (above 1: we are faster). Sides alternate, ROUNDS times. The
PyTorch step is what its users write: every path fake-quantizes all weights (one scale a channel,
straight through) and activations (torch.fake_quantize_per_tensor_affine), is compared with the float
model's answers by KL divergence and run backward; Adam follows. Batch norms are folded first.
"""

import argparse
import statistics
import subprocess
import time

import numpy as np
import onnx
from onnx import numpy_helper

N_PATH, WIDTHS = 4, (2, 3, 4, 5, 6, 8)


def clock(threads):
    return time.process_time if threads == 1 else time.perf_counter


def median_ms(run, threads, n):
    now, times = clock(threads), []
    run()
    for _ in range(n):
        start = now()
        run()
        times.append(1e3 * (now() - start))
    return statistics.median(times)


def noise(model, batch):
    rng = np.random.default_rng(0)
    feeds = {}
    known = {i.name for i in model.graph.initializer}
    for value in model.graph.input:
        if value.name in known:
            continue
        dims = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = rng.uniform(-2, 2, dims).astype(np.float32)
    return feeds


class OnnxRuntime:
    def __init__(self, path, batch, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.feeds, self.threads = noise(onnx.load(path), batch), threads

    def measure(self):
        return median_ms(lambda: self.session.run(None, self.feeds), self.threads, 5)


class PyTorch:
    """The model as torch calls, node by node."""

    def __init__(self, path, batch, threads):
        import torch

        self.torch, self.threads = torch, threads
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        model = onnx.load(path)
        self.graph = model.graph
        self.constant = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in model.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.constant[node.output[0]] = torch.tensor(numpy_helper.to_array(node.attribute[0].t))
        self.fold_norms()
        self.weight, self.bias, self.scale = {}, {}, {}
        for node in self.graph.node:
            if node.op_type not in ("Conv", "Gemm"):
                continue
            w = self.constant[node.input[1]].clone().requires_grad_()
            self.weight[node.output[0]] = w
            most = w.detach().flatten(1).abs().amax(1).clamp_min(1e-8)
            self.scale[node.output[0]] = {
                b: (most / (2 ** (b - 1) - 1)).requires_grad_() for b in WIDTHS}
            if len(node.input) > 2:
                self.bias[node.output[0]] = self.constant[node.input[2]].clone().requires_grad_()
        self.feeds = {k: torch.tensor(v) for k, v in noise(model, batch).items()}
        parameters = list(self.weight.values()) + list(self.bias.values())
        for scales in self.scale.values():
            parameters += scales.values()
        self.optimizer = torch.optim.Adam(parameters, lr=1e-5)
        with torch.no_grad():
            self.target = self.run(None).softmax(-1)
        self.rng = np.random.default_rng(1)

    def fold_norms(self):
        kept, renamed = [], {}
        producer = {node.output[0]: node for node in self.graph.node}
        for node in self.graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = renamed.get(name, name)
            before = producer.get(node.input[0])
            if node.op_type == "BatchNormalization" and before is not None and before.op_type == "Conv":
                gamma, beta, mean, var = (self.constant[name] for name in node.input[1:5])
                epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
                factor = gamma / (var + epsilon).sqrt()
                w = self.constant[before.input[1]]
                b = self.constant[before.input[2]] if len(before.input) > 2 else 0
                self.constant[before.input[1]] = w * factor.view(-1, *[1] * (w.dim() - 1))
                name = before.output[0] + "_bias"
                self.constant[name] = beta + (b - mean) * factor
                del before.input[2:]
                before.input.append(name)
                renamed[node.output[0]] = before.output[0]
            elif node.op_type != "Constant":
                kept.append(node)
        self.nodes = kept
        self.reader = {}
        for node in kept:
            for name in node.input:
                self.reader.setdefault(name, []).append(node)

    def fake_weight(self, name, bits):
        w, s = self.weight[name], self.scale[name][bits]
        s = s.view(-1, *[1] * (w.dim() - 1))
        most = 2 ** (bits - 1) - 1
        z = w / s
        q = z.clamp(-most, most)
        q = q + (q.round() - q).detach()
        return q * s

    def run(self, bits):
        torch, f, value = self.torch, self.torch.nn.functional, dict(self.constant)
        for name, x in self.feeds.items():
            value[name] = x
        for node in self.nodes:
            a = {t.name: onnx.helper.get_attribute_value(t) for t in node.attribute}
            x = [value[name] if name else None for name in node.input]
            y, kind = node.output[0], node.op_type
            if kind in ("Conv", "Gemm"):
                w = self.weight[y] if bits is None else self.fake_weight(y, bits[y])
                b = self.bias.get(y)
            if kind == "Conv":
                pads = a.get("pads", [0] * 4)
                n = len(pads) // 2
                if pads[:n] != pads[n:]:
                    x[0] = f.pad(x[0], (pads[1], pads[3], pads[0], pads[2]))
                    pads = [0] * 4
                out = f.conv2d(x[0], w, b, a.get("strides", 1), pads[:n], a.get("dilations", 1), a.get("group", 1))
            elif kind == "Gemm":
                out = f.linear(x[0], w if a.get("transB") else w.t(), b)
            elif kind == "Relu":
                out = x[0].relu()
            elif kind == "Clip":
                out = x[0].clamp(float(x[1]), float(x[2]))
            elif kind == "Add":
                out = x[0] + x[1]
            elif kind == "Concat":
                out = torch.cat(x, a["axis"])
            elif kind == "MaxPool":
                out = f.max_pool2d(x[0], a["kernel_shape"], a.get("strides"), a.get("pads", [0, 0])[:2],
                                   ceil_mode=bool(a.get("ceil_mode")))
            elif kind == "AveragePool":
                out = f.avg_pool2d(x[0], a["kernel_shape"], a.get("strides"), a.get("pads", [0, 0])[:2])
            elif kind == "GlobalAveragePool":
                out = x[0].mean((2, 3), keepdim=True)
            elif kind == "Flatten":
                out = x[0].flatten(1)
            elif kind == "Slice":
                cut = [slice(None)] * x[0].dim()
                steps = x[4] if len(x) > 4 else [1] * len(x[1])
                for start, end, axis, step in zip(x[1], x[2], x[3], steps):
                    cut[int(axis)] = slice(int(start), min(int(end), x[0].shape[int(axis)]), int(step))
                out = x[0][tuple(cut)]
            elif kind == "Pad":
                pads, n, order = x[1].tolist(), x[0].dim(), []
                for i in reversed(range(n)):
                    order += [pads[i], pads[n + i]]
                out = f.pad(x[0], order)
            else:
                raise SystemExit(f"{kind} is not in this script")
            readers = self.reader.get(y, [])
            is_activated = kind in ("Conv", "Gemm", "Add") and any(r.op_type in ("Relu", "Clip") for r in readers)
            if bits is not None and kind in ("Conv", "Gemm", "Add", "Relu", "Clip") and not is_activated:
                low, high = min(float(out.detach().amin()), 0), max(float(out.detach().amax()), 0)
                scale = max(high - low, 1e-6) / 255
                out = torch.fake_quantize_per_tensor_affine(out, scale, int(round(-low / scale)), 0, 255)
            value[y] = out
        return value[self.graph.output[0].name]

    def step(self):
        torch = self.torch
        self.optimizer.zero_grad()
        for path in range(N_PATH):
            bits = {y: 8 if path == 0 else int(self.rng.choice(WIDTHS)) for y in self.weight}
            loss = torch.nn.functional.kl_div(self.run(bits).log_softmax(-1), self.target, reduction="batchmean")
            loss.backward()
        self.optimizer.step()

    def measure(self):
        return median_ms(self.step, self.threads, 2)


def measure_ours(bench, work, path, batch, threads):
    out = subprocess.run([bench, "-t", str(threads), "-w", work, path, str(batch)],
                         capture_output=True, text=True, check=True).stdout
    return float(out.splitlines()[-1].split(",")[3])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("work", choices=["forward", "train"])
    parser.add_argument("bench")
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    print("model,batch,work,peer,ours_ms,peer_ms,ratio", flush=True)
    for path, batch in zip(args.models[::2], map(int, args.models[1::2])):
        peer = (OnnxRuntime if args.work == "forward" else PyTorch)(path, batch, args.threads)
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(measure_ours(args.bench, args.work, path, batch, args.threads))
            theirs.append(peer.measure())
        a, b = statistics.median(ours), statistics.median(theirs)
        name = path.rsplit("/", 1)[-1]
        print(f"{name},{batch},{args.work},{type(peer).__name__},{a:.1f},{b:.1f},{b / a:.2f}", flush=True)


if __name__ == "__main__":
    main()
