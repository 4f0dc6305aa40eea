"""What ONNX Runtime's own quantizer makes of models/digits_cnn.onnx: bytes and correct answers.

    build/venv/bin/python tests/bench/onnxruntime_digits.py
"""

import pathlib
import tempfile

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

MODELS = pathlib.Path(__file__).resolve().parents[2] / "models"


def unit_nchw(images):
    return images.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)


class Reader(CalibrationDataReader):
    def __init__(self):
        images = unit_nchw(np.load(MODELS / "digits_calib.npz")["images"])
        self.feeds = iter([{"image": image[None]} for image in images])

    def get_next(self):
        return next(self.feeds, None)


def n_correct(path):
    data = np.load(MODELS / "digits_eval.npz")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    y = session.run(None, {"image": unit_nchw(data["images"])})[0]
    return int((y.argmax(1) == data["labels"]).sum()), len(y)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        quant_pre_process(MODELS / "digits_cnn.onnx", folder / "p.onnx", skip_symbolic_shape=True)
        for label, weight, per_channel in (
            ("int8 per tensor", QuantType.QInt8, False),
            ("int8 per channel", QuantType.QInt8, True),
            ("int4 per channel", QuantType.QInt4, True),
        ):
            quantize_static(folder / "p.onnx", folder / "q.onnx", Reader(), per_channel=per_channel,
                            reduce_range=weight == QuantType.QInt8, weight_type=weight,
                            activation_type=QuantType.QUInt8)
            correct, n = n_correct(folder / "q.onnx")
            print(f"{label}: {(folder / 'q.onnx').stat().st_size} bytes, {correct} of {n} correct")


if __name__ == "__main__":
    main()
