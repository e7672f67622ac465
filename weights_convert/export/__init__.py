"""Out again: params under the names of timm, torchvision or Keras."""
