"""What the weights of Keras's applications expect of an image, by its modes' names."""

from jtl.models import Preprocessing

# Weights that go back to Caffe: BGR bytes minus their mean over ImageNet, not scaled. Keras states
# no crop, so the field's usual one stands.
CAFFE = Preprocessing(
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    channel_order="bgr",
)

# The mean of Caffe's own examples and of SqueezeNet's authors.
CAFFE_ROUNDED = Preprocessing(
    mean=(123 / 255, 117 / 255, 104 / 255),
    std=CAFFE.std,
    channel_order="bgr",
)
