"""Pretrained weights of other libraries, converted into Flax param trees."""
