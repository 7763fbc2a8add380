"""Shards: how they find each other, divide work and exchange tensors."""
