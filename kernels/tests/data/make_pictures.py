"""Writes pictures.json: what Pillow and PyTorch make of pictures that the tests of `pictures` make too.

    ~/.cache/corpusmill/venv/bin/python kernels/tests/data/make_pictures.py

torchvision's `resize` of a tensor of bytes is `torch.nn.functional.interpolate` with antialiasing.
"""

import functools
import json
import pathlib

import PIL
import torch
from PIL import Image, ImageFilter

MODES = ["L", "LA", "RGB", "RGBA"]


def pixel(x, y, channel):
    return [
        x * x // 7 + y * 3 + x * y // 50,
        x * 5 + y * y // 11,
        x // 9 * 37 + y // 13 * 91,
        [0, 255, 128, x * 7 + y * 3][(x // 5 + y // 3) % 4],
    ][channel] % 256


@functools.cache
def picture(width, height, mode):
    channels = range(len(mode))
    return bytes(pixel(x, y, c) for y in range(height) for x in range(width) for c in channels)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def pillow(size, to, mode, name):
    image = Image.frombytes(mode, size, picture(*size, mode))
    return image.resize(to, Image.Resampling[name.upper()]).tobytes()


def torchvision(size, to, mode, name):
    tensor = torch.frombuffer(bytearray(picture(*size, mode)), dtype=torch.uint8)
    tensor = tensor.reshape(1, size[1], size[0], len(mode)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(tensor, to[::-1], mode=name, antialias=True)
    return bytes(resized.permute(0, 2, 3, 1).contiguous().flatten().tolist())


SIZES = [
    ((50, 40), (20, 16)), ((50, 40), (75, 61)), ((50, 40), (50, 17)), ((50, 40), (21, 40)), ((33, 97), (32, 20)),
    ((33, 97), (60, 80)), ((97, 33), (12, 50)), ((64, 64), (1, 1)), ((3, 2), (41, 37)), ((20, 60), (10, 39)),
    ((20, 60), (10, 40)), ((20, 60), (40, 61)), ((130, 75), (24, 24)), ((1, 1), (5, 4)), ((40, 200), (39, 7)),
]
resized = []
for size, to in SIZES:
    for mode in MODES:
        for method, make, filters in [
            ("pillow", pillow, ["bilinear", "bicubic", "lanczos"]),
            ("torchvision", torchvision, ["bilinear", "bicubic"]),
        ]:
            for name in filters:
                found = fnv(make(size, to, mode, name))
                resized.append({"from": size, "to": to, "mode": mode, "method": method, "filter": name, "hash": found})

blurred = []
for size in [(50, 40), (7, 33), (1, 9)]:
    for mode in MODES:
        for radius in [0.0, 0.5, 1.0, 2.7, 8.0, 40.0]:
            image = Image.frombytes(mode, size, picture(*size, mode)).filter(ImageFilter.GaussianBlur(radius))
            blurred.append({"from": size, "mode": mode, "radius": radius, "hash": fnv(image.tobytes())})

made_by = f"Pillow {PIL.__version__}, PyTorch {torch.__version__}"
lines = [f'{{"made_by": {json.dumps(made_by)},']
for name, cases in [("resized", resized), ("blurred", blurred)]:
    lines.append(f'"{name}": [')
    lines.append(",\n".join(json.dumps(case) for case in cases))
    lines.append("]," if name == "resized" else "]}")
pathlib.Path(__file__).with_name("pictures.json").write_text("\n".join(lines) + "\n")
