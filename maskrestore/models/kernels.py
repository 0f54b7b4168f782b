"""Triton's part of models/fast_modulation.py: what runs on the GPU. Home of triton.

A map [B,C,h,w] that is channels_last is a matrix with a row per pixel and a column per channel; a
modulation [scale, shift] has twice as many columns, what is cut into parts several times as many.
A program has a tile of `block_pixels` rows and `block_channels` columns (powers of two) of an
image. Computed in float32 and rounded once, whatever the format; sums are added in the same order
each time.
"""

import triton
import triton.language as tl


@triton.jit
def _tile(pixels, channels, first, block_pixels: tl.constexpr, block_channels: tl.constexpr):
    """Pixels from `first` on and channels of a program, and which of them there are."""
    pixel = first + tl.arange(0, block_pixels)
    channel = tl.program_id(1) * block_channels + tl.arange(0, block_channels)
    there = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    return pixel, channel[None, :], there


@triton.jit
def _row(pixel, pixels, width, part: tl.constexpr, doubled: tl.constexpr):
    """Of a pixel, or of one of the four (0 to 3) that it becomes in the doubled map."""
    image = tl.program_id(2).to(tl.int64)
    if doubled:
        inside = (pixel // width * 2 + part // 2) * (2 * width) + pixel % width * 2 + part % 2
        row = image * 4 * pixels + inside
    else:
        row = image * pixels + pixel
    return row[:, None]


@triton.jit
def _moment(moments, number: tl.constexpr, channel, channels):
    """The channels' mean (0) or 1 / standard deviation (1), of [2,B,C]; or their sums."""
    image = number * tl.num_programs(2) + tl.program_id(2)
    return tl.load(moments + image * channels + channel, mask=channel < channels, other=0.0)


@triton.jit
def _load_x(x, moments, row, channel, channels, there, normalized: tl.constexpr):
    value = tl.load(x + row * channels + channel, mask=there, other=0.0).to(tl.float32)
    if normalized:
        mean = _moment(moments, 0, channel, channels)
        value = (value - mean) * _moment(moments, 1, channel, channels)
    return value


@triton.jit
def modulate(
    x,
    moments,
    modulation,
    result,
    pixels,
    width,
    channels,
    normalized: tl.constexpr,
    doubled: tl.constexpr,
    shifted: tl.constexpr,
    slope: tl.constexpr,
    block_pixels: tl.constexpr,
    block_channels: tl.constexpr,
):
    """result = leaky ReLU(norm(x) * scale + shift), of `slope`; 1.0 is none.

    `pixels` of an image and `width` are those of x.
    """
    first = tl.program_id(0) * block_pixels
    pixel, channel, there = _tile(pixels, channels, first, block_pixels, block_channels)
    row = _row(pixel, pixels, width, 0, False)
    value = _load_x(x, moments, row, channel, channels, there, normalized)
    columns = 2 * channels if shifted else channels
    for part in tl.static_range(4 if doubled else 1):
        row = _row(pixel, pixels, width, part, doubled)
        place = modulation + row * columns + channel
        y = value * tl.load(place, mask=there, other=0.0).to(tl.float32)
        if shifted:
            y += tl.load(place + channels, mask=there, other=0.0).to(tl.float32)
        if slope != 1.0:
            y = tl.where(y > 0, y, y * slope)
        tl.store(result + row * channels + channel, y, mask=there)


@triton.jit
def modulate_backward(
    x,
    moments,
    modulation,
    gradient,
    of_modulation,
    of_x,
    sums,
    pixels,
    width,
    channels,
    chunk,
    normalized: tl.constexpr,
    doubled: tl.constexpr,
    shifted: tl.constexpr,
    slope: tl.constexpr,
    accumulates: tl.constexpr,
    adds_up: tl.constexpr,
    block_pixels: tl.constexpr,
    block_channels: tl.constexpr,
):
    """The gradients of modulate; that of norm(x) into of_x, or on top of what it holds.

    Each program goes through `chunk` pixels. sums [2,B,chunks,C]: where given, of what of_x then
    holds and of that times norm(x), which norm's own gradient needs.
    """
    first = tl.program_id(0) * chunk
    columns = 2 * channels if shifted else channels
    sum_0 = tl.zeros([block_channels], tl.float32)
    sum_1 = tl.zeros([block_channels], tl.float32)
    for start in range(first, tl.minimum(first + chunk, pixels), block_pixels):
        pixel, channel, there = _tile(pixels, channels, start, block_pixels, block_channels)
        row_of_x = _row(pixel, pixels, width, 0, False)
        value = _load_x(x, moments, row_of_x, channel, channels, there, normalized)
        total = tl.zeros([block_pixels, block_channels], tl.float32)
        for part in tl.static_range(4 if doubled else 1):
            row = _row(pixel, pixels, width, part, doubled)
            place = row * columns + channel
            scale = tl.load(modulation + place, mask=there, other=0.0).to(tl.float32)
            g = tl.load(gradient + row * channels + channel, mask=there, other=0.0).to(tl.float32)
            if slope != 1.0:
                y = value * scale
                if shifted:
                    shift = tl.load(modulation + place + channels, mask=there, other=0.0)
                    y += shift.to(tl.float32)
                g = tl.where(y > 0, g, g * slope)
            tl.store(of_modulation + place, g * value, mask=there)
            if shifted:
                tl.store(of_modulation + place + channels, g, mask=there)
            total += g * scale
        place_of_x = of_x + row_of_x * channels + channel
        if accumulates:
            total += tl.load(place_of_x, mask=there, other=0.0).to(tl.float32)
        tl.store(place_of_x, total, mask=there)
        if adds_up:  # what was stored, so that on a map of 1x1 nothing is left of it
            total = total.to(of_x.dtype.element_ty).to(tl.float32)
            sum_0 += tl.sum(total, 0)
            sum_1 += tl.sum(total * value, 0)
    if adds_up:
        _store_chunk(sums, 0, sum_0, channels, block_channels)
        _store_chunk(sums, 1, sum_1, channels, block_channels)


@triton.jit
def _store_chunk(sums, number: tl.constexpr, values, channels, block_channels: tl.constexpr):
    """Into [2,B,chunks,C]."""
    image = number * tl.num_programs(2) + tl.program_id(2)
    channel = tl.program_id(1) * block_channels + tl.arange(0, block_channels)
    place = (image * tl.num_programs(0) + tl.program_id(0)) * channels + channel
    tl.store(sums + place, values, mask=channel < channels)


@triton.jit
def normalize_backward(
    x,
    moments,
    sums,
    of_x,
    pixels,
    channels,
    block_pixels: tl.constexpr,
    block_channels: tl.constexpr,
):
    """of_x, the gradient of norm(x), becomes that of x. sums [2,B,C]: over the pixels, of that
    gradient and of it times norm(x)."""
    first = tl.program_id(0) * block_pixels
    pixel, channel, there = _tile(pixels, channels, first, block_pixels, block_channels)
    row = _row(pixel, pixels, 1, 0, False)
    value = _load_x(x, moments, row, channel, channels, there, True)
    place = of_x + row * channels + channel
    g = tl.load(place, mask=there, other=0.0).to(tl.float32)
    sum_0, sum_1 = _moment(sums, 0, channel, channels), _moment(sums, 1, channel, channels)
    g -= (sum_0 + value * sum_1) / pixels
    tl.store(place, g * _moment(moments, 1, channel, channels), mask=there)


@triton.jit
def find_moments(
    x, parts, pixels, channels, chunk, block_pixels: tl.constexpr, block_channels: tl.constexpr
):
    """Of each `chunk` of pixels its mean and the sum of squares around it: [2,B,chunks,C].

    Squares around the mean, and joined by Chan, Golub and LeVeque (1983): E[x^2] - E[x]^2 would
    lose the variance of a channel whose mean is large.
    """
    first = tl.program_id(0) * chunk
    own = tl.program_id(1) * block_channels + tl.arange(0, block_channels)
    place = x + (tl.program_id(2).to(tl.int64) * pixels + first) * channels + own
    mean = tl.load(place, mask=own < channels, other=0.0).to(tl.float32)  # a first guess
    squares = tl.zeros([block_channels], tl.float32)
    for start in range(first, tl.minimum(first + chunk, pixels), block_pixels):
        pixel, channel, there = _tile(pixels, channels, start, block_pixels, block_channels)
        row = _row(pixel, pixels, 1, 0, False)
        value = tl.load(x + row * channels + channel, mask=there, other=0.0).to(tl.float32)
        before = (start - first).to(tl.float32)
        count = tl.minimum(block_pixels, pixels - start).to(tl.float32)
        value = tl.where(there, value - mean[None, :], 0.0)
        difference, share = tl.sum(value, 0) / count, count / (before + count)
        distance = tl.where(there, value - difference[None, :], 0.0)
        squares += tl.sum(distance * distance, 0) + difference * difference * before * share
        mean += difference * share
    _store_chunk(parts, 0, mean, channels, block_channels)
    _store_chunk(parts, 1, squares, channels, block_channels)


@triton.jit
def join_moments(
    parts,
    moments,
    pixels,
    channels,
    chunk,
    num_chunks,
    epsilon,
    block_chunks: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Moments [2,B,C] of those of the chunks."""
    number, channel, there = _tile(num_chunks, channels, 0, block_chunks, block_channels)
    batch = tl.num_programs(2)
    place = parts + (tl.program_id(2) * num_chunks + number[:, None]) * channels + channel
    first = parts + tl.program_id(2) * num_chunks * channels + channel
    guess = tl.load(first, mask=channel < channels, other=0.0)
    distance = tl.where(there, tl.load(place, mask=there, other=0.0) - guess, 0.0)
    count = tl.maximum(tl.minimum(chunk, pixels - number * chunk), 0).to(tl.float32)[:, None]
    difference = tl.sum(distance * count, 0) / pixels
    distance = tl.where(there, distance - difference[None, :], 0.0)
    squares = tl.load(place + batch * num_chunks * channels, mask=there, other=0.0)
    variance = tl.sum(squares + distance * distance * count, 0) / pixels
    deviation = tl.sqrt(variance + epsilon)
    place = moments + tl.program_id(2) * channels + channel
    tl.store(place, guess + difference[None, :], mask=channel < channels)
    tl.store(place + batch * channels, 1.0 / deviation[None, :], mask=channel < channels)


@triton.jit(do_not_specialize=["part"])
def split_relu(
    x,
    result,
    bits,
    rows,
    channels,
    part,
    num_parts,
    packed: tl.constexpr,
    block_pixels: tl.constexpr,
    block_channels: tl.constexpr,
):
    """result [rows,C] = ReLU of a part's columns of x [rows,n*C]; packed: its signs as bits uint8
    [rows,ceil(C/8)]."""
    first = tl.program_id(0) * block_pixels
    pixel, channel, there = _tile(rows, channels, first, block_pixels, block_channels)
    row = pixel[:, None].to(tl.int64)
    place = x + (row * num_parts + part) * channels + channel
    value = tl.load(place, mask=there, other=0.0).to(tl.float32)
    value = tl.where(value <= 0, 0.0, value)  # NaN stays NaN
    tl.store(result + row * channels + channel, value, mask=there)
    if packed:
        eights = tl.reshape((value > 0).to(tl.int32), [block_pixels, block_channels // 8, 8])
        byte = tl.sum(eights << tl.arange(0, 8)[None, None, :], 2).to(tl.uint8)
        num_bytes = tl.cdiv(channels, 8)
        number = tl.program_id(1) * (block_channels // 8) + tl.arange(0, block_channels // 8)
        place = bits + row * num_bytes + number[None, :]
        tl.store(place, byte, mask=(pixel < rows)[:, None] & (number < num_bytes)[None, :])


@triton.jit(do_not_specialize=["part"])
def split_relu_backward(
    gradient,
    kept,
    of_x,
    rows,
    channels,
    part,
    num_parts,
    packed: tl.constexpr,
    block_pixels: tl.constexpr,
    block_channels: tl.constexpr,
):
    """A part's columns of of_x [rows,n*C]; kept: its result [rows,C], or its bits."""
    first = tl.program_id(0) * block_pixels
    pixel, channel, there = _tile(rows, channels, first, block_pixels, block_channels)
    row = pixel[:, None].to(tl.int64)
    if packed:
        place = kept + row * tl.cdiv(channels, 8) + channel // 8
        positive = (tl.load(place, mask=there, other=0).to(tl.int32) >> channel % 8) & 1
    else:
        result = tl.load(kept + row * channels + channel, mask=there, other=0.0)
        positive = result.to(tl.float32) > 0
    g = tl.load(gradient + row * channels + channel, mask=there, other=0.0).to(tl.float32)
    place = of_x + (row * num_parts + part) * channels + channel
    tl.store(place, g * positive.to(tl.float32), mask=there)  # inf * 0 is to be seen
