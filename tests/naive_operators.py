"""The operators' equations once more, in NumPy, float64 and term by term: ``name(parameters, x, strides)``."""

import numpy as np


def convolve(x, strides, weight, k=3):
    """``y[n, i, j] = sum_t x[n, i s + t // k - m, j s + t % k - m] * weight(n, i, j)[t]``, zeros outside."""
    n, height, width, c = x.shape
    y = np.zeros((n, -(-height // strides), -(-width // strides), c))
    for a, i, j in np.ndindex(y.shape[:3]):
        for t in range(k * k):
            row, column = i * strides + t // k - k // 2, j * strides + t % k - k // 2
            if 0 <= row < height and 0 <= column < width:
                y[a, i, j] += x[a, row, column] * weight(a, i, j)[t]
    return y


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def relu(x):
    return np.maximum(x, 0)


def norm(p, x):
    """With the statistics that stand among the parameters, or else the batch's own."""
    axes = tuple(range(x.ndim - 1))
    mean, var = (p["mean"], p["var"]) if "mean" in p else (x.mean(axes), x.var(axes))
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


def pool(x, strides):
    """Mean over squares, cut off where the grid ends."""
    n, height, width, c = x.shape
    y = np.zeros((n, -(-height // strides), -(-width // strides), c))
    for i, j in np.ndindex(y.shape[1:3]):
        rows, columns = (slice(at * strides, (at + 1) * strides) for at in (i, j))
        y[:, i, j] = x[:, rows, columns].mean((1, 2))
    return y


def mixed(p, x, strides, shares):
    kernels = p["kernel"].reshape(len(p["kernel"]), 9, -1)
    y = convolve(x, strides, lambda n, i, j: sum(s * kernel for s, kernel in zip(shares[n], kernels, strict=True)))
    return y + (shares @ p["bias"])[:, None, None]


def attention(p, x, temperature=2.0):
    return softmax(dense(p["logits"], relu(dense(p["squeeze"], x.mean((1, 2))))) / temperature)


def condconv(p, x, strides):
    return mixed(p["experts"], x, strides, sigmoid(dense(p["routing"], x.mean((1, 2)))))


def dyconv_dw(p, x, strides):
    return mixed(p["experts"], x, strides, attention(p["attention"], x))


def dyconv_pw(p, x, strides):
    shares = attention(p["attention"], x)
    return np.stack([x[n] @ sum(s * k for s, k in zip(shares[n], p["kernel"], strict=True)) for n in range(len(x))])


def weightnet(p, x, strides):
    active = sigmoid(dense(p["activate"], dense(p["reduce"], x.mean((1, 2))))).reshape(len(x), 2, -1)
    kernels = p["kernel"].reshape(2, 9, -1)
    return convolve(x, strides, lambda n, i, j: sum(active[n, m] * kernels[m] for m in range(2))) + p["bias"]


def involution(p, x, strides):
    kernels = dense(p["span"], relu(norm(p["norm"], pool(x, strides) @ p["reduce"]["kernel"])))
    kernels = kernels.reshape(*kernels.shape[:3], 9, 2)  # two groups, four channels each
    return convolve(x, strides, lambda n, i, j: np.repeat(kernels[n, i, j], 4, axis=-1))


def ddf(p, x, strides):
    def norm(taps):
        return (taps - taps.mean(0)) / taps.std(0, ddof=1)

    pixels = dense(p["pixels"], x[:, ::strides, ::strides])
    channels = dense(p["channels"], relu(dense(p["squeeze"], x.mean((1, 2))))).reshape(len(x), 9, -1)

    def weight(n, i, j):
        return np.sqrt(2) / 3 * norm(pixels[n, i, j])[:, None] * norm(channels[n]) * p["scale"]

    return convolve(x, strides, weight)


def sasa(p, x, strides, heads=2):
    n, height, width, c = x.shape
    size, y = c // heads, np.zeros(x.shape)
    for a, i, j, m in np.ndindex(n, height, width, heads):
        own = slice(m * size, (m + 1) * size)
        query, logits, values = x[a, i, j, own] @ p["query"][m], [], []
        for down, right in np.ndindex(3, 3):
            row, column = i + down - 1, j + right - 1
            if 0 <= row < height and 0 <= column < width:
                offset = np.concatenate([p["rows"][down, m], p["columns"][right, m]])
                logits.append(query @ (x[a, row, column, own] @ p["key"][m] + offset))
                values.append(x[a, row, column, own] @ p["value"][m])
        y[a, i, j, own] = softmax(np.array(logits)) @ np.array(values)
    return pool(y, strides)


def along_w(p, x, heads=2):
    n, height, width, c = x.shape
    size, half = c // heads, c // heads // 2
    parts = norm(p["norm_project"], x @ p["project"]["kernel"]).reshape(n, height, width, heads, -1)
    query, key, value = np.split(parts, (half, 2 * half), axis=-1)
    logits = np.zeros((n, height, width, width, 3, heads))
    for a, i, o, at, m in np.ndindex(n, height, width, width, heads):
        q, k, r = query[a, i, o, m], key[a, i, at, m], at - o + width - 1
        logits[a, i, o, at, :, m] = q @ k, q @ p["rq"][r], k @ p["rk"][r]
    logits = norm(p["norm_logits"], logits.reshape(*logits.shape[:4], -1)).reshape(logits.shape).sum(-2)
    y = np.zeros((n, height, width, 2, c))
    for a, i, o, m in np.ndindex(n, height, width, heads):
        own, shares = slice(m * size, (m + 1) * size), softmax(logits[a, i, o, :, m])
        y[a, i, o, 0, own] = sum(shares[at] * value[a, i, at, m] for at in range(width))
        y[a, i, o, 1, own] = sum(shares[at] * p["rv"][at - o + width - 1] for at in range(width))
    return norm(p["norm_out"], y.reshape(n, height, width, -1)).reshape(y.shape).sum(-2)


def axial(p, x, strides):
    x = along_w(p["along_h"], x.swapaxes(1, 2)).swapaxes(1, 2)
    return pool(along_w(p["along_w"], x), strides)


def locally_connected(p, x, strides):
    return convolve(x, strides, lambda n, i, j: p["weights"][i, j]) + p["bias"]


def tvconv_linear(p, x, strides):
    def mix(i, j, rows):
        return sum(a * row for a, row in zip(p["affinity"][i, j], rows, strict=True))

    bias = np.array([[mix(i, j, p["bias_linear"]) for j in range(-(-4 // strides))] for i in range(-(-5 // strides))])
    return convolve(x, strides, lambda n, i, j: mix(i, j, p["weights_linear"])) + bias


def conv3x3(kernel, maps):
    height, width, _ = maps.shape
    y = np.zeros((height, width, *kernel.shape[3:]))
    for i, j, down, right in np.ndindex(height, width, 3, 3):
        if 0 <= i + down - 1 < height and 0 <= j + right - 1 < width:
            y[i, j] += np.tensordot(maps[i + down - 1, j + right - 1], kernel[down, right], axes=1)
    return y


def generate(p, maps):
    for i in range(len(p) - 1):
        maps = conv3x3(p[f"block_{i}"]["conv"]["kernel"], maps)
        maps = (maps - maps.mean()) / np.sqrt(maps.var() + 1e-5)
        maps = relu(maps * p[f"block_{i}"]["scale"] + p[f"block_{i}"]["bias"])
    return conv3x3(p["out"]["kernel"], maps)


def tvconv_lowrank(p, x, strides):
    gains, kernels = generate(p["gains_generator"], p["affinity"]), p["kernel"].reshape(2, 9, -1)
    y = convolve(x, strides, lambda n, i, j: sum(gains[i, j, r] * kernels[r] for r in range(2)))
    return y + generate(p["bias_generator"], p["affinity"])


def tvconv_dynamic(p, x, strides):
    maps = dense(p["maps"], pool(x, strides))
    weights = [generate(p["kernels_generator"], one) for one in maps]
    y = convolve(x, strides, lambda n, i, j: weights[n][i, j])
    return y + np.stack([generate(p["biases_generator"], one) for one in maps])
