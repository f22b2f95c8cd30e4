"""What all other parts share: rules of tensors (thresholds, masks, sparsity), files, compiled code."""
