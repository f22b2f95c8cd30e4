"""Pure tensor rules: threshold, prunable parameters, sparsity counts. Imports torch only."""
