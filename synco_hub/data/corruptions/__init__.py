"""Images changed between crop and normalisation: the corruptions of ImageNet-C, the watermark of ImageNet-W."""
