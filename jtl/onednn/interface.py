"""oneDNN's C interface, version 3: the numbers and signatures that jtl uses."""

from __future__ import annotations

from ctypes import POINTER, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from typing import Any

# From oneDNN's C headers (dnnl_types.h); part of its stable binary interface.
CPU = 1
IN_ORDER = 1
BFLOAT16, FLOAT32 = 2, 3
ANY_LAYOUT = 1
FORWARD_TRAINING, FORWARD_INFERENCE, BACKWARD = 64, 96, 128
DIRECT = 1
MAXIMUM, AVERAGE = 0x1FF, 0x2FF
RELU, SWISH, CLIP, GELU, HARD_SWISH = 0x20, 0x2C, 0x2E, 0x31, 0x34
ADD = 0x1FFF0
USE_SCALE, USE_SHIFT, FUSE_RELU = 2, 4, 8
AVX512_BF16 = 0xE7
"""The bits of an instruction set that has products of bfloat16."""
SUCCESS, INVALID_ARGUMENTS, UNIMPLEMENTED, NO_OTHER = 0, 2, 3, 4
QUERY_IMPLEMENTATION = 8
QUERY_WEIGHTS, QUERY_DIFF_WEIGHTS, QUERY_WORKSPACE = 131, 132, 135
ARG_FROM = ARG_SOURCE = 1
ARG_TO = ARG_DESTINATION = 17
ARG_WEIGHTS, ARG_BIAS = 33, 41
ARG_MEAN, ARG_VARIANCE, ARG_SCALE, ARG_SHIFT, ARG_WORKSPACE = 49, 50, 51, 52, 64
ARG_DIFF_SOURCE, ARG_DIFF_DESTINATION, ARG_DIFF_WEIGHTS = 129, 145, 161
ARG_DIFF_SCALE, ARG_DIFF_SHIFT = 255, 256
ARG_POST_OP = 32768
"""Times the operation's number from 1 on, plus the number of the operand."""
ARG_SECOND = 2
MAX_DIMENSIONS = 12

Dims = c_int64 * MAX_DIMENSIONS
_OUT = POINTER(c_void_p)
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "dnnl_engine_create": (_OUT, c_int, c_size_t),
    "dnnl_stream_create": (_OUT, c_void_p, c_uint),
    "dnnl_stream_wait": (c_void_p,),
    "dnnl_memory_desc_create_with_strides": (_OUT, c_int, Dims, c_int, Dims),
    "dnnl_memory_desc_create_with_tag": (_OUT, c_int, Dims, c_int, c_int),
    "dnnl_memory_create": (_OUT, c_void_p, c_void_p, c_void_p),
    "dnnl_memory_set_data_handle": (c_void_p, c_void_p),
    "dnnl_convolution_forward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_int, c_void_p, c_void_p, c_void_p, c_void_p),
        *(Dims, Dims, Dims, Dims, c_void_p),
    ),
    "dnnl_convolution_backward_data_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_void_p, c_void_p, c_void_p),
        *(Dims, Dims, Dims, Dims, c_void_p, c_void_p),
    ),
    "dnnl_convolution_backward_weights_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_void_p),
        *(Dims, Dims, Dims, Dims, c_void_p, c_void_p),
    ),
    "dnnl_batch_normalization_forward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_void_p, c_void_p, c_float, c_uint, c_void_p),
    ),
    "dnnl_batch_normalization_backward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_float, c_uint),
        *(c_void_p, c_void_p),
    ),
    "dnnl_primitive_desc_next_impl": (c_void_p,),
    "dnnl_primitive_desc_query": (c_void_p, c_int, c_int, c_void_p),
    "dnnl_pooling_forward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_int, c_void_p, c_void_p),
        *(Dims, Dims, Dims, Dims, Dims, c_void_p),
    ),
    "dnnl_pooling_backward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_void_p, c_void_p),
        *(Dims, Dims, Dims, Dims, Dims, c_void_p, c_void_p),
    ),
    "dnnl_primitive_attr_create": (_OUT,),
    "dnnl_primitive_attr_set_post_ops": (c_void_p, c_void_p),
    "dnnl_post_ops_create": (_OUT,),
    "dnnl_post_ops_append_binary": (c_void_p, c_int, c_void_p),
    "dnnl_post_ops_append_eltwise": (c_void_p, c_int, c_float, c_float),
    "dnnl_reorder_primitive_desc_create": (
        *(_OUT, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
    ),
    "dnnl_primitive_create": (_OUT, c_void_p),
    "dnnl_primitive_execute": (c_void_p, c_void_p, c_int, c_void_p),
}
